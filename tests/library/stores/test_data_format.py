"""The number of the format of a data folder: newer ones are refused in a line, older ones are taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from fti.stores import data_format
from fti.stores.data_format import DataTooNew, note, require_readable
from fti.stores.repository import require_current
from fti.stores.tables import tables_of


@pytest.mark.parametrize("written", [None, "1", "1\n", " 1 "])
def test_what_is_older_or_from_before_the_number_is_read(tmp_path, written):
    """A folder without one is of format 1, and nothing is written into it by reading."""
    if written is not None:
        (tmp_path / "format").write_text(written)
    require_readable(tmp_path)
    require_readable(tmp_path / "not there")
    assert (tmp_path / "format").exists() == (written is not None)


@pytest.mark.parametrize("written", ["2", "999", "0", "-1", "1.5", "", "two", "\udcff", "2" * 200])
def test_what_is_newer_or_no_number_is_refused_in_one_line(tmp_path, written):
    """By whoever looks for tables, and by whoever opens the feature store."""
    data, repo = tmp_path / "data", tmp_path / "feature_repo"
    data.mkdir()
    repo.mkdir()
    (data / "format").write_bytes(written.encode(errors="surrogateescape"))
    for ask in (require_current, tables_of):
        with pytest.raises(DataTooNew) as refused:
            ask(repo)
        assert f"{data / 'format'} says, and this fti knows formats up to 1" in str(refused.value)
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) < 600


def test_newer_code_takes_a_folder_of_an_older_format(tmp_path, monkeypatch):
    """As of today's, once the number is higher."""
    note(tmp_path)
    monkeypatch.setattr(data_format, "FORMAT", 2)
    require_readable(tmp_path)


def test_the_number_is_written_once(tmp_path: Path):
    """Into a folder that may not be there yet; what is there stays."""
    data = tmp_path / "data"
    note(data)
    before = (data / "format").stat().st_mtime_ns
    note(data)
    assert (data / "format").read_text() == "1\n"
    assert (data / "format").stat().st_mtime_ns == before
    assert [path.name for path in data.iterdir()] == ["format"]
