"""A model as tables and trees: rows of values in; the forecasts that scikit-learn gives, thirty times as fast, out.

scikit-learn builds a frame, copies it for each column transformer and waits for threads: milliseconds for one row. Its
encoder is a lookup and its trees are trees. A model of another kind, or one that does not come out the same, is served
by scikit-learn itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, TargetEncoder
from threadpoolctl import ThreadpoolController

from fti.contract.interface import FeatureInterface
from fti.contract.task import forecast

logger = logging.getLogger("bentoml.serving")
TOLERANCE = 1e-9
PROBES = 256
TREES = (HistGradientBoostingClassifier, HistGradientBoostingRegressor)


class NotCompilable(ValueError):
    """The estimator is of a kind that this module does not know, or does not come out the same."""


@dataclass(frozen=True)
class Native:
    """The estimator as it is, on a frame, in one thread: several wait for one another longer than they work."""

    estimator: Any
    interface: FeatureInterface
    threads: ThreadpoolController

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """The forecast of each row, a mapping from input name to value or None."""
        inputs = self.interface.model_inputs(pd.DataFrame(list(rows), columns=self._names))
        with self.threads.limit(limits=1):
            return self.predict_frame(inputs)

    def predict_frame(self, inputs: pd.DataFrame) -> np.ndarray:
        """As `predict`, of the model inputs as columns, on all cores."""
        return forecast(self.estimator, inputs, self.interface.task)

    @property
    def _names(self) -> list[str]:
        return [one.name for one in self.interface.inputs]


@dataclass(frozen=True)
class Compiled:
    """Encodings by category and value; what an unknown value gets, the mean label, which is None where there are no
    categories; and the trees over both and the numbers."""

    encodings: Mapping[str, Mapping[Any, float]]
    unknown: float | None
    numbers: Sequence[str]
    trees: Any
    original: Native

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """The forecast of each row, a mapping from input name to value or None."""
        import treelite

        return treelite.gtil.predict(self.trees, self.table(rows), nthread=1).reshape(len(rows))

    def table(self, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """What the trees see of each row: the codes of its categories, then its numbers, NaN for what is missing."""
        encoders = [(name, _code_of(values)) for name, values in self.encodings.items()]
        return np.array(
            [
                [*(get(row[name], self.unknown) for name, get in encoders), *(row[name] for name in self.numbers)]
                for row in rows
            ],
            dtype="float64",  # None becomes NaN
        )

    def predict_frame(self, inputs: pd.DataFrame) -> np.ndarray:
        """As `predict`, of the model inputs as columns, on all cores. Of thousands of rows scikit-learn is faster."""
        return self.original.predict_frame(inputs)


def compiled(estimator: Any, interface: FeatureInterface) -> Compiled | Native:
    """The estimator in its fastest form that gives the same forecasts."""
    native = Native(estimator, interface, ThreadpoolController())
    try:
        fast = _compile(native)
        rows = _probes(estimator, fast)
        differs = apart(fast.predict(rows), native.predict(rows))
        if not differs <= TOLERANCE:
            raise NotCompilable(f"it differs by {differs:.3g} from the original")
    except NotCompilable as reason:
        logger.warning("the model is served by scikit-learn, not compiled: %s", reason)
        return native
    except Exception as error:  # whatever treelite or the probes stumble over, scikit-learn can serve
        logger.warning("the model is served by scikit-learn: compiling it failed", exc_info=error)
        return native
    return fast


def apart(found: np.ndarray, wanted: np.ndarray) -> float:
    """How far forecasts are from what they are to be, at most: absolutely, and relatively what is beyond 1, for the sum
    of large numbers is not told to the same digit. NaN, if one is NaN."""
    return float((np.abs(found - wanted) / np.maximum(1, np.abs(wanted))).max())


def _compile(native: Native) -> Compiled:
    """Take the pipeline of target encoding beside numbers as they are, and of trees, apart."""
    estimator = native.estimator
    steps = list(estimator.named_steps.values()) if isinstance(estimator, Pipeline) else []
    if len(steps) != 2 or type(steps[0]) is not ColumnTransformer or type(steps[1]) not in TREES:
        raise NotCompilable(f"{type(estimator).__name__} of {[type(step).__name__ for step in steps]}")
    (_, encoder, categories), *others = steps[0].transformers_
    if type(encoder) is not TargetEncoder or not all(_passes_on(kind) for _, kind, _ in others):
        kept = [kind if isinstance(kind, str) else type(kind).__name__ for _, kind, _ in steps[0].transformers_]
        raise NotCompilable(f"a ColumnTransformer of {kept}")
    # An encoder of no column was never fitted.
    learnt = zip(categories, encoder.categories_, encoder.encodings_, strict=True) if categories else ()
    names = estimator.feature_names_in_.tolist()
    rest = [names[one] if isinstance(one, int | np.integer) else one for _, _, columns in others for one in columns]
    import treelite

    return Compiled(
        encodings={
            name: {_plain(value): float(code) for value, code in zip(values, codes, strict=True)}
            for name, values, codes in learnt
        },
        unknown=float(encoder.target_mean_) if categories else None,
        numbers=rest,
        trees=treelite.sklearn.import_model(steps[1]),
        original=native,
    )


def _code_of(values: Mapping[Any, float]) -> Callable[[Any, float | None], float | None]:
    """The code of a category. One that is a number is looked up as the float that the encoder was fitted to."""
    if any(isinstance(value, str) for value in values):
        return values.get
    return lambda value, unknown: values.get(None if value is None else float(value), unknown)


def _passes_on(transformer: Any) -> bool:
    """Whether it is what `passthrough` becomes in a fitted ColumnTransformer."""
    return transformer == "passthrough" or (type(transformer) is FunctionTransformer and transformer.func is None)


def _plain(value: Any) -> Any:
    """A category as a request has it: a missing one is None."""
    return None if value is None or value != value else value  # noqa: PLR0124 - NaN alone is unlike itself


def _probes(estimator: Any, fast: Compiled) -> list[dict[str, Any]]:
    """Rows where two forms of a model would part: values at the very thresholds of the trees, missing and unknown."""
    chance = np.random.default_rng(0)
    thresholds = estimator[-1]._bin_mapper.bin_thresholds_[len(fast.encodings) :]
    columns: dict[str, list[Any]] = {}
    for name, values in fast.encodings.items():
        known = [*values, "no such value" if any(isinstance(value, str) for value in values) else 0.5]
        columns[name] = [known[one] for one in chance.integers(len(known), size=PROBES)]
    for name, cuts in zip(fast.numbers, thresholds, strict=True):
        at = chance.choice(cuts, PROBES) if len(cuts) else np.zeros(PROBES)
        moved = np.nextafter(at, chance.choice([-np.inf, np.inf], PROBES))
        gaps = chance.random(PROBES) < 0.1
        value = np.where(chance.random(PROBES) < 0.5, at, moved)
        columns[name] = [None if missing else float(one) for one, missing in zip(value, gaps, strict=True)]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
