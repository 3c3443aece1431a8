"""What any good model of late flights does, whatever it was fitted with: tried on the champion of the real year."""

from __future__ import annotations

from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from sklearn.metrics import roc_auc_score

from tests.conftest import Workspace

NAME = "arrival-delay"


@pytest.fixture(scope="module")
def store(trained: Workspace) -> Any:
    from feast import FeatureStore

    return FeatureStore(repo_path=str(trained.repo))


@pytest.fixture(scope="module")
def champion(trained: Workspace) -> tuple[Any, Any]:
    """Estimator and contract of the champion, checked by its digests on the way."""
    from fti.contract.registered import fetch_version

    with pytest.MonkeyPatch.context() as here:
        here.setenv("MLFLOW_TRACKING_URI", trained.tracking_uri)
        folder, contract = fetch_version(MlflowClient().get_model_version_by_alias(NAME, "champion"))
        return mlflow.sklearn.load_model(str(folder)), contract


@pytest.fixture(scope="module")
def rows(store, champion) -> Any:
    """Labelled flights of October, which the champion was not fitted to."""
    from fti.training.dataset import labelled_rows

    october, november = (pd.Timestamp(f"2013-{month}-01", tz="UTC").to_pydatetime() for month in (10, 11))
    return labelled_rows(store, champion[1].interface, october, november)


@pytest.fixture(scope="module")
def inputs(rows) -> pd.DataFrame:
    return rows.inputs


def risk(champion: tuple[Any, Any], inputs: pd.DataFrame) -> np.ndarray:
    return champion[0].predict_proba(inputs)[:, 1]


def test_it_takes_what_its_contract_says_in_that_order(champion, inputs):
    """Estimator, contract and feature store agree on every name."""
    estimator, contract = champion
    assert estimator.feature_names_in_.tolist() == [one.name for one in contract.interface.inputs] == list(inputs)


def test_order_and_company_of_the_rows_change_nothing(champion, inputs):
    """The same flight has the same risk alone, in any batch and at any place in it: to the last bit."""
    some = inputs.head(400)
    whole = risk(champion, some)
    shuffled = some.sample(frac=1, random_state=1)
    assert risk(champion, shuffled).tolist() == whole[shuffled.index].tolist()
    assert np.concatenate([risk(champion, part) for part in np.array_split(some, 7)]).tolist() == whole.tolist()
    assert [risk(champion, some.iloc[[row]])[0] for row in range(0, 400, 40)] == whole[::40].tolist()


def test_no_name_of_an_aircraft_is_an_input(champion, inputs):
    """What an aircraft is called says nothing; what it has just done does. tests/project/journeys renames one."""
    _, contract = champion
    names = {"tailnum", "flight_id", "flight_number"}
    assert names.isdisjoint(inputs)
    assert "tailnum" in {key.name for key in contract.interface.join_keys}


@pytest.mark.parametrize(
    ("change", "share"),
    [
        ({"origin_mean_dep_delay_1h": 60.0, "origin_mean_dep_delay_3h": 60.0}, 0.9),
        ({"origin_overdue": 30.0}, 0.9),
        ({"dest_mean_arr_delay_3h": 60.0, "dest_mean_arr_delay_6h": 60.0, "dest_mean_enroute_delay_6h": 20.0}, 0.9),
        ({"tail_last_arr_delay": 90.0, "tail_overdue": 1.0}, 0.9),
        ({"tail_hours_to_spare": -2.0}, 0.9),
        ({"carrier_origin_late_rate_1d": 0.6, "carrier_origin_mean_arr_delay_1d": 60.0}, 0.9),
        ({"origin_precip_in": 0.3, "origin_visibility_mi": 1.0, "origin_humidity_pct": 97.0}, 0.9),
    ],
    ids=[
        "delays at the airport",
        "a queue at the airport",
        "delays at the destination",
        "a late aircraft",
        "an aircraft that cannot be back",
        "a bad day",
        "rain and fog",
    ],
)
def test_worse_circumstances_raise_the_risk(champion, inputs, change, share):
    """Of the flights on a calm day, most are likelier to be late when this one thing is bad, and all on the mean."""
    calm = inputs[(inputs.origin_mean_dep_delay_3h < 10) & (inputs.origin_precip_in == 0)].head(1000)
    assert len(calm) == 1000
    before, after = risk(champion, calm), risk(champion, calm.assign(**change))
    assert (after > before).mean() >= share
    assert after.mean() > before.mean() * 1.05


def test_a_flight_that_everything_delays_is_likely_late_and_an_easy_one_is_not(champion, inputs):
    """An evening in a thunderstorm with the airport an hour behind, and the first flight of a clear day."""
    usual = inputs[inputs.dep_local_hour.between(9, 12)].head(200)
    delays = [name for name in inputs if "_delay_" in name or name == "tail_last_arr_delay"]
    rates = [name for name in inputs if "late_rate" in name]
    bad = usual.assign(**dict.fromkeys(delays, 70.0), **dict.fromkeys(rates, 0.6), dep_local_hour=19.0,
        origin_precip_in=0.2, origin_visibility_mi=2.0)  # fmt: skip
    easy = usual.assign(**dict.fromkeys(delays, -5.0), **dict.fromkeys(rates, 0.08), dep_local_hour=6.5,
        origin_precip_in=0.0, origin_visibility_mi=10.0)  # fmt: skip
    assert np.median(risk(champion, bad)) > 0.5
    assert np.median(risk(champion, easy)) < 0.12


def test_nothing_known_of_a_flight_still_gives_a_sensible_risk(champion, inputs):
    """All stored features missing, as on the first day of an airline: near the overall share, never an error."""
    stored = [one.name for one in champion[1].interface.inputs if one.dtype != "string"]
    blank = inputs.head(100).assign(**dict.fromkeys(stored, np.nan))
    found = risk(champion, blank)
    assert np.isfinite(found).all()
    assert 0.02 < found.mean() < 0.5


def test_labels_that_mean_nothing_teach_nothing(champion, rows):
    """Fitted to shuffled labels the model cannot tell late flights from others: no label leaks into the inputs."""
    from fti.training.config import load_config
    from training.model import build_model

    chance = np.random.default_rng(5)
    half = len(rows) // 2
    inputs, labels = rows.inputs, rows.labels
    model = build_model(rows.interface.categories, load_config({}).model)
    model.fit(inputs[:half], chance.permutation(labels[:half]))
    assert abs(roc_auc_score(labels[half:], model.predict_proba(inputs[half:])[:, 1]) - 0.5) < 0.04
    model.fit(inputs[:half], labels[:half])
    assert roc_auc_score(labels[half:], model.predict_proba(inputs[half:])[:, 1]) > 0.65


def test_a_feature_that_knows_the_outcome_is_caught(trained, rows):
    """The departure delay is known two hours too late; every honest feature is far from it."""
    from deltalake import DeltaTable

    from fti.training.leaks import auc_alone
    from validation.training_set import LIMITS

    departures = DeltaTable(str(trained.root / "data" / "raw" / "departures")).to_pandas().set_index("flight_id")
    numbers = rows.inputs.drop(columns=rows.interface.categories)
    leak = departures.dep_delay_minutes.reindex(rows.frame.flight_id).to_numpy()
    found = auc_alone(numbers.assign(leak=leak), rows.labels).set_index("feature").auc_alone
    most = LIMITS.told_alone["classification"]
    assert found["leak"] > most
    assert found.drop("leak").max() < most - 0.1
