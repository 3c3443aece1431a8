"""Make's variables as options: what is read, in which spelling, and what is refused."""

from __future__ import annotations

import pytest

from fti.cli import make
from fti.cli.app import app

HARD = """it's "here" `touch ran` $(touch ran) $HOME; a\\b"""


@pytest.mark.parametrize(
    ("target", "given", "words"),
    [
        ("quarantine", {"TABLE": "weather", "EXPORT": HARD}, ["--table=weather", f"--export={HARD}"]),
        ("features", {"AS_OF": "2013-10-01", "FORCE": "1"}, ["--as-of=2013-10-01", "--force"]),
        ("features", {"AS_OF": "", "FORCE": ""}, []),
        ("train", {"MODE": "dry_run", "TRIALS": "5", "FAULT": "not its own"}, ["--trials=5", "--mode=dry_run"]),
        ("replay", {"FAULT": "a@2013-10-08 b@2013-10-12", "REFRESH": "5"},
         ["--refresh-minutes=5", "--fault=a@2013-10-08", "--fault=b@2013-10-12"]),
        ("erase", {"ENTITY": "tailnum=N1", "YES": "1"}, ["--yes", "--", "tailnum=N1"]),
        ("production-down", {"PURGE": "1"}, ["--purge"]),
        ("check-port", {"PORT": "3001"}, ["--port=3001"]),
        ("run", {"PORT": "3001", "AS_OF": "2013-10-01"}, ["--as-of=2013-10-01", "--port=3001"]),
    ],
)  # fmt: skip
def test_variables_are_options(target, given, words):
    """By their names; an empty one is not given, and one of another goal is left to it."""
    assert make.options(make.find(app(), target)[1], given) == words


@pytest.mark.parametrize(
    ("goals", "name", "near"),
    [
        (["monitor"], "ASOF", "AS_OF"),
        (["train"], "FEATURE_SERVCE", "FEATURE_SERVICE"),
        (["monitor"], "DAY", "DAYS"),
        (["features", "train"], "as_of", "AS_OF"),
        (["serve"], "SERVING_PROT", ""),
        (["monitor"], "FEATURE_SERVICE", ""),
    ],
)
def test_an_unknown_variable_is_refused_by_name(goals, name, near):
    """With the nearest one that a goal reads."""
    with pytest.raises(make.UnknownVariable, match=rf"^{name} is no variable.*{near and f'did you mean {near}'}"):
        make.require_known(app(), goals, [name], [])


def test_known_variables_pass():
    """Those of any goal, of the Makefile, of the project's environment, and of other programs."""
    known = ["AS_OF", "FEATURE_SERVICE", "ARGS", "SERVING_WORKERS", "MLFLOW_TRACKING_URI", "https_proxy"]
    make.require_known(app(), ["features", "train", "test"], known, ["ARGS"])
