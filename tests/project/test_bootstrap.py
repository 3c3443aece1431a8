"""The two commands on a bare machine: the checkout's outermost files and stand-in tools in; messages and files out."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[2]
TOOLS = "make sh awk cat cksum comm dirname echo env find grep head ln ls mkdir mv rm sed sort tail".split()
TARGETS = (
    "setup run pipeline features ingest validate publish apply materialize train evaluate promote rollback "
    "serve batch monitor mlflow-ui feast-ui bench lint format typecheck lock test clean help"
).split()

# Says it is the version asked for, makes virtual environments only if told to; otherwise it is the real interpreter.
FAKE_PYTHON = """#!/bin/sh
case "$*" in
*version_info*) echo "{version} $0" ;;
*"-m venv"*) [ {venv} = yes ] && exec "{real}" "$@"; exit 1 ;;
*) exec "{real}" "$@" ;;
esac
"""

# Notes each call, and makes an environment of one distribution out of `sync`, or of `venv` and `pip sync`.
FAKE_UV = """#!/bin/sh
[ "$1" = --version ] && {{ echo "uv 0.9.0"; exit; }}
echo "$* index=$UV_DEFAULT_INDEX downloads=$UV_PYTHON_DOWNLOADS" >>"{calls}"
mkdir -p .venv/bin .venv/lib/python3/site-packages/one-1.dist-info
[ -d .venv/lib/python3/site-packages/one-1.dist-info/there ] || mkdir -p .venv/lib/python3/site-packages/one/part
mkdir -p .venv/lib/python3/site-packages/one-1.dist-info/there
ln -sf "{real}" .venv/bin/python
echo "VIRTUAL_ENV='$PWD/.venv'" >.venv/bin/activate
exit {code}
"""


class Machine:
    """A checkout, a home and a PATH that holds only what is put there."""

    def __init__(self, folder: Path, checkout: str = "checkout") -> None:
        self.folder = folder
        self.checkout = folder / checkout
        self.bin = folder / "bin"
        self.calls = folder / "uv-calls"
        (self.checkout / ".ci").mkdir(parents=True)
        self.bin.mkdir()
        (folder / "home").mkdir()
        for name in ("Makefile", "pyproject.toml", "uv.lock", ".ci/setup"):
            shutil.copy(ROOT / name, self.checkout / name)
        for tool in TOOLS:
            if found := shutil.which(tool):
                (self.bin / tool).symlink_to(found)

    def script(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def python(self, version: str = "3.12.4", name: str = "python3", venv: bool = False) -> None:
        self.script(name, FAKE_PYTHON.format(version=version, venv="yes" if venv else "no", real=sys.executable))

    def uv(self, code: int = 0) -> None:
        self.script("uv", FAKE_UV.format(calls=self.calls, real=sys.executable, code=code))

    def uv_calls(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    def make(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", "--no-print-directory", "-C", str(self.checkout), *arguments],
            env={
                "PATH": str(self.bin),
                "HOME": str(self.folder / "home"),
                "PIP_CONFIG_FILE": os.devnull,
                **environment,
            },
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def complaints(result: subprocess.CompletedProcess[str]) -> list[str]:
    """The set-up's own lines, without those that only say what it is doing."""
    progress = ("installing", "fetching", "uv is not installed; fetching", "done")
    lines = [line.removeprefix("set-up: ") for line in result.stderr.splitlines() if line.startswith("set-up: ")]
    return [line for line in lines if not line.startswith(progress)]


def test_bare_make_lists_every_target_and_variable(machine: Machine) -> None:
    """`make` alone changes nothing and names each target and variable with what it is for."""
    result = machine.make()
    assert result.returncode == 0, result.stderr
    described = {words[0]: words[1:] for line in result.stdout.splitlines() if (words := line.split())}
    assert [target for target in TARGETS if not described.get(target)] == []
    assert [
        name for name in ("START,", "AS_OF", "FEATURE_SERVICE", "HOST,", "TRIALS,", "ARGS") if not described.get(name)
    ] == []
    assert not (machine.checkout / ".venv").exists()


def test_checkout_path_may_hold_spaces_and_quotes(tmp_path: Path) -> None:
    """Help and the set-up work in a folder whose name a careless script would split."""
    machine = Machine(tmp_path, "my it's checkout")
    machine.python()
    machine.uv()
    assert machine.make().returncode == 0
    result = machine.make("setup")
    assert result.returncode == 0, result.stderr
    assert (machine.checkout / ".venv/.ready").exists()


