"""Each requested attribute of a worklist's answer is what its field says, whichever row of the registry has it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from engine.dicom import tags
from engine.dicom.identifier import decode_identifier, encode_identifier
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, TransferSyntax
from engine.dimse.messages import CFindRQ
from engine.orders.entry import ROOT, STEP, Entry
from engine.orders.rows import OrderRow, PatientRow, ProcedureRow, StepRow, StoredAttributes, VisitRow
from engine.orders.values import Code, Identifier
from engine.services.worklist_answers import WorklistResponses

SEQUENCE = tags.ScheduledProcedureStepSequence


def entry(visit: StoredAttributes, order: StoredAttributes, name: str = "Doe^Jane") -> Entry:
    protocol: StoredAttributes = {"ScheduledProtocolCodeSequence": (Code("1", "L", "Chest"),), "PreMedication": "none"}
    return Entry(
        7,
        StepRow(
            order=1, requested_procedure_id="R", scheduled_procedure_step_id="S", modality="CT", attributes=protocol
        ),
        OrderRow(patient=2, accession=Identifier("A1"), attributes=order),
        ProcedureRow(requested_procedure_id="R", study_instance_uid="1.2.3", attributes={"ReportingPriority": "HIGH"}),
        PatientRow(identifiers=(Identifier("P1"),), attributes={"PatientName": name, "PatientSex": "F"}),
        VisitRow(visit=Identifier("V"), patient=2, attributes=visit),
    )


ENTRIES = [
    entry({}, {}),
    entry(
        {"PregnancyStatus": "4", "PatientState": "of the visit", "Allergies": "nuts"}, {"PatientState": "of the order"}
    ),
    entry({"PregnancyStatus": "4", "PatientWeight": "70"}, {"PregnancyStatus": "unknown", "PatientWeight": "71.5"}),
    entry({}, {"PatientState": "müde"}, "Müller^Jörg"),
    entry({"PatientState": "müde"}, {}),
    entry({}, {}),
]


@pytest.mark.parametrize("syntax", [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN])
def test_every_attribute_is_that_of_its_field(syntax: TransferSyntax) -> None:
    item: dict[int, Any] = dict.fromkeys(sorted(STEP), b"")
    keys = {**dict.fromkeys(ROOT, b""), SEQUENCE: [item]}
    query = decode_identifier(encode_identifier(dict(sorted(keys.items())), syntax), syntax)
    connection = SimpleNamespace(trace_command=lambda *_: None)
    contexts = {1: SimpleNamespace(transfer_syntax=syntax.uid)}
    session: Any = SimpleNamespace(connection=connection, fragment=1 << 20, contexts=contexts)
    rq = CFindRQ(1, "1.2.840.10008.5.1.4.31")
    responses = WorklistResponses(session, 1, rq, query)
    for each in ENTRIES:
        pdus = responses.encode(each)
        length = int.from_bytes(pdus[2:6], "big")
        answer = decode_identifier(pdus[6 + length + 12 :], syntax)
        (step,) = answer.sequence(SEQUENCE)
        for fields, data_set in ((ROOT, answer), (STEP, step)):
            for tag, of in fields.items():
                if tags.vr_of(tag) != "SQ":
                    assert data_set.value(tag).rstrip(b" \0") == of(each).rstrip(b"\0"), tags.keyword_of(tag)
        assert answer.character_set == (b"" if "ü" not in str(each) else b"ISO_IR 192")
        (code,) = step.sequence(tags.ScheduledProtocolCodeSequence)
        assert code.text(tags.CodeMeaning).strip() == "Chest"
