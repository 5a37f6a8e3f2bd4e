"""What a front end is to the process that hosts it: it takes connections, and ends them.

supervisor   accepts a connection, holds it until its first bytes are a `Verdict` to hand it over, and gives it to
             a worker under the name of its front
worker       gives it to the `Front` of that name; knows no protocol itself
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import socket

    from engine.config import Config


class Front(Protocol):
    """All connections of one protocol in one process. All calls come on the loop's thread."""

    name: str
    """As the listener of its port is called."""

    @property
    def connections_count(self) -> int:
        """How many connections are open."""

    @property
    def is_busy(self) -> bool:
        """Whether somebody waits for an answer."""

    def connected(self, sock: socket.socket, host: str, on_end: Callable[[], None]) -> None:
        """Takes a connection over; `on_end` is called once, when it is closed."""

    def configure(self, config: Config) -> None:
        """Takes a new configuration over. What it does not cover needs a restart."""

    def start_draining(self) -> None:
        """Ends what is idle, takes nothing new, and lets what is under way go on."""

    def abort(self, why: str) -> None:
        """Ends everything at once."""

    def stats(self) -> dict[str, object]:
        """What it has done, as plain data."""

    def close(self) -> None:
        """Frees what it holds, after its last connection has ended."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the first bytes of a connection say."""

    problem: str = ""
    """What they are, where they are nothing for this front: for the log and a counter."""
    is_complete: bool = False
    """Whether the connection is handed over as soon as `needed_bytes` are there."""
    needed_bytes: int = 0
    """How many bytes must have come before more can be said or done."""
    rationed_bytes: int = 0
    """Length of a request that is so long that an address may have only so many bytes of them looked at; else 0."""
    farewell: bytes = b""
    """What it gets before it is closed, where there is a `problem`."""


Judge = Callable[[bytes], Verdict]
"""What a connection is that begins with these bytes, at least one and up to `HEAD_BYTES`."""

HEAD_BYTES = 16


@dataclass(frozen=True, slots=True)
class Port:
    """Where connections for one front are accepted."""

    front: str
    protocol: str
    """For people: DICOM, HTTP."""
    host: str
    number: int
    """0: any free one."""
    judge: Judge
    silence_s_max: Callable[[], float]
    """How long a connection may take to say what it is."""
    scheme: str = ""
    """Of its URL, where the protocol has one."""
