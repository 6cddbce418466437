"""The page: inputs and events. It loads nothing from other sites. `results_html` has the HTML of results."""

import logging
from collections.abc import Callable
from functools import wraps
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from selfkd.app.inference import png_data_uri, thumbnail
from selfkd.app.results_html import attention_html, responses_html
from selfkd.app.session import (
    MAX_CHARACTERS,
    VOICES,
    QueryResult,
    Session,
    SynthesizedQuery,
    builtin_examples,
    synthesize_query,
)
from selfkd.app.uploads import KEEP_SECONDS, UploadOnlyBlocks, uploaded_path
from selfkd.errors import InputError

ROW_NAMES = {"query": "question tokens", "response": "response tokens"}
RECORD_PATH = "record"  # of the page that records sentences
_RECORD_TAB = f'<iframe class="kd-record" src="{RECORD_PATH}/" title="Record sentences" allow="microphone"></iframe>'
log = logging.getLogger("selfkd.app")
_HEAD = """\
<div class="kd-head"><h1>Text query or audio query?</h1>
<p>Questions about an image, each sent to a model twice: as text and as audio. Compare the responses, the probability of
each token, and the attention to the image. A further question continues the conversation.</p></div>"""
_SCROLL_TO_RESPONSES = (
    "() => document.getElementById('responses').scrollIntoView({block: 'nearest', behavior: 'smooth'})"
)
_NO_RESULT = '<p class="kd-note">No results yet: choose an example, or send a query of your own.</p>'


