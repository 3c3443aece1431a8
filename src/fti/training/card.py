"""The model card of a registered version: registry, run and contract in; Markdown, HTML and the run's figures out.

    fti card --version champion

The headings are those of Mitchell et al., Model Cards for Model Reporting (2019). Numbers are those of the run,
whatever their names; intended use and limits are words of card.md, as they were when the version was trained.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from fti.command import alias, fail
from fti.contract.registered import fetch_version, require_registry
from fti.page import write
from fti.project import project
from fti.training import card_sections as sections
from fti.training.config import load_config
from fti.training.promote import find_version

CARD, WORDS_ARTIFACT = "model_card.md", "model_card_words.md"
# MLflow's registry takes no longer description; the card goes on in the run.
MOST_IN_REGISTRY = 5000


def main(argv: list[str] | None = None) -> int:
    return alias("fti.training.card", "fti.training.commands:CARD", argv)


def write_card(version: str, model_name: str, folder: Path | None) -> int:
    """Write a version's card and its figures, and print where the card is; returns the exit code."""
    try:
        require_registry()
        client, name = MlflowClient(), load_config({"model_name": model_name}).model_name
        chosen = find_version(client, name, version)
        text = card(client, chosen)
        folder = (folder or project().root / "data" / "cards") / f"{name}-{chosen.version}"
        folder.mkdir(parents=True, exist_ok=True)
        if sections.files_of(client, str(chosen.run_id), "plots"):
            client.download_artifacts(str(chosen.run_id), "plots", str(folder))
        print(write(text, folder / CARD))
    except (MlflowException, OSError) as error:
        return fail(error)
    return 0


def record(client: MlflowClient, version: ModelVersion) -> None:
    """Write the card to the version's run, and as much of it as fits into the registry."""
    run_id = str(version.run_id)
    version = client.get_model_version(version.name, version.version)  # with the tags of by now
    if WORDS_ARTIFACT not in sections.files_of(client, run_id):
        client.log_text(run_id, _words().read_text(), WORDS_ARTIFACT)
    text = card(client, version)
    client.log_text(run_id, text, CARD)
    if len(text) > MOST_IN_REGISTRY:
        goes_on = f"\n\n… the whole card: `{CARD}` of run {run_id}, or `make card VERSION={version.version}`."
        text = text[: MOST_IN_REGISTRY - len(goes_on)].rpartition("\n## ")[0] + goes_on
    client.update_model_version(version.name, version.version, description=text)


def card(client: MlflowClient, version: ModelVersion) -> str:
    """The card as Markdown. Raises ContractBroken when the files are not as the version was registered."""
    folder, contract = fetch_version(version)
    run = client.get_run(str(version.run_id))
    logged = sections.files_of(client, run.info.run_id)
    words = sections.text_of(run, WORDS_ARTIFACT) if WORDS_ARTIFACT in logged else _words().read_text()
    parts = [
        sections.details(version, run, contract),
        words.strip(),
        sections.decision(version, sections.text_of(run, "gate.txt") if "gate.txt" in logged else ""),
        sections.metrics(client, run),
        sections.slices(run) if "slices.json" in logged else "",
        sections.training_data(run, contract),
        sections.features(contract),
        sections.figures(client, run),
        sections.provenance(version, run, folder),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _words() -> Path:
    return project().root / "training" / "card.md"


if __name__ == "__main__":
    sys.exit(main())
