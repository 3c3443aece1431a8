"""A Feast online store in Redis or Valkey that takes restated rows: of each key the newest, as it was learnt last.

Stock Redis of Feast 0.67 drops a row whose event timestamp is already there, so a row that late events have restated
never gets online; and it looks at what is there first and writes afterwards, so of two writers the older may win. Here
each row is compared and written in one step on the server, and of one event timestamp the row created last counts.
What is stored is laid out as by the stock store, with one more field a view. All views of a request are read in one
round trip, by one HMGET a key. A server that stalls is given up after `socket_timeout` of the connection string:
redis-py would ask it four times, and sleep in between.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import islice
from typing import Any, Literal

from feast import FeatureView, utils
from feast.infra.key_encoding_utils import deserialize_entity_key, serialize_entity_key
from feast.infra.online_stores.helpers import _mmh3, _redis_key, _redis_key_prefix, compute_versioned_name
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as ConnectionLost
from redis.retry import Retry

from fti.stores.exact_writes import has_key
from fti.stores.guarded import GuardingConfig
from fti.stores.reads_at_once import Found, Read, ReadsAtOnce, Write
from fti.stores.stamps import microseconds, stamp_of

# KEYS[1] is the entity; ARGV the field of the view's stamp, the stamp, and then fields and values; the first of them is
# the row's moment, which Feast deletes with a view, while it leaves the stamp. Sent whole with each row: a cluster's
# pipeline does not take a script by its hash. Lua's stack has room for some 8,000 arguments of a call; a view may have
# more features than that. A script is one step on the server, however many calls it makes.
WRITE_UNLESS_OLDER = """local known = redis.call('HGET', KEYS[1], ARGV[1])
if known and known > ARGV[2] and redis.call('HGET', KEYS[1], ARGV[3]) then return 0 end
for first = 1, #ARGV, 4000 do
  redis.call('HSET', KEYS[1], unpack(ARGV, first, math.min(first + 3999, #ARGV)))
end
return 1"""
# ARGV the field of the row's moment, how many moments follow, those, and then the other fields of the view. A row is
# deleted if it is of one of these moments: what has been written since stays.
DELETE_ROW_OF = """local known, moments = redis.call('HGET', KEYS[1], ARGV[1]), tonumber(ARGV[2])
for moment = 3, moments + 2 do
  if known == ARGV[moment] then
    redis.call('HDEL', KEYS[1], ARGV[1])
    for first = moments + 3, #ARGV, 4000 do
      redis.call('HDEL', KEYS[1], unpack(ARGV, first, math.min(first + 3999, #ARGV)))
    end
    return 1
  end
end
return 0"""
KEYS_AT_ONCE = 1000


class RestatingRedisOnlineStoreConfig(GuardingConfig, RedisOnlineStoreConfig):
    """As of the stock store; its `skip_dedup` and `key_ttl_seconds` are not used."""

    type: Literal["fti.stores.restating_redis.RestatingRedisOnlineStore"] = (
        "fti.stores.restating_redis.RestatingRedisOnlineStore"  # type: ignore[assignment]
    )


class RestatingRedisOnlineStore(ReadsAtOnce, RedisOnlineStore):
    """Named as `online_store.type` in feature_store.yaml."""

    def _get_client(self, online_store_config: RedisOnlineStoreConfig) -> Any:
        """As stock, but only a lost connection is tried again, once and at once; a cluster's rules are its own."""
        known, client = self._client, super()._get_client(online_store_config)
        if known is None and isinstance(client, Redis):
            client.set_retry(Retry(NoBackoff(), 1, supported_errors=(ConnectionLost,)))
        return client

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Write],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write rows (key, values, event and created timestamp), but for those that are older than what is there, and
        those with a null key.

        Of two writes with equal timestamps the later one counts, so a rerun changes nothing. Naive timestamps are UTC.
        """
        view = compute_versioned_name(table, config.registry.enable_online_feature_view_versioning)
        with self._get_client(config.online_store).pipeline(transaction=False) as pipe:
            for row in data:
                if has_key(row[0]):
                    pipe.eval(WRITE_UNLESS_OLDER, 1, *_write(config, view, row))
            pipe.execute()
        if progress:
            progress(len(data))

    def replace_removed(
        self, config: RepoConfig, table: FeatureView, removed: Sequence[tuple[EntityKey, datetime]], data: list[Write]
    ) -> int:
        """Forget rows with these keys and event timestamps, and write `data`. Run it again after a failure.

        Returns how many keys had such a row. Naive timestamps are UTC.
        """
        view = compute_versioned_name(table, config.registry.enable_online_feature_view_versioning)
        moments: dict[bytes, list[bytes]] = {}
        for key, event in removed:
            entity = _redis_key(config.project, key, config.entity_key_serialization_version)
            moments.setdefault(entity, []).append(_stored(event))
        writes = {entity: parts for entity, *parts in (_write(config, view, row) for row in data if has_key(row[0]))}
        with self._get_client(config.online_store).pipeline(transaction=False) as pipe:
            for entity, of_entity in moments.items():
                pipe.eval(DELETE_ROW_OF, 1, entity, *_delete(config, table, of_entity))
            for entity, parts in writes.items():
                pipe.eval(WRITE_UNLESS_OLDER, 1, entity, *parts)
            return sum(pipe.execute()[: len(moments)])

    def forget_before(self, config: RepoConfig, moments: Mapping[str, datetime], views: Sequence[FeatureView]) -> int:
        """Delete each view's rows of before its moment, by the view's name; returns how many.

        A row that is written meanwhile stays. Naive moments are UTC.
        """
        client, gone = self._get_client(config.online_store), 0
        for view in views:
            name = compute_versioned_name(view, config.registry.enable_online_feature_view_versioning)
            for keys in _batched(_keys_of(client, config, view), KEYS_AT_ONCE):
                with client.pipeline(transaction=False) as pipe:
                    for key in keys:
                        pipe.hget(key, f"_ts:{name}")
                    known = pipe.execute()
                with client.pipeline(transaction=False) as pipe:
                    for key, moment in zip(keys, known, strict=True):
                        if moment is not None and _micros(moment) < microseconds(moments[view.name]):
                            pipe.eval(DELETE_ROW_OF, 1, key, *_delete(config, view, [moment]))
                    gone += sum(pipe.execute())
        return gone

    def forget_keys(
        self, config: RepoConfig, view: FeatureView, about: Callable[[EntityKey], bool], delete: bool
    ) -> int:
        """Return how many rows of a view have a key for which `about` is true; with `delete`, delete them."""
        client, suffix = self._get_client(config.online_store), config.project.encode()
        version = config.entity_key_serialization_version
        name = compute_versioned_name(view, config.registry.enable_online_feature_view_versioning)
        keys = [
            key for key in _keys_of(client, config, view)
            if about(deserialize_entity_key(key[: -len(suffix)], version)) and client.hexists(key, f"_ts:{name}")
        ]  # fmt: skip
        if delete:
            for key in keys:
                while (moment := client.hget(key, f"_ts:{name}")) is not None:
                    client.eval(DELETE_ROW_OF, 1, key, *_delete(config, view, [moment]))
        return len(keys)

    def _read(self, config: RepoConfig, reads: Sequence[Read]) -> list[list[Found | None]]:
        suffix = config.project.encode()
        asked: dict[bytes, list[str | bytes]] = {}  # fields by entity: views of the same keys share it
        parts = []  # by view, of each of its keys the entity and the first of its fields there
        versioned = config.registry.enable_online_feature_view_versioning
        for view, keys, features in reads:
            names = tuple(features or [feature.name for feature in view.features])
            fields = _fields(compute_versioned_name(view, versioned), names)
            starts = []
            for key in keys:
                known = asked.setdefault(entity := key + suffix, [])
                starts.append((entity, len(known)))
                known += fields
            parts.append((names, starts))
        values = dict(zip(asked, self._read_hash_fields(config, list(asked.items())), strict=True))
        return [[_found(names, values[entity], start) for entity, start in starts] for names, starts in parts]

    def _get_features_for_entity(
        self, values: Sequence[Any], feature_view: str, requested_features: list[str]
    ) -> tuple[datetime | None, dict[str, Value] | None]:
        """For `online_read_async`, the stock store's own coroutine: a key that was never written has no row there, not
        one of 1970 with empty values."""
        if values[requested_features.index(f"_ts:{feature_view}")] is None:
            return None, None
        return super()._get_features_for_entity(values, feature_view, requested_features)


def _write(config: RepoConfig, view: str, row: Write) -> list[Any]:
    """The entity of a row, and what `WRITE_UNLESS_OLDER` takes for it."""
    key, values, event, created = row
    fields: dict[str | bytes, bytes] = {f"_ts:{view}": _stored(event)}
    fields |= {_mmh3(f"{view}:{name}"): value.SerializeToString() for name, value in values.items()}
    entity = _redis_key(config.project, key, config.entity_key_serialization_version)
    return [entity, f"_stamp:{view}", _sortable(event, created), *(part for field in fields.items() for part in field)]


def _delete(config: RepoConfig, view: FeatureView, moments: list[bytes]) -> list[Any]:
    """What `DELETE_ROW_OF` takes for a view's row of one of these moments."""
    name = compute_versioned_name(view, config.registry.enable_online_feature_view_versioning)
    row_moment, *fields = _fields(name, tuple(feature.name for feature in view.features))
    return [row_moment, len(moments), *moments, f"_stamp:{name}", *fields]


def _batched(keys: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    """The keys in lists of so many."""
    some = iter(keys)
    while batch := list(islice(some, size)):
        yield batch


@lru_cache(maxsize=1024)
def _fields(view: str, features: tuple[str, ...]) -> list[str | bytes]:
    """Where a view's timestamp and features are in an entity's hash."""
    return [f"_ts:{view}", *(_mmh3(f"{view}:{name}") for name in features)]


def _found(names: Sequence[str], values: Sequence[Any], start: int) -> Found | None:
    """The row whose timestamp is at `start` of the values of an entity, and whose features follow it."""
    if values[start] is None:
        return None
    given = zip(names, values[start + 1 : start + 1 + len(names)], strict=True)
    row = {name: Value.FromString(value) for name, value in given if value is not None}
    return _micros(values[start]), row


def _stored(moment: datetime) -> bytes:
    """A row's moment as it is stored. A naive one is UTC."""
    stored = Timestamp()
    stored.FromDatetime(utils.make_tzaware(moment))
    return bytes(stored.SerializeToString())


def _micros(moment: bytes) -> int:
    """A row's moment as it is stored, in microseconds since 1970."""
    stored = Timestamp.FromString(moment)
    return int(stored.seconds * 10**6 + stored.nanos // 1000)


def _keys_of(client: Any, config: RepoConfig, view: FeatureView) -> Iterator[bytes]:
    """The entities of this project that have the join keys of a view, each once."""
    version, suffix = config.entity_key_serialization_version, config.project.encode()
    # What is no letter may mean something in a pattern.
    pattern = re.sub(rb"([*?\[\]\\^])", rb"\\\1", _redis_key_prefix(view.join_keys)) + b"*" + suffix
    for key in set(client.scan_iter(pattern, count=KEYS_AT_ONCE)):
        # Another project's name may end as this one's does.
        body = key[: -len(suffix)]
        try:
            ours = serialize_entity_key(deserialize_entity_key(body, version), version) == body
        except (ValueError, IndexError, struct.error):
            ours = False
        if ours:
            yield key


def _sortable(event: datetime, created: datetime | None) -> str:
    """A stamp as digits, of one length and none negative, so that text is in order of time in any locale."""
    return "".join(f"{part + 2**63:020d}" for part in stamp_of(event, created))
