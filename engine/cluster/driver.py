"""The one door to psycopg, PostgreSQL's driver, which only servers with a [cluster] have.

psycopg is an optional package, so its types are written down here: what this room uses of a connection. Every
statement has a limit that this side keeps. The server's own does not suffice: `statement_timeout` does not end the wait
for a standby at commit, a frozen server keeps none, and a cancelled wait answers that all is well.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import cache
from typing import Any, Protocol

from engine.errors import ClusterError, ClusterUnreachable

_SERVER_PART = 0.75
"""The part of the limit after which the server ends a statement, and has then changed nothing. At the whole, this side
ends the connection, and does not know what becomes of the statement."""
_CONNECT_S = 2
"""The shortest limit for a connection that libpq knows."""


class Diagnostic(Protocol):
    """What PostgreSQL says of an error or a notice."""

    sqlstate: str | None
    message_primary: str | None
    message_detail: str | None
    severity_nonlocalized: str | None


class Information(Protocol):
    """Facts of a connection."""

    backend_pid: int


class Cursor(Protocol):
    """What a statement returned."""

    description: object

    def fetchall(self) -> list[tuple[Any, ...]]: ...


class Notification(Protocol):
    """What LISTEN received."""

    payload: str


class Connection(Protocol):
    """A session with a server."""

    info: Information
    limit_s: float
    """Seconds for each answer."""
    closed: bool
    broken: bool

    def execute(
        self, statement: str | bytes, values: Sequence[object] | None = None, *, prepare: bool | None = None,
        binary: bool = False,
    ) -> Cursor: ...  # fmt: skip

    def transaction(self) -> Any: ...

    def notifies(self, *, timeout: float | None = None, stop_after: int | None = None) -> Iterator[Notification]: ...

    def add_notice_handler(self, handler: Callable[[Diagnostic], None]) -> None: ...

    def close(self) -> None: ...


@cache
def psycopg() -> Any:
    """The package. Raises ClusterError if it is not installed."""
    try:
        return importlib.import_module("psycopg")
    except ImportError as error:
        raise ClusterError(
            "[cluster] needs the package psycopg 3, which is not installed: pip install 'filmroom[cluster]'"
        ) from error


def connect(words: dict[str, str], name: str, limit_s: float) -> Connection:
    """A connection in which each statement is a transaction, and has `limit_s`. Raises ClusterUnreachable,
    ClusterError."""
    package = psycopg()
    settings: dict[str, object] = {
        # A link that is cut is noticed in half of the limit (`man 7 tcp`, TCP_USER_TIMEOUT), an idle one in eight
        # seconds.
        "tcp_user_timeout": int(limit_s * 500),
        "keepalives": 1,
        "keepalives_idle": 5,
        "keepalives_interval": 1,
        "keepalives_count": 3,
        **words,
        "connect_timeout": max(_CONNECT_S, math.ceil(limit_s)),
        "application_name": name,
    }
    ours = f"-c statement_timeout={int(limit_s * _SERVER_PART * 1000)} -c search_path=pg_catalog"
    settings["options"] = f"{ours} {words.get('options', '')}".strip()
    try:
        connection: Connection = _bounded().connect(autocommit=True, **settings)
    except package.Error as error:
        raise ClusterUnreachable(f"{where(words)} does not let us in: {first_line(error)}") from error
    connection.limit_s = limit_s
    return connection


def where(words: dict[str, str]) -> str:
    """The place of a server for messages: never its whole address, which may hold more."""
    host = words.get("host") or words.get("hostaddr") or "the default socket"
    port = words.get("port", "5432")
    return f"PostgreSQL at {host}" if host.startswith("/") else f"PostgreSQL at {host}:{port}"


def first_line(error: BaseException) -> str:
    """What the driver says, without hints and positions."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


@cache
def _bounded() -> Any:
    """A connection that is closed when an answer does not come in time."""
    package = psycopg()
    plain: Any = package.Connection

    class BoundedConnection(plain):  # type: ignore[misc]
        limit_s = float(_CONNECT_S)

        def wait(self, gen: Any, *args: Any, **words: Any) -> Any:
            try:
                return super().wait(_until(time.monotonic() + self.limit_s, gen), *args, **words)
            except TimeoutError as error:
                self.close()
                raise package.OperationalError(f"no answer in {self.limit_s:g} s") from error

    return BoundedConnection


def _until(deadline: float, steps: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """The same steps, which end at a time. The driver asks for one every 0.1 s also when nothing comes."""
    ready = None
    while True:
        try:
            wish = steps.send(ready)
        except StopIteration as end:
            return end.value
        ready = yield wish
        if not ready and time.monotonic() > deadline:
            steps.close()
            raise TimeoutError
