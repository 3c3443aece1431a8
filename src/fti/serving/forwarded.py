"""Who really asks, when a reverse proxy stands in front: a request's peer and headers in; what is known, out.

A proxy on this machine makes every request come from this machine. So a request that says it was forwarded counts as
one from elsewhere, unless its peer is a proxy that SERVING_TRUSTED_PROXIES names: then that proxy's word counts.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Scope

from fti.serving.addresses import address_of, is_local

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
# What proxies say of whom they ask for, beside X-Forwarded-*.
SAYS_FORWARDED = {
    b"forwarded",
    b"via",
    b"x-real-ip",
    b"x-client-ip",
    b"x-cluster-client-ip",
    b"x-original-forwarded-for",
    b"x-original-host",
    b"x-envoy-external-address",
    b"x-proxyuser-ip",
    b"cf-connecting-ip",
    b"fastly-client-ip",
    b"true-client-ip",
    b"cdn-loop",
}
PREFIX = re.compile(r"(?:/[A-Za-z0-9_-][A-Za-z0-9_.~-]*)+")
WITH_PORT = re.compile(r"\[([^\]]*)\](?::\d+)?|([0-9.]+):\d+")


@dataclass(frozen=True)
class Seen:
    """Who asks. `local` says that nobody has forwarded the request from another machine."""

    address: str
    local: bool
    scheme: str
    host: str | None  # as the client called the service
    prefix: str = ""  # under which the proxy shows it


class Proxies:
    """The proxies whose word counts."""

    def __init__(self, trusted: Sequence[Network] = ()) -> None:
        self._trusted = trusted

    def see(self, scope: Scope, headers: Headers) -> Seen:
        """Who asks for what a request's peer sends."""
        peer = (scope.get("client") or ("",))[0]
        said = any(name in SAYS_FORWARDED or name.startswith(b"x-forwarded-") for name, _ in scope["headers"])
        scheme, host = scope.get("scheme", "http"), headers.get("host")
        if not said or not self._is_trusted(peer):
            return Seen(peer, not said, scheme, host)
        address = self._client_of(headers)
        given, prefix = _last(headers, "x-forwarded-proto").lower(), _last(headers, "x-forwarded-prefix").rstrip("/")
        return Seen(
            address or "unknown",
            is_local(address),
            given if given in {"http", "https"} else scheme,
            _last(headers, "x-forwarded-host") or host,
            prefix if PREFIX.fullmatch(prefix) else "",
        )

    def _client_of(self, headers: Headers) -> str:
        """The last address that no trusted proxy has; what stands before it anybody may have written. '' if unknown."""
        for address in _addresses(headers):
            if not address or not self._is_trusted(address):
                return address
        return ""

    def _is_trusted(self, address: str) -> bool:
        known = address_of(address)
        return known is not None and any(known in network for network in self._trusted)


def _addresses(headers: Headers) -> Iterator[str]:
    """What X-Forwarded-For names, the newest first; '' for what is no address."""
    for given in reversed(_items(headers, "x-forwarded-for")):
        found = WITH_PORT.fullmatch(given)
        address = address_of((found[1] or found[2] or "") if found else given)
        yield "" if address is None else str(address)


def _items(headers: Headers, name: str) -> list[str]:
    return [item.strip() for item in ",".join(headers.getlist(name)).split(",")]


def _last(headers: Headers, name: str) -> str:
    """What the nearest proxy said: what comes before it a client may have sent."""
    return _items(headers, name)[-1]
