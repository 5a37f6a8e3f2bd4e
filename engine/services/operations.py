"""Handlers for services with small requests, which are answered at once, or collected and run as a task.

Replies       a command without a data set, answered at once: C-ECHO
Operations    a command and its identifier, up to a length: C-FIND, C-MOVE, C-GET, N-ACTION. `Session.start` runs
              it as a task, or refuses it when as many run as the peer may have outstanding
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import cache
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from engine.dimse.assembly import DataSet
    from engine.services.service import Handler
    from engine.services.session import Session

IDENTIFIER_BYTES_MAX = 1 << 20
"""Length of a C-FIND, C-MOVE or C-GET identifier: a list of ten thousand UIDs has 650 KB."""

Serve: TypeAlias = "Callable[[Session, int, Any, bytes], Coroutine[Any, Any, None]]"
"""Answers a request with its identifier, from the first response to the last."""

Refuse: TypeAlias = "Callable[[Session, int, Any, str], None]"
"""Answers a request that is refused for lack of resources, with the given comment."""


def operations(
    serve: Serve, refuse: Refuse, *, bytes_max: int = IDENTIFIER_BYTES_MAX, is_data_set_optional: bool = False
) -> Callable[[Session], Handler]:
    """For `ServiceClass.attach`. `is_data_set_optional`: also serves a request without a data set, with b""."""
    return lambda session: Operations(session, serve, refuse, bytes_max, is_data_set_optional)


class Operations:
    """A service's requests on one association."""

    def __init__(
        self, session: Session, serve: Serve, refuse: Refuse, bytes_max: int, is_data_set_optional: bool
    ) -> None:
        self._session = session
        self._serve = serve
        self._refuse = refuse
        self._bytes_max = bytes_max
        self._is_data_set_optional = is_data_set_optional
        self._parts: dict[int, bytes] = {}
        """Incomplete identifiers, by presentation context id."""

    def request(self, presentation_context_id: int, message: Any, has_data_set: bool) -> None:
        """Waits for the identifier."""
        if has_data_set:
            return
        if self._is_data_set_optional:
            self._start(presentation_context_id, message, b"")
        else:
            self._session.connection.abort(f"{type(message).__name__} without its data set", 0, 0)

    def receive_part(self, presentation_context_id: int, message: Any, part: DataSet) -> None:
        """Keeps a part; aborts if the identifier is too long."""
        identifier = self._append(presentation_context_id, part)
        if identifier is not None:
            self._parts[presentation_context_id] = identifier

    def receive(self, presentation_context_id: int, message: Any, data_set: DataSet) -> None:
        """Serves the request."""
        identifier = self._append(presentation_context_id, data_set)
        if identifier is not None:
            self._start(presentation_context_id, message, identifier)

    def ended(self) -> None:
        """Forgets incomplete identifiers; `Session` ends the tasks."""
        self._parts.clear()

    def _append(self, presentation_context_id: int, data_set: DataSet) -> bytes | None:
        """The identifier up to this part; aborts and returns None if it is too long."""
        try:
            if data_set.offset + data_set.length > self._bytes_max:
                self._session.connection.abort(f"an identifier of more than {self._bytes_max} bytes", 0, 0)
                return None
            return self._parts.pop(presentation_context_id, b"") + data_set.to_bytes()
        finally:
            data_set.release()

    def _start(self, presentation_context_id: int, message: Any, identifier: bytes) -> None:
        session = self._session
        session.start(
            message.message_id,
            lambda: self._run_timed(self._serve(session, presentation_context_id, message, identifier), type(message)),
            lambda comment: self._refuse(session, presentation_context_id, message, comment),
        )

    async def _run_timed(self, work: Coroutine[Any, Any, None], request: type) -> None:
        start_s, is_failure = perf_counter(), True
        try:
            await work
            is_failure = False
        finally:
            counters = self._session.services.engine.metrics.operation("dicom", operation_name(request))
            counters.observe(perf_counter() - start_s, is_failure)


@cache
def operation_name(request: type) -> str:
    """The name of the operation in PS3.7: C-FIND for CFindRQ."""
    name = request.__name__.removesuffix("RQ")
    return f"{name[0]}-{name[1:].upper()}"


class Replies:
    """Answers requests at once."""

    def __init__(self, session: Session, reply: Callable[[Session, int, Any], None]) -> None:
        self._session = session
        self._reply = reply

    def request(self, presentation_context_id: int, message: Any, has_data_set: bool) -> None:
        """Answers a request; aborts if it has a data set, which these requests never have."""
        if has_data_set:
            self._session.connection.abort(f"{type(message).__name__} with a data set", 0, 0)
            return
        self._reply(self._session, presentation_context_id, message)

    def receive(self, presentation_context_id: int, message: Any, data_set: DataSet) -> None:
        """Drops the data set; the association was aborted."""
        data_set.release()

    receive_part = receive

    def ended(self) -> None:
        """Does nothing: no operation is ever in progress."""
