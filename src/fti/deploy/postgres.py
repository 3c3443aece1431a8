"""Postgres: made once, with each role's database, rights and password of now; and what its superuser finds there."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import psycopg
from psycopg import sql

from fti.deploy.folder import NotHealthy
from fti.deploy.programs import postgres_binary
from fti.deploy.stack import DATABASES, Stack
from fti.errors import one_line


def init_postgres(stack: Stack) -> None:
    """Make its folder, all of it or none: initdb writes PG_VERSION first, so what it left half-made looks whole.

    Raises NotHealthy.
    """
    data = stack.root / "postgres"
    if (data / "PG_VERSION").exists():
        return
    if data.exists():
        raise NotHealthy(f"{data} has no PG_VERSION, so it is no folder of Postgres: move it away.")
    for killed in stack.root.glob(f"{data.name}.new*"):
        shutil.rmtree(killed)
    # A name of its own, for what is left of a killed start may still be writing to its own.
    made = Path(tempfile.mkdtemp(prefix=f"{data.name}.new", dir=stack.root))
    try:
        shutil.chown(made, stack.postgres_user, stack.postgres_group)
        _initdb(stack, made)
        made.rename(data)
    except BaseException:
        shutil.rmtree(made)
        raise


def _initdb(stack: Stack, data: Path) -> None:
    password = stack.write("postgres.password", stack.password("postgres"))
    shutil.chown(password, stack.postgres_user)
    command = [
        str(postgres_binary("initdb")), "-D", str(data), "-U", "postgres", "--auth=scram-sha-256",
        f"--pwfile={password}", "--encoding=UTF8", "--locale=C",
    ]  # fmt: skip
    as_root = os.geteuid() == 0
    user = {"user": stack.postgres_user, "group": stack.postgres_group, "extra_groups": []} if as_root else {}
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, **user)  # type: ignore[call-overload]
    password.unlink()
    if done.returncode:
        closed = next((one for one in [*data.parents][::-1] if not one.stat().st_mode & 0o001), None)
        mend = f" {closed} is closed to it: name another folder with --folder." if closed and as_root else ""
        raise NotHealthy(f"Postgres could not be set up by {stack.postgres_user}: {one_line(done.stderr)}.{mend}")


def superuser(stack: Stack, database: str = "postgres") -> psycopg.Connection:
    return psycopg.connect(
        host=stack.host("postgres"), port=stack.port("postgres"), user="postgres",
        password=stack.password("postgres"), dbname=database, autocommit=True, connect_timeout=5,
    )  # fmt: skip


def postgres_answers(stack: Stack) -> bool:
    with superuser(stack) as connection:
        return connection.execute("SELECT 1").fetchone() is not None


def prepare_postgres(stack: Stack) -> None:
    """Databases, each with its owner; roles with the passwords of now; and who else may read or add what."""
    with superuser(stack) as connection:
        there = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles")}
        for user in ("features", "training", "serving", "monitor", "mlflow"):
            verb = sql.SQL("ALTER" if user in there else "CREATE")
            told = sql.Identifier(user), sql.Literal(stack.password(user))
            connection.execute(sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(verb, *told))
        there = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
        for name, owner in DATABASES.items():
            database = sql.Identifier(name)
            if name not in there:
                connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, sql.Identifier(owner)))
            connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
        connection.execute("GRANT CONNECT ON DATABASE feast TO training, serving")
        connection.execute("GRANT CONNECT ON DATABASE predictions TO serving")
    with superuser(stack, "feast") as connection:
        connection.execute("ALTER DEFAULT PRIVILEGES FOR ROLE features GRANT SELECT ON TABLES TO training, serving")
    # These tables are there before the service is, which may add predictions, read what was found, and nothing else.
    from fti.contract.events import CYCLE_STEPS, RESULTS, RETRAININGS
    from fti.contract.predictions import PREDICTIONS, create, open_log

    tables = {PREDICTIONS: "SELECT, INSERT", RESULTS: "SELECT", CYCLE_STEPS: "SELECT", RETRAININGS: "SELECT"}
    create(open_log(stack.postgres("monitor", "predictions")), [*tables])
    with superuser(stack, "predictions") as connection:
        for table, rights in tables.items():
            grant = sql.SQL("GRANT {} ON {} TO serving")
            connection.execute(grant.format(sql.SQL(rights), sql.Identifier(table.name)))


def holds_rows(stack: Stack, database: str) -> bool:
    """Whether any table of it has one."""
    with superuser(stack, database) as connection:
        tables = [name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        asked = [sql.SQL("EXISTS (SELECT FROM {})").format(sql.Identifier(name)) for name in tables]
        row = connection.execute(sql.SQL("SELECT {}").format(sql.SQL(" OR ").join(asked))).fetchone() if asked else None
    return bool(row and row[0])
