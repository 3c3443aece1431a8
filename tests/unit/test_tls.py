"""TLS to the servers of the production profile, by the addresses that .env and feature_store.yaml have: only to one
whose certificate is for the name that was asked for, and signed by an authority that is trusted."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import trustme
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError

from tests.contract.test_restating_redis import NOON, Online
from tests.contract.test_wal_sqlite import view_of
from tests.tls import tls_before
from validation.predictions import open_log


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
