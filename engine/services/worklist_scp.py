"""Modality Worklist, C-FIND SCP (PS3.4 K.4): one pending response for each scheduled step that meets the keys.

    request ──► pending, pending, …  ──► 0000  all entries were sent
                                         A700  more entries than the caller may have: comment
                                         FE00  C-CANCEL was received
                                         A900  the identifier violates PS3.4: comment and offending elements
                                         C000  the identifier, or the registry, cannot be read
                                         0124  the caller may see no worklist

The last query of each caller is kept, for `filmroom worklist why`: keys, number of entries, status.
"""

from __future__ import annotations

import asyncio
import time
from time import perf_counter
from typing import TYPE_CHECKING

from engine import audit, log
from engine.access import Action
from engine.audit import Outcome
from engine.dicom import transfer_syntax, uids
from engine.dicom.identifier import Identifier, decode_identifier
from engine.dimse.messages import CFindRQ, CFindRSP
from engine.dimse.status import FindStatus, GeneralStatus, Service, status_of
from engine.errors import EngineError, OrdersError, QueryError, for_log
from engine.orders.reach import reach_of
from engine.orders.rows import AskedRow
from engine.orders.worklist import Question, Search, question_of
from engine.runtime.audit_trail import Act
from engine.services.operations import operations
from engine.services.service import ServiceClass
from engine.services.worklist_answers import WorklistResponses

if TYPE_CHECKING:
    from engine.orders.registry import Orders
    from engine.runtime.pools import ThreadPool
    from engine.services.session import Session

logger = log.get("services.worklist_scp")

SLICE_S = 0.005
"""After this time other tasks of the loop run."""
SEND_BYTES = 32 << 10
"""Responses are sent together when they have so many bytes."""
KEPT_CHARACTERS = 1024
"""Of each key of the last query."""
OPTIONS = b"\0\1"
"""Of SOP class extended negotiation: byte 2 is combined date-time matching, as in PS3.4 Table C.5-2."""


async def find(session: Session, presentation_context_id: int, rq: CFindRQ, identifier: bytes) -> None:
    """Answers one C-FIND for a worklist."""
    await _Operation(session, presentation_context_id, rq).run(identifier)


def refuse(session: Session, presentation_context_id: int, rq: CFindRQ, comment: str) -> None:
    """Refuses one for lack of resources."""
    session.respond(presentation_context_id, _response(rq, FindStatus.OUT_OF_RESOURCES, comment))


