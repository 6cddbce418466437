"""Text questions -> synthesized questions: reads a source, writes a folder of Parquet shards (see `example.py`).

Voice, rate and pitch of an example are sampled from a hash of the seed and its id, so any shard can be made again on
its own. The same command resumes an interrupted folder with the next row and ends in the same bytes.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from selfkd.credentials import masked
from selfkd.data.example import MANIFEST, REJECTED, SCHEMA_VERSION, shard_metadata
from selfkd.errors import InputError
from selfkd.files import DISK_FULL, sha256, sync, write_json
from selfkd.progress import progress
from selfkd.stage_function import stage_function
from selfkd.synthesis.augment import check_effects
from selfkd.synthesis.config import SynthesizeConfig
from selfkd.synthesis.output_folder import CONTENT_FIELDS, EXECUTION_FIELDS, claim, release, restore_plan
from selfkd.synthesis.shards import finished_shard, synthesize_shard
from selfkd.synthesis.sources.registry import MAY_BE_RECORDED, RECORDED, Source, open_source
from selfkd.synthesis.sources.rows import RowSource
from selfkd.synthesis.tts.registry import open_engine, weighted_voices
from selfkd.synthesis.workers import available_cores, check_pool, run_jobs

FIRST_REASONS = 3  # in the message where every question was rejected


@stage_function(SynthesizeConfig)
def synthesize(config: SynthesizeConfig, source: Source | None = None) -> dict[str, Any]:
    """Writes the folder and returns its manifest. Rows that cannot be synthesized are left out and listed with a
    reason.

    `source` is the opened source of the configuration, if the caller has opened it.
    """
    check_settings(config)
    if config.source in MAY_BE_RECORDED:
        source = source or open_source(config)
    voices: dict[str, float] = {}
    engine_fields: dict[str, Any] = {}
    if config.source not in RECORDED and not _is_recorded(source):  # which need no engine
        tts_engine = open_engine(config.engine, config.engine_path, config.engine_model)
        voices = weighted_voices(config.voices, tts_engine, config.language)
        engine_fields = _engine_fields(tts_engine.name, tts_engine.license, voices)
    source = source or open_source(config)
    count = config.count or len(source)
    if not count:
        raise InputError(f"source: {config.path or config.source}: holds no question ({_skipped_text(source)})")
    plan = masked({k: str(v) if k == "output" else v for k, v in asdict(config).items() if k not in EXECUTION_FIELDS})
    plan["schema_version"] = SCHEMA_VERSION
    if config.turns == "split":  # a folder of single questions is the same to the byte as before there were others
        del plan["turns"]
    if isinstance(source, RowSource) and _is_recorded(source):
        plan["engine"] = "recorded"
        license = config.source_license or source.license
        engine_fields = _engine_fields("recorded", license, sorted({row.speaker or "recorded" for row in source.rows}))
    if isinstance(source, RowSource):  # the path does not fix the content of the file
        plan |= dict(zip(CONTENT_FIELDS, (len(source), source.sha256()), strict=True))
    claim(config.output, plan)
    try:
        paths, shard_count = _make_shards(config, source, count, voices)
        restore_plan(config.output, plan)
        if len(paths) < shard_count:
            return {"shards": [p.name for p in paths], "missing": shard_count - len(paths)}
        return _write_manifest(config, plan, source, engine_fields, paths)
    except InputError:
        release(config.output)
        raise


def check_settings(config: SynthesizeConfig) -> None:
    """Raises InputError for invalid settings, and for an engine or a Whisper checkpoint that is missing."""
    if config.count < 0 or config.shard_rows < 1:
        raise InputError("count, shard_rows: must be at least 1, or count 0 for all")
    if config.processes < 0:
        raise InputError(f"processes: {config.processes}: must be at least 1, or 0 for one on each core")
    for name, (low, high), ceiling in (("rate_wpm", config.rate_wpm, 450), ("pitch", config.pitch, 99)):
        if not 0 <= low <= high <= ceiling:
            raise InputError(f"{name}: {low} to {high} is no range within 0 to {ceiling}")
    for name, limit in config.budget.items():
        if name not in ("requests", "characters") or limit < 1:
            raise InputError(f"budget: {name}: {limit}: give requests and characters, each at least 1")
    if config.budget and config.engine != "openai":
        raise InputError(f"budget: is for --engine openai; {config.engine} costs nothing")
    check_effects(config.augment, config.noise_snr_db, config.noise_folder)
    check_pool(config.pool)
    if config.source not in (*RECORDED, *MAY_BE_RECORDED):
        open_engine(config.engine, config.engine_path, config.engine_model)
    if config.asr_filter:
        from selfkd.model.backbones import check_whisper  # imports torch, which synthesis does not need

        check_whisper(config.asr_filter, "asr_filter")


def _make_shards(
    config: SynthesizeConfig, source: Source, count: int, voices: dict[str, float]
) -> tuple[list[Path], int]:
    """Makes the missing shards of this job; returns all finished shards, and the number of shards of the folder."""
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
    processes = config.processes or available_cores()
    # a core for each engine also where there are fewer shards than cores; on Ray a job has one core
    engines = max(1, processes // max(1, len(jobs))) if config.pool == "local" else 1
    rows = sum(stop - start for *_, (start, stop), _ in jobs)
    try:
        with progress(f"synthesizing {config.source}", rows, "rows", shown=bool(jobs)) as shown:

            def on_rows(made: int, resumed: int) -> None:
                shown.skip(resumed)
                shown.advance(made)

            given = [(*job, engines) for job in jobs]
            for path in run_jobs(synthesize_shard, given, config.pool, processes, config.address, on_rows):
                if config.pool == "ray":  # whose jobs report no rows
                    footer = shard_metadata(path)
                    shown.advance(footer["rows"] + len(footer["rejected"]))
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        left = sum(not finished_shard(config.output, stems[i]) for i in wanted)
        raise InputError(
            f"{config.output}: no space left ({error.strerror}); {left} of {shard_count} shards are missing, "
            "the same command makes them"
        ) from error
    return [path for stem in stems if (path := finished_shard(config.output, stem))], shard_count


def _is_recorded(source: Source | None) -> bool:
    return isinstance(source, RowSource) and source.is_recorded


def _engine_fields(engine: str, license: str, voices: Iterable[str]) -> dict[str, Any]:
    return {"engine_name": engine, "engine_license": license, "voice_names": list(voices)}


def _write_manifest(
    config: SynthesizeConfig, plan: dict[str, Any], source: Source, engine_fields: dict[str, Any], paths: Sequence[Path]
) -> dict[str, Any]:
    footers = [shard_metadata(p) for p in paths]
    rejected = [reject for f in footers for reject in f["rejected"]]
    refused_shards = sorted((config.output / REJECTED).glob("*.parquet"))
    if not any(f["rows"] for f in footers):
        for path in paths:
            path.unlink()
        reasons = "; ".join(list(dict.fromkeys(r["reason"] for r in rejected))[:FIRST_REASONS])
        kept = f"their audio is in {config.output / REJECTED}" if refused_shards else "nothing is kept"
        raise InputError(
            f"{config.output}: all {len(rejected)} questions were rejected ({reasons}); {kept}, "
            "and the same command can be run again when that is corrected"
        )
    manifest = {
        "schema_version": SCHEMA_VERSION,
        **{k: v for k, v in plan.items() if k not in ("output", "schema_version")},
        "rows": sum(f["rows"] for f in footers),
        "rejected": rejected,
        "skipped_by_the_source": source.skipped,
        "source_license": config.source_license or source.license,
        "source_notes": list(source.notes) if isinstance(source, RowSource) else [],
        **({"whole": source.whole._asdict()} if isinstance(source, RowSource) and source.whole else {}),
        **engine_fields,
        "word_error_rates": _mean_by_voice(footers),
        "shards": [_entry(config.output, p) for p in paths],
        "rejected_shards": [_entry(config.output, p) for p in refused_shards],
    }
    for partial in config.output.rglob(".*.parquet*"):  # of jobs that were killed
        partial.unlink(missing_ok=True)
    sync(config.output)
    write_json(config.output / MANIFEST, manifest)
    first = f", the first because: {rejected[0]['reason']}" if rejected else ""
    skipped = f"; skipped by the source: {_skipped_text(source)}" if source.skipped else ""
    made = "questions" if config.turns == "split" else "conversations"
    print(f"{config.output}: {manifest['rows']} {made}, {len(rejected)} rejected{first}{skipped}")
    return manifest


def _skipped_text(source: Source) -> str:
    return ", ".join(f"{reason}: {number}" for reason, number in source.skipped.items()) or "no rows skipped"


def _entry(folder: Path, path: Path) -> dict[str, Any]:
    return {"file": str(path.relative_to(folder)), "rows": shard_metadata(path)["rows"], "sha256": sha256(path)}


def _mean_by_voice(footers: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Mean word error rate of each voice, rejected rows included; empty without an ASR filter."""
    total: Counter[str] = Counter()
    rows: Counter[str] = Counter()
    for footer in footers:
        for voice, (rate_sum, count) in footer["word_error_rates"].items():
            total[voice] += rate_sum
            rows[voice] += count
    return {voice: round(total[voice] / rows[voice], 4) for voice in sorted(rows)}
