"""Read a model's features: requests in; values by feature, with their ages and what is missing, out.

Feast's online store keeps the newest row of each key and does not look at its ttl; here a row counts only within its
view's ttl of `as_of`, as in the training set. On-demand features run the registry's own code on what is left.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from feast import FeatureStore, RepoConfig
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.type_map import feast_value_type_to_python_type
from feast.utils import get_default_yaml_file_path
from typeguard import suppress_type_checks

from fti.contract.interface import FeatureInterface, OnDemandView, StoredView
from fti.contract.on_demand import computed
from fti.scoring.schemas import AS_OF
from fti.stores.data_format import DataTooNew
from fti.stores.repository import StoreMoved, require_applied, require_current

Request = Mapping[str, Any]
Keys = Mapping[str, Any]  # value by join key, None where the request has none
Found = dict[str, tuple[datetime, dict[str, Any]]]  # by view: event timestamp and values of the row of its key
logger = logging.getLogger("bentoml.serving")
INFINITE = (math.inf, -math.inf)
SCALARS = {"string_val", "int32_val", "int64_val", "double_val", "float_val", "bool_val"}


# How far ahead of this server's clock a row may be stamped, where nobody says.
AHEAD = timedelta(seconds=5)


class Present(datetime):
    """The moment of a request that gives none, by this server's clock: a row of another's may be stamped later."""

    @classmethod
    def of(cls, moment: datetime) -> Present:
        """Return the same moment."""
        return cls.combine(moment.date(), moment.timetz())


class RowRefused(ValueError):
    """One request that its features do not let the model answer; others beside it are answered."""


class AsOfTooEarly(RowRefused):
    """The online store has already moved on past the request's `as_of`; from `earliest` on it can be asked."""

    def __init__(self, as_of: datetime, view: str, newest: datetime) -> None:
        super().__init__(
            f"as_of {as_of:%Y-%m-%dT%H:%M:%SZ} is before {newest:%Y-%m-%dT%H:%M:%SZ}, the time of the newest {view} "
            "row: the online store no longer knows what was known then. Ask for a later as_of, or materialize as of "
            "the earlier one, with --rewind."
        )
        self.problems = {AS_OF: str(self)}
        self.earliest = newest.replace(microsecond=0) + timedelta(seconds=newest.microsecond > 0)


class FeaturesMissing(RowRefused):
    """A view that is declared `when_missing: reject` has nothing for the request; `row` is what was found."""

    def __init__(self, why: str, view: str, row: FeatureRow) -> None:
        super().__init__(f"{why}. The model does not answer without {view}.")
        self.row = row


class NotComputable(RowRefused):
    """The code of an on-demand view fails for one request."""

    def __init__(self, view: str, error: Exception) -> None:
        super().__init__(
            f"{view}: its code fails for this request ({type(error).__name__}); the service's log says more. Requests "
            "with other values are answered."
        )


class StoreUnavailable(RuntimeError):
    """Feast's registry or online store cannot be read. The message is fit for clients; the cause is for the log."""


@dataclass
class FeatureRow:
    """One request's features: value by name, row age by stored view, views without a row of use, and warnings."""

    values: dict[str, Any] = field(default_factory=dict)
    ages: dict[str, timedelta] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    ahead: dict[str, timedelta] = field(default_factory=dict)  # by view, how far its row is ahead of the server's clock
    as_of: datetime | None = None  # the moment that it is as of, where that is a later one than was asked for
    warnings: list[str] = field(default_factory=list)


def open_store(feast_repo: Path) -> FeatureStore:
    """Open a Feast repository for online reads. Raises StoreUnavailable.

    The offline store is left out: Feast would import it and its engine, which serving neither needs nor installs.
    """
    try:
        require_current(feast_repo)
        settings = yaml.safe_load(os.path.expandvars(get_default_yaml_file_path(feast_repo).read_text()))
        config = RepoConfig(**{name: value for name, value in settings.items() if name != "offline_store"})
        config.repo_path = feast_repo
        store = FeatureStore(repo_path=str(feast_repo), config=config)
        require_applied(store, feast_repo)
        store.refresh_registry()
        return store
    except (StoreMoved, DataTooNew) as moved:
        raise StoreUnavailable(str(moved)) from moved
    except Exception as error:
        raise StoreUnavailable(
            "The Feast registry cannot be opened. Build it with `make features`, or set SERVING_FEAST_REPO to the "
            "folder of a feature_store.yaml whose registry exists."
        ) from error


