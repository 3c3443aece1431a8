"""Model card and data sheet of the trained workspace, against what pandas, MLflow and the files say by themselves."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from deltalake import DeltaTable
from mlflow import MlflowClient

from fti.features import datasheet
from fti.training import card
from fti.training.card_sections import text_of

NAME = "arrival-delay"
AS_OF = pd.Timestamp("2013-10-01", tz="UTC")


@pytest.fixture(scope="module")
def client(trained, commands_see_workspace) -> MlflowClient:
    return MlflowClient(trained.tracking_uri)


def cells(text: str, heading: str) -> dict[str, dict[str, str]]:
    """The first table below a heading, by the first cell of each row."""
    lines = text.split(f"{heading}", 1)[1].split("\n| ", 1)[1].split("\n\n", maxsplit=1)[0].splitlines()
    titles, _, *rows = [re.split(r"(?<!\\)\|", line.removeprefix("| ").removesuffix(" |")) for line in lines]
    titles = [title.strip() for title in titles]
    return {row[0].strip().strip("`"): dict(zip(titles, map(str.strip, row), strict=True)) for row in rows}


def frame(trained, kind: str, table: str) -> pd.DataFrame:
    return DeltaTable(str(trained.root / "data" / kind / table)).to_pandas()


class Sources(HTMLParser):
    """What a page makes a browser fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name == "src" or (tag == "link" and name == "href")]


def fetched_by(page: Path) -> list[str]:
    sources = Sources()
    sources.feed(page.read_text())
    return sources.found


# ---- the model card -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_card_says_what_mlflow_and_the_tables_say(client, trained, version, tmp_path):
    """Rows are counted again from the landings, scores are those of the run, the decision is the version's."""
    assert card.main(["--version", version, "--folder", str(tmp_path)]) == 0
    text = (tmp_path / f"{NAME}-{version}" / "model_card.md").read_text()
    found = client.get_model_version(NAME, version)
    run = client.get_run(found.run_id)

    outcome, schedule = frame(trained, "features", "flight_outcome"), frame(trained, "features", "flight_schedule")
    flights = schedule.merge(outcome[["flight_id", "event_timestamp"]], on="flight_id", suffixes=("", "_landed"))
    predicted = flights.scheduled_departure - pd.Timedelta(hours=2)
    start, end, judged = (pd.Timestamp(day, tz="UTC") for day in ("2012-12-01", "2013-08-28", "2013-08-30"))
    rows = int(((predicted >= start) & (predicted < end) & (flights.event_timestamp_landed <= judged)).sum())
    assert cells(text, "## Training data")["rows"][""] == f"{rows:,}"
    assert f"on {rows:,} rows" in text

    for period in ("validation", "holdout"):
        table = cells(text, f"(`{period}`)")
        for metric in ("roc_auc", "brier", "calibration_error"):
            assert float(table[metric]["this model"]) == pytest.approx(run.data.metrics[f"{period}_{metric}"], rel=1e-3)
            said = float(table[metric]["climatology"])
            assert said == pytest.approx(run.data.metrics[f"{period}_climatology_{metric}"], rel=1e-3)
    landed = frame(trained, "features", "flight_outcome").merge(schedule[["flight_id", "scheduled_departure"]])
    month = (landed.scheduled_departure - pd.Timedelta(hours=2)).dt.strftime("%Y-%m")
    assert cells(text, "### Month by month")["2013-11"]["rows"] == f"{(month == '2013-11').sum():,}"

    assert f"**{found.tags['gate.decision']}**" in text
    assert ("against champion 1" in text) == (version == "2")
    assert f"feature service `arrival_delay_v{version}`" in text
    assert found.tags["model.sha256"] in text
    assert run.data.tags["git_commit"] in text
    assert "Not for" in text  # of the words that a person wrote


def test_a_card_shows_the_figures_of_the_run_and_fetches_nothing(client, tmp_path):
    """Each picture that the page names lies beside it; none is somewhere else."""
    assert card.main(["--folder", str(tmp_path)]) == 0
    page = tmp_path / f"{NAME}-2" / "model_card.html"
    assert "plots/calibration.png" in fetched_by(page)
    assert all((page.parent / source).is_file() for source in fetched_by(page))
    assert "<td>carrier_origin_reliability</td>" in page.read_text().replace("<code>", "").replace("</code>", "")


def test_a_version_that_is_not_there_is_refused_by_name(client, capsys, tmp_path):
    """The message says which there are."""
    assert card.main(["--version", "99", "--folder", str(tmp_path)]) == 1
    assert "no version '99'; it has [1, 2]" in capsys.readouterr().err


