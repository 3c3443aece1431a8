"""The one base of errors that a person can mend: a command line prints them as one line, without a traceback."""


class Refusal(RuntimeError):
    """Something asked for cannot be done; the message says what was found, what was expected and how to mend it."""


def one_line(error: Exception) -> str:
    """What a command line says of an error: all of a Refusal, and of a library's own the first line."""
    return str(error) if isinstance(error, Refusal) else " ".join(str(error).partition("\n")[0].split())
