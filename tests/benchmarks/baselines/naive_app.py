"""What most tutorials end with: a flight in, a probability out, by FastAPI, Feast's `to_df` and MLflow's pyfunc.

    uvicorn tests.benchmarks.baselines.naive_app:app

FEATURE_SERVICE and MODEL_URI name what the service under test serves.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import mlflow
from fastapi import FastAPI
from feast import FeatureStore
from pydantic import BaseModel

app = FastAPI()
store = FeatureStore(repo_path=str(Path(__file__).resolve().parents[3] / "feature_repo"))
features = store.get_feature_service(os.environ["FEATURE_SERVICE"])
model = mlflow.pyfunc.load_model(os.environ["MODEL_URI"])


class Flight(BaseModel):
    """The request of the service under test. `as_of` finds no use: Feast knows the newest rows only."""

    origin: str
    dest: str
    carrier: str
    flight_number: int
    tailnum: str
    scheduled_departure: datetime
    scheduled_arrival: datetime
    as_of: datetime | None = None


@app.post("/predict")
def predict(flight: Flight) -> dict[str, float]:
    hour = int(flight.scheduled_departure.timestamp()) // 3600
    row = flight.model_dump(exclude={"as_of"}) | {"departure_hour": hour}
    frame = store.get_online_features(features=features, entity_rows=[row]).to_df()
    return {"probability": float(model.predict(frame)["probability"].iloc[0])}


@app.get("/readyz")
def ready() -> None:
    """Everything was loaded before the port was opened."""
