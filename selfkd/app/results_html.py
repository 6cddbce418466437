"""The HTML of results: the query, responses with the probability of every token, and attention maps, in which image
regions with little attention are darkened. All text of users and models is escaped here.
"""

import base64
from html import escape

from torch import Tensor

from selfkd.app.conversation import PastTurn
from selfkd.app.inference import AttentionMaps, ModelResponse, Token, attention_overlay, png_data_uri
from selfkd.app.session import QueryResult
from selfkd.app.word_diff import WordDiff, runs, word_diff
from selfkd.training.data import MODALITIES, Modality

MODALITY_NAMES: dict[Modality, str] = {"text": "Text", "audio": "Audio"}
_NO_TEXT_QUERY = "<p>No text query: type the question to compare.</p>"
_CONFIDENT = 0.5  # tokens with a lower probability are highlighted


def responses_html(result: QueryResult) -> str:
    cards = "".join(_model_card(name, result) for name in result.responses)
    earlier, query = _earlier_html(result), _query_html(result)
    return f'<div class="kd-results" aria-live="polite">{earlier}{query}<div class="kd-models">{cards}</div></div>'


def attention_html(result: QueryResult, rows: str, layer: int) -> str:
    """`layer` counts from 1; a model with fewer layers shows its last. All maps share one brightness scale."""
    maps = [
        _map_of_layer(response.attention, rows, layer)
        for modalities in result.responses.values()
        for response in modalities.values()
    ]
    max_share = max((float(share_YX.max()) for share_YX in maps if share_YX is not None), default=0.0)
    image, cards = png_data_uri(result.image), ""
    for name, modalities in result.responses.items():
        maps_html = ""
        for modality in MODALITIES:
            content = _NO_TEXT_QUERY
            if modality in modalities:
                content = _map_html(modalities[modality].attention, rows, layer, max_share, image)
            maps_html += f'<figure class="kd-attention"><h4>{MODALITY_NAMES[modality]}</h4>{content}</figure>'
        cards += (
            f'<section class="kd-model"><h3>{escape(name)}</h3><div class="kd-modalities">{maps_html}</div></section>'
        )
    scale = f"All maps share one scale: the brightest region has {max_share:.1%} of the attention, black none."
    note = f'<p class="kd-note">{scale}</p>' if max_share else ""
    return f'<div class="kd-results"><div class="kd-models">{cards}</div>{note}</div>'


def _map_of_layer(attention: AttentionMaps | str, rows: str, layer: int) -> Tensor | None:
    return None if isinstance(attention, str) else attention.by_rows[rows][min(layer, attention.layers) - 1]


def _map_html(attention: AttentionMaps | str, rows: str, layer: int, max_share: float, image: str) -> str:
    share_YX = _map_of_layer(attention, rows, layer)
    if isinstance(attention, str) or share_YX is None:
        return f"<p>No attention map: {escape(str(attention))}.</p>"
    overlay = png_data_uri(attention_overlay(share_YX, max_share))
    return (
        f'<div class="kd-map"><img src="{image}" alt="The image"><img class="kd-overlay" src="{overlay}" alt=""></div>'
        f"<figcaption><b>{float(share_YX.sum()):.0%} of the attention is on the image</b><br>"
        f"layer {min(layer, attention.layers)} of {attention.layers}</figcaption>"
    )


def _earlier_html(result: QueryResult) -> str:
    """The turns before the query, each with the responses; "" where it is the first."""
    earlier = result.conversation[:-1]
    if not earlier:
        return ""
    items = "".join(f"<li>{_turn_html(turn)}</li>" for turn in earlier)
    return f'<ol class="kd-turns" aria-label="Earlier turns, which the query continues">{items}</ol>'


def _turn_html(turn: PastTurn) -> str:
    text = turn.example.question or turn.transcript
    question = f"<q>{escape(text)}</q>" if text else "(audio only)"
    parts = [question]
    for name, responses in turn.responses.items():
        model = f" {escape(name)}" if len(turn.responses) > 1 else ""
        parts += [
            f"<span><b>{MODALITY_NAMES[modality]}{model}</b> {escape(responses[modality]) or '(empty)'}</span>"
            for modality in MODALITIES
            if modality in responses
        ]
    return " ".join(parts)


def _query_html(result: QueryResult) -> str:
    question = f"<q>{escape(result.question)}</q>" if result.question else "(audio only)"
    if result.transcript is None:
        transcript = '<span class="kd-off">no ASR model (see --asr_model)</span>'
    else:
        transcript = f"<q>{escape(result.transcript)}</q>" if result.transcript else "(empty)"
    if result.question and result.transcript:
        question, transcript = _compared_html(word_diff(result.question, result.transcript))
    rows = {"Question": question, "ASR transcript": transcript}
    if result.example is not None:
        rows["Target"] = escape(result.example.target)
    return f'<dl class="kd-query">{"".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in rows.items())}</dl>'


