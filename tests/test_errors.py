"""Reasons in files: the same in every run of the same command."""

import io
import json
import os
import subprocess
import sys
import tempfile
import threading

import pytest
from examples import toy_examples
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from selfkd.data.example import shard_metadata
from selfkd.errors import EngineError, InputError, reason_of, without_run_details

FAST = settings(deadline=None, max_examples=100, derandomize=True)


class Odd:
    pass


def messages_of_this_run():
    """Messages of libraries with details of this process, as in the text of exceptions."""
    with tempfile.NamedTemporaryFile() as named:
        name = named.name
    return [
        f"cannot identify image file {io.BytesIO()!r}",
        f"{Odd()!r} is not iterable",
        f"{Odd().__init__!r} failed",
        f"{messages_of_this_run!r}: Failed to establish",
        f"cannot open {name}",
        f"{tempfile.mkdtemp()}/audio.wav: no such file",
        f"worker pid={os.getpid()} died",
        f"thread {threading.get_ident()} stopped",
        "Error code: 500 - request_id: req_011CabcdefGHIJ",
    ]


def test_messages_of_libraries_are_the_same_twice():
    kept = messages_of_this_run()
    others = messages_of_this_run()
    assert [without_run_details(text) for text in kept] == [without_run_details(text) for text in others]
    assert without_run_details(kept[0]) == "cannot identify image file"
    assert str(InputError(f"field image: a.png: ({kept[0]})")) == "field image: a.png: (cannot identify image file)"
    assert reason_of(ValueError(kept[1])) == "ValueError: is not iterable"
    assert reason_of(EngineError("engine: gone")) == "engine: gone"


@FAST
@given(st.text(max_size=20), st.text(max_size=20), st.lists(st.integers(2**32, 2**47), min_size=2, max_size=2))
def test_no_reason_holds_an_address(before, after, addresses):
    reasons = {reason_of(InputError(f"{before}<_io.BytesIO object at {hex(a)}>{after}")) for a in addresses}
    reasons |= {str(InputError(f"{before}<_io.BytesIO object at {hex(a)}>{after}")) for a in addresses}
    assert len(reasons) == 1
    assert len({reason_of(RuntimeError(f"{before} <bound method A.f of <A object at {hex(a)}>> {after}"))
                for a in addresses}) == 1  # fmt: skip


@FAST
@given(st.text(st.characters(exclude_characters="<>"), max_size=60))
def test_our_own_messages_are_unchanged(text):
    """Paths and rows too, in any folder."""
    if " at 0x" not in text:
        assert str(InputError(f"/tmp/tmp1234abcd/q.jsonl: row 3: {text}")) == f"/tmp/tmp1234abcd/q.jsonl: row 3: {text}"


@pytest.mark.slow
def test_runs_with_bad_rows_have_the_same_bytes(tmp_path):
    """data_11_shard_bytes, sec_07_rejected_row_not_reproducible: a web page saved as .jpg, truncated images, files that
    are no images, and text that is refused. In interpreters of their own, which have other addresses and hash seeds,
    with one worker and with two."""
    (tmp_path / "ok.png").write_bytes(toy_examples(1)[0].image)
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    (tmp_path / "half.png").write_bytes(toy_examples(1)[0].image[:-200])
    (tmp_path / "empty.png").write_bytes(b"")
    Image.new("RGB", (9, 9)).save(tmp_path / "cut.gif")
    (tmp_path / "cut.gif").write_bytes((tmp_path / "cut.gif").read_bytes()[:-9])
    names = ["ok.png", "page.jpg", "half.png", "empty.png", "cut.gif", "none.png"]
    rows = [{"id": name, "image": name, "question": "What is it?", "answer": "red"} for name in names]
    rows += [{"id": "t", "question": "What is 你好?", "answer": "x"}, {"id": "i", "question": "<image>", "answer": "x"}]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    shards = []
    for run, processes in enumerate("112"):
        command = [sys.executable, "-m", "selfkd.cli", "synthesize", "--source", "jsonl", "--path", "q.jsonl"]
        command += ["--images", ".", "--count", "0", "--processes", processes, "--shard_rows", "5"]
        subprocess.run([*command, "--output", f"d{run}"], cwd=tmp_path, check=True, capture_output=True)
        shards.append({p.name: p.read_bytes() for p in (tmp_path / f"d{run}").glob("*.parquet")})
    assert shards[0] == shards[1] == shards[2] and len(shards[0]) == 2
    manifests = [json.loads((tmp_path / f"d{run}" / "manifest.json").read_text()) for run in range(3)]
    assert manifests[0] == manifests[1] == manifests[2]
    rejected = [r for p in (tmp_path / "d0").glob("*.parquet") for r in shard_metadata(p)["rejected"]]
    assert len(rejected) == 7 and not any("0x" in r["reason"] or str(tmp_path) in r["reason"] for r in rejected)
