"""Acknowledgements go to whom the message came from, and say what HL7's table says."""

from __future__ import annotations

import hl7 as other_parser
import hl7apy.parser
import pytest

from engine.hl7.acknowledgement import Condition, Fault, acknowledge, modes_of
from engine.hl7.message import parse
from tests.hl7.samples import ADT_A08, ORM_O01


def answer(data: bytes, fault: Fault | None = None, **options: bool) -> bytes:
    return acknowledge(parse(data), fault, control_id="77", time=1796000000.0, **options)


def test_the_sides_change_and_the_id_is_the_same() -> None:
    ack = parse(answer(ADT_A08))
    assert [ack.header.text(field) for field in (3, 4, 5, 6)] == ["FILMROOM", "RAD", "KIS", "STMARY"]
    assert ack.kind == "ACK^A08" and ack.version == "2.5.1"
    assert ack.header.text(18) == "UNICODE UTF-8" and ack.header.text(11) == "P"
    assert (ack.text("MSA", 1), ack.text("MSA", 2)) == ("AA", "MSG00001")
    assert answer(ADT_A08).endswith(b"\r") and "ERR" not in ack.names


def test_an_id_with_separators_and_escapes_comes_back_byte_by_byte() -> None:
    odd = ADT_A08.replace(b"MSG00001", b"A\\T\\1^2")
    assert parse(answer(odd)).first("MSA").raw(2) == "A\\T\\1^2"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("condition", "code"),
    [
        (Condition.REQUIRED_FIELD_MISSING, "AE"),
        (Condition.UNSUPPORTED_MESSAGE_TYPE, "AR"),
        (Condition.UNSUPPORTED_PROCESSING_ID, "AR"),
        (Condition.UNKNOWN_KEY, "AE"),
        (Condition.INTERNAL_ERROR, "AE"),
    ],
)
def test_a_fault_has_its_code_and_its_place(condition: Condition, code: str) -> None:
    fault = Fault(condition, "PID-3 is empty" + "." * 100, ("PID", 1, 3))
    new = parse(answer(ADT_A08, fault))
    assert new.text("MSA", 1) == code and len(new.text("MSA", 3)) <= 80
    error = new.first("ERR")
    assert error is not None
    assert error.value(2).components() == ["PID", "1", "3"]
    assert (error.text(3), error.text(3, 3), error.text(4)) == (str(int(condition)), "HL70357", "E")
    assert error.text(8).startswith("PID-3 is empty")
    old = parse(answer(ORM_O01, fault)).first("ERR")
    assert old is not None
    assert [old.text(1, component) for component in (1, 2, 3, 4)] == ["PID", "1", "3", str(int(condition))]


def test_the_enhanced_mode_says_when() -> None:
    modes = modes_of(parse(ADT_A08))
    assert modes.is_enhanced and modes.wants_accept(True) and not modes.wants_application(False)
    assert not modes_of(parse(ORM_O01)).is_enhanced
    errors = modes_of(parse(ADT_A08.replace(b"|AL|NE|", b"|ER|SU|")))
    assert not errors.wants_accept(True) and errors.wants_accept(False)
    assert errors.wants_application(True) and not errors.wants_application(False)
    assert parse(answer(ADT_A08, is_accept=True)).text("MSA", 1) == "CA"


def test_a_name_beyond_ascii_in_the_header_comes_back_in_its_set() -> None:
    data = ADT_A08.replace(b"STMARY", "KÖLN".encode())
    assert parse(answer(data)).header.text(6) == "KÖLN"


def test_two_other_parsers_read_it() -> None:
    for data in (ADT_A08, ORM_O01):
        text = answer(data, Fault(Condition.UNKNOWN_KEY, "unknown & strange", ("PID", 1, 3))).decode()
        assert str(other_parser.parse(text).segment("MSA")[1]) == "AE"
        assert hl7apy.parser.parse_message(text, find_groups=False).msa.msa_2.value == parse(data).control_id
