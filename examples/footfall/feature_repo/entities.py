"""The things features describe, each with the join key that finds it. [yours]

Two tags tell readers of the Feast registry how a request becomes a key, so that no other pipeline has to know it:
`from_request` names the request field (default: the join key itself) and `floor_seconds` rounds a timestamp down to a
slot number. `unknown` says what to do with a key value that no training row had: `reject` the request, or `warn`.
"""

from feast import Entity, ValueType

sensor = Entity(
    name="sensor",
    join_keys=["sensor"],
    value_type=ValueType.STRING,
    description="A camera that counts who passes it, by its address, such as 45 Queen Street.",
    tags={"unknown": "reject", "noun": "sensor"},
)
street = Entity(
    name="street",
    join_keys=["street"],
    value_type=ValueType.STRING,
    description="The street that a sensor is in, or `elsewhere`. Without it nothing is known of the street's pace.",
    tags={"unknown": "warn", "noun": "street", "optional": "true"},
)
hour = Entity(
    name="hour",
    join_keys=["hour"],
    value_type=ValueType.INT64,
    description="An hour, counted in hours since 1970-01-01T00:00Z.",
    tags={"from_request": "hour_start", "floor_seconds": "3600", "unknown": "warn", "noun": "hour"},
)
sensor_hour = Entity(
    name="sensor_hour",
    join_keys=["sensor_hour"],
    value_type=ValueType.STRING,
    description="One hour at one sensor, such as 45 Queen Street_20250201T05Z.",
)
