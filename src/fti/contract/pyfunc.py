"""A registered model as MLflow's `pyfunc`: frames as the feature store gives them in; a frame of named forecasts out.

MLflow's own loader wants float64 and no other number, of an int64 column too, and answers with an array. This module
is the `loader_module` of registered models: it takes any column that says the same, and fills what is missing as
training does. It reads the same skops file as serving does; no code lies in the model itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fti.contract.feature_contract import FeatureContract
from fti.contract.interface import FeatureInterface, ModelInput
from fti.contract.registered import FILE_NAME
from fti.contract.task import ANSWER, forecast
from fti.errors import few

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature

SAFE = "skops"


class ColumnUnusable(ValueError):
    """A frame lacks a model input, or a column's values are not of the input's kind."""


class FrameModel:
    """A fitted estimator that takes frames of features, whatever the types and the order of their columns."""

    def __init__(self, estimator: Any, interface: FeatureInterface) -> None:
        self.estimator = estimator
        self.interface = interface

    def predict(self, data: pd.DataFrame) -> pd.DataFrame:
        """Return the forecast of each row, under its index, in the column `probability` or `prediction`.

        The forecast is NaN where the model does not answer: a view that is declared `when_missing: reject` has nothing
        for the row. Columns that are no model inputs are ignored. Raises ColumnUnusable.
        """
        rows = self.interface.filled(model_inputs(data, self.interface).reset_index(drop=True))
        answered = self.interface.answered(rows).to_numpy()
        forecasts = np.full(len(rows), np.nan)
        if answered.any():
            forecasts[answered] = forecast(self.estimator, rows[answered], self.interface.task)
        return pd.DataFrame({ANSWER[self.interface.task]: forecasts}, index=data.index)

    def get_raw_model(self) -> Any:
        """Return the estimator itself, for MLflow's `unwrap_python_model`."""
        return self.estimator


def model_inputs(frame: pd.DataFrame, interface: FeatureInterface) -> pd.DataFrame:
    """Return the columns a model takes, in its order: text or None, all else as float64 with NaN for what is missing.

    Raises ColumnUnusable.
    """
    columns = {}
    for asked in interface.inputs:
        name = next((name for name in _names(asked, interface) if name in frame.columns), None)
        if name is None:
            raise ColumnUnusable(
                f"The frame has no column {asked.name!r}, which the model takes; it has {few(list(frame.columns))}. "
                f"Read the feature service {interface.feature_service!r}."
            )
        columns[asked.name] = _texts(frame[name]) if asked.dtype == "string" else _numbers(frame[name])
    return pd.DataFrame(columns, index=frame.index)


def signature(interface: FeatureInterface) -> ModelSignature:
    """Return the names of inputs and output. Inputs are of any type: MLflow's checks would refuse whole numbers,
    booleans and nulls for a double, before this module sees them."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, DataType, Schema, TensorSpec

    inputs: list[ColSpec | TensorSpec] = [
        ColSpec(AnyType(), name, required=not interface.full_names)
        for asked in interface.inputs
        for name in _names(asked, interface)
    ]
    return ModelSignature(Schema(inputs), Schema([ColSpec(DataType.double, ANSWER[interface.task])]))


def save_model(path: str, mlflow_model: Model, **options: Any) -> None:
    """Save a model as `mlflow.sklearn` does, to be loaded as pyfunc by this module: a flavor, for `Model.log`."""
    import mlflow

    mlflow.sklearn.save_model(path=path, mlflow_model=mlflow_model, **options)
    mlflow_model.flavors[mlflow.pyfunc.FLAVOR_NAME][mlflow.pyfunc.MAIN] = __name__
    mlflow_model.save(str(Path(path) / "MLmodel"))


def _load_pyfunc(path: str) -> FrameModel:
    """Load the model in a folder, for `mlflow.pyfunc.load_model`. Raises ValueError for a model of another format."""
    import mlflow

    saved = mlflow.models.Model.load(path).flavors[mlflow.sklearn.FLAVOR_NAME]
    if saved.get("serialization_format") != SAFE:  # a pickle runs whatever code is in it
        raise ValueError(
            f"{path} is a model in {saved.get('serialization_format')!r}; expected {SAFE}. Nothing is run."
        )
    contract = FeatureContract.model_validate_json((Path(path) / "extra_files" / FILE_NAME).read_text())
    return FrameModel(mlflow.sklearn.load_model(path), contract.interface)


def _names(asked: ModelInput, interface: FeatureInterface) -> Iterator[str]:
    """What a frame may call an input: where two views share a feature's name, Feast calls all of them VIEW__FEATURE."""
    yield asked.name
    if interface.full_names and asked.source != "request" and not asked.name.startswith(f"{asked.source}__"):
        yield f"{asked.source}__{asked.name}"


def _texts(values: pd.Series) -> pd.Series:
    """A column of text, None for what is missing, from any that pandas has for it."""
    texts = values.astype(object)
    texts = texts.where(texts.notna(), None)
    if strangers := [value for value in texts if value is not None and not isinstance(value, str)]:
        raise ColumnUnusable(f"Column {values.name!r} has {few(strangers)}; expected text.")
    return texts


def _numbers(values: pd.Series) -> pd.Series:
    """A column of float64, NaN for what is missing, from whole numbers, booleans and objects too."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(object)
    if pd.api.types.is_numeric_dtype(values.dtype):  # booleans are
        return values.astype("float64")
    plain = values.astype(object).where(values.notna(), np.nan)
    if strangers := [value for value in plain if isinstance(value, str) or not np.isscalar(value)]:
        raise ColumnUnusable(f"Column {values.name!r} has {few(strangers)}; expected numbers.")
    return plain.astype("float64")
