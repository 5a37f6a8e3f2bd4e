"""A report of storage commitment: the N-EVENT-REPORT-RQ, and the meaning of its response (PS3.4 J.3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from engine.dicom import transfer_syntax, uids
from engine.dimse.messages import NEventReportRQ, NEventReportRSP
from engine.dimse.status import Category, category
from engine.services.commitment.information import encode_event, event_type

if TYPE_CHECKING:
    from engine.archive.commitment.judge import Verdict
    from engine.archive.commitment.transactions import Transaction

SOP_CLASS: Final = uids.StorageCommitmentPushModel
SOP_INSTANCE: Final = uids.StorageCommitmentPushModelInstance


def report_rq(message_id: int, verdicts: Sequence[Verdict]) -> NEventReportRQ:
    """The command of a report."""
    return NEventReportRQ(message_id, SOP_CLASS, SOP_INSTANCE, event_type(verdicts), has_data_set=True)


def refusal_of(response: NEventReportRSP) -> str:
    """Why the peer refused a report; "" when it accepted it."""
    if category(response.status) in (Category.SUCCESS, Category.WARNING):
        return ""
    return f"N-EVENT-REPORT was answered with status {response.status:04X}"


def event_information(transaction: Transaction, verdicts: Sequence[Verdict], aet: str, syntax_uid: str) -> bytes:
    """The event information of a transaction."""
    return encode_event(
        transaction.transaction_uid,
        transaction.references,
        verdicts,
        retrieve_ae_title=aet,
        transfer_syntax=transfer_syntax.of(syntax_uid),
    )
