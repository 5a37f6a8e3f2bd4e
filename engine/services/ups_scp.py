"""Unified Procedure Step, SCP: Push, Pull, Watch and Query (PS3.4 CC.3); the events are sent by `ups_events`.

    N-CREATE ─┐                                    N-ACTION  1 change the state       Pull
    N-SET    ─┼► in the state log, synced ──► 0000           2 request cancelation    Push, Watch
    N-ACTION ─┘                                              3 subscribe, 4 unsubscribe, 5 suspend    Watch
    N-GET    ──► 0000 with the requested attributes, or all but the Transaction UID
    C-FIND   ──► pending, pending, … ──► 0000, FE00 canceled, A900 the identifier violates PS3.4

`WorkitemStatus` has the statuses of the tables in CC.2. All requests but C-FIND name the class Push, on any context.
A title that receives events must be that of a [[peer]], or the caller's own (C308).
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from time import perf_counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from engine import audit, log
from engine.access import Action
from engine.audit import Event, Outcome
from engine.audit import Kind as EventKind
from engine.dicom import transfer_syntax, uids
from engine.dicom.identifier import Identifier, decode_identifier, encode_identifier
from engine.dimse.messages import (
    CFindRQ,
    CFindRSP,
    NActionRQ,
    NActionRSP,
    NCreateRQ,
    NCreateRSP,
    NGetRQ,
    NGetRSP,
    NSetRQ,
    NSetRSP,
)
from engine.dimse.status import FindStatus, GeneralStatus, Service, WorkitemStatus, status_of
from engine.errors import (
    ArchiveReadOnly,
    EngineError,
    MessageError,
    OrdersError,
    QueryError,
    WorkitemRefused,
    for_log,
)
from engine.orders.attributes import with_set
from engine.orders.workitems import life
from engine.orders.workitems.facts import ELEMENT_COUNT_MAX, covers
from engine.orders.workitems.reach import reach_of
from engine.orders.workitems.rules import Fault, Remark
from engine.orders.workitems.search import Search, question_of, requested_of
from engine.orders.workitems.store import Workitems
from engine.runtime.audit_trail import Act
from engine.services import ups_actions
from engine.services.operations import operation_name, operations
from engine.services.service import ServiceClass

if TYPE_CHECKING:
    from engine.orders.workitems.search import Reach
    from engine.services.session import Session

logger = log.get("services.ups_scp")

Request: TypeAlias = NCreateRQ | NSetRQ | NGetRQ | NActionRQ
Result = TypeVar("Result")

SEND_BYTES: Final = 32 << 10
SLICE_S: Final = 0.005

_STATUS: Final = MappingProxyType({
    Fault.FINAL: WorkitemStatus.FINAL,
    Fault.TRANSACTION: WorkitemStatus.WRONG_TRANSACTION_UID,
    Fault.IN_PROGRESS: WorkitemStatus.ALREADY_IN_PROGRESS,
    Fault.ONLY_CREATED: WorkitemStatus.SCHEDULED_BY_CREATION_ONLY,
    Fault.INCOMPLETE: WorkitemStatus.FINAL_STATE_NOT_MET,
    Fault.UNKNOWN: WorkitemStatus.NO_SUCH_WORKITEM,
    Fault.GONE: WorkitemStatus.NO_SUCH_WORKITEM,
    Fault.RECEIVER: WorkitemStatus.RECEIVER_UNKNOWN,
    Fault.NOT_SCHEDULED: WorkitemStatus.NOT_SCHEDULED,
    Fault.NOT_IN_PROGRESS: WorkitemStatus.NOT_IN_PROGRESS,
    Fault.COMPLETED: WorkitemStatus.COMPLETED,
    Fault.NOBODY: WorkitemStatus.PERFORMER_NOT_REACHED,
    Fault.ACTION: WorkitemStatus.ACTION_NOT_APPROPRIATE,
    Fault.MISSING: GeneralStatus.MISSING_ATTRIBUTE,
    Fault.NO_VALUE: GeneralStatus.MISSING_ATTRIBUTE_VALUE,
    Fault.VALUE: GeneralStatus.INVALID_ATTRIBUTE_VALUE,
    Fault.DUPLICATE: GeneralStatus.DUPLICATE_SOP_INSTANCE,
    Fault.UID: GeneralStatus.INVALID_SOP_INSTANCE,
    Fault.RESOURCES: GeneralStatus.RESOURCE_LIMITATION,
    Fault.NOT_ALLOWED: GeneralStatus.NOT_AUTHORIZED,
})  # fmt: skip
_REMARKS: Final = MappingProxyType({
    Remark.NONE: WorkitemStatus.SUCCESS,
    Remark.CANCELED: WorkitemStatus.ALREADY_CANCELED,
    Remark.COMPLETED: WorkitemStatus.ALREADY_COMPLETED,
    Remark.NOT_SET: WorkitemStatus.ATTRIBUTES_NOT_SUPPORTED,
})  # fmt: skip


async def serve(session: Session, presentation_context_id: int, rq: CFindRQ | Request, data: bytes) -> None:
    """Answers one request."""
    if isinstance(rq, CFindRQ):
        await _find(session, presentation_context_id, rq, data)
        return
    uid = _uid_of(rq)
    kind: type = type(rq)
    name = operation_name(kind)
    try:
        code, answer = await _perform(session, presentation_context_id, rq, uid, data)
    except EngineError as error:
        code = _code_of(error)
        facts = {"calling": session.caller, "operation": name, "status": f"{code:04X}"}
        logger.warning("workitem refused", **facts, error=for_log(error))
        _record(session, name, Outcome.MINOR, detail=str(error))
        session.respond(presentation_context_id, _response(rq, uid, code, error=error))
        return
    if not isinstance(rq, NGetRQ):
        session.services.engine.metrics.counters["workitems_changed"] += 1
        logger.info("workitem", calling=session.caller, operation=name, sop_instance_uid=uid, status=f"{code:04X}")
    _record(session, name, Outcome.SUCCESS, detail=uid)
    session.respond(presentation_context_id, _response(rq, uid, code, has_data_set=answer is not None), answer)


async def _perform(session: Session, context_id: int, rq: Request, uid: str, data: bytes) -> tuple[int, bytes | None]:
    """The status, and the data set of the answer."""
    _check(session, is_change=not isinstance(rq, NGetRQ))
    audit.check()
    engine, caller = session.services.engine, session.caller
    context = session.contexts[context_id]
    syntax = transfer_syntax.of(context.transfer_syntax)
    reach = _reach(session)
    known = ups_actions.receivers_of(session)

    def work() -> tuple[int, bytes | None]:
        workitems = Workitems(engine.orders())
        if isinstance(rq, NGetRQ):
            items = workitems.get(uid, reach)
            wanted = rq.attribute_identifier_list
            chosen = {tag: items[tag] for tag in wanted if tag in items} if wanted else items
            return WorkitemStatus.SUCCESS, encode_identifier(dict(sorted(with_set(chosen, b"").items())), syntax)
        decoded = decode_identifier(data, syntax, element_count_max=ELEMENT_COUNT_MAX) if data else Identifier({})
        remark = Remark.NONE
        if isinstance(rq, NCreateRQ):
            workitems.create(uid, decoded, caller, reach)
        elif isinstance(rq, NSetRQ):
            remark = workitems.update(uid, decoded, caller, reach)
        else:
            action = ups_actions.Action(rq.action_type_id, context.abstract_syntax, uid, caller, reach, known)
            remark = ups_actions.perform(workitems, action, decoded)
        return _REMARKS[remark], None

    return await engine.pools.orders.run(work)


def _check(session: Session, *, is_change: bool) -> None:
    """Raises MessageError."""
    if is_change and session.archive.is_read_only:
        raise MessageError("this archive is read-only", GeneralStatus.NOT_AUTHORIZED)
    if not session.allowed(Action.WORKITEM):
        raise MessageError("not allowed to see workitems", GeneralStatus.NOT_AUTHORIZED)


def _reach(session: Session) -> Reach | None:
    return reach_of(session.scope(Action.WORKITEM), lambda: session.services.engine.stations.issuer)


def _uid_of(rq: Request) -> str:
    if isinstance(rq, NCreateRQ):
        return rq.affected_sop_instance_uid or f"2.25.{uuid.uuid4().int}"
    return rq.requested_sop_instance_uid


def _code_of(error: EngineError) -> int:
    if isinstance(error, WorkitemRefused):
        return _STATUS[Fault(error.fault)]
    if isinstance(error, ArchiveReadOnly):
        return GeneralStatus.NOT_AUTHORIZED
    return GeneralStatus.PROCESSING_FAILURE if isinstance(error, OrdersError) else status_of(error, Service.OTHER)


def _record(session: Session, name: str, outcome: Outcome, *, detail: str) -> None:
    """Records the request in the audit log."""
    if audit.is_on():
        kind, action = EventKind.OPERATION, f"{name} workitem"
        audit.write(Event(kind=kind, principal=session.principal, action=action, outcome=outcome, detail=detail))


def _response(
    rq: Request, uid: str, code: int, *, has_data_set: bool = False, error: EngineError | None = None
) -> NCreateRSP | NSetRSP | NGetRSP | NActionRSP:
    comment = str(error) if error is not None else ""
    offending = error.offending_elements if isinstance(error, WorkitemRefused) else ()
    number = rq.message_id
    if isinstance(rq, NCreateRQ):
        sop_class = rq.affected_sop_class_uid
        return NCreateRSP(number, sop_class, uid, code, has_data_set, comment, None, offending)
    sop_class = rq.requested_sop_class_uid
    if isinstance(rq, NSetRQ):
        return NSetRSP(number, sop_class, uid, code, has_data_set, comment, None, offending)
    if isinstance(rq, NGetRQ):
        return NGetRSP(number, sop_class, uid, code, has_data_set, comment)
    return NActionRSP(number, sop_class, uid, code, has_data_set, comment, rq.action_type_id)


def refuse(session: Session, presentation_context_id: int, rq: CFindRQ | Request, comment: str) -> None:
    """Refuses one request for lack of resources."""
    if isinstance(rq, CFindRQ):
        session.respond(presentation_context_id, _final(rq, FindStatus.OUT_OF_RESOURCES, comment))
    else:
        error = WorkitemRefused(comment, Fault.RESOURCES)
        session.respond(presentation_context_id, _response(rq, _uid_of(rq), _STATUS[Fault.RESOURCES], error=error))


# queries ---------------------------------------------------------------------------------------------


async def _find(session: Session, context_id: int, rq: CFindRQ, data: bytes) -> None:
    count, keys = 0, ""
    offending: tuple[int, ...] = ()
    status: int = FindStatus.SUCCESS
    comment = ""
    try:
        _check(session, is_change=False)
        audit.check()
        identifier = decode_identifier(data, transfer_syntax.of(session.contexts[context_id].transfer_syntax))
        question = question_of(identifier)
        question.reach = _reach(session)
        keys = " ".join(f"{key}={value}" for key, value in question.keys)
        status, count = await _answer(
            session, context_id, rq, identifier, Search(question, is_brief=covers(identifier))
        )
    except EngineError as error:
        status = status_of(error, Service.FIND)
        comment = str(error)
        offending = error.offending_elements if isinstance(error, QueryError) else ()
        logger.warning(
            "query for workitems refused", calling=session.caller, status=f"{status:04X}", error=for_log(error)
        )
    if status == FindStatus.OUT_OF_RESOURCES and not comment:
        comment = f"more than {session.config.worklist.limit} workitems: narrow the query"
    logger.info("workitems queried", calling=session.caller, workitems=count, status=f"{status:04X}")
    if audit.is_on():
        is_failure = status not in (FindStatus.SUCCESS, FindStatus.CANCEL, FindStatus.OUT_OF_RESOURCES)
        context = session.contexts[context_id]
        session.services.engine.audit_trail.query(
            Act(session.principal, "C-FIND"),
            f"workitems {keys}".strip(),
            sop_class=context.abstract_syntax,
            count=count,
            outcome=Outcome.MINOR if is_failure else Outcome.SUCCESS,
            identifier=data,
            transfer_syntax=context.transfer_syntax,
        )
    session.respond(context_id, _final(rq, status, comment, offending))


async def _answer(
    session: Session, context_id: int, rq: CFindRQ, identifier: Identifier, search: Search
) -> tuple[FindStatus, int]:
    engine, limit = session.services.engine, session.config.worklist.limit
    syntax = transfer_syntax.of(session.contexts[context_id].transfer_syntax)
    workitems = Workitems(await engine.pools.orders.run(engine.orders))
    pending = CFindRSP(rq.message_id, rq.affected_sop_class_uid, FindStatus.PENDING, has_data_set=True)
    count, slice_end_s = 0, perf_counter() + SLICE_S
    while True:
        if session.cancelled(rq.message_id):
            return FindStatus.CANCEL, count
        matches = await engine.pools.orders.run(lambda: workitems.read(search))
        if matches is None:
            return FindStatus.SUCCESS, count
        for _, items in matches:
            if limit and count == limit:
                return FindStatus.OUT_OF_RESOURCES, count
            answer = with_set(requested_of(items, identifier), identifier.character_set)
            session.respond(context_id, pending, encode_identifier(dict(sorted(answer.items())), syntax))
            count += 1
        if perf_counter() >= slice_end_s:
            await session.connection.drained()
            await asyncio.sleep(0)
            if not session.connection.is_open:
                raise ConnectionResetError("the association has ended")
            slice_end_s = perf_counter() + SLICE_S


def _final(rq: CFindRQ, code: int, comment: str = "", offending: tuple[int, ...] = ()) -> CFindRSP:
    return CFindRSP(rq.message_id, rq.affected_sop_class_uid, code, False, comment[:64], offending)


# rows ------------------------------------------------------------------------------------------------


def _service(name: str, sop_class_uid: str, *requests: type, attach: Callable[..., Any] | None = None) -> ServiceClass:
    return ServiceClass(
        name=f"Unified Procedure Step {name}",
        sop_class_uids=(sop_class_uid,),
        action=Action.WORKITEM,
        requests=frozenset(requests),
        attach=attach or operations(serve, refuse, bytes_max=life.DATA_SET_BYTES_MAX, is_data_set_optional=True),
        is_cancellable=CFindRQ in requests,
        instances_class=life.CLASS_UID,
    )


SERVICES: Final = (
    _service("Push", uids.UnifiedProcedureStepPush, NCreateRQ, NActionRQ, NGetRQ),
    _service("Pull", uids.UnifiedProcedureStepPull, CFindRQ, NGetRQ, NSetRQ, NActionRQ),
    _service("Watch", uids.UnifiedProcedureStepWatch, CFindRQ, NGetRQ, NActionRQ),
    _service("Query", uids.UnifiedProcedureStepQuery, CFindRQ),
)
