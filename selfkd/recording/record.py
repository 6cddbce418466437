"""`selfkd record`: sentences -> recordings of people, by a page with a microphone or from files."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from selfkd.errors import InputError
from selfkd.files import open_regular
from selfkd.recording.checks import decode_recording
from selfkd.recording.config import RecordConfig
from selfkd.recording.folder import RecordingFolder, opened
from selfkd.recording.reading_list import PAGE, READING_LIST, read_mapping
from selfkd.serving.config import check_address_free, decoder_bytes
from selfkd.serving.isolated import DECODE_SECONDS, IsolatedProcess
from selfkd.stage_function import stage_function

_REASONS_SHOWN = 20


@stage_function(RecordConfig)
def record(config: RecordConfig) -> dict[str, Any]:
    """Returns {"speakers": {name: sentences read}, "sentences": their number, "refused": reasons}, after SIGINT where a
    page was served. Prints the commands that make a dataset of the recordings."""
    if config.microphone and not config.files:
        check_address_free(config.host, config.port)
    with opened(config) as recordings:
        left_out = recordings.settings["left_out"]
        if left_out:
            first = f"{left_out[0]['id']}: {left_out[0]['reason']}"
            print(f"{len(left_out)} sentences cannot be read and are left out, the first: {first}")
        refused: list[str] = []
        decoder = IsolatedProcess(decoder_bytes(config.max_upload_bytes, 0))
        try:
            if config.files:
                refused = _take_files(recordings, Path(config.files), Path(config.mapping), decoder)
            elif config.microphone:
                server = page_server(config, recordings, decoder)
                with suppress(KeyboardInterrupt):  # uvicorn raises the signal again after its shutdown
                    server.run()
        finally:
            decoder.close()
        _print_next(recordings, refused)
        return {"speakers": recordings.progress(), "sentences": len(recordings.sentences), "refused": refused}


def page_server(config: RecordConfig, recordings: RecordingFolder, decoder: IsolatedProcess) -> Any:
    """A server of the page, not started. Raises InputError where its packages are missing."""
    try:
        from starlette.applications import Starlette
        from starlette.routing import Mount

        from selfkd.recording.pages import recording_pages
        from selfkd.serving.local_page import LocalServer, local_only
    except ImportError as error:
        raise InputError(f"{error}; pip install 'selfkd[serve]'") from error
    pages = recording_pages(recordings, decoder, config.max_upload_bytes)
    return LocalServer(
        Starlette(routes=[Mount("/", pages)], middleware=local_only(config.host)), config.host, config.port
    )


def _take_files(recordings: RecordingFolder, files: Path, mapping: Path, decoder: IsolatedProcess) -> list[str]:
    """Takes the recordings of a mapping; returns why some were refused. Raises InputError, before any is taken, for a
    mapping that is wrong, and where none can be taken."""
    if not files.is_dir():
        raise InputError(f"files: {files}: no such folder")
    mapped = list(read_mapping(mapping, files, {s.id: s for s in recordings.sentences}))
    if not mapped:
        raise InputError(f"mapping: {mapping}: no row has a file, its speaker and the day of the consent")
    for speaker, day in {one.speaker: one.consent_date for one in mapped}.items():
        if not recordings.has_agreed(speaker):
            recordings.agree(speaker, recordings.settings["consent"], day)
    refused = []
    for one in mapped:
        try:
            with open_regular(one.file) as file:
                content = file.read()
            samples, rate_hz, _ = decoder.call(decode_recording, content, one.sentence.question, seconds=DECODE_SECONDS)
            recordings.add(one.speaker, one.sentence, samples, rate_hz)
        except (InputError, FileNotFoundError, IsADirectoryError) as error:
            reason = error if isinstance(error, InputError) else "no such file"
            refused.append(f"{one.file.relative_to(files)}: {reason}")
    if len(refused) == len(mapped):
        raise InputError(f"files: {files}: none of {len(mapped)} recordings can be kept, the first: {refused[0]}")
    return refused


def _print_next(recordings: RecordingFolder, refused: list[str]) -> None:
    total, progress = len(recordings.sentences), recordings.progress()
    for reason in refused[:_REASONS_SHOWN]:
        print(f"not kept: {reason}")
    if len(refused) > _REASONS_SHOWN:
        print(f"not kept: {len(refused) - _REASONS_SHOWN} more")
    if not any(progress.values()):
        folder = recordings.folder
        print(f"{total} sentences, none recorded yet. To print: {folder / PAGE}; to fill in: {folder / READING_LIST}")
        return
    for speaker, count in progress.items():
        print(f"{speaker}: {count} of {total} sentences recorded")
    print("Next:")
    for command in recordings.next_commands():
        print(f"  {command}")
