"""Swap `champion` and `previous`: the champion before comes back, once it was tried as a service would load it."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from fti.training.promote import (
    CHAMPION,
    INTENT_TAG,
    PREVIOUS,
    CannotServe,
    NothingToDo,
    Trial,
    TrialFailed,
    find_version,
    not_tried,
    require_same,
    service_of,
    version_at,
)
from fti.training.turn import PromotionRefused, one_at_a_time


@dataclass(frozen=True)
class Swap:
    """The champion, the version before it, and the champion before a rollback that was cut off, if one was."""

    champion: ModelVersion
    previous: ModelVersion
    cut_off: ModelVersion | None


def rollback(client: MlflowClient, name: str, trial: Trial | None) -> str:
    """Swap `champion` and `previous`; returns what was done. Raises NothingToDo, PromotionRefused.

    The version to go back to is tried first, unless `trial` is None. Moving `champion` is one step of the registry, and
    the first: cut off after it, the champion before is back. What it is to be swapped with was noted before, so that
    the next call ends what was cut off, and swaps nothing back; it tries nothing, for nothing comes to be served.
    """
    swap = _to_swap(client, name)
    untried = ""
    if trial is not None and swap.cut_off is None:
        try:
            untried = not_tried(trial(swap.previous, swap.champion))
        except CannotServe as refused:
            then = "Nothing was moved; with `-P mode=disabled` a rollback tries nothing."
            raise TrialFailed(swap.previous, str(refused), then) from refused
    with one_at_a_time(client, name):
        found = _to_swap(client, name)
        if (found.cut_off is None) != (swap.cut_off is None):
            raise PromotionRefused(f"Another rollback of {name!r} came between. Nothing was moved; run this again.")
        require_same(swap.previous, found.previous, PREVIOUS)
        now, before = found.previous, found.champion
        if found.cut_off is None:
            client.set_registered_model_tag(name, INTENT_TAG, str(before.version))
            client.set_registered_model_alias(name, CHAMPION, now.version)
        else:
            now, before = found.champion, found.cut_off
        client.set_registered_model_alias(name, PREVIOUS, before.version)
        client.delete_registered_model_tag(name, INTENT_TAG)
    ended = "" if found.cut_off is None else " That ends a rollback which had been cut off."
    return (
        f"{name}: back to version {now.version} ({service_of(now)}); version {before.version} ({service_of(before)}) "
        f"is {PREVIOUS!r} now. Again undoes it.{ended}{untried}"
    )


def _to_swap(client: MlflowClient, name: str) -> Swap:
    """What a rollback swaps, or what one that was cut off has left to do. Raises NothingToDo."""
    champion, previous = version_at(client, name, CHAMPION), version_at(client, name, PREVIOUS)
    if champion is None or previous is None:
        missing = CHAMPION if champion is None else PREVIOUS
        raise NothingToDo(f"Model {name!r} has no version with the alias {missing!r}: there is nothing to go back to.")
    return Swap(champion, previous, _cut_off_from(client, name, champion, previous))


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
