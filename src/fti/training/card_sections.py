"""The sections of a model card: a version, its run and its contract in; a piece of Markdown each out."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from fti.contract.feature_contract import FeatureContract
from fti.contract.registered import (
    AGAINST_TAG,
    CAUSE_TAG,
    DECISION_TAG,
    DIGEST_TAG,
    MODEL_DIGEST_TAG,
    REASONS_TAG,
    TRIAL_TAG,
)
from fti.page import table

MONTHS = "holdout_month_"
PERIODS = {"validation": "Rows that the gate judged on", "holdout": "Rows since, whose outcomes are known by now"}


def details(version: ModelVersion, run: Run, contract: FeatureContract) -> str:
    interface, rows = contract.interface, contract.training_set
    aliases = ", ".join(sorted(version.aliases)) or "none"
    parameters = sorted((k.removeprefix("model."), v) for k, v in run.data.params.items() if k.startswith("model."))
    return f"""# {version.name}, version {version.version}

## Model details

It predicts **{interface.label}** ({interface.label_definition}), {interface.prediction_lead_minutes} minutes before
{interface.prediction_anchor}, from {len(interface.inputs)} inputs of the feature service `{interface.feature_service}`.
Trained {_moment(run.info.start_time)} as of {rows.as_of:%Y-%m-%d}, on {rows.rows:,} rows.
Aliases when this was written: {aliases}.

