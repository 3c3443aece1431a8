"""Who asks through a proxy: by the word of one that is named, and of no other."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from starlette.datastructures import Headers

from fti.serving.forwarded import Proxies, Seen

TRUSTED = Proxies([ip_network("127.0.0.1"), ip_network("10.0.0.0/8")])


def seen(proxies: Proxies, peer: str, **headers: str) -> Seen:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "client": (peer, 1), "scheme": "http", "headers": [(b"host", b"localhost"), *pairs]}
    return proxies.see(scope, Headers(scope=scope))


def test_the_word_of_a_proxy_that_is_not_named_counts_for_nothing():
    """But for this: the request is from elsewhere."""
    told = {"x_forwarded_for": "127.0.0.1", "x_forwarded_proto": "https", "x_forwarded_prefix": "/fti"}
    assert seen(Proxies(), "127.0.0.1", **told) == Seen("127.0.0.1", False, "http", "localhost")
    assert seen(TRUSTED, "192.0.2.7", **told) == Seen("192.0.2.7", False, "http", "localhost")
    assert seen(TRUSTED, "127.0.0.1") == Seen("127.0.0.1", True, "http", "localhost")


def test_a_named_proxy_says_who_asks_and_where():
    """Address, scheme, host and prefix."""
    found = seen(
        TRUSTED, "127.0.0.1", x_forwarded_for="203.0.113.9", x_forwarded_proto="https",
        x_forwarded_host="api.example", x_forwarded_prefix="/fti/",
    )  # fmt: skip
    assert found == Seen("203.0.113.9", False, "https", "api.example", "/fti")
    assert seen(TRUSTED, "127.0.0.1", x_forwarded_for="127.0.0.1").local is False  # all that it names are proxies


@pytest.mark.parametrize(
    ("named", "address"),
    [
        ("203.0.113.9, 10.1.2.3", "203.0.113.9"),
        ("127.0.0.1, 203.0.113.9", "203.0.113.9"),
        ("localhost, 203.0.113.9:4711", "203.0.113.9"),
        ("[2001:db8::1]:80, 10.0.0.1", "2001:db8::1"),
        ("203.0.113.9, evil", "unknown"),
        ("", "unknown"),
    ],
)
def test_the_last_address_that_no_proxy_has_is_the_clients(named, address):
    """What stands before it the client may have written itself."""
    found = seen(TRUSTED, "10.0.0.1", x_forwarded_for=named)
    assert (found.address, found.local) == (address, False)


def test_a_prefix_is_a_plain_path():
    """Anything else would be written into the description of the service."""
    for prefix in ("fti", "//evil.example", "/a/../b", "/a b", "/a%0a", "https://evil.example"):
        assert seen(TRUSTED, "127.0.0.1", x_forwarded_for="203.0.113.9", x_forwarded_prefix=prefix).prefix == ""
