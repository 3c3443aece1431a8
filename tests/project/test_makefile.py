"""The Makefile: what is given to it arrives at the command as it is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHOWN = "printf '%s\\n'"  # in the place of Python: a line an argument
HARD = """it's "here" `touch ran` $(touch ran) $HOME; a\\b"""


def given(folder: Path, target: str, **variables: str) -> list[str]:
    """The arguments that the target's command gets, by the shell that make would ask; run in `folder`."""
    command = ["make", "--no-print-directory", "-n", "-C", str(ROOT), target, f"PYTHON={SHOWN}"]
    told = [*command, *(f"{name}={value}" for name, value in variables.items())]
    clean = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "AS_OF")}
    printed = subprocess.run(told, capture_output=True, text=True, check=True, env=clean).stdout
    (line,) = [line for line in printed.splitlines() if SHOWN in line and "--check" not in line]
    return subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, check=True, cwd=folder
    ).stdout.splitlines()


@pytest.mark.parametrize(
    ("target", "variable"),
    [
        ("quarantine", "EXPORT"),
        ("release", "ROWS"),
        ("card", "VERSION"),
        ("monitor", "AS_OF"),
        ("erase", "ENTITY"),
        ("new", "DEST"),
    ],
)
def test_a_value_arrives_as_it_is(tmp_path, target, variable):
    """Quotes, backticks and dollars too: nothing of it is run, nothing is lost."""
    words = given(tmp_path, target, **{variable: HARD})
    assert words[:4] == ["-m", "fti.cli", "make", target]
    assert f"{variable}={HARD}" in words[4:]
    assert not list(tmp_path.iterdir())


def test_what_is_not_given_does_not_appear(tmp_path):
    """The defaults are Python's."""
    words = given(tmp_path, "features")
    assert [word for word in words if not word.startswith("PYTHON=")] == ["-m", "fti.cli", "make", "features"]


@pytest.mark.parametrize("target", ["run", "monitor", "test", "lint"])
def test_a_mistyped_variable_is_refused_before_anything_is_done(target):
    """By its name, and for every target, also those that call other tools."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--no-print-directory", "-C", str(ROOT), target, "ASOF=2013-10-12"]
    done = subprocess.run(command, capture_output=True, text=True, env=clean, timeout=300)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("make: ***", "set-up:"))]
    assert len(lines) == 1
    assert lines[0].startswith(f"error: ASOF is no variable of `make {target}`")
    assert ("did you mean AS_OF?" in lines[0]) == (target in ("run", "monitor"))