def _compared_html(diff: WordDiff) -> tuple[str, str]:
    """Question and transcript with the words that differ marked, and how many errors these are."""
    question, transcript = (
        " ".join(escape(text) if is_same else f"<{tag}>{escape(text)}</{tag}>" for text, is_same in runs(words))
        for words, tag in ((diff.question, "del"), (diff.transcript, "ins"))
    )
    errors = {0: "the same words", 1: "1 word error"}.get(diff.num_errors, f"{diff.num_errors} word errors")
    return f"<q>{question}</q>", f'<q>{transcript}</q> <span class="kd-note">{errors}</span>'


def _model_card(name: str, result: QueryResult) -> str:
    modalities = result.responses[name]
    badge = note = ""
    if len(modalities) > 1:
        caveat = result.gap_caveat(name)
        note = f'<p class="kd-note">{caveat[0].upper()}{caveat[1:]}.</p>'
        is_same = len({response.text.strip().lower().rstrip(".") for response in modalities.values()}) == 1
        label = "same response" if is_same else "different responses"
        badge = f'<span class="kd-badge{"" if is_same else " kd-different"}">{label}</span>'
    seconds = f'<span class="kd-seconds">{result.seconds[name]:.1f} s</span>'
    articles = "".join(
        _response_html(
            modality, modalities[modality], result.is_correct(modalities[modality]), result.clips.get((name, modality))
        )
        if modality in modalities
        else f'<article class="kd-modality kd-off"><h4>{MODALITY_NAMES[modality]}</h4>{_NO_TEXT_QUERY}</article>'
        for modality in MODALITIES
    )
    return (
        f'<section class="kd-model"><header><h3>{escape(name)}</h3>{badge}{seconds}</header>'
        f'<div class="kd-modalities">{articles}</div>{note}</section>'
    )


def _response_html(
    modality: Modality, response: ModelResponse, is_correct: bool | None, clip: bytes | str | None
) -> str:
    verdict = {
        None: "", True: '<span class="kd-correct">correct</span>', False: '<span class="kd-wrong">wrong</span>'
    }  # fmt: skip
    text = escape(response.text) or "(empty)"
    cut = "" if response.is_complete else '<p class="kd-note">Cut off at the token limit.</p>'
    tokens = _with_end_marks(response)
    chips = "".join(_token_chip(token, is_end) for token, is_end in tokens)
    rows = "".join(_token_row(token, is_end) for token, is_end in tokens)
    return (
        f'<article class="kd-modality"><h4>{MODALITY_NAMES[modality]}{verdict[is_correct]}</h4>'
        f'<p class="kd-response">{text}</p>{_clip_html(clip)}'
        f'<ol class="kd-tokens" aria-label="Tokens and their probabilities">{chips}</ol>{cut}'
        f"<details><summary>Alternative tokens</summary><table><thead><tr><th>Token</th><th>Prob.</th>"
        f"<th>Most likely alternatives</th></tr></thead><tbody>{rows}</tbody></table></details></article>"
    )


def _clip_html(clip: bytes | str | None) -> str:
    """A player of a WAV clip, or why there is none."""
    if clip is None:
        return ""
    if isinstance(clip, str):
        return f'<p class="kd-note">Not read aloud: {escape(clip)}.</p>'
    source = f"data:audio/wav;base64,{base64.b64encode(clip).decode()}"
    return f'<audio class="kd-clip" controls src="{source}" aria-label="The response, read aloud"></audio>'


def _with_end_marks(response: ModelResponse) -> list[tuple[Token, bool]]:
    """(token, whether it is the end-of-turn token)."""
    last = len(response.tokens) - 1
    return [(token, response.is_complete and at == last) for at, token in enumerate(response.tokens)]


def _token_chip(token: Token, is_end: bool) -> str:
    unsure = " kd-unsure" if token.probability < _CONFIDENT else ""
    return (
        f'<li class="kd-token{unsure}" style="--p:{token.probability:.3f}"><span>{_stripped(token.text, is_end)}</span>'
        f"<small>{_percent(token.probability)}</small></li>"
    )


def _token_row(token: Token, is_end: bool) -> str:
    alternatives = ", ".join(f"<code>{_exact(text)}</code> {_percent(p)}" for text, p in token.alternatives)
    code = f"<code>{_exact(token.text, is_end)}</code>"
    return f"<tr><td>{code}</td><td>{_percent(token.probability)}</td><td>{alternatives}</td></tr>"


def _stripped(text: str, is_end: bool) -> str:
    """A token without its leading space."""
    return _exact(text if is_end else text.strip() or text, is_end)


def _exact(text: str, is_end: bool = False) -> str:
    """A token with its leading space as a middle dot: "red" and " red" are different tokens."""
    return "<i>end</i>" if is_end else escape(text.replace(" ", "\N{MIDDLE DOT}").replace("\n", "\\n"))


def _percent(share: float) -> str:
    return "&lt;0.1%" if share < 0.001 else f"{share:.0%}" if share > 0.995 else f"{share:.1%}"
