"""Every feature table on tiny literal events: which rows there are, when they are stamped and what they hold."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta
from typing import Any

import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from feature_repo.transforms import FEATURE_TABLES, Interval
from fti.stores.delta import connect

UTC_MICROSECONDS = pa.timestamp("us", tz="UTC")
FLIGHT = {
    "flight_id": pa.string(), "origin": pa.string(), "dest": pa.string(), "carrier": pa.string(),
    "flight_number": pa.int64(), "tailnum": pa.string(), "scheduled_departure": UTC_MICROSECONDS,
}  # fmt: skip
STAMPS = {"event_timestamp": UTC_MICROSECONDS, "created_timestamp": UTC_MICROSECONDS}
MEASURES = (
    "temperature_f",
    "dew_point_f",
    "humidity_pct",
    "wind_dir_deg",
    "wind_speed_mph",
    "precip_in",
    "pressure_mb",
    "visibility_mi",
)
RAW = {
    "schedule": FLIGHT | {"scheduled_arrival": UTC_MICROSECONDS, "distance_miles": pa.float64()} | STAMPS,
    "departures": FLIGHT | {"dep_delay_minutes": pa.float64()} | STAMPS,
    "arrivals": FLIGHT | {"arr_delay_minutes": pa.float64()} | STAMPS,
    "cancellations": FLIGHT | STAMPS,
    "weather": {"origin": pa.string(), "observed_at": UTC_MICROSECONDS, **dict.fromkeys(MEASURES, pa.float64())}
    | STAMPS,
    "aircraft": {"tailnum": pa.string(), "year_built": pa.float64(), "seats": pa.int64()} | STAMPS,
}
KEYS = {"origin": "JFK", "dest": "BOS", "carrier": "B6", "flight_number": 7, "tailnum": "N1"}
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def utc(text: str) -> pd.Timestamp:
    """A moment; without a date it is on 1 July 2013."""
    return pd.Timestamp(text if "-" in text else f"2013-07-01T{text}", tz="UTC")


def span(start: str, end: str) -> Interval:
    return Interval(utc(start).to_pydatetime(), utc(end).to_pydatetime())


def event(at: str | pd.Timestamp, learnt: str | None = None, **facts: Any) -> dict[str, Any]:
    """An event of flight B6 7 from JFK to BOS, aircraft N1, unless `facts` says otherwise."""
    stamp = utc(at) if isinstance(at, str) else at
    return {
        "scheduled_departure": stamp,
        **KEYS,
        **facts,
        "event_timestamp": stamp,
        "created_timestamp": utc(learnt) if learnt else stamp,
    }


def landed(at: str, delay: float = 0.0, **facts: Any) -> dict[str, Any]:
    return event(at, arr_delay_minutes=delay, **facts)


def left(at: str, delay: float = 0.0, **facts: Any) -> dict[str, Any]:
    return event(at, dep_delay_minutes=delay, **facts)


def compute(name: str, interval: Interval, **events: list[dict[str, Any]]) -> pd.DataFrame:
    """The rows of a feature table, from the raw events that the pipeline hands it, in order of time and key."""
    table = FEATURE_TABLES[name]
    con = connect()
    backend = ibis.duckdb.from_connection(con)
    earliest = interval.start - timedelta(seconds=table.lookback_seconds)
    given = {}
    for raw in table.reads:
        rows = [row for row in events.get(raw, []) if earliest <= row["event_timestamp"] < interval.end]
        columns = {column: pa.array([row.get(column) for row in rows], kind) for column, kind in RAW[raw].items()}
        con.register(f"given_{raw}", pa.table(columns))
        given[raw] = backend.table(f"given_{raw}")
    frame = backend.to_pyarrow(table.compute(given, interval)).to_pandas()
    return frame.sort_values(["event_timestamp", *table.keys]).reset_index(drop=True)


def by_clock(frame: pd.DataFrame, *features: str) -> dict[str, Any]:
    """Feature values by the clock time (HH:MM) of the rows' event timestamps; nulls are None."""
    rows = frame[list(features)].astype(object).where(frame[list(features)].notna(), None).itertuples(index=False)
    values = [row[0] if len(features) == 1 else tuple(row) for row in rows]
    return dict(zip(frame.event_timestamp.dt.strftime("%H:%M"), values, strict=True))


# ---- windows --------------------------------------------------------------------------------------------------------


