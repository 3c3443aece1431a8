"""The things that features describe, each with the join key that finds it. [yours]"""

from feast import Entity, ValueType

shop = Entity(
    name="shop",
    join_keys=["shop"],
    value_type=ValueType.STRING,
    description="A shop, by its name.",
    tags={"unknown": "reject", "noun": "shop"},
)
shop_hour = Entity(
    name="shop_hour",
    join_keys=["shop_hour"],
    value_type=ValueType.STRING,
    description="One hour at one shop: its name, and the hour counted since 1970.",
)
