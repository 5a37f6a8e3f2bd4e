"""An encrypted archive as a whole: what lies on its disk, its backup and its replica, and that all works as before."""

from __future__ import annotations

import base64
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine import audit
from engine.archive import layout as layouts
from engine.archive.admin import encryption
from engine.archive.archive import Archive
from engine.archive.copies.backup import back_up
from engine.archive.copies.backup_check import verify_backup
from engine.archive.copies.replica import Replica, promote
from engine.archive.copies.replication import Replication
from engine.archive.copies.replication_status import Status
from engine.archive.copies.restore import restore
from engine.config import Compaction
from engine.errors import ArchiveInUse, KeyStoreError, StorageError
from engine.keys import key_file
from engine.storage.files import Files
from engine.storage.keyring import KEYRING
from tests.actors import actor
from tests.archive import filled
from tests.audit.recording import events, make_log, recording, stored
from tests.locked import locked_before_and_after as locked_before_and_after

NAME = "PLANTED^NAME"
TEXT = "plantedreason"
MARKS = (
    b"PLANTED",
    TEXT.encode(),
    *(base64.b64encode(bytes(shift) + TEXT.encode())[4:-4] for shift in range(3)),
)
"""The planted texts, also in Base64 wherever they begin."""


def begin(data: Path, **options: int) -> Path:
    """Makes the keys of an archive; returns the key file."""
    path = data.parent / "kek"
    if not path.exists():
        key_file.make(path)
    encryption.begin(data, "site", "file", {"path": str(path)}, data_key_days=options.get("days", 30))
    return path


def payloads(first: int = 1, count: int = 4) -> list[bytes]:
    rng = random.Random(first)
    sizes = [20, 70_000, 200_001, 400_000]
    return [
        filled.payload_of(
            1, 1, first + number, PatientName=NAME, PixelData=rng.randbytes(sizes[number % 4] & ~1), BitsAllocated=8
        )
        for number in range(count)
    ]


def marked_files(folder: Path, *, but: str = "index") -> list[str]:
    """The files in which a planted name or text is readable, without one folder."""
    return [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] != but
        if any(mark in path.read_bytes() for mark in MARKS)
    ]


def work(archive: Archive) -> dict[str, bytes]:
    """Stores, holds and deletes; returns what must be there afterwards."""
    stored = payloads()
    filled.store(archive, *stored)
    filled.store(archive, filled.payload_of(2, 1, 1, PatientName=NAME))
    archive.set_holds([filled.uid(1)], actor=actor(), reason=TEXT)
    archive.delete(filled.study_query(2), actor=actor(), reason=TEXT)
    return filled.contents(archive)


def assert_same(data: Path, expected: dict[str, bytes]) -> None:
    with filled.opened(data) as archive:
        assert filled.contents(archive) == expected
        assert filled.findings(archive) == []


def test_names_and_texts_are_readable_in_the_index_only(tmp_path: Path) -> None:
    for name in ("plain", "data"):
        if name == "data":
            begin(tmp_path / name)
        with filled.opened(tmp_path / name) as archive:
            work(archive)
    assert "ledger.copy" in marked_files(tmp_path / "plain")
    assert len(marked_files(tmp_path / "plain")) > 2
    assert marked_files(tmp_path / "data") == []
    assert marked_files(tmp_path / "data", but="nothing") != []


def test_an_encrypted_archive_reads_back_after_a_restart_and_after_a_rebuild(tmp_path: Path) -> None:
    data = tmp_path / "data"
    begin(data)
    with filled.opened(data) as archive:
        expected = work(archive)
    KEYRING.clear()
    assert_same(data, expected)
    shutil.rmtree(data / "index")
    KEYRING.clear()
    assert_same(data, expected)
    KEYRING.clear()
    assert Archive.rebuild_index(data).findings == []
    assert_same(data, expected)


def snapshot(data: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(data.rglob("*"))
        if path.is_file() and path.name != "keys.lock"
    }


