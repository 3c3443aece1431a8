"""What a stretch of cycles came to: tables beside the log of predictions in; weeks, costs and pictures out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import pandas as pd
from sqlalchemy import Engine, select

from fti.contract.events import CYCLE_STEPS, events
from fti.contract.metrics import HEADLINE
from fti.contract.predictions import CHAMPION
from fti.contract.results import RESULTS, history
from fti.monitoring.plots import QUIET, Line, over_time

WEEK = timedelta(days=7)


def weeks(engine: Engine, first: datetime, last: datetime) -> pd.DataFrame:
    """A row a whole week and version that answered in it: columns week, version, rows, consistency, metric,
    score, score_low, score_high, bias, drifted_share, prediction_psi. `metric` names the task's headline score. Unknown
    is NaN; a week's outcomes are known, and its score is found, some time after its end."""
    columns = RESULTS.c
    metrics = {
        ("consistency", "consistency"): "consistency",
        **{("quality", metric): "score" for metric in HEADLINE.values()},
        ("quality", "bias"): "bias",
        ("drift", "drifted_share"): "drifted_share",
        ("drift", "prediction"): "prediction_psi",
    }
    asked = select(
        columns.as_of, columns.monitor, columns.metric, columns.subject, columns.value, columns.low, columns.high,
        columns.rows, columns.start, columns.end,
    ).where(
        columns.end > first, columns.end <= last,
        columns.subject.endswith(f", {CHAMPION}"), columns.metric.in_({metric for _, metric in metrics}),
    )  # fmt: skip
    with engine.connect() as connection:
        found = [
            row
            for row in connection.execute(asked)
            if (row.monitor, row.metric) in metrics and row.end - row.start == WEEK
        ]
    rows: dict[tuple[datetime, str], dict[str, object]] = {}
    for one in found:
        if (one.end - first) % WEEK:
            continue
        mine = rows.setdefault((one.start, one.subject.partition(" version ")[2].partition(",")[0]), {})
        name = metrics[one.monitor, one.metric]
        mine[name] = one.value
        if name == "score":
            mine |= {"metric": one.metric, "score_low": one.low, "score_high": one.high}
        if name == "consistency":
            mine["rows"] = one.rows
    names = ["rows", "consistency", "metric", "score", "score_low", "score_high", "bias", "drifted_share",
             "prediction_psi"]  # fmt: skip
    table = pd.DataFrame([{"week": week, "version": version} | row for (week, version), row in sorted(rows.items())])
    return table.reindex(columns=["week", "version", *names])


def costs(engine: Engine, first: datetime, last: datetime) -> pd.DataFrame:
    """Seconds of each step, one row an as_of in `[first, last]`."""
    columns = CYCLE_STEPS.c
    asked = select(columns.as_of, columns.step, columns.seconds).where(
        columns.as_of >= first, columns.as_of <= last, columns.status == "done"
    )
    with engine.connect() as connection:
        rows = connection.execute(asked).all()
    return pd.DataFrame(rows, columns=["as_of", "step", "seconds"]).pivot(
        index="as_of", columns="step", values="seconds"
    )


def plots(engine: Engine, first: datetime, last: datetime) -> dict[str, str]:
    """Pictures of what was measured as of `[first, last]`, by file name; SVG that is read on white and on black."""
    found = history(engine, last, last - first + timedelta(microseconds=1), (last - first) // timedelta(hours=1))
    found = found[found.subject.str.endswith(f", {CHAMPION}") & (found.end - found.start == WEEK)]
    marks = [(moment, said.partition(":")[0]) for moment, said in events(engine, first, last)]
    pictures = {}
    for name, (title, label, monitor, metrics, limits) in PLOTS.items():
        lines = {
            " ".join([str(subject).removesuffix(f", {CHAMPION}"), *([words] if words else [])]): Line(
                mine.rename(columns={"as_of": "at"})[
                    ["at", "value", *(["low", "high"] if monitor == "quality" else [])]
                ]
            )
            for metric, words in metrics.items()
            for subject, mine in found[(found.monitor == monitor) & (found.metric == metric)].groupby("subject")
        }
        if lines:
            picture = over_time(title, label, lines, limits, marks, monitor == "consistency", "end of seven days (UTC)")
            pictures[name] = picture.svg.replace("currentColor", QUIET)
    return pictures


PLOTS: dict[str, tuple[str, str, str, dict[str, str], dict[str, float]]] = {
    "consistency.svg": ("Served values equal to the offline store's", "share", "consistency", {"consistency": ""}, {}),
    "quality.svg": (
        "Quality of the answers", "with 95 % interval", "quality", {"roc_auc": "ROC AUC", "rmse": "RMSE"}, {},
    ),
    "drift.svg": (
        "Drift", "PSI; share", "drift", {"prediction": "PSI of the answers", "drifted_share": "share of features"},
        {"breach": 0.5},
    ),
}  # fmt: skip
FORMS = {
    "rows": ",.0f", "consistency": ".4%", "score": ".3f", "score_low": ".3f", "score_high": ".3f", "bias": "+.3f",
    "drifted_share": ".0%", "prediction_psi": ".2f",
}  # fmt: skip


def as_text(table: pd.DataFrame, happened: Sequence[tuple[datetime, str]]) -> str:
    """The weeks as a table, and below it a line for each thing that happened."""
    shown = table.assign(week=[f"{week:%Y-%m-%d}" for week in table.week])
    for name, form in FORMS.items():
        shown[name] = ["-" if pd.isna(value) else format(value, form) for value in table[name]]
    return "\n".join([shown.to_string(index=False), *(f"{moment:%Y-%m-%d}  {said}" for moment, said in happened)])
