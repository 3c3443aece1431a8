"""The command line, as real processes: what is wrong with arguments costs under a second, in the typed words."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FTI = [sys.executable, "-X", "importtime", "-m", "fti.cli"]
HEAVY = ("feast", "mlflow", "pandas", "ibis", "duckdb", "great_expectations", "bentoml", "sklearn")
QUICK_SECONDS = 1.0


@dataclass
class Ended:
    """A command that has ended: its exit code, output, seconds of processor time and the modules that it imported."""

    code: int
    out: str
    err: list[str]
    seconds: float
    imported: set[str]


def fti(*words: str, cwd: Path = ROOT, **environment: str) -> Ended:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "AS_OF"))}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([*FTI, *words], cwd=cwd, env=clean | environment, capture_output=True, text=True, timeout=120)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = done.stderr.splitlines()
    imports = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    return Ended(
        done.returncode,
        done.stdout,
        [line for line in lines if not line.startswith("import time:")],
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        imports,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of its own with the flights' definitions, and nothing landed."""
    shutil.copytree(ROOT / "feature_repo", tmp_path / "feature_repo", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "training").mkdir()
    shutil.copy(ROOT / "training" / "config.yaml", tmp_path / "training")
    shutil.copy(ROOT / ".env.example", tmp_path)
    (tmp_path / "pyproject.toml").write_text(
        '[tool.fti]\nmodel_name = "arrival-delay"\nfeature_services = ["arrival_delay_v1", "arrival_delay_v2"]\n'
    )
    return tmp_path


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts}


