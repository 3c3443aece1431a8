"""Addresses, host names and origins, compared as what they mean and not as text."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
AUTHORITY = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?")
PORTS = {"http": 80, "https": 443}


def address_of(text: str) -> Address | None:
    """The address that a text is; one of IPv4 that IPv6 carries (::ffff:127.0.0.1) is that of IPv4."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(maxsize=128)
def is_local(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    address = address_of(host)
    return host == "localhost" if address is None else address.is_loopback


def authority_of(text: str, scheme: str) -> tuple[str | Address, int] | None:
    """Name or address, and port, of what a Host header says; None for what is neither."""
    found = AUTHORITY.fullmatch(text)
    if found is None or scheme not in PORTS:
        return None
    port = int(found["port"] or PORTS[scheme])
    if found["six"] is not None:
        address = address_of(found["six"])
        return (address, port) if address is not None and ":" in found["six"] else None
    return address_of(found["name"]) or found["name"].lower(), port


@lru_cache(maxsize=128)
def names_this_machine(host: str) -> bool:
    """Whether a Host header, with any port, is a name of this machine that nobody else can give it."""
    found = authority_of(host, "http")
    if found is None:
        return False
    return is_local(str(found[0])) or str(found[0]).endswith(".localhost")


def is_own_site(origin: str, host: str) -> bool:
    """Whether an Origin is the site that a Host header names. The scheme is the browser's: TLS may end before us."""
    scheme, separator, authority = origin.partition("://")
    own = authority_of(host, scheme.lower())
    return bool(separator) and own is not None and authority_of(authority, scheme.lower()) == own


def origin_of(text: str) -> str | None:
    """An origin as browsers send it, in lower case and without its scheme's own port; None for what is none."""
    scheme, separator, authority = text.lower().partition("://")
    found = authority_of(authority, scheme) if separator else None
    if found is None:
        return None
    name, port = found
    shown = f"[{name}]" if isinstance(name, ipaddress.IPv6Address) else str(name)
    return f"{scheme}://{shown}" + ("" if port == PORTS[scheme] else f":{port}")
