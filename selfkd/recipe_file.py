"""Reads a recipe: a mapping in YAML, without the parts of YAML that can make a small file endless or ambiguous.

Aliases can repeat a value a billion times or contain themselves; of a field that is there twice, one would be lost.
"""

from pathlib import Path
from typing import Any

import yaml

from selfkd.errors import InputError

MAX_BYTES = 100_000
MAX_DEPTH = 20


def read_recipe(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(fields with their values, fields with texts in place of numbers and the like) of a recipe. Raises InputError,
    naming file and line, for anything but a mapping in UTF-8."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES:,} bytes")
        text = content.decode("utf-8-sig")
        # both are BaseLoaders, which make strings, numbers, lists and mappings only
        values, texts = yaml.load(text, _Values), yaml.load(text, _Texts)  # noqa: S506  # nosec B506
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise InputError(f"{path}: {line}{error.problem or error.context}") from error
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{path}: not a recipe in YAML ({' '.join(str(error).split()):.200})") from error
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise InputError(f"{path}: not a recipe: expected fields with their values")
    return values, texts


class _Bounded(yaml.BaseLoader):
    """Refuses aliases, tags, merge keys, a key that is there twice, and deep nesting."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _error("an alias (*name); write the value itself", event)
        if event.tag is not None:
            raise _error(f"a tag ({event.tag:.60})", event)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _error(f"values are nested more than {MAX_DEPTH} deep", event)
        node = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(node, yaml.MappingNode):
            names: set[str] = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise _error("a list or a mapping as the name of a field", key)
                if key.value == "<<" or key.value in names:
                    raise _error("a merge key (<<)" if key.value == "<<" else f"{key.value!r:.60} is there twice", key)
                names.add(key.value)
        return node


def _error(problem: str, at: Any) -> yaml.MarkedYAMLError:
    return yaml.composer.ComposerError(None, None, problem, at.start_mark)


class _Texts(_Bounded):
    pass


class _Values(_Bounded, yaml.SafeLoader):
    pass
