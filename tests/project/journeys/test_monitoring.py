"""The monitors on the real year: agreement where there is nothing wrong, and each seeded fault found and named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from deltalake import DeltaTable
from sklearn.metrics import brier_score_loss, roc_auc_score
from sqlalchemy import Engine, select, update

from fti.contract.predictions import PREDICTIONS, create, open_log, read
from fti.contract.results import Result, saved
from fti.monitoring import run
from fti.serving import batch
from fti.serving.prediction_log import LoggedPrediction, log_entry, stored, write
from tests.conftest import emptied

MODEL = "arrival-delay"
START = datetime(2013, 10, 2, tzinfo=UTC)
DAYS, DELAY = 2, timedelta(hours=48)
END = START + timedelta(days=DAYS)
ONLINE = datetime(2013, 10, 1, tzinfo=UTC)  # what the workspace's online store is as of
NOW = datetime(2026, 1, 1, tzinfo=UTC)


pytestmark = pytest.mark.usefixtures("commands_see_workspace")


@pytest.fixture(scope="module")
def scored(commands_see_workspace, tmp_path_factory) -> Engine:
    """A log with two days of batch predictions."""
    url = f"sqlite:///{tmp_path_factory.mktemp('monitored') / 'log.db'}"
    assert batch.main(["--as-of", START.isoformat(), "--days", str(DAYS), "--url", url]) == 0
    return open_log(url)


@pytest.fixture
def log(scored, tmp_path) -> Engine:
    """A copy of it to spoil."""
    engine = open_log(f"sqlite:///{tmp_path / 'log.db'}")
    create(engine)
    with scored.connect() as source, engine.begin() as target:
        target.execute(PREDICTIONS.insert(), [dict(row) for row in source.execute(select(PREDICTIONS)).mappings()])
    return engine


@pytest.fixture(scope="module")
def answered(trained, commands_see_workspace) -> Callable[[datetime], list[LoggedPrediction]]:
    """What the champion answers online about 40 flights, as of a moment, as the service logs it."""
    from fti.scoring.loading import find_version, load

    version = find_version(MODEL, "champion", None)
    assert version is not None
    model = load(version, trained.repo)
    flights = DeltaTable(trained.root / "data" / "features" / "flight_schedule").to_pandas()
    soon = flights[flights.scheduled_departure.between(ONLINE + timedelta(hours=10), ONLINE + timedelta(hours=12))]
    names = [field.name for field in model.contract.interface.request_fields]
    asked = [json.loads(soon.iloc[[row]][names].to_json(orient="records", date_format="iso"))[0] for row in range(40)]

    def answer(as_of: datetime) -> list[LoggedPrediction]:
        bodies = [json.dumps(request | {"as_of": as_of.isoformat()}).encode() for request in asked]
        requests = [model.parse(body, NOW)[0] for body in bodies]
        found = enumerate(model.predict(requests))
        return [log_entry(model, said, "test", row, "champion", NOW, 1.0) for row, said in found]

    return answer


def monitored(engine: Engine, as_of: datetime = END, *more: str) -> tuple[int, list[Result]]:
    """Run the command line; its exit code, and what it left in SQL."""
    folder = Path(str(engine.url.database)).parent
    files = ["--report", str(folder / "report.html"), "--prometheus", str(folder / "monitor.prom"), "--no-alert"]
    code = run.main(["--as-of", as_of.isoformat(), "--days", str(DAYS), "--url", str(engine.url), *files, *more])
    return code, saved(engine, as_of)


def of(results: list[Result], monitor: str) -> dict[str, Result]:
    """What a monitor judged, by metric."""
    return {one.metric: one for one in results if one.monitor == monitor and one.verdict}


def put(engine: Engine, rows: list[LoggedPrediction]) -> None:
    write(engine, [stored(row, engine.dialect) for row in rows])


def test_batch_predictions_agree_with_the_offline_store(scored):
    """Every value of every row, of stored and on-demand features alike."""
    _, results = monitored(scored)
    found = of(results, "consistency")
    assert found["consistency"].value == 1
    assert found["consistency"].rows == len(read(scored, START, END))
    assert len(found) == 1 + 54
    assert {one.verdict for one in found.values()} == {"healthy"}


def test_online_answers_agree_with_the_offline_store(answered, tmp_path):
    """What the online store gave, right after it was materialized, is what training would have seen."""
    engine = open_log(f"sqlite:///{tmp_path / 'log.db'}")
    create(engine)
    put(engine, answered(ONLINE))
    _, results = monitored(engine, ONLINE + timedelta(minutes=1))
    found = of(results, "consistency")
    assert (found["consistency"].value, found["consistency"].rows) == (1, 40)


def test_a_late_materialization_is_found_and_named(answered, tmp_path):
    """Forty minutes later the offline store has newer rows of what changes by the quarter of an hour."""
    engine = open_log(f"sqlite:///{tmp_path / 'log.db'}")
    create(engine)
    put(engine, answered(ONLINE + timedelta(minutes=40)))
    code, results = monitored(engine, ONLINE + timedelta(hours=1))
    found = of(results, "consistency")
    assert code == run.BREACHED
    late = found["origin_mean_dep_delay_1h"]
    assert late.verdict == "breach"
    assert "origin_congestion: older rows were online (median age 0.7 h): it was materialized late" in late.details
    assert found["tail_seats"].verdict == "healthy"
    assert not any("its inputs agree" in one.details for one in found.values())


def test_what_is_late_within_the_allowance_is_no_breach(answered, tmp_path):
    """As many values differ, all of them those of forty minutes ago: stored ones, and those computed from them."""
    engine = open_log(f"sqlite:///{tmp_path / 'log.db'}")
    create(engine)
    put(engine, answered(ONLINE + timedelta(minutes=40)))
    strict = of(monitored(engine, ONLINE + timedelta(hours=1))[1], "consistency")
    results = monitored(engine, ONLINE + timedelta(hours=1), "--refresh-minutes", "60")[1]
    found = of(results, "consistency")
    assert {one.verdict for one in found.values()} == {"healthy"}
    assert {name: one.value for name, one in found.items()} == {name: one.value for name, one in strict.items()}
    share = next(one for one in results if one.metric == "late_share")
    assert share.verdict is None
    assert share.value == pytest.approx(1 - found["consistency"].value)
    assert "late by 40.0 (median), 40.0 (most) minutes; 60 minutes are allowed" in share.details
    assert "mismatch" not in "".join(one.details for one in found.values())
    assert " late" in found["origin_mean_dep_delay_1h"].details


def test_what_is_later_than_the_allowance_is_a_breach(answered, tmp_path):
    """Half an hour was promised, and the rows are forty minutes old."""
    engine = open_log(f"sqlite:///{tmp_path / 'log.db'}")
    create(engine)
    put(engine, answered(ONLINE + timedelta(minutes=40)))
    code, results = monitored(engine, ONLINE + timedelta(hours=1), "--refresh-minutes", "30")
    found = of(results, "consistency")
    assert code == run.BREACHED
    assert (found["consistency"].verdict, found["origin_mean_dep_delay_1h"].verdict) == ("breach", "breach")
    share = next(one for one in results if one.metric == "late_share")
    assert (share.value, share.details) == (0, "none is late; 30 minutes are allowed")


def test_an_allowance_excuses_no_other_unit(answered, tmp_path):
    """Whoever is late and wrong is wrong: a stored feature in another unit, and one computed from the request alone."""
    engine = open_log(f"sqlite:///{tmp_path / 'log.db'}")
    create(engine)
    put(engine, [spoilt(row) for row in answered(ONLINE + timedelta(minutes=40))])
    code, results = monitored(engine, ONLINE + timedelta(hours=1), "--refresh-minutes", "60")
    found = of(results, "consistency")
    assert code == run.BREACHED
    assert {name for name, one in found.items() if one.verdict == "breach"} == {
        "consistency", "origin_temperature_f", "dep_local_hour",
    }  # fmt: skip
    assert "40 mismatch" in found["origin_temperature_f"].details
    assert " late" in found["origin_mean_dep_delay_1h"].details


def spoilt(row: LoggedPrediction) -> LoggedPrediction:
    """One stored feature in another unit, and one on-demand feature off by an hour."""
    values = dict(row.features)
    values["origin_temperature_f"] = (values["origin_temperature_f"] - 32) / 1.8
    values["dep_local_hour"] += 1
    return replace(row, features=values)


def test_a_feature_that_is_computed_otherwise_online_is_found_and_named(answered, tmp_path):
    """One stored feature in another unit, and one on-demand feature off by an hour; no other is accused."""
    engine = open_log(f"sqlite:///{tmp_path / 'log.db'}")
    create(engine)
    put(engine, [spoilt(row) for row in answered(ONLINE)])
    code, results = monitored(engine, ONLINE + timedelta(minutes=1))
    found = of(results, "consistency")
    assert code == run.BREACHED
    assert {name for name, one in found.items() if one.verdict == "breach"} == {
        "consistency", "origin_temperature_f", "dep_local_hour",
    }  # fmt: skip
    assert found["consistency"].value == pytest.approx(1 - 2 / 54)
    assert "40 mismatch" in found["origin_temperature_f"].details
    assert "the offline store never had these values" in found["origin_temperature_f"].details
    assert "computed by other code online" in found["dep_local_hour"].details


def test_quality_is_that_of_the_labels_that_are_known(scored, trained):
    """AUC, Brier score, coverage and bias against scikit-learn over the tables; each day too."""
    as_of = END + DELAY
    _, results = monitored(scored, as_of)
    whole = {one.metric: one for one in results if one.monitor == "quality" and (one.start, one.end) == (START, END)}
    outcomes = DeltaTable(trained.root / "data" / "features" / "flight_outcome").to_pandas()
    known = outcomes[outcomes.event_timestamp <= as_of].set_index("flight_id").is_late
    predicted = read(scored, START, END)
    label = predicted.row_key.map(known.astype("float64"))
    there = label.notna()
    assert whole["label_coverage"].value == pytest.approx(there.mean())
    assert whole["roc_auc"].rows == there.sum()
    assert whole["roc_auc"].value == pytest.approx(roc_auc_score(label[there], predicted.prediction[there]))
    assert whole["brier"].value == pytest.approx(brier_score_loss(label[there], predicted.prediction[there]))
    assert whole["bias"].value == pytest.approx(predicted.prediction[there].mean() - label[there].mean())
    assert whole["roc_auc"].low < whole["roc_auc"].value < whole["roc_auc"].high
    days = [one for one in results if one.metric == "brier" and one.end - one.start == timedelta(days=1)]
    assert [one.start for one in days] == [START, START + timedelta(days=1)]
    assert {one.verdict for one in days} == {None}
    assert any(one.metric.startswith("roc_auc[carrier=") for one in results)


def test_labels_of_online_answers_are_found_by_what_was_asked(answered, tmp_path):
    """A request has no flight number of the year's table, but it names one flight of the schedule."""
    engine = open_log(f"sqlite:///{tmp_path / 'log.db'}")
    create(engine)
    put(engine, answered(ONLINE))
    _, results = monitored(engine, ONLINE + timedelta(hours=1) + DELAY)
    coverage = next(one for one in results if one.metric == "label_coverage" and one.rows == 40)
    assert coverage.value > 0.9
    # They were asked eight hours earlier than the model was fitted to: it is not judged by them.
    assert coverage.subject == f"{MODEL} version {answered(ONLINE)[0].model_version}, champion, asked ahead"
    assert {one.verdict for one in results if one.subject == coverage.subject} == {None}


