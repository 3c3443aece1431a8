"""Which project a process works for, and where its parts are imported from."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fti import parts

LOOK = "from fti.project import project; print(project().root, project().model_name)"


# Every part, with stand-ins of what libraries make: what a part must hold is no matter of their types.
PARTS = {
    "feature_repo/source.py": """
from datetime import datetime, timezone
from types import SimpleNamespace

HERE = __file__
START, END, TODAY = "2024-01-01", "2024-02-01", "2024-01-15"
RAW_KEYS = {"counts": ["hour"]}
KEY_MOMENTS = {"counts": "hour"}
RAW_SCHEMAS = {"counts": SimpleNamespace(names=["hour"], types=["timestamp"])}
COMPLETE_UNTIL = {"counts": datetime(2100, 1, 1, tzinfo=timezone.utc)}
RawFiles = RawEvents = object
""",
    "feature_repo/transforms.py": """
from types import SimpleNamespace

FEATURE_TABLES = {"by_street": SimpleNamespace(keys=["street"], reads=["counts"])}
""",
    "feature_repo/faults.py": "FAULTS = {}\n",
    "validation/raw.py": """
from types import SimpleNamespace

RAW_SUITES = {"counts": SimpleNamespace(name="counts")}
""",
    "validation/profiles.py": "PROFILES = {}\n",
    "validation/features.py": 'BOUNDS = {"*_share": (0, 1)}\n',
    "validation/training_set.py": """
from types import SimpleNamespace

LIMITS = SimpleNamespace(mostly_known=0.5, told_alone={}, label=(0, 1))
""",
    "training/model.py": """
def build_model(): ...
def search_space(): ...
TRUSTED_TYPES = []
""",
    "training/references.py": "def references(): ...\n",
}
# What is written in the place of a value, and is none of that kind.
WRONG = dict.fromkeys(("RawFiles", "RawEvents", "build_model", "search_space", "references"), "17") | {
    "START": "'soon'", "END": "20240101", "TODAY": "None", "RAW_KEYS": "{'counts': 'hour'}", "KEY_MOMENTS": "['hour']",
    "RAW_SCHEMAS": "{'counts': 'hour'}", "COMPLETE_UNTIL": "{'counts': datetime(2100, 1, 1)}",
    "FEATURE_TABLES": "['by_street']", "FAULTS": "{'camera': 7}", "RAW_SUITES": "{'counts': 0}",
    "PROFILES": "{'counts': 0}", "BOUNDS": "{'*_share': 1}", "LIMITS": "{}", "TRUSTED_TYPES": "'sklearn'",
}  # fmt: skip
LOAD = """
import json, pathlib, sys
from fti.errors import Refusal
from fti.own_code import load

for folder, part in json.loads(sys.stdin.read()):
    for name in [name for name in sys.modules if name.split(".")[0] in ("feature_repo", "validation", "training")]:
        del sys.modules[name]
    sys.path[:] = [path for path in sys.path if not path.startswith(str(pathlib.Path(folder).parent))]
    try:
        load(pathlib.Path(folder), part)
        print(json.dumps("loaded"))
    except Refusal as refusal:
        print(json.dumps(str(refusal)))
