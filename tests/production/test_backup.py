"""A backup of Postgres, put back into a server that has nothing; only Postgres runs."""

from __future__ import annotations

import tarfile
from datetime import UTC, datetime

import psycopg
import pytest

from fti.deploy.lifecycle import up
from fti.deploy.production import main as production
from fti.deploy.stack import HOST, Stack

pytestmark = pytest.mark.production
WHEN = datetime(2013, 10, 1, tzinfo=UTC)


def connect(stack: Stack, user: str, database: str) -> psycopg.Connection:
    return psycopg.connect(
        host=HOST, port=stack.port("postgres"), user=user, password=stack.password(user), dbname=database
    )


def live(stack: Stack, said: str) -> None:
    """What each pipeline leaves in its database, by its own role."""
    with connect(stack, "features", "feast") as connection:
        connection.execute("CREATE TABLE feature_views (name text PRIMARY KEY)")
        connection.execute("INSERT INTO feature_views VALUES (%s)", [said])
    with connect(stack, "mlflow", "mlflow") as connection:
        connection.execute("CREATE TABLE registered_model_aliases (alias text, version int)")
        connection.execute("INSERT INTO registered_model_aliases VALUES ('champion', 2)")
        connection.execute("CREATE TABLE users (username text, password_hash text)")
        connection.execute("INSERT INTO users VALUES ('admin', 'of a password that was'), ('serving', 'kept')")
    with connect(stack, "monitor", "predictions") as connection:
        connection.execute("CREATE TABLE cycle_notes (said text, at timestamptz)")
        connection.execute("INSERT INTO cycle_notes VALUES (%s, %s)", [said, WHEN])


def rows(stack: Stack, user: str, database: str, table: str) -> list[tuple]:
    with connect(stack, user, database) as connection:
        return connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()


def test_what_was_backed_up_is_there_again_on_a_new_server_with_new_passwords(folder, capsys):
    """Rows, owners and rights; and the administrator of MLflow gets in with the password of now."""
    from werkzeug.security import check_password_hash

    one, other, file = Stack(folder / "one"), Stack(folder / "other"), folder / "backup.tar"
    up(one, ("postgres",))
    live(one, "as it was")
    assert production(["--folder", str(one.root), "backup", str(file)]) == 0
    assert file.stat().st_mode & 0o077 == 0
    assert not [one for one in one.settings["passwords"].values() if one.encode() in file.read_bytes()]
    assert production(["--folder", str(one.root), "down", "--purge"]) == 0

    assert production(["--folder", str(other.root), "restore", str(file)]) == 0
    other = Stack(other.root)
    assert rows(other, "serving", "feast", "feature_views") == [("as it was",)]
    assert rows(other, "mlflow", "mlflow", "registered_model_aliases") == [("champion", 2)]
    assert rows(other, "monitor", "predictions", "cycle_notes") == [("as it was", WHEN)]
    (_, admin), serving = rows(other, "mlflow", "mlflow", "users")
    assert check_password_hash(admin, other.password("admin"))
    assert serving == ("serving", "kept")
    # Rights are what they were: of tables that come later, too.
    for statement in ("DELETE FROM feature_views", "CREATE TABLE mine (id int)"):
        with pytest.raises(psycopg.Error, match="permission denied"), connect(other, "serving", "feast") as connection:
            connection.execute(statement)
    with connect(other, "features", "feast") as connection:
        connection.execute("CREATE TABLE entities (name text)")
    assert rows(other, "training", "feast", "entities") == []
    with pytest.raises(psycopg.Error, match="permission denied"):
        connect(other, "training", "predictions")

    # What is there is given up only when that was asked for, and not for a file that is no backup.
    with connect(other, "features", "feast") as connection:
        connection.execute("INSERT INTO feature_views VALUES ('since then')")
    assert production(["--folder", str(other.root), "restore", str(file)]) == 1
    assert "feast, mlflow, predictions would be lost" in capsys.readouterr().err
    broken = folder / "broken.tar"
    with tarfile.open(file) as archive, tarfile.open(broken, "w") as less:
        for member in archive.getmembers()[:2]:
            less.addfile(member, archive.extractfile(member))
    assert production(["--folder", str(other.root), "restore", "--replace", str(broken)]) == 1
    assert "it has no predictions" in capsys.readouterr().err
    assert rows(other, "serving", "feast", "feature_views") == [("as it was",), ("since then",)]
    assert production(["--folder", str(other.root), "restore", "--replace", str(file)]) == 0
    assert rows(other, "serving", "feast", "feature_views") == [("as it was",)]


def test_a_dump_that_breaks_off_leaves_what_is_there(folder, capsys):
    one, file, broken = Stack(folder / "one"), folder / "backup.tar", folder / "broken.tar"
    up(one, ("postgres",))
    live(one, "as it was")
    assert production(["--folder", str(one.root), "backup", str(file)]) == 0
    with tarfile.open(file) as archive, tarfile.open(broken, "w") as less:
        for member in archive.getmembers():
            whole = archive.extractfile(member)
            member.size -= 200 if member.name == "mlflow.dump" else 0
            less.addfile(member, whole)
    assert production(["--folder", str(one.root), "restore", "--replace", str(broken)]) == 1
    assert "pg_restore ended with 1" in capsys.readouterr().err
    assert rows(one, "features", "feast", "feature_views") == [("as it was",)]


def test_a_backup_writes_over_nothing_and_needs_a_server(folder, capsys):
    file = folder / "backup.tar"
    assert production(["--folder", str(folder / "none"), "backup", str(file)]) == 1
    assert "There is no production profile" in capsys.readouterr().err
    one = Stack(folder / "one")
    one.configure()
    assert production(["--folder", str(one.root), "backup", str(file)]) == 1
    assert "pg_dump ended with 1" in capsys.readouterr().err
    file.write_text("mine")
    assert production(["--folder", str(one.root), "backup", str(file)]) == 1
    assert file.read_text() == "mine"
    assert [one.name for one in folder.iterdir() if one.name.startswith(".backup")] == []


def test_a_restore_that_is_refused_changes_nothing_of_what_runs(folder, capsys, monkeypatch):
    """It takes Postgres as it runs: told anew, the supervisor would stop what has other settings by now."""
    one, file = Stack(folder / "one"), folder / "backup.tar"
    one.remember(workers=4)
    up(one, ("postgres", "valkey"))
    live(one, "as it was")
    assert production(["--folder", str(one.root), "backup", str(file)]) == 0
    written = (one.root / "supervisor.conf").read_bytes()
    assert b'SERVING_WORKERS="4"' in written
    monkeypatch.setenv("SERVING_POLL_SECONDS", "9")
    assert production(["--folder", str(one.root), "restore", str(file)]) == 1
    assert "nothing was changed" in capsys.readouterr().err
    assert (one.root / "supervisor.conf").read_bytes() == written
    assert production(["--folder", str(one.root), "restore", "--replace", str(file)]) == 0
    assert (one.root / "supervisor.conf").read_bytes() == written
