"""Runs a model on the same questions as text and as audio queries and scores its predictions: the vision-audio gap.

Writes into a run directory one JSON-lines file for each benchmark and modality (`samples/BENCHMARK.MODALITY.jsonl`, one
item a line) and the scores (`result.json`). An interrupted run resumes with the items that have no sample yet.
"""

import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import read_manifest
from selfkd.data.turns import conversation_of
from selfkd.errors import InputError
from selfkd.evaluation.average import VOICE_MARK, average_over_benchmarks
from selfkd.evaluation.backends.base import Backend
from selfkd.evaluation.backends.endpoint import request_settings
from selfkd.evaluation.backends.registry import backend_for
from selfkd.evaluation.backends.transcriber import Transcriber, inspect_asr_model
from selfkd.evaluation.benchmark_audio import check_benchmarks, synthesize_benchmarks
from selfkd.evaluation.benchmarks.base import whole_groups
from selfkd.evaluation.benchmarks.registry import BENCHMARKS
from selfkd.evaluation.by_voice import by_speaker, spread_over_voices
from selfkd.evaluation.cascade import error_of
from selfkd.evaluation.config import EvaluateConfig
from selfkd.evaluation.grading import GRADED_COLUMNS, check_gradable, details_of, group_of, scoring_of
from selfkd.evaluation.metrics import add_subset_errors, score
from selfkd.evaluation.own_data import open_own_data
from selfkd.evaluation.samples import QUESTIONS, SampleFile, prompt_hash, read_samples, sample, samples_path
from selfkd.evaluation.tables import scores_table
from selfkd.files import write_json
from selfkd.input_hashes import hashes_of_checkpoint, hashes_of_data
from selfkd.model.checkpoint import CheckpointInfo
from selfkd.model.fast_linear import fast_linear
from selfkd.model.tiny import note_tiny_llm, tiny_model_config
from selfkd.progress import progress
from selfkd.run_dir import UNUSABLE, Run, is_main_process, name_and_path
from selfkd.stage_function import stage_function
from selfkd.terminal import table_console
from selfkd.training.data import check_vocabulary_coverage
from selfkd.training.usable_rows import Unusable, Use, find_unusable, read_skipped, unusable_text, write_skipped

_FREE = ("keep_failures", "endpoint", "cache", "batch_size")  # a run resumes with other values of these