def request_names(store: FeatureStore) -> set[str]:
    """All that requests to this feature store may carry: join keys, and the fields of request sources."""
    names = {entity.join_key for entity in store.list_entities()}
    for view in store.registry.list_on_demand_feature_views(
        store.project, skip_udf=True
    ):  # their code is nobody's here
        names |= {asked.name for source in view.source_request_sources.values() for asked in source.schema}
    for service in store.list_feature_services():
        names |= {key for read in service.feature_view_projections for key in read.join_key_map.values()}
    return names


class FeatureReader:
    """Reads the features of one feature service, through Feast. `failed` says that the last read did.

    `ahead` is how far ahead of this server's clock a row may be stamped for a request that gives no `as_of`.
    """

    def __init__(self, store: FeatureStore, interface: FeatureInterface, ahead: timedelta = AHEAD) -> None:
        self.failed = False
        self._ahead = ahead
        self._seen: Keys | None = None  # of the last request that had a row of any view
        self._store = store
        self._interface = interface
        self._together: dict[tuple[str, ...], list[list[StoredView]]] = {}  # by names of views, those of one read
        self._on_demand = [store.get_on_demand_feature_view(view.name) for view in interface.on_demand_views]
        self._strict = [view for view in interface.stored_views if view.when_missing != "null"]  # usually none

    @suppress_type_checks  # Feast 0.67 has typeguard check each of its own calls: a sixth of a read
    def read(self, requests: Sequence[Request], as_of: Sequence[datetime]) -> list[FeatureRow | RowRefused]:
        """Features for each request, each as of its moment in UTC, or why it has none. Raises StoreUnavailable."""
        keys = [
            {key.name: key.of(request[key.request_field]) for key in self._interface.join_keys} for request in requests
        ]
        found = self._lookup(keys)
        self._require_rows(keys, found)
        outcomes: list[FeatureRow | RowRefused] = [self._row(*known) for known in zip(keys, found, as_of, strict=True)]
        there = {place: row for place, row in enumerate(outcomes) if isinstance(row, FeatureRow)}
        for described, on_demand in zip(self._interface.on_demand_views, self._on_demand, strict=True):
            for place, refused in _compute(described, on_demand, requests, there).items():
                outcomes[place] = refused
                del there[place]
        for place, row in there.items():
            row.values |= {name: keys[place][name] for name in self._interface.key_categories}
        return [self._settled(row) if isinstance(row, FeatureRow) else row for row in outcomes]

    def look_up(self, view: StoredView, keys: Keys) -> tuple[datetime, dict[str, Any]] | None:
        """The event timestamp and values of one key's row, however old. Raises StoreUnavailable."""
        found: list[Found] = [{}]
        self._read_views([view], [keys], [0], found)
        return found[0].get(view.name)

    def _settled(self, row: FeatureRow) -> FeatureRow | RowRefused:
        """What is null or infinite, as the views' `when_missing` says: on-demand code has seen it as it is stored, as
        offline."""
        for name in [one.name for one in self._interface.inputs if row.values[one.name] in INFINITE]:
            row.values[name] = None
            row.warnings.append(f"{name}: infinite; not used")
        for view in self._strict:
            if view.when_missing == "default":
                row.values |= {name: value for name, value in view.defaults.items() if _null(row.values[name])}
            elif all(_null(row.values[name]) for name in self._interface.taken_from(view)):
                why = next((one for one in row.warnings if one.startswith(f"{view.name}: ")), f"{view.name}: all null")
                if view.name not in row.stale + row.missing:  # it has a row, of nulls alone
                    row.missing.append(view.name)
                return FeaturesMissing(why, view.name, row)
        return row

    def _require_rows(self, keys: Sequence[Keys], found: Sequence[Found]) -> None:
        """No row for these requests, nor for one that had some before: it was emptied. Raises StoreUnavailable."""
        if not self._interface.stored_views or not keys:
            return
        self._seen = next((of_row for of_row, known in zip(keys, found, strict=True) if known), self._seen)
        if not any(found) and not (self._seen and any(self._lookup([self._seen]))):
            self.failed = True
            raise StoreUnavailable(
                "The online store has no row of any view, neither for this request nor for others: it is empty. "
                "Fill it (`make materialize`), and ask again."
            )

    def _lookup(self, keys: Sequence[Keys]) -> list[Found]:
        """What is stored for each row's keys, of the views whose keys are all there. Raises StoreUnavailable."""
        found: list[Found] = [{} for _ in keys]
        groups: dict[tuple[str, ...], list[int]] = {}  # rows that lack the same keys are read together
        for row, of_row in enumerate(keys):
            views = self._interface.stored_views
            readable = tuple(view.name for view in views if all(of_row[key] is not None for key in view.join_keys))
            groups.setdefault(readable, []).append(row)
        for readable, rows in groups.items():
            views = [view for view in self._interface.stored_views if view.name in readable]
            if views:
                self._read_views(views, keys, rows, found)
        return found

    def _read_views(
        self, views: Sequence[StoredView], keys: Sequence[Keys], rows: Sequence[int], found: list[Found]
    ) -> None:
        names = tuple(view.name for view in views)
        if names not in self._together:
            self._together[names] = _read_together(views)
        for together in self._together[names]:
            try:
                self._read_at_once(together, keys, rows, found)
            except StoreUnavailable:
                raise
            except Exception as error:  # a value or a moment that no writer wrote
                self.failed = True
                raise StoreUnavailable(
                    "The online store holds what cannot be read: it is damaged. Delete it, apply the definitions and "
                    "materialize again; the service's log says more."
                ) from error

    def _read_at_once(
        self, views: Sequence[StoredView], keys: Sequence[Keys], rows: Sequence[int], found: list[Found]
    ) -> None:
        names = {stored: key for view in views for stored, key in view.key_of.items()}
        try:
            response = self._store.get_online_features(
                features=[f"{view.source}:{feature}" for view in views for feature in view.stored.values()],
                entity_rows={stored: [keys[row][key] for row in rows] for stored, key in names.items()},
            ).proto
        except Exception as error:
            self.failed = True
            raise StoreUnavailable(
                "The online store cannot be read; the service's log says why. Ask again in a while."
            ) from error
        self.failed = False
        results = dict(zip(response.metadata.feature_names.val, response.results, strict=True))
        for view in views:
            stored = view.stored
            # A view's features come from one row; Feast leaves out the timestamp of a key it has never seen.
            stamps = results[next(iter(stored.values()))].event_timestamps
            columns = [results[feature].values for feature in stored.values()]
            known: dict[tuple[Any, ...], tuple[datetime, dict[str, Any]]] = {}  # by key: rows that share one share it
            for place, row in enumerate(rows):
                key = tuple(keys[row][name] for name in view.join_keys)
                if key not in known and place < len(stamps) and _found(stamps[place], columns, place):
                    kinds = view.features.values()
                    values = (_plain(column[place], kind) for column, kind in zip(columns, kinds, strict=True))
                    moment = _moment(stamps[place].seconds, stamps[place].nanos)
                    known[key] = moment, dict(zip(stored, values, strict=True))
                if key in known:
                    found[row][view.name] = known[key]

    def _row(self, keys: Keys, found: Found, as_of: datetime) -> FeatureRow | AsOfTooEarly:
        """The stored features of one row, null where there is no row for a key or it is too old."""
        later = [(stamp, view) for view, (stamp, _) in found.items() if stamp > as_of]
        row = FeatureRow()
        if later and not isinstance(as_of, Present):
            newest, name = max(later)
            return AsOfTooEarly(as_of, name, newest)
        if later:  # the store went on while the request waited, or the clock of who stamped the rows is fast
            now = datetime.now(UTC)
            row.ahead = {view: stamp - now for stamp, view in later if stamp > now}
            # The moment is then that of the newest of them: as of it the offline store knows the same rows.
            as_of = row.as_of = max([as_of, *(stamp for stamp, _ in later if stamp - now <= self._ahead)])
        for view in self._interface.stored_views:
            stamp, values = found.get(view.name, (None, {}))
            age, ttl = as_of - stamp if stamp else None, timedelta(seconds=view.ttl_seconds)
            too_far = row.ahead.get(view.name, timedelta(0)) > self._ahead
            if age is not None and not too_far and not (ttl and age > ttl):
                row.values |= values
                row.ages[view.name] = age
                continue
            row.values |= dict.fromkeys(view.features)
            absent = [key for key in view.join_keys if keys[key] is None]
            if absent:
                row.missing.append(view.name)
                row.warnings.append(f"{view.name}: no {' and '.join(absent)} given")
            elif age is None:
                row.missing.append(view.name)
                row.warnings.append(f"{view.name}: {view.missing}")
            elif too_far:
                row.missing.append(view.name)
                seconds = row.ahead[view.name].total_seconds()
                row.warnings.append(f"{view.name}: stamped {seconds:,.0f} s ahead of this server's clock; not used")
            else:
                row.stale.append(view.name)
                row.warnings.append(f"{view.name}: {duration(age)} old, good for {duration(ttl)}; not used")
        return row


