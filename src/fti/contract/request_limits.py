"""What a request field may say, once for all: the service refuses other values, training and batch leave them out."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd

from fti.contract.interface import FeatureInterface, RequestField
from fti.times import EARLIEST, LATEST, YEARS

MAX_TEXT = 64
# The first whole number that a type cannot hold; the least is its negative.
WHOLE = {"int32": 2**31, "int64": 2**63}


def unanswerable(interface: FeatureInterface, rows: pd.DataFrame) -> pd.Series:
    """Return why the service would refuse each row as a request, for its first such field; null where it would not.

    `rows` has the request fields and the prediction anchor. Which values of a key a model knows is not asked here.
    """
    reasons = pd.Series(None, rows.index, dtype=object)
    due = rows[interface.prediction_anchor] - timedelta(minutes=interface.prediction_lead_minutes)
    reasons[due < EARLIEST] = f"due before the year {EARLIEST.year}"
    for asked in interface.request_fields:
        values = rows[asked.name]
        if asked.required:
            reasons[values.isna() & reasons.isna()] = f"without {asked.name}"
        beyond = values.notna() & _beyond(asked, values).fillna(False).astype(bool)
        reasons[beyond & reasons.isna()] = f"{asked.name} is not {_expected(asked)}"
    return reasons


def _beyond(asked: RequestField, values: pd.Series) -> pd.Series:
    """Which values the type of the field does not take; what it says of nulls does not count."""
    match asked.dtype:
        case "string":
            return ~values.astype("string").str.len().between(1, MAX_TEXT)
        case "unix_timestamp":
            return (values < EARLIEST) | (values >= LATEST)
        case "int32":
            return ~values.between(-WHOLE["int32"], WHOLE["int32"] - 1)
        case "double" | "float":
            return pd.Series(np.isinf(values.to_numpy("float64", na_value=np.nan)), values.index)
        case _:
            return pd.Series(False, values.index)


def _expected(asked: RequestField) -> str:
    match asked.dtype:
        case "string":
            return f"text of 1 to {MAX_TEXT} characters"
        case "unix_timestamp":
            return YEARS
        case "int32":
            return "a whole number of 32 bits"
        case _:
            return "a finite number"
