"""An entry of a worklist: one scheduled step with its procedure, order, visit and patient, as attributes (PS3.4 K.6.1).

`ROOT` and `STEP` say where the value of each attribute comes from. Values are as in level blobs: text in UTF-8, items
of sequences in Explicit VR Little Endian. What may change without the step is joined here, at the time of the query:
the patient may have been merged or corrected since.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from engine.dicom import tags
from engine.dicom.identifier import Value, encode_identifier
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from engine.orders import patients, visits
from engine.orders.names import id_key
from engine.orders.rows import OrderRow, PatientRow, ProcedureRow, StepRow, StoredAttributes, StoredValue, VisitRow
from engine.orders.transactions import Reading
from engine.orders.values import (
    ORDER_KEYWORDS,
    PATIENT_KEYWORDS,
    PROCEDURE_KEYWORDS,
    STEP_KEYWORDS,
    VISIT_KEYWORDS,
    Code,
    Identifier,
)

_NO_VISIT: Final = VisitRow(visit=Identifier(""), patient=0)


@dataclass(slots=True)
class Entry:
    """One scheduled step, with all that belongs to it."""

    number: int
    step: StepRow
    order: OrderRow
    procedure: ProcedureRow
    patient: PatientRow
    visit: VisitRow


Field = Callable[[Entry], bytes]


def entry_of(reading: Reading, number: int, step: StepRow | None = None) -> Entry | None:
    """The entry of a step, which may have been read already; None if it is no longer there."""
    tables = reading.database
    step = step or reading.get(tables.steps, id_key(number))
    order = reading.get(tables.orders, id_key(step.order)) if step is not None else None
    if step is None or order is None:
        return None
    procedure = next(
        (each for each in order.procedures if each.requested_procedure_id == step.requested_procedure_id), None
    )
    patient = reading.get(tables.patients, id_key(order.patient))
    if patient is not None and patient.merged_into:
        found = patients.current(reading, order.patient)
        patient = found[1] if found else None
    if procedure is None or patient is None:
        return None
    visit = visits.find(reading, order.visit) if order.visit is not None else None
    return Entry(number, step, order, procedure, patient, visit or _NO_VISIT)


# values ----------------------------------------------------------------------------------------------


def text_of(value: StoredValue) -> str:
    """A stored value as DICOM writes it; of codes their meanings."""
    if isinstance(value, str):
        return value
    return "\\".join(each if isinstance(each, str) else each.meaning or each.value for each in value)


class Attribute:
    """A `Field` that is an attribute of one row."""

    __slots__ = ("blob_of", "keyword", "of")

    def __init__(self, of: Callable[[Entry], StoredAttributes], keyword: str) -> None:
        self.of = of
        """The attributes of the row."""
        self.keyword = keyword
        vr = tags.vr_of(tags.tag_of(keyword) or 0)
        self.blob_of: Callable[[StoredValue], bytes] = {"SQ": codes_blob, "US": _unsigned}.get(vr, _text_blob)
        """The value as in a level blob."""

    def __call__(self, entry: Entry) -> bytes:
        stored = self.of(entry).get(self.keyword)
        return b"" if stored is None else self.blob_of(stored)


class Either:
    """A `Field` that is an attribute of the order, else of the visit."""

    __slots__ = ("of_order", "of_visit")

    def __init__(self, keyword: str) -> None:
        self.of_order = Attribute(_of_order, keyword)
        self.of_visit = Attribute(_of_visit, keyword)

    def __call__(self, entry: Entry) -> bytes:
        return self.of_order(entry) or self.of_visit(entry)


def _of_order(entry: Entry) -> StoredAttributes:
    return entry.order.attributes


def _of_visit(entry: Entry) -> StoredAttributes:
    return entry.visit.attributes


def _of_patient(entry: Entry) -> StoredAttributes:
    return entry.patient.attributes


def _of_procedure(entry: Entry) -> StoredAttributes:
    return entry.procedure.attributes


def _of_step(entry: Entry) -> StoredAttributes:
    return entry.step.attributes


def _text_blob(value: StoredValue) -> bytes:
    return value.encode() if type(value) is str else text_of(value).encode()


def _unsigned(value: StoredValue) -> bytes:
    text = text_of(value)
    return struct.pack("<H", int(text)) if text.isdigit() and int(text) <= 0xFFFF else b""


def items_blob(items: Iterable[Mapping[int, Value]]) -> bytes:
    """The items of a sequence as in a level blob."""
    parts = []
    for item in items:
        data = encode_identifier(dict(sorted(item.items())), EXPLICIT_VR_LITTLE_ENDIAN)
        parts.append(struct.pack("<HHI", 0xFFFE, 0xE000, len(data)) + data)
    return b"".join(parts)


LONG_CODE_CHARACTERS = 16
"""A longer code is a Long Code Value (PS3.3 8.1)."""


def codes_blob(value: StoredValue) -> bytes:
    """The items of a sequence of codes; a text is the meaning of one."""
    codes = [Code("", meaning=value)] if isinstance(value, str) and value else value
    return items_blob(_code_item(each) for each in codes if isinstance(each, Code))


def _code_item(code: Code) -> dict[int, Value]:
    tag = tags.CodeValue if len(code.value) <= LONG_CODE_CHARACTERS else tags.LongCodeValue
    item: dict[int, Value] = {tag: code.value.encode(), tags.CodeMeaning: code.meaning[:64].encode()}
    if code.scheme:
        item[tags.CodingSchemeDesignator] = code.scheme[:16].encode()
    if code.version:
        item[tags.CodingSchemeVersion] = code.version[:16].encode()
    return item


def _primary(entry: Entry) -> Identifier:
    return entry.patient.identifiers[0]


def other_ids_blob(identifiers: Iterable[Identifier]) -> bytes:
    """The items of Other Patient IDs Sequence (0010,1002)."""
    return items_blob(
        {
            tags.PatientID: each.value.encode(),
            tags.IssuerOfPatientID: (each.issuer.name or each.issuer.universal_id).encode(),
            tags.TypeOfPatientID: b"TEXT",
        }
        for each in identifiers
    )


def _issuer_blob(identifier: Identifier | None) -> bytes:
    """An HL7v2 Hierarchic Designator (PS3.3 10.14); no item if there is no issuer."""
    if identifier is None or not str(identifier.issuer):
        return b""
    issuer = identifier.issuer
    item: dict[int, Value] = {}
    if issuer.name:
        item[tags.LocalNamespaceEntityID] = issuer.name.encode()
    if issuer.universal_id:
        item[tags.UniversalEntityID] = issuer.universal_id.encode()
        item[tags.UniversalEntityIDType] = (issuer.universal_id_type or "ISO").encode()
    return items_blob([item])


def _patient_issuer_qualifiers(entry: Entry) -> bytes:
    issuer = _primary(entry).issuer
    if not issuer.universal_id:
        return b""
    kind = (issuer.universal_id_type or "ISO").encode()
    return items_blob([{tags.UniversalEntityID: issuer.universal_id.encode(), tags.UniversalEntityIDType: kind}])


def _value(identifier: Identifier | None) -> bytes:
    return identifier.value.encode() if identifier is not None else b""


def _nothing(entry: Entry) -> bytes:
    return b""


def _fields() -> dict[int, Field]:
    fields: dict[int, Field] = {}
    for keywords, of in (
        (VISIT_KEYWORDS, _of_visit),
        (ORDER_KEYWORDS, _of_order),
        (PATIENT_KEYWORDS, _of_patient),
        (PROCEDURE_KEYWORDS, _of_procedure),
    ):
        fields |= {tags.tag_of(keyword) or 0: Attribute(of, keyword) for keyword in keywords}
    return fields | {tags.tag_of(keyword) or 0: Either(keyword) for keyword in VISIT_KEYWORDS & ORDER_KEYWORDS}


ROOT: Final[Mapping[int, Field]] = MappingProxyType({
    **_fields(),
    tags.PatientID: lambda entry: _primary(entry).value.encode(),
    tags.IssuerOfPatientID: lambda entry: (_primary(entry).issuer.name or _primary(entry).issuer.universal_id).encode(),
    tags.IssuerOfPatientIDQualifiersSequence: _patient_issuer_qualifiers,
    tags.OtherPatientIDsSequence: lambda entry: other_ids_blob(entry.patient.identifiers[1:]),
    tags.AccessionNumber: lambda entry: _value(entry.order.accession),
    tags.IssuerOfAccessionNumberSequence: lambda entry: _issuer_blob(entry.order.accession),
    tags.PlacerOrderNumberImagingServiceRequest: lambda entry: _value(entry.order.placer),
    tags.FillerOrderNumberImagingServiceRequest: lambda entry: _value(entry.order.filler),
    tags.OrderPlacerIdentifierSequence: lambda entry: _issuer_blob(entry.order.placer),
    tags.OrderFillerIdentifierSequence: lambda entry: _issuer_blob(entry.order.filler),
    tags.AdmissionID: lambda entry: _value(entry.order.visit),
    tags.IssuerOfAdmissionIDSequence: lambda entry: _issuer_blob(entry.order.visit),
    tags.RequestedProcedureID: lambda entry: entry.procedure.requested_procedure_id.encode(),
    tags.StudyInstanceUID: lambda entry: entry.procedure.study_instance_uid.encode(),
    tags.ReferencedStudySequence: _nothing,
    tags.ReferencedPatientSequence: _nothing,
    tags.WorklistLabel: lambda entry: text_of(entry.step.attributes.get("WorklistLabel", "")).encode(),
    tags.TimezoneOffsetFromUTC: lambda entry: text_of(entry.step.attributes.get("TimezoneOffsetFromUTC", "")).encode(),
})  # fmt: skip
"""The attributes of an entry, but for those of its step."""


def _aes(entry: Entry) -> bytes:
    return "\\".join(entry.step.aes).encode()


def _location(entry: Entry) -> bytes:
    return text_of(entry.step.attributes.get("ScheduledProcedureStepLocation", "") or entry.step.room).encode()


STEP: Final[Mapping[int, Field]] = MappingProxyType({
    **{
        tags.tag_of(keyword) or 0: Attribute(_of_step, keyword)
        for keyword in STEP_KEYWORDS - {"WorklistLabel", "TimezoneOffsetFromUTC"}
    },
    tags.ScheduledStationAETitle: _aes,
    tags.ScheduledProcedureStepStartDate: lambda entry: entry.step.start_date.encode(),
    tags.ScheduledProcedureStepStartTime: lambda entry: entry.step.start_time.encode(),
    tags.Modality: lambda entry: entry.step.modality.encode(),
    tags.ScheduledProcedureStepID: lambda entry: entry.step.scheduled_procedure_step_id.encode(),
    tags.ScheduledProcedureStepStatus: lambda entry: entry.step.state.encode(),
    tags.ScheduledProcedureStepLocation: _location,
})  # fmt: skip
"""The attributes in the item of Scheduled Procedure Step Sequence (0040,0100)."""