def test_flags_are_passed_only_when_set(machine: Machine) -> None:
    """Defaults are Python's: make adds a flag or a parameter only for a variable that was given."""
    plain = machine.make("-n", "pipeline", "train").stdout
    assert not any(name in plain for name in ("START", "END", "AS_OF"))
    given = machine.make(
        "-n", "pipeline", "train", "START=2013-01-01", "AS_OF=2013-11-01 06:00", "FEATURE_SERVICE=arrival_delay_v2"
    ).stdout
    for variable in ("'START=2013-01-01'", "'AS_OF=2013-11-01 06:00'", "'FEATURE_SERVICE=arrival_delay_v2'"):
        assert variable in given
    assert "END=" not in given


def test_the_environment_is_made_before_a_command_runs_even_under_j(machine: Machine) -> None:
    """What `fti` does is called once .venv is there."""
    lines = machine.make("-n", "-j8", "run").stdout
    assert lines.index(".ci/setup") < lines.index("-m fti.cli make run")


def test_env_example_changes_nothing_as_it_stands() -> None:
    """Every variable in .env.example is commented out, so a plain copy means the defaults."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == []


@pytest.mark.parametrize("version", ["3.9.18", "3.10.13", "3.11.0", "3.12.4", "3.13.1", "3.14.0"])
def test_python_is_accepted_as_pyproject_says(machine: Machine, version: str) -> None:
    """The set-up takes the versions of requires-python and names what it found otherwise."""
    supported = SpecifierSet(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"])
    machine.python(version)
    machine.uv()
    result = machine.make("setup")
    if version in supported:
        assert result.returncode == 0, result.stderr
    else:
        assert result.returncode != 0
        (said,) = complaints(result)
        assert f"python3 is {version}" in said


def test_missing_python_is_named(machine: Machine) -> None:
    """Without any Python the one line says which to install."""
    (said,) = complaints(machine.make("test"))
    assert "Python 3.11, 3.12 or 3.13 is needed" in said
    assert "no python3 on PATH" in said


def test_interpreter_that_is_found_but_does_not_run_is_passed_over(machine: Machine) -> None:
    """A pyenv shim for a version that is switched off is no interpreter; the next one is taken."""
    machine.script("python3", "#!/bin/sh\necho 'pyenv: python3: command not found' >&2; exit 127\n")
    machine.python("3.11.9", name="python3.11")
    machine.uv()
    assert machine.make("setup").returncode == 0
    assert f"--python {machine.bin / 'python3.11'}" in machine.uv_calls()[0]


def test_python_without_venv_says_what_to_install(machine: Machine) -> None:
    """Debian ships Python without ensurepip: the one line names the package."""
    machine.python("3.12.4", venv=False)
    result = machine.make("setup")
    assert result.returncode != 0
    (said,) = complaints(result)
    assert "apt install python3.12-venv" in said


@pytest.mark.skipif(
    importlib.util.find_spec("ensurepip") is None, reason="this Python cannot make virtual environments"
)
def test_unreachable_index_is_one_clear_line_and_leaves_nothing_done(machine: Machine) -> None:
    """No index, no uv: a non-zero exit that says what to set, again on the next run, and no environment."""
    machine.python(venv=True)
    machine.script("uv", "#!/bin/sh\nexit 127\n")
    nowhere = "http://127.0.0.1:9/simple"
    for _ in range(2):
        result = machine.make("test", PIP_INDEX_URL=nowhere, UV_INDEX_URL=nowhere, PIP_RETRIES="0", UV_HTTP_RETRIES="0")
        assert result.returncode != 0
        (said,) = complaints(result)
        assert "package index cannot be reached" in said
        assert all(name in said for name in ("PIP_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX"))
        assert "Traceback" not in result.stderr
        assert not (machine.checkout / ".venv").exists()
        assert not (machine.checkout / ".uv/venv").exists()


def test_failed_install_is_not_taken_for_a_finished_one(machine: Machine) -> None:
    """An environment that uv left half-made is mended by the next run."""
    machine.python()
    machine.uv(code=1)
    result = machine.make("setup")
    assert result.returncode != 0
    (said,) = complaints(result)
    assert "make lock" in said
    assert "PIP_INDEX_URL" in said
    machine.uv()
    assert machine.make("setup").returncode == 0
    assert len(machine.uv_calls()) == 2


def test_set_up_is_repeated_only_when_something_changed(machine: Machine) -> None:
    """A second run does nothing; an edited project, a lost distribution or interpreter, or a moved checkout counts."""
    machine.python()
    machine.uv()

    def syncs() -> int:
        assert machine.make("setup").returncode == 0
        return len(machine.uv_calls())

    assert [syncs(), syncs()] == [1, 1]
    assert "sync --quiet --locked --extra dev" in machine.uv_calls()[0]
    assert "downloads=never" in machine.uv_calls()[0]
    with (machine.checkout / "pyproject.toml").open("a") as pyproject:
        pyproject.write("# changed\n")
    assert [syncs(), syncs()] == [2, 2]
    shutil.rmtree(machine.checkout / ".venv/lib/python3/site-packages/one-1.dist-info")
    assert [syncs(), syncs()] == [3, 3]
    (machine.checkout / ".venv/bin/python").unlink()
    assert [syncs(), syncs()] == [4, 4]
    (machine.checkout / ".venv/from-the-old-place").touch()
    machine.checkout = machine.checkout.rename(machine.folder / "moved")
    assert [syncs(), syncs()] == [5, 5]
    assert not (machine.checkout / ".venv/from-the-old-place").exists()


@pytest.mark.parametrize("gone", ["one", "one/part"])
def test_a_package_whose_folder_has_gone_is_installed_again(machine: Machine, gone: str) -> None:
    """uv, too, believes the metadata beside it, so that the environment is made anew."""
    machine.python()
    machine.uv()
    assert machine.make("setup").returncode == 0
    folder = machine.checkout / ".venv/lib/python3/site-packages" / gone
    shutil.rmtree(folder)
    done = machine.make("setup")
    assert "has gone; making it anew" in done.stderr
    assert folder.is_dir()
    assert machine.make("setup").returncode == 0
    assert len(machine.uv_calls()) == 2


def test_spark_is_added_when_it_is_asked_for(machine: Machine) -> None:
    """`make test-spark` mends an environment that lacks the extra; other targets take one that has it as it is."""
    machine.python()
    machine.uv()
    assert machine.make("setup").returncode == 0
    machine.make("test-spark")  # there are no tests to run
    assert "sync --quiet --locked --extra dev --extra spark" in machine.uv_calls()[1]
    assert machine.make("setup").returncode == 0
    assert len(machine.uv_calls()) == 2


@pytest.mark.parametrize("variable", ["PIP_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX"])
def test_mirror_gets_the_locked_hashes_instead_of_the_lock(machine: Machine, variable: str) -> None:
    """uv refuses a lock that names another index, so a mirror is asked for the same versions by hash."""
    machine.python()
    machine.uv()
    result = machine.make("setup", **{variable: "https://mirror.example/simple"})
    assert result.returncode == 0, result.stderr
    calls = machine.uv_calls()
    assert any(
        call.startswith("pip sync") and "--require-hashes" in call and "index=https://mirror.example/simple" in call
        for call in calls
    )
    assert not any(call.startswith("sync") for call in calls)


def test_pypi_under_its_own_name_is_no_mirror(machine: Machine) -> None:
    """PyPI spelt with a slash at the end is still the index that uv.lock names."""
    machine.python()
    machine.uv()
    assert machine.make("setup", PIP_INDEX_URL="https://pypi.org/simple/").returncode == 0
    assert [call.split()[0] for call in machine.uv_calls()] == ["sync"]


def test_clean_removes_what_was_made_says_so_and_keeps_the_rest(machine: Machine) -> None:
    """clean names each thing it removes, follows no link, and leaves sources and .env alone."""
    made = ["data/raw", "mlruns/0", ".venv/bin", ".uv", "feature_repo/__pycache__"]
    for folder in made:
        (machine.checkout / folder).mkdir(parents=True)
    elsewhere = machine.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    (machine.checkout / "mlartifacts").symlink_to(elsewhere)
    for name in ("mlflow.db", "mlflow.db-wal", ".env", "feature_repo/entities.py"):
        (machine.checkout / name).touch()
    result = machine.make("clean")
    assert result.returncode == 0, result.stderr
    left = {str(path.relative_to(machine.checkout)) for path in machine.checkout.rglob("*")}
    assert left == {
        "Makefile",
        "pyproject.toml",
        "uv.lock",
        ".ci",
        ".ci/setup",
        ".env",
        "feature_repo",
        "feature_repo/entities.py",
    }
    assert (elsewhere / "precious").exists()
    for name in ("data", "mlruns", ".venv", ".uv", "mlflow.db", "mlflow.db-wal", "mlartifacts"):
        assert f"removing {name}" in result.stdout.splitlines()