def test_a_window_holds_its_start_and_not_its_end():
    """The row of 13:00 counts 12:00 and 12:59 but not 13:00; the row of 14:00 counts 13:00 but not 12:59."""
    departures = [left("12:00"), left("12:59"), left("13:00")]
    rows = by_clock(compute("origin_congestion", span("11:00", "16:15"), departures=departures), "origin_departures_1h")
    assert {clock: rows[clock] for clock in ("13:00", "13:15", "14:00", "14:15")} == {
        "13:00": 2, "13:15": 2, "14:00": 1, "14:15": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("at", "first"), [("12:00", "12:15"), ("12:01", "12:15"), ("12:14", "12:15"), ("12:15", "12:30")]
)
def test_an_event_counts_from_the_first_grid_point_after_it(at, first):
    """An event on a grid point belongs to the next row, never to the one stamped with its own moment."""
    rows = compute("origin_congestion", span("11:00", "13:00"), departures=[left(at)])
    assert rows.event_timestamp.min() == utc(first)
    assert rows.origin_departures_1h[0] == 1


def test_the_last_fraction_of_a_second_before_a_grid_point_belongs_to_its_window():
    """Seconds are cut off, not rounded: an event at 12:59:59.7 is in the row of 13:00."""
    rows = by_clock(
        compute("origin_congestion", span("12:30", "13:15"), departures=[left("12:59:59.7")]), "origin_departures_1h"
    )
    assert rows == {"13:00": 1, "13:15": 1}


def test_counts_of_an_empty_window_are_zero_and_means_are_null():
    """No departure is a fact; its mean delay is not."""
    rows = compute("origin_congestion", span("13:00", "16:00"), departures=[left("12:10", -4.0)])
    features = ("origin_departures_1h", "origin_mean_dep_delay_1h", "origin_departures_3h", "origin_mean_dep_delay_3h")
    assert by_clock(rows, *features)["13:15"] == (0, None, 1, -4.0)
    assert by_clock(rows, *features)["15:15"] == (0, None, 0, None)


def test_fractions_of_a_minute_count_as_such():
    """A source that says them is not rounded without a word."""
    rows = compute("origin_congestion", span("12:00", "12:15"), departures=[left("12:01", 12.7), left("12:02", -3.6)])
    assert rows.origin_mean_dep_delay_1h.tolist() == [(12.7 - 3.6) / 2]


def test_means_are_taken_over_the_flights_of_each_key():
    """Another airport's delays are its own."""
    departures = [left("12:01", 10), left("12:02", -5), left("12:03", 99, origin="EWR")]
    rows = compute("origin_congestion", span("12:00", "12:15"), departures=departures).set_index("origin")
    assert rows.origin_mean_dep_delay_1h.to_dict() == {"JFK": 2.5, "EWR": 99.0}


def test_reliability_counts_late_from_fifteen_minutes_and_cancelled_among_those_that_were_to_leave():
    """14 minutes is not late, 15 is; cancelled flights are weighed against departures, not against landings."""
    rows = compute(
        "carrier_origin_reliability",
        span("12:00", "13:00"),
        arrivals=[landed("12:10", 14), landed("12:20", 15), landed("12:30", 100)],
        departures=[left("12:05"), left("12:06"), left("12:07")],
        cancellations=[event("12:40")],
    )
    assert len(rows) == 1
    for window in ("1d", "7d", "30d"):
        assert rows[f"carrier_origin_late_rate_{window}"][0] == 2 / 3
        assert rows[f"carrier_origin_cancelled_rate_{window}"][0] == 1 / 4
        assert rows[f"carrier_origin_mean_arr_delay_{window}"][0] == 43.0


@pytest.mark.parametrize(("days", "before", "after"), [(1, 1.0, None), (7, 0.5, 0.0), (30, 0.5, 0.0)])
def test_reliability_windows_end_to_the_hour(days, before, after):
    """A late landing at 12:30 is in the window of 12:00 so many days later, and out of that of 13:00."""
    noon = utc("12:00") + days * DAY
    punctual = (noon - 2 * DAY).strftime("%Y-%m-%dT%H:%M")  # in the longer windows only
    interval = Interval((noon - HOUR).to_pydatetime(), (noon + HOUR).to_pydatetime())
    rows = compute("carrier_origin_reliability", interval, arrivals=[landed("12:30", 20), landed(punctual, 0)])
    assert by_clock(rows, f"carrier_origin_late_rate_{days}d") == {"12:00": before, "13:00": after}


