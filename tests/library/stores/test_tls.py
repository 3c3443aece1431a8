"""TLS to the servers of the production profile, by the addresses that .env and feature_store.yaml have: only to one
whose certificate is for the name that was asked for, and signed by an authority that is trusted."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import requests
import trustme
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError
from upath import UPath

from fti.contract.predictions import open_log
from fti.scoring.loading import find_version
from tests.conftest import ROOT
from tests.library.stores.test_restating_redis import NOON, Online
from tests.library.stores.test_wal_sqlite import view_of
from tests.small_repo import JULY, arguments, read_raw, rows_of
from tests.tls import tls_before


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def known(authority: trustme.CA, tmp_path: Path) -> str:
    """The file of certificates that a client trusts."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return str(tmp_path / "ca.pem")


@pytest.fixture
def strangers(tmp_path: Path) -> str:
    """The same of another authority."""
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "strangers.pem"))
    return str(tmp_path / "strangers.pem")


def certified(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.fixture
def valkey_port(valkey: str, authority: trustme.CA) -> Iterator[int]:
    host, port = valkey.partition(",")[0].split(":")
    with tls_before(lambda: socket.create_connection((host, int(port))), certified(authority, "localhost")) as secure:
        yield secure


def test_features_are_written_and_read_over_tls(valkey_port, known):
    prices = view_of(features=("a",))
    online = Online(f"localhost:{valkey_port},ssl=true,ssl_ca_certs={known},password=lock", "tls")
    online.write(prices, ("k", {"a": 1}, NOON, NOON))
    assert online.read(prices, "k") == [(NOON, {"a": 1})]


@pytest.mark.parametrize(("host", "trusts"), [("localhost", "strangers"), ("127.0.0.1", "known")])
def test_features_are_not_read_from_a_server_nobody_vouches_for(valkey_port, host, trusts, request):
    """A certificate of an unknown authority, and one for another name."""
    online = Online(
        f"{host}:{valkey_port},ssl=true,ssl_ca_certs={request.getfixturevalue(trusts)},password=lock", "tls"
    )
    with pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        online.read(view_of(features=("a",)), "k")


def test_a_password_is_not_sent_in_clear_to_a_server_that_speaks_tls(valkey_port):
    """Without `ssl=true`: nothing is answered."""
    with pytest.raises(redis.ConnectionError):
        Online(f"localhost:{valkey_port},password=lock", "tls").read(view_of(features=("a",)), "k")


@pytest.fixture
def postgres_url(postgres: str, authority: trustme.CA) -> Iterator[Any]:
    """Its address on a port of this machine, without saying how to connect."""
    local = make_url(postgres.replace("DATABASE", "postgres"))

    def connect() -> socket.socket:
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{local.query['host']}/.s.PGSQL.5432")
        return server

    with tls_before(connect, certified(authority, "localhost"), postgres=True) as port:
        yield local.set(host="localhost", port=port, query={})


def in_use(url: Any, **how: str) -> Any:
    with open_log(url.update_query_dict(how).render_as_string(hide_password=False)).connect() as connection:
        used = connection.connection.driver_connection.pgconn.ssl_in_use
        return used, connection.scalar(text("SELECT 1"))


def test_predictions_and_the_registry_are_kept_over_tls(postgres_url, known):
    """What Feast's SQL registry, MLflow and the log of predictions have in common is a URL of SQLAlchemy."""
    assert in_use(postgres_url, sslmode="verify-full", sslrootcert=known) == (True, 1)


def test_no_postgres_is_taken_that_nobody_vouches_for(postgres_url, known, strangers):
    for url, trusts in ((postgres_url, strangers), (postgres_url.set(host="127.0.0.1"), known)):
        with pytest.raises(OperationalError, match="certificate"):
            in_use(url, sslmode="verify-full", sslrootcert=trusts)


# ---- the tracking server --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tracking_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """MLflow's server, in clear text."""
    root = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{root}/mlflow.db",
        "--artifacts-destination", f"{root}/artifacts", "--workers", "1", "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    with (root / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        deadline = time.monotonic() + 180
        try:
            while not _healthy(port):
                assert time.monotonic() < deadline, (root / "log").read_text()
                time.sleep(0.2)
            yield port
        finally:
            server.terminate()


def _healthy(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/health", timeout=10).ok
    except requests.ConnectionError:
        return False


@pytest.fixture
def tracking(
    tracking_port: int, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, str], None]]:
    """Point to it over TLS: by which name, and trusting whom."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    def told(host: str, trusts: str) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://{host}:{port}")
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", trusts)

    context = certified(authority, "localhost")
    with tls_before(lambda: socket.create_connection(("127.0.0.1", tracking_port)), context) as port:
        yield told


def test_models_are_registered_and_fetched_over_tls(tracking, known, tmp_path):
    """As training registers one, and serving looks up its alias and fetches its files."""
    tracking("localhost", known)
    client = MlflowClient()
    of_run = client.create_run("0").info
    client.log_text(of_run.run_id, "words", "model/said.txt")
    client.create_registered_model("secret")
    version = client.create_model_version("secret", f"{of_run.artifact_uri}/model", of_run.run_id)
    client.set_registered_model_alias("secret", "champion", version.version)
    found = find_version("secret", "champion")
    assert found.version == version.version
    assert (Path(download_artifacts(found.source, dst_path=str(tmp_path))) / "said.txt").read_text() == "words"


@pytest.mark.parametrize(("host", "trusts"), [("localhost", "strangers"), ("127.0.0.1", "known")])
def test_no_model_is_taken_from_a_server_nobody_vouches_for(tracking, host, trusts, request):
    tracking(host, request.getfixturevalue(trusts))
    with pytest.raises(MlflowException, match=r"CERTIFICATE_VERIFY_FAILED|doesn't match"):
        find_version("secret", "champion")


# ---- the object store -----------------------------------------------------------------------------------------------


@pytest.fixture
def lake(
    s3: dict[str, str], authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, str], str]]:
    """Point to the object store over TLS: by which name, and trusting whom; returns an empty place there.

    delta-rs takes authorities from SSL_CERT_FILE, boto3, by which MLflow keeps artifacts, from AWS_CA_BUNDLE.
    """
    port = int(s3["AWS_ENDPOINT_URL"].rpartition(":")[2])
    root = f"s3://lake/{tmp_path.name}"
    for name, value in (s3 | {"FTI_TABLES": root, "AWS_MAX_ATTEMPTS": "1"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ALLOW_HTTP")

    def told(host: str, trusts: str) -> str:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://{host}:{secure}")
        for name in ("SSL_CERT_FILE", "AWS_CA_BUNDLE"):
            monkeypatch.setenv(name, trusts)
        return root

    with tls_before(lambda: socket.create_connection(("127.0.0.1", port)), certified(authority, "localhost")) as secure:
        yield told


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Another process: while delta-rs waits for an answer, it keeps the proxy in this one from giving it."""
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=600)