def test_a_model_that_answers_the_opposite_is_in_breach(log):
    """Ranks and mean are both wrong beyond what chance explains."""
    with log.begin() as connection:
        connection.execute(update(PREDICTIONS).values(prediction=1 - PREDICTIONS.c.prediction))
    code, results = monitored(log, END + DELAY)
    whole = {one.metric: one for one in results if one.monitor == "quality" and (one.start, one.end) == (START, END)}
    assert code == run.BREACHED
    assert (whole["roc_auc"].verdict, whole["bias"].verdict) == ("breach", "breach")


def test_drift_is_found_where_it_is(log):
    """Wind in another unit moves that feature; answers that pile up elsewhere are a breach."""
    before = of(monitored(log)[1], "drift")
    rows = read(log, START, END)
    with log.begin() as connection:
        for row in rows.itertuples():
            values = json.loads(row.features)
            values["scheduled_minutes"] = values["scheduled_minutes"] / 60
            connection.execute(
                update(PREDICTIONS)
                .where(PREDICTIONS.c.request_id == row.request_id, PREDICTIONS.c.row == row.row)
                .values(features=json.dumps(values), prediction=0.9 + row.prediction / 10)
            )
    after = of(monitored(log)[1], "drift")
    assert before["scheduled_minutes"].verdict == "healthy"
    assert after["scheduled_minutes"].verdict == "investigate"
    assert after["prediction"].verdict == "breach"
    assert before["prediction"].verdict != "breach"


