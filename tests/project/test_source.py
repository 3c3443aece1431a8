"""The source adapter on hand-made flights: wall clocks, event timestamps, and raw files that are broken."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from feature_repo.source import (
    FLIGHT_COLUMNS,
    RAW_KEYS,
    RAW_SCHEMAS,
    WEATHER_COLUMNS,
    ZONES_MISSING_FROM_AIRPORTS,
    RawEvents,
    RawFiles,
    SourceError,
    flights_in_utc,
)

ZONES = {
    "HNL": "Pacific/Honolulu", "PHX": "America/Phoenix", "LAX": "America/Los_Angeles", "ORD": "America/Chicago",
    "BOS": "America/New_York", "MIA": "America/New_York", "ANC": "America/Anchorage", **ZONES_MISSING_FROM_AIRPORTS,
}  # fmt: skip


def utc(text: str) -> pd.Timestamp:
    return pd.Timestamp(text, tz="UTC")


def flight(dest: str = "BOS", hour: str = "2013-07-01T12:00:00Z", minute: int = 0, arrives: int = 910, **more) -> dict:
    """A raw row; `arrives` is the HHMM on the destination's clock."""
    facts = {
        "sched_dep_time": 800, "dep_delay": 0.0, "sched_arr_time": arrives, "arr_delay": 0.0, "carrier": "B6",
        "flight": 7, "tailnum": "N1", "origin": "JFK", "dest": dest, "distance": 187, "minute": minute,
        "time_hour": hour,
    }  # fmt: skip
    return facts | more


def converted(*rows: dict) -> pd.DataFrame:
    return flights_in_utc(pd.DataFrame(rows), ZONES)


# ---- wall clocks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dest", "hour", "arrives", "wanted"),
    [
        ("HNL", "2013-07-01T14:00:00Z", 1415, "2013-07-02T00:15"),  # Honolulu is at -10 all year
        ("HNL", "2013-01-01T14:00:00Z", 1415, "2013-01-02T00:15"),
        ("PHX", "2013-07-01T14:00:00Z", 1040, "2013-07-01T17:40"),  # Phoenix keeps -7 in summer
        ("LAX", "2013-07-01T14:00:00Z", 1040, "2013-07-01T17:40"),  # and so does Los Angeles, by summer time
        ("LAX", "2013-01-01T14:00:00Z", 1040, "2013-01-01T18:40"),
        ("SJU", "2013-01-01T14:00:00Z", 1345, "2013-01-01T17:45"),  # Puerto Rico is at -4 all year
        ("SJU", "2013-07-01T14:00:00Z", 1345, "2013-07-01T17:45"),
        ("ANC", "2013-07-01T20:00:00Z", 1930, "2013-07-02T03:30"),
    ],
)
def test_scheduled_arrivals_are_on_the_clock_of_the_destination(dest, hour, arrives, wanted):
    """The same HHMM is another moment in another zone, in winter and in summer."""
    assert converted(flight(dest, hour, arrives=arrives)).scheduled_arrival[0] == utc(wanted)


@pytest.mark.parametrize(
    ("dest", "hour", "arrives", "wanted"),
    [
        ("BOS", "2013-07-02T03:00:00Z", 5, "2013-07-02T04:05"),  # 23:00 to 00:05, the day changes in the air
        ("SJU", "2013-01-01T04:00:00Z", 440, "2013-01-01T08:40"),  # 23:00 in New York is midnight in San Juan
        (
            "ORD",
            "2013-07-01T04:00:00Z",
            2359,
            "2013-07-01T04:59",
        ),  # 00:00 to 23:59, "the day before" by Chicago's clock
        (
            "LAX",
            "2013-07-02T01:00:00Z",
            2359,
            "2013-07-02T06:59",
        ),  # 21:00 to 23:59, the UTC day has changed, theirs has not
    ],
)
def test_a_flight_that_lands_overnight_lands_after_it_left(dest, hour, arrives, wanted):
    """The arrival is the first moment after the departure when the destination's clock shows the time."""
    assert converted(flight(dest, hour, arrives=arrives)).scheduled_arrival[0] == utc(wanted)


