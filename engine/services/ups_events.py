"""Events of workitems, N-EVENT-REPORT (PS3.4 CC.2.4): on an association of the subscriber, else on one of our own.

    the subscriber has an association with the class Event    its events go there, as they happen
    else, and it is a [[peer]] with host and port             one worker opens an association, and sends all that wait
    else                                                      they wait, or go over a WebSocket (`web.workitem_channel`)

An event is sent until it is answered, whatever the answer, and in order; a broken association repeats the last one. Who
does not answer is called again after RETRY_S, twice as long each time, at most RETRY_S_MAX. What a receiver may not see
when its event is due is dropped; the events of one that may see no workitems wait.
"""

from __future__ import annotations

import asyncio
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from engine import guards, log
from engine.access import NOTHING, Action
from engine.archive.hospital import has_orders
from engine.dicom import transfer_syntax, uids
from engine.dicom.identifier import encode_identifier
from engine.dimse.messages import NEventReportRQ, NEventReportRSP
from engine.dimse.status import Category, category
from engine.errors import AssociationFailed, EngineError, for_log
from engine.net.client import PLAIN, Address, open_association
from engine.orders.attributes import decoded, with_set
from engine.orders.workitems.facts import ELEMENT_COUNT_MAX
from engine.orders.workitems.life import CLASS_UID
from engine.orders.workitems.reach import reach_of
from engine.orders.workitems.store import CHANNEL_S, Workitems
from engine.services.service import ServiceClass
from engine.sole_worker import run_alone
from engine.titles import readable
from engine.ul.pdu import PresentationContextRQ, RoleSelection

if TYPE_CHECKING:
    from engine.access import Scope
    from engine.config import Peer
    from engine.dimse.assembly import DataSet
    from engine.net.trace import TraceFolder
    from engine.orders.rows import EventRow
    from engine.services.session import Session
    from engine.services.shared import Services

logger = log.get("services.ups_events")

EVENT: Final = uids.UnifiedProcedureStepEvent
LOOK_S: Final = 0.05
"""How often new events are looked for: a read of a few rows."""
EVENTS_AT_ONCE: Final = 100
VISITS_MAX: Final = 8
RETRY_S: Final = 5.0
RETRY_S_MAX: Final = 300.0


def report_rq(row: EventRow, message_id: int) -> NEventReportRQ:
    """The command of an event."""
    return NEventReportRQ(message_id, CLASS_UID, row.uid, row.type, has_data_set=True)


def information(row: EventRow, syntax_uid: str) -> bytes:
    """The data set of an event."""
    items = with_set(decoded(row.data_set, element_count_max=ELEMENT_COUNT_MAX).items, b"")
    return encode_identifier(dict(sorted(items.items())), transfer_syntax.of(syntax_uid))


class EventsOnAssociation:
    """The events of a subscriber that has an association with us: a `service.Handler`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        contexts = session.contexts.items()
        own = [number for number, each in contexts if each.abstract_syntax == EVENT and each.we_are_scp]
        self._task: asyncio.Task[None] | None = None
        if own:
            task = session.services.engine.loop.create_task(self._run(own[0]))
            self._task = guards.watch(task, "workitem events")

    def request(self, presentation_context_id: int, message: Any, has_data_set: bool) -> None:
        """Never called: the class has no requests to us."""

    def receive(self, presentation_context_id: int, message: Any, data_set: DataSet) -> None:
        """Drops a data set."""
        data_set.release()

    receive_part = receive

    def ended(self) -> None:
        """Sends no more."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self, context_id: int) -> None:
        session = self._session
        engine, title, token = session.services.engine, session.caller, uuid.uuid4().hex
        try:
            workitems = Workitems(await engine.pools.orders.run(engine.orders))
            await engine.pools.orders.run(lambda: workitems.open_channel(title, token))
            kept_at = engine.loop.time()
            while session.connection.is_open and not session.is_releasing and session.allowed(Action.WORKITEM):
                reach = reach_of(session.scope(Action.WORKITEM), lambda: engine.stations.issuer)
                for number, row in workitems.waiting(title, 0, EVENTS_AT_ONCE):
                    if reach is None or await engine.pools.orders.run(partial(workitems.tells, row, reach)):
                        await self._send(context_id, row)
                    await engine.pools.orders.run(partial(workitems.acknowledge, title, number))
                if engine.loop.time() - kept_at > CHANNEL_S / 3:
                    kept_at = engine.loop.time()
                    if not await engine.pools.orders.run(lambda: workitems.keep_channel(title, token)):
                        return
                await asyncio.sleep(LOOK_S)
        except EngineError as error:
            logger.info("events wait for another association", calling=title, reason=for_log(error))

    async def _send(self, context_id: int, row: EventRow) -> None:
        session = self._session
        message_id, response = session.responses.expect()
        syntax = session.contexts[context_id].transfer_syntax
        session.respond(context_id, report_rq(row, message_id), information(row, syntax))
        timeout_s = session.settings.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                _note(session.caller, await response)
        except TimeoutError:
            raise AssociationFailed(f"N-EVENT-REPORT was not answered within {timeout_s:g} s") from None
        finally:
            session.responses.forget(message_id)
        session.services.engine.metrics.counters["workitem_events_sent"] += 1


