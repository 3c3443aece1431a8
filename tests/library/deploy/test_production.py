"""The production profile on one host, as far as no server has to run: what programs are told, what is remembered, and
which folders are touched."""

from __future__ import annotations

import shutil
from configparser import RawConfigParser
from pathlib import Path

import pytest
from supervisor.datatypes import dict_of_key_value_pairs

from fti.deploy.folder import Folder, NotHealthy
from fti.deploy.production import main as production
from fti.deploy.programs import inherited, supervised
from fti.deploy.stack import Stack
from tests.conftest import ROOT


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    return Stack(tmp_path / "profile")


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A copy of what the service is made of, and of what it is not."""
    copied = tmp_path / "code"
    for package in ("src", "serving", "validation", "feature_repo", "training"):
        shutil.copytree(
            ROOT / package, copied / package, ignore=shutil.ignore_patterns("__pycache__", "data", "mlruns")
        )
    for file in ("pyproject.toml", "uv.lock"):
        shutil.copy(ROOT / file, copied)
    return copied


def sections(stack: Stack, caller: dict[str, str] | None = None, code: Path = ROOT) -> dict[str, dict[str, str]]:
    """By program, as the supervisor reads its file."""
    parser = RawConfigParser(inline_comment_prefixes=(";", "#"))
    parser.read_string(supervised(stack, caller or {}, code))
    return {one.removeprefix("program:"): dict(parser[one]) for one in parser.sections() if one.startswith("program:")}


def variables(section: dict[str, str]) -> dict[str, str]:
    return dict_of_key_value_pairs(section["environment"] % {})


def changed(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> set[str]:
    return {name for name in before | after if before.get(name) != after.get(name)}


# ---- an upgrade -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "restarted"),
    [
        ("src/fti/serving/model/predictor.py", {"service"}),
        ("src/fti/serving/page/app.js", {"service"}),
        ("src/fti/contract/interface.py", {"service"}),
        ("feature_repo/production/feature_store.yaml", {"service"}),
        ("uv.lock", {"service", "mlflow"}),
        ("src/fti/training/train.py", set()),
        ("src/fti/features/run.py", set()),
    ],
)
def test_what_an_upgrade_changed_is_restarted_and_nothing_else(stack, code, file, restarted):
    """The supervisor restarts a program when its section is another one: one byte of what it is made of is enough."""
    before = sections(stack, code=code)
    assert sections(stack, code=code) == before
    (code / file).write_bytes((code / file).read_bytes() + b"\n")
    assert changed(before, sections(stack, code=code)) == restarted


def test_the_service_gets_the_settings_of_the_caller_and_is_restarted_by_a_changed_one(stack):
    """Percent signs and commas too; what the profile itself decides stays as it is; an empty one is as good as none."""
    given = {"SERVING_DOCS_URL": "https://docs/a%20b,c", "SERVING_PORT": "1", "SERVING_TRACES_URL": "", "HOME": "/x"}
    before = sections(stack, given)
    assert variables(before["service"])["SERVING_DOCS_URL"] == "https://docs/a%20b,c"
    assert variables(before["service"])["SERVING_PORT"] == str(stack.port("service"))
    assert not {"SERVING_TRACES_URL", "HOME"} & set(variables(before["service"]))
    assert changed(before, sections(stack, given | {"SERVING_DOCS_URL": "https://docs/"})) == {"service"}
    assert changed(before, sections(stack, given | {"PATH": "/y"})) == set()
    for value in ('say "no"', "two\nlines", "a # comment", "it ; ends", "'quoted'"):
        with pytest.raises(NotHealthy, match="SERVING_DOCS_URL holds"):
            sections(stack, {"SERVING_DOCS_URL": value})


def test_servers_inherit_no_setting_from_the_supervisors_first_start(monkeypatch):
    """It runs for months: a setting that was taken away meanwhile would come back with each restart."""
    monkeypatch.setenv("SERVING_POLL_SECONDS", "9")
    monkeypatch.setenv("AWS_PROFILE", "somebody")
    monkeypatch.setenv("FTI_HOME_OF_TESTS", "stays")
    assert not {"SERVING_POLL_SECONDS", "AWS_PROFILE"} & set(inherited())
    assert {"PATH", "FTI_HOME_OF_TESTS"} <= set(inherited())


def test_the_number_of_workers_stays_until_another_is_asked_for(stack, capsys):
    stack.configure()
    (stack.root / "postgres").mkdir()  # without PG_VERSION: each start ends here, after it has written what is told
    for asked, workers in (([], "2"), (["--workers", "4"], "4"), ([], "4"), (["--rotate"], "4")):
        assert production(["--folder", str(stack.root), "up", *asked]) == 1
        assert "no PG_VERSION" in capsys.readouterr().err
        assert f'SERVING_WORKERS="{workers}"' in (stack.root / "supervisor.conf").read_text()


# ---- a store of one's own -------------------------------------------------------------------------------------------


def test_a_store_of_ones_own_is_remembered_and_no_emulator_runs(stack):
    own = {"FTI_TABLES": "s3://mine/fti/", "AWS_REGION": "eu-west-1", "AWS_SECRET_ACCESS_KEY": "of mine"}
    assert set(sections(stack)) == {"postgres", "valkey", "objects", "mlflow", "service"}
    stack.adopt(own | {"PATH": "/x", "AWS_PROFILE": ""})
    later = Stack(stack.root)  # of another command, which is told nothing
    later.adopt({"PATH": "/x"})
    for role in ("features", "training", "loop"):
        given = {name: value for name, value in later.environment(role).items() if name.startswith(("FTI_", "AWS_"))}
        assert given == own
    assert not {"FTI_TABLES", "AWS_SECRET_ACCESS_KEY"} & set(later.environment("serving"))
    kept = variables(sections(later)["mlflow"])
    assert kept["MLFLOW_ARTIFACTS_DESTINATION"] == "s3://mine/fti-artifacts"
    assert {name: kept[name] for name in kept if name.startswith("AWS_")} == {
        name: value for name, value in own.items() if name.startswith("AWS_")
    }
    assert set(sections(later)) == {"postgres", "valkey", "mlflow", "service"}
    assert (stack.root / "settings.json").stat().st_mode & 0o077 == 0


def test_tables_do_not_move_away_from_databases_that_know_them(stack):
    """An emulator would be stopped, and forget them; new keys of the same place are taken."""
    own = {"FTI_TABLES": "s3://mine/fti", "AWS_SECRET_ACCESS_KEY": "of mine"}
    (stack.root / "postgres").mkdir(parents=True)
    with pytest.raises(NotHealthy, match="lies in its own object store"):
        stack.adopt(own)
    stack.adopt({"FTI_TABLES": ""})
    assert "objects" in stack.servers
    (stack.root / "postgres").rmdir()
    stack.adopt(own)
    (stack.root / "postgres").mkdir()
    with pytest.raises(NotHealthy, match="lies in s3://mine/fti"):
        stack.adopt(own | {"FTI_TABLES": "s3://mine/other"})
    stack.adopt(own | {"AWS_SECRET_ACCESS_KEY": "a new one"})
    assert Stack(stack.root).store == own | {"AWS_SECRET_ACCESS_KEY": "a new one"}


@pytest.mark.parametrize(
    ("tables", "artifacts"),
    [("s3://mine", "s3://mine/artifacts"), ("s3://mine/", "s3://mine/artifacts"), ("/big/fti", "/big/fti-artifacts")],
)
def test_models_lie_beside_tables(stack, tables, artifacts):
    stack.adopt({"FTI_TABLES": tables})
    assert stack.mlflow_environment()["MLFLOW_ARTIFACTS_DESTINATION"] == artifacts


def test_a_place_that_each_process_would_find_elsewhere_is_none(stack):
    with pytest.raises(NotHealthy, match="Give it whole"):
        stack.adopt({"FTI_TABLES": "tables"})
    stack.adopt(stack.environment("loop"))  # as in a shell that has read env/loop.env: that is the emulator
    assert stack.store is None


# ---- whose folder it is ---------------------------------------------------------------------------------------------


def listing(folder: Path) -> dict[str, tuple[int, bytes | None]]:
    """Modes and contents of a folder and all that is in it."""
    return {
        str(one): (one.stat().st_mode, one.read_bytes() if one.is_file() else None)
        for one in (folder, *folder.rglob("*"))
    }


@pytest.mark.parametrize("command", [["up"], ["up", "--rotate"], ["down", "--purge"]])
@pytest.mark.parametrize("settings", [None, "{}", "[1]", "not json"])
def test_a_folder_that_is_no_profiles_is_left_as_it_is(tmp_path, capsys, command, settings):
    """With a folder named like one of ours, too, or a settings.json of another program."""
    theirs = tmp_path / "srv"
    (theirs / "postgres").mkdir(parents=True)
    (theirs / "postgres" / "their.db").write_text("rows")
    if settings is not None:
        (theirs / "settings.json").write_text(settings)
    theirs.chmod(0o755)
    before = listing(theirs)
    assert production(["--folder", str(theirs), *command]) == 1
    assert "nothing was" in capsys.readouterr().err
    assert listing(theirs) == before


def test_a_profile_is_purged_whole_and_one_that_is_not_there_is_no_error(stack):
    stack.configure()
    assert production(["--folder", str(stack.root), "down", "--purge"]) == 1  # not yet: it has no supervisor.conf
    stack.write("supervisor.conf", supervised(stack, {}))
    assert production(["--folder", str(stack.root), "down", "--purge"]) == 0
    assert not stack.root.exists()
    assert production(["--folder", str(stack.root), "down", "--purge"]) == 0


def test_a_first_start_that_was_killed_is_begun_anew(tmp_path):
    """It may leave nothing but half a settings.json under its first name."""
    (tmp_path / "settings.json.new").write_text('{"por')
    Folder(tmp_path).claim()
    assert set(Folder(tmp_path).settings["ports"]) == {"postgres", "valkey", "objects", "mlflow", "service"}
