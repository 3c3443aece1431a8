"""Raw files of packages: each cell is what it says, and only what a source says is missing is missing."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from fti.features.source import PackageFiles, SourceError

WORDS = ["NA", "null", "None", "nan", "N/A", "Łódź 🚲"]


class Files(PackageFiles):
    package = "made-up"
    types: ClassVar = {"word": "str", "count": "Int64", "level": "float64"}


class FilesWithMarkers(Files):
    missing = ("NA", "-")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    numbers = [2**53 + 1, -(2**63), 2**63 - 1, "", 0, 7]
    lines = [f"{word},{number},{number and 0.5}" for word, number in zip(WORDS, numbers, strict=True)]
    (tmp_path / "words.csv").write_text("\n".join(["word,count,level", *lines, ",,"]) + "\n")
    return tmp_path


def test_a_word_that_pandas_takes_for_missing_is_a_word(folder):
    """Only an empty cell is missing; a whole number beside one is kept to its last digit."""
    frame = Files(folder).read("words.csv", ["word", "count", "level"])
    assert frame.word.tolist()[:-1] == WORDS
    assert frame.word.isna().tolist() == [False] * 6 + [True]
    assert frame["count"].dropna().tolist() == [2**53 + 1, -(2**63), 2**63 - 1, 0, 7]
    assert frame["count"].isna().sum() == frame.level.isna().sum() == 2


def test_a_source_says_which_words_of_its_files_are_missing(folder):
    """These, and no others."""
    frame = FilesWithMarkers(folder).read("words.csv", ["word"])
    assert frame.word.isna().tolist() == [True, False, False, False, False, False, True]


def test_a_word_in_a_column_of_numbers_is_refused_unless_it_is_said_to_be_missing(tmp_path):
    """With the file's name, in one line."""
    (tmp_path / "levels.csv").write_text("level\n1.5\n-\n")
    with pytest.raises(SourceError, match=r"levels\.csv cannot be read"):
        Files(tmp_path).read("levels.csv", ["level"])
    assert FilesWithMarkers(tmp_path).read("levels.csv", ["level"]).level.isna().tolist() == [False, True]
