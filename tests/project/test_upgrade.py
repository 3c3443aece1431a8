"""A project from a wheel, upgraded to a wheel of a higher version: what was stored before is used after."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fti.scaffold.new import new

ROOT = Path(__file__).resolve().parents[2]
NEWER = "0.99.0"
PATIENCE = 600


@dataclass(frozen=True)
class Installed:
    """A wheel of the library, and the folder that it is unpacked into: what an environment would have."""

    wheel: Path
    folder: Path

    def run(self, project: Path, *command: str) -> str:
        """Run a command from a project's folder, with this library and no other; return what it printed."""
        done = subprocess.run(
            command, cwd=project, env=self.environment(), capture_output=True, text=True, timeout=1500
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-2000:]
        return done.stdout

    def make(self, project: Path, *targets: str) -> str:
        return self.run(project, "make", f"VENV={sys.prefix}", *targets)

    def environment(self) -> dict[str, str]:
        named = ("FTI_PROJECT", "MLFLOW_TRACKING_URI", "SERVING_FEAST_REPO", "TRAINING_FEAST_REPO", "FTI_TABLES")
        return {name: value for name, value in os.environ.items() if name not in named} | {
            "PYTHONPATH": str(self.folder)
        }


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Installed, Installed]:
    """This version, and one that is higher and whose Makefile of projects says so."""
    made = tmp_path_factory.mktemp("versions")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file():
            (made / "code" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, made / "code" / name)
    this = _build(made / "code", made / "this")
    settings = made / "code/pyproject.toml"
    version = f'version = "{this.wheel.name.split("-")[1]}"'
    settings.write_text(settings.read_text().replace(version, f'version = "{NEWER}"', 1))
    makefile = made / "code/src/fti/scaffold/common/Makefile.jinja"
    makefile.write_text(makefile.read_text() + "# of a higher version\n")
    return this, _build(made / "code", made / "newer")


def _build(code: Path, to: Path) -> Installed:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(to)]
    subprocess.run(command, cwd=code, check=True, capture_output=True)
    (wheel,) = to.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(to / "lib")
    return Installed(wheel, to / "lib")


@contextmanager
def served(library: Installed, project: Path) -> Iterator[str]:
    """Yield the address of the service, started as `make serve` does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log, address = project.parent / "service.log", f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "fti.serving.start"], cwd=project, stdout=output, stderr=output,
            env=library.environment() | {"SERVING_PORT": str(port)},
        )  # fmt: skip
        try:
            deadline = time.monotonic() + PATIENCE
            while not _is_ready(address):
                assert server.poll() is None, log.read_text()[-4000:]
                assert time.monotonic() < deadline, log.read_text()[-4000:]
                time.sleep(0.5)
            yield address
        finally:
            server.terminate()
            server.wait(60)


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def fetch(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def predict(library: Installed, project: Path, request: dict[str, Any] | None = None) -> tuple[dict[str, Any], Any]:
    """Return a request, the service's own example when there is none, and its answer."""
    with served(library, project) as address:
        if request is None:
            described = fetch(f"{address}/openapi.json")["paths"]["/predict"]["post"]
            request = described["requestBody"]["content"]["application/json"]["schema"]["example"]
        return request, fetch(f"{address}/predict", request)


def test_a_project_and_all_that_it_stored_survive_an_upgrade(versions, tmp_path):
    """Made, trained and served with one wheel; upgraded; then nothing is to apply, the next model is trained and
    promoted, and a rollback serves the version from before with the same answer."""
    this, newer = versions
    project = tmp_path / "corner shops ü 50%"
    made = ["-m", "fti.cli", "new", str(project), "--name", "shops", "--fti", str(this.wheel)]
    this.run(tmp_path, sys.executable, *made)
    this.make(project, "features", "train")
    request, before = predict(this, project)
    assert before["model"]["version"] == "1"

    done = newer.run(project, sys.executable, "-m", "fti.cli", "upgrade", "--fti", str(newer.wheel))
    assert "Rewritten: Makefile, serving/requirements.txt, requirements.lock." in done
    assert f'"fti[loop]=={NEWER}"' in (project / "pyproject.toml").read_text()
    assert f'    "wheels/{newer.wheel.name}",\n' in (project / "pyproject.toml").read_text()  # what a Bento takes along
    assert (project / "wheels" / newer.wheel.name).is_file()

    stored = {path: path.read_bytes() for path in (project / "data/features").rglob("*.parquet")}
    newer.make(project, "features", "train")
    assert stored
    assert {path: path.read_bytes() for path in stored} == stored
    _, second = predict(newer, project, request)
    assert second["model"]["version"] == "2"
    newer.make(project, "rollback")
    _, after = predict(newer, project, request)
    assert after["model"]["version"] == "1"
    assert after["prediction"] == before["prediction"]
    with closing(sqlite3.connect(project / "data/predictions.db")) as log:
        assert log.execute("SELECT count(*) FROM predictions").fetchone() == (3,)


@pytest.mark.parametrize("problem", ["blank", "flights", "footfall"])
def test_a_wheel_holds_every_problem_and_the_pages(versions, tmp_path, problem):
    """The same files as from a checkout; of the shipped problems git holds one copy."""
    this, _ = versions
    made = [sys.executable, "-m", "fti.cli", "new", "made", "--from", problem, "--fti", str(this.wheel)]
    this.run(tmp_path, *made)
    expected = new(tmp_path / "from-checkout/made", problem, fti=str(this.wheel)).folder
    assert _texts(tmp_path / "made") == _texts(expected)
    assert (this.folder / "fti/scaffold/docs/how-to/upgrade.md").is_file()


def _texts(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
