"""What `bentoml build` packs, as pyproject.toml says it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_bento_pins_what_serving_was_tested_with(project):
    """Every package of the `serving` extra, each at the version in uv.lock."""
    pinned = dict(package.split("==") for package in project["tool"]["bentoml"]["build"]["python"]["packages"])
    wanted = {re.split(r"[\[<>=]", needed)[0] for needed in project["project"]["optional-dependencies"]["serving"]}
    assert wanted <= set(pinned)
    locked = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    versions = {(package["name"], package["version"]) for package in locked}
    assert set(pinned.items()) <= versions


def test_the_bento_holds_all_that_serving_imports(project):
    """The serving package, what it shares with training, the feature store's settings and its own stores."""
    packed = {
        str(file.relative_to(ROOT))
        for pattern in project["tool"]["bentoml"]["build"]["include"]
        for file in ROOT.glob(pattern)
    }
    needed = {f"{folder}/{file.name}" for folder in ("serving", "validation") for file in (ROOT / folder).glob("*.py")}
    settings = yaml.safe_load((ROOT / "feature_repo" / "feature_store.yaml").read_text())
    for named in (settings["online_store"]["type"], settings["registry"]["registry_store_type"]):
        if named.startswith("feature_repo."):
            needed.add(f"{named.rpartition('.')[0].replace('.', '/')}.py")
    assert needed | {"feature_repo/feature_store.yaml"} <= packed
    assert not [file for file in packed if file.startswith(("training", "data", "tests"))]


def test_the_process_that_supervises_the_workers_stays_small():
    """It imports the service to know its settings; Feast, MLflow and scikit-learn are for the workers alone."""
    found = "import sys, serving.service; print(*{'feast', 'mlflow', 'sklearn', 'pandas'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", found], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("SERVING_HOST", "0.0.0.0", "0.0.0.0 lets other machines in, and there are no API keys. Make one with"),
        ("SERVING_PREDICTION_LOG", "oracle://me:secret@host/db", "Predictions cannot be logged to"),
    ],
)
def test_a_service_that_must_not_start_says_why_in_a_line(setting, value, said):
    """`bentoml serve` too, before any worker is there; and no password in it."""
    command = [str(Path(sys.executable).with_name("bentoml")), "serve", "serving.service:PredictionService"]
    result = subprocess.run(command, cwd=ROOT, env=os.environ | {setting: value}, capture_output=True, text=True)
    assert result.returncode == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert said in line
    assert "secret" not in result.stderr
    assert "Traceback" not in result.stderr
