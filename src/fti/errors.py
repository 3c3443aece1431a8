"""The one base of errors that a person can mend: a command line prints them as one line, without a traceback."""

from collections.abc import Iterable

SHOWN, LONGEST, MESSAGE = 20, 80, 500


class Refusal(RuntimeError):
    """Something asked for cannot be done; the message says what was found, what was expected and how to mend it."""


def one_line(error: Exception) -> str:
    """What a command line says of an error: all of a Refusal, and of a library's own the first line."""
    if isinstance(error, Refusal):
        return str(error)
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).partition("\n")[0].split())


def few(values: Iterable[object], joined_by: str | None = None) -> str:
    """Return a list for a message: the first SHOWN of it, none longer than LONGEST letters, and how many more.

    As Python writes a list; or, of sentences up to MESSAGE letters, with `joined_by` between them.
    """
    listed = list(values)
    texts = [short(value, MESSAGE) if joined_by else short(repr(value)) for value in listed[:SHOWN]]
    if len(listed) > SHOWN:
        texts.append(f"and {len(listed) - SHOWN:,} more")
    return joined_by.join(texts) if joined_by else f"[{', '.join(texts)}]"


def short(value: object, longest: int = LONGEST) -> str:
    """Return a value for a message: its text, cut off where it is too long to be read."""
    text = str(value)
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text):,} characters)"
