"""The listening sockets, the limit of descriptors, and what systemd is told."""

from __future__ import annotations

import os
import resource
import socket

from engine import log
from engine.errors import ConfigError

logger = log.get("server.supervisor")

LISTEN_BACKLOG = 1024


def listen(host: str, port: int) -> list[socket.socket]:
    """Listening sockets for every address of `host`. Raises ConfigError when the port cannot be had."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(f"host {host!r} is no address to listen on: {error}") from error
    sockets = []
    for family, kind, protocol, _, address in addresses:
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind(address)
        except OSError as error:
            raise ConfigError(f"{host}:{port} cannot be listened on: {error.strerror}") from error
        sock.listen(LISTEN_BACKLOG)
        sock.setblocking(False)
        sockets.append(sock)
    return sockets


def raise_descriptor_limit() -> None:
    """Takes what the system allows: the limit that shells set, 1024, is older than servers of a thousand peers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            logger.warning("the limit of open files stays", soft=soft, hard=hard, error=str(error))


def notify_systemd(state: str) -> None:
    """sd_notify: one datagram, where systemd asked for it."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(state.encode(), address)
        except OSError as error:
            logger.warning("systemd was not notified", error=error.strerror)
