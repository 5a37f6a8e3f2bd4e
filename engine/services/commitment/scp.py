"""Storage Commitment Push Model, SCP (PS3.4 J.3): accepts requests, and sends reports on their association.

    N-ACTION-RQ ──► stored on disk ──► N-ACTION-RSP 0000 ──► N-EVENT-REPORT-RQ on this association while it is open
                                                             (`[commitment] same_association`); else, and if that
                                                             fails, `reporter` sends it on a new association

An N-ACTION-RSP other than 0000 refuses the request; no report follows:

    0112 another SOP Instance than the well-known one     0118 another SOP class than the context's
    0123 another action than 1                            0115 no Transaction UID, no references, or invalid UIDs
    0124 may not store, or a replica                      0213 too many references or waiting reports, or a full disk
    0110 any other failure

`archive.commitment.judge` judges the instances. A report does not delay the peer's release: if the peer does not wait
for it, it comes later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from engine import log
from engine.access import Action
from engine.archive.commitment.judge import Verdict
from engine.archive.commitment.transactions import Transaction
from engine.dicom import transfer_syntax
from engine.dimse.messages import NActionRQ, NActionRSP, NEventReportRSP
from engine.dimse.status import GeneralStatus, Service, status_of
from engine.errors import AssociationFailed, EngineError, MessageError, for_log
from engine.services.commitment.commitments import Turn
from engine.services.commitment.information import decode_action
from engine.services.commitment.report import SOP_CLASS, SOP_INSTANCE, event_information, refusal_of, report_rq
from engine.services.operations import Operations
from engine.services.service import ServiceClass

if TYPE_CHECKING:
    from engine.services.session import Session

logger = log.get("services.commitment.scp")

REQUEST_STORAGE_COMMITMENT: Final = 1
"""Action Type ID, PS3.4 Table J.3-1."""


async def act(session: Session, presentation_context_id: int, rq: NActionRQ, information: bytes, *, turn: Turn) -> None:
    """Answers one N-ACTION; the report follows later. `turn`: orders the reports on this association."""
    services = session.services
    commitments = services.commitments
    services.engine.metrics.counters["commitment_requests"] += 1
    try:
        _check(session, rq)
        syntax = session.contexts[presentation_context_id].transfer_syntax
        title, references_max = session.calling_ae_title, session.config.commitment.references_max
        transaction = await commitments.run_in_file_thread(lambda: _decode(information, syntax, title, references_max))
        claim = await commitments.add(transaction)
    except EngineError as error:
        code, comment = status_of(error, Service.OTHER), str(error)
        services.engine.metrics.counters["commitment_requests_refused"] += 1
        logger.warning("commitment refused", calling=session.caller, status=f"{code:04X}", error=for_log(error))
        session.respond(presentation_context_id, _response(rq, code, comment))
        return
    logger.info(
        "commitment requested",
        calling=session.caller,
        transaction_uid=transaction.transaction_uid,
        instances=len(transaction.instances),
    )
    session.respond(presentation_context_id, _response(rq, GeneralStatus.SUCCESS))
    if claim is not None:
        commitments.begin(claim, ReportOnAssociation(session, presentation_context_id, turn))


def _decode(information: bytes, syntax_uid: str, calling_ae_title: str, references_max: int) -> Transaction:
    transaction_uid, references = decode_action(information, transfer_syntax.of(syntax_uid), references_max)
    return Transaction.of(transaction_uid, calling_ae_title, time.time_ns(), references)


def refuse(session: Session, presentation_context_id: int, rq: NActionRQ, comment: str) -> None:
    """Refuses one N-ACTION for lack of resources."""
    session.respond(presentation_context_id, _response(rq, GeneralStatus.RESOURCE_LIMITATION, comment))


def _check(session: Session, rq: NActionRQ) -> None:
    """Raises MessageError with the status for the response."""
    if rq.requested_sop_instance_uid != SOP_INSTANCE:
        raise MessageError(f"the SOP Instance must be {SOP_INSTANCE}", GeneralStatus.NO_SUCH_SOP_INSTANCE)
    if rq.action_type_id != REQUEST_STORAGE_COMMITMENT:
        raise MessageError("the action type must be 1", GeneralStatus.NO_SUCH_ACTION)
    if session.archive.is_read_only:
        raise MessageError("this archive is read-only", GeneralStatus.NOT_AUTHORIZED)
    if not session.allowed(Action.COMMIT):
        raise MessageError("not allowed to store", GeneralStatus.NOT_AUTHORIZED)


def _response(rq: NActionRQ, code: int, comment: str = "") -> NActionRSP:
    return NActionRSP(
        rq.message_id,
        rq.requested_sop_class_uid,
        rq.requested_sop_instance_uid,
        code,
        error_comment=comment,
        action_type_id=rq.action_type_id,
    )


class ReportOnAssociation:
    """Sends reports on the association of the request (`commitments.ReportChannel`)."""

    def __init__(self, session: Session, presentation_context_id: int, turn: Turn) -> None:
        self._session = session
        self._context_id = presentation_context_id
        self.turn = turn

    def is_possible(self) -> bool:
        """Whether the association is open, not being released, and we are SCP on it."""
        session = self._session
        is_usable = session.connection.is_open and not session.is_releasing and not self.turn.is_over
        return is_usable and session.contexts[self._context_id].we_are_scp

    async def send(self, verdicts: Sequence[Verdict], information: bytes) -> None:
        """Sends one report and waits for the response. Raises AssociationFailed when it was not accepted."""
        session = self._session
        message_id, response = session.responses.expect()
        session.respond(self._context_id, report_rq(message_id, verdicts), information)
        timeout_s = session.settings.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                refusal = refusal_of(await response)
        except TimeoutError:
            self.turn.is_over = True
            raise AssociationFailed(f"N-EVENT-REPORT was not answered within {timeout_s:g} s") from None
        finally:
            session.responses.forget(message_id)
        if refusal:
            raise AssociationFailed(refusal)

    def encode(self, transaction: Transaction, verdicts: Sequence[Verdict]) -> bytes:
        """The event information in the context's transfer syntax."""
        syntax = self._session.contexts[self._context_id].transfer_syntax
        return event_information(transaction, verdicts, self._session.config.aet, syntax)


ACTION_BYTES_MAX = 4 << 20
"""Length of the action information of an N-ACTION: a reference has some 130 bytes, so thirty thousand instances."""


def _attach(session: Session) -> Operations:
    return Operations(session, partial(act, turn=Turn()), refuse, ACTION_BYTES_MAX, is_data_set_optional=True)


SERVICE = ServiceClass(
    name="Storage Commitment",
    sop_class_uids=(SOP_CLASS,),
    action=Action.COMMIT,
    requests=frozenset({NActionRQ}),
    responses=frozenset({NEventReportRSP}),
    attach=_attach,
)
