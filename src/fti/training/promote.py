"""Move the aliases: a judged challenger becomes the champion, or a version retires. rollback.py has the way back.

`champion` is what serving follows, `previous` is what it was before, `challenger` is what waits. Setting `champion` is
the one step that matters and comes between the other two, so a kill anywhere leaves a champion. Before it moves, the
version is tried as a service would load it (trial.py).
"""

from __future__ import annotations

from collections.abc import Callable

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from fti.contract.registered import (
    ABSENT,
    AGAINST_TAG,
    CHAMPION,
    DECISION_TAG,
    EVERY_RULE,
    FAILED,
    PASSED,
    REASONS_TAG,
    SERVICE_TAG,
    TRIAL_TAG,
)
from fti.errors import Refusal, few
from fti.training.turn import TURN_SECONDS, PromotionRefused, one_at_a_time

CHALLENGER, PREVIOUS = "challenger", "previous"
# Of a registered model while a rollback is under way: the number of the version that was the champion.
INTENT_TAG = "rollback.from"
# What a training waits for its turn: until one that was killed has lost it. Who only moves aliases is told at once.
PATIENCE = 2 * TURN_SECONDS


class NothingToDo(Refusal):
    """There is no version to judge, promote or go back to."""


class TrialFailed(PromotionRefused):
    """No service can serve `version`, by the trial that has just been made."""

    def __init__(self, version: ModelVersion, why: str, then: str) -> None:
        super().__init__(f"No service can serve version {version.version}: {why} {then}")
        self.version = version


class CannotServe(Refusal):
    """No service could load the version and answer with it; the message says why."""


# Tries a version beside the champion, if there is one; returns what could not be tried. Raises CannotServe.
Trial = Callable[[ModelVersion, ModelVersion | None], str]


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


def promote(
    client: MlflowClient, name: str, mode: str, trial: Trial, version: str | None = None, patience: float = 0
) -> str:
    """Make the challenger, or the version of that number, the champion; returns what was done.

    It is judged and tried first, but in the mode `disabled`. It waits `patience` seconds for its turn. Raises
    NothingToDo, PromotionRefused.
    """
    challenger, champion = _candidate(client, name, version), version_at(client, name, CHAMPION)
    untried = ""
    if mode != "disabled":
        _require_judgement(challenger, champion)
        # Before its turn, which is for seconds: a version is what it is, whoever the champion is by then.
        untried = _require_trial(client, challenger, champion, trial)
    if mode == "dry_run":
        with one_at_a_time(client, name, patience):
            _record_trial(client, challenger, untried)
        said = f"Version {challenger.version} would be promoted; the gate is in dry_run mode, so nothing was moved."
        return said + not_tried(untried)
    with one_at_a_time(client, name, patience):
        now, champion = _candidate(client, name, version), version_at(client, name, CHAMPION)
        waiting = version_at(client, name, CHALLENGER)
        require_same(challenger, now, CHALLENGER)
        if mode != "disabled":
            _require_judgement(now, champion)
            _record_trial(client, now, untried)
        if INTENT_TAG in client.get_registered_model(name).tags:  # it goes on from where that rollback was cut off
            client.delete_registered_model_tag(name, INTENT_TAG)
        if champion is not None and str(champion.version) != str(challenger.version):
            client.set_registered_model_alias(name, PREVIOUS, champion.version)
        client.set_registered_model_alias(name, CHAMPION, challenger.version)
        if waiting is not None and str(waiting.version) == str(challenger.version):
            client.delete_registered_model_alias(name, CHALLENGER)
    before = f"version {champion.version}, now {PREVIOUS!r}" if champion is not None else "no champion"
    return f"{name}: version {challenger.version} is the champion; before it was {before}.{not_tried(untried)}"


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
        f"{name}: version {version.version} ({service_of(version)}) has lost {', '.join(aliases)}; nothing has to keep "
        f"its definitions.{lost} Its predictions are still monitored while it can be fetched."
    )


def service_of(version: ModelVersion) -> str:
    return version.tags.get(SERVICE_TAG, "no feature service")


def _candidate(client: MlflowClient, name: str, version: str | None) -> ModelVersion:
    return challenger_of(client, name) if version is None else client.get_model_version(name, version)


def require_same(tried: ModelVersion, now: ModelVersion, alias: str) -> None:
    if str(now.version) != str(tried.version):
        raise PromotionRefused(
            f"Version {tried.version} was tried, but {alias!r} is version {now.version} by now. Nothing was moved; run "
            "this again."
        )


def _require_trial(client: MlflowClient, challenger: ModelVersion, champion: ModelVersion | None, trial: Trial) -> str:
    """Try a version that the rules have let pass; return what was not tried. Tags one that fails, in its turn."""
    name, version = challenger.name, challenger.version
    try:
        return trial(challenger, champion)
    except CannotServe as refused:
        with one_at_a_time(client, name, PATIENCE):
            client.set_model_version_tag(name, version, TRIAL_TAG, FAILED)
            client.set_model_version_tag(name, version, REASONS_TAG, str(refused))
            client.set_model_version_tag(name, version, DECISION_TAG, FAILED)
        then = "Once that is fixed, `make promote` tries this version again."
        raise TrialFailed(challenger, str(refused), then) from refused


def _record_trial(client: MlflowClient, challenger: ModelVersion, untried: str) -> None:
    """Tag a version that passed its trial. Hold the turn: of two writers of one tag MLflow fails one."""
    name, version = challenger.name, challenger.version
    client.set_model_version_tag(name, version, TRIAL_TAG, f"{PASSED}; not tried: {untried}" if untried else PASSED)
    if challenger.tags.get(DECISION_TAG) == FAILED:  # for an earlier trial alone
        client.set_model_version_tag(name, version, REASONS_TAG, EVERY_RULE)
        client.set_model_version_tag(name, version, DECISION_TAG, PASSED)


def not_tried(untried: str) -> str:
    return f" Not tried: {untried}" if untried else ""


def _require_judgement(challenger: ModelVersion, champion: ModelVersion | None) -> None:
    decision, against = challenger.tags.get(DECISION_TAG), challenger.tags.get(AGAINST_TAG)
    now = str(champion.version) if champion is not None else "none"  # MLflow gives a number here and text there
    if decision is None:
        raise PromotionRefused(f"Version {challenger.version} was never judged. Run `make evaluate` first.")
    # A version that failed its trial had passed every rule: it is tried again.
    if decision != PASSED and challenger.tags.get(TRIAL_TAG) != FAILED:
        raise PromotionRefused(f"The gate refuses version {challenger.version}: {challenger.tags.get(REASONS_TAG)}.")
    if against != now and now != str(challenger.version):
        raise PromotionRefused(
            f"Version {challenger.version} was judged against champion {against}, but the champion is {now} now. "
            "Run `make evaluate` again."
        )
