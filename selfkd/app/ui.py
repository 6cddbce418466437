"""The page: inputs, events and the HTML of results. It loads nothing from other sites.

Responses are shown in each modality with the probability of every token, and with attention maps: image regions with
little attention are darkened. All text of users and models is escaped here.
"""

import logging
from collections.abc import Callable
from functools import wraps
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from torch import Tensor

from selfkd.app.inference import AttentionMaps, ModelResponse, Token, attention_overlay, png_data_uri, thumbnail
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
from selfkd.training.data import MODALITIES, Modality

MODALITY_NAMES: dict[Modality, str] = {"text": "Text", "audio": "Audio"}
ROW_NAMES = {"query": "question tokens", "response": "response tokens"}
_NO_TEXT_QUERY = "<p>No text query: type the question to compare.</p>"
_CONFIDENT = 0.5  # tokens with a lower probability are highlighted


def responses_html(result: QueryResult) -> str:
    cards = "".join(_model_card(name, result) for name in result.responses)
    return f'<div class="kd-results" aria-live="polite">{_query_html(result)}<div class="kd-models">{cards}</div></div>'


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


def _query_html(result: QueryResult) -> str:
    question = f"<q>{escape(result.question)}</q>" if result.question else "(audio only)"
    if result.transcript is None:
        transcript = '<span class="kd-off">no ASR model (see --asr_model)</span>'
    else:
        transcript = f"<q>{escape(result.transcript)}</q>" if result.transcript else "(empty)"
    rows = {"Question": question, "ASR transcript": transcript}
    if result.example is not None:
        rows["Target"] = escape(result.example.target)
    return f'<dl class="kd-query">{"".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in rows.items())}</dl>'


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
        _response_html(modality, modalities[modality], result.is_correct(modalities[modality]))
        if modality in modalities
        else f'<article class="kd-modality kd-off"><h4>{MODALITY_NAMES[modality]}</h4>{_NO_TEXT_QUERY}</article>'
        for modality in MODALITIES
    )
    return (
        f'<section class="kd-model"><header><h3>{escape(name)}</h3>{badge}{seconds}</header>'
        f'<div class="kd-modalities">{articles}</div>{note}</section>'
    )


def _response_html(modality: Modality, response: ModelResponse, is_correct: bool | None) -> str:
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
        f'<p class="kd-response">{text}</p>'
        f'<ol class="kd-tokens" aria-label="Tokens and their probabilities">{chips}</ol>{cut}'
        f"<details><summary>Alternative tokens</summary><table><thead><tr><th>Token</th><th>Prob.</th>"
        f"<th>Most likely alternatives</th></tr></thead><tbody>{rows}</tbody></table></details></article>"
    )


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


log = logging.getLogger("selfkd.app")
_HEAD = """\
<div class="kd-head"><h1>Text query or audio query?</h1>
<p>One question about an image, sent to a model twice: as text and as audio. Compare the responses, the probability of
each token, and the attention to the image.</p></div>"""
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


def build_page(session: Session, folder: Path) -> gr.Blocks:
    """Writes the images of the built-in examples to `folder`, which must exist as long as the page is served."""
    config, examples, max_seconds = session.config, builtin_examples(), session.config.max_audio_seconds
    for i, example in enumerate(examples):
        (folder / f"example-{i}.png").write_bytes(example.image or b"")

    def synthesize_audio(question: str, voice: str) -> tuple[bytes, SynthesizedQuery]:
        clip = synthesize_query(session.tts_engine, question, voice)
        return clip.wav, clip

    def run_query(
        image: str | None, question: str, audio: str | None, clip: SynthesizedQuery | None, voice: str, rows: str
    ) -> tuple[Any, ...]:
        result, clip = session.run(_read_upload(image), question, _read_upload(audio), clip, voice)
        layer = max(1, result.layers // 2)
        return (
            responses_html(result),
            gr.Column(visible=True),
            gr.Row(visible=result.layers > 0),
            gr.Slider(maximum=max(result.layers, 2), value=layer, interactive=result.layers > 1),
            attention_html(result, rows, layer),
            result,
            clip,
            clip.wav if clip else gr.skip(),
        )

    def show_attention(result: QueryResult | None, rows: str, layer: int) -> Any:
        return gr.skip() if result is None else attention_html(result, rows, int(layer))

    with UploadOnlyBlocks(
        title="selfkd: text query or audio query?",
        analytics_enabled=False,
        delete_cache=(KEEP_SECONDS // 4, KEEP_SECONDS),
    ) as page:
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
            synthesize_button = gr.Button("Synthesize audio", min_width=160, elem_id="synthesize")
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
        inputs = [image, question, audio, clip_state, voice, rows]
        outputs = [
            responses, attention_column, attention_controls, layer, attention, result_state, clip_state, audio
        ]  # fmt: skip
        run, synthesize = with_page_errors(run_query), with_page_errors(synthesize_audio)
        for i, (button, example) in enumerate(zip(buttons, examples, strict=True)):
            path = str(folder / f"example-{i}.png")
            button.click(
                lambda path=path, text=example.question: (path, text, None),
                None,
                [image, question, audio],
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
        for changed in (rows.change, layer.change):
            changed(
                show_attention,
                [result_state, rows, layer],
                attention,
                show_progress="hidden",
                api_visibility="private",
            )
    return page.queue(max_size=config.max_waiting)


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