def _compute(
    described: OnDemandView, on_demand: OnDemandFeatureView, requests: Sequence[Request], rows: Mapping[int, FeatureRow]
) -> dict[int, NotComputable]:
    """Add an on-demand view's features to `rows`, by place in `requests`; return why not, for those where it fails.

    Where the code fails for all rows together it runs for each alone, so that one row fails no other.
    """
    if not rows:
        return {}
    inputs = {
        name: [requests[place][read] if read in requests[place] else row.values[read] for place, row in rows.items()]
        for name, read in described.reads.items()
    }
    try:
        columns = computed(on_demand, inputs, [*described.features])
    except Exception as error:
        if len(rows) > 1:
            alone = [_compute(described, on_demand, requests, {place: row}) for place, row in rows.items()]
            return {place: why for refused in alone for place, why in refused.items()}
        logger.warning("on-demand view %s fails for a request", described.name, exc_info=error)
        return dict.fromkeys(rows, NotComputable(described.name, error))
    for name, values in columns.items():
        for row, value in zip(rows.values(), values, strict=True):
            row.values[name] = value
    return {}


def _found(stamp: Any, columns: Sequence[Any], place: int) -> bool:
    """Whether Feast has found a row. One of 1970 has the stamp of none, but values."""
    return bool(stamp.seconds or stamp.nanos or any(column[place].WhichOneof("val") for column in columns))


