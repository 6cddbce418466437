"""Whether ears that hear tokens can hear what is said: what is none of their tokens is left out of every transcript,
and of what they learn."""

from collections import Counter
from collections.abc import Collection, Iterable

from selfkd.data.folder import ExampleFolder
from selfkd.errors import InputError
from selfkd.model.processor import OmniProcessor

MOST_UNHEARD = 0.1  # share of the tokens of what is said; a rare word may be missing, a language may not


def check_audible(
    folders: Iterable[ExampleFolder], speech_tokens: Collection[int], processor: OmniProcessor, remedy: str
) -> None:
    """Raises InputError, which ends in `remedy`, for a folder of which ears that hear these tokens would miss a
    tenth."""
    heard = set(speech_tokens)
    for folder in folders:
        counts: Counter[int] = Counter()
        for row in folder.columns("question"):
            counts.update(processor.text_ids(row["question"]))
        missing = Counter({token_id: n for token_id, n in counts.items() if token_id not in heard})
        if missing.total() > MOST_UNHEARD * counts.total():
            words = ", ".join(repr(processor.tokenizer.decode(token_id)) for token_id, _ in missing.most_common(3))
            raise InputError(
                f"data: {folder.folder}: {missing.total() / counts.total():.0%} of the tokens that are said ({words}, "
                f"...) are none of the {len(heard)} that these ears hear; {remedy}"
            )
