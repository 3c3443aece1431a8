"""Test the footfall problem: quarantine, features against an oracle, the model, predictions, monitors. [yours]"""

from __future__ import annotations

import json
import sqlite3
import urllib.request
from contextlib import closing
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from deltalake import DeltaTable

from fti.contract.settings import PredictionSettings
from tests import oracle
from tests.conftest import Workspace
from tests.interval import AS_OF, END, START

HOUR = pd.Timedelta(hours=1)
FIRST, NOW, LAST = (pd.Timestamp(day, tz="UTC") for day in (START, AS_OF, END))
BEGAN = FIRST - HOUR  # the first hour whose count landed: it was complete at the start
MODEL = PredictionSettings().model_name  # a project made of this one gives it a name of its own


@pytest.fixture(scope="module")
def people() -> pd.DataFrame:
    return oracle.counts()


@pytest.fixture(scope="module")
def store(workspace: Workspace) -> Any:
    from feast import FeatureStore

    return FeatureStore(repo_path=str(workspace.repo))


def ask(address: str, body: dict[str, Any]) -> Any:
    asked = urllib.request.Request(
        f"{address}/predict", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return json.load(answer)


def rows_to_predict(sensors: list[str], hours: list[pd.Timestamp]) -> pd.DataFrame:
    """As an entity dataframe of Feast's: who and which hour, asked for three hours ahead."""
    frame = pd.DataFrame({"sensor": sensors, "hour_start": pd.DatetimeIndex(hours).astype("datetime64[us, UTC]")})
    return frame.assign(
        street=frame.sensor.map(oracle.street_of),
        hour=frame.hour_start.astype("int64") // 3_600_000_000,
        event_timestamp=frame.hour_start - timedelta(hours=3),
    )


def test_what_a_camera_that_is_down_sends_is_held(workspace, people):
    """Zeros by day are in quarantine, each of them and nothing else, and no count has them."""
    held = DeltaTable(workspace.root / "data/quarantine/counts").to_pandas()
    counts = DeltaTable(workspace.root / "data/raw/counts").to_pandas()
    landed = people[(people.index >= BEGAN) & (people.index + HOUR < LAST)]
    assert set(held.people) == {0.0}
    assert set(held.rules) == {"somebody_passes_by_day"}
    assert len(held) == landed.isna().sum().sum() > 0
    assert len(counts) == landed.notna().sum().sum()


def test_every_feature_at_random_moments_is_what_the_raw_file_says(store, people):
    """At hundreds of sensors and hours, weeks after the start and soon after it, over the end of summer time."""
    chance = np.random.default_rng(7)
    hours = pd.date_range(FIRST + 12 * HOUR, LAST - 6 * HOUR, freq="h")
    rows = rows_to_predict(
        [str(one) for one in chance.choice(people.columns, 300)],
        [hours[i] for i in chance.integers(len(hours), size=300)],
    ).drop_duplicates(["sensor", "hour_start"])
    found = store.get_historical_features(rows, store.get_feature_service("footfall_v2")).to_df()
    found = found.astype(object).where(found.notna(), np.nan).set_index(["sensor", "hour_start"])
    for row in rows.itertuples():
        wanted = oracle.features(people, row.sensor, pd.Timestamp(row.hour_start), BEGAN)
        mine = found.loc[(row.sensor, row.hour_start)]
        for name, value in wanted.items():
            assert mine[name] == pytest.approx(value, rel=1e-9, nan_ok=True), (row.sensor, row.hour_start, name)


def test_a_model_passes_the_gate_and_is_better_than_last_week(trained):
    """Version 1 is champion; on the hours that the gate judges it beats last week, four weeks, and the clock alone."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{trained.root / 'mlflow.db'}")
    champion = client.get_model_version_by_alias(MODEL, "champion")
    scores = client.get_run(champion.run_id).data.metrics
    assert champion.version in (1, "1")
    for naive in ("same_hour_last_week", "same_hour_of_four_weeks", "request_features"):
        assert scores["validation_mae"] < 0.95 * scores[f"validation_{naive}_mae"]


def test_a_prediction_over_http_is_what_the_model_says_of_the_offline_features(trained, service, store):
    """The same number of people, from online rows and from the tables, at several sensors; what is missing is told."""
    import mlflow

    from fti.contract.registered import fetch_version

    mlflow.set_tracking_uri(f"sqlite:///{trained.root / 'mlflow.db'}")
    version = mlflow.MlflowClient().get_model_version_by_alias(MODEL, "champion")
    folder, contract = fetch_version(version)
    model = mlflow.sklearn.load_model(str(folder))
    sensors = ["45 Queen Street", "2 High Street", "183 K Road", "1 Courthouse Lane"]
    rows = rows_to_predict(sensors, [NOW + 3 * HOUR] * len(sensors))
    joined = store.get_historical_features(rows, store.get_feature_service("footfall_v2")).to_df()
    expected = model.predict(contract.interface.model_inputs(contract.interface.settled(joined)))
    for sensor, row, wanted in zip(joined.sensor, joined.to_dict("records"), expected, strict=True):
        asked = {
            "sensor": sensor, "street": row["street"], "hour_start": row["hour_start"].isoformat(),
            "as_of": NOW.isoformat(),
        }  # fmt: skip
        answer = ask(service, asked)
        assert answer["prediction"] == pytest.approx(float(wanted), rel=1e-9)
        assert "probability" not in answer
    # Of a street that is not named, the pace is taken to be the usual one, as `when_missing: default` says.
    told = ask(service, asked | {"street": None})["features"]
    assert "street_share_of_usual_24h" in json.dumps(told)


def test_a_day_is_scored_in_bulk_and_watched(trained, people):
    """Every sensor and hour of a day has a prediction; of those that were counted, the monitor's error is that by hand,
    and what was read is what the tables say."""
    trained.run("fti.serving.batch", "--as-of", AS_OF, "--days", "1")
    told = trained.root / "monitoring"
    trained.run(
        *["fti.monitoring.run", "--as-of", "2024-06-02T04:00Z", "--days", "1"],
        *["--report", str(told / "report.html"), "--prometheus", str(told / "monitor.prom")],
        may_end_with=(0, 3),
    )
    with closing(sqlite3.connect(trained.root / "predictions.db")) as log:
        scored = log.execute("SELECT request, prediction FROM predictions WHERE row_key IS NOT NULL").fetchall()
        found = {
            (monitor, metric): (value, rows)
            for monitor, metric, value, rows in log.execute(
                "SELECT monitor, metric, value, rows FROM monitor_results WHERE subject = ?",
                [f"{MODEL} version 1, batch"],
            )
        }
    assert len(scored) == 21 * 24
    asked = [json.loads(request) for request, _ in scored]
    came = np.array([people.loc[pd.Timestamp(one["hour_start"]), one["sensor"]] for one in asked])
    errors = np.array([prediction for _, prediction in scored]) - came
    rmse = float(np.sqrt(np.nanmean(errors**2)))
    assert found["quality", "rmse"] == (pytest.approx(rmse), np.isfinite(errors).sum())
    assert found["consistency", "consistency"][0] == 1.0