def test_only_cancellations_give_a_cancelled_rate_of_one_and_no_late_rate():
    """A key of which nothing ever flew still has rows."""
    rows = compute("route_reliability", span("06:00", "18:00"), cancellations=[event("11:59")])
    assert by_clock(rows, "route_cancelled_rate_1d", "route_late_rate_1d") == {
        "12:00": (1.0, None),
        "18:00": (1.0, None),
    }


def test_destination_means_have_their_own_windows():
    """3, 6 and 24 hours back from each full hour."""
    rows = compute("dest_arrivals", span("12:00", "19:00"), arrivals=[landed("12:00", 30), landed("15:59", 10)])
    means = by_clock(rows, "dest_mean_arr_delay_3h", "dest_mean_arr_delay_6h", "dest_mean_arr_delay_24h")
    assert means["13:00"] == (30.0, 30.0, 30.0)
    assert means["15:00"] == (30.0, 30.0, 30.0)
    assert means["16:00"] == (10.0, 20.0, 20.0)
    assert means["19:00"] == (None, 10.0, 20.0)


def test_delay_picked_up_on_the_way_is_the_arrival_less_the_departure_delay():
    """Of each flight that landed in the last day; one whose departure is unknown is in no mean, nor one not landed."""
    rows = compute(
        "dest_arrivals",
        span("12:00", "13:00"),
        departures=[
            left("10:00", 40, flight_id="a"),
            left("10:30", -5, flight_id="b"),
            left("11:00", 9, flight_id="c"),
        ],
        arrivals=[
            landed("12:10", 25, flight_id="a"),
            landed("12:20", 0, flight_id="b"),
            landed("12:30", 7, flight_id="d"),
        ],
    )
    assert by_clock(rows, "dest_mean_enroute_delay_24h") == {"13:00": (-15 + 5) / 2}


def test_delay_picked_up_on_the_way_counts_once_both_ends_are_known():
    """Should a feed say that a flight left after it landed, it counts from then; if it took over a day, never."""
    rows = compute(
        "dest_arrivals",
        span("12:00", "14:00"),
        departures=[left("13:20", 4, flight_id="a"), left("2013-06-30T12:00", 9, flight_id="b")],
        arrivals=[landed("12:10", 10, flight_id="a"), landed("12:20", 99, flight_id="b")],
    )
    assert by_clock(rows, "dest_mean_enroute_delay_24h") == {"13:00": None, "14:00": 6.0}


# ---- heartbeat and on-change ----------------------------------------------------------------------------------------


def test_a_heartbeat_view_has_a_row_at_each_grid_point_for_thirty_days():
    """From the first grid point after the event to the last that has it in the thirty days before, and then none."""
    rows = compute(
        "dest_arrivals",
        Interval(utc("2013-06-30").to_pydatetime(), utc("2013-08-10").to_pydatetime()),
        arrivals=[landed("12:07")],
    )
    assert rows.event_timestamp.min() == utc("13:00")
    assert rows.event_timestamp.max() == utc("2013-07-31T12:00")
    assert (rows.event_timestamp.diff().dropna() == HOUR).all()


def test_an_on_change_view_has_a_row_when_an_event_enters_and_when_it_leaves():
    """A landing is news at the next quarter of an hour, when it is a day old, and when it is two days old."""
    rows = compute("aircraft_rotation", span("2013-07-01", "2013-07-10"), arrivals=[landed("12:07", 33)])
    found = (
        rows[["event_timestamp", "tail_last_arr_delay", "tail_landings_24h"]].astype(object).where(rows.notna(), None)
    )
    assert found.values.tolist() == [
        [utc("12:15"), 33.0, 1],
        [utc("2013-07-02T12:15"), 33.0, 0],
        [utc("2013-07-03T12:15"), None, 0],
    ]


def test_the_last_of_several_landings_counts():
    """Of two landings in one quarter of an hour the later one; of older ones the newest within two days."""
    arrivals = [landed("12:09", 5), landed("12:02", 50), landed("13:00", -9)]
    rows = by_clock(
        compute("aircraft_rotation", span("12:00", "14:00"), arrivals=arrivals),
        "tail_last_arr_delay",
        "tail_landings_24h",
    )
    assert rows == {"12:15": (5.0, 2), "13:15": (-9.0, 3)}


