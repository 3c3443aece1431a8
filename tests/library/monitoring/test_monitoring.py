"""The arithmetic of the monitors, against formulas written out and against chance; and the table of what they found."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    log_loss,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
    root_mean_squared_error,
)

from fti.contract.feature_contract import FeatureContract
from fti.contract.interface import FeatureInterface
from fti.contract.metrics import differences, intervals
from fti.contract.predictions import create, open_log
from fti.contract.results import Result, by_limits, save, saved, table, worst
from fti.contract.spine import PREDICTION_TIME
from fti.contract.training_profile import ColumnProfile, profile, psi
from fti.monitoring.consistency import compared, late
from fti.monitoring.drift import Seen, drift, psi_by_chance
from fti.monitoring.logged import Logged
from fti.monitoring.quality import quality
from fti.monitoring.sample import Sample

START = datetime(2013, 10, 5, tzinfo=UTC)
END = START + timedelta(days=7)
RESULT = Result("drift", START, END, "a version", "wind", 0.3, 100, "investigate", 0.0, 0.01, "more wind")


def test_psi_is_its_formula() -> None:
    """The sum of (q - p) ln(q / p), here of two bins of text."""
    expected = profile(pd.DataFrame({"origin": ["JFK"] * 60 + ["LGA"] * 40}))["origin"]
    found = expected.of(pd.Series(["JFK"] * 30 + ["LGA"] * 70))
    wanted = (0.3 - 0.6) * math.log(0.3 / 0.6) + (0.7 - 0.4) * math.log(0.7 / 0.4)
    # The empty bins, for other texts and for missing ones, are taken to hold half a row each.
    assert psi(expected, found) == pytest.approx(wanted, abs=0.01)
    assert psi(expected, expected) == 0


def test_psi_by_chance_is_rarely_exceeded_when_nothing_has_changed() -> None:
    """Of samples of one distribution about one in a thousand exceeds it; of a shifted one nearly all do."""
    chance = np.random.default_rng(7)
    expected = profile(pd.DataFrame({"x": chance.normal(size=20_000)}))["x"]
    same = [expected.of(pd.Series(chance.normal(size=300))) for _ in range(300)]
    moved = [expected.of(pd.Series(chance.normal(0.5, size=300))) for _ in range(50)]
    # The bin for what is missing is empty here and in training, and counts for nothing.
    assert sum(psi(expected, one) > psi_by_chance(expected, one) for one in same) <= 5
    assert all(psi(expected, one) > psi_by_chance(expected, one) for one in moved)


@pytest.mark.parametrize("usual", [[0.0] * 950 + [0.2] * 50, [0.0] * 1000], ids=["mostly none", "always none"])
@pytest.mark.parametrize("now", [9.9, -40.0])
def test_a_column_that_is_nearly_always_the_same_drifts_when_it_is_not(usual, now) -> None:
    """Rain is mostly none: of bins with equally many rows there would be one alone, and nothing would be out of it."""
    expected = profile(pd.DataFrame({"rain": usual}))["rain"]
    assert psi(expected, expected.of(pd.Series(usual[::2]))) < 0.01
    assert psi(expected, expected.of(pd.Series([now] * 500))) > 1


def test_a_column_that_went_missing_drifts() -> None:
    """What is missing has a bin of its own."""
    expected = profile(pd.DataFrame({"x": np.arange(1000.0)}))["x"]
    found = expected.of(pd.Series([np.nan] * 400 + list(np.linspace(0, 999, 600))))
    assert psi(expected, found) > 1


@pytest.fixture(scope="module")
def year() -> pd.DataFrame:
    """A year of rows, forty a day: a column that follows the season, one that does not, and when each row was due."""
    chance, days = np.random.default_rng(4), np.repeat(np.arange(364), 40)
    return pd.DataFrame({
        "warmth": warmth(days, chance), "steady": chance.normal(size=len(days)),
        "moment": pd.Timestamp("2012-10-01", tz="UTC") + pd.to_timedelta(days, unit="D"),
    })  # fmt: skip


def warmth(days: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    return -20 * np.cos(2 * np.pi * days / 364) + chance.normal(0, 3, len(days))


def drifted(expected: Mapping[str, ColumnProfile], prediction: np.ndarray, **columns: np.ndarray) -> dict[str, Result]:
    """What drift says of such values."""
    features = pd.DataFrame(columns)
    nothing = pd.DataFrame(index=features.index)
    served = Logged(
        "a model", "1", "champion", "a run", FeatureContract.model_construct(), nothing, features, nothing,
        pd.Series(prediction), pd.Series(None, features.index, dtype=object),
    )  # fmt: skip
    seen = Seen(expected, list(columns))
    for rows in np.array_split(np.arange(len(prediction)), 3):  # as they come: batch by batch
        seen.add(served.only(pd.Series(np.isin(np.arange(len(prediction)), rows))))
    return {one.metric: one for one in drift(seen, served.subject, START, END)}


def test_usual_is_the_psi_of_the_furthest_week_of_training(year) -> None:
    """By the week from the first moment on; three odd rows of a last day are no week."""
    odd = year.tail(3).assign(warmth=1000.0, moment=year.moment.max() + timedelta(days=1))
    rows = pd.concat([year, odd], ignore_index=True)
    expected = profile(rows[["warmth"]], rows.moment)["warmth"]
    weeks = [rows.warmth[days] for days in np.arange(52 * 280).reshape(52, 280)]
    assert expected.usual == pytest.approx(max(psi(expected, expected.of(week)) for week in weeks))
    texts = pd.Series(np.where(rows.warmth < 0, "cold", None), dtype=object)
    named = profile(texts.to_frame("t"), rows.moment)["t"]
    assert named.usual == pytest.approx(max(psi(named, named.of(texts[week.index])) for week in weeks))
    assert profile(rows.head(10)[["warmth"]], rows.moment.head(10))["warmth"].usual is None


def test_a_week_of_the_season_is_no_drift_and_one_beyond_all_of_them_is(year) -> None:
    """A week in spring is far from the year, as each is; a hotter one than any is found, beside what is steady."""
    chance = np.random.default_rng(6)
    expected = profile(year[["warmth", "steady"]].assign(prediction=year.steady), year.moment)
    spring, july = np.repeat(np.arange(120, 127), 40), np.repeat(np.arange(182, 189), 40)
    steady = chance.normal(size=280)
    calm = drifted(expected, steady, warmth=warmth(spring, chance), steady=steady)
    assert calm["warmth"].value > 0.25
    assert {one.verdict for one in calm.values()} == {"healthy"}
    assert calm["drifted_share"].value == 0
    assert f"no week of training was further than {expected['warmth'].usual:.2f}" in calm["warmth"].details
    hot = drifted(expected, steady, warmth=warmth(july, chance) + 20, steady=steady)
    assert hot["warmth"].verdict == "investigate"
    assert hot["drifted_share"].value == 0.5


def test_what_is_steady_is_judged_by_the_limits_of_the_field(year) -> None:
    """Its weeks are all near the whole; a shift of some of a standard deviation is beyond 0.1, of one beyond 0.25."""
    expected = profile(year[["steady"]].assign(prediction=year.steady), year.moment)
    assert expected["steady"].usual < 0.1
    values = np.random.default_rng(6).normal(size=1000)
    found = [drifted(expected, values + shift, steady=values + shift) for shift in (0, 0.4, 1)]
    assert [one["steady"].verdict for one in found] == ["healthy", "investigate", "investigate"]
    assert [one["prediction"].verdict for one in found] == ["healthy", "investigate", "breach"]
    assert [one["drifted_share"].value for one in found] == [0, 0, 1]


def test_answers_are_held_against_what_the_model_says_of_the_weeks_it_was_fitted_to(year) -> None:
    """Their profile is that of other rows: as far from it as those of a week of training is no breach."""
    chance = np.random.default_rng(6)
    autumn = year.moment >= year.moment.max() - timedelta(days=30)
    said = profile(pd.DataFrame({"prediction": year.warmth[autumn]}))["prediction"]
    usual = said.with_usual(year.warmth, year.moment)
    assert usual.counts == said.counts
    served = warmth(np.repeat(np.arange(120, 127), 40), chance)
    assert drifted({"prediction": usual}, served, steady=served)["prediction"].verdict == "healthy"
    assert drifted({"prediction": said}, served, steady=served)["prediction"].verdict == "breach"


def test_a_profile_from_before_weeks_were_recorded_is_read_and_judged_by_the_limits_alone(year) -> None:
    """As older versions have it in their artifacts."""
    written = profile(year[["warmth"]], year.moment)["warmth"].model_dump(mode="json")
    del written["usual"]
    old = ColumnProfile.model_validate_json(json.dumps(written))
    spring = warmth(np.repeat(np.arange(120, 127), 40), np.random.default_rng(6))
    found = drifted({"warmth": old, "prediction": old}, spring, warmth=spring)
    assert (found["warmth"].verdict, found["prediction"].verdict) == ("investigate", "breach")
    assert found["drifted_share"].value == 1
    assert "week" not in found["warmth"].details


def test_a_repeated_request_counts_once_for_each_answer() -> None:
    """Of one request, asked five times as of one moment, served right thrice and wrong twice, both answers are kept."""
    asked = pd.DataFrame({"pump": ["a"] * 5 + ["b"], PREDICTION_TIME: pd.Timestamp("2024-01-01", tz="UTC")})
    features = pd.DataFrame({"rate": [1.0, 2.0, 1.0, 2.0, 1.0, 1.0], "pump": asked.pump})
    ages = pd.DataFrame(index=asked.index)
    served = Logged(
        "a model", "1", "champion", "a run", FeatureContract.model_construct(), asked, features, ages,
        pd.Series(0.5, asked.index), pd.Series(None, asked.index, dtype=object),
    )  # fmt: skip
    sample = Sample(100)
    sample.add(served)
    kept = sample.taken()
    assert [*zip(kept.requests.pump, kept.features.rate, strict=True)] == [("a", 1.0), ("a", 2.0), ("b", 1.0)]


def test_each_way_to_differ_has_its_name() -> None:
    """Null and value, value and null, another value; texts too. Two nulls are the same, and so is another last bit."""
    nan = float("nan")
    served = pd.DataFrame({"x": [1.0, nan, 2.0, nan, 0.1 + 0.2], "t": ["a", None, "b", "c", None]})
    offline = pd.DataFrame({"x": [1.0, 5.0, nan, nan, 0.3], "t": ["a", None, None, "d", "e"]})
    found = compared(served, offline)
    assert found.x.tolist() == ["", "missing", "extra", "", ""]
    assert found.t.tolist() == ["", "", "extra", "mismatch", "missing"]


PUMPS = FeatureInterface.model_validate({
    "feature_service": "pump_failure_v1",
    "inputs": [
        {"name": name, "dtype": "double", "source": source}
        for source, names in {
            "wear": ["wear", "heat"], "clock": ["hour"], "ratio": ["wear_by_heat"], "rest": ["hours_rested"],
        }.items()
        for name in names
    ],
    "join_keys": [], "request_fields": [],
    "stored_views": [
        {"name": "wear", "join_keys": ["pump"], "ttl_seconds": 0, "missing": "-",
         "features": {"wear": "double", "heat": "double", "stopped_at": "int64"}},
    ],
    "on_demand_views": [
        {"name": "clock", "code_sha256": "0", "inputs": ["asked_at"], "features": {"hour": "double"}},
        {"name": "ratio", "code_sha256": "0", "inputs": ["heat", "wear"], "features": {"wear_by_heat": "double"}},
        {"name": "rest", "code_sha256": "0", "inputs": ["heat", "stopped_at"], "features": {"hours_rested": "double"}},
    ],
    "spine_view": "runs", "label_view": "failures", "label": "failed", "label_definition": "failed within a day",
    "prediction_anchor": "opened_at", "prediction_lead_minutes": 0,
})  # fmt: skip


@pytest.mark.parametrize(
    ("apart", "then", "excused"),
    [
        pytest.param("wear", "wear", "wear", id="a stored value of an earlier moment"),
        pytest.param("wear", "heat", "", id="a stored value of no moment"),
        pytest.param("wear heat", "wear", "wear", id="one of each"),
        pytest.param("", "wear heat hour", "", id="what does not differ is not late"),
        pytest.param("wear wear_by_heat", "wear", "wear wear_by_heat", id="computed from a late one"),
        pytest.param("wear heat wear_by_heat", "wear wear_by_heat", "wear", id="computed from a wrong one too"),
        pytest.param("wear_by_heat", "wear heat", "", id="computed from inputs that agree"),
        pytest.param("wear_by_heat", "wear_by_heat", "", id="computed from inputs that agree, and now by chance right"),
        pytest.param("hour", "", "", id="computed from the request alone"),
        pytest.param("hours_rested", "hours_rested", "hours_rested", id="an input that is not logged may be late"),
        pytest.param("hours_rested", "", "", id="an input that is not logged explains nothing"),
        pytest.param("heat hours_rested", "hours_rested", "", id="nor does it excuse one that is wrong"),
    ],
)
def test_what_is_late_is_told_from_what_is_wrong(apart: str, then: str, excused: str) -> None:
    """By which values agree with an earlier moment: of on-demand features, by their stored inputs."""
    names = [one.name for one in PUMPS.inputs]
    differs = pd.DataFrame([["mismatch" if name in apart.split() else "" for name in names], [""] * 5], columns=names)
    agrees = pd.DataFrame([[name in then.split() for name in names], [False] * 5], columns=names)
    found = late(PUMPS, differs, agrees)
    assert [name for name in names if found.loc[0, name]] == [name for name in names if name in excused.split()]
    assert not found.loc[1].any()
    assert not late(PUMPS, differs.head(0), agrees.head(0)).any(axis=None)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """The mean forecast of 0.3 is 0.1 too high: the 90 % interval holds that in most of a hundred draws."""
    chance, held = np.random.default_rng(11), 0
    for _ in range(100):
        labels = (chance.random(400) < 0.2).astype("int64")
        found = intervals(labels, np.full(400, 0.3), np.arange(400) // 4, ["bias"], 100, 0.9, 3)
        held += found["bias"][0] <= 0.1 <= found["bias"][1]
    assert 80 <= held <= 98


ORACLE = {
    "roc_auc": roc_auc_score,
    "average_precision": average_precision_score,
    "brier": brier_score_loss,
    "log_loss": partial(log_loss, labels=[0, 1]),
    "bias": lambda labels, forecast, sample_weight: np.average(forecast - labels, weights=sample_weight),
}


@pytest.mark.parametrize("cells", [1, 10_000_000])
@pytest.mark.parametrize("decimals", [1, 8])
def test_the_bootstrap_is_scikit_learns_scorers_on_each_draw(cells: int, decimals: int, monkeypatch) -> None:
    """Of forecasts with ties and without, some of them certain; blocks that a draw lacks; draws with one outcome alone,
    which count for no ranking, and for no difference.

    One draw at a time, as of many rows, or all at once.
    """
    monkeypatch.setattr("fti.contract.metrics.DRAWN_CELLS", cells)
    chance = np.random.default_rng(5)
    blocks = np.repeat(np.arange(4), 60)
    labels = ((chance.random(240) < 0.3) & (blocks < 2)).astype("int64")
    one, other = (np.clip(labels * 0.2 + chance.normal(0.4, 0.3, 240), 0, 1).round(decimals) for _ in range(2))
    drawn: dict[str, list[tuple[float, float]]] = {name: [] for name in ORACLE}
    times = np.random.default_rng(8).multinomial(4, [0.25] * 4, size=100)
    of_one: dict[str, list[float]] = {name: [] for name in ORACLE}
    for weights in (row[blocks] for row in times):
        both = len(set(labels[weights > 0])) == 2
        for name, score in ORACLE.items():
            if both or name not in ("roc_auc", "average_precision"):
                of_one[name].append(score(labels, one, sample_weight=weights))
            if both:
                drawn[name].append((of_one[name][-1], score(labels, other, sample_weight=weights)))
    assert 80 < len(drawn["bias"]) < len(of_one["bias"]) == 100
    found = intervals(labels, one, blocks, list(ORACLE), 100, 0.9, 8)
    apart = differences(labels, one, other, blocks, list(ORACLE), 100, 0.9, 8)
    for name, score in ORACLE.items():
        pairs = np.array(drawn[name])
        assert found[name] == pytest.approx(np.quantile(of_one[name], [0.05, 0.95]), abs=1e-12)
        low, high = np.quantile(pairs[:, 0] - pairs[:, 1], [0.05, 0.95])
        value = score(labels, one, sample_weight=None) - score(labels, other, sample_weight=None)
        assert (apart[name].value, apart[name].low, apart[name].high) == pytest.approx((value, low, high), abs=1e-12)


OF_NUMBERS = {
    "rmse": root_mean_squared_error,
    "mae": mean_absolute_error,
    "r2": r2_score,
    "bias": ORACLE["bias"],
}


def test_the_bootstrap_of_numbers_is_scikit_learns_scorers_on_each_draw() -> None:
    """An RMSE and an R2 are no means over rows, and are scored anew of each draw; no draw is left out."""
    chance = np.random.default_rng(6)
    blocks = np.repeat(np.arange(6), 50)
    labels = 1e6 + 40 * blocks + chance.normal(0, 30, 300)
    one, other = (labels + chance.normal(5, spread, 300) for spread in (10, 20))
    times = np.random.default_rng(8).multinomial(6, [1 / 6] * 6, size=80)
    found = intervals(labels, one, blocks, list(OF_NUMBERS), 80, 0.9, 8, "regression")
    apart = differences(labels, one, other, blocks, list(OF_NUMBERS), 80, 0.9, 8, "regression")
    for name, score in OF_NUMBERS.items():
        pairs = np.array([[score(labels, said, sample_weight=row[blocks]) for said in (one, other)] for row in times])
        assert found[name] == pytest.approx(np.quantile(pairs[:, 0], [0.05, 0.95]), rel=1e-7)
        low, high = np.quantile(pairs[:, 0] - pairs[:, 1], [0.05, 0.95])
        value = score(labels, one, sample_weight=None) - score(labels, other, sample_weight=None)
        assert (apart[name].value, apart[name].low, apart[name].high) == pytest.approx((value, low, high), rel=1e-7)


def minutes_served(labels: np.ndarray, said: np.ndarray, moments: pd.DatetimeIndex, task: str = "regression") -> Logged:
    """Predictions of a version of that task, of rows that differ in nothing else."""
    contract = SimpleNamespace(interface=SimpleNamespace(task=task))
    frame = pd.DataFrame({"origin": ["JFK"] * len(labels)})
    asked, empty = pd.DataFrame({"event_timestamp": moments}), pd.Series(dtype=object)
    return Logged("minutes", "1", "champion", "run", contract, asked, frame, frame[[]], pd.Series(said), empty)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spoilt", "verdicts"),
    [
        (lambda labels, said: said, ("healthy", "healthy", "healthy")),
        (lambda labels, said: labels + 1.6 * (said - labels), ("breach", "breach", "healthy")),
        (lambda labels, said: said + 15, ("breach", "breach", "breach")),
        (lambda labels, said: said - 15, ("breach", "breach", "breach")),
        (lambda labels, said: labels + 0.5 * (said - labels), ("healthy", "healthy", "healthy")),
    ],
    ids=["as in training", "errors grown", "too high", "too low", "better"],
)
def test_numbers_are_judged_by_what_their_errors_were_in_training(spoilt, verdicts) -> None:
    """RMSE and MAE relative to those of the validation, the bias in spreads of the label; better is no breach."""
    chance = np.random.default_rng(9)
    moments = pd.date_range(START, END, periods=2001, inclusive="left").astype("datetime64[us, UTC]")
    labels = chance.normal(100, 40, 2000)
    served = minutes_served(labels, spoilt(labels, labels + chance.normal(0, 10, 2000)), moments)
    before = {"rmse": 10.0, "mae": 10 * math.sqrt(2 / math.pi), "label_std": 40.0, "bias": 0.0}
    found = quality(served, pd.Series(labels), before, {"origin": []}, START, END)
    whole = {one.metric: one for one in found if (one.start, one.end) == (START, END)}
    assert tuple(whole[metric].verdict for metric in ("rmse", "mae", "bias")) == verdicts
    assert whole["rmse"].value == pytest.approx(math.sqrt(np.mean((served.predictions - labels) ** 2)))
    assert (whole["rmse[origin=JFK]"].value, whole["rmse[origin=JFK]"].verdict) == (whole["rmse"].value, None)
    assert sum(one.metric == "rmse" and one.verdict is None for one in found) == 7
    unknown = {one.metric: one for one in quality(served, pd.Series(labels), {}, {}, START, END) if one.verdict}
    assert {unknown[metric].verdict for metric in ("rmse", "mae", "bias")} == {"no_data"}


@pytest.mark.parametrize("outcome", [0, 1])
def test_labels_that_are_all_the_same_do_not_pass_for_health(outcome) -> None:
    """As a broken feed of labels has them: there is no AUC to judge, and the bias shows."""
    moments = pd.date_range(START, END, periods=2001, inclusive="left").astype("datetime64[us, UTC]")
    served = minutes_served(np.zeros(2000), np.full(2000, 0.25), moments, "classification")
    found = quality(served, pd.Series(np.full(2000, float(outcome))), {"roc_auc": 0.8}, {}, START, END)
    whole = {one.metric: one for one in found if (one.start, one.end) == (START, END)}
    assert {name: whole[name].verdict for name in ("roc_auc", "bias")} == {"roc_auc": "no_data", "bias": "breach"}
    assert (whole["bias"].low, whole["bias"].high) == pytest.approx((0.25 - outcome,) * 2)


@pytest.mark.parametrize(("rows", "batch"), [(100, 7), (400, 1000), (5000, 13), (5000, 1)])
def test_a_sample_of_batches_is_that_of_the_whole_log(rows: int, batch: int) -> None:
    """Those requests whose hash is in the share of all that are wanted, each once for each answer of a moment."""
    chance = np.random.default_rng(3)
    size = 2000
    moments = pd.Series(pd.to_datetime(np.sort(chance.integers(0, 300, size)), unit="m", utc=True))
    asked = pd.DataFrame({
        "pump": pd.Series(chance.choice(["a", "b", "None", None], size), dtype=object),
        "basket": pd.array(np.where(chance.random(size) < 0.2, None, chance.integers(0, 40, size)), "Int64"),
        "opened": moments - pd.to_timedelta(chance.integers(0, 5, size), unit="s"),
        PREDICTION_TIME: moments,
    })  # fmt: skip
    features = pd.DataFrame({"rate": np.where(chance.random(size) < 0.1, np.nan, chance.integers(0, 2, size))})
    served = Logged(
        "a model", "1", "champion", "a run", FeatureContract.model_construct(), asked, features,
        pd.DataFrame({"view": chance.random(size)}), pd.Series(np.arange(size)), pd.Series(None, range(size), object),
    )  # fmt: skip
    once = ~pd.concat([asked.add_prefix("asked:"), features], axis=1).duplicated()
    hashes = pd.util.hash_pandas_object(asked.drop(columns=PREDICTION_TIME).astype(str), index=False)
    wanted = served.only(once & (hashes < min(1.0, rows / once.sum()) * 2.0**64))
    sample = Sample(rows)
    for start in range(0, size, batch):
        sample.add(served.only(pd.Series((np.arange(size) >= start) & (np.arange(size) < start + batch))))
    kept = sample.taken()
    assert kept.predictions.tolist() == wanted.predictions.tolist()
    for name in ("requests", "features", "ages"):
        pd.testing.assert_frame_equal(getattr(kept, name), getattr(wanted, name))


def test_an_interval_of_one_outcome_is_left_out() -> None:
    """Of rows that are all late there is no AUC to bound."""
    assert intervals(np.ones(50, "int64"), np.full(50, 0.3), np.arange(50), ["roc_auc"], 20, 0.9, 3) == {}
    assert differences(np.ones(9, "int64"), np.ones(9), np.ones(9), np.arange(9), ["brier"], 20, 0.9, 3) == {}


def test_the_worst_verdict_speaks_for_all() -> None:
    """No data say less than health, and a result without a verdict says nothing."""
    found = [replace(RESULT, verdict=verdict) for verdict in ("healthy", "no_data", None)]
    assert worst(found) == "healthy"
    assert worst([*found, replace(RESULT, verdict="breach")]) == "breach"
    assert worst([]) == "no_data"
    assert [by_limits(value, 0.1, 0.2) for value in (None, 0.1, 0.15, 0.3)] == [
        "no_data", "healthy", "investigate", "breach",
    ]  # fmt: skip


def test_results_replace_those_of_the_same_moment(url: str) -> None:
    """Run again, the monitors leave what they say now, and what they said as of other moments."""
    engine = open_log(url)
    create(engine)
    save(engine, START, [RESULT])
    save(engine, END, [RESULT, replace(RESULT, metric="rain")])
    save(engine, END, [replace(RESULT, value=None, verdict=None)])
    assert saved(engine, START) == [RESULT]
    assert saved(engine, END) == [replace(RESULT, value=None, verdict=None)]


def test_results_of_other_models_and_of_a_cycle_stay(url: str) -> None:
    """`make monitor` behind a cycle, or for another model, takes away only what it says anew."""
    engine = open_log(url)
    create(engine)
    step = replace(RESULT, monitor="cycle", subject="land", metric="seconds", verdict="breach")
    first, other = (replace(RESULT, subject=f"{name} version 1, champion") for name in ("first", "other"))
    old = replace(RESULT, monitor="freshness", subject="weather", verdict="breach")
    save(engine, END, [step, first, old], "first")
    save(engine, END, [other, replace(old, verdict="healthy")], "other")
    assert worst(saved(engine, END)) == "breach"
    assert sorted(one.subject for one in saved(engine, END)) == sorted(
        [step.subject, first.subject, other.subject, old.subject]
    )
    save(engine, END, [replace(step, verdict="healthy")], "first")
    assert {one.subject: one.verdict for one in saved(engine, END)} == {
        step.subject: "healthy", other.subject: other.verdict,
    }  # fmt: skip


def test_the_table_names_what_is_not_healthy() -> None:
    """A line a subject with its worst verdict; breaches first, each with its value, its bounds and its reason."""
    bad = replace(RESULT, metric="prediction", verdict="breach", value=0.5)
    lines = table([RESULT, bad, replace(RESULT, metric="calm", verdict="healthy")]).splitlines()
    assert lines[1].split()[-1] == "breach"
    assert lines[2].strip() == "breach: prediction 0.5 [0, 0.01], 10-05 to 10-12. more wind"
    assert lines[3].strip() == "investigate: wind 0.3 [0, 0.01], 10-05 to 10-12. more wind"
    assert len(lines) == 4
