"""copies.study_key_file: what a replica gets of the file."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.archive.copies import study_key_file
from engine.archive.copies.study_key_file import FILE, PIECE_BYTES, Sender
from engine.storage.files import Files

HOUR_NS = 3600 * 1_000_000_000


class CountedFiles(Files):
    """Counts what is opened."""

    count = 0

    def open(self, path: str, flags: int, mode: int = 0o640) -> int:
        self.count += 1
        return super().open(path, flags, mode)


def test_two_changes_of_the_same_time_are_both_sent_and_an_old_file_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_key_file, "COARSE_NS", HOUR_NS)
    path, files = tmp_path / FILE, CountedFiles()
    path.write_bytes(bytes(2 * PIECE_BYTES))
    sender = Sender(SimpleNamespace(data=tmp_path), files)  # type: ignore[arg-type]

    def sent() -> list[str]:
        places: list[str] = []
        for message in sender.messages():
            places += message["study_keys"]  # type: ignore[arg-type]
        return places

    assert sent() == ["0", str(PIECE_BYTES)]
    status = path.stat()
    for number in range(2):  # within one tick of the clock that files have
        with path.open("r+b") as file:
            file.seek(PIECE_BYTES)
            file.write(bytes([number + 1]))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert sent() == [str(PIECE_BYTES)]
    long_ago_ns = time.time_ns() - 24 * HOUR_NS
    os.utime(path, ns=(long_ago_ns, long_ago_ns))
    assert sent() == []
    opened = files.count
    assert sent() == [] and files.count == opened
    sender.forget()
    assert sent() == ["0", str(PIECE_BYTES)]
