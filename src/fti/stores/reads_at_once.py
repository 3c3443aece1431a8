"""Reading all views of a request at once: Feast's request in; its response, made of what a store has found, out.

For an online store that finds rows of several views in one go. Feast's own functions serialize each key at each request
and make a response feature by feature: with them, a read of stored features takes twice as long.
Written for Feast 0.67.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from feast import FeatureService, FeatureView, ValueType, utils
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.registry.base_registry import BaseRegistry
from feast.online_response import OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from feast.type_map import python_values_to_proto_values

from fti.stores.exact_writes import convert_exactly
from fti.stores.online_request import Rows, sound_columns
from fti.stores.online_response import ExactResponse
from fti.stores.stamps import EPOCH, MICROSECOND

Found = tuple[int, dict[str, Value]]  # event timestamp, microseconds since 1970 in UTC, and values of a key
Read = tuple[FeatureView, list[bytes], list[str] | None]  # view, serialized keys, requested features
Write = tuple[EntityKey, dict[str, Value], datetime, datetime | None]  # values, event and created timestamp of a key
NO_VALUE = (None, None)
KeyValues = tuple[tuple[str, Any], ...]  # of each join key the kind of its value, as in Value, and the value


class ReadsAtOnce(OnlineStore):
    """A store that answers a request by one `_read`, whatever number of views it asks for, and that rows are written to
    as they are."""

    def __init__(self) -> None:
        convert_exactly()
        super().__init__()

    @abstractmethod
    def _read(self, config: RepoConfig, reads: Sequence[Read]) -> list[list[Found | None]]:
        """The rows of several views, each view's in the order of its keys; None for a key that was never written."""

    def online_read(
        self, config: RepoConfig, table: FeatureView, entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:  # fmt: skip
        """Timestamp and values of each key, (None, None) for one never written.

        The timestamp is that of the oldest value returned: values written together have one, partial writes may not.
        """
        keys = [serialized(config, entity_key) for entity_key in entity_keys]
        (rows,) = self._read(config, [(table, keys, requested_features)])
        return [(EPOCH + row[0] * MICROSECOND, row[1]) if row else (None, None) for row in rows]

    def get_online_features(
        self, config: RepoConfig, features: list[str] | FeatureService, entity_rows: Rows, registry: BaseRegistry,
        project: str, full_feature_names: bool = False, include_feature_view_version_metadata: bool = False,
    ) -> OnlineResponse:  # fmt: skip
        """As Feast does, of entity rows that are sound, and with exact types in `to_df`. Raises RequestUnusable."""
        columns, keys = sound_columns(registry, project, features, entity_rows, full_feature_names)
        response = super().get_online_features(
            config, features, columns, registry, project, full_feature_names, include_feature_view_version_metadata
        )
        _keep_keys(response.proto, columns, keys)
        return ExactResponse(response.proto, response._feature_types)

    async def get_online_features_async(self, *arguments: Any, **named: Any) -> OnlineResponse:
        """As `get_online_features`, in a thread: Feast's own coroutines ask for one view at a time."""
        return await asyncio.to_thread(self.get_online_features, *arguments, **named)

    def _read_features_per_fv(
        self, config: RepoConfig, grouped_refs: list[tuple[FeatureView, list[str]]], join_key_values: dict[str, Any],
        entity_name_to_join_key_map: dict[str, str], online_features_response: GetOnlineFeaturesResponse,
        full_feature_names: bool, include_feature_view_version_metadata: bool,
    ) -> None:  # fmt: skip
        """Feast's hook for reading all views of a request at once; it fills the response itself."""
        # A request field of on-demand code that is a join key, too, is for Feast no key: it is in the response already.
        found = online_features_response
        fields = dict(zip(found.metadata.feature_names.val, (one.values for one in found.results), strict=True))
        plain = {name: [_plain(value) for value in values] for name, values in (fields | join_key_values).items()}
        version = config.entity_key_serialization_version
        reads: list[Read] = []
        # By view, of each row of the request the place of its key among the keys to read.
        places: list[list[int | None]] = []
        for view, features in grouped_refs:
            # It picks columns, whatever is in them.
            columns = utils._get_table_entity_values(view, entity_name_to_join_key_map, plain)  # type: ignore[arg-type]
            if not any(columns.values()):  # Feast says what is missing
                utils._get_unique_entities(view, join_key_values, entity_name_to_join_key_map)
            names, unique = tuple(columns), dict[KeyValues, int]()
            keys = zip(*columns.values(), strict=True)
            # A key that is not known finds nothing; it is no key to look for.
            places.append([None if NO_VALUE in key else unique.setdefault(key, len(unique)) for key in keys])
            reads.append((view, [_key_of(names, key, version) for key in unique], features))
        for (view, features), place, rows in zip(grouped_refs, places, self._read(config, reads), strict=True):
            if include_feature_view_version_metadata:
                utils._populate_response_from_feature_data([], [], [], online_features_response, False, view, 0, True)
            _respond(online_features_response, view, features, rows, place, full_feature_names)


def _respond(
    response: GetOnlineFeaturesResponse, view: FeatureView, features: list[str], rows: list[Found | None],
    places: list[int | None], full_feature_names: bool,
) -> None:  # fmt: skip
    """Add a vector for each of a view's features; `places` says which of `rows` is that of each row of the request.

    It is None for a row without a key."""
    from feast.metrics import track_feature_statuses  # at a read, as in Feast: it sets Prometheus up for the process

    prefix = f"{view.projection.name_to_use()}__" if full_feature_names else ""
    response.metadata.feature_names.val.extend([prefix + feature for feature in features])
    # Protobuf copies a message at once and a list message by message, so what all features share is made once.
    shared = GetOnlineFeaturesResponse.FeatureVector(statuses=[FieldStatus.PRESENT] * len(places))
    for place in places:
        row = None if place is None else rows[place]
        seconds, microseconds = divmod(row[0] if row else 0, 10**6)
        shared.event_timestamps.add(seconds=seconds, nanos=microseconds * 1000)
    absent = 0
    for feature in features:
        values = [row[1].get(feature) if row else None for row in rows]
        vector = response.results.add()
        vector.CopyFrom(shared)
        vector.values.extend([Value() if place is None else values[place] or Value() for place in places])
        if None in values or None in places:
            missing = [place is None or values[place] is None for place in places]
            vector.statuses[:] = [FieldStatus.NOT_FOUND if no else FieldStatus.PRESENT for no in missing]
            absent += sum(missing)
    track_feature_statuses(view.name, len(features) * len(places) - absent, absent)


def _keep_keys(response: GetOnlineFeaturesResponse, columns: Mapping[str, Any], keys: Mapping[str, ValueType]) -> None:
    """Add the join keys that Feast has left out as request fields of on-demand code, which they are, too."""
    known = set(response.metadata.feature_names.val)
    for key, kind in keys.items():
        if key in columns and key not in known:
            response.metadata.feature_names.val.append(key)
            response.results.add().values.extend(python_values_to_proto_values(columns[key], kind))


def serialized(config: RepoConfig, entity_key: EntityKey) -> bytes:
    """A key as stores find it."""
    return serialize_entity_key(entity_key, entity_key_serialization_version=config.entity_key_serialization_version)


@lru_cache(maxsize=2**16)
def _key_of(names: tuple[str, ...], values: KeyValues, version: int) -> bytes:
    """Remembered, for requests have few origins, airlines or aircraft, and Feast takes long to serialize one."""
    entity_key = EntityKey(join_keys=names, entity_values=[Value(**{kind: value}) for kind, value in values])
    return serialize_entity_key(entity_key, entity_key_serialization_version=version)


def _plain(value: Value) -> tuple[str | None, Any]:
    kind = value.WhichOneof("val")
    return kind, kind and getattr(value, kind)
