"""Values of workitems that their VR does not allow are refused, with the attribute; what is removed is gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.dicom import tags
from engine.dicom.identifier import Identifier as DataSet
from engine.errors import WorkitemRefused
from engine.orders.workitems.rules import Fault
from engine.orders.workitems.store import Workitems
from tests.orders.conftest import Open, Unsynced, opening
from tests.orders.workitem_sets import changed, code, performed, scheduled


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens the registry of this test."""
    yield from opening(tmp_path, Unsynced())


Value = bytes | list[DataSet]


def progress(text: bytes) -> list[DataSet]:
    return [DataSet({tags.ProcedureStepProgress: text})]


WRONG: list[tuple[str, Value]] = [
    ("PatientID", b"x" * 257),
    ("PatientID", b"a\x00\x07b"),
    ("PatientName", b"x" * 257),
    ("PatientName", b"a=b=c=d"),
    ("PatientName", [DataSet({})]),
    ("PatientBirthDate", b"1.1.1970"),
    ("PatientBirthDate", b"19701301"),
    ("PatientSex", b"m"),
    ("ProcedureStepLabel", b"x" * 257),
    ("WorklistLabel", b"x" * 257),
    ("ExpectedCompletionDateTime", b"tomorrow"),
    ("StudyInstanceUID", b"1.2.x"),
    ("StudyInstanceUID", b"1" * 65),
    ("PatientWeight", b"heavy"),
    ("ScheduledStationNameCodeSequence", b"CT1 "),
    ("ScheduledStationNameCodeSequence", [DataSet({tags.CodeMeaning: b"no code"})]),
    ("ScheduledStationNameCodeSequence", [DataSet({})]),
    ("ScheduledStationNameCodeSequence", [DataSet({tags.CodeValue: b"x" * 257})]),
    ("ScheduledWorkitemCodeSequence", code(b"W1") + code(b"W2")),
    ("ReferencedRequestSequence", [DataSet({tags.AccessionNumber: b"x" * 257})]),
    ("ReferencedRequestSequence", [DataSet({tags.ReferencedStudySequence: [DataSet({tags.StudyInstanceUID: b"x"})]})]),
    ("SmallestImagePixelValue", b"\x01"),
]


@pytest.mark.parametrize(("keyword", "value"), WRONG)
def test_a_value_that_its_vr_does_not_allow_is_refused_by_its_attribute(
    opened: Open, keyword: str, value: Value
) -> None:
    workitems = Workitems(opened())
    with pytest.raises(WorkitemRefused) as refused:
        workitems.create("1.2.3", scheduled(**{keyword: value}), "AI")
    assert (refused.value.fault, refused.value.offending_elements) == (Fault.VALUE, (tags.tag_of(keyword),))
    for part in value.split() if isinstance(value, bytes) and len(value) > 8 else ():
        assert part.decode("latin-1") not in str(refused.value), "no value of a patient in a message"
    workitems.create("1.2.3", scheduled(), "AI")
    if keyword not in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "ReferencedRequestSequence"):
        with pytest.raises(WorkitemRefused):
            workitems.update("1.2.3", changed("", **{keyword: value}), "AI")


def test_what_a_vr_allows_is_taken(opened: Open) -> None:
    workitems = Workitems(opened())
    names = "Yamada^Tarou=山田^太郎=やまだ^たろう".encode()
    right = scheduled(
        PatientName=names,
        PatientID="ä".encode() * 256,
        ReferencedRequestSequence=[DataSet({tags.AccessionNumber: b"20261130-CT-000000000017"})],
        PatientBirthDate=b"19720229",
        ExpectedCompletionDateTime=b"202612011200+0100",
        CommentsOnTheScheduledProcedureStep=b"two\r\nlines",
        PatientWeight=b" 71.5 ",
        SmallestImagePixelValue=b"\x01\x00",
        ScheduledStationNameCodeSequence=[DataSet({tags.LongCodeValue: b"x" * 20, tags.CodeMeaning: b"y"})],
    )
    right.items[0x00091001] = b"\xff\xfe private"
    right.items[tags.SpecificCharacterSet] = b"ISO_IR 192"
    workitems.create("1.2.3", DataSet(right.items, b"ISO_IR 192"), "AI")
    assert workitems.get("1.2.3")[tags.PatientName] == names


@pytest.mark.parametrize("text", [b"101", b"-1", b"NaN", b"half"])
def test_progress_is_a_percentage(opened: Open, text: bytes) -> None:
    workitems = Workitems(opened())
    workitems.create("1.2.3", scheduled(), "AI")
    workitems.change_state("1.2.3", "IN PROGRESS", "1.9", "AI")
    with pytest.raises(WorkitemRefused) as refused:
        workitems.update("1.2.3", changed("1.9", ProcedureStepProgressInformationSequence=progress(text)), "AI")
    assert refused.value.fault == Fault.VALUE
    workitems.update("1.2.3", changed("1.9", ProcedureStepProgressInformationSequence=progress(b"62.5")), "AI")
    workitems.update("1.2.3", performed("1.9"), "AI")
    workitems.change_state("1.2.3", "COMPLETED", "1.9", "AI")


def test_a_removed_workitem_is_gone_for_who_might_have_seen_it(opened: Open) -> None:
    orders = opened()
    workitems = Workitems(orders)
    workitems.create("1.2.3", scheduled(), "AI")
    workitems.request_cancel("1.2.3", DataSet({}), "AI")
    assert workitems.forget(-60) == 1
    for reach, fault in ((None, Fault.GONE), (lambda items: True, Fault.UNKNOWN)):
        with pytest.raises(WorkitemRefused) as refused:
            workitems.get("1.2.3", reach)
        assert refused.value.fault == fault
    assert workitems.exists("1.2.3") and not workitems.exists("1.2.4")
    with orders.passing() as writing:
        writing.forget_gone(1e12)
    with pytest.raises(WorkitemRefused) as refused:
        workitems.get("1.2.3")
    assert refused.value.fault == Fault.UNKNOWN