def theme() -> gr.themes.Base:
    """Uses system fonts only."""
    sans = ("system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
    mono = ("ui-monospace", "Menlo", "Consolas", "monospace")
    base = gr.themes.Base(primary_hue="teal", secondary_hue="teal", neutral_hue="slate", font=sans, font_mono=mono)
    return base.set(  # Gradio's defaults have too little contrast
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_label_text_color="*neutral_600",
        block_title_text_color="*neutral_700",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
    )


def page_css() -> str:
    """page.css, with the images of the built-in examples."""
    images = (
        f"#example-{i} {{ --image: url({png_data_uri(thumbnail(example.load_image()))}) }}"
        for i, example in enumerate(builtin_examples())
    )
    return "\n".join([(Path(__file__).parent / "page.css").read_text(), *images])


def build_page(session: Session, folder: Path, has_recordings: bool = False) -> gr.Blocks:
    """Writes the images of the built-in examples to `folder`, which must exist as long as the page is served. With
    recordings a second tab shows the page that records sentences."""
    with UploadOnlyBlocks(
        title="selfkd: text query or audio query?",
        analytics_enabled=False,
        delete_cache=(KEEP_SECONDS // 4, KEEP_SECONDS),
    ) as page:
        if has_recordings:
            with gr.Tab("Query"):
                _query_tab(session, folder)
            with gr.Tab("Record"):
                gr.HTML(_RECORD_TAB)
        else:
            _query_tab(session, folder)
    return page.queue(max_size=session.config.max_waiting)


def _query_tab(session: Session, folder: Path) -> None:
    """The inputs, outputs and events of queries, in the Blocks or the tab that is open."""
    examples, max_seconds = builtin_examples(), session.config.max_audio_seconds
    for i, example in enumerate(examples):
        (folder / f"example-{i}.png").write_bytes(example.image or b"")

    def synthesize_audio(question: str, voice: str) -> tuple[bytes, SynthesizedQuery]:
        clip = synthesize_query(session.tts_engine, question, voice)
        return clip.wav, clip

    def run_query(
        image: str | None,
        question: str,
        audio: str | None,
        clip: SynthesizedQuery | None,
        voice: str,
        reads_aloud: bool,
        rows: str,
        last: QueryResult | None,
    ) -> tuple[Any, ...]:
        earlier = last.conversation if last else ()
        result, clip = session.run(
            _read_upload(image), question, _read_upload(audio), clip, voice, earlier, reads_aloud
        )
        layer = max(1, result.layers // 2)
        return (
            responses_html(result),
            gr.Column(visible=True),
            gr.Row(visible=result.layers > 0),
            gr.Slider(maximum=max(result.layers, 2), value=layer, interactive=result.layers > 1),
            attention_html(result, rows, layer),
            result,
            clip,
            # a recording is sent once: with the next text it would be another question
            clip.wav if clip else None,
            gr.skip() if clip else "",
            gr.Button(visible=True),
        )

    def start_again() -> tuple[Any, ...]:
        return _NO_RESULT, gr.Column(visible=False), None, None, None, "", gr.Button(visible=False)

    def show_attention(result: QueryResult | None, rows: str, layer: int) -> Any:
        return gr.skip() if result is None else attention_html(result, rows, int(layer))

    result_state = gr.State(None, time_to_live=KEEP_SECONDS)
    clip_state = gr.State(None, time_to_live=KEEP_SECONDS)
    gr.HTML(_HEAD)
    gr.HTML('<h2 class="kd-title">Run an example</h2>')
    with gr.Row(elem_id="examples"):
        buttons = [gr.Button(example.question, elem_id=f"example-{i}") for i, example in enumerate(examples)]
    gr.HTML('<h2 class="kd-title">or your own query</h2>')
    with gr.Row():
        with gr.Column(scale=2, min_width=240):
            image = gr.Image(
                label="Image", sources=["upload", "clipboard"], type="filepath", image_mode=None, height=324,
                buttons=[], elem_id="image",
            )  # fmt: skip
            # keep the path: Gradio would decode the image, and our decoder has the limits and messages
            image.preprocess = _payload_path  # type: ignore[method-assign]
        with gr.Column(scale=3, min_width=280):
            question = gr.Textbox(
                label="Text query", placeholder="What color is the circle?", max_length=MAX_CHARACTERS, lines=1,
                elem_id="question",
            )  # fmt: skip
            audio = gr.Audio(
                label=f"Audio query (up to {max_seconds:g} s); if empty, it is synthesized from the text",
                sources=["microphone", "upload"], type="filepath", buttons=[], editable=False, elem_id="audio",
            )  # fmt: skip
    with gr.Row(equal_height=True, elem_id="controls"):
        voice = gr.Dropdown(
            list(VOICES.items()), value=next(iter(VOICES.values())), label="Voice", filterable=False,
            min_width=200, elem_id="voice",
        )  # fmt: skip
        reads_aloud = gr.Checkbox(label="Read responses aloud", min_width=170, elem_id="aloud")
        synthesize_button = gr.Button("Synthesize audio", min_width=160, elem_id="synthesize")
        restart_button = gr.Button("Start again", min_width=120, visible=False, elem_id="restart")
        run_button = gr.Button("Run in text and audio", variant="primary", scale=2, min_width=240, elem_id="run")
    gr.HTML('<h2 class="kd-title">Responses</h2>')
    responses = gr.HTML(_NO_RESULT, elem_id="responses")
    with gr.Column(visible=False) as attention_column:
        gr.HTML('<h2 class="kd-title">Attention to the image</h2>')
        with gr.Row() as attention_controls:
            rows = gr.Radio([(name, r) for r, name in ROW_NAMES.items()], value="response", label="Attention from")
            layer = gr.Slider(1, 2, value=1, step=1, label="Layer", buttons=[], min_width=280, elem_id="layer")
        attention = gr.HTML(elem_id="attention")

    # one query at a time: recording attention patches global state, and a GPU has one memory
    exclusive: dict[str, Any] = {
        "concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"
    }  # fmt: skip
    inputs = [image, question, audio, clip_state, voice, reads_aloud, rows, result_state]
    outputs = [
        responses, attention_column, attention_controls, layer, attention, result_state, clip_state, audio, question,
        restart_button,
    ]  # fmt: skip
    run, synthesize = with_page_errors(run_query), with_page_errors(synthesize_audio)
    for i, (button, example) in enumerate(zip(buttons, examples, strict=True)):
        path = str(folder / f"example-{i}.png")
        button.click(
            lambda path=path, text=example.question: (path, text, None, None),
            None,
            [image, question, audio, result_state],
            api_visibility="private",
        ).then(run, inputs, outputs, show_progress_on=[responses, attention], **exclusive).success(
            None, js=_SCROLL_TO_RESPONSES
        )
    gr.on(
        [run_button.click, question.submit],
        run,
        inputs,
        outputs,
        show_progress_on=[responses, attention],
        **exclusive,
    ).success(None, js=_SCROLL_TO_RESPONSES)
    synthesize_button.click(synthesize, [question, voice], [audio, clip_state], **exclusive)
    restart_button.click(
        start_again,
        None,
        [responses, attention_column, result_state, clip_state, audio, question, restart_button],
        api_visibility="private",
    )
    for changed in (rows.change, layer.change):
        changed(
            show_attention,
            [result_state, rows, layer],
            attention,
            show_progress="hidden",
            api_visibility="private",
        )


def with_page_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Shows an InputError of `function` as a message on the page. Any other error goes to the log, and the page says
    so."""

    @wraps(function)
    def wrapped(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except InputError as error:
            # the page renders messages as HTML
            raise gr.Error(escape(str(error)), title="Invalid query", print_exception=False) from None
        except Exception:
            log.exception("a query failed")
            message = "The model failed on this query; the terminal shows the error."
            raise gr.Error(message, print_exception=False) from None

    return wrapped


def _payload_path(payload: Any) -> str | None:
    return None if payload is None else payload.path


def _read_upload(path: str | None) -> bytes | None:
    return uploaded_path(path).read_bytes() if path else None
