"""The listening sockets, each with its port's front; the limit of descriptors, and the messages to systemd."""

from __future__ import annotations

import os
import resource
import socket
from typing import TYPE_CHECKING, NamedTuple

from engine import log
from engine.errors import ConfigError, for_log

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.runtime.front import Port

logger = log.get("server.supervisor")

LISTEN_BACKLOG = 1024


class Listener(NamedTuple):
    """One listening socket."""

    port: Port
    sock: socket.socket

    @property
    def url(self) -> str:
        """The URL for a browser; "" for a protocol without URLs."""
        host, number = self.sock.getsockname()[:2]
        if not self.port.scheme:
            return ""
        if host in ("0.0.0.0", "::"):
            host = socket.gethostname()
        return f"{self.port.scheme}://{f'[{host}]' if ':' in host else host}:{number}/"


def listen(ports: Iterable[Port]) -> list[Listener]:
    """Listening sockets for every address of every port. Raises ConfigError when one cannot be opened."""
    listeners: list[Listener] = []
    try:
        for port in ports:
            listeners += [Listener(port, sock) for sock in _sockets(port.host, port.number, port.protocol)]
    except ConfigError:
        for listener in listeners:
            listener.sock.close()
        raise
    return listeners


def _sockets(host: str, port: int, protocol: str) -> list[socket.socket]:
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(f"host {host!r} is not an address to listen on for {protocol}: {error}") from error
    sockets: list[socket.socket] = []
    for family, kind, number, _, address in addresses:
        sock = socket.socket(family, kind, number)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind(address)
        except OSError as error:
            for each in (*sockets, sock):
                each.close()
            raise ConfigError(f"{host}:{port} cannot be listened on for {protocol}: {error.strerror}") from error
        sock.listen(LISTEN_BACKLOG)
        sock.setblocking(False)
        sockets.append(sock)
    return sockets


def raise_descriptor_limit() -> None:
    """Raises the limit to what the system allows: shells set 1024, too few for a thousand peers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            logger.warning("the limit of open files cannot be raised", soft=soft, hard=hard, error=for_log(error))


def notify_systemd(state: str) -> None:
    """sd_notify: sends one datagram if systemd has asked for it."""
    _send_to_systemd(state, 0)


def show_in_systemd(status: str) -> None:
    """Shows a line in `systemctl status`. It is left out while systemd does not keep up: nothing waits for it."""
    _send_to_systemd(f"STATUS={status}", socket.MSG_DONTWAIT)


def _send_to_systemd(message: str, flags: int) -> None:
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(message.encode(), flags, address)
        except BlockingIOError:
            pass
        except OSError as error:
            logger.warning("systemd was not notified", error=error.strerror)
