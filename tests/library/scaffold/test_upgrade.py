"""Upgrades: what is rewritten, what stays, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fti.cli.app import main
from fti.errors import Refusal
from fti.scaffold import files, library
from fti.scaffold.new import new
from fti.scaffold.record import RECORD, read_record
from fti.scaffold.upgrade import upgrade

NEWER = "7.1.0"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    wheel = tmp_path / f"fti-{library.version()}-py3-none-any.whl"
    wheel.touch()
    return new(tmp_path / "shops", fti=str(wheel)).folder


@pytest.fixture
def newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A version of the library whose Makefile says more, that has no .feastignore, and one file more."""
    written = files.common_files

    def more(*arguments: object) -> dict[str, str]:
        texts = written(*arguments)
        del texts["feature_repo/.feastignore"]
        return texts | {"Makefile": texts["Makefile"] + "# newer\n", "tests/test_more.py": '"""More."""\n'}

    monkeypatch.setattr(files, "common_files", more)
    monkeypatch.setattr(library, "version", lambda: NEWER)
    wheel = tmp_path / f"fti-{NEWER}-py3-none-any.whl"
    wheel.touch()
    return str(wheel)


def texts(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_nobody_changed_is_rewritten_and_what_the_problem_brings_is_not(project, newer):
    """The version and the wheel are the new ones in pyproject.toml and in the lock; a second time changes nothing."""
    before = texts(project)
    done = upgrade(project, newer)
    after = texts(project)
    assert done.rewritten == ["Makefile", "serving/requirements.txt", "requirements.lock"]
    assert (done.added, done.removed, done.diffs, done.by_hand) == (
        ["tests/test_more.py"], ["feature_repo/.feastignore"], {}, [],
    )  # fmt: skip
    assert after["Makefile"].endswith(b"# newer\n")
    assert f'"fti[loop]=={NEWER}"'.encode() in after["pyproject.toml"]
    assert f"./wheels/fti-{NEWER}-py3-none-any.whl".encode() in after["requirements.lock"]
    assert f"wheels/fti-{NEWER}-py3-none-any.whl" in after
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changed == {
        "Makefile", "requirements.lock", "serving/requirements.txt", "pyproject.toml", RECORD,
        "tests/test_more.py", "feature_repo/.feastignore",
        f"wheels/fti-{NEWER}-py3-none-any.whl",
    }  # fmt: skip
    again = upgrade(project, newer)
    assert (again.rewritten, again.added, again.removed, again.diffs) == ([], [], [], {})
    assert texts(project) == after


def test_a_file_that_was_edited_stays_and_its_differences_are_printed(project, newer, capsys):
    """A deleted one stays deleted; an edited one of which the new version changes nothing is not spoken of."""
    (project / "Makefile").write_text("mine:\n\techo mine\n")
    (project / "feature_repo/.feastignore").write_text("mine\n")
    (project / ".gitignore").write_text("mine\n")
    (project / ".github/workflows/ci.yml").unlink()
    assert main(["upgrade", str(project), "--fti", newer]) == 0
    said = capsys.readouterr().out
    assert (project / "Makefile").read_text() == "mine:\n\techo mine\n"
    assert "-mine:\n" in said
    assert "+# newer\n" in said
    assert ".gitignore" not in said
    assert (project / "feature_repo/.feastignore").read_text() == "mine\n"
    assert not (project / ".github/workflows/ci.yml").exists()


def test_a_lock_of_the_projects_own_keeps_its_versions(project, newer):
    """Only where the library is changes, and what to do next is said."""
    lock = project / "requirements.lock"
    lock.write_text(lock.read_text() + "my-package==1.0\n")
    done = upgrade(project, newer)
    assert lock.read_text().endswith("my-package==1.0\n")
    assert f"\n./wheels/fti-{NEWER}-py3-none-any.whl\n" in lock.read_text()
    assert any("make lock" in line for line in done.by_hand)


def test_an_upgrade_renames_nothing(project, newer):
    """The Feast project keeps the name that its registry knows, whatever pyproject.toml calls the project by now."""
    settings = project / "pyproject.toml"
    settings.write_text(settings.read_text().replace('name = "shops"', 'name = "stores"', 1))
    upgrade(project, newer)
    assert 'project: "shops"' in (project / "feature_repo/feature_store.yaml").read_text()
    assert 'name = "stores"' in settings.read_text()


def test_an_older_library_refuses_a_project_of_a_newer_one(project):
    """In one line, and nothing changes."""
    record = json.loads((project / RECORD).read_text())
    (project / RECORD).write_text(json.dumps(record | {"fti": NEWER}))
    before = texts(project)
    with pytest.raises(Refusal, match=f"fti {NEWER} wrote the files of .* which is older"):
        upgrade(project, str(project / "wheels" / f"fti-{library.version()}-py3-none-any.whl"))
    assert texts(project) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "was not made by `fti new`"),
        ("{", "is not a record of"),
        ("[]", "is not a record of"),
        ('{"format": 1}', "is not a record of"),
        ('{"format": 2, "fti": "9"}', "has format 2"),
    ],
)
def test_a_folder_without_a_sound_record_is_refused(project, text, message):
    """Whatever became of the record."""
    (project / RECORD).unlink() if text is None else (project / RECORD).write_text(text)
    before = texts(project)
    with pytest.raises(Refusal, match=message):
        upgrade(project)
    assert texts(project) == before


def test_an_upgrade_that_was_cut_off_goes_on(project, newer, monkeypatch):
    """The record is written last: the same command finishes what the first one began."""
    from fti.scaffold import upgrade as module

    replace = module._replace

    def fail(folder: Path, path: str, text: str) -> None:
        if path == RECORD:
            raise OSError(28, "No space left on device")
        replace(folder, path, text)

    monkeypatch.setattr(module, "_replace", fail)
    with pytest.raises(Refusal, match="run the same command again"):
        upgrade(project, newer)
    monkeypatch.setattr(module, "_replace", replace)
    done = upgrade(project, newer)
    assert (done.diffs, done.by_hand) == ({}, [])
    assert read_record(project).fti == NEWER
