"""Query/Retrieve Service Class, C-MOVE and C-GET SCP (PS3.4 C.4.2, C.4.3).

It counts sub-operations and sends responses; `destination` and `storage_scu` send the instances, `archive` searches.
Each instance ends as exactly one of completed, warning and failed, whatever happens to the destination, and the final
response names the failed ones (0008,0058). Instances that are deleted during a retrieval are still sent: their segments
are pinned as soon as the index has returned them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from engine import access, audit, log
from engine.access import FULL, Action
from engine.audit import Outcome
from engine.dicom import tags, transfer_syntax
from engine.dicom.identifier import encode_identifier
from engine.dimse.messages import CGetRQ, CGetRSP, CMoveRQ, CMoveRSP, CStoreRSP
from engine.dimse.status import Category, GeneralStatus, RetrieveStatus, Service, category, status_of
from engine.errors import AuditUnavailable, ConfigError, EngineError, QueryError, for_log
from engine.index.format.types import Instance, Query
from engine.runtime.audit_trail import Act, Contents
from engine.services.coercion import Coercer
from engine.services.destination import Destination
from engine.services.information_models import GET, MOVE, sop_classes
from engine.services.operations import operations
from engine.services.query import retrieval_query
from engine.services.service import ServiceClass
from engine.services.storage_scu import InstanceSender
from engine.services.suboperations import InstanceQueue, Originator, SendResult
from engine.titles import readable

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from engine.archive.retrieve import Pin
    from engine.archive.selection import Selection
    from engine.archive.view import View
    from engine.services.destination import Sender
    from engine.services.session import Session

logger = log.get("services.retrieve_scp")

PENDING_INTERVAL_S = 0.1
"""The interval of pending responses, each of which costs the requestor a wake-up."""

COUNT_MAX = 0xFFFF

FAILED_LIST_BYTES_MAX = 1 << 20
"""Length of the Failed SOP Instance UID List (0008,0058): some 17 000 UIDs; further ones are counted and logged."""


class Retrieval:
    """One C-MOVE or C-GET in progress, with its counts (`destination.Results`). Its exit records what was sent."""

    def __init__(self, session: Session, presentation_context_id: int, rq: CMoveRQ | CGetRQ) -> None:
        self.session = session
        self.context_id = presentation_context_id
        self.rq = rq
        self.completed = self.warned = 0
        self.failed: list[str] = []
        """UIDs of failed instances, as many as a response can name."""
        self.failed_count = 0
        self._failed_bytes = 0
        self.total = 0
        """Sub-operations so far; all of them once the index has been read."""
        self.unreachable = ""
        """Why nothing more is sent to the destination; "" while it answers."""
        self.contents = Contents()
        """What has been announced to the audit log."""
        self._beginning: audit.Started | None = None
        self._pending_at = 0.0
        receiver = session.caller if isinstance(rq, CGetRQ) else readable(rq.move_destination)
        self._receiver = session.services.engine.metrics.peer(receiver)

    @property
    def cancelled(self) -> bool:
        """Whether C-CANCEL was received or the association has ended."""
        return self.session.cancelled(self.rq.message_id) or not self.session.connection.is_open

    @property
    def sent_count(self) -> int:
        """Sub-operations that ended with success or a warning."""
        return self.completed + self.warned

    @property
    def remaining(self) -> int:
        """Sub-operations without a result yet."""
        return self.total - self.completed - self.warned - self.failed_count

    def note(self, results: Sequence[SendResult]) -> None:
        """Counts the results of sub-operations."""
        sent_bytes, sent_before = 0, self.sent_count
        for result in results:
            if result.error is None:
                sent_bytes += result.instance.position.payload_length
                if not result.status:  # success, as nearly all are
                    self.completed += 1
                    continue
                if category(result.status) is Category.WARNING:
                    self.warned += 1
                    continue
            self.fail(result.instance, str(result.error or f"status {result.status:04X}"))
        if sent_bytes:
            self._receiver.sent_bytes += sent_bytes
            self._receiver.sent_instances += self.sent_count - sent_before
            self.session.services.engine.flow.sent(sent_bytes)
        self.send_pending()

    def announce(self, batch: Iterable[Instance]) -> None:
        """Begins to record that these instances will leave, in a thread that then calls `audit.flush`; `cleared` waits.

        Raises AuditUnavailable.
        """
        if audit.is_on() and (fresh := self.contents.add(batch)):
            trail = self.session.services.engine.audit_trail
            self._beginning = trail.start_sending(self._act, self.contents, fresh)

    async def cleared(self) -> None:
        """Waits until the beginning is on the disk. No byte of an instance leaves before. Raises AuditUnavailable."""
        await audit.durable(self._beginning)

    def __enter__(self) -> Retrieval:
        self.session.services.engine.audit_trail.open(self.contents)
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Records what has been sent, however it ended."""
        outcome = Outcome.SUCCESS
        if self.remaining:
            outcome = Outcome.SERIOUS
        elif self.failed_count:
            outcome = Outcome.MINOR
        self.session.services.engine.audit_trail.sent(self._act, self.contents, self.sent_count, outcome)

    @property
    def _act(self) -> Act:
        rq, principal = self.rq, self.session.principal
        if isinstance(rq, CGetRQ):
            return Act(principal, "C-GET")
        peer = self.session.config.peer(rq.move_destination)
        address = (peer.host or peer.url) if peer is not None else ""
        return Act(principal, "C-MOVE", readable(rq.move_destination), address)

    def send_pending(self) -> None:
        """Sends a pending response, if one is due."""
        now = self.session.services.engine.loop.time()
        if now - self._pending_at >= PENDING_INTERVAL_S and self.remaining:
            self._pending_at = now
            self._respond(RetrieveStatus.PENDING, with_remaining=True)

    def fail(self, instance: Instance, why: str) -> None:
        """Counts one failed sub-operation."""
        self._count_failed(instance)
        logger.warning("sub-operation failed", sop_instance_uid=instance.sop_instance_uid, reason=why)

    def _count_failed(self, instance: Instance) -> None:
        self.failed_count += 1
        if self._failed_bytes + len(instance.sop_instance_uid) < FAILED_LIST_BYTES_MAX:
            self._failed_bytes += len(instance.sop_instance_uid) + 1
            self.failed.append(instance.sop_instance_uid)
        self.session.services.engine.metrics.counters["suboperations_failed"] += 1

    def fail_all(self, instances: Iterable[Instance], why: str) -> None:
        """Counts instances that cannot be sent, with one line in the log for all of them."""
        before = self.failed_count
        for instance in instances:
            self._count_failed(instance)
        if count := self.failed_count - before:
            logger.warning("sub-operations failed", count=count, reason=why)

    def crashed(self, instances: Iterable[Instance], error: Exception) -> None:
        """Our own code failed: reports it to the loop, and counts the remaining instances as failed."""
        logger.error("sub-operations crashed", error=for_log(error))
        self.session.services.engine.loop.call_exception_handler({"message": "a C-MOVE crashed", "exception": error})
        self.fail_all(instances, "internal error")

    def finish(self) -> None:
        """Sends the final response."""
        self.session.services.engine.metrics.counters["suboperations_completed"] += self.completed + self.warned
        if self.cancelled and self.remaining:
            self._respond(RetrieveStatus.CANCEL, with_remaining=True)
        elif self.total and self.failed_count == self.total:
            self._respond(RetrieveStatus.CANNOT_PERFORM_SUBOPERATIONS)
        elif self.failed_count or self.warned:
            self._respond(RetrieveStatus.FAILURES_OR_WARNINGS)
        else:
            self._respond(RetrieveStatus.SUCCESS)

    def _respond(self, code: int, *, with_remaining: bool = False) -> None:
        final = code != RetrieveStatus.PENDING
        identifier: bytes | None = None
        if final and self.failed:
            syntax = transfer_syntax.of(self.session.contexts[self.context_id].transfer_syntax)
            identifier = encode_identifier(
                {tags.FailedSOPInstanceUIDList: "\\".join(self.failed).encode("ascii")}, syntax
            )
        self.session.respond(
            self.context_id,
            _response_type(self.rq)(
                self.rq.message_id,
                self.rq.affected_sop_class_uid,
                code,
                number_of_remaining_suboperations=_in_us(self.remaining) if with_remaining else None,
                number_of_completed_suboperations=_in_us(self.completed),
                number_of_failed_suboperations=_in_us(self.failed_count),
                number_of_warning_suboperations=_in_us(self.warned),
                has_data_set=identifier is not None,
            ),
            identifier,
        )


