"""Whether a response affirms or denies: "Yeah", "It is not visible", "There is no doubt that there is one".

Explicit answers (yes, nein, 没有) come first; else the first sentence that affirms or denies decides, by its number of
denials: an even number affirms. Doubts, and statements that image or audio are missing, give no answer. A statement
without a denial affirms only where it says that something exists, or is as short as "It is": "The dog is on the right"
may answer either way, and the question is not known here. The parser knows English, and the most common words of
Chinese, Spanish, French, German, Italian and Portuguese.
"""

import re
from collections.abc import Sequence

from selfkd.evaluation.benchmarks.cue_words import tokens_of

YES, NO = "yes", "no"
_MAX_WORDS = 30  # a longer response without an explicit answer is a description
_ENDS = set(".!?;\n。！？；")


def _phrases(phrases: str) -> frozenset[tuple[str, ...]]:
    return frozenset(tuple(t.word for t in tokens_of(phrase)) for phrase in phrases.split("|"))


_YES_PHRASES = _phrases(
    "yes|yeah|yep|yup|yea|aye|affirmative|sí|sì|oui|ja|jawohl|doch|sim|是|是的|对|对的|没错|有|有的|はい|да"
)
_NO_PHRASES = _phrases(
    "no|nope|nah|nay|negative|non|nein|não|nee|不|不是|不是的|没有|没|否|不对|无|いいえ|нет|not at all|not really"
    "|no way|absolutely not|definitely not|certainly not|of course not|in no way|pas du tout|en absoluto|keineswegs"
    "|überhaupt nicht|并没有|完全没有"
)
# a whole response, or a verdict on the question: "Correct." (but not "Sure! Here is what I see")
_AGREEMENTS = _phrases(
    "correct|that is correct|right|that is right|true|that is true|exactly|indeed|absolutely|definitely|certainly"
    "|of course|sure|i think so|i believe so|it is so|correcto|cierto|claro|verdadero|exact|bien sûr|vrai|richtig"
    "|stimmt|genau|natürlich|正确|确实|当然"
)
_DISAGREEMENTS = _phrases(
    "incorrect|wrong|false|untrue|i do not think so|i do not believe so|i think not|falso|incorrecto|faux|falsch|错"
    "|错误|不正确"
)
_DENIALS = _phrases(
    "not|no|never|none|there is nothing|nothing is|nobody is|no one|nowhere|neither|without|false|incorrect|untrue"
    "|wrong|absent|missing|lacks|lacking|devoid|doubt|doubtful|unlikely|fails to|nunca|ningún|ninguna|ninguno"
    "|ausente|pas|aucun|aucune|jamais|absente|nicht|kein|keine|keinen|keinem|keiner|keines|não|nenhum|nenhuma|nessun"
    "|nessuna|non|不|没|无|未|不是|没有|并非|假"
)
# words that repeat a denial before them in the same clause (double negation): "no hay ningún perro"
_REPEATED_DENIALS = _phrases("ningún|ninguna|ninguno|nunca|nenhum|nenhuma|nessun|nessuna|aucun|aucune|jamais")
# phrases that look like a denial and are none
_PSEUDO_DENIALS = _phrases(
    "no doubt|not doubt|without doubt|without a doubt|without any doubt|no question that|no question about"
    "|beyond question|not only|not just|no need|no wonder|undoubtedly|no hay duda|sin duda|sans doute"
    "|sans aucun doute|pas de doute|aucun doute|kein zweifel|keinen zweifel|ohne zweifel|zweifellos|sem dúvida"
    "|毫无疑问|没有疑问|无疑|there is no doubt|no problem|no worries|no reason to doubt"
)
# doubts, and a missing image or audio
_UNSURE = _phrases(
    "maybe|perhaps|possibly|may|might|could be|could not tell|unclear|uncertain|unsure|not sure|not certain"
    "|not clear|not know|not tell|not determine|can not say|could not say|not say for|not say whether|not help"
    "|not confirm|not possible to|not able|unable|no way to|no idea|no information|no context|no access|no means"
    "|no audio|no sound|no image|no question in|no question here|no question was|no question is|no recording"
    "|no attachment|no file|hard to|difficult to|impossible to|depends|as an ai|not answer|not hear|not listen"
    "|not process|not see the image|not see the picture|not see an image|not see any image|not see images|not view"
    "|not access|not understand|not enough|not provided|not been provided|not attached|not receive|yes or no"
    "|yes and no|no or yes|either way|no se puede|no puedo|no es posible|ne peux pas|ne peut pas|nicht sagen"
    "|kann nicht|nicht erkennen|não posso|non posso|quizás|tal vez|puede que|no sé|no estoy seguro|peut-être"
    "|je ne sais pas|pas sûr|vielleicht|weiß nicht|nicht sicher|talvez|não sei|forse|可能|也许|不确定|不知道|无法"
    "|不能确定|看不到图|听不到|没有图片|没有音频|没有声音|没有收到"
)
# "I can't judge", "It could not be verified": no knowledge, for all these verbs
_UNSURE |= _phrases(
    "|".join(
        f"{modal} not {verb}|{modal} not be {done}|{modal} not really {verb}"
        for modal in ("can", "could")
        for verb, done in (
            ("say", "said"), ("tell", "told"), ("determine", "determined"), ("judge", "judged"), ("decide", "decided"),
            ("verify", "verified"), ("conclude", "concluded"), ("establish", "established"), ("answer", "answered"),
            ("be certain", "certain"), ("be sure", "sure"), ("know", "known"), ("assess", "assessed"),
        )
    )
    + "|not show whether|not show if|not say whether|not say if|not specify|not specified|not indicate whether"
)  # fmt: skip
_EXISTENCE = _phrases(
    "there is|there are|there was|there were|there appears to be|there seems to be|there does appear|there exists"
    "|there must be|i see|i can see|we see|we can see|you can see|is true|is correct|is accurate|is the case"
    "|is visible|are visible|is present|are present|is there|are there|can be seen|hay|se ve|il y a|on voit|je vois"
    "|es gibt|ich sehe|há|existe|c'è|ci sono|图中有|有一|有两|存在|可以看到|能看到"
)
_SHORT_STATEMENT = re.compile(
    r"(?:and |so |well )?(?:it|he|she|they|there|this|that|these|those|you|we)(?: really| certainly| indeed)? "
    r"(?:is|are|was|were|does|do|did|has|have|can|will|would)(?: indeed| so| one| too| here)?\Z"
)
_DECLARATIONS = _phrases(
    "answer is|answer|answers|final answer|respuesta|respuesta es|réponse|réponse est|antwort|antwort ist|答案是|答案"
)
_CORRECTIONS = _phrases("wait|actually|correction|on second thought|scratch that|i mean|i meant")
_CLAUSE_STARTS = _phrases(",|but|because|since|although|however|and|pero|mais|aber|但|，")
# after "no" these show that it is an answer: "No it isn't", "No: ..."
_ANSWER_CONTINUATIONS = set(",:/") | set(
    re.findall(r"\w+", "it there i he she they we you this that these those the a an")
)
_TABLES = (
    _YES_PHRASES,
    _NO_PHRASES,
    _DENIALS,
    _PSEUDO_DENIALS,
    _UNSURE,
    _EXISTENCE,
    _DECLARATIONS,
    _CORRECTIONS,
    _CLAUSE_STARTS,
    _AGREEMENTS,
    _DISAGREEMENTS,
)
_MAX_LENGTH = max(len(phrase) for table in _TABLES for phrase in table)


