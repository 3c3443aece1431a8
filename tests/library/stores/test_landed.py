"""What has landed, as the tables' logs say; and each command, given another moment, in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from upath import UPath

from fti.stores.landed import SILENCE, Landed, NotLanded, landed, require_landed, require_past
from tests.small_repo import ROOT, build, complaint

HEAVY = ("feast", "mlflow", "sklearn", "bentoml")
FIRST, LAST = datetime(2013, 7, 1, tzinfo=UTC), datetime(2013, 7, 2, 23, tzinfo=UTC)
# One process a command, for it imports for seconds: it is called with each moment, and says how that ended.
CALLS = """
import importlib, sys
main = importlib.import_module(sys.argv[1]).main
for arguments in eval(sys.argv[2]):
    try:
        code = main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    print(code, flush=True)
    print("----", file=sys.stderr, flush=True)
print([name for name in {heavy} if name in sys.modules])
"""
MISTYPED = ("9999-12-31", "0001-01-01", "2261-01-01", "2030-01-01", "2003-07-01", "9999-12-31T23:59-12:00", "yesterday")
SAID = (
    "what has landed", "has landed, or can", "is yet to come", "is not a moment", "is out of range",
    "is not before --", "is before --as-of", "leaves nothing to fit to",
)  # fmt: skip
COMMANDS: dict[str, list[list[str]]] = {
    "fti.features.run": [
        *[[command, option] for command in ("all", "ingest", "validate", "publish") for option in ("--start", "--end")],
        ["materialize", "--start"], ["materialize", "--as-of"], ["all", "--as-of"],
        ["ingest", "--received-at"], ["release", "--table", "weather", "--rows", "held.csv", "--received-at"],
    ],
    "fti.features.datasheet": [["--as-of"]],
    "fti.training.run": [["train", "--as-of"], ["main", "--as-of"]],
    "fti.serving.batch": [["--as-of"], ["--as-of", "2013-07-01T12:00", "--known-by"]],
    "fti.monitoring.run": [["--as-of"]],
    "fti.loop.cycle": [["--as-of"]],
    "fti.loop.replay": [["--to", "2013-12-01", "--from"], ["--from", "2013-07-01", "--to"]],
}  # fmt: skip
WITH_REPO = ("fti.features.run", "fti.features.datasheet", "fti.monitoring.run", "fti.loop.cycle")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("landed"))


def table(path: Path, *moments: datetime | None) -> UPath:
    column = pa.array(moments, pa.timestamp("us", tz="UTC"))
    write_deltalake(str(path), pa.table({"event_timestamp": column, "n": list(range(len(moments)))}), mode="append")
    return UPath(path)


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file of a folder, with its size and when it was written."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


def test_the_first_and_the_last_event_of_all_tables_count(tmp_path):
    """Of files that hold no moment the rows are asked; a table without rows says nothing."""
    assert landed(UPath(tmp_path)) is None
    table(tmp_path / "raw" / "empty")
    assert landed(UPath(tmp_path)) is None
    table(tmp_path / "raw" / "a", FIRST + timedelta(hours=1), LAST)
    table(tmp_path / "raw" / "b", FIRST)
    assert landed(UPath(tmp_path)) == Landed(FIRST, LAST)
    table(tmp_path / "raw" / "b", None)
    table(tmp_path / "raw" / "b", FIRST - timedelta(hours=1))
    assert landed(UPath(tmp_path)) == Landed(FIRST - timedelta(hours=1), LAST)


def test_a_moment_within_days_of_silence_passes(tmp_path):
    """A feed may be silent over a weekend; who knows that it was for longer says so."""
    repo = tmp_path / "feature_repo"
    table(tmp_path / "data" / "raw" / "a", FIRST, LAST)
    for moment in (FIRST, LAST, LAST + SILENCE):
        require_landed(repo, {"--as-of": moment, "--known-by": None})
    for moment, side in ((FIRST - timedelta(seconds=1), "before"), (LAST + SILENCE + timedelta(seconds=1), "after")):
        with pytest.raises(NotLanded, match=rf"{side} what has landed in .*: events from 2013-07-01T00:00Z to 2013-07"):
            require_landed(repo, {"--as-of": moment})
        require_landed(repo, {"--as-of": moment}, force=True)
    require_landed(repo, {"--as-of": FIRST - timedelta(days=9)}, source=Landed(FIRST - timedelta(days=9), FIRST))


def test_where_nothing_has_landed_only_the_future_is_refused(tmp_path):
    """A repository of other tables has no raw ones."""
    require_landed(tmp_path / "feature_repo", {"--as-of": datetime(1999, 1, 1, tzinfo=UTC)})
    for refuse in (lambda moment: require_landed(tmp_path / "feature_repo", moment), require_past):
        with pytest.raises(NotLanded, match="yet to come"):
            refuse({"--as-of": datetime.now(UTC) + timedelta(days=1)})


@pytest.mark.parametrize("module", COMMANDS)
def test_a_mistyped_moment_is_refused_before_anything_is_imported_or_written(module, folder, tmp_path):
    """In one line each, that names the argument and what was expected."""
    place = tmp_path / "place"
    shutil.copytree(folder, place)
    repo = ["--repo", str(place / "feature_repo")] if module in WITH_REPO else []
    replayed = ["--folder", str(place / "replay")] if module.endswith("replay") else []
    (place / "held.csv").write_text("held_id\n1\n")
    log = f"sqlite:///{place / 'log.db'}"
    calls = [[*given, moment, *repo, *replayed] for given in COMMANDS[module] for moment in MISTYPED]
    environment = os.environ | {
        "FTI_PROJECT": str(ROOT), "SERVING_FEAST_REPO": str(place / "feature_repo"), "SERVING_PREDICTION_LOG": log,
        "TRAINING_FEAST_REPO": str(place / "feature_repo"), "MLFLOW_TRACKING_URI": f"sqlite:///{place / 'mlflow.db'}",
    }  # fmt: skip
    before = files(place)
    done = subprocess.run(
        [sys.executable, "-c", CALLS.format(heavy=HEAVY), module, repr(calls)],
        cwd=place, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    *codes, heavy = done.stdout.splitlines()
    told = done.stderr.split("----\n")[:-1]
    assert len(codes) == len(calls) == len(told)
    for call, code, said in zip(calls, codes, told, strict=True):
        lines = [line for line in said.splitlines() if "error:" in line or "Traceback" in line]
        assert (code, len(lines)) in (("1", 1), ("2", 1)), (call, code, said)
        assert "Traceback" not in said, (call, said)
        assert any(words in lines[0] for words in SAID), (call, said)
    assert heavy == "[]"
    assert files(place) == before


def test_who_insists_is_believed(folder, tmp_path, capsys):
    """What is refused then is refused for another reason."""
    shutil.copytree(folder, tmp_path / "place")
    interval = ("--start", "2020-01-01", "--end", "2020-02-01")
    assert "or can, in" in complaint(tmp_path / "place", capsys, "publish", *interval)
    assert "no raw events in it" in complaint(tmp_path / "place", capsys, "publish", *interval, "--force")
