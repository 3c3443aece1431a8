"""A backup of what containers keep in Postgres, put back: the runbook's own commands, on a Postgres of here."""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url
from werkzeug.security import check_password_hash, generate_password_hash

from fti.deploy.backup import CannotRestore, _unpacked
from fti.deploy.compose import Composed, main, prepare
from fti.deploy.programs import postgres_binary
from fti.deploy.stack import DATABASES

RUNBOOK = Path(__file__).resolve().parents[3] / "docs" / "runbook.md"
# `docker compose`, as far as Postgres' own programs go; what else it is told is written down.
COMPOSE = """#!/bin/sh
if [ "$1" = exec ]; then shift 3; exec "$@"; fi
echo "$@" >> said
"""


@dataclass(frozen=True)
class Here(Composed):
    """The containers' Postgres is one that listens in a folder."""

    folder: str = ""

    def host(self, server: str) -> str:
        return self.folder if server == "postgres" else super().host(server)

    def postgres(self, user: str, database: str) -> str:
        return f"postgresql+psycopg://{user}@/{database}?host={self.folder}"


@pytest.fixture
def stack(postgres: str, tmp_path: Path) -> Here:
    """With databases in which each pipeline has left something, by its own role."""
    made = Here(tmp_path / "compose", folder=str(make_url(postgres).query["host"]))
    made.configure()
    prepare(made, "postgres")
    for database, said in {
        "feast": "CREATE TABLE feature_views (name text PRIMARY KEY); INSERT INTO feature_views VALUES ('weather')",
        "mlflow": "CREATE TABLE users (username text PRIMARY KEY, password_hash text)",
        "predictions": "CREATE TABLE notes (said text PRIMARY KEY); INSERT INTO notes VALUES ('as it was')",
    }.items():
        run(made, DATABASES[database], database, said)
    of_then = generate_password_hash("of another machine")
    run(made, "mlflow", "mlflow", f"INSERT INTO users VALUES ('admin', '{of_then}'), ('serving', 'kept')")
    return made


def run(stack: Here, user: str, database: str, statement: str) -> list[tuple]:
    with psycopg.connect(host=stack.folder, user=user, dbname=database) as connection:
        done = connection.execute(statement)
        return done.fetchall() if done.description else []


def shell(stack: Here, command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A block of the runbook, with `$C` for what stands in for compose."""
    (folder / "compose.sh").write_text(COMPOSE)
    (folder / "compose.sh").chmod(0o755)
    path = f"{postgres_binary('psql').parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, text=True,
        env=os.environ | {"C": "./compose.sh", "PGHOST": stack.folder, "PATH": path},
    )  # fmt: skip


def test_the_runbooks_backup_is_put_back_where_tables_came_since_and_the_password_is_another(stack, tmp_path):
    """As after an upgrade: a table that the dump does not name, with a foreign key to one that it does."""
    backup, restore = re.findall(r"```sh\n([^`]*pg_(?:dump|restore)[^`]*)```", RUNBOOK.read_text())
    done = shell(stack, f"umask 022; {backup}", tmp_path)
    assert done.returncode == 0, done.stderr
    dumps = [tmp_path / f"{database}.dump" for database in DATABASES]
    assert {dump.stat().st_mode & 0o777 for dump in dumps} == {0o600}

    for database, owner in DATABASES.items():
        ((old, column),) = run(
            stack, owner, database, "SELECT table_name, column_name FROM information_schema.columns WHERE "
            "table_name IN ('feature_views', 'users', 'notes') AND ordinal_position = 1",
        )  # fmt: skip
        run(stack, owner, database, f"CREATE TABLE newer (of text REFERENCES {old} ({column}))")
        run(stack, owner, database, f"INSERT INTO {old} VALUES ('since then')")
    done = shell(stack, restore, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "said").read_text().splitlines() == ["stop service mlflow", "run --rm prepare", "up --wait"]
    for database, owner in DATABASES.items():
        assert run(stack, owner, database, "SELECT to_regclass('newer')") == [(None,)]

    # What `up` does first: the container `prepare`.
    hashed = "SELECT password_hash FROM users ORDER BY username"
    assert not check_password_hash(run(stack, "mlflow", "mlflow", hashed)[0][0], stack.password("admin"))
    prepare(stack, "postgres")
    (admin,), serving = run(stack, "mlflow", "mlflow", hashed)
    assert check_password_hash(admin, stack.password("admin"))
    assert serving == ("kept",)
    assert run(stack, "serving", "feast", "SELECT * FROM feature_views") == [("weather",)]
    assert run(stack, "monitor", "predictions", "SELECT * FROM notes") == [("as it was",)]
    for database, statement in {"feast": "DELETE FROM feature_views", "mlflow": "SELECT 1"}.items():
        with pytest.raises(psycopg.Error, match="permission denied"):
            run(stack, "serving", database, statement)

    # A dump that breaks off gives up nothing that is there.
    dumps[0].write_bytes(dumps[0].read_bytes()[: dumps[0].stat().st_size // 2])
    run(stack, "features", "feast", "INSERT INTO feature_views VALUES ('later')")
    assert "pg_restore: error" in shell(stack, restore, tmp_path).stderr
    assert run(stack, "features", "feast", "SELECT * FROM feature_views") == [("weather",), ("later",)]


def test_an_mlflow_that_refuses_its_administrator_is_said_in_a_line(receive, tmp_path, monkeypatch, capsys):
    """A database of another machine, before its password is made that of here: exit code 1, and the way out."""
    folder, mlflow = tmp_path / "compose", receive((401, {}))
    Composed(folder).configure()
    monkeypatch.setattr(Composed, "url", lambda *_: f"http://127.0.0.1:{mlflow.port}")
    assert main(["--folder", str(folder), "prepare", "mlflow"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: MLflow refused: ")
    assert "`prepare postgres` makes it so" in said
    assert mlflow.seen


@pytest.mark.parametrize("packed", ["", "gz", "xz"])
def test_a_backup_that_is_cut_off_is_refused(packed, tmp_path):
    """Wherever it ends, in one line, and before anything is started or changed."""
    for database in DATABASES:
        (tmp_path / f"{database}.dump").write_bytes(os.urandom(3000))
    with tarfile.open(tmp_path / "whole", f"w:{packed}") as archive:
        for database in DATABASES:
            archive.add(tmp_path / f"{database}.dump", f"{database}.dump")
    whole, file = (tmp_path / "whole").read_bytes(), tmp_path / "cut"
    needed = len(whole) - (0 if packed else 10_240)  # a tar ends with empty blocks
    for length in [*range(20), *range(20, needed - 1, 397)]:
        file.write_bytes(whole[:length])
        with pytest.raises(CannotRestore, match=r"cannot be read to its end|is no backup of this profile") as refused:
            _unpacked(file, tmp_path / f"to-{length}")
        assert "\n" not in str(refused.value)
