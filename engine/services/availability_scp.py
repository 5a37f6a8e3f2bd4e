"""Instance Availability Notification, SCP (PS3.4 R): another archive tells us that instances can be retrieved there.

    N-CREATE ──► checked ──► announced, synced, if a [[rule]] is about it (`exchange.pulling`) ──► 0000

    0120 an attribute is missing    0121 it has no value    0106 no availability, or no UID    0115 cannot be read
    0213 too many attributes

Nothing of it is stored here: what another archive has, it says itself. A notification that comes again is answered with
Success, since doing its work twice changes nothing.
"""

from __future__ import annotations

import re
import uuid
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from engine import audit, log
from engine.access import Action
from engine.audit import Event, Outcome
from engine.audit import Kind as EventKind
from engine.dicom import tags, transfer_syntax, uids
from engine.dicom.identifier import Identifier, decode_identifier
from engine.dimse.messages import NCreateRQ, NCreateRSP
from engine.dimse.status import GeneralStatus, Service, status_of
from engine.errors import EngineError, MessageError, for_log
from engine.orders.values import Source
from engine.orders.work import STUDY_AVAILABLE
from engine.services.operations import operations
from engine.services.service import ServiceClass

if TYPE_CHECKING:
    from engine.services.session import Session

logger = log.get("services.availability_scp")

BYTES_MAX: Final = 32 << 20
"""Some hundred thousand instances of one study."""
ELEMENT_COUNT_MAX: Final = 600_000
AVAILABILITIES: Final = MappingProxyType({"ONLINE": True, "NEARLINE": True, "OFFLINE": False, "UNAVAILABLE": False})
"""The values of Instance Availability (0008,0056), and whether a retrieval can succeed."""

_UID = re.compile(r"[0-9.]{1,64}")


def retrievable_count(data_set: Identifier) -> tuple[str, int]:
    """The study of a notification, and how many of its instances can be retrieved. Raises MessageError."""
    study = _uid(data_set, tags.StudyInstanceUID)
    count = 0
    for series in _items(data_set, tags.ReferencedSeriesSequence):
        _uid(series, tags.SeriesInstanceUID)
        for instance in _items(series, tags.ReferencedSOPSequence):
            _uid(instance, tags.ReferencedSOPClassUID)
            _uid(instance, tags.ReferencedSOPInstanceUID)
            availability = _text(instance, tags.InstanceAvailability)
            if availability not in AVAILABILITIES:
                raise MessageError(f"{availability[:20]!r} is no availability", GeneralStatus.INVALID_ATTRIBUTE_VALUE)
            count += AVAILABILITIES[availability]
    return study, count


def _items(data_set: Identifier, tag: int) -> list[Identifier]:
    items = data_set.sequence(tag)
    if not items:
        _text(data_set, tag)
        raise MessageError(f"{tags.keyword_of(tag)} has no item", GeneralStatus.MISSING_ATTRIBUTE_VALUE)
    return list(items)


def _uid(data_set: Identifier, tag: int) -> str:
    text = _text(data_set, tag)
    if _UID.fullmatch(text) is None:
        raise MessageError(f"{tags.keyword_of(tag)} is no UID", GeneralStatus.INVALID_ATTRIBUTE_VALUE)
    return text


def _text(data_set: Identifier, tag: int) -> str:
    value = data_set.items.get(tag)
    if value is None:
        raise MessageError(f"{tags.keyword_of(tag)} is missing", GeneralStatus.MISSING_ATTRIBUTE)
    if not value:
        raise MessageError(f"{tags.keyword_of(tag)} has no value", GeneralStatus.MISSING_ATTRIBUTE_VALUE)
    return "" if isinstance(value, list) else value.decode("ascii", "replace").strip(" \0")


async def serve(session: Session, presentation_context_id: int, rq: NCreateRQ, data: bytes) -> None:
    """Answers one N-CREATE."""
    uid = rq.affected_sop_instance_uid or f"2.25.{uuid.uuid4().int}"
    engine, code, comment, study = session.services.engine, int(GeneralStatus.SUCCESS), "", ""
    try:
        if not session.allowed(Action.WORKLIST):
            raise MessageError("not allowed to notify", GeneralStatus.NOT_AUTHORIZED)
        audit.check()
        syntax = transfer_syntax.of(session.contexts[presentation_context_id].transfer_syntax)
        source = Source(name=session.caller, reference=uid)

        def work() -> tuple[str, int]:
            data_set = decode_identifier(data, syntax, element_count_max=ELEMENT_COUNT_MAX)
            found, count = retrievable_count(data_set)
            if count and STUDY_AVAILABLE in engine.stations.announced and not session.archive.is_read_only:
                engine.orders().announce(STUDY_AVAILABLE, found, source)
            return found, count

        study, count = await engine.pools.orders.run(work)
        engine.metrics.counters["availability_notifications"] += 1
        logger.info("instances are available elsewhere", calling=session.caller, study=study, retrievable=count)
    except EngineError as error:
        comment = str(error)
        code = error.status if isinstance(error, MessageError) else status_of(error, Service.OTHER)
        logger.warning("notification refused", calling=session.caller, status=f"{code:04X}", error=for_log(error))
    _record(session, study, comment)
    session.respond(presentation_context_id, _response(rq, uid, code, comment))


def _record(session: Session, study: str, failure: str) -> None:
    """Records the request in the audit log."""
    if audit.is_on():
        outcome = Outcome.MINOR if failure else Outcome.SUCCESS
        audit.write(
            Event(
                kind=EventKind.OPERATION, principal=session.principal, action="N-CREATE", outcome=outcome, study=study,
                detail=failure or "instance availability notification",
            )
        )  # fmt: skip


def _response(rq: NCreateRQ, uid: str, code: int, comment: str) -> NCreateRSP:
    return NCreateRSP(rq.message_id, rq.affected_sop_class_uid, uid, code, False, comment)


def refuse(session: Session, presentation_context_id: int, rq: NCreateRQ, comment: str) -> None:
    """Refuses one request for lack of resources."""
    code = GeneralStatus.RESOURCE_LIMITATION
    session.respond(presentation_context_id, _response(rq, rq.affected_sop_instance_uid, code, comment))


SERVICE = ServiceClass(
    name="Instance Availability Notification",
    sop_class_uids=(uids.InstanceAvailabilityNotification,),
    action=Action.WORKLIST,
    requests=frozenset({NCreateRQ}),
    attach=operations(serve, refuse, bytes_max=BYTES_MAX),
)
