"""A TTS engine with faults, in a module of its own: child processes import it in milliseconds."""

import os
import time

import numpy as np

from selfkd.errors import InputError


class FaultyEngine:
    """Hangs, dies or fails, as the text of an utterance tells it; else gives half a second of audio."""

    name = license = "none"

    def __init__(self, works=True):
        if not works:
            raise InputError("engine_path: nothing there")

    def synthesize_audio(self, utterance):
        if utterance.text == "hang":
            time.sleep(60)
        if utterance.text == "die":
            os._exit(7)
        if utterance.text == "fail":
            raise KeyError("phoneme")
        return np.full(8_000, 0.1, np.float32)
