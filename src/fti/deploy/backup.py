"""What Postgres holds, copied and put back: Feast's registry, MLflow's runs, versions, aliases and users, the log of
predictions. Tables and models are in the object store, which has versions and copies of its own.

A backup is a tar of one dump a database, each consistent in itself, and holds no password but hashes of MLflow's.
"""

from __future__ import annotations

import lzma
import os
import subprocess
import tarfile
import tempfile
import time
import zlib
from pathlib import Path

from psycopg import sql

from fti.deploy.lifecycle import up
from fti.deploy.postgres import holds_rows, prepare_postgres, superuser
from fti.deploy.programs import postgres_binary
from fti.deploy.servers import wait
from fti.deploy.stack import DATABASES, Stack
from fti.deploy.supervision import control, supervisor
from fti.errors import Refusal, one_line

# What Python's tarfile raises of a file that is cut off or damaged, compressed or not.
UNREADABLE = (OSError, EOFError, ValueError, OverflowError, tarfile.TarError, zlib.error, lzma.LZMAError)
NEW = "restored"  # the database that a dump is read into, before it takes the place of the one that was there


class CannotBackUp(Refusal):
    """There is nothing to copy, or the copy has no place."""


class CannotRestore(Refusal):
    """The file is no backup, or what is there would be lost."""


def backup(stack: Stack, file: Path) -> str:
    """Write the file, which only its owner can read; returns what was written. Raises CannotBackUp."""
    if file.exists():
        raise CannotBackUp(f"{file} is there already. Name another file.")
    if not stack.made:
        raise CannotBackUp(f"There is no production profile in {stack.root}. Name its folder: --folder.")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=file.resolve().parent, prefix=".backup") as folder:
        for database in DATABASES:
            dump = Path(folder) / f"{database}.dump"
            _postgres(stack, "pg_dump", "--format=custom", f"--file={dump}", database, refused=CannotBackUp)
        whole = Path(folder) / "whole"
        with tarfile.open(whole, "w") as archive:
            for database in DATABASES:
                archive.add(Path(folder) / f"{database}.dump", f"{database}.dump")
        whole.chmod(0o600)
        whole.rename(file)
    return f"{file}: {', '.join(DATABASES)}, {file.stat().st_size:,} bytes, {time.perf_counter() - began:.1f} s"


def restore(stack: Stack, file: Path, replace: bool = False) -> str:
    """Put back what the file holds, into databases that hold nothing, or in their place; returns what was restored.

    Postgres is started; MLflow and the service are stopped, until the next `up`. Nothing that is there is given up
    before all of the file has been read. Raises CannotRestore.
    """
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        dumps = _unpacked(file, Path(folder))
        _start_postgres(stack)
        holding = [database for database in DATABASES if holds_rows(stack, database)]
        if holding and not replace:
            raise CannotRestore(f"{', '.join(holding)} would be lost: nothing was changed. To give it up: --replace.")
        for server in ("service", "mlflow"):
            control(stack, "stop", server)
        for database, dump in dumps.items():
            _create(stack, database)
            told = ["--exit-on-error", "--single-transaction", f"--dbname={database}_{NEW}", str(dump)]
            _postgres(stack, "pg_restore", *told, refused=CannotRestore)
    with superuser(stack) as connection:
        for database in DATABASES:
            old, new = sql.Identifier(database), sql.Identifier(f"{database}_{NEW}")
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(old))
            connection.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(new, old))
    prepare_postgres(stack)
    let_the_administrator_in(stack)
    return f"{', '.join(DATABASES)} are as they were in {file}, after {time.perf_counter() - began:.1f} s"


def _start_postgres(stack: Stack) -> None:
    """As it was configured, where the supervisor runs: a restore that is refused then changes nothing."""
    if supervisor(stack) is None:
        up(stack, ("postgres",))
    else:
        control(stack, "start", "postgres")
        wait(stack, "postgres")


def _unpacked(file: Path, folder: Path) -> dict[str, Path]:
    """The dumps of a backup, by database."""
    try:
        with tarfile.open(file) as archive:
            archive.extractall(folder, filter="data")
    except UNREADABLE as error:
        raise CannotRestore(
            f"{file} cannot be read to its end ({type(error).__name__}: {one_line(error)}): it is cut off, damaged or "
            "no backup. Nothing was changed; take another copy of it."
        ) from error
    dumps = {database: folder / f"{database}.dump" for database in DATABASES}
    if missing := [database for database, dump in dumps.items() if not dump.exists()]:
        raise CannotRestore(f"{file} is no backup of this profile: it has no {', '.join(missing)}.")
    return dumps


def _create(stack: Stack, database: str) -> None:
    new, owner = sql.Identifier(f"{database}_{NEW}"), sql.Identifier(DATABASES[database])
    with superuser(stack) as connection:
        connection.execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(new)
        )  # of a restore that was killed
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(new, owner))


def let_the_administrator_in(stack: Stack) -> None:
    """MLflow makes its administrator once, with the password of then; the others get theirs from `up`."""
    from werkzeug.security import generate_password_hash

    with superuser(stack, "mlflow") as connection:
        if connection.execute("SELECT to_regclass('public.users')").fetchone() == (None,):
            return
        hashed = generate_password_hash(stack.password("admin"))
        connection.execute("UPDATE users SET password_hash = %s WHERE username = 'admin'", [hashed])


def _postgres(stack: Stack, program: str, *arguments: str, refused: type[Refusal]) -> None:
    """Run one of Postgres' own programs as its superuser; the password is in no command line."""
    where = [f"--host={stack.host('postgres')}", f"--port={stack.port('postgres')}", "--username=postgres"]
    environment = os.environ | {"PGPASSWORD": stack.password("postgres")}
    command = [str(postgres_binary(program)), *where, "--no-password", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise refused(f"{program} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
