"""Modality Performed Procedure Step, SCP (PS3.4 F.7), and its Retrieve SOP Class (F.8).

    N-CREATE ──► in the state log, synced ──► 0000, and the SOP Instance UID: ours if the request has none
    N-SET    ──► in the state log, synced ──► 0000
    N-GET    ──► 0000 with the requested attributes, or all

    0120 an attribute is missing    0121 it has no value           0106 a status or value that is not allowed
    0111 exists, with other values  0112 does not exist            0110 may no longer be updated (Error ID A710)
    0124 not allowed                0213 too many attributes       0115 a data set that cannot be read
    0117 no UID

An N-CREATE that comes again as it was is answered with Success. Attributes of type 2 may be missing, unless `strict` is
set, in [worklist] or for the station; the log names them.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from engine import audit, log
from engine.access import Action
from engine.audit import Event, Outcome
from engine.audit import Kind as EventKind
from engine.dicom import tags, transfer_syntax, uids
from engine.dicom.identifier import Identifier, decode_identifier, encode_identifier
from engine.dimse.messages import NCreateRQ, NCreateRSP, NGetRQ, NGetRSP, NSetRQ, NSetRSP
from engine.dimse.status import GeneralStatus, Service, status_of
from engine.errors import ArchiveReadOnly, EngineError, MessageError, OrdersError, StepRefused, for_log
from engine.orders import performing
from engine.orders.attributes import in_utf_8
from engine.orders.registry import Orders
from engine.orders.values import Source
from engine.services.operations import operations
from engine.services.service import ServiceClass

if TYPE_CHECKING:
    from engine.orders.values import Applied
    from engine.services.session import Session

logger = log.get("services.mpps_scp")

MAY_NO_LONGER_BE_UPDATED: Final = 0xA710
"""Error ID (PS3.4 F.7.2.2.2)."""

_STATUS: Final = MappingProxyType({
    "missing": GeneralStatus.MISSING_ATTRIBUTE,
    "no-value": GeneralStatus.MISSING_ATTRIBUTE_VALUE,
    "value": GeneralStatus.INVALID_ATTRIBUTE_VALUE,
    "duplicate": GeneralStatus.DUPLICATE_SOP_INSTANCE,
    "unknown": GeneralStatus.NO_SUCH_SOP_INSTANCE,
    "final": GeneralStatus.PROCESSING_FAILURE,
    "resources": GeneralStatus.RESOURCE_LIMITATION,
    "uid": GeneralStatus.INVALID_SOP_INSTANCE,
})  # fmt: skip
"""Of each fault of `StepRefused`."""

Change = Callable[[Orders, str, Identifier, Source, bool], "tuple[Applied, list[str]]"]


def _create(orders: Orders, uid: str, data_set: Identifier, source: Source, strict: bool) -> tuple[Applied, list[str]]:
    return orders.create_performed(uid, data_set, source, strict=strict)


def _modify(orders: Orders, uid: str, data_set: Identifier, source: Source, strict: bool) -> tuple[Applied, list[str]]:
    return orders.modify_performed(uid, data_set, source, strict=strict)


async def serve(session: Session, presentation_context_id: int, rq: NCreateRQ | NSetRQ, data: bytes) -> None:
    """Answers one N-CREATE or N-SET."""
    if isinstance(rq, NCreateRQ):
        uid, name, change = rq.affected_sop_instance_uid or f"2.25.{uuid.uuid4().int}", "N-CREATE", _create
    else:
        uid, name, change = rq.requested_sop_instance_uid, "N-SET", _modify
    try:
        await _change(session, presentation_context_id, uid, name, data, change)
    except EngineError as error:
        code = _code_of(error)
        facts = {"calling": session.caller, "operation": name, "status": f"{code:04X}"}
        logger.warning("performed step refused", **facts, error=for_log(error))
        offending = error.offending_elements if isinstance(error, StepRefused) else ()
        is_final = isinstance(error, StepRefused) and error.fault == "final"
        error_id = MAY_NO_LONGER_BE_UPDATED if is_final else None
        _record(session, name, Outcome.MINOR, detail=str(error))
        session.respond(presentation_context_id, _response(rq, uid, code, str(error), error_id, offending))
        return
    session.respond(presentation_context_id, _response(rq, uid, GeneralStatus.SUCCESS))


async def _change(session: Session, context_id: int, uid: str, name: str, data: bytes, change: Change) -> None:
    engine = session.services.engine
    _check(session)
    if not data:
        raise StepRefused("the request has no attributes", "missing")
    audit.check()
    station = engine.stations.of(session.calling_ae_title)
    strict = engine.stations.settings.strict if station is None or station.strict is None else station.strict
    source = Source(name=session.caller, reference=uid)
    syntax = transfer_syntax.of(session.contexts[context_id].transfer_syntax)

    def work() -> tuple[Applied, list[str], str]:
        data_set = decode_identifier(data, syntax, element_count_max=performing.ELEMENT_COUNT_MAX)
        applied, missing = change(engine.orders(), uid, data_set, source, strict)
        items = data_set.sequence(tags.ScheduledStepAttributesSequence)
        return applied, missing, items[0].text(tags.StudyInstanceUID) if items else ""

    applied, missing, study = await engine.pools.orders.run(work)
    engine.metrics.counters["performed_steps"] += 1
    logger.info(
        "performed step", calling=session.caller, operation=name, sop_instance_uid=uid,
        changes=[change.action for change in applied.changes], missing=missing, warnings=list(applied.warnings),
    )  # fmt: skip
    _record(session, name, Outcome.SUCCESS, study=study)


def _check(session: Session) -> None:
    """Raises MessageError."""
    if session.archive.is_read_only:
        raise MessageError("this archive is read-only", GeneralStatus.NOT_AUTHORIZED)
    if not session.allowed(Action.WORKLIST):
        raise MessageError("not allowed to report performed steps", GeneralStatus.NOT_AUTHORIZED)


def _code_of(error: EngineError) -> int:
    if isinstance(error, StepRefused):
        return _STATUS[error.fault]
    if isinstance(error, ArchiveReadOnly):
        return GeneralStatus.NOT_AUTHORIZED
    return GeneralStatus.PROCESSING_FAILURE if isinstance(error, OrdersError) else status_of(error, Service.OTHER)


def _record(session: Session, name: str, outcome: Outcome, *, study: str = "", detail: str = "") -> None:
    """Records the request in the audit log."""
    if audit.is_on():
        audit.write(
            Event(
                kind=EventKind.OPERATION, principal=session.principal, action=name, outcome=outcome, study=study,
                detail=detail,
            )
        )  # fmt: skip


def _response(
    rq: NCreateRQ | NSetRQ,
    uid: str,
    code: int,
    comment: str = "",
    error_id: int | None = None,
    offending: tuple[int, ...] = (),
) -> NCreateRSP | NSetRSP:
    if isinstance(rq, NCreateRQ):
        return NCreateRSP(rq.message_id, rq.affected_sop_class_uid, uid, code, False, comment, error_id, offending)
    return NSetRSP(rq.message_id, rq.requested_sop_class_uid, uid, code, False, comment, error_id, offending)


def refuse(session: Session, presentation_context_id: int, rq: NCreateRQ | NSetRQ, comment: str) -> None:
    """Refuses one request for lack of resources."""
    uid = rq.affected_sop_instance_uid if isinstance(rq, NCreateRQ) else rq.requested_sop_instance_uid
    session.respond(presentation_context_id, _response(rq, uid, GeneralStatus.RESOURCE_LIMITATION, comment))


# retrieve --------------------------------------------------------------------------------------------


async def get(session: Session, presentation_context_id: int, rq: NGetRQ, data: bytes) -> None:
    """Answers one N-GET."""
    engine, uid = session.services.engine, rq.requested_sop_instance_uid

    def work() -> dict[int, Any]:
        row = engine.orders().performed(uid)
        if row is None:
            raise StepRefused("no such performed procedure step", "unknown")
        items: dict[int, Any] = {**in_utf_8(performing.stored(row))}
        if rq.attribute_identifier_list:
            items = {tag: items[tag] for tag in rq.attribute_identifier_list if tag in items}
        return {tags.SpecificCharacterSet: b"ISO_IR 192", **items}

    try:
        _check(session)
        audit.check()
        items = await engine.pools.orders.run(work)
    except EngineError as error:
        code = _code_of(error)
        logger.warning("performed step not found", calling=session.caller, status=f"{code:04X}", error=for_log(error))
        session.respond(presentation_context_id, _answer(rq, code, str(error)))
        return
    _record(session, "N-GET", Outcome.SUCCESS)
    syntax = transfer_syntax.of(session.contexts[presentation_context_id].transfer_syntax)
    session.respond(
        presentation_context_id,
        NGetRSP(rq.message_id, rq.requested_sop_class_uid, uid, GeneralStatus.SUCCESS, has_data_set=True),
        encode_identifier(dict(sorted(items.items())), syntax),
    )


def _answer(rq: NGetRQ, code: int, comment: str) -> NGetRSP:
    uid = rq.requested_sop_instance_uid
    return NGetRSP(rq.message_id, rq.requested_sop_class_uid, uid, code, False, comment)


def refuse_get(session: Session, presentation_context_id: int, rq: NGetRQ, comment: str) -> None:
    """Refuses one N-GET for lack of resources."""
    session.respond(presentation_context_id, _answer(rq, GeneralStatus.RESOURCE_LIMITATION, comment))


SERVICE = ServiceClass(
    name="Modality Performed Procedure Step",
    sop_class_uids=(uids.ModalityPerformedProcedureStep,),
    action=Action.WORKLIST,
    requests=frozenset({NCreateRQ, NSetRQ}),
    attach=operations(serve, refuse, bytes_max=performing.DATA_SET_BYTES_MAX, is_data_set_optional=True),
)

RETRIEVE_SERVICE = ServiceClass(
    name="Modality Performed Procedure Step Retrieve",
    sop_class_uids=(uids.ModalityPerformedProcedureStepRetrieve,),
    action=Action.WORKLIST,
    requests=frozenset({NGetRQ}),
    attach=operations(get, refuse_get, is_data_set_optional=True),
)