"""


def made(root: Path, settings: str = '[tool.fti]\nmodel_name = "made-up"\n') -> Path:
    """A project with every part; its source says where it lies."""
    root.mkdir(parents=True)
    (root / "pyproject.toml").write_text(settings)
    for name, text in PARTS.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    return root


def python(code: str, where: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("FTI_PROJECT", "PYTHONPATH")}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=where, env=environment | variables, capture_output=True, text=True
    )


def said(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


def test_it_is_the_nearest_at_or_above_the_working_folder(tmp_path):
    """A project inside another one is itself; a pyproject.toml of something else is passed by."""
    outer = made(tmp_path / "outer")
    inner = made(outer / "examples" / "inner", '[tool.fti]\nmodel_name = "inner"\n')
    other = outer / "docs"
    other.mkdir()
    (other / "pyproject.toml").write_text("[tool.ruff]\n")
    assert said(python(LOOK, outer)) == f"{outer} made-up"
    assert said(python(LOOK, other)) == f"{outer} made-up"
    assert said(python(LOOK, inner / "feature_repo")) == f"{inner} inner"


def test_a_variable_names_it_from_anywhere(tmp_path):
    """FTI_PROJECT is stronger than the working folder."""
    one, other = made(tmp_path / "one"), made(tmp_path / "other")
    assert said(python(LOOK, one, FTI_PROJECT=str(other))) == f"{other} made-up"


def test_its_parts_come_from_its_folder(tmp_path):
    """Under one name, whatever the working folder is."""
    root = made(tmp_path / "with space, ümlaut and %")
    code = "from fti.project import project; print(project().source.HERE)"
    assert said(python(code, tmp_path, FTI_PROJECT=str(root))) == str(root / "feature_repo" / "source.py")


def test_a_part_of_another_project_is_refused(tmp_path):
    """As when PYTHONPATH has one project and the working folder is another's."""
    one, other = made(tmp_path / "one"), made(tmp_path / "other")
    code = f"import sys; sys.path.insert(0, {str(other)!r}); import feature_repo.source; {LOOK}; project().source"
    assert "One process works for one project" in refused(python(code, one))


@pytest.mark.parametrize(
    ("settings", "variables", "message"),
    [
        ("[tool.ruff]\n", {}, "No project at or above"),
        ("[tool.fti\n", {}, "is no TOML"),
        ("[tool.ruff]\n", {"FTI_PROJECT": "."}, "so it is no project"),
    ],
)
def test_where_there_is_none_that_is_said(tmp_path, settings, variables, message):
    """In the last line: which folder was looked at, and what to do."""
    assert message in refused(python(LOOK, made(tmp_path / "none", settings), **variables))


def test_a_module_that_says_which_project_it_is_of_decides(tmp_path):
    """A Bento's service, wherever it is started; with another project in FTI_PROJECT it is refused."""
    one, other = made(tmp_path / "one"), made(tmp_path / "other")
    code = f"from pathlib import Path; from fti.project import use; use(Path({str(one)!r})); {LOOK}"
    assert said(python(code, other)) == f"{one} made-up"
    assert "Unset it" in refused(python(code, other, FTI_PROJECT=str(other)))


def test_the_seam_imports_nothing_heavy(tmp_path):
    """Finding a project costs no pipeline's library."""
    heavy = "{'feast', 'ibis', 'great_expectations', 'duckdb', 'mlflow', 'pandas', 'sklearn'}"
    assert said(python(f"import sys; {LOOK}; print({heavy} & set(sys.modules))", made(tmp_path / "one"))).endswith(
        "set()"
    )


def test_code_of_another_project_is_not_run(tmp_path):
    """Though it is on the path, and is a regular package where this one's folder has no __init__.py."""
    one, other = made(tmp_path / "one"), made(tmp_path / "other")
    (other / "feature_repo" / "__init__.py").write_text("raise SystemExit('run')")
    code = (
        f"import sys; sys.path.insert(0, {str(other)!r}); from fti.project import project; print(project().source.HERE)"
    )
    assert said(python(code, one)) == str(one / "feature_repo" / "source.py")


# ---- parts ----------------------------------------------------------------------------------------------------------


def broken(file: str, way: str, name: str) -> str | None:
    """The text of a part that is broken in one way; None where it is missing."""
    if way == "missing":
        return None
    if way == "raises":
        return PARTS[file] + "\nimport no_such_package\n"
    if way == "no Python":
        return "def broken(:\n"
    return PARTS[file] + (f"\ndel {name}\n" if way == "lacks" else f"\n{name} = {WRONG[name]}\n")


CASES = [
    (file, way, "")
    for file in PARTS for way in ("whole", "missing", "raises", "no Python")
] + [
    (file, way, name)
    for file in PARTS for name in parts.PARTS[file.removesuffix(".py").replace("/", ".")].values
    for way in ("lacks", "wrong")
]  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], str]:
    """What loading a part says, by how it is broken: all in one process, each from a project of its own."""
    folder, asked = tmp_path_factory.mktemp("broken"), []
    for number, (file, way, name) in enumerate(CASES):
        root = made(folder / str(number))
        (root / file).unlink()
        text = PARTS[file] if way == "whole" else broken(file, way, name)
        if text is not None:
            (root / file).write_text(text)
        asked.append([str(root), file.removesuffix(".py").replace("/", ".")])
    done = subprocess.run([sys.executable, "-c", LOAD], input=json.dumps(asked), capture_output=True, text=True)
    return dict(zip(CASES, map(json.loads, said(done).splitlines()), strict=True))


