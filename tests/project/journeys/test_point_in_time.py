"""The feature store's answers, offline and online, against the oracle's: every feature at hundreds of moments."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.oracle import DAY, FEATURES, HOUR, KEYS, MINUTE, VIEWS, Oracle, micros, timestamp

AS_OF = micros("2013-10-01")
SERVICES = ("arrival_delay_v1", "arrival_delay_v2")
GRIDS = (15 * MINUTE, HOUR, 6 * HOUR, DAY)
REQUEST = ("origin", "dest", "carrier", "flight_number", "tailnum", "departure_hour")
Pair = tuple[str, int]


# ---- what is compared -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def oracle() -> Oracle:
    return Oracle()


@pytest.fixture(scope="session")
def store(workspace):
    from feast import FeatureStore

    return FeatureStore(repo_path=str(workspace.repo))


@pytest.fixture(scope="session")
def pairs(oracle: Oracle) -> list[Pair]:
    """Flights and moments, some at random and some where mistakes are likely, always the same ones."""
    chance = np.random.default_rng(2013)
    flights = oracle.flights

    def some(chosen: pd.DataFrame, count: int) -> list[dict[str, Any]]:
        return chosen.iloc[chance.choice(len(chosen), size=min(count, len(chosen)), replace=False)].to_dict("records")

    def around(chosen: pd.DataFrame, count: int, before: int, after: int) -> list[Pair]:
        """Whole microseconds at random, from `before` the departure to `after` it."""
        return [
            (flight["flight_id"], flight["scheduled_departure"] + int(chance.integers(-before, after)))
            for flight in some(chosen, count)
        ]

    def predicted(chosen: pd.DataFrame, count: int) -> list[Pair]:
        return [(f["flight_id"], f["scheduled_departure"] - 2 * HOUR) for f in some(chosen, count)]

    cancelled, diverted = flights.dep_delay.isna(), flights.dep_delay.notna() & flights.arr_delay.isna()
    new_year = flights.scheduled_departure < micros("2013-01-04")
    last_evening = flights.scheduled_departure >= micros("2013-12-31T23:00")
    found = predicted(flights, 150) + around(flights, 100, 40 * DAY, 2 * DAY)
    found += predicted(flights[flights.tailnum.isna()], 15) + around(flights[cancelled], 15, DAY, DAY)
    found += around(flights[diverted], 15, DAY, DAY) + predicted(flights[diverted], 5)
    found += predicted(flights[new_year], 30) + around(flights[new_year], 20, 30 * DAY, DAY)
    found += predicted(flights[last_evening], 10)
    for night in ("2013-03-10", "2013-11-03"):
        clocks_change = flights.scheduled_departure.between(micros(night) - DAY, micros(night) + 2 * DAY)
        found += predicted(flights[clocks_change], 15) + around(flights[clocks_change], 25, 12 * HOUR, 12 * HOUR)
    # A grid point belongs to the row that ends there; a microsecond before it the row does not exist yet.
    for number, flight in enumerate(some(flights, 60)):
        point = flight["scheduled_departure"] // GRIDS[number % 4] * GRIDS[number % 4]
        found += [(flight["flight_id"], point), (flight["flight_id"], point - 1)]
    # The label exists from the landing on.
    for flight in some(flights[flights.arr_delay.notna()], 30):
        found += [(flight["flight_id"], flight["arrived_at"] - 1), (flight["flight_id"], flight["arrived_at"])]
    return found + _ttl_edges(oracle, chance) + _quarantined(oracle)


def _ttl_edges(oracle: Oracle, chance: np.random.Generator, edges: int = 6) -> list[Pair]:
    """For each view with a ttl: the last moment a row is good, and a microsecond later, with no newer row at hand."""
    found = []
    ids = oracle.flights.flight_id.to_numpy()
    for view, (ttl, grid) in VIEWS.items():
        if ttl is None:
            continue
        got = 0
        for attempt in range(3000):
            flight = oracle.flight(str(chance.choice(ids)))
            # Heartbeat rows come as long as the pipeline runs, so most of them only grow old after its last run.
            moment = oracle.until if grid and attempt % 2 else flight["scheduled_departure"] + int(chance.integers(DAY))
            row = oracle.row(view, flight, moment)
            if row is None:
                continue
            newest = oracle.row(view, flight, row.at + ttl + 1)
            if newest and newest.at == row.at:
                found += [(flight["flight_id"], row.at + ttl), (flight["flight_id"], row.at + ttl + 1)]
                got += 1
            if got == edges:
                break
        assert got == edges, f"found {got} ttl edges of {view}"
    return found


def _quarantined(oracle: Oracle) -> list[Pair]:
    """The moments and flights that the rows in quarantine would have touched."""
    flights = oracle.flights
    held = oracle.quarantined_flights.iloc[0]
    same_hour = flights[
        (flights.origin == held.origin) & (flights.departure_hour.between(held.departure_hour, held.departure_hour + 6))
    ]
    found = [
        (str(held.flight_id), int(held.scheduled_departure) + shift) for shift in (-28 * DAY, -2 * HOUR, 0, 7 * HOUR)
    ]
    found += [(name, int(held.scheduled_departure) - HOUR) for name in same_hour.flight_id[:5]]
    gust = oracle.quarantined_weather.iloc[0]
    nearby = flights[(flights.origin == gust.origin) & (flights.scheduled_departure >= gust.known_at)].flight_id.iloc[
        :1
    ]
    return found + [(name, int(gust.known_at) + shift) for name in nearby for shift in (-1, 0, 1, HOUR - 1, HOUR)]


@pytest.fixture(scope="session")
def expected(oracle: Oracle, pairs: list[Pair]) -> pd.DataFrame:
    """The oracle's features, a row a pair."""
    return pd.DataFrame([oracle.features(oracle.flight(name), moment) for name, moment in pairs], dtype=object)


