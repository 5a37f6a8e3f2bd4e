"""The interface between a front end and its process: a front takes connections over and ends them.

supervisor   accepts a connection, holds it until a `Judge` has a verdict on its first bytes, and gives it to a worker
             with the name of its front
worker       gives it to the `Front` of that name; knows no protocol itself
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import socket

    from engine.config import Config


class Front(Protocol):
    """All connections of one protocol in one process. All calls come on the loop's thread."""

    name: str
    """The same as `Port.front` of its port."""

    @property
    def connections_count(self) -> int:
        """The number of open connections."""

    @property
    def is_busy(self) -> bool:
        """Whether a client waits for an answer."""

    def connected(self, sock: socket.socket, host: str, on_end: Callable[[], None]) -> None:
        """Takes a connection over; `on_end` is called once, when it is closed."""

    def configure(self, config: Config) -> None:
        """Applies a new configuration, except the settings that need a restart."""

    def start_draining(self) -> None:
        """Closes idle connections, accepts nothing new, and lets operations in progress finish."""

    def abort(self, why: str) -> None:
        """Ends all connections at once."""

    def stats(self) -> dict[str, object]:
        """Its counters, as plain data."""

    def close(self) -> None:
        """Frees its resources. Call this after its last connection has ended."""


class ServerLink(Protocol):
    """How a front asks the other processes of its server."""

    async def ask(self, topic: str, **fields: object) -> dict[str, Any]:
        """The answer; empty when the supervisor does not answer in time."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with a connection, by its first bytes."""

    problem: str = ""
    """What is wrong with the bytes, for the log and a counter; "": nothing."""
    is_complete: bool = False
    """Whether to hand the connection over as soon as `needed_bytes` have arrived."""
    needed_bytes: int = 0
    """The number of bytes that must arrive before the connection is judged again or handed over."""
    rationed_bytes: int = 0
    """Length of a long request, which counts against the rate limit of its address; else 0."""
    farewell: bytes = b""
    """Bytes to send before the connection is closed for a `problem`."""


Judge = Callable[[bytes], Verdict]
"""Judges a connection by its first bytes: at least one and up to `HEAD_BYTES`."""

HEAD_BYTES = 16


@dataclass(frozen=True, slots=True)
class Port:
    """The port of one front."""

    front: str
    protocol: str
    """The name of the protocol for people: DICOM, HTTP."""
    host: str
    number: int
    """0: any free one."""
    judge: Judge
    silence_s_max: Callable[[], float]
    """Seconds until a connection must have sent its `needed_bytes`."""
    scheme: str = ""
    """The scheme of its URL; "" where the protocol has none."""
    is_lone: bool = False
    """Whether one process of its own accepts its connections, so that they have one order."""
