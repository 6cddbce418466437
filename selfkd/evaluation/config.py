"""The configurations of `selfkd evaluate`, `judge` and `compare`. Imports no torch: `--help` reads them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

EvalModality = Literal["text", "audio", "cascade"]  # cascade: an ASR model's transcript as a text query
InstructionForm = Literal["text", "audio"]
Scoring = Literal["lenient", "official"]
JudgeCriterion = Literal["on_topic", "correctness"]
Engine = Literal["transformers", "vllm"]


@dataclass
class EvaluateConfig:
    """Runs a model on the same questions as text and as audio queries and scores its predictions.

    Args:
        model: The output of selfkd align or distill (with /model), a native omni model, a hub id or a path; with url
            the endpoint's name of the model.
        data: Folders of synthesized questions, one a benchmark (selfkd synthesize); VOICE=FOLDER, several times, where
            the same benchmark is there in several voices: each has scores of its own, and there is their spread.
        output: Run directory.
        benchmarks: Public benchmarks by name, or paper8 or all; their questions are synthesized first.
        local_datasets: Local copies of benchmarks where the hub is not to be used: {mme: /data/MME}.
        modalities: Modalities of the query: text, audio, cascade (an ASR model's transcript as the text query, as it is
            and in the form of a question; the better one counts).
        instruction: Whether the sentence on the form of the answer is text in both modalities or part of the audio.
        voices: Voices that synthesize the benchmarks, one after another; each voice has scores of its own.
        synthesis: Further fields of selfkd synthesize for benchmarks: {engine: kokoro, asr_filter:
            openai/whisper-base.en}.
        cache: Folder that keeps synthesized benchmarks for the next run.
        asr_model: ASR model of the cascade: a Whisper checkpoint, one of selfkd, or a model with a CTC projector. The
            default is the bundled one, which knows the toy world's words only.
        asr_prompt: Text that a Whisper of the cascade is prompted with: words of the domain in their spelling.
        trust_remote_code: Run the Python code that comes with a checkpoint (Megrez-3B-Omni, MiniCPM-o 2.6).
        url: Base URL of an OpenAI-compatible endpoint, or openai; its key comes from OPENAI_API_KEY. Credentials in the
            URL are used and written nowhere.
        endpoint: Settings of its requests: {concurrency: 8, requests_per_minute: 60, budget: 5, price_in: 2.5,
            price_out: 10}.
        engine: What runs a model of selfkd: transformers, or vllm, with the same samples (selfkd[vllm]; not a native
            omni model, not LoRA, no likelihood).
        vllm: Arguments of vLLM's LLM: {tensor_parallel_size: 2, gpu_memory_utilization: 0.8}.
        limit: At most so many items of each benchmark, in whole groups (pairs, rotations, an image's questions); 0
            takes all.
        batch_size: Items in a batch.
        max_new_tokens: Maximum tokens of a response; one that ends there is counted as cut, without text as failed.
        scoring: How responses are graded: lenient parses sentences, by the same rules in all benchmarks; official
            grades mme, pope, hallusionbench, mmstar and ocrbench as their own scripts do, for comparison with published
            tables.
        likelihood: Score the options of multiple-choice questions by their likelihood too (MMAlign); local models.
        skip_unusable: Leave out rows that the model cannot take (image or text too large, audio too short or too long,
            files that cannot be decoded), and count them; by default they are listed and nothing runs.
        keep_failures: End although some items have no response; they are counted, not scored.
        seed: Seed of the bootstrap.
    """

    model: str
    data: list[str] = field(default_factory=list)
    output: Path = Path("runs/evaluate")
    benchmarks: list[str] = field(default_factory=list)
    local_datasets: dict[str, str] = field(default_factory=dict)
    modalities: list[EvalModality] = field(default_factory=lambda: ["text", "audio"])
    instruction: InstructionForm = "text"
    voices: list[str] = field(default_factory=lambda: ["heldout"])
    synthesis: dict[str, Any] = field(default_factory=dict)
    cache: Path = Path("~/.cache/selfkd/benchmarks")
    asr_model: str = ""
    asr_prompt: str = ""
    trust_remote_code: bool = False
    url: str = ""
    endpoint: dict[str, Any] = field(default_factory=dict)
    engine: Engine = "transformers"
    vllm: dict[str, Any] = field(default_factory=dict)
    limit: int = 0
    batch_size: int = 50
    max_new_tokens: int = 128
    scoring: Scoring = "lenient"
    likelihood: bool = False
    skip_unusable: bool = False
    keep_failures: bool = False
    seed: int = 0


@dataclass
class JudgeConfig:
    """Are wrong responses on topic, or are open answers correct? An LLM judge over any OpenAI-compatible endpoint.

    Args:
        run: Evaluation run.
        model: The endpoint's name of the judge; without it only the lexical measure is computed.
        url: Base URL of the endpoint; OpenAI's by default. Its key comes from OPENAI_API_KEY.
        endpoint: Settings of its requests: {concurrency: 8, budget: 5, price_in: 2.5, price_out: 10}.
        criterion: on_topic, of wrong responses, next to a free lexical measure; or correctness, 0 to 1 against the
            reference, of the responses to questions with open answers.
        repeats: Responses of each benchmark and modality whose correctness is judged twice, with the examples of the
            prompt in another order.
        seed: Seed of the bootstrap of an agreement.
    """

    run: Path
    model: str = ""
    url: str = ""
    endpoint: dict[str, Any] = field(default_factory=dict)
    criterion: JudgeCriterion = "on_topic"
    repeats: int = 50
    seed: int = 0


@dataclass
class CompareConfig:
    """Compares evaluated runs on the same items and states the share of the gap closed.

    The text scores, and the cascade's, are those of the first run that has them. The first run with audio is the
    baseline of the others: SFT, if they are to close the gap that it leaves.

    Args:
        runs: Evaluation runs, RUN or NAME=RUN; a folder eval-sft is called sft.
        output: Folder for scores.json.
        seed: Seed of the bootstrap.
    """

    runs: list[str]
    output: Path
    seed: int = 0
