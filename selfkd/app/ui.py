"""The page: what a user chooses, types and says, and what it shows. Nothing on it comes from elsewhere.

Responses are shown in each modality with the probability of every token, and with attention maps: image regions with
little attention are darkened. Everything that somebody typed, or a model said, is escaped here.
"""

import logging
from collections.abc import Callable
from functools import wraps
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from torch import Tensor

from selfkd.app.inference import Answer, AttentionMaps, Token, data_uri, shade, thumbnail
from selfkd.app.session import MAX_CHARACTERS, VOICES, Answered, Said, Session, ready_examples, say
from selfkd.app.uploads import UploadsPage, uploaded
from selfkd.errors import InputError
from selfkd.training.data import MODALITIES, Modality

NAMES: dict[Modality, str] = {"text": "Written", "audio": "Spoken"}
ROWS = {"query": "while it takes in the question", "response": "while it answers"}
_NOT_ASKED = "<p>Type the question as well to compare.</p>"
_SURE = 0.5  # a token below it is marked


def answers_html(answered: Answered) -> str:
    cards = "".join(_model_card(name, answered) for name in answered.answers)
    return f'<div class="kd-results" aria-live="polite">{_asked(answered)}<div class="kd-models">{cards}</div></div>'


def attention_html(answered: Answered, rows: str, layer: int) -> str:
    """`layer` counts from 1; of a model that has fewer, the last is shown. All maps have one scale."""
    shares = [_share(a.looks, rows, layer) for modalities in answered.answers.values() for a in modalities.values()]
    most = max((float(share_YX.max()) for share_YX in shares if share_YX is not None), default=0.0)
    image, cards = data_uri(answered.image), ""
    for name, modalities in answered.answers.items():
        metrics = "".join(
            f'<figure class="kd-look"><h4>{NAMES[modality]}</h4>'
            f"{_look(modalities[modality].looks, rows, layer, most, image) if modality in modalities else _NOT_ASKED}</figure>"
            for modality in MODALITIES
        )
        cards += f'<section class="kd-model"><h3>{escape(name)}</h3><div class="kd-views">{metrics}</div></section>'
    scale = f"Bright places get up to {most:.1%} each, dark ones nothing; all pictures here have this one scale."
    note = f'<p class="kd-note">{scale}</p>' if most else ""
    return f'<div class="kd-results"><div class="kd-models">{cards}</div>{note}</div>'


def _share(looks: AttentionMaps | str, rows: str, layer: int) -> Tensor | None:
    return None if isinstance(looks, str) else looks.by_rows[rows][min(layer, looks.layers) - 1]


def _look(looks: AttentionMaps | str, rows: str, layer: int, most: float, image: str) -> str:
    share_YX = _share(looks, rows, layer)
    if isinstance(looks, str) or share_YX is None:
        return f"<p>Not drawn: {escape(str(looks))}.</p>"
    shaded = data_uri(shade(share_YX, most))
    return (
        f'<div class="kd-map"><img src="{image}" alt="The picture"><img class="kd-shade" src="{shaded}" alt=""></div>'
        f"<figcaption><b>{float(share_YX.sum()):.0%} of its attention is on the picture</b><br>"
        f"layer {min(layer, looks.layers)} of {looks.layers}</figcaption>"
    )


def _asked(answered: Answered) -> str:
    question = f"<q>{escape(answered.question)}</q>" if answered.question else "(not written)"
    if answered.transcript is None:
        heard = '<span class="kd-off">no recogniser (see --asr_model)</span>'
    else:
        heard = f"<q>{escape(answered.transcript)}</q>" if answered.transcript else "nothing"
    rows = {"Query": question, "Heard": heard}
    if answered.ready is not None:
        rows["Right answer"] = escape(answered.ready.target)
    return f'<dl class="kd-asked">{"".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in rows.items())}</dl>'