@pytest.mark.parametrize("what", ["other key", "no key", "no keys.json"])
def test_without_the_right_key_a_start_fails_and_writes_nothing(tmp_path: Path, what: str) -> None:
    data = tmp_path / "data"
    path = begin(data)
    with filled.opened(data) as archive:
        expected = work(archive)
    os.rename(path, tmp_path / "safe")
    if what == "other key":
        key_file.make(path)
    if what == "no keys.json":
        os.rename(data / "keys.json", tmp_path / "keys.json")
    KEYRING.clear()
    before = snapshot(data)
    for opening in (lambda: filled.opened(data), lambda: Archive.rebuild_index(data)):
        with pytest.raises(KeyStoreError):
            opening()
    assert snapshot(data) == before
    if what == "no keys.json":
        os.rename(tmp_path / "keys.json", data / "keys.json")
    path.unlink(missing_ok=True)
    os.rename(tmp_path / "safe", path)
    assert_same(data, expected)


def test_records_whose_key_an_older_keys_file_lacks_are_reported_and_not_removed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    begin(data)
    old = (data / "keys.json").read_bytes()
    encryption.open_keys(data).rotate_data_key()
    with filled.opened(data) as archive:
        expected = work(archive)
    new = (data / "keys.json").read_bytes()
    (data / "keys.json").write_bytes(old)
    shutil.rmtree(data / "index")
    segments = {path.name: path.read_bytes() for path in (data / "segments").iterdir()}
    KEYRING.clear()
    try:
        with filled.opened(data) as archive:
            assert filled.contents(archive) == {}
    except StorageError as error:
        assert "keys.json does not have" in str(error)
    assert {path.name: path.read_bytes() for path in (data / "segments").iterdir()}.items() >= segments.items()
    (data / "keys.json").write_bytes(new)
    KEYRING.clear()
    shutil.rmtree(data / "index")
    assert_same(data, expected)


def test_a_kill_leaves_an_encrypted_archive_that_recovers(tmp_path: Path) -> None:
    data = tmp_path / "data"
    begin(data)
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from tests.archive import filled, test_encryption\n"
        "archive = filled.opened(Path(sys.argv[1]))\n"
        "test_encryption.work(archive)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(data)], check=False, capture_output=True)
    assert done.returncode == -9, done.stderr
    with filled.opened(data) as archive:
        assert len(filled.contents(archive)) == 4
        assert filled.findings(archive) == []
        assert [hold.reason for hold in archive.holds()] == [TEXT.encode()]


