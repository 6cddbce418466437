"""NSS and AUC: closed forms, invariances, and the mean rank that AUC is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfkd.analysis.saliency import auc, nss, visited_cells


@st.composite
def masks(draw):
    """A mask of some cells, but not of all."""
    cells = draw(st.integers(2, 40))
    inside = draw(st.sets(st.integers(0, cells - 1), min_size=1, max_size=cells - 1))
    return np.isin(np.arange(cells), list(inside))


@st.composite
def maps_and_masks(draw):
    mask = draw(masks())
    values = st.floats(0, 1, allow_subnormal=False)
    return np.array(draw(st.lists(values, min_size=len(mask), max_size=len(mask)))), mask


@given(masks())
def test_attention_equal_to_the_trace_is_the_best(mask):
    """NSS of a mask of p of n cells by itself is (1 - p/n) / sqrt(p/n (1 - p/n))."""
    assert auc(mask, mask)[0, 0] == 1
    assert auc(~mask, mask)[0, 0] == 0
    share = mask.mean()
    assert nss(mask, mask)[0, 0] == pytest.approx(((1 - share) / share) ** 0.5)


@given(masks(), st.floats(1e-6, 1e6))
def test_uniform_attention_is_at_chance(mask, level):
    uniform = np.full(len(mask), level)
    assert auc(uniform, mask)[0, 0] == 0.5 and nss(uniform, mask)[0, 0] == 0


@given(maps_and_masks())
def test_auc_is_the_share_of_pairs_in_order_with_half_of_the_ties(pair):
    values, mask = pair
    inside, outside = values[mask][:, None], values[~mask][None]
    by_hand = ((inside > outside) + 0.5 * (inside == outside)).mean()
    assert auc(values, mask)[0, 0] == pytest.approx(by_hand)
    assert auc(values, mask) + auc(values, ~mask) == pytest.approx(1)


@given(maps_and_masks(), st.floats(0.01, 100))
def test_the_scale_of_the_map_does_not_matter(pair, scale):
    values, mask = pair
    assert nss(scale * values, mask) == pytest.approx(nss(values, mask), abs=1e-6)
    # all masks of one size together have the mean 0
    cells = len(values)
    assert nss(values, np.identity(cells)).mean() == pytest.approx(0, abs=1e-6)


def test_each_layer_is_scored_against_each_mask():
    maps = np.array([[0.9, 0.1, 0.0, 0.0], [0.0, 0.0, 0.1, 0.9]])
    both = np.array([[True, False, False, False], [False, False, False, True]])
    assert auc(maps, both).tolist() == [[1.0, 1 / 6], [1 / 6, 1.0]]
    assert nss(maps, both).shape == (2, 2) and nss(maps, both)[0, 0] > 0 > nss(maps, both)[0, 1]


@pytest.mark.parametrize(("score", "mask"), [(auc, [0, 0]), (nss, [0, 0]), (auc, [1, 1])])
def test_masks_without_a_score_are_refused(score, mask):
    with pytest.raises(ValueError, match="a mask of"):
        score([0.1, 0.2], mask)


def test_points_are_in_the_cells_of_the_grid():
    """Rows from the top; the right and lower edges belong to the last cells."""
    cells = visited_cells([[0.0, 0.0], [0.99, 0.0], [1.0, 1.0], [0.3, 0.6]], 2, 3)
    assert cells.reshape(2, 3).tolist() == [[True, False, True], [True, False, True]]
    assert not visited_cells([], 2, 3).any()