@pytest.mark.parametrize(
    ("hour", "arrives", "wanted"),
    [
        ("2013-03-10T03:00:00Z", 159, "2013-03-10T06:59"),  # the last minute of winter time
        ("2013-03-10T03:00:00Z", 300, "2013-03-10T07:00"),  # the first of summer time, one minute later
        ("2013-03-10T03:00:00Z", 230, "2013-03-10T07:00"),  # no clock shows 02:30 that night: the moment after
        ("2013-11-03T03:00:00Z", 59, "2013-11-03T04:59"),
        ("2013-11-03T03:00:00Z", 130, "2013-11-03T05:30"),  # clocks show 01:30 twice: the first time counts
        ("2013-11-03T03:00:00Z", 200, "2013-11-03T07:00"),
    ],
)
def test_arrivals_in_the_nights_when_clocks_change_are_one_definite_moment(hour, arrives, wanted):
    """A clock time that a night lacks or repeats still gives one moment, as the docstring says."""
    assert converted(flight("MIA", hour, arrives=arrives)).scheduled_arrival[0] == utc(wanted)


def test_a_delay_across_the_change_of_clocks_is_real_minutes():
    """Three hours late over the night of 10 March is three hours later, whatever the clocks say."""
    frame = converted(flight("MIA", "2013-03-10T03:00:00Z", arrives=130, dep_delay=180.0, arr_delay=180.0))
    events = events_of(frame)
    assert events["departures"].event_timestamp[0] == utc("2013-03-10T06:00")
    assert events["arrivals"].event_timestamp[0] == utc("2013-03-10T09:30")


def test_a_destination_without_a_zone_is_named():
    """An airport that the zones lack, or list without a zone, stops the run and says where to add it."""
    with pytest.raises(SourceError, match=r"\['XNA', 'XXX'\].*ZONES_MISSING_FROM_AIRPORTS"):
        flights_in_utc(pd.DataFrame([flight("XXX"), flight("XNA"), flight("BOS")]), ZONES | {"XNA": float("nan")})


def test_real_flights_land_when_the_raw_file_says_so():
    """On every real flight, the event timestamps show the raw file's own dep_time and arr_time on the local clocks."""
    files = RawFiles()
    raw = files.read("flights.csv.zip", ["dep_time", "arr_time", "flight", "dest", "dep_delay", "arr_delay"])
    zones = files.read("airports.csv", ["faa", "tzone"]).set_index("faa").tzone.to_dict() | ZONES_MISSING_FROM_AIRPORTS
    source = RawEvents(files)
    frame = source._flights
    wrong = []
    for zone, rows in raw.groupby(raw.dest.map(zones)):
        flights = frame.loc[rows.index]
        landed = flights.scheduled_arrival + pd.to_timedelta(flights.arr_delay_minutes, unit="min")
        local = landed.dt.tz_convert(zone)
        differs = rows.arr_delay.notna() & (local.dt.hour * 100 + local.dt.minute != rows.arr_time % 2400)
        wrong += rows.index[differs].tolist()
    left = frame.scheduled_departure + pd.to_timedelta(frame.dep_delay_minutes, unit="min")
    local = left.dt.tz_convert("America/New_York")
    assert not (raw.dep_delay.notna() & (local.dt.hour * 100 + local.dt.minute != raw.dep_time % 2400)).any()
    # One landing, in the night of 10 March, is written down at a time of day that Florida did not have.
    assert raw.arr_time[wrong].tolist() == [203.0]


# ---- event timestamps -----------------------------------------------------------------------------------------------


def events_of(frame: pd.DataFrame, start: str = "2012-01-01", end: str = "2015-01-01") -> dict[str, pd.DataFrame]:
    """The flight events of converted flights."""
    source = RawEvents()
    source.__dict__["_flights"] = frame
    tables = ("schedule", "departures", "arrivals", "cancellations")
    return {name: source.between(name, utc(start).to_pydatetime(), utc(end).to_pydatetime()) for name in tables}


