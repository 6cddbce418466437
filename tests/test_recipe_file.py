"""A recipe is a mapping of fields; what YAML has beyond that is refused by file and line, before it takes time."""

import time

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selfkd.cli import main
from selfkd.errors import InputError
from selfkd.recipe_file import MAX_BYTES, read_recipe

LAUGHS = b"a: &a [x, x]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (i + 1, i + 1, i, i) for i in range(97, 120))
REFUSED = {
    LAUGHS: "line 2: an alias",
    b"steps: &x [*x]": "line 1: an alias",
    b"steps: 1\nsteps: 2": "line 2: 'steps' is there twice",
    b"a: {b: 1, b: 2}": "line 1: 'b' is there twice",
    b"<<: {steps: 1}": "line 1: a merge key",
    b"steps: " + b"1" * 5_000: "not a recipe in YAML .*4300",
    b"steps: \xff": "not a recipe in YAML .*utf-8",
    b"[1]": "not a recipe: expected fields",
    b"": "not a recipe: expected fields",
    b"1: 2": "not a recipe: expected fields",
    b"a: " + b"[" * 5_000: "line 1: values are nested more than 20 deep",
    b"a: " + b"{a: " * 5_000: "line 1: values are nested more than 20 deep",
    b"a: !!python/object/apply:os.system [x]": "line 1: a tag",
    b"a: !!timestamp x": "line 1: a tag",
    b"a: 2020-13-45": "not a recipe in YAML .*month",
    b"a: [1": "line 1: expected ',' or ']'",
    b"? [a]\n: 1": "line 1: a list or a mapping as the name",
    b"a: \x00": "not a recipe in YAML",
    b"a: 1\n---\nb: 2": "line 2: ",
    b"x" * (MAX_BYTES + 1): "not a recipe in YAML .more than 100,000 bytes",
}


@pytest.mark.parametrize(("content", "message"), REFUSED.items(), ids=range(len(REFUSED)))
def test_other_yaml_is_refused(tmp_path, capsys, content, message):
    path, start = tmp_path / "r.yaml", time.process_time()
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"^{path}: {message}"):
        read_recipe(path)
    assert main(["align", "--recipe", str(path)]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and str(path) in error
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    "value", ["null", "[]", "{}", "[null]", "{a: null}", ".nan", "1e999", "''", "2020-01-01", "on"]
)
def test_value_of_another_type_is_one_line(tmp_path, capsys, value):
    (tmp_path / "r.yaml").write_text(f"data: {tmp_path}/none\noutput: {tmp_path}/o\n")
    fields = ("data", "steps", "learning_rate", "projector", "output", "training", "lora", "trainable", "seed")
    for field in fields:
        lines = {"data": f"{tmp_path}/none", "output": f"{tmp_path}/o", field: value}
        (tmp_path / "r.yaml").write_text("".join(f"{name}: {text}\n" for name, text in lines.items()))
        assert main(["align", "--recipe", str(tmp_path / "r.yaml")]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=8), part, max_size=3),
    max_leaves=8,
)


@settings(derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.dictionaries(st.text(min_size=1, max_size=8).filter(lambda name: name != "<<"), PLAIN, min_size=1, max_size=4)
)
def test_mappings_are_read_as_yaml_reads_them(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "mapping.yaml"
    text = yaml.safe_dump(value, allow_unicode=True, default_flow_style=True)
    path.write_text(text, encoding="utf-8")
    try:
        found = read_recipe(path)[0]
    except InputError as error:
        assert "<<" in text or "alias" in str(error) or "tag" in str(error), (text, error)
    else:
        assert repr(found) == repr(yaml.safe_load(text))


@settings(derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=200) | st.text("ab:-[]{}&*!|>'\"# \n?<%@,1.", max_size=60).map(str.encode))
def test_any_bytes_are_a_mapping_or_one_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "bytes.yaml"
    path.write_bytes(content)
    try:
        assert isinstance(read_recipe(path)[0], dict)
    except InputError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
