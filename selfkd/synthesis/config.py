"""The configuration of `selfkd synthesize`: fields, defaults and the names that its choices have. Imports no engine, no
source and no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser

from selfkd.errors import InputError
from selfkd.toy_world.scenes import Split

SourceName = Literal[
    "words", "world", "world-noisy", "easy-vqa", "mmalign-world",
    "benchmark", "llava", "jsonl", "datasets", "librispeech", "common-voice", "gigaspeech", "lhotse",
    "stamps", "stamps-mmalign", "mmmb",
    "babillage-coco", "babillage-ocrvqa", "babillage-vqav2", "voiceassistant-eval",
    "lyra-textvqa", "lyra-docvqa", "lyra-chartvqa", "lyra-mmvet", "omnibench", "spokenvisit",
    "voicebench-commoneval", "voicebench-wildvoice", "voicebench-sdqa",
    "xmodbench-recognition", "xmodbench-translation",
    "spoken-coco", "speech-coco", "localized-narratives", "flickr8k-audio",
]  # fmt: skip
TurnsForm = Literal["split", "whole"]
EngineName = Literal["espeak", "flite", "pico", "festival", "kokoro", "piper", "pocket", "openai", "recorded"]
PoolName = Literal["local", "ray"]
# fields that a caller sets itself when it synthesizes the questions of a benchmark
_SET_BY_BENCHMARK = (
    *("output", "source", "path", "images", "recordings", "annotations", "columns", "source_license", "split"),
    *("split_by", "count", "voices", "instruction", "shard", "turns"),
)


@dataclass
class SynthesizeConfig:
    """Synthesizes text questions: a dataset with audio questions.

    Args:
        output: Folder for the shards and the manifest.
        source: Where the questions come from.
        path: File, folder or dataset (NAME, NAME:CONFIG or NAME:CONFIG:SPLIT; NAME@COMMIT fixes its content) of a
            source that is not in the package.
        images: Folder of the images that the source names (llava, jsonl, datasets of paths, published sets).
        recordings: Folder of the recordings that the source names (jsonl, datasets of paths, published sets); by
            default that of its file.
        annotations: File that a published set comes without: the answers of babillage-vqav2, lyra-textvqa and
            lyra-mmvet, the captions of flickr8k-audio.
        turns: Conversations of llava, jsonl and datasets (a column messages), and of the toy world: split into single
            questions, or whole, every turn in one voice.
        columns: Columns of a jsonl or datasets source with other names than the fields (question, answer, image,
            speech, ...), or of a published set that has changed. With a column of recorded speech no engine runs.
        source_license: License of the source, for the manifest, where the source does not state it.
        split: Split of the source, and name of the shards; easy-vqa has no validation split.
        split_by: What is in one split only, of corpora of captions: images, or speakers.
        count: Number of questions, sampled by the seed; 0 takes all of a finite source.
        engine: TTS engine.
        engine_path: Folder of Kokoro's files, of Piper's voices, of recordings of voices (pocket) or of questions
            (recorded); base URL of an endpoint. Without it Piper's voices are downloaded by name, and pocket has its
            own.
        engine_model: Model of an endpoint; language model of pocket (english, german, ...).
        voices: "training", "random" or "heldout" (subsets of the espeak voices, "random" in English only; "training"
            with another engine: all of the language), or names separated by commas, name:weight. An endpoint has its
            own: name them.
        budget: What an endpoint may use, {requests: 5000, characters: 400000}, retries and earlier runs included; over
            it the job stops, and the same command with a higher one resumes.
        language: Language of the questions; voices of another are refused.
        instruction: Whether the sentence on the answer's form stays text or becomes audio too (llava).
        rate_wpm: Lowest and highest rate, in words a minute.
        pitch: Lowest and highest pitch, 0 to 99.
        augment: Probabilities of effects, {room: 0.3, noise: 0.5}: speed, room, noise, telephone, codec (Opus, Vorbis,
            MP3, GSM or mu-law), pause (before and after the speech), level.
        noise_snr_db: Lowest and highest signal-to-noise ratio, in dB.
        noise_folder: Folder of recorded noise; pink noise without one.
        asr_filter: Whisper checkpoint (hub id or path) that transcribes the audio; empty for none.
        max_wer: Maximum word error rate of an example that is kept.
        time_limit_seconds: Time limit of an engine, and of reading a file, for one row; an endpoint that exceeds it
            stops the job.
        seed: Seed of the questions and of the voices.
        shard_rows: Rows of a shard; 3,000 with photographs are about 500 MB.
        processes: Processes that synthesize in parallel, each on one core; of an endpoint, requests in flight. 0 is one
            for each core.
        shard: Makes only this shard (an array job); the job of the last missing shard writes the manifest.
        pool: What makes shards in parallel: processes of this machine, or the nodes of a Ray cluster.
        address: Address of the Ray cluster (auto, ray://HOST:PORT); empty for a cluster on this machine.
    """

    output: Path
    source: SourceName = "world"
    path: str = ""
    images: str = ""
    recordings: str = ""
    annotations: str = ""
    turns: TurnsForm = "split"
    columns: dict[str, str] = field(default_factory=dict)
    source_license: str = ""
    split: Split = "train"
    split_by: Literal["image", "speaker"] = "image"
    count: int = 1000
    engine: EngineName = "espeak"
    engine_path: str = ""
    engine_model: str = ""
    voices: str = "training"
    budget: dict[str, int] = field(default_factory=dict)
    language: str = "en"
    instruction: Literal["text", "audio"] = "text"
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
    processes: int = 0
    shard: int = -1
    pool: PoolName = "local"
    address: str = ""


def synthesis_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `SynthesizeConfig` that say how a benchmark is synthesized; raises InputError for any other."""
    known = {f.name for f in fields(SynthesizeConfig)} - set(_SET_BY_BENCHMARK)
    wrong = [name for name in given if name not in known]
    if wrong:
        raise InputError(f"synthesis: {wrong[0]!r} is no setting here; there are {', '.join(sorted(known))}")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(SynthesizeConfig, as_group=False)
    try:
        values = parser.parse_object({"output": "unused", **given})
    except ArgumentError as error:
        raise InputError(f"synthesis: {' '.join(str(error).split())}") from error
    return {name: values[name] for name in given}