WRONG = {
    "trian": "no command 'trian'; did you mean 'train'?",
    "train --as-of yesterday": "--as-of: 'yesterday' is not a moment",
    "train --asof 2013-10-01": "'--asof'",
    "train --feature-service nope": "no feature service 'nope'",
    "train --feature-service arrival_delay_v3": "did you mean 'arrival_delay_v",
    "train --trials -1": "--trials: -1 is not in the range",
    "fit --as-of 1969-01-01": "is out of range",
    "promote --mode maybe": "--mode: 'maybe' is not one of",
    "release": "--table is missing",
    "release --table weather": "--rows is missing",
    "release --table weather --rows none.csv": "'none.csv' does not exist",
    "release --table weather --rows header.csv": "has a header and no row",
    "release --table weather --rows other.csv": "no column held_id",
    "quarantine --export held.csv": "--export needs --table",
    "needs": "--name is missing",
    "features --start 2013-02-01 --end 2013-01-01": "is not before --end",
    "features --start 2013-11-01": "is not before --as-of 2013-10-01",
    "publish --end 2012-01-01": "is not before --end 2012-01-01",
    "materialize --as-of 2099-01-01": "--as-of is 2099-01-01T00:00Z, which is yet to come",
    "erase tailnum": "'tailnum' is not KEY=VALUE",
    "serve --port 99999": "--port: 99999 is not in the range",
    "batch": "--as-of is missing",
    "batch --as-of 2013-10-02 --known-by 2013-10-01": "is before --as-of",
    "batch --as-of 2013-10-02 --days 0": "--days: 0 is not in the range",
    "keys alice": "FILE is missing",
    "monitor": "--as-of is missing",
    "monitor --as-of 2013-10-12 --sample-rows 0": "--sample-rows: 0 is not in the range",
    "cycle --as-of 2013-10-05 --steps lnad": "--steps names lnad; there are land",
    "replay --from 2013-10-02 --to 2013-10-01": "is not before --to",
    "replay --from 2013-10-01 --to 2013-10-02 --fault snow@2013-10-01": "with one of delays-in-hours",
    "replay --from 2013-10-01 --to 2013-10-02 --fault frozen-weather@soon": "'soon' is not a moment",
    "production run nobody true": "'nobody' is not one of",
    "make train AS_OF=yesterday": "AS_OF: 'yesterday' is not a moment",
    "make train FEATURE_SERVICE=nope": "Choose one (FEATURE_SERVICE)",
    "make release TABLE=weather": "ROWS is missing",
    "make monitor": "AS_OF is missing",
    "make erase ENTITY=tailnum": "ENTITY: 'tailnum' is not KEY=VALUE",
    "make --check monitor ASOF=2013-10-12": "ASOF is no variable of `make monitor`; did you mean AS_OF?",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_arguments_are_said_in_a_second_and_leave_nothing(project: Path, words: str) -> None:
    """One line in the typed words, with nothing heavy imported and no file written."""
    (project / "header.csv").write_text("held_id,origin\n")
    (project / "other.csv").write_text("id,origin\n1,JFK\n")
    before = files(project)
    ended = fti(*words.split(), cwd=project)
    assert ended.code in (1, 2)
    (line,) = ended.err
    assert line.startswith("error: ")
    assert WRONG[words] in line
    assert ended.out == ""
    assert ended.imported & {*HEAVY} == set()
    assert ended.seconds < QUICK_SECONDS
    assert files(project) == before


def test_the_help_is_grouped_and_fits_a_terminal(project: Path) -> None:
    """Each pipeline has its section, every command its line."""
    ended = fti("--help", cwd=project, COLUMNS="200")
    assert ended.code == 0
    for section in ("Feature pipeline:", "Training pipeline:", "Inference pipeline:", "Monitoring:", "The loop:"):
        assert section in ended.out.splitlines()
    assert max(map(len, ended.out.splitlines())) < 100
    assert ended.seconds < QUICK_SECONDS
    assert "\x1b" not in ended.out


def test_every_command_says_what_it_takes_within_100_columns() -> None:
    """Nested commands too."""
    import click

    from fti.cli.app import app

    def each(command: click.Command, path: str) -> None:
        with click.Context(command, info_name=path, terminal_width=99) as ctx:
            assert max(map(len, command.get_help(ctx).splitlines())) < 100, path
            if isinstance(command, click.Group):
                for name in command.list_commands(ctx):
                    each(command.get_command(ctx, name), f"{path} {name}")

    each(app(), "fti")


def test_a_shell_completes_commands_and_options(project: Path) -> None:
    """By click's own script, which asks `fti` itself."""
    assert "_FTI_COMPLETE" in fti("completion", "bash", cwd=project).out
    asked = {"_FTI_COMPLETE": "bash_complete", "COMP_WORDS": "fti train --fea", "COMP_CWORD": "2"}
    assert "--feature-service" in fti(cwd=project, **asked).out
    assert "train" in fti(cwd=project, **asked | {"COMP_WORDS": "fti tra", "COMP_CWORD": "1"}).out


def test_without_a_project_a_command_says_so(tmp_path: Path) -> None:
    """The help is there all the same."""
    assert fti("--help", cwd=tmp_path).code == 0
    ended = fti("features", cwd=tmp_path)
    assert ended.code == 1
    assert ended.err[0].startswith("error: No project at or above")
    assert ended.seconds < QUICK_SECONDS


def test_paths_are_of_the_folder_where_they_are_typed(project: Path) -> None:
    """Commands work in the project's folder, wherever in it they are called."""
    below = project / "training"
    (below / "held.csv").write_text("held_id\n")
    assert (
        f"{below / 'held.csv'} has a header" in fti("release", "--table", "x", "--rows", "held.csv", cwd=below).err[0]
    )


def test_a_reader_that_has_enough_ends_a_command_without_a_traceback(tmp_path: Path) -> None:
    """As `fti new shop | head -0` has: the work is done."""
    with subprocess.Popen([*FTI[:1], "-m", "fti.cli", "new", str(tmp_path / "shop")], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as process:  # fmt: skip
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1
    assert (tmp_path / "shop" / "Makefile").is_file()


def test_what_needs_mlflow_starts_within_a_third_more_than_its_import(project: Path) -> None:
    """A registry that is not there is said to be so: nothing else was imported to know it."""

    def seconds(*command: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], cwd=project, capture_output=True, timeout=120)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    alone = min(seconds("-c", "import mlflow") for _ in range(2))
    for name in ("rollback", "card"):
        assert min(seconds("-m", "fti.cli", name) for _ in range(2)) < 1.3 * alone, name
