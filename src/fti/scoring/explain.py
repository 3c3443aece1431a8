"""Why a model said what it said: a row in; how much each of its inputs moved the answer, as Shapley values, out.

The game is that of path-dependent TreeSHAP (Lundberg et al. 2020, https://doi.org/10.1038/s42256-019-0138-9): what a
tree says when only some inputs are known is the mean of its leaves, weighted at each split of an unknown input by how
many training rows went which way. Base value and contributions add up to the model's own output.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from scipy.special import expit

from fti.scoring.compiled import TOLERANCE, Compiled, Native

METHOD = "exact Shapley values of the served trees (path-dependent TreeSHAP: unknown inputs by training rows)"
MOST_WAITING = 4
logger = logging.getLogger("bentoml.serving")
# In which unit a model's trees add up, by the link between their sum and the prediction.
SCALES: dict[str, Literal["log-odds", "label"]] = {"LogitLink": "log-odds", "IdentityLink": "label"}


class NotExplainable(RuntimeError):
    """The model is of a kind of which this module knows no exact contributions."""


class ExplainerBusy(RuntimeError):
    """Others wait for their explanations."""


@dataclass(frozen=True)
class Leaves:
    """All leaves of all trees that ask as many inputs on the way to them. The arrays have a column a leaf.

    `values` is what a leaf adds to the output. The other arrays have a row for each input that is asked: which input it
    is; the bounds `low < x <= high` within which `x` goes to this leaf, NaN for none below; whether a missing `x` does;
    and the share of training rows that went there, at the splits of this input, when nothing is known of it.
    """

    values: np.ndarray
    inputs: np.ndarray
    low: np.ndarray
    high: np.ndarray
    missing: np.ndarray
    shares: np.ndarray

    def contributions(self, x: np.ndarray, count: int) -> np.ndarray:
        """How much each of `count` inputs moves the sum of these leaves' values.

        A leaf's game is a product over its inputs i of (its share if unknown, 1 or 0 if known): the Shapley value of i
        is value * (known_i - share_i) * the integral over t in [0, 1] of the product over j other than i of
        (share_j (1 - t) + known_j t), for the Beta function weighs subsets as Shapley does. That polynomial is of a
        degree for which Gauss-Legendre is exact.
        """
        given = x[self.inputs]
        known = np.where(np.isnan(given), self.missing, ~(given <= self.low) & (given <= self.high))
        integral = np.zeros(self.shares.shape)
        for node, weight in _quadrature((len(self.inputs) + 1) // 2):
            factors = self.shares * (1 - node) + known * node  # above 0: nodes lie within, and no share is 0
            integral += weight * factors.prod(axis=0) / factors
        moved = self.values * (known - self.shares) * integral
        return np.bincount(self.inputs.ravel(), moved.ravel(), minlength=count)


@cache  # it costs as much as what it is for
def _quadrature(count: int) -> list[tuple[float, float]]:
    """Nodes and weights of Gauss-Legendre on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return [*zip(((nodes + 1) / 2).tolist(), (weights / 2).tolist(), strict=True)]


@dataclass(frozen=True)
class Explainer:
    """The leaves of a compiled model, and what its trees say of a row of which nothing is known."""

    model: Compiled
    leaves: Sequence[Leaves]
    base: float
    scale: Literal["log-odds", "label"]

    def explain(self, row: Mapping[str, Any], prediction: float) -> dict[str, Any]:
        """The explanation of what the model said of a row: base, output, and the contribution of each input by name.

        Raises ArithmeticError when they do not add up to the prediction.
        """
        (x,) = self.model.table([row])
        contributions = sum((one.contributions(x, len(x)) for one in self.leaves), np.zeros(len(x)))
        output = self.base + float(contributions.sum())
        apart = abs(self._prediction(output) - prediction)
        if not apart <= TOLERANCE * max(1.0, abs(prediction)):
            raise ArithmeticError(f"the contributions add up to a prediction that is {apart:.3g} off")
        names = [*self.model.encodings, *self.model.numbers]
        return {
            "method": METHOD,
            "scale": self.scale,
            "base": self.base,
            "output": output,
            "base_probability": self._prediction(self.base) if self.scale == "log-odds" else None,
            "contributions": dict(zip(names, contributions.tolist(), strict=True)),
        }

    def _prediction(self, output: float) -> float:
        return float(expit(output)) if self.scale == "log-odds" else output


