"""Whether a response affirms or denies: "Yeah", "It is not visible", "There is no doubt that there is one".

What answers by a word of its own (yes, nein, 没有) is read first; else the first sentence that affirms or denies, by
the number of its denials: an even one affirms. What doubts, or says that nothing can be seen or heard, is not read. A
statement without a denial affirms only where it says that something is there, or no more than "It is": "The dog is on
the right" may answer either way, and nobody knows the question here. It is read in English, with the commonest words
of Chinese, Spanish, French, German, Italian and Portuguese.
"""

import re
from collections.abc import Sequence

from selfkd.evaluation.benchmarks.cue_words import tokens_of

YES, NO = "yes", "no"
_MAX_WORDS = 30  # a response with more describes, where it has no word of its own for yes or no
_ENDS = set(".!?;\n。！？；")


def _phrases(words: str) -> dict[tuple[str, ...], int]:
    found = {tuple(t.word for t in tokens_of(phrase)): 0 for phrase in words.split("|")}
    return {phrase: len(phrase) for phrase in found}


_SAYS_YES = _phrases(
    "yes|yeah|yep|yup|yea|aye|affirmative|sí|sì|oui|ja|jawohl|doch|sim|是|是的|对|对的|没错|有|有的|はい|да"
)
_SAYS_NO = _phrases(
    "no|nope|nah|nay|negative|non|nein|não|nee|不|不是|不是的|没有|没|否|不对|无|いいえ|нет|not at all|not really"
    "|no way|absolutely not|definitely not|certainly not|of course not|in no way|pas du tout|en absoluto|keineswegs"
    "|überhaupt nicht|并没有|完全没有"
)
# a whole response, or a verdict on what was asked: "Correct." (but "Sure! Here is what I see")
_AGREES = _phrases(
    "correct|that is correct|right|that is right|true|that is true|exactly|indeed|absolutely|definitely|certainly"
    "|of course|sure|i think so|i believe so|it is so|correcto|cierto|claro|verdadero|exact|bien sûr|vrai|richtig"
    "|stimmt|genau|natürlich|正确|确实|当然"
)
_DISAGREES = _phrases(
    "incorrect|wrong|false|untrue|i do not think so|i do not believe so|i think not|falso|incorrecto|faux|falsch|错"
    "|错误|不正确"
)
_DENIES = _phrases(
    "not|no|never|none|there is nothing|nothing is|nobody is|no one|nowhere|neither|without|false|incorrect|untrue"
    "|wrong|absent|missing|lacks|lacking|devoid|doubt|doubtful|unlikely|fails to|nunca|ningún|ninguna|ninguno"
    "|ausente|pas|aucun|aucune|jamais|absente|nicht|kein|keine|keinen|keinem|keiner|keines|não|nenhum|nenhuma|nessun"
    "|nessuna|non|不|没|无|未|不是|没有|并非|假"
)
# words that agree with a denial before them in the same clause and deny nothing more: "no hay ningún perro"
_AGREEING = {("ningún",), ("ninguna",), ("ninguno",), ("nunca",), ("nenhum",), ("nenhuma",), ("nessun",), ("nessuna",),
             ("aucun",), ("aucune",), ("jamais",)}  # fmt: skip
# what has the form of a denial and is none
_SURE = _phrases(
    "no doubt|not doubt|without doubt|without a doubt|without any doubt|no question that|no question about"
    "|beyond question|not only|not just|no need|no wonder|undoubtedly|no hay duda|sin duda|sans doute"
    "|sans aucun doute|pas de doute|aucun doute|kein zweifel|keinen zweifel|ohne zweifel|zweifellos|sem dúvida"
    "|毫无疑问|没有疑问|无疑|there is no doubt|no problem|no worries|no reason to doubt"
)
# what cannot be told, and what was not there to be seen or heard
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
# "I can't judge", "It could not be verified": of a person who does not know, whatever the verb
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
_THERE = _phrases(
    "there is|there are|there was|there were|there appears to be|there seems to be|there does appear|there exists"
    "|there must be|i see|i can see|we see|we can see|you can see|is true|is correct|is accurate|is the case"
    "|is visible|are visible|is present|are present|is there|are there|can be seen|hay|se ve|il y a|on voit|je vois"
    "|es gibt|ich sehe|há|existe|c'è|ci sono|图中有|有一|有两|存在|可以看到|能看到"
)
_BARE = re.compile(
    r"(?:and |so |well )?(?:it|he|she|they|there|this|that|these|those|you|we)(?: really| certainly| indeed)? "
    r"(?:is|are|was|were|does|do|did|has|have|can|will|would)(?: indeed| so| one| too| here)?\Z"
)
_DECLARES = _phrases(
    "answer is|answer|answers|final answer|respuesta|respuesta es|réponse|réponse est|antwort|antwort ist|答案是|答案"
)
_TURNS = _phrases("wait|actually|correction|on second thought|scratch that|i mean|i meant")
_CLAUSE = _phrases(",|but|because|since|although|however|and|pero|mais|aber|但|，")
# after "no" these say that it was an answer: "No it isn't", "No: ..."
_GOES_ON = set(",:/") | set(re.findall(r"\w+", "it there i he she they we you this that these those the a an"))
_TABLES = (_SAYS_YES, _SAYS_NO, _DENIES, _SURE, _UNSURE, _THERE, _DECLARES, _TURNS, _CLAUSE, _AGREES, _DISAGREES)
_LONGEST = max(len(phrase) for table in _TABLES for phrase in table)


