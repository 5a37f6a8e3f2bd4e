"""A small real archive for tests of what becomes of stored records: instances by number, bytes that turn in the log."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from engine.archive import layout as layouts
from engine.archive.archive import Archive, StorageOptions
from engine.archive.ingest.request import ReceivedInstance
from engine.errors import EngineError
from engine.index.format.types import Instance, Outcome
from engine.storage.files import Files
from engine.storage.record import HEADER_BYTES, Position, crc32c
from engine.storage.segment import segment_path
from tests import samples

SEGMENT_BYTES = 1 << 20


def data_set(number: int, *, pixels: int = 512, **more: object) -> bytes:
    """The instance of that number: pixels differ from number to number."""
    content = random.Random(number).randbytes(pixels)
    return samples.encoded(samples.instance(1 + number // 50, 1, number + 1, pixels=content, **more))  # type: ignore[arg-type]


def uid_of(number: int) -> str:
    """Its SOP Instance UID."""
    return f"{samples.ROOT}.{1 + number // 50}.1.{number + 1}"


def received(payload: bytes) -> ReceivedInstance:
    """As a front end hands it in."""
    return ReceivedInstance([payload], len(payload), crc32c(payload), "1.2.840.10008.1.2.1", "MODALITY")


def opened(data: Path, *, segment_bytes: int = SEGMENT_BYTES, files: Files | None = None) -> Archive:
    """The archive, as its keeper, with small segments."""
    archive = Archive.open(data, role="keeper", create=True, files=files)
    archive.writer("test", StorageOptions(segment_bytes=segment_bytes))
    return archive


def store(archive: Archive, payloads: Iterable[bytes], *, policy: str = "keep-first") -> list[Outcome | EngineError]:
    """Stores data sets, one batch."""
    return archive.ingest_batch([received(payload) for payload in payloads], policy=policy)


def filled(data: Path, count: int, *, pixels: int = 512, **options: int) -> dict[str, bytes]:
    """A closed archive with the instances 0 to count - 1; what was stored, by UID."""
    payloads = {uid_of(number): data_set(number, pixels=pixels) for number in range(count)}
    with opened(data, **options) as archive:
        assert store(archive, payloads.values()) == [Outcome.STORED] * count
    return payloads


def positions(archive: Archive) -> dict[str, Position]:
    """Where each current instance lies."""
    return {instance.sop_instance_uid: instance.position for instance in archive.parts.index.current_instances()}


def current(archive: Archive, uid: str) -> Instance:
    """The current instance of a UID."""
    found = archive.parts.index.locate(uid.encode())
    assert found is not None
    return found


def turn_byte(data: Path, segment_id: int, offset: int, mask: int = 0x10) -> None:
    """Bit rot: one byte of a segment changes."""
    fd = os.open(segment_path(str(data / "segments"), segment_id), os.O_RDWR)
    try:
        (byte,) = os.pread(fd, 1, offset)
        os.pwrite(fd, bytes([byte ^ mask]), offset)
        os.fsync(fd)
    finally:
        os.close(fd)


def place_in(position: Position, part: str, rng: random.Random) -> int:
    """An offset in the segment that lies in that part of the record."""
    key = position.offset + HEADER_BYTES
    meta = key + position.key_length
    spans = {
        "header": (position.offset, key),
        "key": (key, meta),
        "meta": (meta, position.payload_offset),
        "payload": (position.payload_offset, position.payload_offset + position.payload_length),
    }
    return rng.randrange(*spans[part])


PARTS: Sequence[str] = ("payload", "meta", "key", "header")


def node_of(data: Path, folder: Path, slot: int) -> Path:
    """A further node of an archive in an empty folder, whose segments have a slot of their own."""
    layouts.make_folders(folder, Files())
    shutil.copy(data / "archive.json", folder / "archive.json")
    layouts.describe(replace(layouts.existing(folder), slot=slot), Files())
    return folder
