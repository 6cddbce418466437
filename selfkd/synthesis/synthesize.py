"""Questions -> spoken questions: reads a source, writes a folder of Parquet shards (see `example.py`).

What is drawn for an example (voice, rate, pitch) comes from a hash of the seed and its id, so any shard can be made
again alone. A folder that was cut short is continued by the same command and ends in the same bytes.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from selfkd.credentials import masked
from selfkd.data.example import MANIFEST, REJECTED, SCHEMA_VERSION, shard_metadata
from selfkd.errors import InputError
from selfkd.files import NO_ROOM, sha256, write_json
from selfkd.stage_function import stage_function
from selfkd.synthesis.augment import check_effects
from selfkd.synthesis.folder_plan import CONTENT, HOW, claim, give_back, hold
from selfkd.synthesis.shards import finished_shard, synthesize_shard
from selfkd.synthesis.sources.registry import RECORDED, Source, SourceName, open_source
from selfkd.synthesis.sources.rows import RowSource
from selfkd.synthesis.tts.registry import EngineName, open_engine, weighted_voices
from selfkd.synthesis.workers import PoolName, check_pool, run_jobs
from selfkd.toy_world.scenes import Split

FIRST_REASONS = 3  # that are told where everything was refused


@dataclass
class SynthesizeConfig:
    """Questions to spoken questions.

    Args:
        output: Folder for the shards and the manifest.
        source: Where the questions come from.
        path: File, folder or dataset (NAME, NAME:CONFIG or NAME:CONFIG:SPLIT) of the source, where it is not embedded.
        images: Folder of the pictures that the source names (llava, jsonl, datasets of paths).
        columns: Columns of a jsonl or datasets source where they are called otherwise (question, answer, image, ...).
        split: Split of the source, and name of the shards; easy-vqa has no validation split.
        count: How many questions to take, drawn by the seed; 0 takes all of a source that ends.
        engine: Speech engine.
        engine_path: Folder of Kokoro's files, of Piper's voices or of recordings; base URL of an endpoint.
        engine_model: Model of an endpoint.
        voices: "training", "drawn" or "unseen" (parts of the espeak voices; "training" with another engine: all of the
            language), or names divided by commas, name:weight. An endpoint has its own: name them.
        language: Language of the questions; voices of another are refused.
        instruction: Whether the sentence on the form of the answer stays text or is spoken too (llava).
        rate_wpm: Slowest and fastest rate, in words a minute.
        pitch: Lowest and highest pitch, 0 to 99.
        augment: Chances that the voice is heard in a room, among noise, over a telephone: {room: 0.3, noise: 0.5}.
        noise_snr_db: Lowest and highest ratio of voice to noise, in dB.
        noise_folder: Folder of recorded noise; pink noise without one.
        asr_filter: Whisper checkpoint (hub id or path) that listens to what was spoken; empty for none.
        max_wer: Highest word error rate that is kept.
        time_limit_seconds: Longest that an engine may take for a row; an endpoint that takes longer stops the job.
        seed: Seed of the questions and of the voices.
        shard_rows: Rows of a shard; 3,000 with photographs are about 500 MB.
        processes: Processes that synthesize side by side.
        shard: Makes this shard alone (an array job); the manifest comes with the last one.
        pool: Who makes shards side by side: processes of this machine, or the nodes of a Ray cluster.
        address: Address of the Ray cluster (auto, ray://HOST:PORT); a cluster on this machine without one.
    """

    output: Path
    source: SourceName = "world"
    path: str = ""
    images: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    split: Split = "train"
    count: int = 1000
    engine: EngineName = "espeak"
    engine_path: str = ""
    engine_model: str = ""
    voices: str = "training"
    language: str = "en"
    instruction: Literal["text", "spoken"] = "text"
    rate_wpm: tuple[int, int] = (150, 200)
    pitch: tuple[int, int] = (35, 65)
    augment: dict[str, float] = field(default_factory=dict)
    noise_snr_db: tuple[float, float] = (5.0, 20.0)
    noise_folder: str = ""
    asr_filter: str = ""
    max_wer: float = 0.3
    time_limit_seconds: float = 60.0
    seed: int = 0
    shard_rows: int = 500
    processes: int = 2
    shard: int = -1
    pool: PoolName = "local"
    address: str = ""


@stage_function(SynthesizeConfig)
def synthesize(config: SynthesizeConfig, source: Source | None = None) -> dict[str, Any]:
    """Writes the folder and returns its manifest. Rows that cannot be spoken are left out and listed with a reason.

    `source` stands for the one that the configuration names, where it has been opened already.
    """
    check_settings(config)
    voices: dict[str, float] = {}
    spoken_by: dict[str, Any] = {}
    if config.source not in RECORDED:  # of which no engine speaks a row
        tts_engine = open_engine(config.engine, config.engine_path, config.engine_model)
        voices = weighted_voices(config.voices, tts_engine, config.language)
        spoken_by = _voice_of(tts_engine.engine, tts_engine.license, voices)
    source = source or open_source(config)
    count = config.count or len(source)
    if not count:
        raise InputError(f"source: {config.path or config.source}: holds no question ({_skipped(source)})")
    plan = masked({k: str(v) if k == "output" else v for k, v in asdict(config).items() if k not in HOW})
    if config.source in RECORDED and isinstance(source, RowSource):
        spoken_by = _voice_of("recorded", source.license, sorted({row.tts_engine or "recorded" for row in source.rows}))
    if isinstance(source, RowSource):  # a path does not say what stands in the file
        plan |= dict(zip(CONTENT, (len(source), source.sha256()), strict=True))
    plan = claim(config.output, plan)
    try:
        paths, shard_count = _make_shards(config, source, count, voices)
        hold(config.output, plan)
        if len(paths) < shard_count:
            return {"shards": [p.name for p in paths], "missing": shard_count - len(paths)}
        return _write_manifest(config, plan, source, spoken_by, paths)
    except InputError:
        give_back(config.output)
        raise


def check_settings(config: SynthesizeConfig) -> None:
    """Raises InputError for settings of speech that cannot be, and for an engine or a Whisper that is not there."""
    if config.count < 0 or config.shard_rows < 1:
        raise InputError("count, shard_rows: must be at least 1, or count 0 for all")
    if config.processes < 1:
        raise InputError(f"processes: {config.processes}: must be at least 1")
    for name, (low, high), ceiling in (("rate_wpm", config.rate_wpm, 450), ("pitch", config.pitch, 99)):
        if not 0 <= low <= high <= ceiling:
            raise InputError(f"{name}: {low} to {high} is no range within 0 to {ceiling}")
    check_effects(config.augment, config.noise_snr_db, config.noise_folder)
    check_pool(config.pool)
    if config.source not in RECORDED:
        open_engine(config.engine, config.engine_path, config.engine_model)
    if config.asr_filter:
        from selfkd.model.backbones import check_whisper  # with torch, which synthesis has no need of

        check_whisper(config.asr_filter, "asr_filter")


def _make_shards(
    config: SynthesizeConfig, source: Source, count: int, voices: dict[str, float]
) -> tuple[list[Path], int]:
    """Makes those of this job that are missing; returns all that are there, and how many there are to be."""
    shard_count = -(-count // config.shard_rows)
    if config.shard >= shard_count:
        raise InputError(f"shard: {config.shard} of {shard_count}; they are counted from 0")
    stems = [f"{config.split}-{i:05d}-of-{shard_count:05d}" for i in range(shard_count)]
    wanted = range(shard_count) if config.shard < 0 else [config.shard]
    missing = [i for i in wanted if not finished_shard(config.output, stems[i])]
    jobs = []
    for i in missing:
        bounds = i * config.shard_rows, min((i + 1) * config.shard_rows, count)
        jobs.append((config, source.part(*bounds), voices, bounds, stems[i]))
    made = run_jobs(synthesize_shard, jobs, config.pool, config.processes, config.address)
    try:
        for _ in tqdm(made, f"speaking {config.source}", len(jobs), unit="shard", disable=not jobs):
            pass
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        left = sum(not finished_shard(config.output, stems[i]) for i in wanted)
        raise InputError(
            f"{config.output}: no room left ({error.strerror}); {left} of {shard_count} shards are missing, "
            "the same command makes them"
        ) from error
    return [path for stem in stems if (path := finished_shard(config.output, stem))], shard_count


def _voice_of(engine: str, license: str, voices: Iterable[str]) -> dict[str, Any]:
    return {"engine_name": engine, "engine_license": license, "voice_names": list(voices)}


def _write_manifest(
    config: SynthesizeConfig, plan: dict[str, Any], source: Source, spoken_by: dict[str, Any], paths: Sequence[Path]
) -> dict[str, Any]:
    footers = [shard_metadata(p) for p in paths]
    rejected = [reject for f in footers for reject in f["rejected"]]
    refused = sorted((config.output / REJECTED).glob("*.parquet"))
    if not any(f["rows"] for f in footers):
        for path in paths:
            path.unlink()
        reasons = "; ".join(list(dict.fromkeys(r["reason"] for r in rejected))[:FIRST_REASONS])
        kept = f"what was spoken is in {config.output / REJECTED}" if refused else "nothing is kept"
        raise InputError(
            f"{config.output}: all {len(rejected)} questions were refused ({reasons}); {kept}, "
            "and the same command can be given again when that is put right"
        )
    manifest = {
        "schema_version": SCHEMA_VERSION,
        **{k: v for k, v in plan.items() if k != "output"},
        "rows": sum(f["rows"] for f in footers),
        "rejected": rejected,
        "skipped_by_the_source": source.skipped,
        "source_license": source.license,
        **spoken_by,
        "word_error_rates": _mean_by_voice(footers),
        "shards": [_entry(config.output, p) for p in paths],
        "rejected_shards": [_entry(config.output, p) for p in refused],
    }
    for left in config.output.rglob(".*.parquet*"):  # by jobs that were killed
        left.unlink(missing_ok=True)
    write_json(config.output / MANIFEST, manifest)
    first = f", the first because: {rejected[0]['reason']}" if rejected else ""
    skipped = f"; skipped by the source: {_skipped(source)}" if source.skipped else ""
    print(f"{config.output}: {manifest['rows']} questions, {len(rejected)} rejected{first}{skipped}")
    return manifest


def _skipped(source: Source) -> str:
    return ", ".join(f"{reason}: {number}" for reason, number in source.skipped.items()) or "nothing skipped"


def _entry(folder: Path, path: Path) -> dict[str, Any]:
    return {"file": str(path.relative_to(folder)), "rows": shard_metadata(path)["rows"], "sha256": sha256(path)}


def _mean_by_voice(footers: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Mean word error rate of each voice, rejected rows included; empty where ASR was not asked."""
    total: Counter[str] = Counter()
    rows: Counter[str] = Counter()
    for footer in footers:
        for voice, (words_wrong, count) in footer["word_error_rates"].items():
            total[voice] += words_wrong
            rows[voice] += count
    return {voice: round(total[voice] / rows[voice], 4) for voice in sorted(rows)}
