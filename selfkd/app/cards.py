"""Answers -> HTML: what each model said in each view with the probability of every token, and where it looked.

Everything that somebody typed, or a model said, is escaped here.
"""

from html import escape

from torch import Tensor

from selfkd.app.answer import Answer, Token
from selfkd.app.looks import Looks
from selfkd.app.overlay import data_uri, shade
from selfkd.app.panel import Answered
from selfkd.data.views import VIEWS, View

NAMES: dict[View, str] = {"text": "Written", "speech": "Spoken"}
ROWS = {"query": "while it takes in the question", "response": "while it answers"}
_NOT_ASKED = "<p>Type the question as well to compare.</p>"
_SURE = 0.5  # a token below it is marked


def answers_html(answered: Answered) -> str:
    cards = "".join(_model_card(name, answered) for name in answered.answers)
    return f'<div class="kd-results" aria-live="polite">{_asked(answered)}<div class="kd-models">{cards}</div></div>'


def looks_html(answered: Answered, rows: str, layer: int) -> str:
    """`layer` counts from 1; of a model that has fewer, the last is shown. All maps have one scale."""
    shares = [_share(a.looks, rows, layer) for views in answered.answers.values() for a in views.values()]
    most = max((float(share_YX.max()) for share_YX in shares if share_YX is not None), default=0.0)
    picture, cards = data_uri(answered.picture), ""
    for name, views in answered.answers.items():
        figures = "".join(
            f'<figure class="kd-look"><h4>{NAMES[view]}</h4>'
            f"{_look(views[view].looks, rows, layer, most, picture) if view in views else _NOT_ASKED}</figure>"
            for view in VIEWS
        )
        cards += f'<section class="kd-model"><h3>{escape(name)}</h3><div class="kd-views">{figures}</div></section>'
    scale = f"Bright places get up to {most:.1%} each, dark ones nothing; all pictures here have this one scale."
    note = f'<p class="kd-note">{scale}</p>' if most else ""
    return f'<div class="kd-results"><div class="kd-models">{cards}</div>{note}</div>'


def _share(looks: Looks | str, rows: str, layer: int) -> Tensor | None:
    return None if isinstance(looks, str) else looks.by_rows[rows][min(layer, looks.layers) - 1]


def _look(looks: Looks | str, rows: str, layer: int, most: float, picture: str) -> str:
    share_YX = _share(looks, rows, layer)
    if isinstance(looks, str) or share_YX is None:
        return f"<p>Not drawn: {escape(str(looks))}.</p>"
    shaded = data_uri(shade(share_YX, most))
    return (
        f'<div class="kd-map"><img src="{picture}" alt="The picture"><img class="kd-shade" src="{shaded}" alt=""></div>'
        f"<figcaption><b>{float(share_YX.sum()):.0%} of its attention is on the picture</b><br>"
        f"layer {min(layer, looks.layers)} of {looks.layers}</figcaption>"
    )


def _asked(answered: Answered) -> str:
    question = f"<q>{escape(answered.question)}</q>" if answered.question else "(not written)"
    if answered.heard is None:
        heard = '<span class="kd-off">no recogniser (see --recognizer)</span>'
    else:
        heard = f"<q>{escape(answered.heard)}</q>" if answered.heard else "nothing"
    rows = {"Asked": question, "Heard": heard}
    if answered.ready is not None:
        rows["Right answer"] = escape(answered.ready.truth)
    return f'<dl class="kd-asked">{"".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in rows.items())}</dl>'


def _model_card(name: str, answered: Answered) -> str:
    views = answered.answers[name]
    badge = note = ""
    if len(views) > 1:
        why = answered.why_no_gap(name)
        note = f'<p class="kd-note">{why[0].upper()}{why[1:]}.</p>'
        are_one = len({a.text.strip().lower().rstrip(".") for a in views.values()}) == 1
        said = "same words" if are_one else "other words"
        badge = f'<span class="kd-badge{"" if are_one else " kd-apart"}">{said}</span>'
    seconds = f'<span class="kd-seconds">{answered.seconds[name]:.1f} s</span>'
    articles = "".join(
        _view(view, views[view], answered.is_right(views[view]))
        if view in views
        else f'<article class="kd-view kd-off"><h4>{NAMES[view]}</h4>{_NOT_ASKED}</article>'
        for view in VIEWS
    )
    return (
        f'<section class="kd-model"><header><h3>{escape(name)}</h3>{badge}{seconds}</header>'
        f'<div class="kd-views">{articles}</div>{note}</section>'
    )


def _view(view: View, answer: Answer, is_right: bool | None) -> str:
    verdict = {None: "", True: '<span class="kd-right">right</span>', False: '<span class="kd-wrong">wrong</span>'}
    text = escape(answer.text) or "(nothing)"
    ended = "" if answer.has_ended else '<p class="kd-note">Cut off here: the limit of tokens.</p>'
    chips = "".join(_chip(token, is_end) for token, is_end in _with_ends(answer))
    rows = "".join(_row(token, is_end) for token, is_end in _with_ends(answer))
    return (
        f'<article class="kd-view"><h4>{NAMES[view]}{verdict[is_right]}</h4><p class="kd-answer">{text}</p>'
        f'<ol class="kd-tokens" aria-label="Tokens and their probabilities">{chips}</ol>{ended}'
        f"<details><summary>What else it might have said</summary><table><thead><tr><th>Token</th><th>Prob.</th>"
        f"<th>Likeliest others</th></tr></thead><tbody>{rows}</tbody></table></details></article>"
    )


def _with_ends(answer: Answer) -> list[tuple[Token, bool]]:
    last = len(answer.tokens) - 1
    return [(token, answer.has_ended and at == last) for at, token in enumerate(answer.tokens)]


def _chip(token: Token, is_end: bool) -> str:
    unsure = " kd-unsure" if token.probability < _SURE else ""
    return (
        f'<li class="kd-token{unsure}" style="--p:{token.probability:.3f}"><span>{_word(token.text, is_end)}</span>'
        f"<small>{_percent(token.probability)}</small></li>"
    )


def _row(token: Token, is_end: bool) -> str:
    others = ", ".join(f"<code>{_exact(text)}</code> {_percent(p)}" for text, p in token.others)
    code = f"<code>{_exact(token.text, is_end)}</code>"
    return f"<tr><td>{code}</td><td>{_percent(token.probability)}</td><td>{others}</td></tr>"


def _word(text: str, is_end: bool) -> str:
    """A token as one reads it."""
    return _exact(text if is_end else text.strip() or text, is_end)


def _exact(text: str, is_end: bool = False) -> str:
    """With the space that it begins with: "red" and " red" are two tokens."""
    return "<i>end</i>" if is_end else escape(text.replace(" ", "\N{MIDDLE DOT}").replace("\n", "\\n"))


def _percent(share: float) -> str:
    return "&lt;0.1%" if share < 0.001 else f"{share:.0%}" if share > 0.995 else f"{share:.1%}"
