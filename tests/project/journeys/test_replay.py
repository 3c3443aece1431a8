"""Features do not depend on what happens later, nor on how the year was cut into intervals."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fti.features.definitions import copy_definitions
from tests.open_gate import OpenGate
from tests.oracle import DAY, HOUR, KEYS, VIEWS, Oracle, micros, raw_file, timestamp

BEGIN = "2012-12-01"
# Rows of these tables carry their event's own timestamp: what happens at T itself belongs to T.
PASSED_ON = {"origin_weather", "aircraft_profile", "flight_schedule", "flight_outcome"}


@pytest.fixture(scope="module")
def five_weeks(tmp_path_factory) -> Path:
    """A folder of raw files with the flights of 1 January to 8 February and their weather."""
    folder = tmp_path_factory.mktemp("raw")
    flights = pd.read_csv(raw_file("flights.csv.zip"))
    weather = pd.read_csv(raw_file("weather.csv"))
    write_raw(
        folder, *(frame[(frame.month == 1) | (frame.month == 2) & (frame.day <= 8)] for frame in (flights, weather))
    )
    return folder


def write_raw(folder: Path, flights: pd.DataFrame, weather: pd.DataFrame) -> None:
    folder.mkdir(exist_ok=True)
    flights.to_csv(
        folder / "flights.csv.zip", index=False, compression={"method": "zip", "archive_name": "flights.csv"}
    )
    weather.to_csv(folder / "weather.csv", index=False)
    for name in ("planes.csv", "airports.csv"):
        shutil.copy(raw_file(name), folder / name)


@pytest.fixture(scope="module")
def pipeline_over(tmp_path_factory) -> Callable:
    """Make a pipeline with tables of its own over a folder of raw files."""
    from feature_repo.source import RawEvents, RawFiles
    from fti.features.pipeline import FeaturePipeline

    def build(raw: Path):
        repo = tmp_path_factory.mktemp("workspace") / "feature_repo"
        return FeaturePipeline(repo, RawEvents(RawFiles(raw)), gate=OpenGate())

    return build


def interval(start: str, end: str):
    from feature_repo.transforms import Interval

    return Interval(*(pd.Timestamp(moment, tz="UTC").to_pydatetime() for moment in (start, end)))


def run(pipeline, *intervals: tuple[str, str]):
    """Land each interval, then publish it, one after the other."""
    for start, end in intervals:
        pipeline.ingest(interval(start, end))
        pipeline.publish(interval(start, end))
    return pipeline


def tables(pipeline) -> dict[str, pd.DataFrame]:
    """Every published feature table, in an order that does not depend on how it was written."""
    from deltalake import DeltaTable

    found = {}
    for path in sorted((pipeline.data / "features").iterdir()):
        frame = DeltaTable(str(path)).to_pandas()
        keys = [*KEYS[path.name], "event_timestamp"]
        found[path.name] = frame[sorted(frame.columns)].sort_values(keys).reset_index(drop=True)
    return found


def versions(pipeline) -> dict[str, int]:
    from deltalake import DeltaTable

    folders = [path for kind in ("raw", "features") for path in sorted((pipeline.data / kind).iterdir())]
    return {f"{path.parent.name}/{path.name}": DeltaTable(str(path)).version() for path in folders}


def assert_tables_equal(found: dict[str, pd.DataFrame], wanted: dict[str, pd.DataFrame]) -> None:
    assert set(found) == set(wanted) == set(VIEWS)
    for name, frame in wanted.items():
        pd.testing.assert_frame_equal(found[name], frame, obj=name, check_exact=True)


def rewrite_after(raw: Path, moment: int, folder: Path) -> None:
    """Copy raw files, with much of what became known at `moment` or later deleted, changed or added."""
    chance = np.random.default_rng(7)
    flights, weather = pd.read_csv(raw / "flights.csv.zip"), pd.read_csv(raw / "weather.csv")
    when = Oracle(raw).flights

    def of(mask: pd.Series, share: float) -> pd.Series:
        return mask & (chance.random(len(mask)) < share)

    unpublished = when.scheduled_departure - 28 * DAY >= moment
    leaving, cancelled = when.departed_at >= moment, when.dep_delay.isna()
    cancel_known = when.scheduled_departure + 6 * HOUR >= moment
    landing = when.arr_delay.notna() & (when.arrived_at >= moment)
    late, unlanded = of(landing, 0.4) | (landing & (when.arrived_at == moment)), of(landing, 0.05)
    revived, called_off = of(cancelled & cancel_known, 0.5), of(~cancelled & leaving & cancel_known, 0.05)
    flights.loc[late, "arr_delay"] += chance.integers(1, 90, late.sum())
    delayed = of(~cancelled & leaving, 0.3) | (~cancelled & (when.departed_at == moment))
    flights.loc[delayed, "dep_delay"] += 25
    flights.loc[unlanded, "arr_delay"] = np.nan
    flights.loc[called_off, ["dep_delay", "arr_delay"]] = np.nan
    flights.loc[revived, ["dep_delay", "arr_delay"]] = 400
    flights.loc[of(unpublished, 0.2), "distance"] += 100
    flights.loc[of(unpublished, 0.2), "tailnum"] = "N123AB"
    extra = flights[of(unpublished, 0.1)].assign(flight=lambda frame: frame.flight + 5000)
    flights = pd.concat([flights[~of(unpublished, 0.1)], extra])
    hidden = pd.to_datetime(weather.time_hour, utc=True) + pd.Timedelta(hours=1) >= timestamp(moment)
    weather.loc[hidden, "temp"] += 1
    write_raw(folder, flights, weather[~of(hidden, 0.1)])


@pytest.fixture(scope="module")
def lived_through(five_weeks, pipeline_over):
    return run(pipeline_over(five_weeks), (BEGIN, "2013-01-20"))


def forecast(pipeline, now: pd.Timestamp) -> tuple[str, np.ndarray]:
    """Hash of the training set, and what a model fitted to it says of the flights around `now`, all as of then."""
    from feast import FeatureStore

    from fti.contract.spine import with_features
    from fti.features.feast_steps import apply
    from fti.training.config import load_config
    from fti.training.dataset import labelled_rows
    from fti.training.train import read_interface
    from training.model import build_model

    if not pipeline.repo.exists():
        copy_definitions(pipeline.repo)
        apply(pipeline.repo)
    store = FeatureStore(repo_path=str(pipeline.repo))
    interface = read_interface(store, "arrival_delay_v2")
    rows = labelled_rows(store, interface, timestamp(micros(BEGIN)).to_pydatetime(), now.to_pydatetime())
    model = build_model(interface.categories, load_config({}).model).fit(rows.inputs, rows.labels)
    asked = rows.frame.tail(500)[[rows.row_key, *(field.name for field in interface.request_fields)]]
    features = with_features(store, interface, asked.assign(event_timestamp=now), rows.row_key)
    return rows.sha256, model.predict_proba(interface.model_inputs(features))[:, 1]


# Midnight is a point of every grid; 13:07 is a point of none.
@pytest.mark.parametrize("now", ["2013-01-09T00:00", "2013-01-10T13:07"])
def test_what_happens_later_changes_no_feature_label_or_prediction_of_now(
    now, five_weeks, lived_through, pipeline_over, tmp_path
):
    """Delete, change or add any events from T on: rows stamped up to T, and labels before it, stay as they are.

    So do the training set just before T, to the bit, and what the model fitted to it predicts then.
    """
    rewrite_after(five_weeks, micros(now), tmp_path / "raw")
    other = run(pipeline_over(tmp_path / "raw"), (BEGIN, "2013-01-20"))
    moment = timestamp(micros(now))
    (lived_hash, lived_forecast), (hash_too, forecast_too) = (
        forecast(one, moment - pd.Timedelta(microseconds=1)) for one in (lived_through, other)
    )
    assert lived_hash == hash_too
    assert lived_forecast.tolist() == forecast_too.tolist()
    assert len(set(lived_forecast)) > 100
    rewritten = tables(other)
    for name, lived in tables(lived_through).items():
        frames = []
        for frame in (lived, rewritten[name]):
            past = frame.event_timestamp < moment if name in PASSED_ON else frame.event_timestamp <= moment
            frames.append((frame[past].reset_index(drop=True), frame[~past].reset_index(drop=True)))
        (known, later), (known_too, later_too) = frames
        assert len(known), name
        pd.testing.assert_frame_equal(known_too, known, obj=f"{name} up to {now}", check_exact=True)
        assert name == "aircraft_profile" or not later_too.equals(later), (
            f"{name}: the rewriting changed nothing at all"
        )


@pytest.fixture(scope="module")
def in_one_go(five_weeks, pipeline_over):
    return run(pipeline_over(five_weeks), (BEGIN, "2013-01-08"))


def test_running_again_changes_no_row_and_no_version(in_one_go):
    """A rerun of an interval, or of a part, writes nothing: version numbers in a model's contract stay true."""
    rows, before = tables(in_one_go), versions(in_one_go)
    run(in_one_go, (BEGIN, "2013-01-08"), ("2013-01-03", "2013-01-05"))
    assert versions(in_one_go) == before
    assert_tables_equal(tables(in_one_go), rows)


