"""Each server: is it healthy, and is there what has to be there before others need it."""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg

from fti.deploy.folder import NotHealthy
from fti.deploy.postgres import holds_rows, postgres_answers, prepare_postgres
from fti.deploy.stack import ARTIFACTS, BUCKET, Stack

PATIENCE = 600.0  # seconds for a server to be healthy, on a slow machine


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


def _missing_buckets(stack: Stack) -> tuple[Any, set[str]]:
    """A client of the object store, and which buckets it lacks."""
    import boto3
    from botocore.config import Config

    told = stack.object_store("admin")
    client = boto3.client(
        "s3", endpoint_url=told["AWS_ENDPOINT_URL"], region_name=told["AWS_REGION"], config=Config(proxies={}),
        aws_access_key_id=told["AWS_ACCESS_KEY_ID"], aws_secret_access_key=told["AWS_SECRET_ACCESS_KEY"],
    )  # fmt: skip
    there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    return client, {BUCKET, ARTIFACTS} - there


def _prepare_objects(stack: Stack) -> None:
    client, missing = _missing_buckets(stack)
    for bucket in missing:
        client.create_bucket(Bucket=bucket)


def forgotten(stack: Stack) -> bool:
    """Whether the object store is empty while Postgres has a registry or steps of tables that were there."""
    _, missing = _missing_buckets(stack)
    return bool(missing) and any(holds_rows(stack, database) for database in ("feast", "predictions"))


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
    "postgres": postgres_answers,
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


def healthy(stack: Stack, server: str) -> bool:
    import redis

    try:
        return HEALTH[server](stack)
    except (OSError, psycopg.Error, redis.RedisError):
        return False


def wait(stack: Stack, server: str) -> None:
    """Return once it is healthy. Raises NotHealthy."""
    until = time.monotonic() + PATIENCE
    while not healthy(stack, server):
        if time.monotonic() > until:
            raise NotHealthy(
                f"{server} is not healthy after {PATIENCE:.0f} s; {stack.root}/logs/{server}.log says why."
            )
        time.sleep(0.2)
