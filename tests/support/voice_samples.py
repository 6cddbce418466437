"""Samples of an evaluation by several speakers, for tests of scores by voice."""


def sample(name, score, voice="", group="", image="x", error=""):
    return {
        "id": name, "score": None if error else score, "correct": None if error else score >= 0.5, "voice": voice,
        "group": group or name, "image": image, "question": "What?", "error": error, "question_type": "words",
        "target": name.partition("-")[0], "parsed": "red", "word_error_rate": None, "seconds": 0.1,
        "log_likelihoods": [],
        "outcome": "answer", "source": "mine", "category": "", "details": {}, "prediction": "red",
    }  # fmt: skip


def samples_of(scores, voice, groups=None):
    """Audio samples of a speaker, about images 0, 1, ..."""
    groups = groups or [f"image-{i}" for i in range(len(scores))]
    return [sample(f"{i}-{voice}", s, voice, groups[i]) for i, s in enumerate(scores)]


def speakers(errors=()):
    """(text, audio) of two speakers who ask the same ten questions."""
    right = {"anna": [1.0] * 9 + [0.0], "ben": [1.0] * 4 + [0.0] * 6}
    audio = [s for speaker, scores in right.items() for s in samples_of(scores, speaker)]
    text = [sample(s["id"], 1.0, "", s["group"]) for s in audio]
    return text, [s | {"error": "failed", "score": None, "correct": None} if s["id"] in errors else s for s in audio]