def _in_us(count: int) -> int:
    """A count for its attribute (0000,1020 to 1023, VR US): 65535 stands for as many or more."""
    return min(count, COUNT_MAX)


def _response_type(rq: CMoveRQ | CGetRQ) -> type[CMoveRSP] | type[CGetRSP]:
    return CMoveRSP if isinstance(rq, CMoveRQ) else CGetRSP


def _service_of(rq: CMoveRQ | CGetRQ) -> Service:
    return Service.MOVE if isinstance(rq, CMoveRQ) else Service.GET


def _refuse(
    session: Session,
    context_id: int,
    rq: CMoveRQ | CGetRQ,
    code: int,
    comment: str = "",
    offending: tuple[int, ...] = (),
) -> None:
    response = _response_type(rq)(
        rq.message_id, rq.affected_sop_class_uid, code, error_comment=comment, offending_elements=offending
    )
    session.respond(context_id, response)


def refuse(session: Session, presentation_context_id: int, rq: CMoveRQ | CGetRQ, comment: str) -> None:
    """Refuses one C-MOVE or C-GET for lack of resources."""
    _refuse(session, presentation_context_id, rq, RetrieveStatus.CANNOT_PERFORM_SUBOPERATIONS, comment)


async def move(session: Session, presentation_context_id: int, rq: CMoveRQ, identifier: bytes) -> None:
    """Answers one C-MOVE."""
    session.services.engine.metrics.counters["move"] += 1
    if not _is_permitted(session, presentation_context_id, rq):
        return  # check this first: a peer that may not retrieve must not learn which destinations exist
    decision = session.allowed(Action.SEND, access.Destination(rq.move_destination))
    peer = session.config.peer(rq.move_destination)
    services = session.services
    if not decision or peer is None or not (peer.has_address or services.open_web_peer):
        logger.warning(
            "move destination unknown",
            calling=session.caller,
            destination=readable(rq.move_destination),
            why=decision.reason,
        )
        _refuse(session, presentation_context_id, rq, RetrieveStatus.MOVE_DESTINATION_UNKNOWN)
        return
    retrieval = Retrieval(session, presentation_context_id, rq)
    originator = Originator(session.calling_ae_title, rq.message_id, rq.priority)
    opened: AbstractAsyncContextManager[Sender]
    if peer.has_address or services.open_web_peer is None:
        opened = nullcontext(Destination(services, peer, retrieval, originator, rq.move_destination))
    else:
        opened = services.open_web_peer(services, peer, retrieval)

    async def send(batches: AsyncIterator[list[Instance]]) -> None:
        async with opened as destination:
            async for batch in batches:
                await destination.send(batch)

    try:
        await _retrieve(retrieval, identifier, send)
    except ConfigError as error:
        logger.error("move destination has no credentials", destination=peer.aet, error=for_log(error))
        _refuse(session, presentation_context_id, rq, RetrieveStatus.CANNOT_PERFORM_SUBOPERATIONS, str(error))