def test_training_and_the_gate_leave_the_card_with_the_version(client, trained):
    """What they call writes it to the run and, as far as it fits, into the registry, cut between two sections."""
    version = client.get_model_version(NAME, "2")
    card.record(client, version)
    run = client.get_run(version.run_id)
    files = {file.path for file in client.list_artifacts(version.run_id)}
    assert {"model_card.md", "model_card_words.md"} <= files
    written = text_of(run, "model_card.md")
    description = client.get_model_version(NAME, "2").description
    assert len(description) <= 5000 < len(written)
    kept, _, goes_on = description.rpartition("\n\n… ")
    assert written.startswith(kept + "\n## ")
    assert f"make card VERSION={version.version}" in goes_on


def test_the_words_of_a_card_are_those_of_its_training(client, monkeypatch, tmp_path):
    """What is written into card.md later says nothing of a version that was trained before."""
    card.record(client, client.get_model_version(NAME, "2"))
    later = tmp_path / "card.md"
    later.write_text("## Intended use\n\nSomething else.\n")
    monkeypatch.setattr(card, "_words", lambda: later)
    assert "Something else" not in card.card(client, client.get_model_version(NAME, "2"))


# ---- the data sheet -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[None, AS_OF], ids=["all", "as of 1 October"])
def sheet(request, trained, commands_see_workspace, tmp_path_factory) -> tuple[str, pd.Timestamp | None]:
    file = tmp_path_factory.mktemp("sheet") / "sheet.md"
    moment = ["--as-of", "2013-10-01"] if request.param else []
    assert datasheet.main(["--repo", str(trained.repo), "--file", str(file), *moment]) == 0
    assert fetched_by(file.with_suffix(".html")) == []
    return file.read_text(), request.param


def known(rows: pd.DataFrame, as_of: pd.Timestamp | None) -> pd.DataFrame:
    return rows if as_of is None else rows[(rows.event_timestamp <= as_of) & (rows.created_timestamp <= as_of)]


@pytest.mark.parametrize("table", ["origin_congestion", "aircraft_rotation", "flight_outcome", "route_reliability"])
def test_a_sheet_counts_what_pandas_counts(sheet, trained, table):
    """Rows, first and last event, and the missing share of each feature, as of the moment."""
    text, as_of = sheet
    rows = known(frame(trained, "features", table), as_of)
    said = cells(text, "## Features and labels")[table]
    assert said["rows"] == f"{len(rows):,}"
    assert said["first event"] == f"{rows.event_timestamp.min():%Y-%m-%d %H:%M}"
    assert said["last event"] == f"{rows.event_timestamp.max():%Y-%m-%d %H:%M}"
    section = text.split(f"### `{table}`", 1)[1].split("\n### ", 1)[0]
    shares = dict(re.findall(r"^\| (\w+) \| (?:Float64|Int64|String|UnixTimestamp) \|.*\| (\S+%) \|$", section, re.M))
    features = [name for name in shares if name in rows]
    assert features
    for feature in features:
        assert shares[feature] == f"{rows[feature].isna().mean():.2%}"


def test_a_sheet_says_what_quarantine_holds_and_why(sheet, trained):
    """The flight of 17 miles, and the wind of 1,048 miles an hour, by rule."""
    text, as_of = sheet
    raw = cells(text, "## Raw events")
    for table in ("schedule", "weather", "arrivals"):
        path = trained.root / "data" / "quarantine" / table
        held = known(DeltaTable(str(path)).to_pandas(), as_of) if path.exists() else pd.DataFrame()
        assert raw[table]["held"] == str(len(held))
        section = text.split(f"### Raw `{table}`", 1)[1].split("\n### ", 1)[0]
        for rule in held.rules.unique() if len(held) else []:
            assert f"{rule} ({(held.rules == rule).sum()})" in section
            assert re.search(rf"^\| {rule} \|", section, re.M)  # what the rule is, too


def test_a_sheet_says_who_reads_a_view(sheet):
    """Services by the registry, and model versions under an alias by their contracts."""
    text, _ = sheet

    def readers(view: str) -> str:
        return re.search(r"^\| read by \| (.*) \|$", text.split(f"### `{view}`", 1)[1], re.M)[1]

    both = "feature service `arrival_delay_v1`; feature service `arrival_delay_v2`; "
    assert readers("route_reliability") == f"{both}model {NAME} version 1 (previous); model {NAME} version 2 (champion)"
    assert readers("flight_outcome").startswith(both)
    assert readers("origin_weather") == (f"feature service `arrival_delay_v2`; model {NAME} version 2 (champion)")
    assert "CC0" in text