def test_views_are_as_old_as_their_tables_and_the_online_store_say(scored, trained):
    """Hours, at a moment that nobody materialized for."""
    _, results = monitored(scored)
    aged = {(one.subject, one.metric): one for one in results if one.monitor == "freshness"}
    weather = DeltaTable(trained.root / "data" / "features" / "origin_weather").to_pandas().event_timestamp
    newest = weather[weather <= END].max()
    assert aged["origin_weather", "offline_age_hours"].value == (END - newest) / timedelta(hours=1)
    lag = aged["origin_weather", "materialization_lag_hours"]
    assert (lag.value, lag.verdict) == ((END - ONLINE) / timedelta(hours=1), "breach")


def test_rows_that_the_online_store_lost_are_found_and_their_view_named(scored, trained):
    """All of one view; the others are there."""
    with emptied(trained.online_store, "%route_profile"):
        _, results = monitored(scored, ONLINE)
    lost = {one.subject: one for one in results if one.metric == "online_rows_lost"}
    assert (lost["route_profile"].value, lost["route_profile"].verdict) == (1, "breach")
    assert "100 of 100 sampled keys have no row online, 0 an older one; refill it" in lost["route_profile"].details
    others = [one for view, one in lost.items() if view != "route_profile"]
    assert {(one.value, one.verdict) for one in others} == {(0, "healthy")}


