"""Annotated dump of a segment file: header, records with their contents, damage, the end, the footer.

    .venv/bin/python tools/segdump.py DATA/segments/0000000000000000.seg
    .venv/bin/python tools/segdump.py --verify --records 3 --payload 64 FILE

Reads only, and may be used on a segment that is being written. Damage is shown and skipped; the exit code is then 1.
The formats are drawn in engine/storage/segment.py, record.py and hints.py, and in engine/index/format/entry.py.
"""

from __future__ import annotations

import argparse
import os
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.errors import CorruptRecord, IndexError_
from engine.index.format.entry import unpack_record
from engine.storage import hints
from engine.storage.files import Files
from engine.storage.reader import read_header_or_trailer
from engine.storage.record import HEADER_BYTES, HEADER_FIELDS, Kind, Record
from engine.storage.segment import FIRST_RECORD, SEGMENT_FIELDS, Damage, SegmentHeader, Walk
from engine.storage.segment_bytes import FileBytes

HEX_WIDTH = 16
UIDS_SHOWN_MAX = 8


def hex_lines(data: bytes, offset: int) -> Iterator[str]:
    """Offset, hexadecimal and text, sixteen bytes a line."""
    for at in range(0, len(data), HEX_WIDTH):
        piece = data[at : at + HEX_WIDTH]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
        yield f"  {offset + at:010x}  {piece.hex(' '):<{3 * HEX_WIDTH}} {text}"


def shown(value: object) -> str:
    """A field's value: numbers in both bases, bytes as text if they are text."""
    if isinstance(value, int):
        return str(value) if value < 10 else f"{value} (0x{value:x})"
    if isinstance(value, bytes):
        printable = all(32 <= byte < 127 for byte in value.rstrip(b"\0"))
        return repr(value)[1:] if printable and value.strip(b"\0") else value.hex()
    return str(value)


def field_lines(data: bytes, offset: int, fields: Sequence[tuple[str, str]]) -> Iterator[str]:
    """One line for each field: offset, bytes, name, value."""
    at = 0
    for name, code in fields:
        size = struct.calcsize("<" + code)
        raw = data[at : at + size]
        if len(raw) < size:
            return
        value = struct.unpack("<" + code, raw)[0]
        bytes_shown = raw.hex() if size <= HEX_WIDTH else f"{raw[:HEX_WIDTH].hex()}…"
        yield f"  {offset + at:010x}  {bytes_shown:<33} {name} = {shown(value)}"
        at += size


def record_lines(files: Files, fd: int, record: Record, head: bytes, payload_bytes: int) -> Iterator[str]:
    """One record: its fields, key and meta, and the beginning of its payload."""
    position = record.position
    kind = Kind(record.kind).name if record.kind in set(Kind) else "unknown kind"
    yield f"record {record.sequence} at {position.offset}: {kind}, {position.record_bytes} bytes"
    yield from field_lines(head, position.offset, HEADER_FIELDS)
    key_offset = position.offset + HEADER_BYTES
    if record.key:
        yield " key"
        yield from hex_lines(record.key, key_offset)
    if record.meta:
        yield " meta"
        yield from hex_lines(record.meta, key_offset + position.key_length)
    if record.kind in (Kind.TOMBSTONE, Kind.HOLD, Kind.QUARANTINED, Kind.CORRECTION, Kind.TRASH):
        yield " says"
        yield from said_lines(record)
    if payload_bytes and position.payload_length:
        yield f" payload, {min(payload_bytes, position.payload_length)} of {position.payload_length} bytes"
        data = files.pread(fd, min(payload_bytes, position.payload_length), position.payload_offset)
        yield from hex_lines(data, position.payload_offset)


def said_lines(record: Record) -> Iterator[str]:
    """The contents of a tombstone, a hold, a quarantined record, a correction or the trash, as text."""
    try:
        item = unpack_record(record)
    except IndexError_ as error:
        yield f"  {error}"
        return
    for field in fields(item):
        value = getattr(item, field.name)
        if isinstance(value, tuple) and field.name != "position":
            yield f"  {field.name} = {len(value)}: {', '.join(map(shown, value[:UIDS_SHOWN_MAX]))}"
        elif field.name not in ("position", "stamp"):
            yield f"  {field.name} = {shown(value)}"


