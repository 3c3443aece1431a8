"""What `bentoml build` packs, as pyproject.toml says it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from fti.deploy.supply import locked, needed_by

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_bento_pins_what_serving_was_tested_with(project):
    """All that the `serving` and `production` extras need, and what that needs, each at its version in uv.lock."""
    file = ROOT / project["tool"]["bentoml"]["build"]["python"]["requirements_txt"]
    pinned = {tuple(line.partition(" ;")[0].split("==")) for line in file.read_text().splitlines()}
    packages = locked()
    needed = needed_by(("serving", "production"), packages)
    assert pinned == {(one["name"], one["version"]) for one in packages if one["name"] in needed}


def test_the_image_has_no_compiler_because_every_package_comes_as_a_wheel():
    """BentoML's own images install build-essential, gnupg and git: this service's has what Python's has."""
    from fti.serving.service import IMAGE

    assert IMAGE.commands == []
    assert IMAGE.base_image == f"python:{IMAGE.python_version}-slim"
    packages = locked()
    needed = needed_by(("serving", "production"), packages)
    assert [one["name"] for one in packages if one["name"] in needed and not one.get("wheels")] == []


def test_the_image_is_built_without_buildkit_and_trusts_whom_the_system_trusts(project):
    """BentoML hands what is set for the build alone as BuildKit's secrets, which buildah and podman do not take."""
    (told,) = project["tool"]["bentoml"]["build"]["envs"]
    assert told == {"name": "UV_SYSTEM_CERTS", "value": "true"}


def test_the_bento_holds_all_that_serving_imports(project):
    """The serving package and its page, what it shares with training, the feature store's settings and its stores."""
    packed = {
        str(file.relative_to(ROOT))
        for pattern in project["tool"]["bentoml"]["build"]["include"]
        for file in ROOT.glob(pattern)
    }
    library = ROOT / "src" / "fti"
    files = [*(library / "serving").rglob("*"), *library.glob("*.py")]
    files += [file for shared in ("contract", "scoring") for file in (library / shared).glob("*.py")]
    needed = {str(file.relative_to(ROOT)) for file in files if file.is_file() and file.suffix != ".pyc"}
    needed |= {"serving/service.py", "pyproject.toml"}
    settings = yaml.safe_load((ROOT / "feature_repo" / "feature_store.yaml").read_text())
    for named in (settings["online_store"]["type"], settings["registry"]["registry_store_type"]):
        if named.startswith("fti."):
            needed.add(f"src/{named.rpartition('.')[0].replace('.', '/')}.py")
    assert needed | {"feature_repo/feature_store.yaml"} <= packed
    assert not [file for file in packed if file.startswith(("training", "data", "tests"))]


def test_what_is_packed_is_enough_to_answer(project, tmp_path):
    """All that the workers import is there, with what monitoring has recorded; plots and the offline store are not."""
    for pattern in project["tool"]["bentoml"]["build"]["include"]:
        for file in ROOT.glob(pattern):
            target = tmp_path / str(file.relative_to(ROOT)).removeprefix("src/")  # as BentoML does
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    code = (
        "import sys, serving.service, fti.serving.http.api, fti.scoring.explain, fti.serving.model.predictor;"
        "import fti.serving.model.shadow, fti.serving.http.status as found;"
        "print(found.__file__, *{'matplotlib', 'duckdb', 'deltalake'} & set(sys.modules))"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.split() == [str(tmp_path / "fti" / "serving" / "http" / "status.py")]


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