async def get(session: Session, presentation_context_id: int, rq: CGetRQ, identifier: bytes) -> None:
    """Answers one C-GET: sends the instances on the requestor's association."""
    session.services.engine.metrics.counters["get"] += 1
    if not _is_permitted(session, presentation_context_id, rq):
        return
    retrieval = Retrieval(session, presentation_context_id, rq)

    async def send(batches: AsyncIterator[list[Instance]]) -> None:
        async for batch in batches:
            await _get_batch(retrieval, batch)

    await _retrieve(retrieval, identifier, send)


async def _retrieve(
    retrieval: Retrieval, identifier: bytes, send: Callable[[AsyncIterator[list[Instance]]], Awaitable[None]]
) -> None:
    """Selects, sends and records what the identifier names, and answers. Raises what `send` does."""
    session, rq = retrieval.session, retrieval.rq
    with retrieval:
        selected = await _select(retrieval, identifier)
        if selected is None:
            return
        selection, pin = selected
        with selection, pin:
            try:
                await send(_batches(retrieval, selection))
            except AuditUnavailable as error:
                _refuse(session, retrieval.context_id, rq, status_of(error, _service_of(rq)), str(error))
                return
    retrieval.finish()


async def _get_batch(retrieval: Retrieval, batch: list[Instance]) -> None:
    session = retrieval.session
    supplies = await session.services.supplies(session.calling_ae_title)
    sender = InstanceSender(
        session.archive,
        session.services.transcoder,
        session.connection,
        session.responses,
        session.contexts.values(),
        budget=session.services.retrieval_budget,
        reads=session.services.pools.reads,
        fragment=session.fragment,
        window=max(session.accepted.operations_invoked_max or 1, 1),
        response_timeout_s=session.settings.timeout_s,
        cleared=retrieval.cleared,
        preferred=session.settings.transfer_syntaxes,
        coercer=Coercer(session.archive, session.config, session.calling_ae_title, supplies),
    )
    queue = InstanceQueue(lambda: not retrieval.cancelled, batch)
    originator = Originator(priority=retrieval.rq.priority)
    async for results in sender.send_all(queue, originator, lambda: not retrieval.cancelled):
        queue.remove(results)
        retrieval.note(results)