def test_day_by_day_ends_in_the_same_tables_as_in_one_go(in_one_go, five_weeks, pipeline_over):
    """Landing and publishing each day as it ends gives the rows that one run over all the days gives."""
    days = [(f"2013-01-0{day}", f"2013-01-0{day + 1}") for day in range(3, 8)]
    assert_tables_equal(tables(run(pipeline_over(five_weeks), (BEGIN, "2013-01-03"), *days)), tables(in_one_go))


def test_intervals_in_any_order_end_in_the_same_tables(in_one_go, five_weeks, pipeline_over):
    """Intervals may be landed and published newest first, overlap, and leave gaps that are filled later."""
    chunks = (("2013-01-06", "2013-01-08"), (BEGIN, "2013-01-03"), ("2013-01-05T05:11", "2013-01-07"))
    pipeline = run(pipeline_over(five_weeks), *chunks, ("2013-01-03", "2013-01-05T05:11"))
    assert_tables_equal(tables(pipeline), tables(in_one_go))


def test_days_in_a_shuffled_order_end_in_the_same_tables(in_one_go, five_weeks, pipeline_over):
    """Each day is a backfill of its own, the history before the first flight comes last."""
    days = [(f"2013-01-0{day}", f"2013-01-0{day + 1}") for day in (5, 2, 7, 1, 4, 6, 3)]
    assert_tables_equal(tables(run(pipeline_over(five_weeks), *days, (BEGIN, "2013-01-01"))), tables(in_one_go))


