"""Plain values of a module, without running it."""

from __future__ import annotations

import pytest

from fti.declared import calls, constants, keys

MODULE = """
import pandas
START, END = "2013-01-01", "2014-01-01"
TODAY: str = "2013-10-01"
KEYS = {"a": ["id"]}
MADE = pandas.Timestamp("2013-01-01")
TWICE = "once"
if MADE:
    TWICE = "again"
FAULTS = {"frozen": (object, 1), "other": None}
ONE = FeatureService(name="one", features=[])
TWO = feast.FeatureService(features=[], name="two")
THREE = FeatureService(name=f"{ONE}", features=[])
"""


def test_what_is_assigned_once_and_plain_is_found(tmp_path):
    """What is computed, or assigned twice, is left to whoever imports the module."""
    file = tmp_path / "source.py"
    file.write_text(MODULE)
    assert constants(file) == {
        "START": "2013-01-01", "END": "2014-01-01", "TODAY": "2013-10-01", "KEYS": {"a": ["id"]},
    }  # fmt: skip
    assert keys(file, "FAULTS") == ["frozen", "other"]
    assert keys(file, "NOTHING") is None
    assert calls(file, "FeatureService") == ["one", "two"]


@pytest.mark.parametrize("content", [None, b"START = (", b"\xff\x00"])
def test_a_module_that_cannot_be_read_has_none(tmp_path, content):
    """Whoever imports it says why."""
    file = tmp_path / "source.py"
    if content is not None:
        file.write_bytes(content)
    assert (constants(file), keys(file, "FAULTS"), calls(file, "FeatureService")) == ({}, None, [])
