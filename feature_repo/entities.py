"""The things features describe, each with the join key that finds it. [yours]

Two tags tell readers of the Feast registry how a request becomes a key, so that no other pipeline has to know it:
`from_request` names the request field (default: the join key itself) and `floor_seconds` rounds a timestamp down to a
slot number. `unknown` says what to do with a key value that no training row had: `reject` the request, or `warn`.
"""

from feast import Entity, ValueType

origin = Entity(
    name="origin",
    join_keys=["origin"],
    value_type=ValueType.STRING,
    description="Airport a flight leaves from, IATA code (EWR, JFK or LGA in the shipped data).",
    tags={"unknown": "reject", "noun": "airport"},
)
dest = Entity(
    name="dest",
    join_keys=["dest"],
    value_type=ValueType.STRING,
    description="Airport a flight is scheduled to land at, IATA code.",
    tags={"unknown": "reject", "noun": "airport"},
)
carrier = Entity(
    name="carrier",
    join_keys=["carrier"],
    value_type=ValueType.STRING,
    description="Operating airline, two-character IATA code.",
    tags={"unknown": "reject", "noun": "carrier"},
)
flight_number = Entity(
    name="flight_number",
    join_keys=["flight_number"],
    value_type=ValueType.INT64,
    description="Flight number, without the carrier code. Only meaningful together with the carrier.",
    tags={"unknown": "warn", "noun": "flight number", "optional": "true"},
)
tailnum = Entity(
    name="tailnum",
    join_keys=["tailnum"],
    value_type=ValueType.STRING,
    description="Registration of the aircraft. Absent from a request when no aircraft is assigned yet.",
    tags={"unknown": "warn", "noun": "aircraft", "optional": "true"},
)
departure_hour = Entity(
    name="departure_hour",
    join_keys=["departure_hour"],
    value_type=ValueType.INT64,
    description="The UTC hour of the scheduled departure, counted in hours since 1970-01-01T00:00Z.",
    tags={"from_request": "scheduled_departure", "floor_seconds": "3600", "unknown": "warn", "noun": "hour"},
)
flight = Entity(
    name="flight",
    join_keys=["flight_id"],
    value_type=ValueType.STRING,
    description="One scheduled departure: carrier, number, origin and UTC minute, e.g. UA1545_EWR_20130101T1015Z.",
)
