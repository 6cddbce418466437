"""Questions -> spoken questions: reads a source, writes a folder of Parquet shards (see `example.py`).

Voice, rate and pitch of an example are drawn from a hash of the seed and its id, so any shard can be made again alone.
A folder that was cut short is continued by the same command and ends in the same bytes.
"""

import hashlib
import json
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from selfkd.data.example import MANIFEST, SCHEMA_VERSION, Example, shard_metadata, write_shard
from selfkd.data.shapes import Split
from selfkd.data.sources import SOURCES, SourceName
from selfkd.data.speakers import ESPEAK_VOICES, EspeakSpeaker, Utterance
from selfkd.errors import InputError
from selfkd.files import sha256, write_json

PLAN = "plan.json"


@dataclass
class SynthesizeConfig:
    """Questions to spoken questions.

    Args:
        output: Folder for the shards and the manifest.
        source: Where the questions come from.
        split: Split of the source; easy-vqa has its test split alone.
        count: How many questions to take.
        voices: "training" or "unseen" (the two parts of the espeak voices), or names divided by commas.
        rate_wpm: Slowest and fastest rate, in words a minute.
        pitch: Lowest and highest pitch, 0 to 99.
        seed: Seed of the questions and of the voices.
        shard_rows: Rows of a shard.
        processes: Processes that synthesize side by side.
    """

    output: Path
    source: SourceName = "world"
    split: Split = "train"
    count: int = 1000
    voices: str = "training"
    rate_wpm: tuple[int, int] = (150, 200)
    pitch: tuple[int, int] = (35, 65)
    seed: int = 0
    shard_rows: int = 500
    processes: int = 2


def synthesize(config: SynthesizeConfig) -> dict[str, Any]:
    """Writes the folder and returns its manifest. Rows that cannot be spoken are left out and listed with a reason."""
    names = _voice_names(config.voices)
    if config.count < 1 or config.shard_rows < 1:
        raise InputError("count, shard_rows: must be at least 1")
    for name, (low, high), ceiling in (("rate_wpm", config.rate_wpm, 450), ("pitch", config.pitch, 99)):
        if not 0 <= low <= high <= ceiling:
            raise InputError(f"{name}: {low} to {high} is no range within 0 to {ceiling}")
    plan = {k: str(v) if k == "output" else v for k, v in asdict(config).items() if k != "processes"}
    _claim(config.output, plan)
    shard_count = -(-config.count // config.shard_rows)
    paths = [config.output / f"{config.split}-{i:05d}-of-{shard_count:05d}.parquet" for i in range(shard_count)]
    missing = [i for i, path in enumerate(paths) if not path.exists()]
    # spawn: a fork of a process that holds torch's threads can hang
    with ProcessPoolExecutor(max(1, min(config.processes, len(missing))), get_context("spawn")) as pool:
        jobs = pool.map(_speak_shard, [config] * len(missing), missing, [names] * len(missing), [paths] * len(missing))
        for _ in tqdm(jobs, f"speaking {config.source}", len(missing), unit="shard", disable=not missing):
            pass
    speaker, footers = EspeakSpeaker(), [shard_metadata(p) for p in paths]
    manifest = {
        "schema_version": SCHEMA_VERSION,
        **{k: v for k, v in plan.items() if k != "output"},
        "rows": sum(f["rows"] for f in footers),
        "rejected": [reject for f in footers for reject in f["rejected"]],
        "source_license": SOURCES[config.source](config.split, config.seed).license,
        "engine": speaker.engine,
        "engine_license": speaker.license,
        "voice_names": names,
        "shards": [
            {"file": p.name, "rows": f["rows"], "sha256": sha256(p)} for p, f in zip(paths, footers, strict=True)
        ],
    }
    write_json(config.output / MANIFEST, manifest)
    return manifest


def _voice_names(voices: str) -> list[str]:
    names = ESPEAK_VOICES.get(voices) or [v.strip() for v in voices.split(",")]
    known = set(EspeakSpeaker().voices())
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"voices: unknown voice {unknown[0]!r}; say 'training', 'unseen' or accent+variant (en-US+f3)")
    return names


def _claim(folder: Path, plan: dict[str, Any]) -> None:
    """Makes the folder ours: it must be new, or hold the very same plan."""
    path = folder / PLAN
    if path.is_file():
        theirs = json.loads(path.read_text())
        ours = json.loads(json.dumps(plan))
        differing = [k for k in ours if theirs.get(k) != ours[k] and k != "output"]
        if differing:
            k = differing[0]
            raise InputError(f"{folder}: holds other data ({k}: {theirs.get(k)!r} there, {ours[k]!r} here)")
    elif folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder}: not empty and not made by this command; give another output")
    else:
        write_json(path, plan)


def _speak_shard(config: SynthesizeConfig, shard: int, names: list[str], paths: list[Path]) -> None:
    rejected: list[dict[str, str]] = []
    spoken = list(_spoken_examples(config, shard, names, rejected))
    write_shard(paths[shard], spoken, {"rows": len(spoken), "rejected": rejected})


def _spoken_examples(config: SynthesizeConfig, shard: int, names: list[str], rejected: list) -> Iterator[Example]:
    source, speaker = SOURCES[config.source](config.split, config.seed), EspeakSpeaker()
    for index in range(shard * config.shard_rows, min((shard + 1) * config.shard_rows, config.count)):
        example = source.example(index)
        utterance = draw_utterance(example, names, config)
        try:
            yield example.spoken(speaker.speak(utterance), utterance.voice)
        except InputError as error:
            rejected.append({"id": example.id, "question": example.question, "reason": str(error)})


def draw_utterance(example: Example, names: list[str], config: SynthesizeConfig) -> Utterance:
    key = hashlib.sha256(f"{config.seed}/{example.id}".encode()).digest()
    rng = random.Random(key)
    return Utterance(
        text=example.question,
        voice=rng.choice(names),
        rate_wpm=rng.randint(*config.rate_wpm),
        pitch=rng.randint(*config.pitch),
        seed=int.from_bytes(key[:3], "big") + 1,
    )
