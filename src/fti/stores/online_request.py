"""What an online read is asked by, made sound before Feast looks at it: entity rows in; columns of declared types out.

Feast 0.67 takes the entity rows of `get_online_features` and of its feature server as they come. A row without one part
of a key has null features without a word, and on-demand code gets text where it declares a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import pandas as pd
from feast import Entity, FeatureService, FeatureView, ValueType, utils
from feast.errors import FeastError
from feast.feature_view import DUMMY_ENTITY_ID
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView

from fti.errors import few

Rows = Sequence[Mapping[str, Any]] | Mapping[str, Any]
Columns = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """What an online read asks for: the store's join key of each of the request, with their types;
    join keys by name of their entity; and types of request fields."""

    keys: dict[str, str]
    types: dict[str, ValueType]
    key_of: dict[str, str]
    fields: dict[str, ValueType]

    @classmethod
    def of(
        cls, on_demand: list[OnDemandFeatureView], key_of: dict[str, str], types: dict[str, ValueType],
        views: list[FeatureView],
    ) -> Asked:  # fmt: skip
        keys = {
            view.projection.join_key_map.get(column.name, column.name): column.name
            for view in views
            for column in view.entity_columns
            if column.name != DUMMY_ENTITY_ID
        }
        fields = {name: kind for view in on_demand for name, kind in view.get_request_data_schema().items()}
        return cls(keys, {key: types[key] for key in keys}, key_of, fields)


REMEMBERED = 256
_KNOWN: WeakKeyDictionary[BaseRegistry, tuple[Any, dict[Any, Asked]]] = WeakKeyDictionary()


class RequestUnusable(FeastError, ValueError):
    """An entity row lacks a key or a request field, or has a value of another type. The feature server answers 422."""

    def http_status_code(self) -> int:
        return 422


def sound_columns(
    registry: BaseRegistry, project: str, features: list[str] | FeatureService, rows: Rows, full_names: bool
) -> tuple[Columns, dict[str, ValueType]]:
    """Return the entity rows as columns, and the type of each join key of the features.

    Each join key is there, and each request field of its declared type.

    A key may be None where its entity is optional: the row finds nothing of it. Raises RequestUnusable.
    """
    asked = _asked(registry, project, features, full_names)
    columns = _columns(rows)
    given = {asked.key_of.get(name, name): name for name in columns}  # by join key; Feast takes an entity's name for it
    if missing := [key for key in asked.keys if key not in given]:
        told = " ".join(_entity(registry, project, key, asked.keys[key])[1] for key in missing)
        raise RequestUnusable(f"The entity rows have no {few(missing)}; they have {few(list(columns))}. {told}")
    for name, kind in asked.fields.items():
        if isinstance(columns.get(name), Sequence):  # Feast says what is missing
            columns[name] = [typed(name, kind, row, value) for row, value in enumerate(columns[name])]
    for key, stored in asked.keys.items():
        values = columns[given[key]]
        if isinstance(values, Sequence) and not isinstance(values, str):
            columns[given[key]] = _keys(values, asked.types[key], partial(_entity, registry, project, key, stored), key)
    return columns, asked.types


def _asked(registry: BaseRegistry, project: str, features: list[str] | FeatureService, full_names: bool) -> Asked:
    """What a read of these features asks for, remembered for as long as the registry says the same."""
    named = features.name if isinstance(features, FeatureService) else tuple(features)
    read_at = getattr(registry, "cached_registry_proto_created", None)
    known = _KNOWN.setdefault(registry, (read_at, {}))
    if known[0] != read_at or len(known[1]) >= REMEMBERED:
        known = _KNOWN[registry] = (read_at, {})
    key = (named, project, full_names)
    if key not in known[1]:
        context = utils._get_cached_request_context(registry, project, features, full_names)
        known[1][key] = Asked.of(context[1], context[2], context[3], [view for view, _ in context[5]])
    return known[1][key]


def _columns(rows: Rows) -> Columns:
    if isinstance(rows, Mapping):
        return dict(rows)
    names = dict.fromkeys(name for row in rows for name in row)
    for number, row in enumerate(rows):
        if lacking := [name for name in names if name not in row]:
            raise RequestUnusable(
                f"Row {number} has no {few(lacking)}, which other rows have. Give all rows the same keys, None for one "
                "that is not known."
            )
    return {name: [row[name] for row in rows] for name in names}


def _keys(
    values: Sequence[Any], kind: ValueType | None, entity: Callable[[], tuple[bool, str]], key: str
) -> Sequence[Any]:
    """A column of a join key: None for what pandas takes for missing, and whole numbers that it made floats of."""
    if not any(value is None or isinstance(value, float) or value is pd.NA or value is pd.NaT for value in values):
        return values
    values = [None if pd.isna(value) else value for value in values]
    if None in values:
        optional, how = entity()
        if not optional:
            raise RequestUnusable(f"Row {values.index(None)} has no {key!r}. {how}")
    if kind in (ValueType.INT64, ValueType.INT32):
        return [value if value is None else typed(key, kind, row, value) for row, value in enumerate(values)]
    return values


def _entity(registry: BaseRegistry, project: str, key: str, stored: str) -> tuple[bool, str]:
    """Whether a key may be None, and how it is made of a request, by the tags of its entity or of the one it is for."""
    entities: dict[str, Entity] = {one.join_key: one for one in registry.list_entities(project, allow_cache=True)}
    entity = entities.get(key) or entities.get(stored)
    tags = entity.tags if entity else {}
    optional, field, seconds = tags.get("optional") == "true", tags.get("from_request", key), tags.get("floor_seconds")
    if seconds:
        of = f"the seconds of {field} since 1970-01-01T00:00Z, divided by {seconds} and rounded down"
        return optional, f"Add {key}, a whole number derived from the request: {of}."
    if field != key:
        return optional, f"Add {key}, which is the request field {field}."
    return optional, f"Add {key}{', or None where it is not known' if optional else ''}."


# ---- values of the declared types -----------------------------------------------------------------------------------


def typed(name: str, kind: ValueType, row: int, value: Any) -> Any:
    """A request value as its declared type has it, as JSON may have it too. Raises RequestUnusable."""
    convert, expected = KINDS.get(kind, (None, ""))
    if convert is None:
        return value
    try:
        return convert(value)
    except (ValueError, TypeError, OverflowError, AttributeError) as error:
        raise RequestUnusable(f"Row {row} has {name}={value!r}; expected {expected}.") from error


def moment(value: Any) -> datetime:
    """A time in whole seconds of UTC: of text with a zone, seconds since 1970, or any kind of datetime (naive is UTC).

    Raises ValueError, also for fractions of a second: Feast's online requests carry none.
    """
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
        if value.tzinfo is None:
            raise ValueError("no zone")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        value = datetime.fromtimestamp(value, UTC)
    elif not hasattr(value, "tzinfo"):  # numpy's
        value = value.astype("datetime64[us]").item()
    if value.microsecond or getattr(value, "nanosecond", 0):
        raise ValueError("a fraction of a second")
    found: datetime = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return found


def _whole(value: Any) -> int:
    if isinstance(value, str | bool) or int(value) != value:
        raise ValueError
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, str | bool):
        raise ValueError
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _flag(value: Any) -> bool:
    if value not in (True, False):
        raise ValueError
    return bool(value)


TIME = "a time of whole seconds: ISO text with a zone (2024-05-01T12:00:00Z), a datetime, or seconds since 1970"
KINDS: dict[ValueType, tuple[Callable[[Any], Any], str]] = {
    ValueType.UNIX_TIMESTAMP: (moment, TIME),
    ValueType.INT64: (_whole, "a whole number"),
    ValueType.INT32: (_whole, "a whole number"),
    ValueType.DOUBLE: (_number, "a number"),
    ValueType.FLOAT: (_number, "a number"),
    ValueType.STRING: (_text, "text"),
    ValueType.BOOL: (_flag, "true or false"),
}
