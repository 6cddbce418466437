"""The exceptions that the command line shows as a single line: something the user can put right."""


class InputError(ValueError):
    """Bad input; the message names the file and the field. The command exits with code 2."""


class EngineError(InputError):
    """A speech engine that is of no use for any row: it does not start, or its server is out of reach. The job stops,
    and no row is refused for it."""
