"""The one base of errors that a person can mend: a command line prints them as one line, without a traceback."""


class Refusal(RuntimeError):
    """Something asked for cannot be done; the message says what was found, what was expected and how to mend it."""
