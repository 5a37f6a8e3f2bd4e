"""tools/pdudump.py: what it says of a small association, and of bytes that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.dimse.messages import CStoreRQ
from engine.ul import pdu
from engine.ul.pdu import AssociateRQ, PresentationContextRQ, UserIdentityRQ, UserInformation
from tools.pdudump import dump, main

CT = "1.2.840.10008.5.1.4.1.1.2"
RQ = AssociateRQ(
    "FILMROOM",
    "STORESCU",
    (PresentationContextRQ(1, CT, ("1.2.840.10008.1.2.1",)),),
    UserInformation(16384, user_identity_rq=UserIdentityRQ(2, False, b"user", b"passcode")),
)
COMMAND = CStoreRQ(1, CT, "1.2.3").encode()
CAPTURE = (
    pdu.encode(RQ)
    + pdu.p_data_tf(1, True, False, COMMAND[:40])
    + pdu.p_data_tf(1, True, True, COMMAND[40:])
    + pdu.p_data_tf(1, False, False, b"abcd")
    + pdu.p_data_tf(1, False, True, b"efghij")
    + pdu.encode(pdu.ReleaseRQ())
)


def test_an_association_is_shown_with_its_messages() -> None:
    text = "\n".join(dump(CAPTURE))
    assert "00000000  A-ASSOCIATE-RQ" in text
    assert "abstract_syntax=1.2.840.10008.5.1.4.1.1.2 [CT Image Storage]" in text
    assert "CStoreRQ message_id=1" in text
    assert "data set of 10 bytes" in text
    assert text.splitlines()[-1].endswith("A-RELEASE-RQ  10 bytes")


def test_passcodes_are_not_shown() -> None:
    assert "passcode" not in "\n".join(dump(CAPTURE))


def test_the_first_bytes_of_fragments_are_shown_on_demand() -> None:
    assert "65 66 67" in "\n".join(dump(CAPTURE, shown_bytes=3))
    assert "65 66 67" not in "\n".join(dump(CAPTURE))


def test_the_dump_continues_after_invalid_bytes() -> None:
    broken = (
        b"\x09\0\0\0\0\2??" + b"\1\0\0\0\0\1?" + pdu.p_data_tf(1, True, True, b"rubbish") + pdu.encode(pdu.Abort(2, 6))
    )
    text = "\n".join(dump(broken))
    assert "unknown PDU type 09H" in text
    assert "A-ABORT reason 1" in text
    assert "A-ABORT reason 6" in text
    assert "invalid, status 0212H" in text
    assert "reason: 6" in text


@pytest.mark.parametrize("end", range(0, len(CAPTURE), 7))
def test_a_capture_may_end_anywhere(end: int) -> None:
    lines = list(dump(CAPTURE[:end]))
    assert bool(lines) == (end > 0)


def test_the_command_line_reads_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capture = tmp_path / "capture.bin"
    capture.write_bytes(CAPTURE)
    assert main([str(capture)]) == 0
    assert "A-RELEASE-RQ" in capsys.readouterr().out
