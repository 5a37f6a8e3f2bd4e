"""Checks whether an address lies in one of the networks that the configuration names."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LOOPBACK = ("127.0.0.0/8", "::1/128")


@lru_cache(maxsize=64)
def networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    """Parses networks of the configuration, which has validated them."""
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)


@lru_cache(maxsize=4096)
def is_in_any(address: str, texts: tuple[str, ...]) -> bool:
    """`is_in` for networks as text; cached, since a client asks thousands of times."""
    return is_in(address, networks(texts))


def is_in(address: str, among: Iterable[Network]) -> bool:
    """Whether an address lies in one of them; an IPv4 address may be in its IPv6-mapped form."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return any((mapped or parsed) in network for network in among)


def is_address(text: str) -> bool:
    """Whether a text is a network address."""
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether a host to listen on is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