def test_intervals_may_be_cut_anywhere(in_one_go, five_weeks, pipeline_over):
    """A cut between two grid points loses no row: not even those that say that a window has emptied."""
    cuts = [BEGIN, "2013-01-05T13:07", "2013-01-06T22:59", "2013-01-07T10:01", "2013-01-08"]
    parts = list(itertools.pairwise(cuts))
    assert_tables_equal(tables(run(pipeline_over(five_weeks), *parts)), tables(in_one_go))


def test_late_events_change_the_rows_of_their_windows_and_no_others(in_one_go, five_weeks, pipeline_over):
    """A day that lands late is in all tables after the next run, though that publishes another day."""
    pipeline = pipeline_over(five_weeks)
    pipeline.ingest(interval(BEGIN, "2013-01-05"))
    pipeline.ingest(interval("2013-01-06", "2013-01-07"))
    pipeline.publish(interval(BEGIN, "2013-01-07"))
    without = tables(pipeline)
    pipeline.ingest(interval("2013-01-05", "2013-01-06"))
    run(pipeline, ("2013-01-07", "2013-01-08"))
    found = tables(pipeline)
    assert_tables_equal(found, tables(in_one_go))
    early, late = timestamp(micros("2013-01-05")), timestamp(micros("2013-01-07"))
    assert len(without["flight_outcome"]) < (found["flight_outcome"].event_timestamp < late).sum()
    for name, frame in without.items():
        untouched = frame[frame.event_timestamp < early].reset_index(drop=True)
        now = found[name][found[name].event_timestamp < early].reset_index(drop=True)
        pd.testing.assert_frame_equal(now, untouched, obj=name, check_exact=True)


def test_a_restated_event_changes_its_own_windows_and_leaves_the_rest(five_weeks, pipeline_over, tmp_path):
    """One landing said to be 300 minutes later: its carrier, route, destination and aircraft, and nobody else's."""
    from deltalake import DeltaTable

    pipeline = run(pipeline_over(five_weeks), (BEGIN, "2013-01-07"))
    before, versions_before = tables(pipeline), versions(pipeline)
    flights, weather = pd.read_csv(five_weeks / "flights.csv.zip"), pd.read_csv(five_weeks / "weather.csv")
    chosen = flights.index[(flights.day == 3) & (flights.month == 1) & flights.arr_delay.notna()][40]
    flight = flights.loc[chosen]
    flights.loc[chosen, "arr_delay"] += 300
    write_raw(tmp_path / "raw", flights, weather)
    again = pipeline_over(tmp_path / "raw")
    again.repo = pipeline.repo
    received = timestamp(micros("2013-01-06T12:00")).to_pydatetime()
    again.ingest(interval("2013-01-03", "2013-01-05"), received_at=received)
    again.publish(interval("2013-01-06", "2013-01-07"))
    afresh = tables(run(pipeline_over(tmp_path / "raw"), (BEGIN, "2013-01-07")))
    found = tables(pipeline)
    for name, frame in afresh.items():  # what the rows say is the same; when it was learnt differs
        columns = [column for column in frame.columns if column != "created_timestamp"]
        pd.testing.assert_frame_equal(found[name][columns], frame[columns], obj=name, check_exact=True)
    outcome = found["flight_outcome"][found["flight_outcome"].created_timestamp == received]
    assert len(outcome) == 1
    assert outcome.arr_delay_minutes.tolist() == [flight.arr_delay + 300]
    both = found["carrier_origin_reliability"].merge(
        before["carrier_origin_reliability"],
        how="outer",
        on=list(found["carrier_origin_reliability"].columns),
        indicator=True,
    )
    moved = both[both._merge != "both"]
    assert set(zip(moved.carrier, moved.origin, strict=True)) == {(flight.carrier, flight.origin)}
    untouched = {
        "origin_congestion", "carrier_origin_congestion", "origin_weather", "route_profile", "origin_schedule_load",
        "flight_schedule", "aircraft_departures", "aircraft_profile",
    }  # fmt: skip
    now = versions(pipeline)
    assert {name for name in VIEWS if now[f"features/{name}"] == versions_before[f"features/{name}"]} == untouched
    # The old delivery, landed once more, does not undo the restatement.
    run(pipeline, (BEGIN, "2013-01-07"))
    assert versions(pipeline) == now
    assert DeltaTable(str(pipeline.data / "raw" / "arrivals")).version() == now["raw/arrivals"]


