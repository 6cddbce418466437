"""Help texts of the recipes' fields are derived from the recipes."""

from dataclasses import fields

import pytest

from selfkd.training.config import ALIGN_RECIPES, DISTILL_RECIPES, AlignConfig, DistillConfig, recipe_values


@pytest.mark.parametrize(("config", "recipes"), [(AlignConfig, ALIGN_RECIPES), (DistillConfig, DISTILL_RECIPES)])
def test_help_shows_the_value_of_each_recipe(config, recipes):
    assert "{recipe." not in config.__doc__
    names = {name for recipe in recipes.values() for name in recipe}
    assert names <= {field.name for field in fields(config)}
    for name in names:
        assert recipe_values(recipes, name) in " ".join(config.__doc__.split())


def test_recipes_with_the_same_value_are_listed_together():
    recipes = {"a": {"rate": 2e-3, "parts": ["x", "y"]}, "b": {"rate": 2e-3}, "c": {"rate": 1 / 3}}
    assert recipe_values(recipes, "rate") == "0.002 (a, b), 0.333 (c)"
    assert recipe_values(recipes, "parts") == "x and y (a)"
