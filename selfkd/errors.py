"""The one exception that the command line shows as a single line: something the user can put right."""


class InputError(ValueError):
    """Bad input; the message names the file and the field. The command exits with code 2."""
