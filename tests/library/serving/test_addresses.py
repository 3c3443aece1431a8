"""Hosts and origins, compared as what they mean."""

from __future__ import annotations

import pytest

from fti.serving.addresses import is_local, is_own_site, names_this_machine, origin_of


@pytest.mark.parametrize(
    ("host", "local"),
    [
        *((host, True) for host in ("localhost", "LOCALHOST:1", "[::1]", "[::1]:3000", "[0::1]", "127.1.2.3")),
        *((host, True) for host in ("a.localhost:3000", "[::ffff:127.0.0.1]")),
        *((host, False) for host in ("[::1].evil.com", "[::1]evil", "::1", "[127.0.0.1]", "[::1", "localhost:", "")),
        *((host, False) for host in ("localhost:x", "localhost:3000:1", "localhost/", "x@localhost", "localhost.evil")),
        *((host, False) for host in ("127.0.0.1.evil.com", "[::1]:3000.evil.com", "localhost,evil.com", "[::1%25lo]")),
    ],
)  # fmt: skip
def test_a_host_names_this_machine_or_not(host, local):
    """What only begins like a name of this machine is another."""
    assert names_this_machine(host) is local


@pytest.mark.parametrize(
    ("origin", "host", "own"),
    [
        ("http://localhost:3000", "LocalHost:3000", True),
        ("http://localhost", "localhost:80", True),
        ("https://localhost:443", "localhost", True),
        ("http://[::1]:3000", "[0:0:0:0:0:0:0:1]:3000", True),
        ("http://127.0.0.1:3000", "localhost:3000", False),
        ("http://localhost:3001", "localhost:3000", False),
        ("http://[::1].evil.com", "[::1].evil.com", False),
        ("http://[::1].evil.com", "[::1]", False),
        ("http://localhost@evil.com", "localhost", False),
        ("file://", "", False),
        ("null", "null", False),
        ("localhost", "localhost", False),
    ],
)
def test_an_origin_is_the_own_site_or_not(origin, host, own):
    """By name or address, and port."""
    assert is_own_site(origin, host) is own


def test_origins_are_spelt_as_browsers_spell_them():
    """Small letters, no port that goes without saying; what is no origin is None."""
    assert origin_of("HTTPS://App.Example.org:443") == "https://app.example.org"
    assert origin_of("http://[0:0::1]:8080") == "http://[::1]:8080"
    for text in ("app.example.org", "https://a.example/", "https://*.example.org", "ftp://a", "null", ""):
        assert origin_of(text) is None


def test_an_address_that_ipv6_carries_is_itself():
    """A service that listens on :: sees 127.0.0.1 so."""
    assert is_local("::ffff:127.0.0.1")
    assert not is_local("::ffff:192.0.2.7")
