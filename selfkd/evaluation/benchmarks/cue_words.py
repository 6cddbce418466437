"""Words that choose, reject or doubt, in English, Chinese, Spanish, French and German, and some in Italian and
Portuguese; and the tokenization of a response.

Each phrase is listed once, under its role. `cue_at` finds the longest phrase at a position. Phrases are compared word
by word, not as patterns, so that the time is linear in the length of a response."""

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_TOKEN = re.compile(rf"[{_CJK}]|(?:(?![{_CJK}])[^\W_])+(?:['’](?=[^\W\d_]))?|\n|[^\s\w]|_")
_LATEX = re.compile(r"\\(?:text|math|left|right|quad|displaystyle|[()\[\],;!])[a-z]*")
_BOXED = re.compile(r"\\boxed\b")


class Token(NamedTuple):
    text: str  # unchanged
    word: str  # in lower case
    start: int
    end: int


def tokens_of(response: str) -> list[Token]:
    """Words, punctuation and line ends; each character of a script without spaces is a token. Full-width and other
    forms of a character are normalized, LaTeX style commands are left out."""
    text = unicodedata.normalize("NFKC", response.replace("´", "'"))
    text = _BOXED.sub(" boxed ", _LATEX.sub(" ", text))
    return [Token(m[0], m[0].replace("’", "'").lower(), m.start(), m.end()) for m in _TOKEN.finditer(text)]


def is_cjk(word: str) -> bool:
    return bool(re.match(f"[{_CJK}]", word))


_CUES = {
    # denials before their object: "not A", "neither A nor B", "I doubt it is A"
    "not": "not|never|neither|nor|none of|nothing|cannot|can not|don't|doesn't|didn't|isn't|aren't|wasn't|weren't"
    "|won't|wouldn't|can't|couldn't|shouldn't|hasn't|haven't|ain't|doubt|doubtful|unlikely|disagree|anything but"
    "|hardly|far from|dont|doesnt|isnt|cant|不|没有|没|不是|并非|非|不能|不选|不会|不可能|无法|别选|两者都不|ni"
    "|nunca|tampoco|jamás|no es|no son|no creo que|no sea|pas|n'est pas|ne sont pas|n'est|jamais|aucun de|non|nicht"
    "|nicht, dass|kein|keine|weder|noch|niemals|nie|não|nem|não é|né|non è",
    "no": "no|nope|nah|nein|否|无",
    # predicates of a denied option: "A is wrong"; also "the wrong one is A", "I ruled out A"
    "wrong": "wrong|incorrect|false|untrue|inaccurate|invalid|mistaken|rejected|ruled out|eliminated|excluded"
    "|discarded|a distractor|distractor|fails|fail|implausible|impossible|inconsistent|irrelevant"
    "|out of the question|not it|is out|makes no sense|make no sense|✗|✘|❌|✖|×|错|错误|错误的|错的|排除|不对|不正确"
    "|不符|有误|incorrecta|incorrecto|falsa|falso|errónea|erróneo|equivocada|descartada|descarto|incorrecte|faux"
    "|fausse|erronée|falsch|inkorrekt|unrichtig|errata|sbagliata|errada",
    "reject": "reject|rule out|eliminate|exclude|discard|dismiss|eliminating|excluding|ruling out|rejecting",
    # contrasts, which deny the next option and affirm the previous one: "A rather than B"
    "instead": "rather than|instead of|as opposed to|unlike|over|contrary to|except|except for|other than|besides"
    "|apart from|and not|but not|而不是|而非|除了|en lugar de|en vez de|salvo|excepto|y no|plutôt que|au lieu de"
    "|et non|et pas|sauf|contrairement à|statt|anstatt|anstelle von|und nicht|außer|invece di|em vez de|than|als",
    "less": "less|worse|not as|less likely|menos|peor|moins|weniger|schlechter",
    "right": "right|correct|true|accurate|best|better|fits|matches|fit|match|correctly|most likely|most accurate|yes"
    "|most suitable|most appropriate|more likely|more accurate|the one|only|holds|is the answer|is what|applies"
    "|supported|✓|✔|✅|☑|正确|正确的|对|对的|更好|最好|最合适|符合|correcta|correcto|verdadera|mejor|bonne|juste"
    "|correcte|vraie|meilleure|richtig|korrekt|beste|besser|stimmt|wahr|passt|corretta|giusta|correta|certa|sí|si"
    "|oui|ja|是的",
    "declare": "answer|answers|ans|choice|selected|selection|pick|choose|chose|select|go with|going with|go for"
    "|opt for|vote|vote for|prefer|settled on|settle on|lean towards|lean toward|leaning towards|i'd say|i would say"
    "|i'd guess|i say|i mean|i meant|leaving|leaves|conclude|decided on|decide on|=|"
    "答案|选|选择|我选|应选|respuesta|elijo|elegiría|escojo|diría que|diría|réponse|je choisis|je choisirais"
    "|je dirais|antwort|wähle|nehme|risposta|scelgo|resposta|escolho|ответ|正解|答えは|정답은|답은|답|答え|정답",
    "is": "is|be|'s|it's|that's|are|was|being|been|es|sea|sería|son|est|c'est|ce soit|ist|sind|è|é|是|为|應為|应为|即",
    "final": "boxed|final|finally|最终|finalmente|final answer|my final",
    "so": "so|therefore|thus|hence|conclusion|in conclusion|consequently|因此|所以|故|综上|por tanto|por lo tanto"
    "|así que|donc|daher|deshalb|somit|folglich|quindi|portanto",
    # possibilities and first thoughts
    "perhaps": "could be|might be|may be|might|could|may|maybe|perhaps|possibly|plausible|possible|tempting"
    "|considered|consider|considering|initially|at first|first|thought|first guess|similar|suspected|either|between"
    "|可能|也许|原以为|起初|quizás|tal vez|podría|pensaba|primero|peut-être|pourrait|pensais|d'abord|vielleicht"
    "|könnte|zuerst|dachte|zunächst|forse|talvez|entre|zwischen|还是",
    "correction": "wait|no wait|actually|correction|sorry|scratch that|on second thought|second thought"
    "|let me correct|or rather|i meant|rather|→|其实|不对，|更正|perdón|mejor dicho|pardon|plutôt|moment|quatsch"
    "|halt",
    # clause starts: no denial applies across them
    "but": "but|however|whereas|while|although|though|because|since|as|where|which|if|when|for|given|yet|instead|但"
    "|但是|而是|而|因为|因|然而|pero|sino|porque|aunque|mientras|ya que|mais|car|parce que|alors que|puisque|aber"
    "|sondern|weil|denn|während|obwohl|da|ma|perché|mas",
    "and": "and|or|and/or|y|o|u|et|ou|und|oder|和|或|或者|以及|与|及|both|as well as",
    # phrases that look like a denial and are none
    "": "no doubt|without a doubt|without doubt|no question|not only|not sure|i'm not sure|not certain|why not"
    "|not just|in my opinion|not because|and not because|no other option|no other|sin duda|sans doute"
    "|sans aucun doute|ohne zweifel|zweifellos|毫无疑问|不仅|不确定|no sé|in question|so much|the question|as the"
    "|as well|as follows|as shown|no estoy seguro|nicht sicher|pas sûr",
}