def affirms(response: str) -> bool | None:
    """True where the response affirms, False where it denies, None where it does neither or both."""
    sentences = _sentences(response)
    turned = [at for at, words in enumerate(sentences) if any(_at(words, i, _TURNS) for i in range(len(words)))]
    if turned:  # what was taken back before does not count, where what comes after can be read
        last = sentences[turned[-1]]
        place = max(i + _at(last, i, _TURNS) for i in range(len(last)) if _at(last, i, _TURNS))
        after = _read([last[place:], *sentences[turned[-1] + 1 :]])
        if after is not None:
            return after
    return _read(sentences)


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


def _at(words: Sequence[str], at: int, known: dict[tuple[str, ...], int]) -> int:
    """How many words the longest known phrase at this place has; 0 where there is none."""
    return next((n for n in range(min(_LONGEST, len(words) - at), 0, -1) if tuple(words[at : at + n]) in known), 0)


def _read(sentences: Sequence[Sequence[str]]) -> bool | None:
    sentences = [words[1:] if words[:1] in ([","], [":"]) else words for words in sentences]
    sentences = [words for words in sentences if words]
    if not sentences:
        return None
    own = [_own_word(words) for words in sentences]
    declared = [said for words in sentences if (said := _declared(words)) is not None]
    if declared:
        return declared[-1]
    if own[0] is not None or _is_both(sentences[0]):
        return own[0]
    whole = tuple(word for words in sentences for word in words)
    if whole in _AGREES or whole in _DISAGREES or tuple(sentences[0]) in _DISAGREES:
        return whole in _AGREES
    answers = {word for words in sentences if not _is_unsure(words) for word in _answers(words)}
    if answers:
        return YES in answers if len(answers) == 1 else None
    if sum(map(len, sentences)) > _MAX_WORDS:
        return None
    return next((stated for words in sentences if (stated := _stated(words)) is not None), None)


def _own_word(words: Sequence[str]) -> bool | None:
    """Of a sentence that begins with yes or no, and not with "No doubt", "No idea" or "Yes or no"."""
    if _is_both(words) or _at(words, 0, _SURE) or _at(words, 0, _UNSURE):
        return None
    yes, no = _at(words, 0, _SAYS_YES), _at(words, 0, _SAYS_NO)
    if not yes and not no:
        return None
    # "No it isn't" is an answer; "no dog" is not, but what follows says that there is none
    if yes == no or len(words) == max(yes, no) or words[max(yes, no)] in _GOES_ON:
        return yes > no
    # "No dog is there" and "没有狗" deny, "不是没有狗" does so twice
    clause = _clauses(words)[0]
    return _parity(clause) if no > yes or _denials(clause) else True


def _is_both(words: Sequence[str]) -> bool:
    """ "Yes/no", "oui ou non" """
    first = max(_at(words, 0, _SAYS_YES), _at(words, 0, _SAYS_NO))
    if not first or len(words) < first + 2 or words[first] not in ("/", "or", "and", "o", "ou", "oder", "或"):
        return False
    second = max(_at(words, first + 1, _SAYS_YES), _at(words, first + 1, _SAYS_NO))
    return bool(second) and bool(_at(words, 0, _SAYS_YES)) != bool(_at(words, first + 1, _SAYS_YES))


def _declared(words: Sequence[str]) -> bool | None:
    """ "The answer is no", "Answer: yes" """
    for at in range(len(words)):
        after = at + _at(words, at, _DECLARES)
        if after > at:
            after += after < len(words) and words[after] in (":", "is")
            rest = words[after:]
            if rest and not _is_both(rest) and (_at(rest, 0, _SAYS_YES) or _at(rest, 0, _SAYS_NO)):
                return _at(rest, 0, _SAYS_YES) > _at(rest, 0, _SAYS_NO)
    return None


def _answers(words: Sequence[str]) -> list[str]:
    """The words yes and no in a sentence where they are answers: "I would say yes", but not "no dog"."""
    found = []
    for at in range(len(words)):
        ends = at + 1 == len(words) or words[at + 1] in (",", "/", "or", "and")
        if words[at] in ("yes", "sí", "oui", "yeah"):
            found.append(YES)
        elif words[at] in ("no", "nein", "nope") and ends and at and not _at(words, at, _SURE):
            found.append(NO)
    return found


def _is_unsure(words: Sequence[str]) -> bool:
    return any(_at(words, at, _UNSURE) and not _at(words, at, _SURE) for at in range(len(words)))


def _stated(words: Sequence[str]) -> bool | None:
    """By the denials of the sentence's first clause that says anything; None where clauses after it deny what it "
    "affirms."""
    if _is_unsure(words):
        return None
    clauses = [stated for clause in _clauses(words) if (stated := _clause(clause)) is not None]
    return None if not clauses or (clauses[0] and not all(clauses)) else clauses[0]


def _clause(clause: Sequence[str]) -> bool | None:
    if _denials(clause):
        return _parity(clause)
    sure = any(_at(clause, at, _SURE) for at in range(len(clause)))
    there = any(_at(clause, at, _THERE) for at in range(len(clause)))
    return True if there or sure or _BARE.match(" ".join(clause)) or tuple(clause) in _AGREES else None


def _clauses(words: Sequence[str]) -> list[list[str]]:
    clauses: list[list[str]] = [[]]
    for at, word in enumerate(words):
        if _at(words, at, _CLAUSE):
            clauses.append([])
        else:
            clauses[-1].append(word)
    return [clause for clause in clauses if clause] or [[]]


def _denials(clause: Sequence[str]) -> int:
    count = at = 0
    while at < len(clause):
        sure, denies = _at(clause, at, _SURE), _at(clause, at, _DENIES)
        if denies and not sure and not (count and tuple(clause[at : at + denies]) in _AGREEING):
            count += 1
        at += max(sure, denies, 1)
    return count


def _parity(clause: Sequence[str]) -> bool:
    return _denials(clause) % 2 == 0
