"""From a published set with recorded questions to its gap, and the parts of fixtures in published layouts."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from datasets import Features
from examples import tone, toy_examples

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import Example
from selfkd.evaluation.compare import compare
from selfkd.evaluation.config import CompareConfig
from selfkd.evaluation.evaluate import EvaluateConfig, evaluate
from selfkd.synthesis.config import SynthesizeConfig
from selfkd.synthesis.synthesize import synthesize

IMAGES = [example.image or b"" for example in toy_examples(4)]


def recorded(seconds: float = 2.0, pitch_hz: float = 220, **options) -> bytes:
    """The bytes of an audio file with a tone; a WAV unless `options` say otherwise."""
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(seconds, pitch_hz), 16_000, **({"format": "WAV"} | options))
    return buffer.getvalue()


def write_file(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_dataset(path: Path, rows: list[dict], features: dict) -> Path:
    """A Parquet file as `datasets` writes it; `datasets` itself would encode audio by a package that is not needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=Features(features).arrow_schema), path)
    return path


def synthesized(output: Path, source: str, path: Path | str, **changes) -> tuple[dict, list[Example]]:
    """(manifest, examples) of a source; the engine that it must not need cannot be opened."""
    fields = {"count": 0, "processes": 1, "engine": "kokoro"} | changes
    manifest = synthesize(SynthesizeConfig(output, source, str(path), **fields))
    return manifest, list(ExampleFolder(output))


def gap_of(folders: list[Path], runs: Path) -> dict:
    """`selfkd compare`'s scores of the tiny model on synthesized folders: {benchmark: scores}."""
    evaluate(EvaluateConfig("selfkd-tiny", list(map(str, folders)), runs / "eval", max_new_tokens=4))
    return compare(CompareConfig([str(runs / "eval")], runs / "compared"))


def modality_counts(compared: dict, name: str) -> tuple[int, int, int]:
    """(n of text, n of audio, n of the gap between them) of a benchmark."""
    systems, gap = compared[name]["systems"], compared[name]["gap"]
    (audio,) = gap
    return systems["text"]["n"], systems[audio]["n"], gap[audio]["n"]