def test_each_event_is_stamped_when_it_could_be_known():
    """The schedule 28 days ahead, departure and arrival when they happened, with what was known by then only."""
    events = events_of(converted(flight(dep_delay=-3.0, arr_delay=17.0, minute=30)))
    stamps = {name: [str(stamp) for stamp in frame.event_timestamp] for name, frame in events.items()}
    assert stamps == {
        "schedule": ["2013-06-03 12:30:00+00:00"],
        "departures": ["2013-07-01 12:27:00+00:00"],
        "arrivals": ["2013-07-01 13:27:00+00:00"],
        "cancellations": [],
    }
    delays = {"dep_delay_minutes", "arr_delay_minutes"}
    assert not delays & set(events["schedule"].columns)
    assert delays & set(events["departures"].columns) == {"dep_delay_minutes"}
    assert delays & set(events["arrivals"].columns) == {"arr_delay_minutes"}
    assert not delays & set(events["cancellations"].columns)
    for frame in events.values():
        assert (frame.created_timestamp == frame.event_timestamp).all()
        assert str(frame.event_timestamp.dtype) == "datetime64[us, UTC]"


def test_a_cancelled_flight_is_known_six_hours_later_and_never_departs_or_lands():
    """A flight without departure delay counts as cancelled."""
    events = events_of(converted(flight(dep_delay=np.nan, arr_delay=np.nan, tailnum=np.nan)))
    assert [len(events[name]) for name in ("schedule", "departures", "arrivals", "cancellations")] == [1, 0, 0, 1]
    assert events["cancellations"].event_timestamp[0] == utc("2013-07-01T18:00")
    assert events["cancellations"].tailnum[0] is None


def test_a_diverted_flight_departs_and_never_lands():
    """Without an arrival delay there is no arrival event, and so no label."""
    events = events_of(converted(flight(dep_delay=5.0, arr_delay=np.nan)))
    assert [len(events[name]) for name in ("schedule", "departures", "arrivals", "cancellations")] == [1, 1, 0, 0]


def test_an_interval_holds_its_start_and_not_its_end():
    """Two intervals that meet share no event and miss none."""
    frame = converted(flight())
    departs = "2013-07-01T12:00:00"
    assert len(events_of(frame, departs, "2013-07-01T12:00:00.000001")["departures"]) == 1
    assert len(events_of(frame, "2013-07-01T11:00", departs)["departures"]) == 0


def test_flight_ids_tell_apart_every_departure():
    """Carrier, number, origin and scheduled UTC minute: one number twice a day, or at two airports, is two flights."""
    ids = converted(flight(), flight(minute=30), flight(origin="EWR"), flight(flight=8)).flight_id.tolist()
    assert ids == [
        "B67_JFK_20130701T1200Z",
        "B67_JFK_20130701T1230Z",
        "B67_EWR_20130701T1200Z",
        "B68_JFK_20130701T1200Z",
    ]


def test_events_come_in_order_of_time_then_key():
    """Whatever the order of the raw file: the same batch is the same frame."""
    rows = [flight(flight=number, minute=minute) for number, minute in ((9, 5), (1, 5), (4, 0))]
    for order in (rows, rows[::-1]):
        assert events_of(converted(*order))["departures"].flight_number.tolist() == [4, 1, 9]


