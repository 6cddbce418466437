"""The page: what one chooses, types and says on it, and what it shows. Nothing on it comes from elsewhere."""

import logging
from collections.abc import Callable
from functools import wraps
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from selfkd.app.asked import MOST_LETTERS, VOICES, Said, ready_examples, say
from selfkd.app.cards import ROWS, answers_html, looks_html
from selfkd.app.overlay import data_uri, thumbnail
from selfkd.app.panel import Answered, Panel
from selfkd.app.uploads import UploadsPage, uploaded
from selfkd.errors import InputError

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
    pictures = (
        f"#ready-{i} {{ --picture: url({data_uri(thumbnail(e.picture()))}) }}" for i, e in enumerate(ready_examples())
    )
    return "\n".join([(Path(__file__).parent / "page.css").read_text(), *pictures])


def build_page(panel: Panel, folder: Path) -> gr.Blocks:
    """`folder` takes the pictures of the ready examples, and has to stay while the page is shown."""
    config, ready, most = panel.config, ready_examples(), panel.config.max_audio_seconds
    for i, example in enumerate(ready):
        (folder / f"example-{i}.png").write_bytes(example.image or b"")

    def speak(question: str, voice: str) -> tuple[bytes, Said]:
        said = say(panel.speaker, question, voice)
        return said.wav, said

    def ask(
        picture: str | None, question: str, speech: str | None, said: Said | None, voice: str, rows: str
    ) -> tuple[Any, ...]:
        answered, said = panel.ask(_content(picture), question, _content(speech), said, voice)
        layer = max(1, answered.layers // 2)
        return (
            answers_html(answered),
            gr.Column(visible=True),
            gr.Row(visible=answered.layers > 0),
            gr.Slider(maximum=max(answered.layers, 2), value=layer, interactive=answered.layers > 1),
            looks_html(answered, rows, layer),
            answered,
            said,
            said.wav if said else gr.skip(),
        )

    def look(answered: Answered | None, rows: str, layer: int) -> Any:
        return gr.skip() if answered is None else looks_html(answered, rows, int(layer))

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
                picture = gr.Image(
                    label="Picture", sources=["upload", "clipboard"], type="filepath", image_mode=None, height=324,
                    buttons=[], elem_id="picture",
                )  # fmt: skip
                # as it came: Gradio's own would open it, and what cannot be opened is ours to say in words
                picture.preprocess = _path  # type: ignore[method-assign]
            with gr.Column(scale=3, min_width=280):
                question = gr.Textbox(
                    label="Question", placeholder="What color is the circle?", max_length=MOST_LETTERS, lines=1,
                    elem_id="question",
                )  # fmt: skip
                speech = gr.Audio(
                    label=f"The same question, spoken (up to {most:g} s); left empty, it is spoken for you",
                    sources=["microphone", "upload"], type="filepath", buttons=[], editable=False, elem_id="speech",
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
        asked = [picture, question, speech, said_state, voice, rows]
        shown = [answers, looking, controls, layer, looks, answered_state, said_state, speech]
        in_words_ask, in_words_speak = in_words(ask), in_words(speak)
        for button, example, i in zip(buttons, ready, range(len(ready)), strict=True):
            path = str(folder / f"example-{i}.png")
            button.click(
                lambda path=path, text=example.question: (path, text, None),
                None,
                [picture, question, speech],
                api_visibility="private",
            ).then(in_words_ask, asked, shown, show_progress_on=[answers, looks], **one).success(None, js=_SHOW)
        gr.on(
            [ask_button.click, question.submit], in_words_ask, asked, shown, show_progress_on=[answers, looks], **one
        ).success(None, js=_SHOW)
        speak_button.click(in_words_speak, [question, voice], [speech, said_state], **one)
        for control in (rows.change, layer.change):
            control(look, [answered_state, rows, layer], looks, show_progress="hidden", api_visibility="private")
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
