# SPDX-License-Identifier: Apache-2.0
"""The error for what a user can correct. It is here, and not with the other errors of selfkd, because a checkpoint
carries this file: `selfkd.errors.InputError` is this class."""

import re

# (?<!\s): blanks are tried from their first one only, else a long run of them takes quadratic time
ADDRESS = re.compile(r"(?:(?<!\s)\s+)?<[^<>]* at 0x[0-9A-Fa-f]+[^<>]*>|(?<!\s)\s+at 0x[0-9A-Fa-f]{6,}")


class InputError(ValueError):
    """Bad input; the message names the file and the field, without addresses in memory. The command exits with 2."""

    def __init__(self, message: object = ""):
        super().__init__(ADDRESS.sub("", str(message)))
