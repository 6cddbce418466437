"""A source of questions whose files hang their decoder, end it, or take all memory."""

import os
import time

from selfkd.synthesis.sources.toy import ToyWorld


class FaultySource(ToyWorld):
    def example(self, index):
        if index == 1:
            time.sleep(1_000)
        if index == 2:
            os._exit(7)
        if index == 3:
            return len(bytes(3 * 2**30))
        if index == 4:
            raise KeyError("of a library")
        return super().example(index)
