"""The feature pipeline's command line on bad input: one clear line on stderr, exit code 1, every table as it was."""

from __future__ import annotations

import errno
import shutil

import pandas as pd
import pytest
from deltalake import DeltaTable

from fti.features import publish, run
from tests.small_repo import JULY, arguments, complaint


def test_a_missing_raw_file_is_named(folder, capsys):
    """With the command that brings it back."""
    (folder / "raw" / "weather.csv").unlink()
    line = complaint(folder, capsys, "ingest", *JULY)
    assert "weather.csv is missing" in line
    assert "pip install" in line


def test_a_truncated_archive_is_named(folder, capsys):
    """Half a download is no raw file."""
    archive = folder / "raw" / "flights.csv.zip"
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    assert "flights.csv.zip cannot be read (BadZipFile" in complaint(folder, capsys, "ingest", *JULY)


def test_a_missing_column_is_named(folder, capsys):
    """With the columns there are."""
    (folder / "raw" / "planes.csv").write_text("tailnum,year,chairs\nN1AB,1999,150\n")
    assert "lacks the column(s) ['seats']; found ['tailnum', 'year', 'chairs']" in complaint(
        folder, capsys, "ingest", *JULY
    )


@pytest.mark.parametrize(
    ("command", "reason"), [("ingest", "the source has no event in it"), ("publish", "no raw events in it")]
)
def test_an_interval_without_data_is_refused(folder, capsys, command, reason):
    """A year that the source does not have would otherwise publish twelve times nothing, and say it was done."""
    assert reason in complaint(folder, capsys, command, "--start", "2020-01-01", "--end", "2020-02-01", "--force")


def test_time_that_never_landed_is_not_published(folder, capsys):
    """Its rows would say that nobody flew, and be taken for fresh; who knows that nobody did says so."""
    later = ("--start", "2013-07-03", "--end", "2013-07-08")
    line = complaint(folder, capsys, "publish", *later)
    assert "landed, batch 2013-07-03T00:00Z/2013-07-08T00:00Z: refused by events_to_the_end" in line
    assert "ingest" in line
    congestion = folder / "data" / "features" / "origin_congestion"
    assert DeltaTable(str(congestion)).to_pandas().event_timestamp.max() == pd.Timestamp("2013-07-03", tz="UTC")
    assert run.main(arguments(folder, "publish", *later, "--accept", "landed.events_to_the_end")) == 0
    assert DeltaTable(str(congestion)).to_pandas().event_timestamp.max() == pd.Timestamp("2013-07-08", tz="UTC")


def test_rows_that_a_definition_declares_otherwise_are_not_published(folder, capsys):
    """As a plan refuses them; here before they are in the table."""
    views = folder / "feature_repo" / "feature_views.py"
    views.write_text(views.read_text().replace('"origin_temperature_f", Float64', '"origin_temperature_f", String'))
    (folder / "raw" / "weather.csv").write_text(
        (folder / "raw" / "weather.csv").read_text().replace("JFK,10,", "JFK,11,")
    )
    line = complaint(folder, capsys, "publish", *JULY)
    assert "Feature view 'origin_weather' declares 'origin_temperature_f' as String, but the column" in line
    assert "is double, which is no such value" in line
    assert "Declare the type of the column, or cast it in feature_repo/transforms.py" in line


@pytest.mark.parametrize("command", ["ingest", "validate", "publish", "apply", "materialize", "all"])
def test_a_folder_without_feature_store_yaml_is_no_repository(folder, capsys, command):
    """No command writes tables beside a folder that was named by mistake."""
    (folder / "feature_repo" / "feature_store.yaml").unlink()
    assert "No feature_store.yaml" in complaint(folder, capsys, command)


@pytest.mark.parametrize("content", ["", "garbage", '{"protocol":{"minRe'])
@pytest.mark.parametrize(("command", "table"), [("ingest", "raw/arrivals"), ("publish", "features/flight_outcome")])
def test_a_log_that_cannot_be_read_is_named(folder, capsys, content, command, table):
    """Empty, garbled or cut short: the message names the table and how to get it back, without a backtrace."""
    (folder / "data" / table / "_delta_log" / f"{0:020}.json").write_text(content)
    line = complaint(folder, capsys, command, *JULY)
    assert f"The log of Delta table {folder / 'data' / table} cannot be read" in line
    assert "rebuild it" in line
    assert "unknown" not in line


def test_a_data_file_that_cannot_be_read_is_named(folder, capsys):
    """The log is fine and a Parquet file is not."""
    for file in (folder / "data" / "raw" / "arrivals").rglob("*.parquet"):
        file.write_text("garbage")
    line = complaint(folder, capsys, "publish", *JULY)
    assert ".parquet" in line
    assert "if a file is damaged" in line


def test_a_full_disk_is_said_to_be_one(folder, capsys, monkeypatch):
    """The reason, that no table is half written, and what to do."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    shutil.rmtree(folder / "data" / "features")
    monkeypatch.setattr(publish, "write_deltalake", full)
    line = complaint(folder, capsys, "publish", *JULY)
    assert "No space left on device" in line
    assert "run the same command again" in line


def test_a_transform_with_other_columns_is_refused(folder, capsys, monkeypatch):
    """A new feature does not slip past a table that has no place for it."""
    rows = publish.with_month
    monkeypatch.setattr(
        publish, "with_month", lambda given: rows(given).append_column("new", rows(given)["event_month"])
    )
    line = complaint(folder, capsys, "publish", *JULY)
    assert "'new'" in line
    assert "Delete the table's folder" in line


@pytest.mark.parametrize(
    ("file", "addition", "found"),
    [
        ("entities.py", 'raise ValueError("made\\nup")', "entities.py, line {line} (ValueError: made up)"),
        ("feature_views.py", "def broken(:", "feature_views.py, line {line} (SyntaxError"),
        ("feature_services.py", "import no_such_module", "feature_services.py, line {line} (ModuleNotFoundError"),
        ("feature_services.py", "raise SystemExit(3)", "feature_services.py, line {line} (SystemExit: 3)"),
    ],
)
def test_a_broken_definition_is_named_with_its_line(folder, capsys, file, addition, found):
    """Whatever a definition raises when Feast imports it."""
    path = folder / "feature_repo" / file
    path.write_text(path.read_text() + addition + "\n")
    line = len(path.read_text().splitlines())
    assert found.format(line=line) in complaint(folder, capsys, "apply")


def test_a_broken_feature_store_yaml_is_named(folder, capsys):
    """Its folder and what the parser says."""
    (folder / "feature_repo" / "feature_store.yaml").write_text("project: [")
    assert f"failed in {folder / 'feature_repo'} (ParserError" in complaint(folder, capsys, "apply")


def test_materializing_before_applying_is_refused(folder, capsys):
    """An empty registry would materialize nothing, and say it was done."""
    assert "apply` first" in complaint(folder, capsys, "materialize")


@pytest.mark.parametrize(
    ("moments", "reason"),
    [
        (("--start", "2013-07-02", "--end", "2013-07-01"), "is not before --end"),
        (("--start", "2013-10-02"), "is not before --as-of"),
        (("--start", "yesterday"), "expected ISO 8601"),
    ],
)
def test_impossible_moments_are_wrong_usage(folder, capsys, moments, reason):
    """An end before the start, a materialization before the first feature, a time that is none."""
    with pytest.raises(SystemExit) as stopped:
        run.main(arguments(folder, "all", *moments))
    assert stopped.value.code == 2
    assert reason in capsys.readouterr().err
