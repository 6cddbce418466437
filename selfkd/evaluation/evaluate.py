"""Asks a model the same questions written and spoken, and scores its replies: the model's vision-audio gap.

Writes into a run directory one JSON-lines file for each benchmark and view (`samples/BENCHMARK.VIEW.jsonl`, one item a
line) and the scores (`result.json`). A run that was cut short goes on with the items that are missing.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from rich.console import Console

from selfkd.credentials import masked
from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import read_manifest
from selfkd.errors import InputError
from selfkd.evaluation.average import VOICE_MARK, averages
from selfkd.evaluation.backends.base import (
    Backend,
    EndpointBackend,
    LocalBackend,
    Modality,
    endpoint_settings,
    with_progress,
)
from selfkd.evaluation.backends.openai_client import USAGE, EndpointSettings, kept_usage
from selfkd.evaluation.backends.remote_code import RemoteCodeBackend, runs_own_code
from selfkd.evaluation.backends.transcriber import Transcriber
from selfkd.evaluation.benchmark_speech import InstructionForm, check_benchmarks, synthesize_benchmarks
from selfkd.evaluation.benchmarks.base import whole_groups
from selfkd.evaluation.benchmarks.registry import BENCHMARKS
from selfkd.evaluation.chance import chance_floor
from selfkd.evaluation.gap_table import scores_table
from selfkd.evaluation.grading import Scoring, check_gradable, check_name, details_of, group_of, scoring_of
from selfkd.evaluation.metrics import spread_over_voices, summarize, vision_audio_gap
from selfkd.evaluation.response import count_outcomes, outcome_warnings
from selfkd.evaluation.samples import QUESTIONS, SampleFile, prompt_hash, read_samples, sample, samples_path
from selfkd.files import write_json
from selfkd.input_hashes import hashes_of_checkpoint, hashes_of_data
from selfkd.model.checkpoint import CheckpointInfo, inspect_checkpoint
from selfkd.model.tiny import TINY_MODEL, tiny_model_config
from selfkd.run_dir import UNUSABLE, Run, is_main_process
from selfkd.stage_function import stage_function
from selfkd.training.data import check_vocabulary_coverage
from selfkd.training.usable_rows import Unusable, Use, find_unusable, read_skipped, unusable_text, write_skipped

_FREE = ("keep_failures", "endpoint", "cache", "batch_size")  # a run goes on with others of these


@dataclass
class EvaluateConfig:
    """Written against spoken: asks a model the same questions in several views.

    Args:
        model: The output of selfkd align or distill (with /model), a native omni model, a hub id or a path; with url
            the endpoint's name of the model.
        data: Folders of spoken questions, one a benchmark (selfkd synthesize).
        output: Run directory.
        benchmarks: Public benchmarks by name, or paper8 or all; they are spoken first.
        local_datasets: Local copies of benchmarks where the hub is not to be asked: {mme: /data/MME}.
        modalities: Views to ask in: text, speech, cascade (a recogniser, then text).
        instruction: Whether the sentence on the form of the answer stays text in both views or is spoken too.
        voices: Voices that speak the benchmarks, one after another; scores are given for each.
        synthesis: Further fields of selfkd synthesize for benchmarks: {engine: kokoro, verify: openai/whisper-base.en}.
        cache: Folder that keeps spoken benchmarks for the next run.
        asr_model: Checkpoint of the cascade's recogniser: Whisper's, ours, or a model that hears tokens; by default
            the embedded one, which is no use to public benchmarks.
        trust_remote_code: Run the Python code that comes with a checkpoint (Megrez-3B-Omni, MiniCPM-o 2.6).
        url: Base URL of an OpenAI-compatible endpoint, or openai; its key comes from OPENAI_API_KEY. Credentials in the
            URL are used and written nowhere.
        endpoint: How it is asked: {concurrency: 8, requests_per_minute: 60, budget: 5, price_in: 2.5, price_out: 10}.
        limit: At most so many items of each benchmark, in whole groups (pairs, rotations, a picture's); 0 takes all.
        batch_size: Items that are asked together.
        max_new_tokens: Longest reply, in tokens; what ends there is counted as cut, without a text as failed.
        scoring: How responses are graded: lenient reads sentences, alike in all benchmarks; official grades mme, pope,
            hallusionbench, mmstar and ocrbench as their own scripts do, for figures beside a published table.
        likelihood: Score the options of multiple-choice questions by their likelihood too (MMAlign); local models.
        skip_unusable: Leave out rows that the model cannot take (a picture or text too large, sound too short or long,
            neither readable), and count them; by default they are listed and nothing is asked.
        keep_failures: End although some items have no reply; they are counted, not scored.
        seed: Seed of the bootstrap.
    """

    model: str
    data: list[str] = field(default_factory=list)
    output: Path = Path("runs/evaluate")
    benchmarks: list[str] = field(default_factory=list)
    local_datasets: dict[str, str] = field(default_factory=dict)
    modalities: list[Modality] = field(default_factory=lambda: ["text", "audio"])
    instruction: InstructionForm = "text"
    voices: list[str] = field(default_factory=lambda: ["heldout"])
    synthesis: dict[str, Any] = field(default_factory=dict)
    cache: Path = Path("~/.cache/selfkd/speech")
    asr_model: str = ""
    trust_remote_code: bool = False
    url: str = ""
    endpoint: dict[str, Any] = field(default_factory=dict)
    limit: int = 0
    batch_size: int = 50
    max_new_tokens: int = 128
    scoring: Scoring = "lenient"
    likelihood: bool = False
    skip_unusable: bool = False
    keep_failures: bool = False
    seed: int = 0


@stage_function(EvaluateConfig)
def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Returns {benchmark: {view: scores, "gap": written against spoken}}.

    Raises InputError where an item has no reply in the end: nothing is lost, and nothing counted as wrong in silence.
    """
    if "max_new_tokens" in config.endpoint:  # a run may go on with another endpoint, not with longer replies
        raise InputError("endpoint: max_new_tokens: is a field of the run itself, max_new_tokens")
    settings = endpoint_settings({"max_new_tokens": config.max_new_tokens, **config.endpoint})
    own_code = _own_code(config)
    checkpoint = None if config.url or own_code else inspect_checkpoint(config.model)
    if config.likelihood and (own_code or config.url):
        raise InputError("likelihood: needs a model in the classes of transformers on this machine")
    if config.url and _processes().num_processes > 1:  # each would have a budget and a pace of its own
        raise InputError("url: an endpoint is asked by one process; endpoint.concurrency says how much at once")
    if config.batch_size < 1 or config.limit < 0 or config.max_new_tokens < 1 or not config.modalities:
        raise InputError("batch_size, limit, max_new_tokens, views: must not be negative or empty")
    if "cascade" in config.modalities and config.benchmarks and not config.asr_model:
        raise InputError(
            "recognizer: the embedded one knows the words of the embedded world alone; name one for public "
            "benchmarks, say openai/whisper-base.en"
        )
    asr_model = None
    if "cascade" in config.modalities:
        asr_model = inspect_checkpoint(config.asr_model or TINY_MODEL, "asr_model", "asr")
    check_benchmarks(config)
    own_folders = _own_folders(config)
    Run.check(config.output, "evaluate", config, _FREE)  # before benchmarks are spoken
    asked = _folders(config, own_folders)
    for name, folder in asked.items():
        check_gradable(name.partition(VOICE_MARK)[0], folder.columns("id", "question_type", "question", "target"))
    if "cascade" in config.modalities and not config.asr_model:
        heard, processor = tiny_model_config()
        remedy = "recognizer: name one, say openai/whisper-base.en"
        check_vocabulary_coverage(asked.values(), heard.ctc_token_ids or (), processor, remedy)
    given = asked
    with Run.open(
        config.output, "evaluate", config, _FREE, lambda: _inputs(config, settings, given, checkpoint, asr_model)
    ) as run:
        left_out: dict[str, int] = {}
        if checkpoint is not None:
            asked, left_out = _usable(config, checkpoint, run.folder, asked)
        transcriber = None if asr_model is None else Transcriber.load(asr_model)
        with _system(config, checkpoint, settings, transcriber, run.folder) as system:
            lost: list[str] = []  # told when all has been asked: one bad reply in the evening is not to cost the night
            result = {name: _ask(config, run.folder, name, folder, system, lost) for name, folder in asked.items()}
        if lost:
            hint = "the same command asks them again; --keep_failures true ends without them"
            raise InputError(f"{'; '.join(lost)} ({hint})")
        for name, count in left_out.items():
            for modality in result[name].keys() & {*config.modalities}:  # none but on the main process
                result[name][modality]["skipped_unusable"] = count
        result |= spread_over_voices(result, VOICE_MARK) | averages(result)
        if is_main_process():
            positions = {name: os.path.relpath(folder.folder, run.folder) for name, folder in asked.items()}
            write_json(run.folder / QUESTIONS, positions)
            run.finish(**result)
            Console().print(scores_table(result))
        return result


def _inputs(
    config: EvaluateConfig,
    settings: EndpointSettings,
    asked: Mapping[str, ExampleFolder],
    checkpoint: CheckpointInfo | None,
    asr_model: CheckpointInfo | None,
) -> dict[str, Any]:
    """What a run stands on beside its configuration. Not the number of processes: a reply is the same from any."""
    given = {Path(path): path for path in config.data}
    found: dict[str, Any] = dict(hashes_of_data({given.get(f.folder, name): f for name, f in asked.items()}))
    if config.url:
        found["endpoint.extra"] = masked(settings.extra, "extra")
    else:
        for path in (config.model,) if checkpoint is None else checkpoint.paths:
            found |= hashes_of_checkpoint("model", path)
    if asr_model is not None:
        found |= hashes_of_checkpoint("asr_model", asr_model.paths[0])
    return found


def _own_code(config: EvaluateConfig) -> bool:
    if config.url or config.model == TINY_MODEL:
        return False
    return runs_own_code(config.model, config.trust_remote_code)


@contextmanager
def _system(
    config: EvaluateConfig,
    checkpoint: CheckpointInfo | None,
    settings: EndpointSettings,
    transcriber: Transcriber | None,
    folder: Path,
) -> Iterator[Backend]:
    """The model to ask. What an endpoint cost stands in the run's usage.json, and counts when the run goes on."""
    if checkpoint is not None:
        yield LocalBackend(checkpoint, transcriber, config.batch_size, config.max_new_tokens, config.likelihood)
        return
    if not config.url:
        yield RemoteCodeBackend(config.model, transcriber, config.max_new_tokens)
        return
    with kept_usage(folder / USAGE, config.model) as usage:
        yield EndpointBackend(config.url.removeprefix("openai"), config.model, settings, transcriber, usage)


def _own_folders(config: EvaluateConfig) -> list[ExampleFolder]:
    """Those that the field data names; raises InputError where one is none."""
    if not config.data and not config.benchmarks:
        raise InputError("data, benchmarks: name at least one")
    folders = [ExampleFolder(path) for path in map(Path, config.data)]
    for folder in folders:
        check_name(folder)
    return folders


def _folders(config: EvaluateConfig, own: Sequence[ExampleFolder]) -> dict[str, ExampleFolder]:
    """{benchmark: its spoken questions}, "mme@af_heart" where several voices speak; `own` are those of the user."""
    with _processes().main_process_first():  # one process speaks
        found = synthesize_benchmarks(config)
    for folder in own:
        if folder.source in found:
            raise InputError(f"data: {folder.folder}: a second folder of {folder.source!r}")
        found[folder.source] = folder
    empty = [name for name, folder in found.items() if not len(folder)]
    if empty:
        raise InputError(f"data: {empty[0]}: holds no examples")
    return found


def _processes() -> PartialState:
    """Those of `accelerate launch`, or this one alone."""
    return PartialState(cpu=not torch.cuda.is_available())


def _ask(
    config: EvaluateConfig, folder: Path, name: str, examples: ExampleFolder, system: Backend, lost: list[str]
) -> dict[str, Any]:
    """The scores of a benchmark; none, and why in `lost`, where items have no reply and that is not to be kept."""
    ids = [row["id"] for row in examples.columns("id")]
    chosen = _limited(examples, config.limit)
    state = _processes()
    rank = state.process_index
    files = {v: SampleFile(samples_path(folder, name, v), [ids[i] for i in chosen], rank) for v in config.modalities}
    if not config.keep_failures and state.is_main_process:
        for file in files.values():
            file.reopen()
    if "text" in files and VOICE_MARK in name and state.is_main_process:  # asked beside another voice already?
        benchmark = name.partition(VOICE_MARK)[0]
        others = sorted(files["text"].path.parent.glob(f"{benchmark}{VOICE_MARK}*.text.jsonl"))
        files["text"].take_over(others, lambda at: prompt_hash(examples[chosen[at]], "text"))
    state.wait_for_everyone()
    wanted = {v: [chosen[i] for i in f.missing() if i % state.num_processes == rank] for v, f in files.items()}
    answers = system.answer(examples, {v: positions for v, positions in wanted.items() if positions})
    for i, modality, prediction in with_progress(answers, sum(map(len, wanted.values())), name):
        files[modality].add(sample(examples[i], modality, prediction, examples.language, config.scoring))
    state.wait_for_everyone()
    if not state.is_main_process:
        return {}
    failed = [r for f in files.values() for r in f.known().values() if r["error"]]
    if failed and not config.keep_failures:
        lost.append(f"{len(failed)} items of {name} have no reply, the first because: {failed[0]['error']}")
        return {}
    for file in files.values():
        file.finish()
    scores = score({modality: read_samples(file.path) for modality, file in files.items()}, config.seed)
    for modality in files:
        scores[modality]["scoring"] = scoring_of(name, config.scoring)
    if "audio" in scores:  # what could not be spoken or understood is asked in no view
        scores["audio"]["not_spoken"] = len(read_manifest(examples.folder).get("rejected", []))
    return scores


def _usable(
    config: EvaluateConfig, checkpoint: CheckpointInfo, run: Path, asked: Mapping[str, ExampleFolder]
) -> tuple[dict[str, ExampleFolder], dict[str, int]]:
    """The folders without the rows that the model cannot take, and how many these are; raises InputError that lists
    them, before the model is loaded, unless they are to be skipped (or to be asked and kept as failures)."""
    found = read_skipped(run / UNUSABLE) if config.skip_unusable else [] if config.keep_failures else None
    left = dict(asked)
    if found is None:
        use = Use(checkpoint.processor, checkpoint.config.context, config.modalities, new_tokens=config.max_new_tokens)
        found, rows = [], sum(len(_limited(folder, config.limit)) for folder in asked.values())
        while more := find_unusable([(f, _limited(f, config.limit)) for f in left.values()], use, config.skip_unusable):
            if not config.skip_unusable:
                raise InputError(f"data: {unusable_text(more, rows)} (--skip_unusable true leaves them out)")
            found += more
            left = {name: _without(folder, found) for name, folder in asked.items()}
            if not config.limit:  # else others have taken their places
                break
    left = {name: _without(folder, found) for name, folder in asked.items()}
    said = write_skipped(run / UNUSABLE, found, sum(map(len, asked.values()))) if config.skip_unusable else {}
    return left, {name: len(asked[name]) - len(left[name]) for name in left} if said else {}


def _without(folder: ExampleFolder, found: Sequence[Unusable]) -> ExampleFolder:
    """A folder without these rows, and without what is right or wrong with one of them: a pair of which one is lost is
    no pair. Raises InputError where none is left."""
    lost = {u.position for u in found if u.folder == folder.folder}
    benchmark = BENCHMARKS.get(folder.source)
    if lost and benchmark is not None and benchmark.counts_groups:
        groups = _groups(folder)
        broken = {groups[i] for i in lost}
        lost = {i for i, group in enumerate(groups) if group in broken}
    if len(lost) == len(folder):
        raise InputError(f"data: {folder.folder}: no row is left: {unusable_text(found, len(folder))}")
    return folder.without(lost)


def _limited(examples: ExampleFolder, limit: int) -> list[int]:
    """The positions of the first whole groups."""
    return whole_groups(_groups(examples), limit)


def _groups(examples: ExampleFolder) -> list[str]:
    """What each item is right or wrong with."""
    rows = examples.columns("id", "source", "category", "details", "image_hash")
    known = [row | {"details": details_of(row)} for row in rows]
    return [group_of(row, row["image_hash"] or row["id"]) for row in known]


def score(samples: Mapping[str, Sequence[Mapping[str, Any]]], seed: int) -> dict[str, Any]:
    """{view: scores} of one benchmark, and "gap" and "cascade_gap", written against spoken on the same items. With the
    `outcomes` of each view's responses, and `warnings` beside a gap where those differ between its two views."""
    chance = chance_floor(next(iter(samples.values()), ()))  # the items of all views are the same
    scores: dict[str, Any] = {
        modality: summarize(some, chance) | {"outcomes": count_outcomes(some)} for modality, some in samples.items()
    }
    for modality, key in (("audio", "gap"), ("cascade", "cascade_gap")):
        if "text" in samples and modality in samples:
            warnings = outcome_warnings(
                samples["text"], samples[modality], "audio" if modality == "audio" else modality
            )
            scores[key] = vision_audio_gap(samples["text"], samples[modality], seed, chance) | {"warnings": warnings}
    return scores