def _note(title: str, response: NEventReportRSP) -> None:
    if category(response.status) is Category.FAILURE:
        logger.warning("a subscriber refused an event", calling=title, status=f"{response.status:04X}")


class EventReporter:
    """Sends the events of subscribers without an association, from one worker of the server."""

    def __init__(self, services: Services, trace: TraceFolder | None = None) -> None:
        self._services = services
        self._trace = trace
        self._visits: dict[str, asyncio.Task[None]] = {}
        self._due: dict[str, float] = {}
        """When a title that did not answer is called again, by the loop's clock."""
        self._pauses: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts as soon as no other worker does it; does nothing in a read-only archive."""
        archive = self._services.archive
        if archive.is_read_only:
            return
        work = run_alone(
            archive.reporting_workitems,
            self._report_forever,
            is_needed=lambda: has_orders(archive),
            check_s=1.0,
            logger=logger,
            failure="events of workitems cannot be reported",
        )
        self._task = guards.watch(self._services.engine.loop.create_task(work), "workitem events")

    def close(self) -> None:
        """Ends; what was not answered is sent again later."""
        for task in (self._task, *self._visits.values()):
            if task is not None:
                task.cancel()

    async def _report_forever(self) -> None:
        engine = self._services.engine
        workitems = Workitems(await engine.pools.orders.run(engine.orders))
        try:
            while True:
                for title in workitems.receivers():
                    self._visit_if_due(workitems, title)
                await asyncio.sleep(LOOK_S)
        finally:
            for task in self._visits.values():
                task.cancel()

    def _visit_if_due(self, workitems: Workitems, title: str) -> None:
        loop = self._services.engine.loop
        if title in self._visits or len(self._visits) >= VISITS_MAX or loop.time() < self._due.get(title, 0.0):
            return
        peer = self._services.config.peer(title)
        if peer is None or not peer.has_address or workitems.has_channel(title):
            return
        if "workitem" not in peer.may or self._scope_of(title) is NOTHING:
            return
        task = guards.watch(loop.create_task(self._visit(workitems, peer, title)), "workitem events")
        self._visits[title] = task
        task.add_done_callback(lambda _: self._visits.pop(title, None))

    def _scope_of(self, title: str) -> Scope:
        return self._services.engine.access.scope_of_peer(title, Action.WORKITEM)

    async def _visit(self, workitems: Workitems, peer: Peer, title: str) -> None:
        engine = self._services.engine
        try:
            await self._send_all(workitems, peer, title)
            self._due.pop(title, None)
            self._pauses.pop(title, None)
        except EngineError as error:
            pause = min(self._pauses.get(title, RETRY_S / 2) * 2, RETRY_S_MAX)
            self._pauses[title], self._due[title] = pause, engine.loop.time() + pause
            logger.warning("events of workitems were not sent", calling=readable(title), error=for_log(error))

    async def _send_all(self, workitems: Workitems, peer: Peer, title: str) -> None:
        engine, config = self._services.engine, self._services.config
        roles = [RoleSelection(EVENT, scu_role=False, scp_role=True)]
        address = Address.of(peer, config, "")
        requestor = await open_association(address, [PresentationContextRQ(1, EVENT, PLAIN)], None, self._trace, roles)
        try:
            context = requestor.accepted.contexts.get(1) if requestor.accepted is not None else None
            if context is None:
                raise AssociationFailed(f"{peer.aet} does not accept Unified Procedure Step Event")
            while events := workitems.waiting(title, 0, EVENTS_AT_ONCE):
                reach = reach_of(self._scope_of(title), lambda: engine.stations.issuer)
                for number, row in events:
                    if reach is None or await engine.pools.orders.run(partial(workitems.tells, row, reach)):
                        make = partial(report_rq, row)
                        data = information(row, context.transfer_syntax)
                        _note(title, await requestor.request_message(1, make, data))
                        engine.metrics.counters["workitem_events_sent"] += 1
                    await engine.pools.orders.run(partial(workitems.acknowledge, title, number))
        finally:
            await requestor.release()


SERVICE: Final = ServiceClass(
    name="Unified Procedure Step Event",
    sop_class_uids=(EVENT,),
    action=Action.WORKITEM,
    requests=frozenset(),
    responses=frozenset({NEventReportRSP}),
    attach=EventsOnAssociation,
    instances_class=CLASS_UID,
)
