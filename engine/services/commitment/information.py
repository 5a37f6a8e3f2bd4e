"""The data sets of storage commitment: decodes action information, encodes event information (PS3.4 J.3).

    N-ACTION        Transaction UID (0008,1195), Referenced SOP Sequence (0008,1199): class and instance UID an item
    N-EVENT-REPORT  the same Transaction UID; Referenced SOP Sequence with the committed instances, and Retrieve AE
                    Title (0008,0054) outside of it; Failed SOP Sequence (0008,1198), each item with a Failure Reason
                    (0008,1197); event type 1: all are committed; 2: failures exist

Pure functions over bytes. A request may be ten times as long as any identifier of a query: it is walked, and only these
UIDs are kept. Storage Media File-Set ID and UID are ignored, since we deliver no media.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from engine.archive.commitment.judge import Verdict
from engine.dicom import elements, tags
from engine.dicom.deflate import inflate
from engine.dicom.identifier import Value, encode_identifier
from engine.dimse.status import GeneralStatus
from engine.errors import MessageError, StorageFull

if TYPE_CHECKING:
    from engine.archive.commitment.transactions import Reference
    from engine.dicom.transfer_syntax import TransferSyntax

ALL_COMMITTED: Final = 1
FAILURES_EXIST: Final = 2
"""Event Type IDs, PS3.4 Table J.3-2."""

FAILURE_REASONS: Final = {
    Verdict.DAMAGED: 0x0110,  # processing failure
    Verdict.TRUNCATED: 0x0110,
    Verdict.ABSENT: 0x0112,  # no such object instance
    Verdict.OTHER_CLASS: 0x0119,  # class/instance conflict
    Verdict.NOT_SUPPORTED: 0x0122,  # referenced SOP class not supported
    Verdict.DUPLICATE: 0x0131,  # duplicate transaction UID
}
"""PS3.3 C.14.1.1. Resource limitation, 0213H, never applies to one instance: a request for which there is no room is
refused as a whole, and an instance that cannot be read now is read again before the report."""

_UID = re.compile(r"[0-9.]{1,64}")


def decode_action(data: bytes, transfer_syntax: TransferSyntax, references_max: int) -> tuple[str, list[Reference]]:
    """Transaction UID and references of a request.

    Raises MessageError with the status for the response, DataSetError for bytes that are not a data set, and
    StorageFull for too many references.
    """
    if transfer_syntax.deflated:
        data = inflate(data, INFLATED_BYTES_MAX, "action information")
    encoding = elements.encoding_of(data, transfer_syntax)
    transaction_uid, references = "", None
    for element in elements.walk(data, encoding):
        if element.tag == tags.TransactionUID:
            transaction_uid = _uid(data, element, "Transaction UID (0008,1195)")
        elif element.tag == tags.ReferencedSOPSequence:
            references = _references(data, element, encoding, references_max)
    if not transaction_uid:
        raise _invalid("Transaction UID (0008,1195) is missing")
    if not references:
        raise _invalid("Referenced SOP Sequence (0008,1199) is missing or has no item")
    return transaction_uid, references


def _references(data: bytes, sequence: elements.Element, encoding: int, references_max: int) -> list[Reference]:
    references: list[Reference] = []
    start = sequence.value_offset
    for item in elements.walk(data, encoding, start, start + sequence.length):
        if item.tag != tags.Item:
            raise _invalid("Referenced SOP Sequence (0008,1199) has elements other than items")
        if len(references) >= references_max:
            raise StorageFull(f"more than {references_max} instances in one request")
        sop_class_uid = sop_instance_uid = ""
        item_encoding = elements.item_encoding(data, item, encoding)
        for element in elements.walk(data, item_encoding, item.value_offset, item.value_offset + item.length):
            if element.tag == tags.ReferencedSOPClassUID:
                sop_class_uid = _uid(data, element, "Referenced SOP Class UID (0008,1150)")
            elif element.tag == tags.ReferencedSOPInstanceUID:
                sop_instance_uid = _uid(data, element, "Referenced SOP Instance UID (0008,1155)")
        if not sop_class_uid or not sop_instance_uid:
            raise _invalid("an item lacks (0008,1150) or (0008,1155)")
        references.append((sop_class_uid, sop_instance_uid))
    return references


def _uid(data: bytes, element: elements.Element, name: str) -> str:
    value = data[element.value_offset : element.value_offset + element.length]
    text = value.decode("ascii", "replace").strip(" \0")
    if not _UID.fullmatch(text):
        raise _invalid(f"{name} is not a UID")
    return text


def _invalid(comment: str) -> MessageError:
    return MessageError(comment, GeneralStatus.INVALID_ARGUMENT_VALUE)


INFLATED_BYTES_MAX: Final = 16 << 20
"""Length of deflated action information after inflation; four times the limit of any other."""


def event_type(verdicts: Sequence[Verdict]) -> int:
    """ALL_COMMITTED or FAILURES_EXIST."""
    is_all = all(verdict is Verdict.COMMITTED for verdict in verdicts)
    return ALL_COMMITTED if is_all else FAILURES_EXIST


def encode_event(
    transaction_uid: str,
    references: Sequence[Reference],
    verdicts: Sequence[Verdict],
    *,
    retrieve_ae_title: str,
    transfer_syntax: TransferSyntax,
) -> bytes:
    """The event information of a report."""
    committed: list[dict[int, Value]] = []
    failed: list[dict[int, Value]] = []
    for (sop_class_uid, sop_instance_uid), verdict in zip(references, verdicts, strict=True):
        item: dict[int, Value] = {
            tags.ReferencedSOPClassUID: sop_class_uid.encode(),
            tags.ReferencedSOPInstanceUID: sop_instance_uid.encode(),
        }
        if verdict is Verdict.COMMITTED:
            committed.append(item)
        else:
            item[tags.FailureReason] = struct.pack("<H", FAILURE_REASONS[verdict])
            failed.append(item)
    items: dict[int, Value] = {tags.TransactionUID: transaction_uid.encode()}
    if committed:
        items |= {tags.RetrieveAETitle: retrieve_ae_title.encode(), tags.ReferencedSOPSequence: committed}
    if failed:
        items[tags.FailedSOPSequence] = failed
    return encode_identifier(items, transfer_syntax)