def _is_permitted(session: Session, presentation_context_id: int, rq: CMoveRQ | CGetRQ) -> bool:
    """Whether the requestor may retrieve; refuses the request if not."""
    if session.allowed(Action.RETRIEVE):
        return True
    _refuse(session, presentation_context_id, rq, GeneralStatus.NOT_AUTHORIZED)
    return False


async def _batches(retrieval: Retrieval, selection: Selection) -> AsyncIterator[list[Instance]]:
    """The batches of a selection, until the retrieval is cancelled. Raises AuditUnavailable."""
    batches = selection.batches()

    def following() -> list[Instance] | None:
        batch = next(batches, None)
        retrieval.announce(batch or ())
        return batch

    batch = next(batches, None)  # it is in memory, and announced
    while batch is not None and not retrieval.cancelled:
        yield batch
        if selection.is_one_batch:
            return  # as nearly all are: a thread need not say so
        batch = await retrieval.session.services.pools.index.run(following, then=audit.flush)


async def _may_receive(session: Session, move_destination: str, view: View, query: Query) -> bool:
    """Whether the role of a destination lets it receive all studies that a C-MOVE names. Raises QueryError."""
    scope = session.services.engine.access.scope_of_destination(move_destination)
    if scope is FULL:
        return True  # as most are: no thread need say so
    of_destination = session.archive.view(scope)

    def sees_all() -> bool:
        studies = {instance.study_instance_uid for instance in view.identifiers(query)}
        return all(of_destination.sees(study) for study in studies)

    return await session.services.pools.index.run(sees_all)


async def _select(retrieval: Retrieval, identifier: bytes) -> tuple[Selection, Pin] | None:
    """The instances that the identifier names, and the pin that keeps them readable; None after a refusal.

    The index is read in batches, so that a list of millions does not block other retrievals, ends with the association,
    and the requestor gets pending responses meanwhile.
    """
    session, rq = retrieval.session, retrieval.rq
    archive, pool = session.archive, session.services.pools.index

    def gather() -> Pin | None:
        if selection.gather():
            return None
        # Pin in the same call as the last batch: the instances may be deleted at any time.
        pin = archive.retrieval.pin(selection.segment_ids)
        retrieval.announce(selection.first)
        return pin

    try:
        query = retrieval_query(session.contexts[retrieval.context_id], identifier)
        await session.services.engine.caught_up()
        view = session.view(Action.RETRIEVE)
        if isinstance(rq, CMoveRQ) and not await _may_receive(session, rq.move_destination, view, query):
            logger.error(
                "security alert: a C-MOVE to a destination that may not receive these studies",
                calling=session.caller,
                destination=readable(rq.move_destination),
            )
            _refuse(session, retrieval.context_id, rq, RetrieveStatus.MOVE_DESTINATION_UNKNOWN)
            return None
        selection = view.select(query)
        while (pin := await pool.run(gather, then=audit.flush)) is None and not retrieval.cancelled:
            retrieval.total = len(selection)
            retrieval.send_pending()
    except EngineError as error:
        code = status_of(error, _service_of(rq))
        logger.warning("retrieval refused", calling=session.caller, status=f"{code:04X}", error=for_log(error))
        offending = error.offending_elements if isinstance(error, QueryError) else ()
        _refuse(session, retrieval.context_id, rq, code, str(error), offending)
        return None
    retrieval.total = len(selection)
    return selection, pin or archive.retrieval.pin(())  # a cancelled retrieval reads nothing


RETRIEVE_OPTIONS = b"\1\0"
"""PS3.4 Table C.5-3: relational retrieval; not enhanced multi-frame conversion."""

MOVE_SERVICE = ServiceClass(
    name="Retrieve by C-MOVE",
    sop_class_uids=sop_classes(MOVE),
    action=Action.RETRIEVE,
    requests=frozenset({CMoveRQ}),
    attach=operations(move, refuse),
    is_cancellable=True,
    options=RETRIEVE_OPTIONS,
)

GET_SERVICE = ServiceClass(
    name="Retrieve by C-GET",
    sop_class_uids=sop_classes(GET),
    action=Action.RETRIEVE,
    requests=frozenset({CGetRQ}),
    attach=operations(get, refuse),
    responses=frozenset({CStoreRSP}),  # a peer without the SCP role refuses a sub-operation on this context
    is_cancellable=True,
    options=RETRIEVE_OPTIONS,
)
