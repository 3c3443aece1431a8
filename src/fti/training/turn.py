"""The turn to move a model's aliases: one process at a time, on whatever machines they are."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow import MlflowClient
from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

from fti.contract.registered import ABSENT
from fti.errors import Refusal

EXISTS = ErrorCode.Name(RESOURCE_ALREADY_EXISTS)
# A promotion takes a second; whoever holds the turn for longer was killed.
TURN_SECONDS = 120
# No write to the registry takes as long as this.
SETTLING = 2


class PromotionRefused(Refusal):
    """The gate's judgement is bad, missing, or about another champion; or another promotion is under way."""


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
