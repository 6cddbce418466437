"""Records `selfkd demo` in a terminal of 80 x 24: `python docs/record_demo.py DEMO`, DEMO being the folder of its runs.

Writes gallery/demo.cast (asciicast v2, for `asciinema play`) and gallery/demo.gif (the same, for pages). The command
runs at its own pace, a quarter of an hour or more; in the recording a bar moves once in `BAR_SECONDS` and no pause is
longer than `MAX_PAUSE`, so that it plays in under two minutes. The text is as printed, times included. Needs pyte.
"""

import codecs
import fcntl
import json
import os
import pty
import struct
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pyte
from PIL import Image, ImageDraw, ImageFont

GALLERY = Path(__file__).parent / "gallery"
COLUMNS, ROWS = 80, 24
BAR_SECONDS, MAX_PAUSE, LAST_SECONDS = 15.0, 0.5, 8.0
FONT_SIZE, CELL_WIDTH, CELL_HEIGHT = 12, 7, 15  # of DejaVu Sans Mono, in pixels
PAPER, INK = "#101418", "#d5dbe3"
COLORS = {"red": "#f2777a", "green": "#8fd19e", "brown": "#f0c674", "blue": "#81a2be", "magenta": "#c49be6",
          "cyan": "#7fc8c8", "white": "#e6eaf0", "black": "#5b6673"}  # fmt: skip
Event = tuple[float, str]  # seconds, what was printed


def record(command: list[str]) -> list[Event]:
    """What a command prints in a terminal of its own, with the time of each part; raises SystemExit where it fails."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS=str(COLUMNS), LINES=str(ROWS))
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    decoder, began = codecs.getincrementaldecoder("utf-8")("replace"), time.monotonic()
    events: list[Event] = []
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # what Linux says when the command has ended
            part = b""
        if not part:
            break
        events.append((time.monotonic() - began, decoder.decode(part)))
    if status := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise SystemExit(status)
    return events


def shortened(events: list[Event]) -> list[Event]:
    """Without most states of bars, which a later one overwrites, and with short pauses."""
    kept: list[Event] = []
    shown = -BAR_SECONDS
    for at, text in events:
        is_bar = "\n" not in text and text.startswith("\r\x1b[2K")
        if is_bar and at - shown < BAR_SECONDS:
            continue
        shown = at if is_bar else shown
        kept.append((at, text))
    played: list[Event] = []
    now = before = 0.0
    for at, text in kept:
        now, before = now + min(at - before, MAX_PAUSE), at
        played.append((round(now, 2), text))
    return played


def write_cast(events: list[Event], title: str, path: Path) -> None:
    header = {"version": 2, "width": COLUMNS, "height": ROWS, "title": title, "idle_time_limit": MAX_PAUSE}
    lines = [json.dumps(header), *(json.dumps([at, "o", text]) for at, text in events)]
    path.write_text("\n".join(lines) + "\n")


def frames(events: list[Event]) -> Iterator[tuple[Image.Image, float]]:
    """(image, seconds) of each state of the screen."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.Stream(screen)
    font = ImageFont.truetype("DejaVuSansMono.ttf", FONT_SIZE)
    ends = [at for at, _ in events[1:]] + [events[-1][0] + LAST_SECONDS]
    for (at, text), end in zip(events, ends, strict=True):
        stream.feed(text)
        if end > at:
            yield screen_image(screen, font), end - at


def screen_image(screen: pyte.Screen, font: ImageFont.FreeTypeFont) -> Image.Image:
    image = Image.new("RGB", (CELL_WIDTH * COLUMNS + 16, CELL_HEIGHT * ROWS + 16), PAPER)
    pen = ImageDraw.Draw(image)
    pen.fontmode = "1"  # without smoothing the file is a third
    for row, cells in screen.buffer.items():
        for column, cell in cells.items():
            if cell.data != " ":
                color = COLORS.get(cell.fg.removeprefix("bright"), f"#{cell.fg}" if len(cell.fg) == 6 else INK)
                pen.text((8 + CELL_WIDTH * column, 8 + CELL_HEIGHT * row), cell.data, color, font)
    return image


def write_gif(events: list[Event], path: Path) -> None:
    images, seconds = zip(*frames(events), strict=True)
    colors = sorted({color for image in images for _, color in image.getcolors()})
    palette = Image.new("P", (1, 1))
    palette.putpalette([channel for color in colors for channel in color])
    first, *rest = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    milliseconds = [round(1000 * s) for s in seconds]
    first.save(path, save_all=True, append_images=rest, duration=milliseconds, loop=0, optimize=True)


def main(demo: Path) -> None:
    prompt = (0.0, "$ selfkd demo --output runs/demo\r\n")
    command = [sys.executable, "-m", "selfkd.cli", "demo", "--output", str(demo)]
    printed = [(at, text.replace(str(demo), "runs/demo")) for at, text in record(command)]
    events = shortened([prompt, *printed])
    GALLERY.mkdir(exist_ok=True)
    write_cast(events, "selfkd demo", GALLERY / "demo.cast")
    write_gif(events, GALLERY / "demo.gif")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