@stage_function(EvaluateConfig)
def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Returns {benchmark: {modality: scores, "gap": text minus audio}}. The cascade is that of its better form.

    Raises InputError where items have no response in the end: their samples are kept, and they never count as wrong.
    """
    request_settings(config)
    backend_class = backend_for(config)
    checkpoint = backend_class.inspect(config)
    _check_settings(config, backend_class)
    asr_model = inspect_asr_model(config.asr_model, config.asr_prompt) if "cascade" in config.modalities else None
    check_benchmarks(config)
    own_data = _open_own_data(config)
    Run.check(config.output, "evaluate", config, _FREE)  # before benchmarks are synthesized
    folders = _open_data(config, own_data)
    _check_data(config, folders)
    all_folders = folders

    def inputs() -> dict[str, Any]:
        """What a run depends on besides its configuration. The number of processes does not change a response."""
        given = {Path(path): path for _, path in map(name_and_path, config.data)}
        found: dict[str, Any] = dict(hashes_of_data({given.get(f.folder, n): f for n, f in all_folders.items()}))
        found |= backend_class.input_hashes(config, checkpoint)
        return found if asr_model is None else found | hashes_of_checkpoint("asr_model", asr_model.paths[0])

    with Run.open(config.output, "evaluate", config, _FREE, inputs) as run, fast_linear():
        left_out: dict[str, int] = {}
        if checkpoint is not None:
            if is_main_process():
                note_tiny_llm(checkpoint.config, (folder.source for folder in folders.values()))
            folders, left_out = _usable(config, checkpoint, run.folder, folders)
        transcriber = None if asr_model is None else Transcriber.load(asr_model, config.asr_prompt)
        with backend_class.open(config, checkpoint, transcriber, run.folder) as backend:
            failures: list[str] = []  # raised after the last benchmark: a failed item does not stop the others
            result = {
                name: _run_benchmark(config, run.folder, name, folder, backend, failures)
                for name, folder in folders.items()
            }
        if failures:
            hint = "the same command runs them again; --keep_failures ends without them"
            raise InputError(f"{'; '.join(failures)} ({hint})")
        for name, count in left_out.items():
            for modality in result[name].keys() & {*config.modalities}:  # {} but on the main process
                result[name][modality]["skipped_unusable"] = count
        if is_main_process():
            result |= spread_over_voices(list(result), lambda name: _samples(config, run.folder, name), config.seed)
            result |= average_over_benchmarks(result)
            relative = {name: os.path.relpath(folder.folder, run.folder) for name, folder in folders.items()}
            write_json(run.folder / QUESTIONS, relative)
            run.finish(**result)
            table_console().print(scores_table(result))
        return result


def _check_settings(config: EvaluateConfig, backend_class: type[Backend]) -> None:
    """Raises InputError for invalid settings, before anything is loaded or written."""
    if config.likelihood and not backend_class.scores_likelihoods:
        raise InputError("likelihood: needs a model in the classes of transformers on this machine")
    if config.url and _processes().num_processes > 1:  # each would have a budget and a rate of its own
        raise InputError("url: an endpoint runs from one process; endpoint.concurrency sets its parallel requests")
    if config.batch_size < 1 or config.limit < 0 or config.max_new_tokens < 1 or not config.modalities:
        raise InputError("batch_size, limit, max_new_tokens, modalities: must not be negative or empty")
    if config.asr_prompt and "cascade" not in config.modalities:
        raise InputError("asr_prompt: no effect without the modality cascade")
    if "cascade" in config.modalities and config.benchmarks and not config.asr_model:
        raise InputError(
            "asr_model: the bundled one knows the words of the toy world only; name one for public benchmarks, say "
            "openai/whisper-base.en"
        )


def _open_own_data(config: EvaluateConfig) -> dict[str, ExampleFolder]:
    """`open_own_data` of the field `data`; raises InputError where there is nothing to evaluate."""
    if not config.data and not config.benchmarks:
        raise InputError("data, benchmarks: name at least one")
    return open_own_data(config.data)


def _open_data(config: EvaluateConfig, own_data: Mapping[str, ExampleFolder]) -> dict[str, ExampleFolder]:
    """{benchmark: its synthesized questions}, "mme@af_heart" for each of several voices, and the user's own data."""
    with _processes().main_process_first():  # one process synthesizes
        found = synthesize_benchmarks(config)
    for name, folder in own_data.items():
        if name in found:
            raise InputError(f"data: {folder.folder}: a second folder of {name!r}")
        found[name] = folder
    empty = [name for name, folder in found.items() if not len(folder)]
    if empty:
        raise InputError(f"data: {empty[0]}: holds no examples")
    return found


def _check_data(config: EvaluateConfig, folders: Mapping[str, ExampleFolder]) -> None:
    """Raises InputError for questions without a grader, or with words that the bundled ASR model does not know."""
    for name, folder in folders.items():
        check_gradable(name.partition(VOICE_MARK)[0], folder.columns(*GRADED_COLUMNS))
    if "cascade" in config.modalities and not config.asr_model:
        bundled, processor = tiny_model_config()
        remedy = "asr_model: name one, say openai/whisper-base.en"
        check_vocabulary_coverage(folders.values(), bundled.ctc_token_ids or (), processor, remedy)


def _processes() -> PartialState:
    """The processes of `accelerate launch`, or this one."""
    return PartialState(cpu=not torch.cuda.is_available())