def test_days_begin_when_the_interval_does(scored):
    """In the middle of a day too, there are as many rows as on other days."""
    _, results = monitored(scored, END + timedelta(hours=6, minutes=30))
    found = [one for one in results if (one.monitor, one.subject) == ("volume", "origin_congestion")]
    assert [one.start for one in found] == [START + timedelta(days=day, hours=6, minutes=30) for day in range(DAYS)]
    assert {one.value for one in found} == {1}


def test_volume_and_quarantine_are_counted(scored, trained):
    """Rows of a day beside the median of four weeks, and none held of those days."""
    _, results = monitored(scored)
    table = DeltaTable(trained.root / "data" / "features" / "flight_outcome").to_pandas().event_timestamp
    days = table.dt.floor("D").value_counts().sort_index()
    usual = days[(days.index >= START - timedelta(days=28)) & (days.index < START)].median()
    found = {one.start: one for one in results if (one.monitor, one.subject) == ("volume", "flight_outcome")}
    assert found[START].rows == days[pd.Timestamp(START)]
    assert found[START].value == pytest.approx(days[pd.Timestamp(START)] / usual)
    assert {one.value for one in results if one.monitor == "quarantine"} == {0}


def test_without_predictions_there_are_no_data(tmp_path, capsys):
    """Nothing is healthy only because nobody looked."""
    engine = open_log(f"sqlite:///{tmp_path / 'log.db'}")
    create(engine)
    _, results = monitored(engine, ONLINE)
    assert {one.monitor: one.verdict for one in results if one.monitor in ("consistency", "drift", "quality")} == {
        "consistency": "no_data", "drift": "no_data", "quality": "no_data",
    }  # fmt: skip
    assert f"As of {ONLINE:%Y-%m-%dT%H:%MZ}" in capsys.readouterr().out


def test_bad_input_is_refused_in_a_line(capsys):
    """A moment that is none, no days, and a log that is off."""
    moment = ["--as-of", "2013-10-12"]
    for wrong in (["--as-of", "yesterday"], [*moment, "--days", "0"], [*moment, "--refresh-minutes", "-1"]):
        with pytest.raises(SystemExit):
            run.main(wrong)
    assert run.main(["--as-of", "2013-10-12", "--url", "off"]) == 1
    assert "nothing to monitor" in capsys.readouterr().err
