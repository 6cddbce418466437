"""Whether a response is on topic, by word overlap: free, fast, for English, and blind to correctness."""

import re


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


# in any question, about any image
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
POSITION_WORDS = frozenset(
    words("""
    above at behind below beside between bottom center centre corner front in inside left middle near next on right
    top under
    """)
)
_YES_NO = re.compile(r"\W*(is|are|was|were|am|do|does|did|can|could|has|have|had|will|would|should)\b", re.IGNORECASE)
_FORMS = (
    (re.compile(r"\bhow many\b|\bnumber of\b", re.IGNORECASE), NUMBER_WORDS),
    (re.compile(r"\bcolou?rs?\b", re.IGNORECASE), COLOR_WORDS),
    (re.compile(r"\bwhere\b|\bwhich side\b", re.IGNORECASE), POSITION_WORDS),
)
_DENIAL = re.compile(r"\b(sorry|cannot|can't|can not|unable to|as an ai|don't know)\b", re.IGNORECASE)


def overlap(question: str, prediction: str) -> float:
    """From 0 (off topic) to 1 (on topic), whether correct or wrong.

    The first rule that applies:

    1. 0 for a response without words, for the question repeated word by word, and for a refusal;
    2. 1 for a response in the form that the question wants: yes or no first to a yes/no question, else a number to "how
       many", a color to "color", a word of place to "where"; a short correct answer repeats no word of its question;
    3. the share of the question's distinct content words (all but `STOP_WORDS`, unstemmed) that are in the response; 0
       where the question has none.

    At a threshold of 0.5 it agrees with 20 of 26 responses that the author of this measure labelled
    (judge_labels.jsonl; kappa 0.54): an indication, not a verdict.
    """
    question_words, answer = words(question), words(prediction)
    if not answer or answer == question_words or _DENIAL.search(prediction.replace("’", "'")):
        return 0.0
    if _YES_NO.match(question):
        if answer[0] in ("yes", "no"):
            return 1.0
    else:
        for form, answers in _FORMS:
            if form.search(question):
                digits = answers is NUMBER_WORDS and any(w.isdigit() for w in answer)
                if digits or answers & set(answer):
                    return 1.0
                break
    content = set(question_words) - STOP_WORDS
    return len(content & set(answer)) / len(content) if content else 0.0
