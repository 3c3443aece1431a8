"""A project that was trained, then moved and copied: it goes on where it is now, and leaves alone where it was."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from deltalake import write_deltalake
from feast import FeatureStore

from tests import ships
from tests.conftest import ROOT

ODD = "two words, ümlaut and 50%"
DEFINITIONS = ships.DEFINITIONS.replace(
    'path=f"../data/{name}.parquet"', 'path=f"../data/features/{name}", file_format=DeltaFormat()'
).replace("from feast.types", "from feast.data_format import DeltaFormat\nfrom feast.types")
CONFIG = f"""
model_name: lateness
feature_service: late_v1
as_of: {ships.NOON - timedelta(days=2):%Y-%m-%d}
start: 2024-03-01
validation_days: 3
label_delay_hours: 1
model:
  {{max_iter: 5, learning_rate: 0.1, max_leaf_nodes: 7, min_samples_leaf: 20, l2_regularization: 0.0, max_features: 1.0,
  calibration: none, random_state: 1}}
search: {{trials: 0, days: 1}}
slices: {{}}
gate:
  mode: enabled
  metrics: {{roc_auc: {{better: higher, limit: 0.1}}}}
  slices: {{metric: roc_auc, limit: 0, min_rows: 100000}}
  bootstrap: {{resamples: 100, confidence: 0.95}}
"""
LIMITS = """
from fti.validation.rules import TrainingLimits

LIMITS = TrainingLimits(mostly_known=0.0, told_alone={"classification": 0.99})
"""
# Commands of the training pipeline, one after another in one process; `serve` answers the champion's example.
STEPS = """
import json, sys
from fti.project import project
from fti.training.run import main

def serve():
    from fti.contract.request_limits import LATEST
    from fti.scoring.loading import find_version, load

    served = load(find_version("lateness", "champion"), project().repo)
    request, _ = served.parse(json.dumps(served.contract.example_request).encode(), LATEST)
    return [served.version, served.predict([request])[0].value]

answers = []
for step in sys.argv[1:]:
    if step == "serve":
        answers.append(serve())
    elif step == "plan":
        from fti.features.guard import plan

        answers.append([plan(project().repo)])
    elif step == "apply":
        from fti.features.feast_steps import apply

        apply(project().repo)
    else:
        assert main(step.split()) == 0, step
print(json.dumps(answers))
"""


def run(root: Path, *steps: str) -> list[tuple[Any, ...]]:
    """Take the steps in the folder of the project, with MLflow's own defaults; returns what they answered.

    Of `serve`, the version and its forecast; of `plan`, what it says.
    """
    unset = ("MLFLOW_TRACKING_URI", "TRAINING_FEAST_REPO", "FTI_PROJECT", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run(
        [sys.executable, "-c", STEPS, *steps], cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [tuple(answer) for answer in json.loads(done.stdout.splitlines()[-1])]


def files(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[Any, ...]]]:
    """A project with two versions, both promoted, and what each answered there."""
    from fti.features.feast_steps import apply

    root = tmp_path_factory.mktemp("trained") / "original"
    with pytest.MonkeyPatch.context() as here:
        here.setattr(ships, "ROWS", 1600)
        ships.tables(root / "data")
    for file in (root / "data").glob("*.parquet"):
        write_deltalake(str(root / "data" / "features" / file.stem), pd.read_parquet(file))
        file.unlink()
    repo = ships.write(root / "feature_repo", DEFINITIONS)
    for folder in ("training", "validation"):
        (root / folder).mkdir()
    for name in ("model.py", "card.md"):
        shutil.copy(ROOT / "training" / name, root / "training")
    (root / "training" / "references.py").write_text("def references(rows, parameters):\n    return {}\n")
    (root / "training" / "config.yaml").write_text(CONFIG)
    (root / "validation" / "training_set.py").write_text(LIMITS)
    (root / "pyproject.toml").write_text('[tool.fti]\nname = "ships"\nmodel_name = "lateness"\n')
    apply(repo)
    FeatureStore(repo_path=str(repo)).materialize(ships.NOON - timedelta(days=40), ships.NOON)
    return root, run(root, "main", "serve", "main", "serve")


def test_a_moved_or_copied_project_goes_on_where_it_is(trained):
    """Served, rolled back, reproduced, applied and trained again; so is the copy, and no byte of the other changes."""
    original, [first, second] = trained
    assert (first[0], second[0]) == ("1", "2")
    moved = original.parent / ODD
    original.rename(moved)
    steps = ["serve", "rollback", "serve", "reproduce --version 2", "plan", "apply", "main", "serve"]
    same = ("No changes: the registry says what the definitions say.",)
    assert run(moved, *steps) == [second, first, same, ("3", second[1])]
    assert [path.name for path in moved.parent.iterdir()] == [ODD]

    copy, before = shutil.copytree(moved, moved.parent / "copy"), files(moved)
    assert run(copy, "serve", "main", "serve", "rollback", "serve", "reproduce") == [
        ("3", second[1]), ("4", second[1]), ("3", second[1]),
    ]  # fmt: skip
    assert files(moved) == before
    assert sorted(path.name for path in moved.parent.iterdir()) == sorted([ODD, "copy"])
