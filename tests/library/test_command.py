"""How a command says what went wrong."""

from __future__ import annotations

import pytest

from fti.command import fail
from fti.errors import Refusal


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(30, "Read-only file system", "/data/.writer"), "/data/.writer: Read-only file system. Make"),
        (OSError("the store is away"), "the store is away\n"),
        (ValueError("first\n[SQL: second]"), "first\n"),
        (Refusal("found 1,\nexpected 2"), "found 1, expected 2\n"),
    ],
)  # fmt: skip
def test_an_error_is_one_line(capsys, error, said):
    """With the file that cannot be used, and what to do; of a library's error its first line."""
    assert fail(error) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {said}")
    assert printed.count("\n") == 1