def _roles_by_phrase() -> dict[tuple[str, ...], str]:
    roles = {}
    for role, phrases in _CUES.items():
        for phrase in filter(None, phrases.split("|")):
            roles[tuple(t.word for t in tokens_of(phrase))] = role
    return roles


_ROLES = _roles_by_phrase()
_MAX_LENGTH = max(map(len, _ROLES))


def cue_at(words: Sequence[str], at: int) -> tuple[str, int] | None:
    """(role, number of words) of the longest cue at this position; None where there is none."""
    for length in range(min(_MAX_LENGTH, len(words) - at), 0, -1):
        role = _ROLES.get(tuple(words[at : at + length]))
        if role is not None:
            return role, length
    return None


def _word_set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# filler words between an option and its predicate, or between a denial and its object
FILLERS = _word_set(
    "a an the option options choice choices letter letters answer answers be is are was does do did can could would "
    "should must may might will has have been also both all still too very quite clearly obviously definitely "
    "certainly "
    "simply just probably seems seem looks look appears appear to it that this one as being entirely completely "
    "la las el los le les l' un une una lo die der das den dem ein eine opción respuesta réponse option antwort wahl "
    "est es ist sind son être ser está of me either"
) | {*"选项答案的是都为也很明显"}
OPTION_WORDS = _word_set("option options choice letter opción opciones buchstabe lettre letra opção opzione answer") | {
    "项"
}
# a letter after one of these is the label of something else
LABELED_THINGS = _word_set(
    "vitamin hepatitis figure fig panel plan point angle line section step part type group team player row column "
    "graph "
    "table vertex segment node grade class level note key chapter appendix version mr mrs ms dr st big influenza size"
)
ARTICLES = _word_set(
    "a an the half his her its my your our their any each every some another un une una la le el der die das ein"
)
# cues that may also describe a thing: "a right angle", "a false alarm"
ADJECTIVES = _word_set("first right false true correct best better wrong less accurate similar possible plausible")
# a second denial that only repeats the first (double negation as agreement)
AGREEING = _word_set("ni nunca tampoco jamás jamais nor neither né nem noch")
# words after a letter that is the subject or the object of a sentence; never after an article
FOLLOWS = _word_set(
    "it i we you he she they that this these those which who what where in on at of from with by to into for given "
    "among "
    "here there please would will might may must should could can cannot does do did has had being was were seems "
    "seem "
    "looks appears definitely certainly probably surely obviously undoubtedly instead too indeed now then again "
    "alone above below ist est es è é scheint passt parece semble weil denn porque car parce puisque perché quindi "
    "para por pour auf nach sagen wählen nehmen tippen thanks considering based rather though"
)
_DETERMINERS = _word_set(
    "the this that these what which best most all exactly perfectly well closely more to with both it"
)
_VERB = re.compile(r"[a-z]{3,}(?<![siu])s\Z")  # matches, shows; no glass, bus, tennis


def is_verb(word: str) -> bool:
    """Whether the word has the form of a verb in the third person (or of a plural, before which A is no article)."""
    return bool(_VERB.match(word))


def follows_option_letter(words: Sequence[str], at: int) -> bool:
    """Whether the word at this position, after a single letter, shows that the letter is no article (nor another word
    of one letter). It is applied to all letters: scores are unbiased only if A is treated as B."""
    if words[at].endswith("ly") and words[at] not in FOLLOWS:
        at += 1
    word, following = (*words[at : at + 2], "", "")[:2]
    if word == "most":
        return following in ("likely", "probably", "closely", "accurately", "certainly")
    if word in ("best", "better"):
        return not following.isalpha() or is_verb(following) or following in FOLLOWS
    return word in FOLLOWS or (is_verb(word) and following in _DETERMINERS)
