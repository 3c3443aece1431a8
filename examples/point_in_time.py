"""Why features are joined point in time: the same features, joined as of three moments, and how well each tells late
flights from others.

    python -m examples.point_in_time [--repo feature_repo] [--month 2013-09]

Needs the tables that `make features` publishes. It writes nothing.
"""

from __future__ import annotations

import argparse
from datetime import timedelta
from pathlib import Path

import pandas as pd
from feast import FeatureStore
from sklearn.metrics import roc_auc_score

from fti.contract.feature_service import read_interface
from fti.contract.interface import FeatureInterface
from fti.contract.spine import KNOWN_AT, PREDICTION_TIME, rows_due, view_rows

FEATURES = {
    "aircraft_rotation": ("tail_last_arr_delay",),
    "carrier_origin_congestion": ("carrier_origin_mean_dep_delay_1h",),
    "origin_congestion": ("origin_mean_dep_delay_1h",),
}


def flights_of(store: FeatureStore, interface: FeatureInterface, month: pd.Period) -> pd.DataFrame:
    """The flights that were to be predicted in a month and landed: their keys, prediction time, label and landing."""
    start, end = (moment.tz_localize("UTC").to_pydatetime() for moment in (month.start_time, (month + 1).start_time))
    flights = rows_due(store, interface, start, end).dropna(subset=["tailnum"]).drop(columns=KNOWN_AT)
    landed = view_rows(store, interface.label_view, end + timedelta(days=2), since=start)
    return flights.merge(landed.drop_duplicates("flight_id", keep="last"), on="flight_id")


def joined(store: FeatureStore, flights: pd.DataFrame, moments: pd.Series) -> pd.DataFrame:
    """The newest features of each flight's keys as of its moment, by Feast."""
    asked = flights[["flight_id", "tailnum", "carrier", "origin"]].assign(event_timestamp=moments)
    names = [f"{view}:{feature}" for view, features in FEATURES.items() for feature in features]
    rows = store.get_historical_features(asked, names).to_df()
    return flights[["flight_id", "is_late"]].merge(rows, on="flight_id")


def auc(rows: pd.DataFrame, feature: str) -> float:
    known = rows.dropna(subset=[feature])
    return float(roc_auc_score(known.is_late, known[feature]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="examples.point_in_time", description=__doc__.split("\n\n")[0])
    parser.add_argument("--repo", type=Path, default=Path("feature_repo"), help="the folder of feature_store.yaml")
    parser.add_argument("--month", type=pd.Period, default=pd.Period("2013-09"), help="of the flights to look at")
    options = parser.parse_args()
    store = FeatureStore(repo_path=str(options.repo))
    interface = read_interface(store, "arrival_delay_v2")
    flights = flights_of(store, interface, options.month)
    print(f"{len(flights):,} flights of {options.month}, {flights.is_late.mean():.1%} of them late.\n")
    print("Each feature alone, joined as of three moments; the ROC AUC of telling late flights from others:\n")
    moments = {
        "the day's end": flights[PREDICTION_TIME].dt.ceil("D"),
        "the landing": flights[KNOWN_AT] + timedelta(minutes=15),
        "the prediction": flights[PREDICTION_TIME],
    }
    found = {name: joined(store, flights, moment) for name, moment in moments.items()}
    for feature in (feature for features in FEATURES.values() for feature in features):
        scores = "   ".join(f"{name} {auc(rows, feature):.3f}" for name, rows in found.items())
        print(f"  {feature:34}{scores}")
    print(
        "\nAs of the landing, which is when the label exists, an aircraft's last delay is that of this very flight:\n"
        "who joins on the label's own timestamp teaches a model to read the answer. As of the day's end, the storm of\n"
        "the afternoon is known in the morning. What was known at the prediction is what the service has, and training."
    )


if __name__ == "__main__":
    main()