def test_old_records_are_encrypted_by_copying_them_and_stay_the_same(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with filled.opened(data) as archive:
        expected = work(archive)
        long = payloads(50, 1)[0]
        archive.ingest_stream(iter([long[:1000], long[1000:]]), transfer_syntax_uid=filled.EXPLICIT)
        expected |= filled.contents(archive)
    begin(data)
    assert_same(data, expected)
    assert encryption.status(data)["plain_records"] != 0
    with filled.opened(data) as archive:
        archive.writer("test")
        encryption.encrypt(archive, Compaction(), segment_bytes=1 << 20, old_keys=False)
    assert encryption.status(data)["plain_records"] == 0
    assert_same(data, expected)
    segments = tmp_path / "data" / "segments"
    assert all(mark not in path.read_bytes() for path in segments.iterdir() for mark in MARKS)
    shutil.rmtree(data / "index")
    assert_same(data, expected)


def test_records_of_an_old_data_key_are_encrypted_by_the_newest_where_asked(tmp_path: Path) -> None:
    data = tmp_path / "data"
    begin(data)
    with filled.opened(data) as archive:
        expected = work(archive)
    encryption.open_keys(data).rotate_data_key()
    for old_keys, is_done in ((False, False), (True, True)):
        with filled.opened(data) as archive:
            encryption.encrypt(archive, Compaction(), segment_bytes=1 << 20, old_keys=old_keys)
        keys = encryption.status(data)["data_keys"]
        assert isinstance(keys, list)
        assert (keys[0]["records"] == 0) == is_done
    assert_same(data, expected)


def test_a_long_record_is_copied_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.archive.lifecycle.compaction.LONG_BYTES", 100_000)
    test_old_records_are_encrypted_by_copying_them_and_stay_the_same(tmp_path)


def test_a_backup_holds_ciphertext_and_wrapped_keys_is_checked_without_a_key_and_restores_with_one(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    path = begin(data)
    with filled.opened(data) as archive:
        expected = work(archive)
    encryption.open_keys(data).rotate_data_key()
    with filled.opened(data) as archive:
        filled.store(archive, *payloads(20, 2))
        expected = filled.contents(archive)
    make_log(data, signed=False)
    with recording(data):
        audit.begin_now(stored(detail=TEXT))
    KEYRING.clear()
    assert back_up(layouts.existing(data), tmp_path / "backup").audit_bytes > 0
    with recording(data):
        audit.begin_now(stored(detail=f"{TEXT} of after the first backup"))
    logged = events(data)
    assert back_up(layouts.existing(data), tmp_path / "backup").audit_bytes > 0
    os.rename(path, tmp_path / "safe")
    KEYRING.clear()
    with recording(data):
        audit.begin_now(stored(detail="without a key it is in no backup"))
    report = back_up(layouts.existing(data), tmp_path / "backup")
    assert (report.findings, report.audit_bytes) == ([], 0)
    assert marked_files(tmp_path / "backup", but="nothing") == []
    assert verify_backup(tmp_path / "backup").findings == []
    shutil.rmtree(data)
    with pytest.raises(KeyStoreError):
        restore(tmp_path / "backup", tmp_path / "restored")
    os.rename(tmp_path / "safe", path)
    assert restore(tmp_path / "backup", tmp_path / "restored").findings == []
    assert_same(tmp_path / "restored", expected)
    assert events(tmp_path / "restored") == logged
    shutil.rmtree(tmp_path / "restored" / "audit")
    assert marked_files(tmp_path / "restored") == []


def test_a_replica_holds_ciphertext_and_wrapped_keys_and_can_be_promoted(tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    begin(data)
    with filled.opened(data) as archive:
        expected = work(archive)
    KEYRING.clear()
    layout = layouts.existing(data)

    def connect() -> Replica:
        return Replica(copy, layout.archive_id, layout.lineage)

    replication = Replication(layout, connect, Status("copy"))
    assert replication.run_once()
    encryption.open_keys(data).rotate_data_key()
    KEYRING.clear()
    with filled.opened(data) as archive:
        filled.store(archive, *payloads(20, 2))
        expected = filled.contents(archive)
    KEYRING.clear()
    assert replication.run_once()
    replication.close()
    assert marked_files(copy, but="nothing") == []
    assert "wrapped" not in (copy / "replica.json").read_text()
    promote(copy)
    assert_same(copy, expected)


def test_keys_are_made_only_while_nothing_has_the_archive_open(tmp_path: Path) -> None:
    with filled.opened(tmp_path / "data"), pytest.raises(ArchiveInUse):
        begin(tmp_path / "data")
    begin(tmp_path / "data")
    with pytest.raises(KeyStoreError, match="has keys already"):
        begin(tmp_path / "data")


def test_a_version_that_knows_no_encryption_refuses_the_archive(tmp_path: Path) -> None:
    begin(tmp_path / "data")
    assert b'"format":2' in (tmp_path / "data" / "archive.json").read_bytes()


@pytest.mark.parametrize("change", [lambda data: (data / "archive.json").unlink()])
def test_an_archive_without_its_description_is_still_an_encrypted_one(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    data = tmp_path / "data"
    begin(data)
    with filled.opened(data) as archive:
        expected = work(archive)
    change(data)
    assert_same(data, expected)
    assert layouts.open_layout(data, Files(), create=False).is_encrypted


def test_another_user_can_neither_read_the_memory_of_a_process_with_keys_nor_find_a_core(tmp_path: Path) -> None:
    data = tmp_path / "data"
    begin(data)
    script = (
        "import ctypes, resource, sys\n"
        "from pathlib import Path\n"
        "from tests.archive import filled\n"
        "archive = filled.opened(Path(sys.argv[1]))\n"
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE))\n"
        "archive.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(data)], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "0 (0, 0)"