class Explaining:
    """Explains in a thread of its own, one row after another, so that no prediction waits for it."""

    def __init__(self, limit: int = MOST_WAITING) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explain")
        self._limit, self._inside = limit, 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """One of few places; for coroutines of one event loop. Raises ExplainerBusy when there is none."""
        if self._inside >= self._limit:
            raise ExplainerBusy(f"{self._inside} explanations are being made; ask again in a second.")
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    async def run(self, work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def explainer(model: Compiled | Native) -> Explainer | NotExplainable:
    """What explains a model, or why nothing does: that is no reason not to serve it."""
    try:
        return _explainer(model)
    except NotExplainable as reason:
        return reason
    except (AttributeError, KeyError, ValueError) as error:  # what a scikit-learn that keeps its trees otherwise raises
        logger.warning("answers will not be explained: the fitted trees are not as expected", exc_info=error)
        return NotExplainable("The fitted trees are not as this service expects them; its log says how.")


def _explainer(model: Compiled | Native) -> Explainer:
    if not isinstance(model, Compiled):
        raise NotExplainable(
            "This model's answers cannot be explained: exact contributions are known of target-encoded categories and "
            "gradient-boosted trees alone, and this version is of another kind, such as a calibrated one."
        )
    trees = model.original.estimator.steps[-1][1]
    scale = SCALES.get(type(trees._loss.link).__name__)
    paths = [path for (tree,) in trees._predictors for path in _paths(tree.nodes)]
    if scale is None or not np.size(trees._baseline_prediction) == 1:
        raise NotExplainable(f"The trees add up to no output that this service explains: {type(trees._loss).__name__}.")
    leaves = [_together([one for one in paths if len(one[1]) == many]) for many in {len(asked) for _, asked in paths}]
    base = float(np.ravel(trees._baseline_prediction)[0]) + sum(
        float((one.values * one.shares.prod(axis=0)).sum()) for one in leaves
    )
    return Explainer(model, [one for one in leaves if one.inputs.size], base, scale)


Bounds = tuple[float, float, bool, float]  # low, high, missing, share: see Leaves
Path = tuple[float, dict[int, Bounds]]  # a leaf's value, and the bounds of each input on the way to it
ANYTHING: Bounds = (math.nan, math.inf, True, 1.0)


def _paths(nodes: np.ndarray) -> list[Path]:
    """The way to each leaf of a tree of scikit-learn 1.9's HistGradientBoosting."""
    found: list[Path] = []
    waiting: list[tuple[int, dict[int, Bounds]]] = [(0, {})]
    while waiting:
        place, asked = waiting.pop()
        node = nodes[place]
        if node["is_leaf"]:
            found.append((float(node["value"]), asked))
            continue
        if node["is_categorical"]:
            raise NotExplainable("The trees split by sets of categories, which this service does not explain.")
        number, cut = int(node["feature_idx"]), float(node["num_threshold"])
        low, high, missing, share = asked.get(number, ANYTHING)
        for side in ("left", "right"):
            left, child = side == "left", int(node[side])
            bounds = (low, min(high, cut)) if left else (cut if math.isnan(low) else max(low, cut), high)
            also = missing and bool(node["missing_go_to_left"]) is left
            went = share * (float(nodes[child]["count"]) / float(node["count"]))
            waiting.append((child, asked | {number: (*bounds, also, went)}))
    return found


def _together(paths: Sequence[Path]) -> Leaves:
    """Leaves that ask equally many inputs, as arrays."""
    many = len(paths[0][1])
    inputs = np.array([[*asked] for _, asked in paths], dtype="int64").reshape(len(paths), many)
    bounds = np.array([[*asked.values()] for _, asked in paths], dtype="float64").reshape(len(paths), many, 4)
    low, high, missing, shares = np.ascontiguousarray(bounds.T)
    values = np.array([value for value, _ in paths])
    return Leaves(values, np.ascontiguousarray(inputs.T), low, high, missing.astype(bool), shares)
