"""The client's address, and the URL by which it reaches us: from the socket, a trusted proxy, or the request.

    public_root is set          every URL begins with it
    else a trusted proxy        Forwarded (RFC 7239), else X-Forwarded-Proto, -Host, -Port, -Prefix
    else the request            its Host header, with the socket's port if it has none, and the socket's scheme

Some clients leave the port out of Host (dicomweb-client for Python): a URL built from that would lead to port 80.
Forwarding headers of anybody but a trusted proxy are ignored.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, urlsplit

from engine.access.networks import Network, is_in

_HOST = re.compile(r"^(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(?::[0-9]{1,5})?$")
_PREFIX = re.compile(r"^(/[A-Za-z0-9._~-]+)+$")
_SCHEMES = frozenset({"http", "https"})
_DEFAULT_PORTS = {"http": 80, "https": 443}
_FORWARDED_PAIR = re.compile(r'\s*([A-Za-z]+)\s*=\s*(?:"([^"]*)"|([^;,"\s]*))\s*')

_PLAIN_UID = re.compile(r"[0-9.]*")

PROXIES_MAX = 10
"""The last steps of a chain of proxies that are evaluated."""


def segment(uid: str) -> str:
    """A UID as one segment of a path: some writers use characters that PS3.5 9.1 does not allow."""
    return uid if _PLAIN_UID.fullmatch(uid) else quote(uid, safe="")


@dataclass(frozen=True, slots=True)
class Origin:
    """Who sent a request, and by which URL."""

    client: str
    """The client's address."""
    root: str
    """The beginning of all URLs in answers, without a slash at the end."""
    host: str
    """The host name that the client uses for us, without a port."""


def origin_of(
    headers: Mapping[str, str],
    *,
    peer: str,
    scheme: str,
    socket_host: str,
    socket_port: int,
    public_root: str,
    trusted: tuple[Network, ...],
) -> Origin:
    """The origin of a request. `peer`: the address at the other end of the socket; `scheme`: of the socket."""
    host = headers.get("Host", "")
    if not trusted or not is_in(peer, trusted):
        return _direct(peer, host, scheme, socket_host, socket_port, public_root)
    forwarded = _forwarded(headers, peer, trusted)
    return _origin(forwarded, forwarded.get("host") or host, peer, scheme, socket_host, socket_port, public_root)


@lru_cache(maxsize=1024)
def _direct(peer: str, host: str, scheme: str, socket_host: str, socket_port: int, public_root: str) -> Origin:
    """Cached: it is the same for all requests of a connection."""
    return _origin({}, host, peer, scheme, socket_host, socket_port, public_root)


def _origin(
    forwarded: Mapping[str, str],
    host: str,
    peer: str,
    scheme: str,
    socket_host: str,
    socket_port: int,
    public_root: str,
) -> Origin:
    """`forwarded`: the values from trusted proxies."""
    client = forwarded.get("for", peer)
    if not _HOST.match(host):
        host = f"[{socket_host}]" if ":" in socket_host else socket_host
    if public_root:
        return Origin(client, public_root.rstrip("/"), _name(host))
    is_forwarded = "host" in forwarded or "proto" in forwarded
    scheme = forwarded.get("proto", scheme)
    if not _has_port(host):
        default_port = _DEFAULT_PORTS[scheme] if is_forwarded else socket_port
        port = int(forwarded.get("port", default_port))
        if port != _DEFAULT_PORTS[scheme]:
            host = f"{host}:{port}"
    return Origin(client, f"{scheme}://{host}{forwarded.get('prefix', '')}", _name(host))


def host_of(root: str) -> str:
    """The host name of a URL."""
    return urlsplit(root).hostname or ""


def _forwarded(headers: Mapping[str, str], peer: str, trusted: tuple[Network, ...]) -> dict[str, str]:
    """for, proto, host, port, prefix from the headers of trusted proxies; malformed values are left out."""
    if "Forwarded" in headers:
        steps = [_pairs(step) for step in headers["Forwarded"].split(",")[-PROXIES_MAX:]]
        values = _nearest_client([_address(step.get("for", "")) for step in steps], trusted)
        # Our own proxy stands last; the first step has the scheme and the host that the client used.
        for step in reversed(steps):
            values |= {name: step[name] for name in ("proto", "host") if step.get(name)}
    else:
        chain = [_address(part.strip()) for part in headers.get("X-Forwarded-For", "").split(",")[-PROXIES_MAX:]]
        values = _nearest_client(chain, trusted)
        for name in ("proto", "host", "port", "prefix"):
            if value := headers.get(f"X-Forwarded-{name.title()}", "").split(",")[0].strip():
                values[name] = value
    values["proto"] = values.get("proto", "").lower()
    valid = {
        "for": bool(values.get("for")),
        "proto": values["proto"] in _SCHEMES,
        "host": bool(_HOST.match(values.get("host", ""))),
        "port": values.get("port", "").isdecimal() and 0 < int(values["port"]) < 65536,
        "prefix": bool(_PREFIX.match(values.get("prefix", "").rstrip("/"))),
    }
    if valid["prefix"]:
        values["prefix"] = values["prefix"].rstrip("/")
    return {name: value for name, value in values.items() if valid[name]}


def _nearest_client(chain: list[str], trusted: tuple[Network, ...]) -> dict[str, str]:
    """The last address of a chain that is not a trusted proxy: the client may have invented those before it."""
    for address in reversed(chain):
        if not address:
            return {}
        if not is_in(address, trusted):
            return {"for": address}
    return {"for": chain[0]} if chain and chain[0] else {}


def _pairs(step: str) -> dict[str, str]:
    return {match[1].lower(): match[2] or match[3] or "" for match in _FORWARDED_PAIR.finditer(step)}


def _address(text: str) -> str:
    """The address of a node (RFC 7239 6) without its port; "" if it is not an address."""
    text = text.strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""


def _has_port(host: str) -> bool:
    return ":" in host.rpartition("]")[2]


def _name(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] or host if _has_port(host) else host
