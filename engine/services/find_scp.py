"""Query Service Class, C-FIND SCP (PS3.4 C.4.1).

Does not match (`index.query` does) and does not choose keys: it turns an identifier into a query, and each match into
a pending response with the keys that were asked for.

    request ──► pending, pending, …  ──► 0000  all matches were sent
                                         A700  there are more matches than this peer may have, or it took too long:
                                               comment, none offending
                                         FE00  C-CANCEL came
                                         A900  the identifier breaks PS3.4: comment and offending elements
                                         C000  it cannot be read, or the index cannot
                                         0124  this peer may not query

The search goes in steps, on the loop: after SLICE_S at most, others are served, and a C-CANCEL or a lost connection
ends it, whether anything has matched or not. A key that the index does not have comes back empty, and says so by FF01.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import perf_counter
from typing import TYPE_CHECKING

from engine import log
from engine.access import Action
from engine.dimse.messages import CFindRQ, CFindRSP
from engine.dimse.status import FindStatus, GeneralStatus, Service, status_of
from engine.errors import EngineError, MessageError, QueryError
from engine.index.query.explanation import Explanation
from engine.services.answers import Answers
from engine.services.information_models import FIND, sop_classes
from engine.services.operations import operations
from engine.services.query import FIND_OPTIONS, Asked, described, find_query, query_options
from engine.services.service import ServiceClass

if TYPE_CHECKING:
    from engine.config import QueryOption
    from engine.index.format.types import Match, Query
    from engine.services.session import Session

logger = log.get("services.find_scp")

SLICE_S = 0.005
"""How long answers are made before the loop may serve others, all queries of a worker together: ingest waits no longer,
however many of them are long."""
SLICE_S_MIN = 0.0005
"""Of one query; below that the change of turns would cost more than a twentieth of it."""

SEND_BYTES = 32 << 10
"""Responses are sent together when they make so much, but the first one at once: a system call costs as much as a
match."""


async def find(session: Session, presentation_context_id: int, rq: CFindRQ, identifier: bytes) -> None:
    """Answers one C-FIND."""
    await run(Finding(session, presentation_context_id, rq), session, identifier)


async def run(finding: Finding, session: Session, identifier: bytes) -> None:
    """One C-FIND from its identifier to its final response and its line in the log."""
    session.services.finding_count += 1
    try:
        await finding.run(identifier)
    finally:
        session.services.finding_count -= 1
        finding.tell()


def refuse(session: Session, presentation_context_id: int, rq: CFindRQ, comment: str) -> None:
    """Answers one C-FIND for which there is no room at the moment."""
    session.respond(presentation_context_id, _response(rq, FindStatus.OUT_OF_RESOURCES, comment=comment))


class Finding:
    """One C-FIND under way, and what there is to say of it afterwards."""

    def __init__(self, session: Session, presentation_context_id: int, rq: CFindRQ) -> None:
        self._session = session
        self._context_id = presentation_context_id
        self._rq = rq
        self._log = logger.about(session.connection.peer_host)
        self._asked: Asked | None = None
        self._options: frozenset[QueryOption] = frozenset()
        self._explanation = Explanation()
        self._began = perf_counter()
        self._worked_s = 0.0
        self._slice_began = 0.0
        self._waited_s = 0.0
        """For the asker to read what it was sent."""
        self._count = 0
        self._status: int | None = None
        """Of the final response; None: there was nobody left to send one to."""
        self._is_refused = False

    async def run(self, identifier: bytes) -> None:
        """To the final response."""
        session = self._session
        session.services.engine.metrics.counters["find"] += 1
        if not session.allowed(Action.QUERY):
            self._refuse(GeneralStatus.NOT_AUTHORIZED, "")
            return
        limit = session.settings.query_results_max
        try:
            self._asked = self._ask(identifier, limit)
            status = await self._answer(self._asked, limit)
        except EngineError as error:
            offending = error.offending_elements if isinstance(error, QueryError) else ()
            self._refuse(status_of(error, Service.FIND), str(error), offending)
            return
        if status == FindStatus.OUT_OF_RESOURCES:
            self._log.warning("query cut at the limit", calling=session.caller, limit=limit)
            self._end(status, f"more than {limit} matches: narrow the query")
        else:
            self._end(status)

    def _ask(self, identifier: bytes, limit: int) -> Asked:
        session = self._session
        context = session.contexts[self._context_id]
        agreed = session.accepted.options.get(context.abstract_syntax, b"")
        self._options = query_options(session.settings.query_options, agreed)
        # One more than will be sent tells whether there are more.
        return find_query(context, identifier, limit + 1 if limit else 0, self._options)

    async def _answer(self, asked: Asked, limit: int) -> FindStatus:
        """Sends the pending responses; the final status."""
        session, rq = self._session, self._rq
        connection = session.connection
        answers = Answers(session, self._context_id, rq, asked)
        steps = self._steps(asked.query)
        if session.cancelled(rq.message_id):
            return FindStatus.CANCEL
        gathered = bytearray()
        limit_s = session.settings.query_timeout_s
        slice_ends = self._slice_ends()
        for match in steps:
            if match is not None:
                if self._count == limit and limit:
                    connection.send(bytes(gathered))
                    return FindStatus.OUT_OF_RESOURCES
                gathered += answers.encoded(match)
                self._count += 1
            is_late = perf_counter() >= slice_ends
            if gathered and (is_late or self._count == 1 or len(gathered) >= SEND_BYTES):
                connection.send(bytes(gathered))
                gathered.clear()
            if is_late:
                self._worked_s += perf_counter() - self._slice_began
                if await self._is_cancelled():
                    return FindStatus.CANCEL
                if limit_s and self._worked_s > limit_s:
                    session.services.engine.metrics.counters["find_timed_out"] += 1
                    raise MessageError(f"stopped after {limit_s:g} s: narrow the query", FindStatus.OUT_OF_RESOURCES)
                slice_ends = self._slice_ends()
        connection.send(bytes(gathered))
        return FindStatus.SUCCESS

    def _slice_ends(self) -> float:
        self._slice_began = now = perf_counter()
        return now + max(SLICE_S / self._session.services.finding_count, SLICE_S_MIN)

    def _steps(self, query: Query) -> Iterator[Match | None]:
        return self._session.archive.find_steps(query, self._explanation)

    async def _is_cancelled(self) -> bool:
        """Lets others have their turn, and the asker read; whether it has asked us to stop meanwhile."""
        connection = self._session.connection
        began = perf_counter()
        await connection.drained()
        self._waited_s += perf_counter() - began
        await asyncio.sleep(0)
        if not connection.is_open:
            raise ConnectionResetError("the asker is gone")
        return self._session.cancelled(self._rq.message_id)

    def _refuse(self, code: int, why: str, offending: tuple[int, ...] = ()) -> None:
        self._is_refused = True
        self._log.warning("query refused", calling=self._session.caller, status=f"{code:04X}", error=why)
        self._end(code, why, offending)

    def _end(self, code: int, comment: str = "", offending: tuple[int, ...] = ()) -> None:
        self._status = code
        self._session.respond(self._context_id, _response(self._rq, code, comment=comment, offending=offending))

    def tell(self) -> None:
        """Counts it and logs it, however it ended; no value of a key is in what is logged."""
        session, asked = self._session, self._asked
        counters = session.services.engine.metrics.counters
        counters["find_matches"] += self._count
        if self._is_refused:
            counters["find_refused"] += 1
        elif self._status == FindStatus.CANCEL:
            counters["find_cancelled"] += 1
        elif self._status == FindStatus.OUT_OF_RESOURCES:
            counters["find_truncated"] += 1
        if asked is None:
            return
        seconds = perf_counter() - self._began - self._waited_s
        told: dict[str, object] = {
            "calling": session.caller,
            "query_level": asked.query.level.name.lower(),
            "options": sorted(self._options),
            "matches": self._count,
            "status": "lost" if self._status is None else f"{self._status:04X}",
            "seconds": round(seconds, 4),
        }
        slow_s = session.config.query.slow_s
        if slow_s and seconds >= slow_s:
            counters["find_slow"] += 1
            more = {name: value for name, value in self._explanation.summary().items() if name not in told}
            waited_s = round(self._waited_s, 4)
            self._log.warning("slow query", **told, waited_s=waited_s, keys=described(asked.query), **more)
        elif not self._is_refused:
            self._log.info("query", **told)


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