def damage_line(damage: Damage) -> str:
    """One line about damage."""
    lost = "was synced" if damage.was_synced else "was never synced"
    return f"DAMAGE at {damage.offset}, {damage.length_bytes} bytes ({lost}): {damage.reason}"


def footer_lines(summary: hints.Summary, data: bytes) -> Iterator[str]:
    """The trailer's fields, and its damage entries."""
    trailer = summary.trailer
    yield f"footer at {trailer.tail}: {len(summary.records)} records, {len(summary.damage)} damaged places known"
    yield from field_lines(data, trailer.hint_end, hints.TRAILER_FIELDS)
    for known in summary.damage:
        yield "known " + damage_line(known)


class Dump:
    """The dump of one open segment; `faults` counts the faults after all lines were read."""

    def __init__(self, files: Files, fd: int, segment_id: int, *, verify: bool, records: int, payload: int) -> None:
        self.faults = 0
        self._files = files
        self._fd = fd
        self._segment_id = segment_id
        self._verify = verify
        self._records_max = records
        self._payload = payload

    def lines(self) -> Iterator[str]:
        """The whole dump."""
        size = self._files.size(self._fd)
        yield f"segment {self._segment_id:016x}, {size} bytes"
        yield from field_lines(self._files.pread(self._fd, FIRST_RECORD, 0), 0, SEGMENT_FIELDS)
        summary = None
        try:
            summary = hints.read_summary(FileBytes(self._files, self._fd), self._segment_id)
            header = read_header_or_trailer(FileBytes(self._files, self._fd), self._segment_id)
        except CorruptRecord as error:
            self.faults += 1
            yield f"DAMAGE at {error.offset}: {error}"
            try:
                header = read_header_or_trailer(FileBytes(self._files, self._fd), self._segment_id)
            except CorruptRecord:
                return
        yield from self._walk(header, size if summary is None else summary.trailer.tail)
        if summary is None:
            yield "not sealed"
        else:
            trailer_offset = summary.trailer.hint_end
            yield from footer_lines(summary, self._files.pread(self._fd, hints.TRAILER_BYTES, trailer_offset))

    def _walk(self, header: SegmentHeader, end: int) -> Iterator[str]:
        walk = Walk(FileBytes(self._files, self._fd), header, end=end, verify_payload=self._verify)
        count = 0
        for item in walk:
            if isinstance(item, Damage):
                self.faults += 1
                yield damage_line(item)
                continue
            count += 1
            if count <= self._records_max:
                yield from record_lines(self._files, self._fd, item, walk.head, self._payload)
            elif count == self._records_max + 1:
                yield "…"
        yield f"{count} records end at {walk.tail}"
        if walk.torn:
            self.faults += 1
            yield f"TORN TAIL at {walk.tail}: {walk.torn}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="annotated dump of a segment file")
    parser.add_argument("file", type=Path, help="a .seg file; its name is its segment id")
    parser.add_argument("--verify", action="store_true", help="read payloads and compare their checksums")
    parser.add_argument("--records", type=int, default=1 << 62, metavar="N", help="show the first N records only")
    parser.add_argument("--payload", type=int, default=0, metavar="BYTES", help="show the beginning of each payload")
    options = parser.parse_args(arguments)
    files = Files()
    try:
        segment_id = int(options.file.name.split(".")[0], 16)
        fd = files.open(str(options.file), os.O_RDONLY)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{options.file}: {error}\n")
        return 2
    dump = Dump(files, fd, segment_id, verify=options.verify, records=options.records, payload=options.payload)
    try:
        for line in dump.lines():
            sys.stdout.write(line + "\n")
    except BrokenPipeError:
        sys.stderr.close()
    finally:
        files.close(fd)
    return 1 if dump.faults else 0


if __name__ == "__main__":
    sys.exit(main())
