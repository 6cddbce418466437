"""Whether a reply is about what was asked, from the words alone: free, quick, for English, and no judge of truth."""

import re


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


# said in any question, about any picture
STOP_WORDS = frozenset(
    words("""
    a about all also am an and any are as at be been being but by can could did do does doing for from had has have he
    her here him his how i if image in into is it its just many may me might much must my no not of on one or our out
    photo picture please s see she should show shown shows so some t tell than that the their them then there these
    they this those to too up us very was we were what when where which who whom whose why will with would yes you your
    """)
)
COLOR_WORDS = frozenset(
    words("""
    beige black blue brown cyan gold golden gray green grey orange pink purple red silver tan violet white yellow
    """)
)
NUMBER_WORDS = frozenset(
    words("zero none no one two three four five six seven eight nine ten eleven twelve several many dozen")
)
PLACE_WORDS = frozenset(
    words("""
    above at behind below beside between bottom center centre corner front in inside left middle near next on right
    top under
    """)
)
_YES_NO = re.compile(r"\W*(is|are|was|were|am|do|does|did|can|could|has|have|had|will|would|should)\b", re.IGNORECASE)
_FORMS = (
    (re.compile(r"\bhow many\b|\bnumber of\b", re.IGNORECASE), NUMBER_WORDS),
    (re.compile(r"\bcolou?rs?\b", re.IGNORECASE), COLOR_WORDS),
    (re.compile(r"\bwhere\b|\bwhich side\b", re.IGNORECASE), PLACE_WORDS),
)
_DENIAL = re.compile(r"\b(sorry|cannot|can't|can not|unable to|as an ai|don't know)\b", re.IGNORECASE)


def overlap(question: str, prediction: str) -> float:
    """From 0 (about something else) to 1 (about what was asked), right or wrong.

    The first of these that applies:

    1. 0 for a reply without words, for the question said back word by word, and for a refusal;
    2. 1 for a reply in the form that was asked for: yes or no first to a yes/no question, else a number to "how many",
       a colour to "colour", a word of place to "where"; a short right answer repeats no word of its question;
    3. the share of the question's different content words (all but `STOP_WORDS`, as they are written) in the reply;
       0 where the question has none.

    Of 26 replies that the author of this measure labelled (judge_labels.jsonl), 0.5 or more agrees with 20
    (kappa 0.54): it is a first look, not a verdict.
    """
    asked, said = words(question), words(prediction)
    if not said or said == asked or _DENIAL.search(prediction.replace("’", "'")):
        return 0.0
    if _YES_NO.match(question):
        if said[0] in ("yes", "no"):
            return 1.0
    else:
        for form, answers in _FORMS:
            if form.search(question):
                digits = answers is NUMBER_WORDS and any(w.isdigit() for w in said)
                if digits or answers & set(said):
                    return 1.0
                break
    content = set(asked) - STOP_WORDS
    return len(content & set(said)) / len(content) if content else 0.0
