"""The feature contract: what a model version needs from the feature store, written by training, verified by serving.

Training reads the interface of a feature service from the Feast registry and records it with the model. Serving builds
its request schema, its feature reads and the order of model inputs from that record, after checking that the live
registry still means the same by it.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from fti.contract.feature_service import read_interface
from fti.contract.interface import ContractBroken, FeatureInterface, Part
from fti.contract.stored_code import require_checked
from fti.errors import few

if TYPE_CHECKING:
    from feast import FeatureStore


class TrainingSet(Part):
    """Which rows a model was fitted to: half-open range of prediction times, and the exact tables they came from."""

    as_of: datetime
    start: datetime
    end: datetime
    rows: int
    sha256: str
    delta_versions: dict[str, int]


class FeatureContract(Part):
    """A model version's complete statement of the features it takes.

    `known_values` lists, for each join key whose unknown values are rejected, those that training saw.
    `example_request` is a real request that the registered model can answer.
    """

    contract_version: Literal[1] = 1
    interface: FeatureInterface
    known_values: dict[str, list[str] | list[int]]
    training_set: TrainingSet
    example_request: dict[str, Any]

    def canonical(self) -> str:
        """The one JSON text of this contract: sorted keys, no spaces."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    def verify(self, store: FeatureStore) -> None:
        """Check that the live registry means the same by this contract's feature service. Raises ContractBroken."""
        from feast.errors import FeastObjectNotFoundException

        name = self.interface.feature_service
        recorded = {view.code_sha256 for view in self.interface.on_demand_views}
        try:
            require_checked(store, name, self.interface)
            live = read_interface(store, name, recorded)
        except FeastObjectNotFoundException as error:
            raise ContractBroken(
                f"Feature service {name!r} of the contract is not in the Feast registry: {error}. "
                "Restore its definition and run `feast -c feature_repo apply`."
            ) from error
        found = differences(self.interface, live)
        if found:
            raise ContractBroken(
                f"Feature service {name!r} has changed since the model was trained: {few(found, '; ')}. A feature "
                "service never changes: put the old definition back, give the new one a new name, and run "
                "`feast -c feature_repo apply`."
            )


# Words for people: a changed description does not change what a model gets.
WORDS = {"description", "missing", "noun"}


def differences(recorded: BaseModel, live: BaseModel) -> list[str]:
    """What differs between two interfaces, one line each: path, recorded value, live value."""
    lines: list[str] = []

    def compare(path: str, old: Any, new: Any) -> None:
        if isinstance(old, dict) and isinstance(new, dict):
            for key in sorted({*old, *new} - WORDS):
                compare(f"{path}.{key}" if path else key, old.get(key), new.get(key))
        elif isinstance(old, list) and isinstance(new, list) and _named(old) and _named(new):
            if [entry["name"] for entry in old] != [entry["name"] for entry in new]:
                names = [entry["name"] for entry in old], [entry["name"] for entry in new]
                lines.append(f"{path}: recorded {names[0]}, now {names[1]}")
            else:
                for one, other in zip(old, new, strict=True):
                    compare(f"{path}.{one['name']}", one, other)
        elif old != new:
            lines.append(f"{path}: recorded {old!r}, now {new!r}")

    compare("", recorded.model_dump(mode="json"), live.model_dump(mode="json"))
    return lines


def _named(entries: list[Any]) -> bool:
    return all(isinstance(entry, dict) and "name" in entry for entry in entries)