def test_tables_are_landed_and_published_over_tls(folder, lake, known, s3, monkeypatch):
    root = lake("localhost", known)
    shutil.rmtree(folder / "data")
    commands = [arguments(folder, command, *JULY) for command in ("ingest", "publish")]
    done = python("-c", f"from fti.features.run import main; print([main(one) for one in {commands}])")
    assert done.stdout.endswith("[0, 0]\n"), done.stderr[-4000:]
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    found = rows_of(UPath(root))
    assert len(found["raw/schedule"]) == len(read_raw(folder, "flights.csv.zip"))
    assert len(found["features/flight_schedule"]) > 0


@pytest.mark.parametrize(("host", "trusts"), [("localhost", "strangers"), ("127.0.0.1", "known")])
def test_no_table_is_read_where_nobody_vouches(lake, host, trusts, request):
    root = lake(host, request.getfixturevalue(trusts))
    opened = f"deltalake.DeltaTable('{root}/raw/schedule', storage_options={{'max_retries': '0'}})"
    assert "invalid peer certificate" in python("-c", f"import deltalake; {opened}").stderr


def test_artifacts_are_kept_over_tls(lake, known, tmp_path):
    """As MLflow's server keeps them, or a client that was given no server for them."""
    (tmp_path / "said.txt").write_text("words")
    kept = get_artifact_repository(lake("localhost", known))
    kept.log_artifact(str(tmp_path / "said.txt"))
    assert [one.path for one in kept.list_artifacts()] == ["said.txt"]


@pytest.mark.parametrize(("host", "trusts"), [("localhost", "strangers"), ("127.0.0.1", "known")])
def test_no_artifact_is_sent_where_nobody_vouches(lake, host, trusts, request):
    """By a process of its own: MLflow keeps the first client that it makes."""
    root = lake(host, request.getfixturevalue(trusts))
    registry = "from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository"
    said = python("-c", f"{registry}; get_artifact_repository({root!r}).log_artifact({__file__!r})").stderr
    assert "SSLError: SSL validation failed" in said
