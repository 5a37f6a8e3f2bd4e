"""Makes the index entry of a data set: reads the attributes that the index keeps, and checks the UIDs.

Looks nothing up and writes nothing. Knows no DIMSE status: a data set that cannot be stored raises InstanceRefused with
the reason.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.archive.ingest.request import Answer
from engine.dicom import elements, transfer_syntax
from engine.dicom.schema import Schema
from engine.errors import DataSetError, EngineError, InstanceRefused, Refusal
from engine.index.format.entry import Entry
from engine.storage.record import Position

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from engine.archive.ingest.request import StoreRequest
    from engine.index.format.types import Outcome

UNPLACED = Position(0, 0, 0, 0, 0, 0)
"""The position of an entry that has not been appended yet."""

UID_LENGTH_MAX = 128
"""Bytes. PS3.5 9.1 allows 64, some devices write a little more. UIDs are index keys and need a limit."""

_ODD_UID = re.compile(rb"[^\x21-\x5b\x5d-\x7e]")


def scan(
    payload: Sequence[Buffer],
    transfer_syntax_uid: str,
    schema: Schema,
    limits: elements.ScanLimits = elements.SCAN_LIMITS,
) -> elements.Head:
    """Reads the attributes for the index from a whole data set. Raises InstanceRefused if it cannot be read."""
    syntax = transfer_syntax.of(transfer_syntax_uid)
    try:
        if len(payload) == 1:
            return elements.extract(payload[0], syntax, limits=limits, extractor=schema.extractor)
        scanner = elements.Scanner(syntax, limits, schema.extractor)
        for piece in payload:
            scanner.feed(piece)
        return scanner.finish()
    except DataSetError as error:
        raise unreadable(error) from error


def unreadable(error: DataSetError) -> InstanceRefused:
    """The refusal of an unreadable data set."""
    return InstanceRefused(f"the data set cannot be read: {error}")


def make_entry(
    head: elements.Head,
    schema: Schema,
    *,
    transfer_syntax_uid: str,
    calling_ae_title: str,
    sop_class_uid: str | None,
    sop_instance_uid: str | None,
    study_instance_uid: str | None = None,
    accept_truncated: bool = False,
) -> Entry:
    """The index entry of a data set with this head; position and stamp are still open.

    Raises InstanceRefused if the data set ends early and that is not accepted, or if its UIDs are not the announced
    ones.
    """
    if head.cut and not accept_truncated:
        raise InstanceRefused(f"the data set {head.cut}")
    _check_uid("SOP Instance UID (0008,0018)", head.sop_instance_uid)
    _check_uid("SOP Class UID (0008,0016)", head.sop_class_uid)
    _check_uid("Study Instance UID (0020,000D)", head.study_instance_uid)
    _check_uid("Series Instance UID (0020,000E)", head.series_instance_uid)
    if sop_class_uid is not None and sop_class_uid.encode("ascii", "replace") != head.sop_class_uid:
        raise InstanceRefused("SOP Class UID of the data set is not the one announced", Refusal.MISMATCH)
    if sop_instance_uid is not None and sop_instance_uid.encode("ascii", "replace") != head.sop_instance_uid:
        raise InstanceRefused("SOP Instance UID of the data set is not the one announced", Refusal.MISMATCH)
    if study_instance_uid is not None and study_instance_uid.encode("ascii", "replace") != head.study_instance_uid:
        raise InstanceRefused("the data set is of another study than the one it is stored into", Refusal.OTHER_STUDY)
    return Entry(
        position=UNPLACED,
        flags=0,
        stamp=0,
        sop_class_uid=head.sop_class_uid,
        sop_instance_uid=head.sop_instance_uid,
        transfer_syntax_uid=transfer_syntax_uid.encode("utf-8", "replace"),
        calling_ae_title=calling_ae_title.encode("utf-8"),
        received_ns=time.time_ns(),
        pixel_data_offset=head.pixel_data_offset,
        character_set=head.specific_character_set,
        patient=head.patient,
        study=head.study,
        series=head.series,
        instance=head.instance,
        mark=schema.mark,
    )


def entry_of(head: elements.Head, schema: Schema, request: StoreRequest) -> Entry:
    """The same, from a front end's request, whose `study` it fills."""
    request.study = head.study_instance_uid
    return make_entry(
        head,
        schema,
        transfer_syntax_uid=request.transfer_syntax_uid,
        calling_ae_title=request.calling_ae_title,
        sop_class_uid=request.sop_class_uid,
        sop_instance_uid=request.sop_instance_uid,
        study_instance_uid=request.study_instance_uid,
        accept_truncated=request.accept_truncated,
    )


def answer_of(outcome: Outcome | EngineError, head: elements.Head | None) -> Answer:
    """An outcome with the UIDs of its data set."""
    if head is None:
        return Answer(outcome, "", "", "", "")
    uids = (head.sop_class_uid, head.sop_instance_uid, head.study_instance_uid, head.series_instance_uid)
    return Answer(outcome, *[uid.decode("utf-8", "replace") for uid in uids])


def _check_uid(name: str, uid: bytes) -> None:
    if not uid:
        raise InstanceRefused(f"incomplete: {name} is missing or empty")
    if len(uid) > UID_LENGTH_MAX:
        raise InstanceRefused(f"{name} has {len(uid)} bytes, the limit is {UID_LENGTH_MAX}")
    if _ODD_UID.search(uid):
        raise InstanceRefused(f"{name} has invalid characters")
