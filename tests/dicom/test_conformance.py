"""engine.dicom.conformance: valid and invalid typed values, by VR."""

from __future__ import annotations

import pytest
from pydicom.config import RAISE
from pydicom.valuerep import validate_value

from engine.dicom.conformance import fault

FITTING = [
    ("PN", "Doe^Jane"),
    ("PN", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ("PN", ""),
    ("PN", "a^b^c^d^e"),
    ("DA", "20240229"),
    ("DA", "20240229\\20240301"),
    ("TM", "10"),
    ("TM", "235960.123456"),
    ("DT", "20240229101530.5+0100"),
    ("CS", "HEAD_1 A"),
    ("IS", "-12"),
    ("DS", " 1.5e3 "),
    ("AS", "043Y"),
    ("UI", "1.2.840.0.1"),
    ("LO", "Straße"),
    ("LO", "a\\b"),
    ("SH", "x" * 16),
    ("LT", "two\r\nlines \\ and more"),
]
UNFITTING = [
    ("PN", "a=b=c=d", "three groups"),
    ("PN", "a^b^c^d^e^f", "five components"),
    ("PN", "x" * 65, "65 characters"),
    ("DA", "2024-02-29", "not a date"),
    ("DA", "20230229", "not a date"),
    ("DA", "２０２４０２２９", "not a date"),
    ("TM", "25", "a time"),
    ("TM", "1:30", "a time"),
    ("DT", "soon", "date and time"),
    ("CS", "head", "capital letters"),
    ("CS", "X" * 17, "17 characters"),
    ("IS", "1.5", "whole number"),
    ("DS", "1,5", "a number"),
    ("DS", "1.23456789012345678", "a number"),
    ("AS", "50", "an age"),
    ("UI", "1.02", "a UID"),
    ("UI", "1." + "2" * 64, "66 characters"),
    ("SH", "ok\\" + "x" * 17, "17 characters"),
    ("LO", "a\x1bb", "control characters"),
    ("LO", "a\nb", "control characters"),
    ("LT", "a\x00b", "control characters"),
]


@pytest.mark.parametrize(("vr", "text"), FITTING)
def test_a_valid_value_has_no_fault(vr: str, text: str) -> None:
    assert fault(vr, text) == ""


@pytest.mark.parametrize(("vr", "text", "why"), UNFITTING)
def test_a_fault_is_described_without_the_text(vr: str, text: str, why: str) -> None:
    description = fault(vr, text)
    assert why in description
    assert text not in description


@pytest.mark.parametrize(("vr", "text"), [pair for pair in FITTING if "\\" not in pair[1] and pair[0] != "LT"])
def test_pydicom_accepts_the_same_values(vr: str, text: str) -> None:
    validate_value(vr, text.strip(), RAISE)
