"""Erasure: delete all that is stored of an entity, such as a person, and write a receipt of it.

    fti erase tailnum=N14228          says what it would delete
    fti erase tailnum=N14228 --yes    deletes it

KEY is a column of the tables, and the name of a join key. Rows go from the raw tables, quarantine, feature tables and
training sets, with every old file that holds such a row; from the online store; and from the log of predictions. The
receipt, in data/erasures, says how many rows went from where, and which model versions were fitted to them: those can
be rebuilt no more. Erase first where the raw data come from, or the next landing brings them back.
Exit codes: 0 done, or nothing is stored, 1 refused or failed, 2 wrong usage.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import DeltaError
from deltalake.fs import DeltaStorageHandler
from pyarrow.fs import FileSelector, PyFileSystem
from sqlalchemy.exc import SQLAlchemyError
from upath import UPath

from fti.command import alias, fail
from fti.contract.applying import tracking, tracking_uri
from fti.contract.feature_contract import FeatureContract
from fti.contract.predictions import LogMissing, create, erase, open_log
from fti.contract.registered import ERASED_TAG
from fti.contract.settings import OFF, PredictionSettings
from fti.errors import Refusal
from fti.features.feast_steps import feast_errors
from fti.features.guard import was_applied
from fti.features.lock import one_writer
from fti.features.maintain import KINDS, Needed, needed_by, registered
from fti.features.publish import Reflects, alone
from fti.stores.delta import literal, open_table, quote, version_of
from fti.stores.repository import open_repository
from fti.stores.tables import CONTENT, TRAINING_SETS, address, data_of, tables_in, tables_of
from fti.stores.upkeep import LOG, shorten_log, vacuum

if TYPE_CHECKING:
    from feast import FeatureStore

AT_ONCE = timedelta(0)
logger = logging.getLogger("features")


class NotErased(Refusal):
    """Something of the entity is still stored."""


@dataclass(frozen=True)
class InTable:
    """What a table holds of an entity: rows of its newest version, and files, old ones too, that hold such rows."""

    rows: int
    files: frozenset[str]


@dataclass
class Receipt:
    """What was deleted, or would be. It has the hash of the value, not the value, because a receipt is kept."""

    key: str
    value_sha256: str
    at: str
    deleted: bool
    rows: dict[str, int] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    fitted_to_it: list[str] = field(default_factory=list)
    example_names_it: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        verb = "deleted" if self.deleted else "to delete"
        lines = [f"{place}: {rows:,} rows {verb}" for place, rows in self.rows.items() if rows]
        lines += [f"{place}: {files:,} files that hold such rows" for place, files in self.files.items() if files]
        lines += [
            f"{version} was fitted to such rows and cannot be rebuilt without them" for version in self.fitted_to_it
        ]
        lines += [f"{version} has such a row as its example request" for version in self.example_names_it]
        return "\n".join([*(lines or ["Nothing is stored of it."]), *self.notes])


class Erasure:
    """All of one value of a key, over one feature store."""

    def __init__(self, repo: Path, key: str, value: str, log_url: str) -> None:
        self.repo, self.key, self.value, self.log_url = repo, key, value, log_url
        self.tables = tables_of(repo)
        with feast_errors("feast", repo):
            self.store: FeatureStore = open_repository(repo)
            self.contracts: Mapping[str, FeatureContract] = registered(repo)
            self.needed: Needed = needed_by(self.store, self.contracts)

    def run(self, delete: bool) -> Receipt:
        """Count what there is; with `delete`, delete it. Raises NotErased, OtherWriter."""
        at = datetime.now(UTC)
        receipt = Receipt(self.key, hashlib.sha256(self.value.encode()).hexdigest(), f"{at:%Y-%m-%dT%H:%M:%SZ}", delete)
        with one_writer(data_of(self.repo), "erase"):
            held = {place: self._held(self.tables / place) for place in self._places()}
            receipt.fitted_to_it = self._fitted(held)
            receipt.example_names_it = [
                version for version, contract in self.contracts.items()
                if any(str(contract.example_request.get(name)) == self.value for name in self._fields(contract))
            ]  # fmt: skip
            if delete:  # first of all: killed after this, a version says less of itself than is true
                self._tag(receipt)
            for place, found in held.items():
                receipt.rows[place], receipt.files[place] = found.rows, len(found.files)
                if delete and found.files:
                    self._erase(place, found)
        receipt.rows["online store"] = self._online(delete)
        receipt.rows["log of predictions"] = self._logged(delete)
        receipt.notes = _notes(receipt)
        if delete:
            self._write(receipt, at)
        return receipt

    def _places(self) -> list[str]:
        return [f"{kind}/{name}" for kind in (*KINDS, TRAINING_SETS) for name in tables_in(self.tables / kind)]

    def _held(self, path: UPath) -> InTable:
        """Look into every data file that is there, also those of older versions and of changes."""
        handler = PyFileSystem(DeltaStorageHandler(address(path)))
        newest = _files_of(open_table(path))
        rows, files = 0, set()
        for file in handler.get_file_info(FileSelector("", recursive=True)):
            if file.is_file and file.path.endswith(".parquet") and LOG not in file.path.split("/"):
                if not (count := self._count(handler, file.path)):
                    continue
                files.add(file.path)
                rows += count if file.path in newest else 0
        return InTable(rows, frozenset(files))

    def _count(self, files: PyFileSystem, path: str) -> int:
        with files.open_input_file(path) as opened:
            parquet = pq.ParquetFile(opened)
            if self.key not in parquet.schema_arrow.names:
                return 0
            column = parquet.read([self.key]).column(0)
        return int(pc.sum(pc.equal(column.cast(pa.string()), self.value)).as_py() or 0)

    def _erase(self, place: str, found: InTable) -> None:
        """Delete rows and old files. Versions that are kept stay, if they hold nothing of the entity."""
        path, said = self.tables / place, {}
        if place.startswith("features/") and (reflects := Reflects.of(path)).raw:
            said = reflects.as_metadata()
        keep = self._training_sets(path) if place.startswith(TRAINING_SETS) else self.needed.of(path) or ()
        clean = {version for version in keep if not self._dirty(path, version, found)}
        with alone(path):
            if found.rows:
                predicate = f"CAST({quote(self.key)} AS VARCHAR) = {literal(self.value)}"
                open_table(path).delete(
                    predicate, commit_properties=CommitProperties(custom_metadata=said, max_commit_retries=0)
                )
            vacuum(path, clean, AT_ONCE, said)
            if not place.startswith(TRAINING_SETS):  # whose hashes are in its log
                shorten_log(path, clean, version_of(path), AT_ONCE, every=1)
        if left := self._held(path).files:
            raise NotErased(f"{place} has {len(left)} file(s) left that hold such rows. Run the same command again.")

    def _training_sets(self, path: UPath) -> dict[int, str]:
        """The hash of each version of a table of training sets."""
        history = open_table(path).history()
        return {int(commit["version"]): commit[CONTENT] for commit in history if CONTENT in commit}

    def _dirty(self, path: UPath, version: int, found: InTable) -> bool:
        try:
            return bool(_files_of(DeltaTable(address(path), version=version)) & found.files)
        except DeltaError:
            return True

    def _fitted(self, held: Mapping[str, InTable]) -> list[str]:
        """Model versions whose training set held such rows; of those without a copy, whose tables did."""
        fitted = []
        for name, contract in self.contracts.items():
            place = f"{TRAINING_SETS}/{contract.interface.feature_service}"
            path = self.tables / place
            copies = self._training_sets(path) if place in held else {}
            mine = [version for version, sha256 in copies.items() if sha256 == contract.training_set.sha256]
            if any(self._dirty(path, version, held[place]) for version in mine) or (not mine and self._read_it(held)):
                fitted.append(name)
        return fitted

    @staticmethod
    def _read_it(held: Mapping[str, InTable]) -> bool:
        return any(found.files for place, found in held.items() if place.startswith("features/"))

    def _tag(self, receipt: Receipt) -> None:
        uri = tracking_uri(self.repo, partial(was_applied, self.repo))
        if not uri or not receipt.fitted_to_it:
            return
        from mlflow import MlflowClient

        with tracking(uri):
            for version in receipt.fitted_to_it:
                name, _, number = version.rpartition(" version ")
                MlflowClient().set_model_version_tag(name, number, ERASED_TAG, receipt.at)

    def _fields(self, contract: FeatureContract) -> set[str]:
        """The request fields that the key comes from."""
        return {self.key} | {one.request_field for one in contract.interface.join_keys if one.name == self.key}

    def _online(self, delete: bool) -> int:
        from feast.type_map import feast_value_type_to_python_type

        online_store: Any = self.store._get_provider().online_store
        if not hasattr(online_store, "forget_keys"):
            raise NotErased(f"{type(online_store).__name__} cannot find rows by a key. Delete them there by hand.")

        def about(key: Any) -> bool:
            pairs = zip(key.join_keys, key.entity_values, strict=True)
            return any(
                name == self.key and str(feast_value_type_to_python_type(value)) == self.value for name, value in pairs
            )

        views = [view for view in self.store.list_feature_views() if view.online and self.key in view.join_keys]
        return sum(online_store.forget_keys(self.store.config, view, about, delete) for view in views)

    def _logged(self, delete: bool) -> int:
        if self.log_url == OFF:
            return 0
        try:
            engine = open_log(self.log_url, existing=True)
        except LogMissing:  # nothing was ever asked
            return 0
        create(engine)
        fields = {self.key}.union(*(self._fields(contract) for contract in self.contracts.values()))
        return erase(engine, fields, self.value, delete)

    def _write(self, receipt: Receipt, at: datetime) -> None:
        folder = data_of(self.repo) / "erasures"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{at:%Y%m%dT%H%M%S%f}.json"
        file.write_text(json.dumps(asdict(receipt), indent=2) + "\n")
        receipt.notes.append(f"The receipt is {file}.")


def _files_of(table: DeltaTable) -> set[str]:
    """The paths of a version's data files in the table's folder."""
    return {unquote(path) for path in pa.table(table.get_add_actions(flatten=True)).column("path").to_pylist()}


def _notes(receipt: Receipt) -> list[str]:
    if not any([*receipt.rows.values(), *receipt.files.values()]):
        return []
    notes = [
        "Its events are also part of feature rows of other keys. Run `publish`: it computes those rows again.",
        "Not looked into: the files that the raw data come from, exports, backups, and the artifacts of MLflow's runs.",
    ]
    if any(place.startswith(TRAINING_SETS) and files for place, files in receipt.files.items()):
        notes.append("The log of a training set's table may name it as the least or the greatest value of a file.")
    return notes


def main(argv: Sequence[str] | None = None) -> int:
    return alias("fti.features.erase", "fti.features.commands:ERASE", argv)


def report(repo: Path, key: str, value: str, log_url: str | None, delete: bool) -> int:
    """Erase, or only look, and print the receipt; returns the exit code."""
    try:
        receipt = Erasure(repo, key, value, log_url or PredictionSettings().prediction_log).run(delete)
    except (DeltaError, SQLAlchemyError, OSError) as error:
        return fail(error)
    print(receipt)
    if not receipt.deleted and any([*receipt.rows.values(), *receipt.files.values()]):
        print("Nothing was deleted. The same command with --yes deletes it, for good.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
