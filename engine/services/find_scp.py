"""Query Service Class, C-FIND SCP (PS3.4 C.4.1).

It turns an identifier into a query for `index.query`, and each match into a pending response with the requested keys.

    request ──► pending, pending, …  ──► 0000  all matches were sent
                                         A700  more matches than this peer may have, or a timeout: comment, no offending
                                               elements
                                         FE00  C-CANCEL was received
                                         A900  the identifier violates PS3.4: comment and offending elements
                                         C000  the identifier, or the index, cannot be read
                                         0124  this peer may not query

The search runs in steps on the loop: after at most SLICE_S other tasks run, and a C-CANCEL or a lost connection ends
it, whether anything has matched or not. A key that the index does not have is returned empty, with status FF01.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import perf_counter
from typing import TYPE_CHECKING

from engine import audit, log
from engine.access import Action
from engine.archive.supplies import Finder, SuppliedFinder
from engine.audit import Outcome
from engine.dicom import tags
from engine.dimse.messages import CFindRQ, CFindRSP
from engine.dimse.status import FindStatus, GeneralStatus, Service, status_of
from engine.errors import EngineError, MessageError, QueryError
from engine.index.query.explanation import Explanation
from engine.runtime.audit_trail import Act
from engine.services.answers import FindResponses
from engine.services.information_models import FIND, sop_classes
from engine.services.operations import operations
from engine.services.query import FIND_OPTIONS, FindRequest, describe, find_query, query_options, spelled
from engine.services.service import ServiceClass

if TYPE_CHECKING:
    from engine.config import QueryOption
    from engine.index.format.types import Match, Query
    from engine.services.session import Session

logger = log.get("services.find_scp")

SLICE_S = 0.005
"""The time slice of all queries of a worker together, after which the loop runs other tasks: ingest waits no longer,
however many queries are long."""
SLICE_S_MIN = 0.0005
"""The shortest slice of one query; with a shorter one the switches would cost more than a twentieth of it."""

SEND_BYTES = 32 << 10
"""Responses are sent together when they have so many bytes, but the first one at once: a system call costs as much as a
match."""


async def find(session: Session, presentation_context_id: int, rq: CFindRQ, identifier: bytes) -> None:
    """Answers one C-FIND."""
    await run(FindOperation(session, presentation_context_id, rq), session, identifier)


async def run(operation: FindOperation, session: Session, identifier: bytes) -> None:
    """Runs one C-FIND from its identifier to its final response and its line in the log."""
    session.services.find_count += 1
    try:
        await operation.run(identifier)
    finally:
        session.services.find_count -= 1
        operation.log_result()
        operation.record(identifier)


def refuse(session: Session, presentation_context_id: int, rq: CFindRQ, comment: str) -> None:
    """Refuses one C-FIND for lack of resources."""
    session.respond(presentation_context_id, _response(rq, FindStatus.OUT_OF_RESOURCES, comment=comment))


class FindOperation:
    """One C-FIND in progress, and its statistics."""

    _finder: Finder
    """Who answers it: what the peer sees, perhaps with what linked orders supply."""

    def __init__(self, session: Session, presentation_context_id: int, rq: CFindRQ) -> None:
        self._session = session
        self._context_id = presentation_context_id
        self._rq = rq
        self._log = logger.about(session.connection.peer_host)
        self._request: FindRequest | None = None
        self._options: frozenset[QueryOption] = frozenset()
        self._explanation = Explanation()
        self._start_s = perf_counter()
        self._work_s = 0.0
        self._slice_start_s = 0.0
        self._wait_s = 0.0
        """Time spent waiting for the requestor to read our responses."""
        self._count = 0
        self._status: int | None = None
        """Status of the final response; None: the association ended before."""
        self._is_refused = False

    async def run(self, identifier: bytes) -> None:
        """Runs the operation up to its final response."""
        session = self._session
        session.services.engine.metrics.counters["find"] += 1
        if not session.allowed(Action.QUERY):
            self._refuse(GeneralStatus.NOT_AUTHORIZED, "")
            return
        limit = session.settings.query_results_max
        try:
            audit.check()
            self._request = self._decode(identifier, limit)
            await session.services.engine.caught_up()
            status = await self._answer(self._request, limit)
        except EngineError as error:
            offending = error.offending_elements if isinstance(error, QueryError) else ()
            self._refuse(status_of(error, Service.FIND), str(error), offending)
            return
        if status == FindStatus.OUT_OF_RESOURCES:
            self._log.warning("query ended at the limit of matches", calling=session.caller, limit=limit)
            self._end(status, f"more than {limit} matches: narrow the query")
        else:
            self._end(status)

    def _decode(self, identifier: bytes, limit: int) -> FindRequest:
        session = self._session
        context = session.contexts[self._context_id]
        negotiated = session.accepted.options.get(context.abstract_syntax, b"")
        self._options = query_options(session.settings.query_options, negotiated)
        # Query one match more than will be sent, to see whether there are more.
        return find_query(context, identifier, limit + 1 if limit else 0, self._options)

    async def _answer(self, request: FindRequest, limit: int) -> FindStatus:
        """Sends the pending responses; returns the final status."""
        session, rq = self._session, self._rq
        connection = session.connection
        view = session.view(Action.QUERY)
        is_asked = tags.InstanceAvailability in request.return_keys
        availability = view.availability(request.query.level) if is_asked else None
        responses = FindResponses(session, self._context_id, rq, request, availability)
        self._finder = view
        if session.settings.supply and (supplies := await session.services.engine.supplies()) is not None:
            self._finder = SuppliedFinder(supplies, view)
        steps = self._steps(request.query)
        if session.cancelled(rq.message_id):
            return FindStatus.CANCEL
        buffer = bytearray()
        limit_s = session.settings.query_timeout_s
        slice_end_s = self._start_slice()
        for match in steps:
            if match is not None:
                if self._count == limit and limit:
                    connection.send(bytes(buffer))
                    return FindStatus.OUT_OF_RESOURCES
                buffer += responses.encode(match)
                self._count += 1
            is_late = perf_counter() >= slice_end_s
            if buffer and (is_late or self._count == 1 or len(buffer) >= SEND_BYTES):
                connection.send(bytes(buffer))
                buffer.clear()
            if is_late:
                self._work_s += perf_counter() - self._slice_start_s
                if await self._is_cancelled():
                    return FindStatus.CANCEL
                if limit_s and self._work_s > limit_s:
                    session.services.engine.metrics.counters["find_timed_out"] += 1
                    raise MessageError(f"stopped after {limit_s:g} s: narrow the query", FindStatus.OUT_OF_RESOURCES)
                slice_end_s = self._start_slice()
        connection.send(bytes(buffer))
        return FindStatus.SUCCESS

    def _start_slice(self) -> float:
        """Starts a time slice and returns its end."""
        self._slice_start_s = now = perf_counter()
        return now + max(SLICE_S / self._session.services.find_count, SLICE_S_MIN)

    def _steps(self, query: Query) -> Iterator[Match | None]:
        return self._finder.find_steps(query, self._explanation)

    async def _is_cancelled(self) -> bool:
        """Waits for the requestor to read, and lets other tasks run; returns whether C-CANCEL has come meanwhile."""
        connection = self._session.connection
        start_s = perf_counter()
        await connection.drained()
        self._wait_s += perf_counter() - start_s
        await asyncio.sleep(0)
        if not connection.is_open:
            raise ConnectionResetError("the association has ended")
        return self._session.cancelled(self._rq.message_id)

    def _refuse(self, code: int, why: str, offending: tuple[int, ...] = ()) -> None:
        self._is_refused = True
        self._log.warning("query refused", calling=self._session.caller, status=f"{code:04X}", error=why)
        self._end(code, why, offending)

    def _end(self, code: int, comment: str = "", offending: tuple[int, ...] = ()) -> None:
        self._status = code
        self._session.respond(self._context_id, _response(self._rq, code, comment=comment, offending=offending))

    def record(self, identifier: bytes) -> None:
        """Records the operation in the audit log."""
        if not audit.is_on():
            return
        session, context = self._session, self._session.contexts[self._context_id]
        outcome = Outcome.MINOR if self._is_refused else Outcome.SUCCESS
        session.services.engine.audit_trail.query(
            Act(session.principal, "C-FIND"),
            spelled(self._request.query) if self._request is not None else "",
            sop_class=context.abstract_syntax,
            count=self._count,
            outcome=Outcome.SERIOUS if self._status is None else outcome,
            identifier=identifier,
            transfer_syntax=context.transfer_syntax,
        )

    def log_result(self) -> None:
        """Counts and logs the operation. Never log the value of a key."""
        session, request = self._session, self._request
        counters = session.services.engine.metrics.counters
        counters["find_matches"] += self._count
        if self._is_refused:
            counters["find_refused"] += 1
        elif self._status == FindStatus.CANCEL:
            counters["find_cancelled"] += 1
        elif self._status == FindStatus.OUT_OF_RESOURCES:
            counters["find_truncated"] += 1
        if request is None:
            return
        seconds = perf_counter() - self._start_s - self._wait_s
        fields: dict[str, object] = {
            "calling": session.caller,
            "query_level": request.query.level.name.lower(),
            "options": sorted(self._options),
            "matches": self._count,
            "status": "lost" if self._status is None else f"{self._status:04X}",
            "seconds": round(seconds, 4),
        }
        slow_s = session.config.query.slow_s
        if slow_s and seconds >= slow_s:
            counters["find_slow"] += 1
            summary = {name: value for name, value in self._explanation.summary().items() if name not in fields}
            waited_s = round(self._wait_s, 4)
            self._log.warning("slow query", **fields, waited_s=waited_s, keys=describe(request.query), **summary)
        elif not self._is_refused:
            self._log.info("query", **fields)


def _response(rq: CFindRQ, code: int, *, comment: str = "", offending: tuple[int, ...] = ()) -> CFindRSP:
    return CFindRSP(rq.message_id, rq.affected_sop_class_uid, code, False, comment[:64], offending)


SERVICE = ServiceClass(
    name="Query",
    sop_class_uids=sop_classes(FIND),
    action=Action.QUERY,
    requests=frozenset({CFindRQ}),
    attach=operations(find, refuse),
    is_cancellable=True,
    options=FIND_OPTIONS,
)
