"""Move the aliases: a judged challenger becomes the champion, or the champion before comes back.

`champion` is what serving follows, `previous` is what it was before, `challenger` is what waits. Setting `champion` is
the one step that matters and comes between the other two, so a kill anywhere leaves a champion.
"""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode

from training.gate import AGAINST_TAG, DECISION_TAG, REASONS_TAG
from validation.errors import Refusal

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
ABSENT = {ErrorCode.Name(RESOURCE_DOES_NOT_EXIST), ErrorCode.Name(INVALID_PARAMETER_VALUE)}


class NothingToDo(Refusal):
    """There is no version to judge, promote or go back to."""


class PromotionRefused(Refusal):
    """The gate's judgement is bad, missing, or about another champion."""


def version_at(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """The version an alias points to, or None."""
    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ABSENT:
            return None
        raise


def challenger_of(client: MlflowClient, name: str) -> ModelVersion:
    """The version that waits to be judged or promoted. Raises NothingToDo."""
    found = version_at(client, name, CHALLENGER)
    if found is None:
        raise NothingToDo(f"Model {name!r} has no version with the alias {CHALLENGER!r}. Train one: `make train`.")
    return found


def promote(client: MlflowClient, name: str, mode: str) -> str:
    """Make the challenger the champion; returns what was done. Raises NothingToDo, PromotionRefused."""
    challenger, champion = challenger_of(client, name), version_at(client, name, CHAMPION)
    if mode != "disabled":
        _require_judgement(challenger, champion)
    if mode == "dry_run":
        return f"Version {challenger.version} would be promoted; the gate is in dry_run mode, so nothing was moved."
    if champion is not None and str(champion.version) != str(challenger.version):
        client.set_registered_model_alias(name, PREVIOUS, champion.version)
    client.set_registered_model_alias(name, CHAMPION, challenger.version)
    client.delete_registered_model_alias(name, CHALLENGER)
    before = f"version {champion.version}, now {PREVIOUS!r}" if champion is not None else "no champion"
    return f"{name}: version {challenger.version} is the champion; before it was {before}."


def rollback(client: MlflowClient, name: str) -> str:
    """Swap `champion` and `previous`; returns what was done. Raises NothingToDo."""
    champion, previous = version_at(client, name, CHAMPION), version_at(client, name, PREVIOUS)
    if champion is None or previous is None:
        missing = CHAMPION if champion is None else PREVIOUS
        raise NothingToDo(f"Model {name!r} has no version with the alias {missing!r}: there is nothing to go back to.")
    client.set_registered_model_alias(name, CHAMPION, previous.version)
    client.set_registered_model_alias(name, PREVIOUS, champion.version)
    return (
        f"{name}: back to version {previous.version}; version {champion.version} is {PREVIOUS!r} now. Again undoes it."
    )


def _require_judgement(challenger: ModelVersion, champion: ModelVersion | None) -> None:
    decision, against = challenger.tags.get(DECISION_TAG), challenger.tags.get(AGAINST_TAG)
    now = str(champion.version) if champion is not None else "none"  # MLflow gives a number here and text there
    if decision is None:
        raise PromotionRefused(f"Version {challenger.version} was never judged. Run `make evaluate` first.")
    if decision != "passed":
        raise PromotionRefused(f"The gate refuses version {challenger.version}: {challenger.tags.get(REASONS_TAG)}.")
    if against != now and now != str(challenger.version):
        raise PromotionRefused(
            f"Version {challenger.version} was judged against champion {against}, but the champion is {now} now. "
            "Run `make evaluate` again."
        )
