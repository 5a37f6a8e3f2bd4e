"""A message costs no more than others can wait."""

from __future__ import annotations

import pytest

from engine.hl7.message import parse
from engine.mapping import bounds, interpreter
from engine.mapping.interpreter import Options
from engine.mapping.profile import base
from tests.hl7.samples import lines

ORC, OBR = "ORC|NW|P1^A|F1^B", "OBR|1|P1^A|F1^B|CT1^CT"
PID = "PID|1||1^^^H"


def faults(kind: str, *segments: str) -> list[str]:
    message = parse(lines(f"MSH|^~\\&|A|B|C|D|20261130||{kind}|1|P|2.5.1", *segments))
    found = interpreter.apply(message, base("ihe-2.5.1"), Options())
    assert not (found.faults and found.values)
    return [fault.text for fault in found.faults]


@pytest.mark.parametrize(
    ("kind", "segments", "fault"),
    [
        ("ADT^A08", ["PID|1||" + "~".join(map(str, range(bounds.REPETITIONS_MAX + 2)))], "more than 5000 repetitions"),
        ("ADT^A08", [PID, "NTE|1||" + "\\E\\" * (1 << 20)], "more than 2097152 characters"),
        ("ORM^O01", [PID, *[ORC, OBR] * 1001], "more than 1000 ORC"),
        ("ORM^O01", [PID, *[OBR] * 1001], "more than 1000 OBR"),
        ("OMI^O23", [PID, ORC, OBR, *["IPC|A|R|1.2|S|CT"] * 1001], "more than 1000 IPC"),
        ("ADT^A40", [PID, "MRG|2^^^H"] * 1001, "more than 1000 PID"),
        ("ORU^R01", [PID, ORC, OBR, *["OBX|1|ED|||^A^A^Base64^AAAABBBBCCCCDDDD"] * 101], "more than 100 documents"),
    ],
)
def test_a_message_with_too_much_of_something_is_refused(kind: str, segments: list[str], fault: str) -> None:
    (text,) = faults(kind, *segments)
    assert fault in text


def test_only_documents_may_be_longer() -> None:
    document = "OBX|1|ED|||^application^pdf^Base64^" + "AAAA" * (1 << 20)
    assert faults("ORU^R01", PID, ORC, OBR, document) == []


def test_an_order_control_is_named_only_if_it_may_be_one() -> None:
    assert faults("ORM^O01", PID, "ORC|ZZ|P1", OBR) == ["ORC-1 'ZZ' is not known"]
    assert faults("ORM^O01", PID, "ORC|Muster|P1", OBR) == ["ORC-1 is no order control"]