def affirms(response: str) -> bool | None:
    """True where the response affirms, False where it denies, None where it does neither or both."""
    sentences = _sentences(response)
    corrected = [
        at
        for at, words in enumerate(sentences)
        if any(_match_length(words, i, _CORRECTIONS) for i in range(len(words)))
    ]
    if corrected:  # the part after the last correction counts, if it can be parsed
        last = sentences[corrected[-1]]
        start = max(
            i + _match_length(last, i, _CORRECTIONS) for i in range(len(last)) if _match_length(last, i, _CORRECTIONS)
        )
        after = _parse([last[start:], *sentences[corrected[-1] + 1 :]])
        if after is not None:
            return after
    return _parse(sentences)


def _sentences(response: str) -> list[list[str]]:
    plain = re.sub(r"\b(can)(?:not|['’]t)\b", r"\1 not", response, flags=re.I)
    plain = re.sub(r"n['’]t\b", " not", plain, flags=re.I)
    plain = re.sub(r"['’](s|re)\b", lambda m: " is" if m[1] == "s" else " are", plain)
    sentences: list[list[str]] = [[]]
    for token in tokens_of(plain):
        if token.word in _ENDS:
            sentences.append([])
        elif token.word[0].isalnum() or token.word in (",", "/", ":"):
            sentences[-1].append(
                {"dont": "not", "isnt": "not", "doesnt": "not", "cant": "not"}.get(token.word, token.word)
            )
    return [words for words in sentences if words]


def _match_length(words: Sequence[str], at: int, known: frozenset[tuple[str, ...]]) -> int:
    """The number of words of the longest known phrase at this position; 0 where there is none."""
    return next((n for n in range(min(_MAX_LENGTH, len(words) - at), 0, -1) if tuple(words[at : at + n]) in known), 0)


def _parse(sentences: Sequence[Sequence[str]]) -> bool | None:
    sentences = [words[1:] if words[:1] in ([","], [":"]) else words for words in sentences]
    sentences = [words for words in sentences if words]
    if not sentences:
        return None
    explicit = [_explicit_answer(words) for words in sentences]
    declared = [answer for words in sentences if (answer := _declared_answer(words)) is not None]
    if declared:
        return declared[-1]
    if explicit[0] is not None or _is_yes_and_no(sentences[0]):
        return explicit[0]
    whole = tuple(word for words in sentences for word in words)
    if whole in _AGREEMENTS or whole in _DISAGREEMENTS or tuple(sentences[0]) in _DISAGREEMENTS:
        return whole in _AGREEMENTS
    answers = {word for words in sentences if not _is_unsure(words) for word in _answer_words(words)}
    if answers:
        return YES in answers if len(answers) == 1 else None
    if sum(map(len, sentences)) > _MAX_WORDS:
        return None
    return next((stated for words in sentences if (stated := _statement(words)) is not None), None)


