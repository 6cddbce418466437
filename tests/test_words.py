"""Names and sentences of the project are the field's: retired words stay out of the tracked text.

Whole words in prose and in identifiers, which are split at underscores and capitals (`WORDS`); words that are plain
English only as parts of an identifier (`PARTS`) or in the phrases that were private to this project (`PHRASES`); names
of classes, flags and fields that have others now (`NAMES`). `EXCEPTIONS` are regular expressions with the reason.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".html", ".js", ".css", ".jinja", ".ipynb", ".cff"}
ALSO = {"Makefile", "selfkd/assets/metrics.json"}  # and the JSON files of recipes and experiments
LEFT_OUT = {
    "tests/test_words.py": "lists the retired words",
    "CHANGELOG.md": "names what was renamed",
    "experiments/records/2026-11-28_readers/compare.py": "reads files of the commits that it compares",
    "experiments/records/2026-11-28_internlm2_tokenizer/compare.py": "runs the modules of the commit that it compares",
}

# retired word -> the field's; whole words, singular and plural as listed, in prose and in identifiers
WORDS = {
    "ear|ears": "speech encoder, projector",
    "hear|hears|heard|hearing|unheard|mishear|mishears|misheard": "encode audio, transcribe, transcript",
    "listen|listens|listened|listening|listener": "encode audio",
    "eye|eyes": "vision encoder",
    "picture|pictures": "image",
    "reply|replies|replied": "response, prediction",
    "rolled out": "student-generated",
    "asker|askers|answerer|answerers": "client, backend",
    "recogniser|recognisers|recognizer|recognizers": "ASR model",
    "annotator|annotators|annotated": "noisy labels",
    "skeleton|skeletons": "model config",
    "audible|inaudible": "vocabulary coverage",
    "spell|spells|spelt": "character-level CTC head",
    "unseen": "held-out",
    "bases": "VLM backbones",
    "guarded": "isolated process",
    "foretell|foretells|foretold": "predict",
    "anew": "again",
    "beside": "next to, plus",
    "fewest": "min",
}

# banned only as part of an identifier of Python code
PARTS = {
    "ask|asks|asked": "query, prompt, run",
    "say|says|said|told|tell|tells": "text, message, format",
    "look|looks|looked|seeing": "encode_image, attention",
    "view|views": "modality",
    "spoken|speak|speaks": "text, audio, synthesized",
    "place|places": "position",
    "alone": "only",
    "truth|truths": "target, reference",
    "figures": "metrics",
    "most": "max",
    "drawn": "random, sampled",
    "plan|plans|planned": "estimate",
    "spelling": "characters",
    "house": "server state",
    "panel": "session",
    "rounds": "early-exit decoding, repeats",
    "what": "what it holds",
    "embedded": "toy, tiny",
}

# private phrases, in any text; spaces match line ends too
PHRASES = {
    "own words|own (kind|manner) of": "student-generated, on-policy",
    "roll-outs?": "rollout, student-generated",
    "(written|spoken|text|speech|both|two|either|audio|each|other|the|of a) views?": "modality",
    "(written|spoken) (questions?|query|queries|answers?|path|views?|ones?|responses?|prompts?)": "text, audio",
    "(written|spoken) (instructions?|sentences?|models?|accuracy)": "text, audio, synthesized",
    "in writing|questions? in speech": "text, audio",
    "embedded (worlds?|models?|vlm|llm|vision|speech|asr|data|recipes?|weights|ones?)": "toy world, tiny model",
    "(said|trained?|learns?|projector|stage 1|parts|tokens|characters|responses|encoder|ctc) alone": "only",
    "what is (said|heard|asked|seen|written|spoken)": "question tokens, audio, query",
    "goes on|go on|went on|gone on|going on": "resumes",
    "(stacked|drawn) (ears|form|voices?|accents?|ones)": "frame-stacking, random",
    "the paper's form": "paper baseline",
    "errors? of (seeing|hearing)": "text errors, audio-only errors",
    "speak(s|ing)? (the )?(questions?|shards?|benchmarks?|sentences?)|(are|is|was|were) spoken": "synthesize",
    "look(s|ed|ing)? (at|into) (the|an?|no) (image|scene|photo|photograph)s?": "attends to, encodes",
    "what it costs|the plan (has|says|of)": "estimate",
    "in rounds|the house": "early-exit decoding, server state",
    "letters? a token|(small|capital|lower-case|unknown|number of) letters": "characters",
    "(each|every|all|other|any) kinds? of (questions?|responses?)": "question type",
    "(questions?|responses?) of (each|every|all|any) kinds?": "question type",
}

# exact names of before, wherever they stand
NAMES = {
    "HeardTokens": "CTCProjector", "SpeechProjector": "StackProjector", "Heard": "AudioEmbeddings",
    "SelfKDLoss": "LossOutput", "Objective": "LossConfig", "Speaker": "TTSEngine", "GuardedSpeaker": "IsolatedEngine",
    "LocalSystem": "LocalBackend", "EndpointSystem": "EndpointBackend", "Asker": "OpenAIClient",
    "House": "ServerState", "Exchange": "ChatCompletionHandler", "Looks": "AttentionMaps", "Places": "TokenPositions",
    "SpeechRecognizer": "ASRModel", "OwnEars": "CTCTranscriber", "suited": "resolve_config",
    "let_train": "set_trainable", "speech_stack": "stack_factor", "speech_padded": "pad_to_window",
    "transcript_weight": "ctc_weight", "hidden_weight": "hidden_mse_weight", "alignment_weight": "soft_dtw_weight",
    "average_weights": "weight_averaging", "augment_speech": "spec_augment", "most_wer": "max_wer",
    "speech_config": "audio_config",
    "speech_tokens": "ctc_token_ids", "speech_inputs": "audio_inputs", "speech_ids": "audio_ids",
    "speech_mask": "audio_mask", "speech_token_id": "audio_token_id", "world-annotated": "world-noisy",
    "per_kind": "per_type", "n_per_kind": "n_per_type", "hearing_errors": "audio_errors",
    "--ears": "--projector", "--views": "--modalities", "--recognizer": "--asr_model", "--skeleton": "--model_config",
    "--verify": "--asr_filter", "--copies": "--local_datasets", "--on_policy": "--on_policy_fraction",
    "--speech_stack": "--stack_factor", "--voices drawn": "--voices random", "--voices unseen": "--voices heldout",
}  # fmt: skip


class Allowed(NamedTuple):
    files: str  # regular expression of paths
    text: str  # regular expression of what is allowed there
    reason: str


EXCEPTIONS = [
    Allowed(r".*", r"\.view\(|\.view_as\(|\bmemoryview\b", "methods of torch.Tensor"),
    Allowed(r".*", r"\.kind\b(?= (in|==|not in) \")|Parameter\.kind|kind=\"stable\"", "of numpy and of inspect"),
    Allowed(r".*", r"\bAnnotated\[|import .*\bAnnotated\b", "of typing"),
    Allowed(r"selfkd/vllm/models.py", r"get_image_size_with_most_features", "of vLLM"),
    Allowed(r".*", r"addEventListener|most_common|at_most|look(ed|s|ing)?_up|own_words/", "of the DOM and of Python"),
    Allowed(r".*", r"(?<=\.Random\()f?\"[^\"]*\"|(?<=_drawn\()f?\"[^\"]*\"", "seeds: other strings, other numbers"),
    Allowed(r".*", r"\bspoken_(text|form|instruction)\w*", "the spoken form of a text, as in text normalisation"),
    Allowed(r".*", r"(?i)\bI('m| am)? ?(cannot|can't|do(n't| not)|did(n't| not)|could(n't| not)) (hear|see)\b[^\"'\n]*",
            "a sentence of a model"),
    Allowed(r".*", r"listen(s|ing)? (on|at) (\w+ ){0,2}(port|address|host|interface|socket)\w*", "of a socket"),
    Allowed(r"selfkd/evaluation/refusals\.yaml", r"(?m)^(?!#).*$", "patterns of sentences of models"),
    Allowed(r"selfkd/evaluation/benchmarks/(yes_no_parsing|cue_words)\.py", r"\"[^\"\n]*\"|_SAYS_\w+|\bsays?\b",
            "patterns of sentences of models, which say yes or no"),
    Allowed(r"(selfkd|tests)/synthesis/(test_)?(text_normalization|pronounceable|english_words|shards)\.py",
            r"\b\w*([Ss]poken|SPOKEN)\w*|\bspells?\b", "the spoken form of a text; a word spelled out"),
    Allowed(r"(selfkd|tests)/synthesis/.*", r"\b\w*(plan|PLAN)\w*", "which shards a folder will have"),
    Allowed(r"(selfkd|tests)/report/.*", r"\bkind\b", "of a run directory: evaluate, distill, ..."),
    Allowed(r"(selfkd/toy_world|tests/toy_world)/.*", r"\"place\"|\b_place\b|\bPLACES\b",
            "a question type of the toy world, in data and scores"),
    Allowed(r"tests/.*", r"\b(data|eval|sec|train)_\d\d_\w+", "names of scripts that showed a fault"),
    Allowed(r".*", r"\.tell\(\)|places=\d", "of Python's files and of hypothesis"),
    Allowed(r"tests/(support/benchmark_datasets|evaluation/test_evaluate)\.py",
            r"\"question\": \"[^\"]*\"|[Ii]s a c\+\+ code shown in the picture\?|what is written in the image\?",
            "questions of public benchmarks"),
    Allowed(r"tests/evaluation/benchmarks/test_(answer|yes_no)_parsing\.py", r"(?m)\"[^\"\n]*\"|^.*\{\}.*$",
            "sentences of models"),
    Allowed(r"selfkd/evaluation/overlap\.py", r"(?m)\"[^\"\n]*\"|^ +[a-z ]+$",
            "words of questions, by which overlap is measured"),
    Allowed(r"(selfkd/model/backbones|tests/model/test_checkpoint)\.py", r"\"(speech_\w+|selfkd_recognizer)\"",
            "fields of checkpoints of before, which are refused"),
    Allowed(r"tests/evaluation/test_outcomes\.py", r"\"(kind|truth|reply)\"",
            "keys of samples of before, which are refused"),
    Allowed(r"(selfkd/synthesis/sources/caption_corpora|tests/fuzz/test_sources|tests/support/published_layouts"
            r"|experiments/narratives)\.py",
            r"\bannotator_id\b", "a field of Localized Narratives"),
    Allowed(r"selfkd/training/trainer\.py", r"f\"replies/", "a seed: other strings, other numbers"),
]  # fmt: skip
"""Text that may stand, by file; every one with its reason."""

_SPLIT = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
_NO_CODE = re.compile(r'"""(?:.|\n)*?"""|"(?:\\.|[^"\\\n])*"|' + r"'(?:\\.|[^'\\\n])*'|#[^\n]*")
_SPACE = re.compile(r"\s+(?:#\s*)?")  # of a comment over two lines, too


def _by_word(table: dict[str, str]) -> dict[str, str]:
    return {word: instead for words, instead in table.items() for word in words.split("|")}


_WORDS, _PARTS = _by_word(WORDS), _by_word(PARTS)
_PHRASE = {re.compile(rf"\b(?:{pattern})(?![\w-])"): instead for pattern, instead in PHRASES.items()}
_ANY_PHRASE = re.compile(rf"\b(?:{'|'.join(PHRASES)})(?![\w-])")
_NAME = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, NAMES))})(?![\w-])")
_ALLOWED = [(re.compile(allowed.files), re.compile(allowed.text)) for allowed in EXCEPTIONS]


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    names = [name for name in listed.stdout.splitlines() if Path(name).suffix in SUFFIXES or name in ALSO]
    names += [name for name in listed.stdout.splitlines() if re.match(r"(recipes|experiments)/.*\.json$", name)]
    return [name for name in names if name not in LEFT_OUT and (ROOT / name).is_file()]


def retired(name: str, text: str) -> Iterator[tuple[int, str, str]]:
    """(line, retired text, the field's word) of a file's text."""
    for files, allowed in _ALLOWED:
        if files.fullmatch(name):
            text = allowed.sub(lambda m: re.sub(r"\w", "0", m[0]), text)
    yield from _words(text, _WORDS)
    if name.endswith(".py"):
        yield from _words(_NO_CODE.sub(lambda m: "\n" * m[0].count("\n"), text), _PARTS)
    for found in _NAME.finditer(text):
        yield _line(text, found.start()), found[0], NAMES[found[0]]
    flat = _SPACE.sub(" ", text).lower()
    if _ANY_PHRASE.search(flat):
        for pattern, instead in _PHRASE.items():
            for phrase in sorted({m[0] for m in pattern.finditer(flat)}):
                anywhere = re.compile(r"(?i)\b" + r"\s+(?:#\s*)?".join(map(re.escape, phrase.split())))
                yield from ((_line(text, m.start()), phrase, instead) for m in anywhere.finditer(text))


def _words(text: str, table: dict[str, str]) -> Iterator[tuple[int, str, str]]:
    bad = {}
    for identifier in set(_IDENTIFIER.findall(text)):
        for part in _SPLIT.findall(identifier):
            if part.lower() in table:
                bad[identifier] = table[part.lower()]
    if bad:
        for found in re.finditer(rf"(?<!\w)(?:{'|'.join(bad)})(?!\w)", text):
            yield _line(text, found.start()), found[0], bad[found[0]]


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def text_of(name: str) -> str:
    text = (ROOT / name).read_text(encoding="utf-8")
    if not name.endswith(".ipynb"):
        return text
    return "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])


def test_tracked_text_has_no_retired_words():
    found = [
        f"{name}:{line}: {what!r}: {instead}"
        for name in tracked()
        for line, what, instead in sorted(set(retired(name, text_of(name))))
    ]
    assert not found, f"{len(found)} retired words:\n" + "\n".join(found)


def test_paths_have_no_retired_words():
    found = [
        f"{name}: {_WORDS[part.lower()]}"
        for name in tracked()
        for part in _SPLIT.findall(name)
        if part.lower() in _WORDS
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# the model's ears\n", ["ears"]),
        ("HEARD_BY = 1", ["HEARD_BY"]),
        ("def read_said(x): pass", ["read_said"]),
        ("# nobody said so, nor asked to look for the place\n", []),
        ("# what goes on\n", ["goes on"]),
        ("# the written\n# question\n", ["written question"]),
        ("# selfkd distill --ears tokens\n", ["ears", "--ears"]),
        ("x.view(2, 3)", []),
        ("# research, earn, shear, yearly, bear\n", []),
        ("# see SelfKDLoss\n", ["SelfKDLoss"]),
    ],
)
def test_retired_words_are_found(text, words):
    assert [what for _, what, _ in retired("a.py", text)] == words
