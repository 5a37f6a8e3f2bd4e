"""Data sets of workitems, as callers bring them."""

from __future__ import annotations

from engine.dicom import tags
from engine.dicom.identifier import Identifier

Values = dict[int, bytes | list[Identifier]]


def item(values: Values) -> Identifier:
    return Identifier(values)


def scheduled(**changes: bytes | list[Identifier]) -> Identifier:
    """What an N-CREATE must have, and the patient."""
    values: Values = {
        tags.ProcedureStepState: b"SCHEDULED",
        tags.ScheduledProcedureStepPriority: b"MEDIUM",
        tags.ProcedureStepLabel: b"Segment the liver",
        tags.ScheduledProcedureStepStartDateTime: b"20261201090000",
        tags.InputReadinessState: b"READY",
        tags.PatientID: b"P1",
        tags.PatientName: b"Doe^Jane",
    }
    for keyword, value in changes.items():
        values[tags.tag_of(keyword) or 0] = value
    return Identifier(values)


def code(value: bytes) -> list[Identifier]:
    return [Identifier({tags.CodeValue: value, tags.CodingSchemeDesignator: b"99X", tags.CodeMeaning: b"x"})]


def performed(transaction_uid: str) -> Identifier:
    """An N-SET after which a workitem may become COMPLETED."""
    done = {
        tags.PerformedStationNameCodeSequence: code(b"AI1"),
        tags.PerformedProcedureStepStartDateTime: b"20261201091000",
        tags.PerformedWorkitemCodeSequence: code(b"W1"),
        tags.PerformedProcedureStepEndDateTime: b"20261201092000",
        tags.OutputInformationSequence: [Identifier({tags.StudyInstanceUID: b"1.2.3"})],
    }
    return changed(transaction_uid, UnifiedProcedureStepPerformedProcedureSequence=[Identifier(done)])


def changed(transaction_uid: str, **changes: bytes | list[Identifier]) -> Identifier:
    """An N-SET."""
    values: Values = {tags.tag_of(keyword) or 0: value for keyword, value in changes.items()}
    if transaction_uid:
        values[tags.TransactionUID] = transaction_uid.encode()
    return Identifier(values)