def test_two_landings_at_one_moment_give_the_same_answer_in_any_order():
    """The real data has such a pair: what the table says must not depend on the order in which rows are read."""
    arrivals = [landed("12:04", 64, dest="SEA", flight_id="a"), landed("12:04", -20, dest="LAX", flight_id="b")]
    forwards, backwards = (
        compute("aircraft_rotation", span("12:00", "12:15"), arrivals=order) for order in (arrivals, arrivals[::-1])
    )
    pd.testing.assert_frame_equal(forwards, backwards)


def test_of_two_landings_at_one_moment_the_flight_that_was_to_leave_later_counts():
    """An aircraft cannot land twice at once; the later flight is the one it has just flown."""
    arrivals = [
        landed("12:04", 64, flight_id="z", scheduled_departure=utc("07:45")),
        landed("12:04", -20, flight_id="a", scheduled_departure=utc("09:00")),
    ]
    rows = compute("aircraft_rotation", span("12:00", "12:15"), arrivals=arrivals)
    assert rows.tail_last_arr_delay.tolist() == [-20.0]


def test_an_event_on_a_key_that_is_null_belongs_to_no_key():
    """Flights without a registration are no aircraft of that name."""
    arrivals = [landed("12:07", 33, tailnum=None), landed("12:08", 1)]
    assert compute("aircraft_rotation", span("12:00", "13:00"), arrivals=arrivals).tailnum.tolist() == ["N1"]


def test_a_flight_number_has_a_row_a_day_it_lands_and_an_empty_one_thirty_days_later():
    """The last row says that the window has emptied: no landings, and no mean of none."""
    arrivals = [landed("12:00", 20), landed("23:59", 0), landed("2013-07-03T00:00", 10)]
    rows = compute("flight_number_reliability", span("2013-07-01", "2013-08-20"), arrivals=arrivals)
    names = [
        "event_timestamp",
        "flight_number_late_rate_30d",
        "flight_number_mean_arr_delay_30d",
        "flight_number_landings_30d",
    ]
    found = rows[names].astype(object).where(rows[names].notna(), None).values.tolist()
    assert found == [
        [utc("2013-07-02"), 0.5, 10.0, 2],
        [utc("2013-07-04"), 1 / 3, 10.0, 3],
        [utc("2013-08-01"), 0.0, 10.0, 1],
        [utc("2013-08-03"), None, None, 0],
    ]


# ---- what is overdue -----------------------------------------------------------------------------------------------

ONE = {"flight_id": "one"}
CONGESTION_ROWS = [left("06:00", flight_id="before")]  # so that the airport has rows at all


def overdue(ends: dict[str, list[dict[str, Any]]], *departs: str) -> dict[str, Any]:
    """How many flights are overdue at JFK, by the clock from 11:45 to 17:00, where it is not none."""
    schedule = [entry(departure, **({"flight_id": "one"} if len(departs) == 1 else {})) for departure in departs]
    events = {"schedule": schedule, **ends, "departures": CONGESTION_ROWS + ends.get("departures", [])}
    rows = by_clock(compute("origin_congestion", span("11:30", "17:00"), **events), "origin_overdue")
    return {clock: count for clock, count in rows.items() if count}


def clocks(first: str, last: str) -> list[str]:
    return pd.date_range(utc(first), utc(last), freq="15min").strftime("%H:%M").tolist()


@pytest.mark.parametrize(
    ("departs", "first"), [("12:00", "12:15"), ("12:01", "12:15"), ("12:14", "12:15"), ("12:15", "12:30")]
)
@pytest.mark.parametrize(("leaves", "last"), [("13:01", "13:00"), ("13:14", "13:00"), ("13:15", "13:15")])
def test_a_flight_is_overdue_from_the_first_grid_point_after_its_time_to_the_last_at_which_it_has_not_left(
    departs, first, leaves, last
):
    """On a grid point it is not yet late, nor has it left: what happens at a moment is known after it."""
    found = overdue({"departures": [left(leaves, **ONE)]}, departs)
    assert found == dict.fromkeys(clocks(first, last), 1)


@pytest.mark.parametrize("leaves", ["11:20", "11:59", "12:00", "12:07", "12:14"])
def test_a_flight_that_leaves_early_or_before_the_next_grid_point_was_never_overdue(leaves):
    """Nobody looked while it was late."""
    assert overdue({"departures": [left(leaves, **ONE)]}, "12:00") == {}