@pytest.mark.parametrize(("file", "way", "name"), CASES)
def test_a_broken_part_is_one_line(outcomes, file, way, name):
    """Which file, what is wrong, what it must hold, and an example."""
    line = outcomes[file, way, name]
    if way == "whole":
        assert line == "loaded"
        return
    reason = {
        "missing": "is missing", "raises": "cannot be imported: ModuleNotFoundError: No module named 'no_such_package'",
        "no Python": "cannot be imported: SyntaxError", "lacks": f"has no {name}.", "wrong": f"{name} of ",
    }[way]  # fmt: skip
    assert file in line
    assert reason in line
    assert "must " in line
    assert "; for example: " in line
    assert "\n" not in line
    if way in ("raises", "no Python"):
        assert f"{file}, line " in line


def test_a_source_names_the_same_tables_throughout(tmp_path):
    """A raw table without a schema is noticed before anything is read."""
    root = made(tmp_path / "one")
    (root / "feature_repo/source.py").write_text(PARTS["feature_repo/source.py"] + '\nRAW_KEYS["more"] = ["hour"]\n')
    line = refused(python("from fti.project import project; project().source", root))
    assert "RAW_SCHEMAS of " in line
    assert "['counts', 'more']" in line


# ---- [tool.fti] -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", parts.SETTINGS)
def test_a_setting_that_is_missing_or_wrong_is_one_line(tmp_path, key):
    """Which file and key, what it must be, and an example."""
    look = f"from fti.project import project; print(project().setting({key!r}))"
    other = "model_name" if key != "model_name" else "name"
    line = refused(python(look, made(tmp_path / "without", f'[tool.fti]\n{other} = "x"\n')))
    assert f"{tmp_path / 'without' / 'pyproject.toml'} has no {key}. It must be " in line
    assert f"; for example: {key} = " in line
    line = refused(python(look, made(tmp_path / "wrong", f"[tool.fti]\n{key} = 17\n")))
    assert f"{key} in [tool.fti] of {tmp_path / 'wrong' / 'pyproject.toml'} is 17. It must be " in line


def test_a_table_that_is_none_is_one_line(tmp_path):
    """As `fti = "x"` under [tool]."""
    assert "It must be a table" in refused(python(LOOK, made(tmp_path / "one", '[tool]\nfti = "x"\n')))


@pytest.mark.parametrize(("asked", "fits"), [(">=0.0.1", True), (">=0.1", True), (">=0.1.0", True), (">=999", False)])
def test_a_project_that_asks_for_a_newer_library_is_refused(tmp_path, asked, fits):
    """Before anything is read or written, whatever is asked of it."""
    root = made(tmp_path / "one", f'[tool.fti]\nmodel_name = "made-up"\nrequires = "{asked}"\n')
    done = python(LOOK, root)
    if fits:
        assert said(done) == f"{root} made-up"
    else:
        assert f"asks for fti{asked}, and this is fti {importlib.metadata.version('fti')}." in refused(done)


def test_what_serving_loads_imports_no_other_pipeline(tmp_path):
    """Its settings are those of the project; no module of the project but its own is imported, nor what those need."""
    root = made(tmp_path / "one")
    heavy = "{'ibis', 'great_expectations', 'duckdb', 'optuna', 'deltalake', 'feature_repo', 'training', 'validation'}"
    code = (
        "import sys; from fti.serving.settings import ServingSettings; told = ServingSettings(); "
        f"print(told.model_name, told.feast_repo, {heavy} & set(sys.modules), 'fti.features' in sys.modules)"
    )
    assert said(python(code, root)) == f"made-up {root / 'feature_repo'} set() False"