def _model_card(name: str, answered: Answered) -> str:
    modalities = answered.answers[name]
    badge = note = ""
    if len(modalities) > 1:
        why = answered.why_no_gap(name)
        note = f'<p class="kd-note">{why[0].upper()}{why[1:]}.</p>'
        are_one = len({a.text.strip().lower().rstrip(".") for a in modalities.values()}) == 1
        said = "same words" if are_one else "other words"
        badge = f'<span class="kd-badge{"" if are_one else " kd-apart"}">{said}</span>'
    seconds = f'<span class="kd-seconds">{answered.seconds[name]:.1f} s</span>'
    articles = "".join(
        _view(modality, modalities[modality], answered.is_right(modalities[modality]))
        if modality in modalities
        else f'<article class="kd-view kd-off"><h4>{NAMES[modality]}</h4>{_NOT_ASKED}</article>'
        for modality in MODALITIES
    )
    return (
        f'<section class="kd-model"><header><h3>{escape(name)}</h3>{badge}{seconds}</header>'
        f'<div class="kd-views">{articles}</div>{note}</section>'
    )


def _view(modality: Modality, answer: Answer, is_right: bool | None) -> str:
    verdict = {None: "", True: '<span class="kd-right">right</span>', False: '<span class="kd-wrong">wrong</span>'}
    text = escape(answer.text) or "(nothing)"
    ended = "" if answer.has_ended else '<p class="kd-note">Cut off here: the limit of tokens.</p>'
    chips = "".join(_chip(token, is_end) for token, is_end in _with_ends(answer))
    rows = "".join(_row(token, is_end) for token, is_end in _with_ends(answer))
    return (
        f'<article class="kd-view"><h4>{NAMES[modality]}{verdict[is_right]}</h4><p class="kd-answer">{text}</p>'
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


log = logging.getLogger("selfkd.app")
_KEPT_SECONDS = 3600  # what was uploaded, and what a page that was left had shown
_HEAD = """\
<div class="kd-head"><h1>Written or spoken?</h1>
<p>One question about a picture, put to a model twice: once in writing, once in speech. See what it answers, how sure it
is of each word, and where on the picture it looks.</p></div>"""
_SHOW = "() => document.getElementById('answers').scrollIntoView({block: 'nearest', behavior: 'smooth'})"
_NOTHING_YET = '<p class="kd-note">Nothing has been asked yet: choose an example, or ask a question of your own.</p>'


def theme() -> gr.themes.Base:
    """With the fonts that the machine has."""
    sans = ("system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
    mono = ("ui-monospace", "Menlo", "Consolas", "monospace")
    base = gr.themes.Base(primary_hue="teal", secondary_hue="teal", neutral_hue="slate", font=sans, font_mono=mono)
    return base.set(  # Gradio's own are too pale to read
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_label_text_color="*neutral_600",
        block_title_text_color="*neutral_700",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
    )


def style() -> str:
    """The page's CSS, with the pictures of the ready examples."""
    images = (
        f"#ready-{i} {{ --picture: url({data_uri(thumbnail(e.load_image()))}) }}"
        for i, e in enumerate(ready_examples())
    )
    return "\n".join([(Path(__file__).parent / "page.css").read_text(), *images])


def build_page(session: Session, folder: Path) -> gr.Blocks:
    """`folder` takes the pictures of the ready examples, and has to stay while the page is shown."""
    config, ready, most = session.config, ready_examples(), session.config.max_audio_seconds
    for i, example in enumerate(ready):
        (folder / f"example-{i}.png").write_bytes(example.image or b"")

    def synthesize_audio(question: str, voice: str) -> tuple[bytes, Said]:
        said = say(session.tts_engine, question, voice)
        return said.wav, said

    def ask(
        image: str | None, question: str, audio: str | None, said: Said | None, voice: str, rows: str
    ) -> tuple[Any, ...]:
        answered, said = session.ask(_content(image), question, _content(audio), said, voice)
        layer = max(1, answered.layers // 2)
        return (
            answers_html(answered),
            gr.Column(visible=True),
            gr.Row(visible=answered.layers > 0),
            gr.Slider(maximum=max(answered.layers, 2), value=layer, interactive=answered.layers > 1),
            attention_html(answered, rows, layer),
            answered,
            said,
            said.wav if said else gr.skip(),
        )

    def encode_image(answered: Answered | None, rows: str, layer: int) -> Any:
        return gr.skip() if answered is None else attention_html(answered, rows, int(layer))

    with UploadsPage(
        title="selfkd: written or spoken?", analytics_enabled=False, delete_cache=(_KEPT_SECONDS // 4, _KEPT_SECONDS)
    ) as page:
        answered_state = gr.State(None, time_to_live=_KEPT_SECONDS)
        said_state = gr.State(None, time_to_live=_KEPT_SECONDS)
        gr.HTML(_HEAD)
        gr.HTML('<h2 class="kd-title">Ask one of these</h2>')
        with gr.Row(elem_id="ready"):
            buttons = [gr.Button(e.question, elem_id=f"ready-{i}") for i, e in enumerate(ready)]
        gr.HTML('<h2 class="kd-title">or your own</h2>')
        with gr.Row():
            with gr.Column(scale=2, min_width=240):
                image = gr.Image(
                    label="Picture", sources=["upload", "clipboard"], type="filepath", image_mode=None, height=324,
                    buttons=[], elem_id="picture",
                )  # fmt: skip
                # as it came: Gradio's own would open it, and what cannot be opened is ours to say in words
                image.preprocess = _path  # type: ignore[method-assign]
            with gr.Column(scale=3, min_width=280):
                question = gr.Textbox(
                    label="Question", placeholder="What color is the circle?", max_length=MAX_CHARACTERS, lines=1,
                    elem_id="question",
                )  # fmt: skip
                audio = gr.Audio(
                    label=f"The same question, spoken (up to {most:g} s); left empty, it is spoken for you",
                    sources=["microphone", "upload"], type="filepath", buttons=[], editable=False, elem_id="audio",
                )  # fmt: skip
        with gr.Row(equal_height=True, elem_id="asking"):
            voice = gr.Dropdown(
                list(VOICES.items()), value=next(iter(VOICES.values())), label="Voice", filterable=False,
                min_width=200, elem_id="voice",
            )  # fmt: skip
            speak_button = gr.Button("Speak it for me", min_width=160, elem_id="speak")
            ask_button = gr.Button(
                "Ask in writing and in speech", variant="primary", scale=2, min_width=240, elem_id="ask"
            )
        gr.HTML('<h2 class="kd-title">What it answers</h2>')
        answers = gr.HTML(_NOTHING_YET, elem_id="answers")
        with gr.Column(visible=False) as looking:
            gr.HTML('<h2 class="kd-title">Where it looks</h2>')
            with gr.Row() as controls:
                rows = gr.Radio(
                    [(name, r) for r, name in ROWS.items()], value="response", label="Attention to the picture"
                )
                layer = gr.Slider(1, 2, value=1, step=1, label="Layer", buttons=[], min_width=280, elem_id="layer")
            looks = gr.HTML(elem_id="looks")

        # one generation at a time: attention is followed where all models take it from, and a GPU has one memory
        one: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
        asked = [image, question, audio, said_state, voice, rows]
        shown = [answers, looking, controls, layer, looks, answered_state, said_state, audio]
        in_words_ask, in_words_speak = in_words(ask), in_words(synthesize_audio)
        for button, example, i in zip(buttons, ready, range(len(ready)), strict=True):
            path = str(folder / f"example-{i}.png")
            button.click(
                lambda path=path, text=example.question: (path, text, None),
                None,
                [image, question, audio],
                api_visibility="private",
            ).then(in_words_ask, asked, shown, show_progress_on=[answers, looks], **one).success(None, js=_SHOW)
        gr.on(
            [ask_button.click, question.submit], in_words_ask, asked, shown, show_progress_on=[answers, looks], **one
        ).success(None, js=_SHOW)
        speak_button.click(in_words_speak, [question, voice], [audio, said_state], **one)
        for control in (rows.change, layer.change):
            control(
                encode_image, [answered_state, rows, layer], looks, show_progress="hidden", api_visibility="private"
            )
    return page.queue(max_size=config.max_waiting)


def in_words(work: Callable[..., Any]) -> Callable[..., Any]:
    """What goes wrong in `work`, as a message on the page: words for who asked, and what is no fault of theirs in the
    log."""

    @wraps(work)
    def worded(*arguments: Any) -> Any:
        try:
            return work(*arguments)
        except InputError as error:
            # the page takes messages for HTML
            raise gr.Error(escape(str(error)), title="Cannot ask this", print_exception=False) from None
        except Exception:
            log.exception("a question failed")
            message = "The model failed on this question; the terminal says why."
            raise gr.Error(message, print_exception=False) from None

    return worded


def _path(payload: Any) -> str | None:
    return None if payload is None else payload.path


def _content(path: str | None) -> bytes | None:
    return uploaded(path).read_bytes() if path else None
