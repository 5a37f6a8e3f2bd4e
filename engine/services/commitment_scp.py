"""Storage Commitment Push Model, SCP (PS3.4 J.3): takes requests, and sends reports on an association.

    N-ACTION-RQ ──► kept on the disk ──► N-ACTION-RSP 0000 ──► N-EVENT-REPORT-RQ on this association while it is open
                                                               (`[commitment] same_association`); else, and after it
                                                               failed, `services.commitments` sends it on a new one

An N-ACTION-RSP other than 0000 says that the request was not taken; nothing follows it:

    0112 another SOP Instance than the well-known one     0118 another SOP class than the context's
    0123 another action than 1                            0115 no Transaction UID, no references, or none that are UIDs
    0124 may not store, or a replica                      0213 too many references or waiting reports, or a full disk
    0110 everything else

Whoever may store may ask for commitment: a permission of its own would only be forgotten. Does not judge (that is
`archive.commitment.judge`) and does not hold the peer's release up: a report that it did not wait for comes later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from engine import log
from engine.archive.commitment.judge import Verdict
from engine.archive.commitment.transactions import Transaction
from engine.dicom import transfer_syntax, uids
from engine.dimse.messages import NActionRQ, NActionRSP, NEventReportRQ, NEventReportRSP
from engine.dimse.status import Category, GeneralStatus, Service, category, status_of
from engine.errors import AssociationFailed, EngineError, MessageError
from engine.services.commitment_information import decode_action, encode_event, event_type

if TYPE_CHECKING:
    from engine.services.provider import ServiceProvider

logger = log.get("services.commitment_scp")

SOP_CLASS: Final = uids.StorageCommitmentPushModel
SOP_INSTANCE: Final = uids.StorageCommitmentPushModelInstance

REQUEST_STORAGE_COMMITMENT: Final = 1
"""Action Type ID, PS3.4 Table J.3-1."""


async def act(provider: ServiceProvider, presentation_context_id: int, rq: NActionRQ, information: bytes) -> None:
    """Answers one N-ACTION; the report follows when this has ended."""
    services = provider.services
    commitments = services.commitments
    services.metrics.counters["commitment_requests"] += 1
    try:
        _check(provider, presentation_context_id, rq)
        syntax = provider.contexts[presentation_context_id].transfer_syntax
        title, references_max = provider.calling_ae_title, services.config.commitment.references_max
        transaction = await commitments.at_desk(lambda: _asked(information, syntax, title, references_max))
        claim = await commitments.take(transaction)
    except EngineError as error:
        code, comment = status_of(error, Service.OTHER), str(error)
        services.metrics.counters["commitment_requests_refused"] += 1
        logger.warning("commitment refused", calling=provider.caller, status=f"{code:04X}", error=comment)
        provider.respond(presentation_context_id, _response(rq, code, comment))
        return
    logger.info(
        "commitment requested",
        calling=provider.caller,
        transaction_uid=transaction.transaction_uid,
        instances=len(transaction.instances),
    )
    provider.respond(presentation_context_id, _response(rq, GeneralStatus.SUCCESS))
    if claim is not None:
        commitments.begin(claim, ReportOnAssociation(provider, presentation_context_id))


def _asked(information: bytes, syntax_uid: str, calling_ae_title: str, references_max: int) -> Transaction:
    transaction_uid, references = decode_action(information, transfer_syntax.of(syntax_uid), references_max)
    return Transaction.of(transaction_uid, calling_ae_title, time.time_ns(), references)


def refuse(provider: ServiceProvider, presentation_context_id: int, rq: NActionRQ, comment: str) -> None:
    """Answers one that is one too many."""
    provider.respond(presentation_context_id, _response(rq, GeneralStatus.RESOURCE_LIMITATION, comment))


def _check(provider: ServiceProvider, presentation_context_id: int, rq: NActionRQ) -> None:
    """Raises MessageError with the status to answer."""
    if rq.requested_sop_class_uid != provider.contexts[presentation_context_id].abstract_syntax:
        raise MessageError("another SOP class than that of the context", GeneralStatus.NO_SUCH_SOP_CLASS)
    if rq.requested_sop_class_uid != SOP_CLASS:
        raise MessageError("N-ACTION is not served for this SOP class", GeneralStatus.NO_SUCH_SOP_CLASS)
    if rq.requested_sop_instance_uid != SOP_INSTANCE:
        raise MessageError(f"the SOP Instance is {SOP_INSTANCE}", GeneralStatus.NO_SUCH_SOP_INSTANCE)
    if rq.action_type_id != REQUEST_STORAGE_COMMITMENT:
        raise MessageError("the action type is 1", GeneralStatus.NO_SUCH_ACTION)
    if provider.services.archive.is_read_only:
        raise MessageError("this archive takes nothing in", GeneralStatus.NOT_AUTHORIZED)
    if not provider.services.config.may(provider.calling_ae_title, "store"):
        raise MessageError("not allowed to store", GeneralStatus.NOT_AUTHORIZED)


def _response(rq: NActionRQ, code: int, comment: str = "") -> NActionRSP:
    return NActionRSP(
        rq.message_id,
        rq.requested_sop_class_uid,
        rq.requested_sop_instance_uid,
        rq.action_type_id,
        code,
        error_comment=comment,
    )


class ReportOnAssociation:
    """Sends reports on the association that the request came on."""

    def __init__(self, provider: ServiceProvider, presentation_context_id: int) -> None:
        self._provider = provider
        self._context_id = presentation_context_id
        self.turn = provider.reports

    def is_possible(self) -> bool:
        """Whether the peer is still there, wants to stay, and has us for its SCP."""
        provider = self._provider
        is_there = provider.connection.is_open and not provider.releasing and not self.turn.is_over
        return is_there and provider.contexts[self._context_id].we_are_scp

    async def send(self, verdicts: Sequence[Verdict], information: bytes) -> None:
        """Sends one report and waits for the answer. Raises AssociationFailed when it was not taken."""
        provider = self._provider
        message_id, response = provider.responses.expect()
        provider.respond(self._context_id, report_rq(message_id, verdicts), information)
        timeout_s = provider.services.config.timeout_s_of(provider.calling_ae_title)
        try:
            async with asyncio.timeout(timeout_s):
                why_not = why_not_taken(await response)
        except TimeoutError:
            self.turn.is_over = True
            raise AssociationFailed(f"N-EVENT-REPORT was not answered within {timeout_s:g} s") from None
        finally:
            provider.responses.forget(message_id)
        if why_not:
            raise AssociationFailed(why_not)

    def encode(self, transaction: Transaction, verdicts: Sequence[Verdict]) -> bytes:
        """The event information in the context's transfer syntax."""
        syntax = self._provider.contexts[self._context_id].transfer_syntax
        return event_information(transaction, verdicts, self._provider.services.config.aet, syntax)


def report_rq(message_id: int, verdicts: Sequence[Verdict]) -> NEventReportRQ:
    """The command of a report."""
    return NEventReportRQ(message_id, SOP_CLASS, SOP_INSTANCE, event_type(verdicts), has_data_set=True)


def why_not_taken(response: NEventReportRSP) -> str:
    """What the answer to a report says against it; "" when the peer has taken it."""
    if category(response.status) in (Category.SUCCESS, Category.WARNING):
        return ""
    return f"N-EVENT-REPORT was answered with status {response.status:04X}"


def event_information(transaction: Transaction, verdicts: Sequence[Verdict], aet: str, syntax_uid: str) -> bytes:
    """What a report says of a transaction."""
    return encode_event(
        transaction.transaction_uid,
        transaction.references,
        verdicts,
        retrieve_ae_title=aet,
        transfer_syntax=transfer_syntax.of(syntax_uid),
    )
