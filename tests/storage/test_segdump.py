"""tools/segdump.py shows what is in a segment, and says when something is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.dicom import tags
from engine.index.format.entry import Item, Operation
from engine.storage.files import Files
from engine.storage.record import crc32c
from engine.storage.segment_log import SegmentLog
from tests.index.entries import Tail, correction, hold, quarantined, record_of, tombstone
from tools import segdump

EXPECTED = """\
segment 0000000000000000, 4615 bytes
  0000000000  46494c4d53454700                  magic = 'FILMSEG\\x00'
  0000000008  01000000                          format = 1
  000000000c  01000000                          layout = 1
  0000000010  0000000000000000                  segment_id = 0
  0000000018  617263686976652d69642d31362d6279  archive_id = 'archive-id-16-by'
  0000000028  0706050403020100                  salt = 283686952306183 (0x1020304050607)
  0000000030  6300000000000000                  created_ns = 99 (0x63)
  0000000038  08776f726b65722d3000000000000000… writer = 'worker-0'
record 0 at 4096: INSTANCE, 88 bytes
  0000001000  46526563                          magic = 'FRec'
  0000001004  01                                format = 1
  0000001005  01                                kind = 1
  0000001006  0200                              flags = 2
  0000001008  0700                              key_length = 7
  000000100a  0000                              meta_unused = 0
  000000100c  04000000                          meta_length = 4
  0000001010  0b00000000000000                  payload_length = 11 (0xb)
  0000001018  0300000000000000                  stamp = 3
  0000001020  0000000000000000                  sequence = 0
  0000001028  0010000000000000                  offset = 4096 (0x1000)
  0000001030  0000000000000000                  synced_bytes = 0
  0000001038  9a5e46c9                          payload_crc = 3376832154 (0xc9465e9a)
  000000103c  HEADCRC0                          head_crc = ?
 key
  0000001040  31 2e 32 2e 38 34 30                             1.2.840
 meta
  0000001047  6d 65 74 61                                      meta
 payload, 5 of 11 bytes
  000000104b  68 65 6c 6c 6f                                   hello
…
2 records end at 4280
"""


@pytest.fixture
def segment(tmp_path: Path) -> Path:
    log = SegmentLog(
        str(tmp_path),
        Files(),
        b"archive-id-16-by",
        writer="worker-0",
        segment_bytes=20_000,
        clock_ns=lambda: 99,
        random_bytes=lambda count: bytes(reversed(range(count))),
    )
    for stamp, payload in ((3, b"hello world"), (4, b"good morning world")):
        log.append(1, 2, stamp, b"1.2.840", b"meta", [payload], len(payload), crc32c(payload))
    log.close()
    return tmp_path / "0000000000000000.seg"


def test_a_dump_names_every_field(segment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert segdump.main(["--records", "1", "--payload", "5", str(segment)]) == 0
    output = capsys.readouterr().out
    found = [line for line in output.splitlines() if "crc" not in line and "segment 0" not in line]
    expected = [line for line in EXPECTED.splitlines() if "crc" not in line and "segment 0" not in line]
    assert found[: len(expected)] == expected
    assert "record_count = 2" in output
    assert "payload_bytes = 29 (0x1d)" in output


def test_what_other_kinds_say_is_written_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tail = Tail()
    made: list[Item] = [tombstone(tail, b"1.2.3", b"1.2.4"), hold(tail, 1, True), quarantined(tail, b"-")]
    made.append(correction(tail, Operation.MERGE, b"4711", b"WEST", items={tags.PatientID: b"0815"}))
    log = SegmentLog(str(tmp_path), Files(), bytes(16), writer="w", segment_bytes=20_000)
    for item in made:
        record = record_of(item)
        log.append(record.kind, 0, record.stamp, record.key, record.meta, [], 0, 0)
    log.append(2, 0, 1, b"1.2", b"\x63" + bytes(40), [], 0, 0)
    log.close()
    assert segdump.main([str(tmp_path / "0000000000000000.seg")]) == 0
    output = capsys.readouterr().out
    for line in (
        "  sop_instance_uids = 2: '1.2.3', '1.2.4'",
        "  level = 3",
        "  reason = 'asked for'",
        "  is_set = True",
        "  operation = 2",
        "  names = 2: '4711', 'WEST'",
        "  reason = 'court order'",
        "  reason = 'no Study Instance UID'",
    ):
        assert line in output, line
    assert "version 99" in output


def test_damage_and_a_torn_tail_are_shown_and_counted(segment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray(segment.read_bytes())
    data[4096 + 20] ^= 1
    segment.write_bytes(data)
    assert segdump.main(["--verify", str(segment)]) == 1
    assert "DAMAGE at 4096, 88 bytes" in capsys.readouterr().out
    segment.write_bytes(data[:4250])
    assert segdump.main([str(segment)]) == 1
    output = capsys.readouterr().out
    assert "TORN TAIL at 4096" in output
    assert "not sealed" in output


def test_a_lost_header_a_damaged_footer_and_no_segment_at_all(
    segment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(segment.read_bytes())
    data[:4096] = bytes(4096)
    segment.write_bytes(data)
    assert segdump.main([str(segment)]) == 0
    data[4310] ^= 1
    segment.write_bytes(data)
    assert segdump.main([str(segment)]) == 1
    segment.write_bytes(b"nothing")
    assert segdump.main([str(segment)]) == 1
    assert segdump.main([str(segment.with_name("none.seg"))]) == 2
    assert "none.seg" in capsys.readouterr().err
