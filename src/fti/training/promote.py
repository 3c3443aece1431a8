"""Move the aliases: a judged challenger becomes the champion, the champion before comes back, or a version retires.

`champion` is what serving follows, `previous` is what it was before, `challenger` is what waits. Setting `champion` is
the one step that matters and comes between the other two, so a kill anywhere leaves a champion.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_DOES_NOT_EXIST,
    ErrorCode,
)

from fti.contract.registered import AGAINST_TAG, DECISION_TAG, REASONS_TAG, SERVICE_TAG
from fti.errors import Refusal, few

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
# Of a registered model while a rollback is under way: the number of the version that was the champion.
INTENT_TAG = "rollback.from"
ABSENT = {ErrorCode.Name(RESOURCE_DOES_NOT_EXIST), ErrorCode.Name(INVALID_PARAMETER_VALUE)}
EXISTS = ErrorCode.Name(RESOURCE_ALREADY_EXISTS)
# A promotion takes a second; whoever holds the turn for longer was killed.
TURN_SECONDS = 120
# What a training waits for its turn: until one that was killed has lost it. Who only moves aliases is told at once.
PATIENCE = 2 * TURN_SECONDS
# No write to the registry takes as long as this.
SETTLING = 2


class NothingToDo(Refusal):
    """There is no version to judge, promote or go back to."""


class PromotionRefused(Refusal):
    """The gate's judgement is bad, missing, or about another champion; or another promotion is under way."""