@pytest.mark.parametrize("departs", ["12:00", "12:07", "12:14"])
@pytest.mark.parametrize("leaves", [None, "16:59"])
def test_a_flight_that_does_not_leave_is_given_up_four_hours_after_its_time(departs, leaves):
    """The row of 16:00 holds [12:00, 16:00), that of 16:15 nothing of it: the window leaves with the cell."""
    departures = [left(leaves, **ONE)] if leaves else []
    assert overdue({"departures": departures}, departs) == dict.fromkeys(clocks("12:15", "16:00"), 1)


def test_a_cancelled_flight_is_overdue_until_its_cancellation_is_known():
    """Known at 13:20, it is missing from the row of 13:30 on; known before its time, it is never overdue."""
    cancelled = event("13:20", **ONE)
    assert overdue({"cancellations": [cancelled]}, "12:00") == dict.fromkeys(clocks("12:15", "13:15"), 1)
    assert overdue({"cancellations": [event("09:00", **ONE)]}, "12:00") == {}


def test_flights_overdue_together_are_counted_each_at_its_own_airport():
    """Two at JFK, one at EWR, none at LGA."""
    schedule = [
        entry("12:00", flight_id="a"),
        entry("12:20", flight_id="b"),
        entry("12:00", flight_id="c", origin="EWR"),
    ]
    departures = [left("06:00", origin=origin) for origin in ("JFK", "EWR", "LGA")]
    rows = compute("origin_congestion", span("12:30", "12:45"), schedule=schedule, departures=departures)
    assert rows.set_index("origin").origin_overdue.to_dict() == {"EWR": 1, "JFK": 2, "LGA": 0}


def test_recent_delays_are_those_of_the_carrier_at_the_airport():
    """Of one hour and of three; another carrier's, and its own elsewhere, are not among them."""
    departures = [
        left("10:01", 30),
        left("12:01", 10),
        left("12:02", 99, carrier="HA"),
        left("12:03", 99, origin="EWR"),
    ]
    rows = compute("carrier_origin_congestion", span("12:45", "13:15"), departures=departures)
    means = rows[(rows.carrier == "B6") & (rows.origin == "JFK")]
    found = by_clock(means, "carrier_origin_mean_dep_delay_1h", "carrier_origin_mean_dep_delay_3h")
    assert found == {"13:00": (10.0, 20.0), "13:15": (None, 10.0)}


def test_a_flight_is_not_overdue_before_it_was_on_the_schedule():
    """An entry that comes out when its flight should have left already counts from the next grid point after that."""
    late = entry("12:00", **ONE) | {"event_timestamp": utc("13:05"), "created_timestamp": utc("13:05")}
    rows = compute("origin_congestion", span("12:30", "13:30"), schedule=[late], departures=CONGESTION_ROWS)
    assert by_clock(rows, "origin_overdue") == {"12:45": 0, "13:00": 0, "13:15": 1, "13:30": 1}


def test_what_is_overdue_does_not_make_a_roster():
    """Of an airport from which nothing has left there is no row: the schedule is no sign that its feed is alive."""
    assert compute("origin_congestion", span("12:00", "13:00"), schedule=[entry("12:00", **ONE)]).empty


def test_a_row_about_overdue_flights_is_created_when_the_last_thing_it_says_was_learnt():
    """A schedule entry or a cancellation that was reported late makes the rows it changes as new as itself."""
    learnt = {"created_timestamp": utc("15:00")}
    for late in ({"schedule": [entry("12:00", **ONE) | learnt]}, {"cancellations": [event("12:20", **ONE) | learnt]}):
        events = {"schedule": [entry("12:00", **ONE)], "departures": CONGESTION_ROWS} | late
        rows = by_clock(compute("origin_congestion", span("11:45", "12:30"), **events), "created_timestamp")
        first = "12:15" if "schedule" in late else "12:30"
        assert rows == {clock: utc("15:00") if clock >= first else utc(clock) for clock in ("12:00", "12:15", "12:30")}