@pytest.fixture(scope="session")
def entities(oracle: Oracle, pairs: list[Pair]) -> pd.DataFrame:
    """The pairs as an entity dataframe: join keys, request fields and the moment."""
    frame = pd.DataFrame([oracle.flight(name) for name, _ in pairs])
    for column in ("scheduled_departure", "scheduled_arrival"):
        frame[column] = pd.to_datetime(frame[column], unit="us", utc=True)
    return frame.assign(event_timestamp=pd.to_datetime([moment for _, moment in pairs], unit="us", utc=True))


def plain(value: Any) -> Any:
    """A cell as a Python value: every kind of missing is None."""
    if value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value


def differences(
    found: pd.DataFrame, expected: pd.DataFrame, features: list[str], labels: Callable[[int], str]
) -> list[str]:
    """One line for each cell that differs; floats may differ by a part in a thousand million."""
    lines = []
    for feature in features:
        for row, (got, want) in enumerate(zip(map(plain, found[feature]), map(plain, expected[feature]), strict=True)):
            close = isinstance(got, int | float) and isinstance(want, int | float)
            if got != want and not (close and math.isclose(got, want, rel_tol=1e-9, abs_tol=1e-9)):
                lines.append(f"{labels(row)}: {feature} is {got!r}, the oracle says {want!r}")
    return lines


def service_features(store, name: str) -> list[str]:
    projections = store.get_feature_service(name).feature_view_projections
    return [feature.name for projection in projections for feature in projection.features]


def assert_same(found: pd.DataFrame, expected: pd.DataFrame, features: list[str], pairs: list[Pair]) -> None:
    wrong = differences(found, expected, features, lambda row: f"{pairs[row][0]} at {timestamp(pairs[row][1])}")
    assert not wrong, f"{len(wrong)} cells differ:\n" + "\n".join(wrong[:30])


# ---- offline --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES)
def test_training_features_are_what_was_known_at_each_moment(service, store, entities, expected, pairs):
    """Every feature of the service, for every pair, is what the oracle finds in the raw rows."""
    columns = ["flight_id", *REQUEST, "scheduled_departure", "scheduled_arrival", "event_timestamp"]
    found = store.get_historical_features(entities[columns], store.get_feature_service(service)).to_df()
    features = service_features(store, service)
    assert len(features) > 15
    assert found.flight_id.tolist() == entities.flight_id.tolist(), "rows come back in another order"
    assert_same(found, expected, features, pairs)


def test_no_flight_has_an_outcome_before_it_landed(store, entities, expected, pairs):
    """Schedule and outcome appear when they were knowable; cancelled and diverted flights never have an outcome."""
    views = ("flight_schedule", "flight_outcome")
    refs = [f"{view}:{feature}" for view in views for feature in FEATURES[view]]
    found = store.get_historical_features(entities[["flight_id", "event_timestamp"]], refs).to_df()
    assert 0 < found.is_late.notna().sum() < len(found)
    assert_same(found, expected, [feature for view in views for feature in FEATURES[view]], pairs)