def version_at(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """The version an alias points to, or None."""
    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ABSENT:
            return None
        raise


def find_version(client: MlflowClient, name: str, wanted: str) -> ModelVersion:
    """The version of that number or alias. Raises NothingToDo."""
    try:
        found = client.get_model_version(name, wanted) if wanted.isdigit() else version_at(client, name, wanted)
    except MlflowException as error:  # a server that is down is another matter
        if error.error_code not in ABSENT:
            raise
        found = None
    if found is None:
        versions = sorted(int(one.version) for one in client.search_model_versions(f"name = '{name}'"))
        there = few(versions) if versions else "none"
        raise NothingToDo(f"Model {name!r} has no version {wanted!r}; it has {there}. Train one: `make train`.")
    return found


def challenger_of(client: MlflowClient, name: str) -> ModelVersion:
    """The version that waits to be judged or promoted. Raises NothingToDo."""
    found = version_at(client, name, CHALLENGER)
    if found is None:
        raise NothingToDo(f"Model {name!r} has no version with the alias {CHALLENGER!r}. Train one: `make train`.")
    return found


def make_challenger(client: MlflowClient, version: ModelVersion) -> None:
    """Let a version wait to be judged and promoted. It awaits its turn: a promotion might be taking the alias away."""
    with one_at_a_time(client, version.name, patience=PATIENCE):
        client.set_registered_model_alias(version.name, CHALLENGER, version.version)


def promote(client: MlflowClient, name: str, mode: str, version: str | None = None, patience: float = 0) -> str:
    """Make the challenger, or the version of that number, the champion; returns what was done.

    It waits `patience` seconds for its turn. Raises NothingToDo, PromotionRefused.
    """
    with one_at_a_time(client, name, patience):
        challenger = challenger_of(client, name) if version is None else client.get_model_version(name, version)
        champion, waiting = version_at(client, name, CHAMPION), version_at(client, name, CHALLENGER)
        if mode != "disabled":
            _require_judgement(challenger, champion)
        if mode == "dry_run":
            return f"Version {challenger.version} would be promoted; the gate is in dry_run mode, so nothing was moved."
        if INTENT_TAG in client.get_registered_model(name).tags:  # it goes on from where that rollback was cut off
            client.delete_registered_model_tag(name, INTENT_TAG)
        if champion is not None and str(champion.version) != str(challenger.version):
            client.set_registered_model_alias(name, PREVIOUS, champion.version)
        client.set_registered_model_alias(name, CHAMPION, challenger.version)
        if waiting is not None and str(waiting.version) == str(challenger.version):
            client.delete_registered_model_alias(name, CHALLENGER)
    before = f"version {champion.version}, now {PREVIOUS!r}" if champion is not None else "no champion"
    return f"{name}: version {challenger.version} is the champion; before it was {before}."


def rollback(client: MlflowClient, name: str) -> str:
    """Swap `champion` and `previous`; returns what was done. Raises NothingToDo, PromotionRefused.

    Moving `champion` is one step of the registry, and the first: cut off after it, the champion before is back. What
    it is to be swapped with was noted before, so that the next call ends what was cut off, and swaps nothing back.
    """
    with one_at_a_time(client, name):
        champion, previous = version_at(client, name, CHAMPION), version_at(client, name, PREVIOUS)
        if champion is None or previous is None:
            missing = CHAMPION if champion is None else PREVIOUS
            raise NothingToDo(
                f"Model {name!r} has no version with the alias {missing!r}: there is nothing to go back to."
            )
        cut_off = _cut_off_from(client, name, champion, previous)
        if cut_off is None:
            client.set_registered_model_tag(name, INTENT_TAG, str(champion.version))
            client.set_registered_model_alias(name, CHAMPION, previous.version)
        now, before = (previous, champion) if cut_off is None else (champion, cut_off)
        client.set_registered_model_alias(name, PREVIOUS, before.version)
        client.delete_registered_model_tag(name, INTENT_TAG)
    ended = "" if cut_off is None else " That ends a rollback which had been cut off."
    return (
        f"{name}: back to version {now.version} ({_service(now)}); version {before.version} ({_service(before)}) is "
        f"{PREVIOUS!r} now. Again undoes it.{ended}"
    )


def retire(client: MlflowClient, name: str, wanted: str) -> str:
    """Drop every alias of a version, by number or alias, so that nothing has to keep its definitions; returns what was
    done. The version and its files stay. Raises NothingToDo, PromotionRefused.
    """
    with one_at_a_time(client, name):
        version = find_version(client, name, wanted)
        aliases = sorted(client.get_model_version(name, str(version.version)).aliases)
        if CHAMPION in aliases:
            raise PromotionRefused(
                f"Version {version.version} of {name!r} is the champion: the service answers with it. Nothing was "
                "changed. Promote another one, or roll back, first."
            )
        if not aliases:
            return f"{name}: version {version.version} has no alias; nothing has to keep its definitions."
        for alias in aliases:
            client.delete_registered_model_alias(name, alias)
    lost = " There is nothing to roll back to until the next promotion." if PREVIOUS in aliases else ""
    return (
        f"{name}: version {version.version} ({_service(version)}) has lost {', '.join(aliases)}; nothing has to keep "
        f"its definitions.{lost} Its predictions are still monitored while it can be fetched."
    )


def _cut_off_from(
    client: MlflowClient, name: str, champion: ModelVersion, previous: ModelVersion
) -> ModelVersion | None:
    """The version that was the champion before a rollback that was cut off; None when there is none to end.

    Raises NothingToDo when it is a promotion that was cut off.
    """
    number = client.get_registered_model(name).tags.get(INTENT_TAG)
    moved = number not in (None, str(champion.version))
    if moved and str(previous.version) in (number, str(champion.version)):
        return find_version(client, name, str(number))
    if champion.version == previous.version:
        raise NothingToDo(
            f"Both {CHAMPION!r} and {PREVIOUS!r} of model {name!r} are version {champion.version}: a promotion was cut "
            f"off before it had moved the champion. Run `make promote` again; or set {PREVIOUS!r} to another version."
        )
    return None


@contextmanager
def one_at_a_time(client: MlflowClient, name: str, patience: float = 0) -> Iterator[None]:
    """Hold the model's turn to move aliases; wait `patience` seconds for it. Raises PromotionRefused.

    MLflow has no lock and no compare-and-set, but it makes no second registered model of a name: who makes
    `NAME.promoting` has the turn, whatever machine it is on. One that was killed leaves it behind, for TURN_SECONDS.
    """
    turn, mine = f"{name}.promoting", f"An alias is being moved, by {uuid.uuid4().hex}."
    until = time.monotonic() + patience
    while (seconds := _taken_since(client, turn, mine)) is not None:
        if time.monotonic() >= until:
            raise PromotionRefused(
                f"Another promotion or rollback of {name!r} began {seconds:.0f} s ago. Nothing was moved; look what it "
                "did and run this again if it is still wanted. Should it have been killed, its turn ends "
                f"{TURN_SECONDS} s after it began."
            )
        time.sleep(0.5)
    try:
        yield
    finally:
        _give_back(client, turn, mine)


def _taken_since(client: MlflowClient, turn: str, mine: str) -> float | None:
    """Take the turn. Returns None, or for how many seconds another has had it.

    Of several who find a turn that was left behind, each writes its name into it and looks again SETTLING seconds
    later: the last has it (Fischer's mutual exclusion). Who comes after that finds a turn that has just begun.
    """
    try:
        client.create_registered_model(turn, description=mine)
        return None
    except MlflowException as error:
        # MLflow 3.17 looks up the model that is in the way, and cannot find it where it was just deleted.
        if error.error_code not in {EXISTS, *ABSENT}:
            raise
    found = _read(client, turn)
    if found is not None and found.description != mine:  # it is mine, when the client sent a lost request again
        seconds = time.time() - found.last_updated_timestamp / 1000
        if seconds < TURN_SECONDS:
            return seconds
        try:
            client.update_registered_model(turn, description=mine)
        except MlflowException as error:
            if error.error_code not in ABSENT:
                raise
        time.sleep(SETTLING)
        found = _read(client, turn)
    return None if found is not None and found.description == mine else 0.0


def _read(client: MlflowClient, turn: str) -> RegisteredModel | None:
    """The turn, or None when it was given back."""
    try:
        return client.get_registered_model(turn)
    except MlflowException as error:
        if error.error_code in ABSENT:
            return None
        raise


def _give_back(client: MlflowClient, turn: str, mine: str) -> None:
    """Unless another has taken it over."""
    found = _read(client, turn)
    if found is None or found.description != mine:
        return
    try:
        client.delete_registered_model(turn)
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise


def _service(version: ModelVersion) -> str:
    return version.tags.get(SERVICE_TAG, "no feature service")


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
