"""Try a version before an alias moves to it: load it and answer its example request, by the service's own code.

What a service could not load, or could not answer with, is not promoted. What the online store lacks is no fault of the
version: it is said and recorded, unless the service can load the champion from the same store.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from feast import FeatureStore
from jsonschema import Draft202012Validator
from mlflow.entities.model_registry import ModelVersion

from fti.contract.interface import ContractBroken
from fti.errors import Refusal, short
from fti.scoring.answers import answer_of, encode
from fti.scoring.features import AsOfTooEarly, FeaturesMissing, RowRefused, StoreUnavailable
from fti.scoring.loading import load_on
from fti.scoring.schemas import AS_OF
from fti.scoring.served_model import Outcome, ServedModel, iso
from fti.steps import step
from fti.training.promote import CannotServe


def try_version(store: FeatureStore, version: ModelVersion, champion: ModelVersion | None) -> str:
    """Load a version on the live registry and answer its example; return what could not be tried, or nothing.

    Raises CannotServe when no service could load the version, or its example gets no valid answer.
    """
    with step("try as the service would") as report:
        try:
            store.refresh_registry()  # it may have changed since training opened it
            untried = _answer_example(load_on(version, store))
        except StoreUnavailable as unavailable:
            why = _with_cause(unavailable)
            if champion is not None and str(champion.version) != str(version.version) and _loads(store, champion):
                raise CannotServe(
                    f"the service can load the champion from the online store as it is, and this one not. {why}"
                ) from unavailable
            untried = f"reading features online. {why}"
        except Exception as error:
            known = "" if isinstance(error, Refusal) else ". The service would fail alike."
            raise CannotServe(f"{_reason(error)}{known}") from error
        report.update(version=version.version, not_tried=untried or "nothing")
    return untried


def _loads(store: FeatureStore, version: ModelVersion) -> bool:
    try:
        load_on(version, store)
    except Exception:  # noqa: BLE001 - whatever is wrong with the champion, it is no measure of another version
        return False
    return True


def _answer_example(model: ServedModel) -> str:
    """Answer the contract's example as of its own moment; return what could not be tried, or nothing.

    Raises ContractBroken when the answer is refused, or is not as the schema of an answer says.
    """
    outcome, warnings = _ask(model, {})
    if isinstance(outcome, AsOfTooEarly):  # the online store has moved on since training's as_of
        outcome, warnings = _ask(model, {AS_OF: iso(outcome.earliest)})
    if isinstance(outcome, FeaturesMissing | AsOfTooEarly):
        return f"the prediction of its example. {outcome}"
    if isinstance(outcome, RowRefused):
        raise ContractBroken(
            f"its example request is not answered: {outcome} Correct the code in a view of another name, and train on "
            "a feature service that has it."
        )
    answer = json.loads(encode(model.answer(outcome, warnings)))
    for problem in Draft202012Validator(answer_of(model.contract.interface)).iter_errors(answer):
        where = ".".join(map(str, problem.absolute_path)) or "answer"
        raise ContractBroken(
            f"the answer to its example request is not as the service says answers are: {where}: "
            f"{short(problem.message)}. Train again with a model whose forecasts are finite, of a label's own range."
        )
    lacking = ", ".join(outcome.row.missing + outcome.row.stale)
    return f"features of {lacking}, of which the online store has no row of use for its example" if lacking else ""


def _ask(model: ServedModel, change: dict[str, Any]) -> tuple[Outcome, list[str]]:
    body = json.dumps(model.contract.example_request | change).encode()
    request, warnings = model.parse(body, datetime.now(UTC))
    (outcome,) = model.predict([request])
    return outcome, warnings


def _with_cause(unavailable: StoreUnavailable) -> str:
    cause = unavailable.__cause__
    return f"{unavailable} ({_reason(cause)})" if isinstance(cause, Exception) else str(unavailable)


def _reason(error: Exception) -> str:
    if isinstance(error, Refusal):
        return str(error)
    return f"{type(error).__name__}: {short(' '.join(str(error).split()), 300)}"
