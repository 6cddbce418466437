"""Names on the hub with a revision: one commit for all files, in everything that loads something."""

import ast
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants
from hypothesis import given, settings
from hypothesis import strategies as st

import selfkd
from selfkd import hub
from selfkd.errors import InputError
from selfkd.hub import from_hub, hub_commit, is_hub_id, split_revision
from selfkd.input_hashes import hashes_of_checkpoint
from selfkd.model.backbones import load_asr_model, read_config

FIRST, SECOND = "a" * 40, "b" * 40
parts = st.from_regex(r"\A\w[\w.-]{0,8}\Z")


@settings(deadline=None, max_examples=100, derandomize=True)
@given(owner=parts, name=parts, revision=st.one_of(st.none(), st.from_regex(r"\A\w[\w./-]{0,8}\Z")))
def test_a_revision_follows_the_at_sign(owner, name, revision):
    text = f"{owner}/{name}" + (f"@{revision}" if revision else "")
    assert is_hub_id(text) and split_revision(text) == (f"{owner}/{name}", revision)
    assert not is_hub_id(f"./{text}/x/y") and not is_hub_id(f"{owner}/{name}@")


def test_a_folder_with_an_at_in_its_name_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs/mme@anna").mkdir(parents=True)
    assert split_revision("runs/mme@anna") == ("runs/mme@anna", None)
    assert from_hub("runs/mme@anna") == {"pretrained_model_name_or_path": "runs/mme@anna"}


@pytest.fixture
def repository(tiny_whisper, tmp_path, monkeypatch):
    """me/asr in the hub's cache: main is at FIRST, the tag v2 at SECOND, which has another vocabulary size."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    hub._commit.cache_clear()
    folder = tmp_path / "models--me--asr"
    (folder / "refs").mkdir(parents=True)
    for ref, commit in (("main", FIRST), ("v2", SECOND)):
        (folder / "refs" / ref).write_text(commit)
        shutil.copytree(tiny_whisper, folder / "snapshots" / commit)
    config = folder / "snapshots" / SECOND / "config.json"
    config.write_text(config.read_text().replace('"pad_token_id": 0', '"pad_token_id": 5'))
    yield folder
    hub._commit.cache_clear()


def test_a_revision_is_read_and_its_commit_is_recorded(repository):
    for revision, commit, pad in (("", FIRST, 0), ("@v2", SECOND, 5), (f"@{SECOND}", SECOND, 5), ("@main", FIRST, 0)):
        source = f"me/asr{revision}"
        assert hub_commit(source) == commit
        assert read_config(source, "asr_model")["pad_token_id"] == pad
        assert hashes_of_checkpoint("asr_model", source) == {f"asr_model: {source}": f"commit {commit}"}
    with pytest.raises(InputError, match="asr_model: me/asr@none: no checkpoint there"):
        load_asr_model("me/asr@none")


def test_a_branch_that_moves_while_a_command_runs_changes_nothing(repository):
    assert hub_commit("me/asr") == FIRST
    (repository / "refs" / "main").write_text(SECOND)
    assert read_config("me/asr", "asr_model")["pad_token_id"] == 0
    assert from_hub("me/asr") == {"pretrained_model_name_or_path": "me/asr", "revision": FIRST}


LOADERS = {
    "from_pretrained", "get_config_dict", "cached_file", "snapshot_download", "hf_hub_download", "load_dataset",
    "load_dataset_builder", "get_class_from_dynamic_module",
}  # fmt: skip
# of a folder, or of a name that is passed on to a loader that is listed here
PASSED_ON = {
    ("model/convert_internvl2_processor.py", "AutoTokenizer.from_pretrained"),
    ("model/image_processor.py", "image_processor_class(whole_model).from_pretrained"),
    ("model/modeling_omni.py", "OmniConfig.from_pretrained"),
    ("model/modeling_omni.py", "super().from_pretrained"),
    *(
        ("reproduce/original_code.py", f"{name}.from_pretrained")  # the download stage's folder
        for name in ("AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoTokenizer")
    ),
}


def test_every_loader_is_given_a_revision():
    root, found = Path(selfkd.__file__).parent, 0
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in LOADERS:
                found += 1
                given = {k.arg or ast.unparse(k.value).partition("(")[0] for k in node.keywords}
                where = (str(path.relative_to(root)), ast.unparse(node.func))
                assert given & {"revision", "from_hub", "code"} or where in PASSED_ON, (where, node.lineno)
    assert found > 12
