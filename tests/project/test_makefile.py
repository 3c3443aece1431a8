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
    (line,) = [line for line in printed.splitlines() if SHOWN in line]
    return subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, check=True, cwd=folder
    ).stdout.splitlines()


@pytest.mark.parametrize(
    ("target", "option", "variable"),
    [
        ("quarantine", "--export", "EXPORT"),
        ("release", "--rows", "ROWS"),
        ("ingest", "--received-at", "RECEIVED_AT"),
        ("new", "--name", "NAME"),
        ("card", "--version", "VERSION"),
        ("features", "--as-of", "AS_OF"),
        ("monitor", "--as-of", "AS_OF"),
        ("replay", "--from", "FROM"),
    ],
)
def test_a_value_arrives_as_it_is(tmp_path, target, option, variable):
    """Quotes, backticks and dollars too: nothing of it is run, nothing is lost."""
    words = given(tmp_path, target, **{variable: HARD})
    assert words[words.index(option) + 1] == HARD
    assert not list(tmp_path.iterdir())


def test_a_new_projects_folder_arrives_as_it_is(tmp_path):
    """An argument by place, not by name."""
    assert given(tmp_path, "new", DEST=HARD) == ["-m", "fti.scaffold.new", HARD]


def test_a_batch_rule_that_is_accepted_is_accepted_by_validate_too(tmp_path):
    """Who looks before he lands looks by the same rules."""
    assert given(tmp_path, "validate", ACCEPT="raw.rule")[-2:] == ["--accept", "raw.rule"]


def test_what_is_not_given_does_not_appear(tmp_path):
    """The defaults are Python's."""
    assert given(tmp_path, "features") == ["-m", "fti.features.run", "all"]


def test_faults_of_a_replay_are_arguments_each(tmp_path):
    """A variable that holds several values gives several options."""
    words = given(tmp_path, "replay", FAULT="frozen-weather@2013-10-08 celsius-online@2013-10-12")
    assert words[-4:] == ["--fault", "frozen-weather@2013-10-08", "--fault", "celsius-online@2013-10-12"]