def test_an_aircraft_has_a_row_when_it_leaves_and_when_it_is_overdue_and_when_it_no_longer_is():
    """Two hours late for its second flight; two days after it left, nothing is known of it any more."""
    rows = compute(
        "aircraft_departures",
        span("2013-07-01", "2013-07-10"),
        schedule=[entry("06:00", flight_id="first"), entry("12:00", **ONE)],
        departures=[left("05:58", flight_id="first"), left("14:00", **ONE)],
    )
    columns = ["event_timestamp", "tail_last_departure_minute", "tail_overdue"]
    found = rows[columns].astype(object).where(rows[columns].notna(), None)
    first, second = (int(utc(clock).timestamp()) // 60 for clock in ("05:58", "14:00"))
    assert found.values.tolist() == [
        [utc("06:00"), first, 0],
        [utc("12:15"), first, 1],
        [utc("14:15"), second, 0],
        [utc("2013-07-03T06:00"), second, 0],
        [utc("2013-07-03T14:15"), None, 0],
    ]


def test_the_last_departure_says_how_long_its_flight_was_to_take():
    """As the schedule said when it left: not what came out later, nor more than thirty days before, nor of nobody."""
    hours = {"12:00": 1, "12:20": 2, "12:40": 3, "13:00": 4}
    schedule = [
        entry(departs, flight_id=departs, scheduled_arrival=utc(departs) + count * HOUR)
        for departs, count in hours.items()
    ]
    schedule[1]["event_timestamp"] = utc("12:21")
    schedule[2]["event_timestamp"] = utc("12:40") - 30 * DAY - MINUTE
    departures = [left(departs, flight_id=departs) for departs in (*hours, "13:20")]
    rows = compute("aircraft_departures", span("12:00", "13:40"), schedule=schedule, departures=departures)
    assert by_clock(rows, "tail_last_scheduled_minutes") == {
        "12:15": 60, "12:30": None, "12:45": None, "13:15": 240, "13:30": None,
    }  # fmt: skip


def test_of_two_departures_in_one_cell_the_later_one_counts():
    """Its own scheduled time, with its own moment."""
    schedule = [
        entry("12:00", flight_id="a", scheduled_arrival=utc("15:00")),
        entry("12:05", flight_id="b", scheduled_arrival=utc("13:00")),
    ]
    departures = [left("12:09", flight_id="b"), left("12:01", flight_id="a")]
    rows = compute("aircraft_departures", span("12:00", "12:15"), schedule=schedule, departures=departures)
    columns = ["tail_last_departure_minute", "tail_last_scheduled_minutes"]
    assert rows[columns].values.tolist() == [[int(utc("12:09").timestamp()) // 60, 55]]


def test_an_aircraft_is_waited_for_six_hours():
    """Of a flight that neither leaves nor is cancelled there are two rows: it is overdue, and it no longer is."""
    rows = compute("aircraft_departures", span("2013-07-01", "2013-07-10"), schedule=[entry("12:07", **ONE)])
    assert by_clock(rows, "tail_overdue") == {"12:15": 1, "18:15": 0}
    assert rows.tail_last_departure_minute.isna().all()


def test_a_flight_that_leaves_with_another_aircraft_leaves_the_listed_one_waiting():
    """Late events are computed again for their own aircraft alone, so a row must not hang on another one's."""
    rows = compute(
        "aircraft_departures",
        span("12:00", "13:00"),
        schedule=[entry("12:00", **ONE)],
        departures=[left("12:20", tailnum="N2", **ONE)],
    )
    assert rows[["tailnum", "tail_overdue", "event_timestamp"]].values.tolist() == [
        ["N1", 1, utc("12:15")], ["N2", 0, utc("12:30")],
    ]  # fmt: skip


def test_the_last_landing_is_passed_on_as_a_minute():
    """Of two landings in one cell the later one; none, once two days are over."""
    rows = compute(
        "aircraft_rotation", span("2013-07-01", "2013-07-10"), arrivals=[landed("12:02:59"), landed("12:09:30")]
    )
    minutes = [int(utc("12:09").timestamp()) // 60] * 2
    assert rows.tail_last_landing_minute[:2].tolist() == minutes
    assert rows.tail_last_landing_minute[2:].isna().all()


# ---- the schedule, and events passed on -----------------------------------------------------------------------------


def entry(departs: str, **facts: Any) -> dict[str, Any]:
    departure = utc(departs)
    arrives = {"scheduled_arrival": departure + HOUR, "distance_miles": 187.0}
    return event(departure - 28 * DAY, **{"flight_id": departs, **arrives, **facts, "scheduled_departure": departure})


def test_the_load_of_an_hour_counts_its_departures_and_is_known_when_its_hour_is_published():
    """One row an airport and hour of departure, stamped at the end of the hour in which the entries came out."""
    schedule = [entry("12:00"), entry("12:59"), entry("13:00"), entry("12:30", origin="EWR")]
    rows = compute("origin_schedule_load", span("2013-06-03", "2013-06-04"), schedule=schedule)
    hour = int(utc("12:00").timestamp()) // 3600
    columns = ["origin", "departure_hour", "origin_scheduled_departures_hour", "event_timestamp"]
    assert rows[columns].values.tolist() == [
        ["EWR", hour, 1, utc("2013-06-03T13:00")],
        ["JFK", hour, 2, utc("2013-06-03T13:00")],
        ["JFK", hour + 1, 1, utc("2013-06-03T14:00")],
    ]


def test_a_route_has_a_row_a_day_of_publication():
    """Stamped when the day is over, so it holds nothing that came out later."""
    schedule = [entry("12:00"), entry("18:00"), entry("2013-07-02T12:00", distance_miles=188.0)]
    rows = compute("route_profile", span("2013-06-03", "2013-06-05"), schedule=schedule)
    assert rows[["event_timestamp", "route_distance_miles"]].values.tolist() == [
        [utc("2013-06-04"), 187.0], [utc("2013-06-05"), 188.0],
    ]  # fmt: skip


def test_an_outcome_is_stamped_with_the_landing_itself():
    """The label is known at that moment, not at a grid point; 15 minutes is late."""
    rows = compute(
        "flight_outcome",
        span("12:00", "13:00"),
        arrivals=[landed("12:07", 14, flight_id="a"), landed("12:08", 15, flight_id="b")],
    )
    assert rows[["flight_id", "arr_delay_minutes", "is_late", "event_timestamp"]].values.tolist() == [
        ["a", 14.0, 0, utc("12:07")], ["b", 15.0, 1, utc("12:08")],
    ]  # fmt: skip


def test_weather_and_aircraft_pass_on_as_they_are():
    """Renamed, with their own timestamps, nulls kept."""
    weather = compute(
        "origin_weather", span("12:00", "13:00"), weather=[event("12:00", wind_dir_deg=None, temperature_f=71.5)]
    )
    assert (weather.origin_temperature_f[0], weather.event_timestamp[0]) == (71.5, utc("12:00"))
    assert np.isnan(weather.origin_wind_dir_deg[0])
    aircraft = compute(
        "aircraft_profile", span("12:00", "13:00"), aircraft=[event("12:00", seats=150, year_built=None)]
    )
    assert aircraft.tail_seats[0] == 150
    assert np.isnan(aircraft.tail_year_built[0])


# ---- when a row was learnt ------------------------------------------------------------------------------------------


def test_a_row_is_created_when_the_last_of_its_events_was_learnt():
    """A late report makes the rows of its window as new as itself; other rows are as old as their stamp."""
    departures = [left("12:01"), left("12:02", learnt="15:30")]
    rows = by_clock(compute("origin_congestion", span("12:00", "12:30"), departures=departures), "created_timestamp")
    assert rows == {"12:15": utc("15:30"), "12:30": utc("15:30")}
    on_time = compute("origin_congestion", span("12:00", "12:30"), departures=[left("12:01")])
    assert (on_time.created_timestamp == on_time.event_timestamp).all()


# ---- what holds for every table -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def busy_months() -> dict[str, list[dict[str, Any]]]:
    """Ten weeks of random events with several keys, gaps of weeks among them."""
    chance = np.random.default_rng(5)
    events: dict[str, list[dict[str, Any]]] = {name: [] for name in RAW}
    for number in range(160):
        departs = utc("2013-05-01") + int(chance.integers(0, 70 * 24 * 60)) * MINUTE
        facts = {
            "flight_id": f"f{number}", "origin": str(chance.choice(["JFK", "EWR"])),
            "dest": str(chance.choice(["BOS", "LAX", "HNL"])), "carrier": str(chance.choice(["B6", "HA"])),
            "flight_number": int(chance.integers(1, 9)),
            "tailnum": [None, "N1", "N2", "N3", "N4"][chance.integers(0, 5)],
        }  # fmt: skip
        events["schedule"].append(entry(departs.strftime("%Y-%m-%dT%H:%M"), **facts))
        delay = float(chance.integers(-10, 90))
        if number % 10 == 0:
            events["cancellations"].append(event(departs + 6 * HOUR, **facts))
            continue
        events["departures"].append(event(departs + delay * MINUTE, dep_delay_minutes=delay, **facts))
        events["arrivals"].append(event(departs + (delay + 90) * MINUTE, arr_delay_minutes=delay, **facts))
    # So full a schedule that entries lie right before and after any cut.
    for number in range(70 * 24 * 2):
        departs = utc("2013-05-01") + number * 30 * MINUTE
        events["schedule"].append(entry(departs.strftime("%Y-%m-%dT%H:%M"), flight_id=f"s{number}", origin="LGA"))
    # An aircraft that leaves its window right after each cut.
    for moment in CUTS[1:]:
        events["arrivals"].append(
            event(utc(moment) - 2 * DAY - MINUTE, **KEYS | {"tailnum": "N9"}, arr_delay_minutes=1.0)
        )
    for number in range(0, 70 * 24, 5):
        events["weather"].append(event(utc("2013-05-01") + number * HOUR, temperature_f=float(number % 90)))
    events["aircraft"] = [event("2013-06-01", tailnum=f"N{n}", seats=n) for n in range(1, 5)]
    return events


# None of these is a point of any grid.
CUTS = [f"2013-05-{day:02}T{day % 24:02}:{day * 7 % 60:02}" for day in range(1, 32, 6)]
CUTS += [f"2013-06-{day:02}T{(day * 5) % 24:02}:{day * 11 % 60:02}" for day in range(1, 31, 5)]


@pytest.mark.parametrize("name", list(FEATURE_TABLES))
@pytest.mark.parametrize(("start", "end"), [("2013-06-05", "2013-06-12"), ("2013-06-05T13:07", "2013-06-12T10:59")])
def test_a_table_has_no_row_outside_the_interval(name, start, end, busy_months):
    """A row that ends after the interval would summarise events that have not landed yet."""
    rows = compute(name, span(start, end), **busy_months)
    table = FEATURE_TABLES[name]
    inside = rows.event_timestamp.between(utc(start), utc(end), inclusive=table.closed)
    assert name == "aircraft_profile" or len(rows)
    assert inside.all(), rows[~inside].head().to_string()


def cut(name: str, moments: list[str], events: dict[str, list[dict[str, Any]]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of the whole stretch, and those of its parts put together."""
    whole = compute(name, span(moments[0], moments[-1]), **events)
    parts = [compute(name, span(*part), **events) for part in itertools.pairwise(moments)]
    order = ["event_timestamp", *FEATURE_TABLES[name].keys]
    together = pd.concat([part for part in parts if len(part)] or parts[:1]).sort_values(order).reset_index(drop=True)
    return whole, together


@pytest.mark.parametrize("name", list(FEATURE_TABLES))
def test_days_put_together_are_the_whole(name, busy_months):
    """Cut at midnights, which are points of every grid, no row is lost, doubled or different."""
    whole, together = cut(
        name, ["2013-05-01", "2013-05-20", "2013-05-21", "2013-06-03", "2013-06-30", "2013-07-09"], busy_months
    )
    pd.testing.assert_frame_equal(together, whole)


@pytest.mark.parametrize("name", list(FEATURE_TABLES))
def test_parts_cut_anywhere_put_together_are_the_whole(name, busy_months):
    """The command line takes any moments: a cut between two grid points loses nothing either."""
    whole, together = cut(name, [*CUTS, "2013-07-09"], busy_months)
    pd.testing.assert_frame_equal(together, whole)


@pytest.mark.parametrize("name", list(FEATURE_TABLES))
def test_no_events_give_no_rows_and_every_column(name):
    """A first day without data makes a table of the right columns, with timestamps in UTC microseconds."""
    table = FEATURE_TABLES[name]
    con = connect()
    backend = ibis.duckdb.from_connection(con)
    for raw in table.reads:
        con.register(f"given_{raw}", pa.schema(list(RAW[raw].items())).empty_table())
    empty = {raw: backend.table(f"given_{raw}") for raw in table.reads}
    rows = backend.to_pyarrow(table.compute(empty, span("2013-07-01", "2013-07-02")))
    assert rows.num_rows == 0
    assert set(table.keys) < set(rows.column_names)
    for column in STAMPS:
        assert rows.schema.field(column).type == UTC_MICROSECONDS


@pytest.mark.parametrize("name", list(FEATURE_TABLES))
def test_order_of_events_does_not_matter(name, busy_months):
    """The same events in another order give the same cells, to the last bit."""
    interval = Interval(
        datetime.fromisoformat("2013-05-01T00:00:00+00:00"), datetime.fromisoformat("2013-07-09T00:00:00+00:00")
    )
    backwards = {raw: rows[::-1] for raw, rows in busy_months.items()}
    pd.testing.assert_frame_equal(
        compute(name, interval, **busy_months), compute(name, interval, **backwards), check_exact=True
    )