{table(["parameter", "value"], parameters)}"""


def decision(version: ModelVersion, said: str) -> str:
    tags = version.tags
    if DECISION_TAG not in tags:
        return "## Decision of the gate\n\nNot judged yet: `make evaluate`."
    against = tags.get(AGAINST_TAG, "none")
    other = "there was no champion to compare with" if against == "none" else f"against champion {against}"
    text = f"## Decision of the gate\n\n**{tags[DECISION_TAG]}**, {other}: {tags.get(REASONS_TAG, '').rstrip('.')}."
    if TRIAL_TAG in tags:
        text += f" Loading it and answering its example as a service does: {tags[TRIAL_TAG].rstrip('.')}."
    return f"{text}\n\n```text\n{said}\n```" if said else text


def metrics(client: MlflowClient, run: Run) -> str:
    """Every metric of the run: those of its periods beside those of the references, by month, and what is left."""
    left = dict(run.data.metrics)
    monthly = {name: left.pop(name) for name in sorted(left) if name.startswith(MONTHS)}
    parts = ["## Metrics"]
    for period, title in PERIODS.items():
        mine = {
            name.removeprefix(f"{period}_"): left.pop(name) for name in sorted(left) if name.startswith(f"{period}_")
        }
        if mine:
            parts += [f"### {title} (`{period}`)", _beside(mine)]
    if left:
        parts += ["### Others", table(["metric", "value"], sorted(left.items()))]
    # The references' monthly numbers stay in MLflow.
    references = _references({name.removeprefix(MONTHS): value for name, value in monthly.items()})
    own = [name for name in monthly if not name.removeprefix(MONTHS).startswith(tuple(f"{one}_" for one in references))]
    if own:
        history = {name: {at.step: at.value for at in client.get_metric_history(run.info.run_id, name)} for name in own}
        months = sorted({month for values in history.values() for month in values})
        rows = [[f"{month // 100}-{month % 100:02}", *(history[name].get(month) for name in own)] for month in months]
        parts += ["### Month by month, since", table(["month", *(name.removeprefix(MONTHS) for name in own)], rows)]
    return "\n\n".join(parts)


def _references(metrics: Mapping[str, float]) -> list[str]:
    """Those who were scored beside the model: each says of how many rows, as `{reference}_rows`."""
    return sorted(name.removesuffix("_rows") for name in metrics if name.endswith("_rows"))


def _beside(metrics: Mapping[str, float]) -> str:
    """A line a metric of the model, a column for it and for each reference."""
    references = _references(metrics)
    own = [name for name in metrics if not name.startswith(tuple(f"{one}_" for one in references))]
    rows = [[name, metrics[name], *(metrics.get(f"{one}_{name}") for one in references)] for name in own]
    return table(["metric", "this model", *references], rows)


def slices(run: Run) -> str:
    found = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/slices.json")
    return f"## Quantitative analyses: slice by slice\n\n{table(found['columns'], found['data'])}"


def training_data(run: Run, contract: FeatureContract) -> str:
    rows, params = contract.training_set, run.data.params
    facts = [
        ("predicted in", f"[{rows.start:%Y-%m-%dT%H:%MZ}, {rows.end:%Y-%m-%dT%H:%MZ})"),
        ("as of", f"{rows.as_of:%Y-%m-%dT%H:%MZ}"),
        ("outcomes known by", params.get("validation_start")),
        ("judged on", f"[{params.get('validation_start')}, {params.get('validation_end')})"),
        ("rows", rows.rows),
        ("sha256", f"`{rows.sha256}`"),
        ("kept as", f"version {params.get('training_set.version')} of a Delta table"),
    ]
    versions = table(["table", "version read"], sorted(rows.delta_versions.items()))
    return f"## Training data\n\n{table(['', ''], facts)}\n\n{versions}"


def features(contract: FeatureContract) -> str:
    interface = contract.interface
    rows = [
        [
            f"`{view.name}`",
            ", ".join(view.join_keys),
            str(timedelta(seconds=view.ttl_seconds)) if view.ttl_seconds else "never",
            view.when_missing,
            view.missing,
            ", ".join(interface.taken_from(view)) or "read by on-demand views alone",
        ]
        for view in interface.stored_views
    ]
    stored = table(["view", "keys", "expires after", "when missing", "which means", "inputs"], rows)
    computed = table(
        ["on-demand view", "from", "inputs", "sha256 of its code"],
        [
            [f"`{v.name}`", ", ".join(v.inputs), ", ".join(v.features), v.code_sha256[:12]]
            for v in interface.on_demand_views
        ],
    )
    request = table(
        ["asked of a request", "type", "required", "what it is"],
        [[f.name, f.dtype, "yes" if f.required else "no", f.description] for f in interface.request_fields],
    )
    taken = f"Taken from the request as they are: {', '.join(interface.key_categories) or 'nothing'}."
    return f"## Factors: what it reads\n\n{stored}\n\n{computed}\n\n{request}\n\n{taken}"


def figures(client: MlflowClient, run: Run) -> str:
    drawn = sorted(files_of(client, run.info.run_id, "plots"))
    pictures = [f"![{Path(path).stem.replace('_', ' ')}]({path})" for path in drawn if path.endswith(".png")]
    return "\n\n".join(["## Figures, of the rows that the gate judged on", *pictures]) if pictures else ""


def provenance(version: ModelVersion, run: Run, folder: Path) -> str:
    requirements = folder / "requirements.txt"
    packages = ", ".join(requirements.read_text().split()) if requirements.is_file() else "not recorded"
    facts = [
        ("run", f"`{run.info.run_id}`"),
        ("git commit", f"`{run.data.tags.get('git_commit', 'unknown')}`"),
        ("why it was trained", version.tags.get(CAUSE_TAG, "not said")),
        ("contract, sha256", f"`{version.tags[DIGEST_TAG]}`"),
        ("model's files, sha256", f"`{version.tags[MODEL_DIGEST_TAG]}`"),
        ("packages", packages),
    ]
    return f"""## Provenance

{table(["", ""], facts)}

Build it again and compare to the last bit: `make reproduce VERSION={version.version}`. Should it do harm as
the champion, `make rollback` gives the alias back to the champion before, and the running service follows by itself."""


def files_of(client: MlflowClient, run_id: str, folder: str | None = None) -> set[str]:
    return {file.path for file in client.list_artifacts(run_id, folder)}


def text_of(run: Run, name: str) -> str:
    return Path(download_artifacts(f"{run.info.artifact_uri}/{name}")).read_text()


def _moment(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M} UTC"
