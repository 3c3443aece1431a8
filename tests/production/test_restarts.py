"""What a kill leaves of the production profile, and what the next command makes of it; no MLflow and no service."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import psycopg
import pytest

from fti.deploy.lifecycle import up
from fti.deploy.production import main as production
from fti.deploy.stack import HOST, Stack
from fti.deploy.supervision import control
from tests.conftest import ROOT

pytestmark = pytest.mark.production
PATIENCE = 60
SOME = ("postgres", "valkey", "objects")


def connect(stack: Stack) -> psycopg.Connection:
    return psycopg.connect(
        host=HOST, port=stack.port("postgres"), user="features", password=stack.password("features"), dbname="feast"
    )


def listening(stack: Stack) -> dict[str, psutil.Process]:
    """Who is at the port of each server, found by nothing else."""
    servers = {stack.port(server): server for server in SOME}
    return {
        servers[one.laddr.port]: psutil.Process(one.pid)
        for one in psutil.net_connections("tcp")
        if one.status == "LISTEN" and one.laddr.port in servers
    }


def kill_the_supervisor(stack: Stack) -> None:
    supervisor = psutil.Process(int((stack.root / "supervisor.pid").read_text()))
    supervisor.kill()
    psutil.wait_procs([supervisor], timeout=PATIENCE)


def test_an_initdb_that_was_killed_is_begun_anew(folder):
    """Its first file is the one by which a finished one is known."""
    one = Stack(folder / "one")
    command = [sys.executable, "-m", "fti.deploy.production", "--folder", str(one.root), "up"]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL) as started:
        deadline = time.monotonic() + PATIENCE
        while not list(one.root.glob("postgres*/PG_VERSION")):
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.killpg(started.pid, signal.SIGKILL)
    assert not (one.root / "supervisor.pid").exists(), "it was too late: initdb had ended"
    up(Stack(one.root), ("postgres",))
    with connect(one) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert [file.name for file in one.root.glob("postgres*")] == ["postgres"]


def test_servers_whose_supervisor_was_killed_are_found_and_ended(folder, capsys):
    """Status names them, `down` ends them, each as it wants to be; data are deleted only after that."""
    one = Stack(folder / "one")
    up(one, SOME)
    running = listening(one)
    assert set(running) == set(SOME)
    everything = [process for head in running.values() for process in (head, *head.children(recursive=True))]
    kill_the_supervisor(one)
    capsys.readouterr()
    assert production(["--folder", str(one.root), "status"]) == 0
    said = capsys.readouterr().out
    assert f"{len(everything)} process(es)" in said
    assert production(["--folder", str(one.root), "down"]) == 0
    assert not [process for process in everything if process.is_running()]
    assert listening(one) == {}
    assert not (one.root / "postgres" / "postmaster.pid").exists(), "Postgres was not asked, but killed"
    assert production(["--folder", str(one.root), "down", "--purge"]) == 0
    assert not one.root.exists()


def test_a_start_ends_what_a_killed_supervisor_left_and_keeps_its_data(folder):
    """Two sets at the same ports and data would be one that answers and one that is restarted for ever."""
    one = Stack(folder / "one")
    up(one, SOME)
    with connect(one) as connection:
        connection.execute("CREATE TABLE feature_views (name text)")
        connection.execute("INSERT INTO feature_views VALUES ('kept')")
    before = listening(one)
    kill_the_supervisor(one)
    up(Stack(one.root), SOME)
    assert not [process for process in before.values() if process.is_running()]
    now = listening(one)
    assert set(now) == set(SOME)
    watching = psutil.Process(int((one.root / "supervisor.pid").read_text()))
    assert set(now.values()) <= set(watching.children())
    with connect(one) as connection:
        assert connection.execute("SELECT name FROM feature_views").fetchall() == [("kept",)]


def test_an_object_store_that_forgot_is_told_of_where_postgres_remembers(folder, capsys):
    """Not at the first start, nor while nothing was made; with the way out."""
    one = Stack(folder / "one")

    def said_by_a_start() -> str:
        capsys.readouterr()
        up(one, ("postgres", "objects"))
        return capsys.readouterr().err

    assert said_by_a_start() == ""
    control(one, "stop", "objects")
    assert said_by_a_start() == ""
    with connect(one) as connection:
        connection.execute("CREATE TABLE feature_views (name text)")
        connection.execute("INSERT INTO feature_views VALUES ('of tables in the object store')")
    assert said_by_a_start() == ""
    control(one, "stop", "objects")
    said = said_by_a_start()
    assert "the object store is empty" in said
    assert "down --purge" in said
    assert "FTI_TABLES" in said
