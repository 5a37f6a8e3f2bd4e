"""A whole archive on a real file system whose reads and writes are all short."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from engine.archive import verify
from engine.archive.archive import Archive, StorageOptions
from engine.archive.lifecycle.compaction import Compactor
from engine.config import Compaction
from engine.dicom import tags
from engine.index.format.types import Level, Outcome, Query
from tests.actors import actor
from tests.faults.operations import EXPLICIT, ROOT, data_set, received


def _shorten(monkeypatch: pytest.MonkeyPatch, rng: random.Random) -> None:
    """Every system call moves some of what it was asked to move."""
    pread, preadv, pwrite = os.pread, os.preadv, os.pwrite

    def some(length: int) -> int:
        return rng.randint(1, length) if length > 1 else length

    def short_preadv(fd: int, buffers: Sequence[memoryview], offset: int, *flags: int) -> int:
        return preadv(fd, [buffers[0][: some(buffers[0].nbytes)]], offset, *flags)

    def short_pwritev(fd: int, buffers: Sequence[bytes], offset: int) -> int:
        data = b"".join(buffers)
        return pwrite(fd, data[: some(len(data))], offset)

    monkeypatch.setattr(os, "pread", lambda fd, length, offset: pread(fd, some(length), offset))
    monkeypatch.setattr(os, "preadv", short_preadv)
    monkeypatch.setattr(os, "pwritev", short_pwritev)


@pytest.mark.parametrize("seed", range(2))
def test_short_reads_and_writes_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    rng = random.Random(seed)
    _shorten(monkeypatch, rng)
    sent = {
        f"{ROOT}.1.1.{number}": data_set(f"{ROOT}.1.1.{number}", 0, rng.choice((4, 700, 3000))) for number in range(20)
    }
    for start in range(3):
        with Archive.open(tmp_path / "data", role="keeper", create=True) as archive:
            archive.writer("w", StorageOptions(segment_bytes=12_000))
            again = archive.ingest_batch([received(data) for data in sent.values()])
            assert set(again) == {Outcome.DUPLICATE if start else Outcome.STORED}
            if start == 1:
                uid = f"{ROOT}.1.1.3"
                keys = {tags.StudyInstanceUID: f"{ROOT}.1".encode(), tags.SOPInstanceUID: uid.encode()}
                archive.delete(Query(Level.IMAGE, keys, relational=True), actor=actor(), reason="test")
                del sent[uid]
                Compactor(archive, Compaction(), segment_bytes=12_000, everything=True).run()
                chunks = iter([data_set(f"{ROOT}.1.1.77", 0, 9000)])
                sent[f"{ROOT}.1.1.77"] = data_set(f"{ROOT}.1.1.77", 0, 9000)
                archive.ingest_stream(chunks, transfer_syntax_uid=EXPLICIT)
            found = archive.instances(Query(Level.STUDY, {tags.StudyInstanceUID: f"{ROOT}.1".encode()}))
            assert {instance.sop_instance_uid: archive.read(instance) for instance in found} == sent
            assert verify.check(archive, payloads=True).findings == []