def _read_together(views: Sequence[StoredView]) -> list[list[StoredView]]:
    """Views in groups that one read of Feast's can answer: of a view, one; of a feature's name, one; and each join key
    of the store with one value a request. Views that a service takes as they are make one group."""
    groups: list[list[StoredView]] = []
    for view in views:
        for group in groups:
            if all(_apart(view, other) for other in group):
                group.append(view)
                break
        else:
            groups.append([view])
    return groups


def _apart(one: StoredView, other: StoredView) -> bool:
    if one.source == other.source or not {*one.stored.values()}.isdisjoint(other.stored.values()):
        return False
    keys = other.key_of
    return all(keys.get(stored, key) == key for stored, key in one.key_of.items())


def _null(value: Any) -> bool:
    """What pandas takes for missing in the offline rows."""
    return value is None or value != value  # noqa: PLR0124 - NaN alone is unlike itself


def _plain(value: Any, declared: str) -> Any:
    """A Feast value as Python has it; its own converter looks at each of its twenty kinds in turn. Raises TypeError."""
    kind = value.WhichOneof("val")
    if kind is None:
        return None
    if (kind == "string_val") != (declared == "string") or (kind not in SCALARS and declared != "unix_timestamp"):
        raise TypeError(f"a value is of kind {kind}, but declared as {declared}")
    return getattr(value, kind) if kind in SCALARS else feast_value_type_to_python_type(value)


@lru_cache(4096)  # most rows are of the same few moments
def _moment(seconds: int, nanos: int) -> datetime:
    return datetime.fromtimestamp(seconds, tz=UTC) + timedelta(microseconds=nanos // 1000)


def duration(span: timedelta) -> str:
    """3 h 20 min, 2 d 4 h; a begun minute counts, so that what is just too old does not read as just good."""
    minutes = -(-span // timedelta(minutes=1))
    parts = [(minutes // 1440, "d"), (minutes // 60 % 24, "h"), (minutes % 60, "min")]
    return " ".join(f"{count} {unit}" for count, unit in parts if count) or "0 min"