def _explicit_answer(words: Sequence[str]) -> bool | None:
    """The answer of a sentence that starts with yes or no, but not with "No doubt", "No idea" or "Yes or no"."""
    if _is_yes_and_no(words) or _match_length(words, 0, _PSEUDO_DENIALS) or _match_length(words, 0, _UNSURE):
        return None
    yes, no = _match_length(words, 0, _YES_PHRASES), _match_length(words, 0, _NO_PHRASES)
    if not yes and not no:
        return None
    # "No it isn't" is an answer; "no dog" is not, but may be part of a denial
    if yes == no or len(words) == max(yes, no) or words[max(yes, no)] in _ANSWER_CONTINUATIONS:
        return yes > no
    # "No dog is there" and "没有狗" deny, "不是没有狗" does so twice
    clause = _clauses(words)[0]
    return _is_affirmed(clause) if no > yes or _count_denials(clause) else True


def _is_yes_and_no(words: Sequence[str]) -> bool:
    """ "Yes/no", "oui ou non" """
    first = max(_match_length(words, 0, _YES_PHRASES), _match_length(words, 0, _NO_PHRASES))
    if not first or len(words) < first + 2 or words[first] not in ("/", "or", "and", "o", "ou", "oder", "或"):
        return False
    second = max(_match_length(words, first + 1, _YES_PHRASES), _match_length(words, first + 1, _NO_PHRASES))
    return bool(second) and bool(_match_length(words, 0, _YES_PHRASES)) != bool(
        _match_length(words, first + 1, _YES_PHRASES)
    )


def _declared_answer(words: Sequence[str]) -> bool | None:
    """ "The answer is no", "Answer: yes" """
    for at in range(len(words)):
        after = at + _match_length(words, at, _DECLARATIONS)
        if after > at:
            after += after < len(words) and words[after] in (":", "is")
            rest = words[after : after + 2 * _MAX_LENGTH + 2]  # as many as are compared
            if (
                rest
                and not _is_yes_and_no(rest)
                and (_match_length(rest, 0, _YES_PHRASES) or _match_length(rest, 0, _NO_PHRASES))
            ):
                return _match_length(rest, 0, _YES_PHRASES) > _match_length(rest, 0, _NO_PHRASES)
    return None


def _answer_words(words: Sequence[str]) -> list[str]:
    """The words yes and no in a sentence where they are answers: "I would say yes", but not "no dog"."""
    found = []
    for at in range(len(words)):
        ends = at + 1 == len(words) or words[at + 1] in (",", "/", "or", "and")
        if words[at] in ("yes", "sí", "oui", "yeah"):
            found.append(YES)
        elif words[at] in ("no", "nein", "nope") and ends and at and not _match_length(words, at, _PSEUDO_DENIALS):
            found.append(NO)
    return found


def _is_unsure(words: Sequence[str]) -> bool:
    return any(
        _match_length(words, at, _UNSURE) and not _match_length(words, at, _PSEUDO_DENIALS) for at in range(len(words))
    )


def _statement(words: Sequence[str]) -> bool | None:
    """The verdict of the first clause that has one; None where a later clause denies what it affirms."""
    if _is_unsure(words):
        return None
    clauses = [stated for clause in _clauses(words) if (stated := _clause_verdict(clause)) is not None]
    return None if not clauses or (clauses[0] and not all(clauses)) else clauses[0]


def _clause_verdict(clause: Sequence[str]) -> bool | None:
    if _count_denials(clause):
        return _is_affirmed(clause)
    sure = any(_match_length(clause, at, _PSEUDO_DENIALS) for at in range(len(clause)))
    there = any(_match_length(clause, at, _EXISTENCE) for at in range(len(clause)))
    return True if there or sure or _SHORT_STATEMENT.match(" ".join(clause)) or tuple(clause) in _AGREEMENTS else None


def _clauses(words: Sequence[str]) -> list[list[str]]:
    clauses: list[list[str]] = [[]]
    for at, word in enumerate(words):
        if _match_length(words, at, _CLAUSE_STARTS):
            clauses.append([])
        else:
            clauses[-1].append(word)
    return [clause for clause in clauses if clause] or [[]]


def _count_denials(clause: Sequence[str]) -> int:
    count = at = 0
    while at < len(clause):
        sure, denies = _match_length(clause, at, _PSEUDO_DENIALS), _match_length(clause, at, _DENIALS)
        if denies and not sure and not (count and tuple(clause[at : at + denies]) in _REPEATED_DENIALS):
            count += 1
        at += max(sure, denies, 1)
    return count


def _is_affirmed(clause: Sequence[str]) -> bool:
    return _count_denials(clause) % 2 == 0
