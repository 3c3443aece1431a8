"""Where a project takes the library from."""

from __future__ import annotations

import importlib.metadata
import json
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from fti.errors import Refusal
from fti.scaffold.library import library, version
from fti.scaffold.new import new

ROOT = Path(__file__).resolve().parents[3]
VERSION = version()


def sources(folder: Path) -> dict[str, object]:
    settings = tomllib.loads((folder / "pyproject.toml").read_text())
    assert f"fti[loop]=={version()}" in settings["project"]["dependencies"]
    found: dict[str, object] = settings["tool"]["uv"].get("sources", {}).get("fti", {})
    return found


def test_a_wheel_is_copied_into_the_project(tmp_path):
    """Its lock and its pyproject.toml name the copy, so the project can move and the wheel can go."""
    wheel = tmp_path / f"fti-{version()}-py3-none-any.whl"
    wheel.write_bytes(b"a wheel")
    folder = new(tmp_path / "made", fti=str(wheel)).folder
    assert (folder / "wheels" / wheel.name).read_bytes() == b"a wheel"
    assert f"\n./wheels/{wheel.name}\n" in (folder / "requirements.lock").read_text()
    assert sources(folder) == {"path": f"wheels/{wheel.name}"}
    bento = tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["bentoml"]["build"]
    assert f"wheels/{wheel.name}" in bento["include"]
    assert f"\n./wheels/{wheel.name}\n" in (folder / bento["python"]["requirements_txt"]).read_text()


def test_a_checkout_is_used_where_it_is(tmp_path):
    """By its whole path; of a project inside the checkout by the way there, so that both can move."""
    folder = new(tmp_path / "made", fti=str(ROOT)).folder
    assert f"\n-e {ROOT}\n" in (folder / "requirements.lock").read_text()
    assert sources(folder) == {"path": str(ROOT), "editable": True}
    assert library(str(ROOT), ROOT / "examples/footfall").requirement == "-e ../.."


@pytest.mark.parametrize(
    ("url", "source"),
    [
        ("git+https://host.example/team/fti@v0.1.0", {"git": "https://host.example/team/fti", "tag": "v0.1.0"}),
        ("git+ssh://git@host.example/fti.git@v1", {"git": "ssh://git@host.example/fti.git", "tag": "v1"}),
        (f"git+https://host.example/fti@{'a' * 40}", {"git": "https://host.example/fti", "rev": "a" * 40}),
    ],
)
def test_a_git_tag_is_taken_by_its_name(tmp_path, url, source):
    """pip and uv read the same place of it."""
    folder = new(tmp_path / "made", fti=url).folder
    assert f"\nfti @ {url}\n" in (folder / "requirements.lock").read_text()
    assert sources(folder) == source


def test_what_nobody_names_is_where_this_library_came_from(tmp_path):
    """This one is installed from a checkout."""
    assert sources(new(tmp_path / "made").folder)["editable"] is True


@pytest.mark.parametrize(
    ("recorded", "requirement"),
    [
        (None, f"fti=={version()}"),
        (
            {
                "url": "https://host.example/fti",
                "vcs_info": {"vcs": "git", "requested_revision": "v1", "commit_id": "0"},
            },
            "fti @ git+https://host.example/fti@v1",
        ),
    ],
)
def test_what_an_installer_recorded_is_what_a_project_takes(monkeypatch, tmp_path, recorded, requirement):
    """Nothing is recorded of what came from an index."""
    _record(monkeypatch, recorded)
    assert library(None, tmp_path).requirement == requirement


def test_a_wheel_that_is_gone_is_not_looked_for_on_an_index(monkeypatch, tmp_path):
    """Whatever has this library's name there."""
    _record(monkeypatch, {"url": f"file://{tmp_path}/gone.whl", "archive_info": {}})
    with pytest.raises(Refusal, match=r"gone\.whl, which is gone"):
        library(None, tmp_path)


def _record(monkeypatch: pytest.MonkeyPatch, recorded: dict[str, object] | None) -> None:
    text = recorded and json.dumps(recorded)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda _: SimpleNamespace(read_text=lambda _: text))
    monkeypatch.setattr("fti.scaffold.library.version", lambda: VERSION)
