"""The production profile on one host: servers from wheels, supervised, started and found healthy in order.

    python -m deploy.production up
    python -m deploy.production run loop make pipeline
    python -m deploy.production status
    python -m deploy.production backup FILE
    python -m deploy.production restore FILE
    python -m deploy.production down

`run ROLE COMMAND` runs a command with the variables of a role: features, training, serving, or loop, which is all but
serving. Every log is in FOLDER/logs. The object store is an emulator that keeps everything in memory: where tables are
to stay, let FTI_TABLES and AWS_* name one of your own. Exit codes: 0 done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg import sql

from deploy.stack import ARTIFACTS, BUCKET, DATABASES, HOST, ROLES, SERVERS, Stack, postgres_binary
from validation.errors import Refusal, one_line
from validation.settings import ROOT

PATIENCE = 600.0  # seconds for a server to be healthy, on a slow machine
FOLDER = ROOT / "data" / "production"
LONGEST_SOCKET = 100  # bytes of a path, of which Unix takes 107 and the supervisor adds some


class NotHealthy(Refusal):
    """A server does not come up, or is not what it should be."""


def up(stack: Stack, servers: Sequence[str] = SERVERS) -> None:
    """Start what is not running, in order, each once those before it are healthy. Raises NotHealthy."""
    if len(str(stack.socket)) > LONGEST_SOCKET:
        raise NotHealthy(f"{stack.socket} is too long a path for a socket. Name a folder nearer to /: --folder.")
    stack.configure()
    _init_postgres(stack)
    if _supervisor(stack) is None:
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", "supervisor.conf"]
        done = subprocess.run(command, cwd=stack.root, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NotHealthy(f"The supervisor did not start: {done.stderr.strip()[-500:]}")
    else:
        control(stack, "update")  # which restarts what is told something else now
    for server in servers:
        began = time.perf_counter()
        control(stack, "start", server)
        _wait(stack, server)
        PREPARE.get(server, lambda _: None)(stack)
        print(f"{server:9} healthy at {_address(stack, server)} after {time.perf_counter() - began:.1f} s", flush=True)


def down(stack: Stack) -> None:
    """Stop everything, the supervisor last. Raises NotHealthy if anything is left."""
    supervisor = _supervisor(stack)
    if supervisor is None:
        return
    family = [supervisor, *supervisor.children(recursive=True)]
    control(stack, "shutdown")
    _, left = psutil.wait_procs(family, timeout=60)
    for process in left:
        process.kill()
    if left:
        raise NotHealthy(f"{len(left)} process(es) did not end when asked to, and were killed: {left[0].name()} first.")


def status(stack: Stack) -> str:
    """A line a server: whether it runs, whether it is healthy, and where it is."""
    if _supervisor(stack) is None:
        return f"Nothing runs in {stack.root}. Start it: make production-up"
    lines = [
        f"{server:9} {'healthy' if _healthy(stack, server) else 'down':8} {_address(stack, server)}"
        for server in SERVERS
    ]
    return "\n".join([*lines, f"logs      {stack.root / 'logs'}", f"roles     {stack.root / 'env'}"])


def _address(stack: Stack, server: str) -> str:
    return stack.url(server) if server in ("objects", "mlflow", "service") else f"{HOST}:{stack.port(server)}"


# ---- the supervisor -------------------------------------------------------------------------------------------------


def _supervisor(stack: Stack) -> psutil.Process | None:
    """The running supervisor of this folder: not just any process that got its number later."""
    try:
        process = psutil.Process(int((stack.root / "supervisor.pid").read_text()))
        return process if Path(process.cwd()) == stack.root and "supervisor.supervisord" in process.cmdline() else None
    except (OSError, ValueError, psutil.Error):
        return None


def control(stack: Stack, *command: str) -> None:
    """Tell the supervisor something. Raises NotHealthy when it cannot be reached."""
    asked = [sys.executable, "-m", "supervisor.supervisorctl", "-c", "supervisor.conf", *command]
    done = subprocess.run(asked, cwd=stack.root, capture_output=True, text=True, check=False)
    if "refused connection" in done.stdout or "no such file" in done.stdout:
        raise NotHealthy(
            f"The supervisor does not answer: {done.stdout.strip()}. See {stack.root}/logs/supervisor.log."
        )


def _wait(stack: Stack, server: str) -> None:
    until = time.monotonic() + PATIENCE
    while not _healthy(stack, server):
        if time.monotonic() > until:
            raise NotHealthy(
                f"{server} is not healthy after {PATIENCE:.0f} s; {stack.root}/logs/{server}.log says why."
            )
        time.sleep(0.2)


def _healthy(stack: Stack, server: str) -> bool:
    import redis

    try:
        return HEALTH[server](stack)
    except (OSError, psycopg.Error, redis.RedisError):
        return False


# ---- each server: is it healthy, and what has to be there -----------------------------------------------------------


def _init_postgres(stack: Stack) -> None:
    data = stack.root / "postgres"
    if (data / "PG_VERSION").exists():
        return
    shutil.rmtree(data, ignore_errors=True)  # of an initdb that was killed
    data.mkdir(mode=0o700)
    shutil.chown(data, stack.postgres_user, stack.postgres_group)
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
        shutil.rmtree(data)
        closed = next((one for one in [*data.parents][::-1] if not one.stat().st_mode & 0o001), None)
        mend = f" {closed} is closed to it: name another folder with --folder." if closed and as_root else ""
        raise NotHealthy(f"Postgres could not be set up by {stack.postgres_user}: {one_line(done.stderr)}.{mend}")


def superuser(stack: Stack, database: str = "postgres") -> psycopg.Connection:
    return psycopg.connect(
        host=stack.host("postgres"), port=stack.port("postgres"), user="postgres",
        password=stack.password("postgres"), dbname=database, autocommit=True, connect_timeout=5,
    )  # fmt: skip


def _postgres_answers(stack: Stack) -> bool:
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
    from validation.monitoring.events import CYCLE_STEPS, RESULTS, RETRAININGS
    from validation.predictions import PREDICTIONS, create, open_log

    tables = {PREDICTIONS: "SELECT, INSERT", RESULTS: "SELECT", CYCLE_STEPS: "SELECT", RETRAININGS: "SELECT"}
    create(open_log(stack.postgres("monitor", "predictions")), [*tables])
    with superuser(stack, "predictions") as connection:
        for table, rights in tables.items():
            grant = sql.SQL("GRANT {} ON {} TO serving")
            connection.execute(grant.format(sql.SQL(rights), sql.Identifier(table.name)))


def _valkey_answers(stack: Stack) -> bool:
    return bool(_valkey(stack).ping())


def _prepare_valkey(stack: Stack) -> None:
    """The users of now: after a rotation the server has to read its file again."""
    _valkey(stack).acl_load()


def _valkey(stack: Stack) -> Any:
    import redis

    where, password = (stack.host("valkey"), stack.port("valkey")), stack.password("valkey-admin")
    return redis.Redis(*where, username="admin", password=password, socket_timeout=5)


def _answers(url: str) -> bool:
    # Whatever proxy the environment names, these are on this machine.
    try:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10).close()
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)
    return True


def _prepare_objects(stack: Stack) -> None:
    import boto3
    from botocore.config import Config

    told = stack.object_store("admin")
    client = boto3.client(
        "s3", endpoint_url=told["AWS_ENDPOINT_URL"], region_name=told["AWS_REGION"], config=Config(proxies={}),
        aws_access_key_id=told["AWS_ACCESS_KEY_ID"], aws_secret_access_key=told["AWS_SECRET_ACCESS_KEY"],
    )  # fmt: skip
    there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    for bucket in {BUCKET, ARTIFACTS} - there:
        client.create_bucket(Bucket=bucket)


def _prepare_mlflow(stack: Stack) -> None:
    """Users with the passwords of now. What training registers is its own to change; everybody else may read it."""
    from mlflow.exceptions import MlflowException
    from mlflow.server.auth.client import AuthServiceClient

    before = {name: os.environ.get(name) for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")}
    os.environ |= {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": stack.password("admin")}
    try:
        client = AuthServiceClient(stack.url("mlflow"))
        for user in ("training", "serving"):
            try:
                client.update_user_password(user, stack.password(f"mlflow-{user}"))
            except MlflowException:
                client.create_user(user, stack.password(f"mlflow-{user}"))
        with suppress(MlflowException):  # it has that already
            client.grant_user_permission("training", "experiment", "0", "EDIT")  # where `mlflow run` puts its runs
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ |= {name: value} if value is not None else {}


HEALTH: dict[str, Callable[[Stack], bool]] = {
    "postgres": _postgres_answers,
    "valkey": _valkey_answers,
    "objects": lambda stack: _answers(stack.url("objects")),
    "mlflow": lambda stack: _answers(f"{stack.url('mlflow')}/health"),
    "service": lambda stack: _answers(f"{stack.url('service')}/livez"),  # alive: the first model may come later
}
PREPARE: dict[str, Callable[[Stack], None]] = {
    "postgres": prepare_postgres,
    "valkey": _prepare_valkey,
    "objects": _prepare_objects,
    "mlflow": _prepare_mlflow,
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="deploy.production", description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where it lives (data/production)")
    commands = parser.add_subparsers(dest="command", required=True)
    started = commands.add_parser("up", help="start what is not running, and wait until it is healthy")
    started.add_argument("--workers", type=int, default=2, help="processes of the service (2)")
    started.add_argument("--rotate", action="store_true", help="with new passwords, but for the superusers'")
    commands.add_parser("status", help="what runs, and where")
    backed = commands.add_parser("backup", help="copy what Postgres holds into a file")
    backed.add_argument("file", type=Path, help="which must not be there")
    restored = commands.add_parser("restore", help="put it back; next: up")
    restored.add_argument("file", type=Path, help="that `backup` wrote")
    restored.add_argument("--replace", action="store_true", help="and give up what is there now")
    ended = commands.add_parser("down", help="stop everything")
    ended.add_argument("--purge", action="store_true", help="and delete databases, logs and passwords")
    running = commands.add_parser("run", help="run a command with the variables of a role")
    running.add_argument("role", choices=ROLES)
    running.add_argument("args", nargs=argparse.REMAINDER, metavar="command")
    options = parser.parse_args(argv)
    stack = Stack(options.folder.resolve(), getattr(options, "workers", 2))
    try:
        if options.command == "up":
            if options.rotate:
                stack.rotate()
            up(stack)
            print("Next: python -m deploy.production run loop make pipeline")
        elif options.command == "down":
            down(stack)
            if options.purge:
                shutil.rmtree(stack.root, ignore_errors=True)
        elif options.command == "backup":
            from deploy.backup import backup

            print(backup(stack, options.file))
        elif options.command == "restore":
            from deploy.backup import restore

            print(restore(stack, options.file, options.replace))
            print("Next: python -m deploy.production up")
        elif options.command == "status":
            print(status(stack))
        else:
            if not options.args:
                parser.error("run: which command?")
            if not (stack.root / "settings.json").exists():
                raise NotHealthy(f"There is no production profile in {stack.root}. Start it: make production-up")
            os.environ |= stack.environment(options.role)
            os.execvp(options.args[0], options.args)  # noqa: S606 - it is the user's own command
    except (Refusal, OSError, psycopg.Error) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