def test_a_renamed_aircraft_is_the_same_aircraft(in_one_go, five_weeks, pipeline_over, tmp_path):
    """Under another registration all that is known of it is the same, and so is all else."""
    flights, weather = pd.read_csv(five_weeks / "flights.csv.zip"), pd.read_csv(five_weeks / "weather.csv")
    name = flights.tailnum[flights.day <= 7].value_counts().index[0]
    write_raw(tmp_path / "raw", flights.replace({"tailnum": {name: "N00NEW"}}), weather)
    planes = pd.read_csv(five_weeks / "planes.csv").replace({"tailnum": {name: "N00NEW"}})
    planes.to_csv(tmp_path / "raw" / "planes.csv", index=False)
    wanted = tables(in_one_go)
    assert (wanted["aircraft_rotation"].tailnum == name).any()
    for table, frame in wanted.items():
        if "tailnum" in frame:
            renamed = frame.replace({"tailnum": {name: "N00NEW"}})
            wanted[table] = renamed.sort_values([*KEYS[table], "event_timestamp"], ignore_index=True)
    assert_tables_equal(tables(run(pipeline_over(tmp_path / "raw"), (BEGIN, "2013-01-08"))), wanted)


@pytest.mark.parametrize(
    ("table", "change", "rule"),
    [
        ("flights", lambda flights: flights.iloc[::4], "profile_departures.*share_of_usual_possible"),
        (
            "flights",
            lambda flights: flights.assign(dep_delay=flights.dep_delay / 60),
            "profile_departures.*dep_delay_minutes_iqr_possible",
        ),
        ("weather", lambda weather: weather[weather.origin != "JFK"], "hours_since_newest_possible"),
    ],
)
def test_a_day_that_cannot_be_is_refused_beside_the_weeks_before(
    five_weeks, landed_weeks, tmp_path, table, change, rule
):
    """Most flights are missing, delays come in hours, one airport's weather stopped: nothing lands."""
    from deltalake import DeltaTable

    from feature_repo.source import RawEvents, RawFiles
    from fti.features.pipeline import FeaturePipeline
    from fti.validation.gate import BatchRefused, Gate

    frames = {
        "flights": pd.read_csv(five_weeks / "flights.csv.zip"),
        "weather": pd.read_csv(five_weeks / "weather.csv"),
    }
    gate = Gate(accept=["raw_schedule.enough_rows"])  # five weeks of flights have no schedule four weeks ahead
    sixth = (frames[table].month == 2) & (frames[table].day.isin([5, 6]))
    frames[table] = pd.concat([frames[table][~sixth], change(frames[table][sixth])])
    write_raw(tmp_path / "raw", frames["flights"], frames["weather"])
    pipeline = FeaturePipeline(landed_weeks.repo, RawEvents(RawFiles(tmp_path / "raw")), gate)
    before = {path.name: DeltaTable(str(path)).version() for path in (pipeline.data / "raw").iterdir()}
    with pytest.raises(BatchRefused, match=rule):
        pipeline.ingest(interval("2013-02-06", "2013-02-07"))
    assert {path.name: DeltaTable(str(path)).version() for path in (pipeline.data / "raw").iterdir()} == before


@pytest.fixture(scope="module")
def landed_weeks(five_weeks, pipeline_over):
    pipeline = pipeline_over(five_weeks)
    pipeline.ingest(interval(BEGIN, "2013-02-06"))
    return pipeline