class _Operation:
    """One query in progress."""

    def __init__(self, session: Session, presentation_context_id: int, rq: CFindRQ) -> None:
        self._session = session
        self._context_id = presentation_context_id
        self._rq = rq
        self._question: Question | None = None
        self._count = 0
        self._status: int | None = None
        """Of the final response; None: the association ended before."""

    async def run(self, identifier: bytes) -> None:
        """Runs the query up to its final response, and records it."""
        session, start_s = self._session, perf_counter()
        session.services.engine.metrics.counters["worklist_queries"] += 1
        try:
            await self._answer_all(identifier)
        finally:
            self._record(identifier, perf_counter() - start_s)
        self._keep()

    async def _answer_all(self, identifier: bytes) -> None:
        session = self._session
        if not session.allowed(Action.WORKLIST):
            self._end(GeneralStatus.NOT_AUTHORIZED)
            return
        try:
            audit.check()
            syntax = transfer_syntax.of(session.contexts[self._context_id].transfer_syntax)
            decoded = decode_identifier(identifier, syntax)
            self._question = self._question_of(decoded)
            status = await self._answer(decoded, self._question)
        except EngineError as error:
            offending = error.offending_elements if isinstance(error, QueryError) else ()
            code = status_of(error, Service.FIND)
            logger.warning("worklist refused", calling=session.caller, status=f"{code:04X}", error=for_log(error))
            self._end(code, str(error), offending)
            return
        limit = self._question.limit
        is_cut = status == FindStatus.OUT_OF_RESOURCES
        self._end(status, f"more than {limit} entries: narrow the query" if is_cut else "")

    def _question_of(self, decoded: Identifier) -> Question:
        session = self._session
        context = session.contexts[self._context_id]
        negotiated = session.accepted.options.get(context.abstract_syntax, b"")
        date_time = negotiated[1:2] == b"\1" or "date-time" in session.settings.query_options
        stations = session.services.engine.stations
        station = stations.of(session.calling_ae_title)
        question = question_of(decoded, stations.settings, station, date_time=date_time)
        question.reach = reach_of(session.scope(Action.WORKLIST), stations)
        return question

    async def _answer(self, decoded: Identifier, question: Question) -> FindStatus:
        session = self._session
        station = session.services.engine.stations.of(session.calling_ae_title)
        forced_set = station.character_set if station is not None else ""
        responses = WorklistResponses(session, self._context_id, self._rq, decoded, forced_set)
        engine = session.services.engine
        opened = engine.opened_orders
        orders = await engine.pools.orders.run(engine.orders) if opened is None else opened
        search, buffer = Search(question), bytearray()
        slice_end_s = perf_counter() + SLICE_S
        while True:
            if session.cancelled(self._rq.message_id):
                return FindStatus.CANCEL
            with orders.read() as reading:
                entries = search.next(reading)
            if entries is None:
                break
            for entry in entries:
                if question.limit and self._count == question.limit:
                    session.connection.send(bytes(buffer))
                    return FindStatus.OUT_OF_RESOURCES
                buffer += responses.encode(entry)
                self._count += 1
            if len(buffer) >= SEND_BYTES:
                session.connection.send(bytes(buffer))
                buffer.clear()
            if perf_counter() >= slice_end_s:
                await self._let_others_run()
                slice_end_s = perf_counter() + SLICE_S
        if buffer:
            session.connection.send(bytes(buffer))
        return FindStatus.SUCCESS

    async def _let_others_run(self) -> None:
        connection = self._session.connection
        await connection.drained()
        await asyncio.sleep(0)
        if not connection.is_open:
            raise ConnectionResetError("the association has ended")

    def _end(self, code: int, comment: str = "", offending: tuple[int, ...] = ()) -> None:
        self._status = code
        self._session.respond(self._context_id, _response(self._rq, code, comment, offending))

    def _record(self, identifier: bytes, seconds: float) -> None:
        """Logs the query without values, and records it in the audit log with them."""
        session = self._session
        counters = session.services.engine.metrics.counters
        counters["worklist_entries"] += self._count
        status = "lost" if self._status is None else f"{self._status:04X}"
        keys = [keyword for keyword, _ in self._question.keys] if self._question else []
        logger.info(
            "worklist", calling=session.caller, entries=self._count, status=status, keys=keys, seconds=round(seconds, 4)
        )
        if audit.is_on():
            query = " ".join(f"{key}={value}" for key, value in (self._question.keys if self._question else ()))
            context = session.contexts[self._context_id]
            is_failure = self._status not in (FindStatus.SUCCESS, FindStatus.CANCEL, FindStatus.OUT_OF_RESOURCES)
            session.services.engine.audit_trail.query(
                Act(session.principal, "C-FIND"),
                f"worklist {query}".strip(),
                sop_class=context.abstract_syntax,
                count=self._count,
                outcome=Outcome.MINOR if is_failure else Outcome.SUCCESS,
                identifier=identifier,
                transfer_syntax=context.transfer_syntax,
            )

    def _keep(self) -> None:
        """Keeps the query, for the question why a list is empty. The next query need not wait for that."""
        session, engine = self._session, self._session.services.engine
        orders = engine.opened_orders
        if orders is None or self._status is None or engine.pools.orders.is_stuck:
            return
        row = AskedRow(
            keys=tuple((key, value[:KEPT_CHARACTERS]) for key, value in self._question.keys) if self._question else (),
            matches=self._count,
            time=time.time(),
            host=session.principal.address,
            status=f"{self._status:04X}",
        )
        task = engine.loop.create_task(_note(engine.pools.orders, orders, session.caller, row))
        _notes.add(task)
        task.add_done_callback(_notes.discard)


_notes: set[asyncio.Task[None]] = set()
"""Queries that are being kept."""


async def _note(pool: ThreadPool, orders: Orders, caller: str, row: AskedRow) -> None:
    try:
        await pool.run(lambda: orders.note_asked(caller, row))
    except OrdersError as error:
        logger.warning("the last query was not kept", calling=caller, error=for_log(error))


def _response(rq: CFindRQ, code: int, comment: str = "", offending: tuple[int, ...] = ()) -> CFindRSP:
    return CFindRSP(rq.message_id, rq.affected_sop_class_uid, code, False, comment[:64], offending)


SERVICE = ServiceClass(
    name="Modality Worklist",
    sop_class_uids=(uids.ModalityWorklistInformationModelFind,),
    action=Action.WORKLIST,
    requests=frozenset({CFindRQ}),
    attach=operations(find, refuse),
    is_cancellable=True,
    options=OPTIONS,
)