# ---- raw files ------------------------------------------------------------------------------------------------------


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A folder with one good flight, one observation, one aircraft and two airports."""
    write_flights(tmp_path, pd.DataFrame([flight(dep_delay=1.0)]))
    observed = dict.fromkeys(WEATHER_COLUMNS, 10.0) | {"origin": "JFK", "time_hour": "2013-07-01T12:00:00Z"}
    pd.DataFrame([observed]).to_csv(tmp_path / "weather.csv", index=False)
    (tmp_path / "planes.csv").write_text("tailnum,year,seats\nN1,1999,150\nN2,NA,20\n")
    (tmp_path / "airports.csv").write_text("faa,tzone\nBOS,America/New_York\nJFK,America/New_York\n")
    return tmp_path


def write_flights(folder: Path, flights: pd.DataFrame) -> None:
    with zipfile.ZipFile(folder / "flights.csv.zip", "w") as archive:
        archive.writestr("flights.csv", flights.to_csv(index=False))


def all_events(folder: Path) -> dict[str, pd.DataFrame]:
    source = RawEvents(RawFiles(folder))
    return {
        name: source.between(name, utc("2012-12-01").to_pydatetime(), utc("2014-01-03").to_pydatetime())
        for name in RAW_KEYS
    }


def test_weather_is_known_when_its_hour_is_over_and_aircraft_before_the_year(raw):
    """An observation is stamped at the end of its hour, the register on 1 December 2012; unknown years are null."""
    events = all_events(raw)
    assert events["weather"].event_timestamp.tolist() == [utc("2013-07-01T13:00")]
    assert events["weather"].observed_at.tolist() == [utc("2013-07-01T12:00")]
    assert set(events["aircraft"].event_timestamp) == {utc("2012-12-01")}
    assert events["aircraft"].year_built.isna().tolist() == [False, True]


def test_moments_may_be_spelt_in_any_way_of_iso_8601(raw):
    """Each for itself; what says no moment is null, and left to the gate."""
    spelt = ["2013-07-01", "2013-07-01T12:00:00Z", "2013-07-01 09:00:00-04:00", "20130701T140000Z", "noon"]
    observed = dict.fromkeys(WEATHER_COLUMNS, 10.0) | {"origin": "JFK"}
    pd.DataFrame([observed | {"time_hour": text} for text in spelt]).to_csv(raw / "weather.csv", index=False)
    found = all_events(raw)["weather"].observed_at
    assert set(found.dropna()) == {utc(f"2013-07-01T{hour}:00") for hour in ("00", "12", "13", "14")}
    assert found.isna().sum() == 1


def test_a_comma_at_the_end_of_lines_means_nothing_but_a_value_there_does(raw):
    """Each value stays in its own column; one that has no column is not lost without a word."""
    file, before = raw / "weather.csv", all_events(raw)["weather"]
    header, *lines = file.read_text().splitlines()
    file.write_text("\n".join([header, *(f"{line}," for line in lines)]))
    pd.testing.assert_frame_equal(all_events(raw)["weather"], before)
    file.write_text("\n".join([header, *(f"{line},7" for line in lines)]))
    with pytest.raises(SourceError, match=r"weather\.csv cannot be read .*Length of header or names does not match"):
        all_events(raw)


@pytest.mark.parametrize("name", ["flights.csv.zip", "weather.csv", "planes.csv", "airports.csv"])
def test_a_missing_raw_file_is_named_with_the_command_that_mends_it(raw, name):
    """Whichever file it is."""
    (raw / name).unlink()
    with pytest.raises(SourceError, match=rf"{name} is missing.*pip install"):
        all_events(raw)


@pytest.mark.parametrize("content", [b"", b"not a zip file", b"PK\x03\x04 cut short"])
def test_a_corrupt_archive_is_named_with_the_command_that_mends_it(raw, content):
    """An empty, a wrong and a truncated archive all give the one error that the command line understands."""
    (raw / "flights.csv.zip").write_bytes(content)
    with pytest.raises(SourceError, match=r"flights\.csv\.zip cannot be read.*pip install"):
        all_events(raw)


def test_an_archive_cut_in_the_middle_of_its_data_is_a_source_error(raw):
    """The table of contents is fine and the data are not: decompression fails, with the same clear error."""
    write_flights_compressed(raw / "flights.csv.zip", pd.DataFrame([flight(flight=n) for n in range(1, 400)]))
    content = bytearray((raw / "flights.csv.zip").read_bytes())
    content[200:260] = bytes(60)
    (raw / "flights.csv.zip").write_bytes(bytes(content))
    with pytest.raises(SourceError, match=r"flights\.csv\.zip cannot be read"):
        all_events(raw)


def write_flights_compressed(path: Path, flights: pd.DataFrame) -> None:
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("flights.csv", flights.to_csv(index=False))


@pytest.mark.parametrize("content", ["", "a,b\n1,2,3\n1\n\xff", '"'])
def test_a_file_that_is_no_table_is_a_source_error(raw, content):
    """An empty or garbled CSV file says which file it is."""
    (raw / "weather.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(SourceError, match=r"weather\.csv"):
        all_events(raw)


@pytest.mark.parametrize("column", FLIGHT_COLUMNS)
def test_a_missing_column_is_named(raw, column):
    """A renamed column stops the run before anything is computed from the rest."""
    write_flights(raw, pd.DataFrame([flight()]).drop(columns=column))
    with pytest.raises(SourceError, match=rf"lacks the column\(s\) \['{column}'\]"):
        all_events(raw)


@pytest.mark.parametrize(("table", "column"), [("schedule", "flight"), ("aircraft", "seats")])
def test_a_null_in_a_whole_number_is_left_to_the_gate(raw, table, column):
    """The suites hold such rows one by one (`flight_number_present`); the adapter must not fall over them first."""
    write_flights(raw, pd.DataFrame([flight(), flight(flight=8 if column == "seats" else None)]))
    if column == "seats":
        (raw / "planes.csv").write_text("tailnum,year,seats\nN1,1999,NA\nN2,1999,20\n")
    assert len(all_events(raw)[table]) == 2


def test_an_unknown_airport_in_a_flight_is_named(raw):
    """A new destination is a question for people, not a guess."""
    write_flights(raw, pd.DataFrame([flight(dest="ZZZ")]))
    with pytest.raises(SourceError, match=r"\['ZZZ'\]"):
        all_events(raw)


@pytest.mark.parametrize("cell", ["time_hour", "minute", "sched_arr_time", "dest", "carrier", "origin", "flight"])
def test_a_flight_that_lacks_a_cell_is_handed_to_the_gate(raw, cell):
    """Its events come whole or with nulls, and not at all is no way: the gate has a rule for each null."""
    write_flights(raw, pd.DataFrame([flight(flight=8), flight() | {cell: None}]))
    events = all_events(raw)
    assert [len(events[name]) for name in ("schedule", "departures", "arrivals")] == [2, 2, 2]
    assert events["schedule"].flight_id.isna().sum() == (cell in ("time_hour", "minute", "carrier", "origin", "flight"))


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("departures", {"dep_delay": 1e15}),
        ("arrivals", {"sched_arr_time": 10**12}),
        ("departures", {"time_hour": "soon"}),
    ],
)
def test_an_event_without_a_moment_is_in_every_interval(raw, table, change):
    """No clock shows it and no interval holds it, so each hands it to the gate, and nobody overlooks it."""
    write_flights(raw, pd.DataFrame([flight(flight=8), flight() | change]))
    source = RawEvents(RawFiles(raw))
    for day in ("2013-06-30", "2013-07-01", "2013-07-02"):
        start = utc(day)
        events = source.between(table, start.to_pydatetime(), (start + pd.Timedelta(days=1)).to_pydatetime())
        assert events.event_timestamp.isna().sum() == 1
        assert len(events) == (2 if day == "2013-07-01" else 1)


@pytest.mark.parametrize("cell", ["many", "7.5"])
def test_text_and_fractions_are_no_whole_numbers(raw, cell):
    """A column of another kind is another file: one error, with the cell's own words."""
    (raw / "planes.csv").write_text(f"tailnum,year,seats\nN1,1999,{cell}\n")
    with pytest.raises(SourceError, match=r"planes\.csv cannot be read"):
        all_events(raw)


def test_the_columns_of_each_table_are_the_declared_ones(raw):
    """`RAW_SCHEMAS` says what `RawEvents` hands out: in that order, and of types that fit."""
    for name, events in all_events(raw).items():
        assert list(events.columns) == RAW_SCHEMAS[name].names
        assert pa.Table.from_pandas(events, schema=RAW_SCHEMAS[name], preserve_index=False).num_rows == len(events)
