"""engine.index.query.key_values: valid values of keys, and the errors for invalid ones."""

from __future__ import annotations

import re

import pytest

from engine.cli import exit_codes, query
from engine.dicom import plain_values
from engine.errors import QueryError
from tests.cli.commands import run


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("StudyDate=2026-01-01", "write 20260101"),
        ("StudyDate=2026/1/1", "write 20260101"),
        ("StudyDate=-2013-01-01", "write -20130101"),
        ("StudyDate=2026-01-01-2026-12-31", "write 20260101-20261231"),
        ("StudyDate=20260101\\2026-01-02", "write 20260102"),
        ("StudyDate=2026", "write 20260101-20261231"),
        ("StudyDate=2026-01", "write 202601-202601"),
        ("StudyDate=2026*", "it is not a date; write 20261124"),
        ("StudyDate=20261301", "it is not a date"),
        ("StudyDate=20260230", "it is not a date"),
        ("StudyDate=99999999", "it is not a date"),
        ("StudyDate=01.02.2026", "it is not a date"),
        ("StudyDate=today", "it is not a date"),
        ("StudyDate=20260101-20261301", "it is not a date"),
        ("StudyDate=20270101-20260101", "the range ends before it begins"),
        ("StudyTime=2500", "it is not a time"),
        ("StudyTime=1060-", "it is not a time"),
        ("StudyTime=1000-0900", "the range ends before it begins"),
        ("AcquisitionDateTime=2026-01-01", "write 20260101"),
        ("AcquisitionDateTime=20261301", "it is not a date and time"),
        ("AcquisitionDateTime=20260101-20250101", "the range ends before it begins"),
        ("StudyInstanceUID=abc", "it is not a UID"),
        ("StudyInstanceUID=1..2", "it is not a UID"),
        ("StudyInstanceUID=1.2\\x", "it is not a UID"),
        ("StudyInstanceUID=1.2.*", "no wild cards"),
        ("StudyInstanceUID=1." + "2" * 128, "it has 130 characters"),
        ("SeriesNumber=abc", "whole number"),
        ("RequestAttributesSequence.ScheduledProcedureStepStartDate=2026-01-01", "write 20260101"),
    ],
)
def test_a_value_that_can_match_nothing_is_refused_with_a_suggestion(key: str, message: str) -> None:
    with pytest.raises(QueryError, match=re.escape(message)):
        query.parse([key])


@pytest.mark.parametrize(
    "key",
    [
        "StudyDate=20260101-",
        "StudyDate=-20260101",
        "StudyDate=20260101 - 20260201",
        "StudyDate=2025-202602",
        "StudyDate=2026.01.01",
        "StudyDate=20240229",
        'StudyDate=""',
        "StudyDate=*",
        "StudyTime=10",
        "StudyTime=10:15-1130",
        "StudyTime=235960",
        "AcquisitionDateTime=202601011015+0100",
        "AcquisitionDateTime=20260101-0500",
        "AcquisitionDateTime=2026-0500-",
        "StudyInstanceUID=1.2\\1.3",
        "StudyInstanceUID=05fa52f0e599f17b8186ff18fcdf2b5570a52206",
        "SOPInstanceUID=e23b1c74-6f0d-4c52-9d0c-0f2f4b6a7c11",
        "StudyInstanceUID=*",
        "SeriesNumber=1*",
        "PatientName=2026-01-01",
    ],
)
def test_a_value_that_can_match_is_accepted(key: str) -> None:
    assert query.parse([key]).values


@pytest.mark.parametrize(
    "arguments",
    [
        ("find", "StudyInstanceUID=notauid"),
        ("find", "StudyDate=2026-01-01"),
        ("export", "out", "--study", "notauid"),
        ("export", "out", "--series", "notauid"),
        ("export", "out", "StudyDate=20270101-20260101"),
        ("delete", "--instance", "notauid", "--reason", "x", "--yes"),
        ("delete", "StudyDate=-2013-01-01", "--dry-run"),
        ("hold", "set", "--study", "notauid", "--reason", "x"),
        ("hold", "set", "--study", "notauid", "--in-advance", "--reason", "x"),
        ("hold", "release", "--study", "notauid", "--reason", "x"),
        ("study", "move", "notauid", "P1", "--reason", "x"),
        ("patient", "split", "P9", "--study", "notauid", "--reason", "x"),
        ("correct", "--study", "notauid", "StudyID=1", "--reason", "x"),
        ("correct", "--series", "notauid", "Modality=CT", "--reason", "x"),
    ],
)
def test_every_command_with_uids_and_dates_refuses_invalid_ones(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (exit_codes.USAGE, "")
    assert re.search("it is not a UID|it is not a date|ends before it begins", err)


def test_for_a_value_without_a_keyword_one_is_suggested() -> None:
    for text, meant in (
        ("SIMPSON", "PatientName=SIMPSON"),
        ("1.2.840.1.5", "StudyInstanceUID=1.2.840.1.5"),
        ("2026-01-01", "StudyDate=20260101"),
        ("MRN4711", "PatientID=MRN4711"),
    ):
        with pytest.raises(QueryError, match=re.escape(meant)):
            query.tag_of(text)


def test_numbers_of_binary_attributes_are_encoded_as_they_are_stored() -> None:
    rows = query.tag_of("Rows")
    assert plain_values.encoded_numbers(rows, "US", "512\\16") == b"\x00\x02\x10\x00"
    assert plain_values.encoded_numbers(query.tag_of("PatientID"), "LO", "512") is None
    with pytest.raises(QueryError, match="not a number of VR US"):
        plain_values.encoded_numbers(rows, "US", "-1")
