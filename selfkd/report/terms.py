"""The terms of the page and what each means: a list at its end, to which the terms in sentences and column heads refer.

`mark_terms` makes the first of each term in a text focusable and describes it by its entry, so that the meaning is
shown on hover, keyboard focus and tap, and read by screen readers.
"""

import re
from html import escape

from markupsafe import Markup

TERMS = {
    "text query": "The question as text, next to the image.",
    "audio query": "The same question as audio, next to the same image.",
    "score": "The mean score of the responses, from 0 to 100%: where a response is right or wrong, the share that is "
    "right. A response that cannot be read counts as wrong.",
    "gap": "The score with text queries minus the score with audio queries, on the same questions about the same "
    "images.",
    "point": "A hundredth of the full score: from 65.2% to 97.0% are 31.8 points.",
    "share closed": "How much of the gap that the first model leaves another model takes away: (its score − the first "
    "model's) / (text score − the first model's), all on the same questions. 100% is as good as text.",
    "95% interval": "The range in which the true value is expected to lie, as other images and questions of this kind "
    "would show it. Where it excludes zero the difference is called clear.",
    "clear": "The 95% interval excludes zero: chance alone would rarely give such a difference.",
    "cascade": "The usual way around the problem: an ASR model transcribes the audio, and the model answers the "
    "transcript as a text query.",
    "ASR model": "Automatic speech recognition: a model that transcribes audio.",
    "word error rate": "Of an ASR model's transcript: substituted, deleted and inserted words over the words of the "
    "question. 0% is a transcript without an error.",
    "transcript": "What an ASR model makes of a clip.",
    "chance": "The score of the best constant answer to each question type: what can be had without image and "
    "question.",
    "too few images": "Fewer than ten images (or other groups of questions that belong together): no verdict.",
    "standard error": "How far the score is expected to lie from the true one; the 95% interval is about twice as far.",
    "McNemar p": "How often a difference as large as this would arise if both modalities were equally good, by the "
    "questions that only one of them gets right.",
    "parsed": "The share of responses in which an answer was found.",
    "truncated": "Responses that reached the limit of tokens.",
    "SFT": "Supervised fine-tuning: trained on reference responses.",
    "Self-KD": "Self-distillation: the model's own responses to text queries are the teacher of its responses to audio "
    "queries.",
    "CTC projector": "Turns speech into one token embedding for each token that it recognizes; trained on transcripts "
    "only.",
    "alpha": "The weight of self-distillation in the loss; 0 is SFT.",
    "KL": "Kullback-Leibler divergence: how far the model's predictions for audio are from those for text; 0 is the "
    "same.",
    "seed": "The number from which a training's random choices follow.",
}

_FORMS = {  # other forms of a term, in sentences and column heads
    "text queries": "text query", "audio queries": "audio query", "scores": "score", "points": "point",
    "closes": "share closed", "gap closed": "share closed", "at chance": "chance", "accuracy": "score",
    "WER": "word error rate", "mean WER": "word error rate", "word error rates": "word error rate",
    "transcripts": "transcript", "exact transcripts": "transcript", "std. error": "standard error",
    "KL, nats per token": "KL",
}  # fmt: skip
_TERM_OF = {term.lower(): term for term in TERMS} | {form.lower(): term for form, term in _FORMS.items()}
_ANY = re.compile(
    rf"(?<![\w-])(?:{'|'.join(re.escape(form) for form in sorted(_TERM_OF, key=len, reverse=True))})(?![\w-])", re.I
)


def term_id(term: str) -> str:
    return f"term-{re.sub(r'[^a-z0-9]+', '-', term.lower())}"


def term_of(column: str) -> str:
    """The term that a column head is, or ""."""
    return _TERM_OF.get(column.lower(), "")


def mark_terms(text: str, marked: list[str] | None = None) -> Markup:
    """HTML of a plain text in which the first of each term refers to its entry; not of those in `marked`, to which it
    adds its own: one list for the sentences of a paragraph."""
    parts, at, marked = [], 0, [] if marked is None else marked
    for found in _ANY.finditer(text):
        term = _TERM_OF[found[0].lower()]
        if term in marked:
            continue
        marked.append(term)
        about = f'class="term" tabindex="0" data-term="{term_id(term)}" aria-describedby="{term_id(term)}"'
        parts += [escape(text[at : found.start()]), f"<dfn {about}>{escape(found[0])}</dfn>"]
        at = found.end()
    return Markup("".join([*parts, escape(text[at:])]))  # noqa: S704  # nosec B704 texts are escaped above