def test_the_views_that_no_service_reads_whole_are_right_too(store, entities, expected, pairs):
    """With the services' features, this covers every feature of every view there is."""
    served = {feature for service in SERVICES for feature in service_features(store, service)}
    known = {feature for features in FEATURES.values() for feature in features} | {"flight_id"}
    spine = {*FEATURES["flight_schedule"], *FEATURES["flight_outcome"]}
    assert {feature.name for view in store.list_feature_views() for feature in view.features} == known - {"flight_id"}
    hidden = {  # what on-demand features alone read
        "tail_year_built": "aircraft_profile",
        "tail_last_landing_minute": "aircraft_rotation",
        "tail_last_departure_minute": "aircraft_departures",
        "tail_last_scheduled_minutes": "aircraft_departures",
    }
    assert known - served - spine - {"flight_id"} == set(hidden)
    found = store.get_historical_features(
        entities[["tailnum", "event_timestamp"]], [f"{view}:{feature}" for feature, view in hidden.items()]
    )
    assert_same(found.to_df(), expected, list(hidden), pairs)


def test_sampled_pairs_meet_every_case(oracle, pairs, expected):
    """The sample is no sample of easy cases: it holds fresh and expired rows, nulls and values of every feature."""
    assert len(pairs) > 600
    for feature in expected.columns:
        assert expected[feature].map(plain).notna().any(), feature
    for view, features in FEATURES.items():
        assert expected[features[0]].map(plain).isna().any(), view
    for feature in ("tail_landings_24h", "tail_overdue", "origin_overdue"):
        assert expected[feature].map(plain).eq(0).any(), feature
        assert expected[feature].map(plain).gt(0).any(), feature


# ---- quarantine -----------------------------------------------------------------------------------------------------


def test_quarantine_holds_exactly_the_rows_that_break_a_rule(workspace, oracle):
    """One flight of 17 miles and one wind of 1048 mph are held, and nothing else; both are named with their rule."""
    from deltalake import DeltaTable

    quarantine = workspace.root / "data" / "quarantine"
    assert sorted(path.name for path in quarantine.iterdir()) == ["schedule", "weather"]
    schedule = DeltaTable(str(quarantine / "schedule")).to_pandas()
    weather = DeltaTable(str(quarantine / "weather")).to_pandas()
    assert schedule.flight_id.tolist() == oracle.quarantined_flights.flight_id.tolist() == ["US1632_EWR_20130727T0506Z"]
    assert schedule.rules.tolist() == ["distance_in_range"]
    assert weather.event_timestamp.tolist() == [timestamp(at) for at in oracle.quarantined_weather.known_at]
    assert weather.rules.tolist() == ["wind_speed_mph_in_range"]


# ---- online ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def requested(oracle: Oracle) -> list[dict[str, Any]]:
    """Flights of the days around the materialization, and some that were last seen long before it."""
    flights = oracle.flights
    near = flights[flights.scheduled_departure.between(AS_OF - 2 * DAY, AS_OF + 3 * DAY)].sample(80, random_state=1)
    old = flights[flights.scheduled_departure < AS_OF - 60 * DAY].sample(60, random_state=2)
    # In New York it is still 2013, in UTC no longer.
    midnight = flights[flights.scheduled_departure >= micros("2014-01-01T00:30")].iloc[:3]
    return [oracle.flight(name) for name in pd.concat([near, old, midnight]).flight_id]


@pytest.mark.parametrize("service", SERVICES)
def test_online_features_are_the_newest_rows_at_materialization(service, store, oracle, requested):
    """Online reads give each key's newest row as of the materialization and its event timestamp, ttl aside."""
    rows = []
    for flight in requested:
        times = {name: timestamp(flight[name]).to_pydatetime() for name in ("scheduled_departure", "scheduled_arrival")}
        rows.append({name: plain(flight[name]) or "" for name in REQUEST} | times)
    found = store.get_online_features(store.get_feature_service(service), rows).to_df(include_event_timestamps=True)
    expected = pd.DataFrame([oracle.features(flight, AS_OF, use_ttl=False) for flight in requested], dtype=object)
    projections = store.get_feature_service(service).feature_view_projections
    wrong = differences(found, expected, service_features(store, service), lambda row: requested[row]["flight_id"])
    stored = {projection.name: projection.features[0].name for projection in projections if projection.name in KEYS}
    for view, feature in stored.items():
        stamp = f"{feature}__ts"
        for row, flight in enumerate(requested):
            newest = oracle.row(view, flight, AS_OF)
            want = newest.at // 1_000_000 if newest else 0
            if found[stamp][row] != want:
                wrong.append(f"{flight['flight_id']}: {stamp} is {found[stamp][row]}, the oracle says {want}")
    assert not wrong, f"{len(wrong)} cells differ:\n" + "\n".join(wrong[:30])