def _run_benchmark(
    config: EvaluateConfig, run: Path, name: str, examples: ExampleFolder, backend: Backend, failures: list[str]
) -> dict[str, Any]:
    """The scores of a benchmark; {} and a line in `failures` where items have no response and are not to be kept."""
    ids = [row["id"] for row in examples.columns("id")]
    chosen = _limited(examples, config.limit)
    state = _processes()
    rank = state.process_index
    files = {m: SampleFile(samples_path(run, name, m), [ids[i] for i in chosen], rank) for m in config.modalities}
    if not config.keep_failures and state.is_main_process:
        for file in files.values():
            file.reopen()
    if "text" in files and VOICE_MARK in name and state.is_main_process:  # the text queries of another voice are equal
        benchmark = name.partition(VOICE_MARK)[0]
        others = sorted(files["text"].path.parent.glob(f"{glob.escape(benchmark)}{VOICE_MARK}*.text.jsonl"))
        files["text"].take_over(others, lambda at: prompt_hash(examples[chosen[at]], "text"))
    state.wait_for_everyone()
    missing = {m: [chosen[i] for i in f.missing() if i % state.num_processes == rank] for m, f in files.items()}
    predictions = backend.predict(examples, {m: positions for m, positions in missing.items() if positions})
    total = sum(map(len, missing.values()))
    with progress(name, total, "predictions", shown=bool(total) and rank == 0) as shown:
        for i, modality, prediction in shown.over(predictions):
            files[modality].add(sample(examples[i], modality, prediction, examples.language, config.scoring))
    state.wait_for_everyone()
    if not state.is_main_process:
        return {}
    errors = [error_of(s) for f in files.values() for s in f.known().values() if error_of(s)]
    if errors and not config.keep_failures:
        failures.append(f"{len(errors)} items of {name} have no response, the first because: {errors[0]}")
        return {}
    for file in files.values():
        file.finish()
    samples = _samples(config, run, name)
    scores = score(samples, config.seed)
    if whole := read_manifest(examples.folder).get("whole"):  # of a public benchmark that was limited
        add_subset_errors(scores, samples, whole)
    if "audio" in samples:
        chance = scores["audio"].get("chance")
        scores |= by_speaker(samples.get("text", ()), samples["audio"], config.seed, chance)
    for modality in files:
        scores[modality]["scoring"] = scoring_of(name, config.scoring)
    if "audio" in scores:  # rejected by synthesis, so in no modality
        scores["audio"]["not_synthesized"] = len(read_manifest(examples.folder).get("rejected", []))
    return scores


def _samples(config: EvaluateConfig, run: Path, name: str) -> dict[str, list[dict[str, Any]]]:
    """{modality: the samples of a finished benchmark}."""
    return {modality: read_samples(samples_path(run, name, modality)) for modality in config.modalities}


def _usable(
    config: EvaluateConfig, checkpoint: CheckpointInfo, run: Path, folders: Mapping[str, ExampleFolder]
) -> tuple[dict[str, ExampleFolder], dict[str, int]]:
    """The folders without the rows that the model cannot take, and {benchmark: number of these rows}. Raises InputError
    that lists them, before the model is loaded, unless they are to be skipped (or to be run and kept as failures)."""
    found = read_skipped(run / UNUSABLE) if config.skip_unusable else [] if config.keep_failures else None
    left = dict(folders)
    if found is None:
        use = Use(checkpoint.processor, checkpoint.config.context, config.modalities, new_tokens=config.max_new_tokens)
        found, rows = [], sum(len(_limited(folder, config.limit)) for folder in folders.values())
        while more := find_unusable([(f, _limited(f, config.limit)) for f in left.values()], use, config.skip_unusable):
            if not config.skip_unusable:
                raise InputError(f"data: {unusable_text(more, rows)} (--skip_unusable leaves them out)")
            found += more
            left = {name: _without(folder, found) for name, folder in folders.items()}
            if not config.limit:  # with a limit other rows have moved up, and are checked next
                break
    left = {name: _without(folder, found) for name, folder in folders.items()}
    counts = write_skipped(run / UNUSABLE, found, sum(map(len, folders.values()))) if config.skip_unusable else {}
    return left, {name: len(folders[name]) - len(left[name]) for name in left} if counts else {}


def _without(folder: ExampleFolder, found: Sequence[Unusable]) -> ExampleFolder:
    """A folder without these rows, and, in a benchmark whose metrics count groups (pairs), without the rest of their
    groups. Raises InputError where no row is left."""
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
    """The group of each item: items of one group are right or wrong together."""
    rows = examples.columns("id", "source", "category", "details", "image_hash")
    known = [row | {"details": details_of(row)} for row in rows]
    return [group_of(row, row["image_hash"] or conversation_of(row["id"])) for row in known]
