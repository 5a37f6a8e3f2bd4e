"""archive.copies.audit_shipping, replica_audit, shipped_audit: the audit log of an archive in its replica."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from engine import audit
from engine.archive.admin import encryption
from engine.archive.copies import sealed_file
from engine.archive.copies.backup import back_up
from engine.archive.copies.replica import Replica, promote
from engine.archive.copies.replica_audit import ReplicaAudit
from engine.archive.copies.replication import Replication
from engine.archive.copies.replication_status import Status
from engine.archive.copies.restore import restore
from engine.archive.copies.shipped_audit import NO_LINEAGE, AuditFile, Kind, Piece
from engine.archive.layout import existing
from engine.audit.chain import chain_files, folder_of
from engine.audit.checkpoint import SIGNING_KEY, Notary, checkpoint_files
from engine.audit.logs import source_root
from engine.audit.search import Condition, search
from engine.audit.verify import verify
from engine.errors import EngineError, ReplicationFailed
from engine.keys import key_file
from engine.storage.files import Files
from engine.storage.keyring import KEYRING
from tests.archive.filled import opened, payload_of, store
from tests.archive.replicas import replicating
from tests.audit.recording import events, rewrite, stored
from tests.locked import locked_before_and_after as locked_before_and_after


@pytest.fixture(params=["plain", "encrypted"])
def data(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """An archive with one instance."""
    if request.param == "encrypted":
        key_file.make(tmp_path / "kek")
        encryption.begin(tmp_path / "data", "site", "file", {"path": str(tmp_path / "kek")}, data_key_days=30)
    return made(tmp_path / "data")


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return made(tmp_path / "data")


def made(data: Path) -> Path:
    with opened(data) as archive:
        store(archive, payload_of())
    return data


def record(data: Path, *studies: str, is_signed: bool = True) -> None:
    """Records an event for each study, as a process does that then ends."""
    recorder = audit.Recorder(data)
    for study in studies:
        recorder.begin_now(stored(study))
    recorder.close()
    if is_signed:
        Notary(data).sign()


def replicate(data: Path, target: Path) -> Replication:
    """One pass; the replication is closed."""
    replication = replicating(existing(data), target)
    assert replication.run_once()
    replication.close()
    return replication


def studies(data: Path) -> list[str]:
    """Of all events that a search finds, the oldest first."""
    return [str(event.get("study", "")) for event in reversed(search(data, Condition(), 1000).events)]


def texts(root: Path) -> bytes:
    return b"".join(path.read_bytes() for path in root.rglob("*") if path.is_file())


def test_a_promoted_replica_has_the_log_of_its_source_and_its_own_apart(data: Path, tmp_path: Path) -> None:
    target = tmp_path / "replica"
    record(data, "1.1", "1.2")
    assert replicate(data, target).status.findings == []
    KEYRING.clear()
    record(target, "2.1")  # a server reads the replica
    record(data, "1.3")
    replicate(data, target)
    KEYRING.clear()
    is_encrypted = existing(data).is_encrypted
    assert (b"DOE^JANE" in texts(target / "sources")) is not is_encrypted
    layout = promote(target)
    record(target, "2.2")
    assert studies(target) == ["1.1", "1.2", "2.1", "1.3", "2.2"]
    assert events(source_root(target, NO_LINEAGE)) == events(data)
    assert [event["study"] for event in events(target)] == ["2.1", "2.2"]
    report = verify(target)
    assert report.is_whole and not report.problems
    assert (report.events, report.chains, report.unsigned) == (5, 2, 0)
    assert list(target.rglob(SIGNING_KEY)) == [folder_of(target) / SIGNING_KEY], "its own: the source's stayed there"
    assert not list(target.rglob("*.sealed"))
    for path in (target / "sources").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0 or path.name == "verify-key.pem", path
    # A replica of what was promoted, and a backup, have both logs.
    KEYRING.clear()
    replicate(target, tmp_path / "second")
    promote(tmp_path / "second")
    assert studies(tmp_path / "second") == studies(target)
    assert set(os.listdir(tmp_path / "second" / "sources")) == {NO_LINEAGE, layout.lineage}
    assert verify(tmp_path / "second").is_whole
    back_up(existing(target), tmp_path / "backup")
    KEYRING.clear()
    assert (b"DOE^JANE" in texts(tmp_path / "backup" / "sources")) is not is_encrypted
    assert restore(tmp_path / "backup", tmp_path / "restored").findings == []
    assert studies(tmp_path / "restored") == studies(target)


def test_a_replication_that_is_opened_again_goes_on_at_the_end(data: Path, tmp_path: Path) -> None:
    target = tmp_path / "replica"
    record(data, "1.1")
    replicate(data, target)
    KEYRING.clear()
    record(data, "1.2")
    replicate(data, target)
    before = {path: path.read_bytes() for path in (target / "sources").rglob("*") if path.is_file()}
    replicate(data, target)
    assert {path: path.read_bytes() for path in (target / "sources").rglob("*") if path.is_file()} == before
    (path,) = [path for path in before if ".events" in path.name]
    if path.suffix == ".sealed":
        fd = os.open(path, os.O_RDONLY)
        pieces = list(sealed_file.pieces(fd, Files()))
        os.close(fd)
        assert len(pieces) == 2 and pieces[1].at == pieces[0].content_end
    else:
        assert path.read_bytes() == chain_files(data, "000")[0].read_bytes()
    assert not list(target.rglob("*.old-*"))


def test_a_source_whose_log_was_changed_does_not_change_the_copy(data: Path, tmp_path: Path) -> None:
    target = tmp_path / "replica"
    record(data, "1.1", "1.2", "1.3")
    replicate(data, target)
    (copy,) = (path for path in (target / "sources").rglob("*") if ".events" in path.name)
    before = copy.read_bytes()
    rewrite(data, "000", lambda lines: [lines[0].replace(b"DOE^JANE", b"ROE^MARY"), *lines[1:]])
    KEYRING.clear()
    replicate(data, target)
    assert (copy.with_name(f"{copy.name}.old-1")).read_bytes() == before
    rewrite(data, "000", lambda lines: lines[:1])
    replicate(data, target)
    assert (copy.with_name(f"{copy.name}.old-2")).exists()
    promote(target)
    assert {problem.kind for problem in verify(target).problems} == {"changed", "cut"}


def test_only_whole_lines_are_shipped(plain: Path, tmp_path: Path) -> None:
    target = tmp_path / "replica"
    record(plain, "1.1")
    (path,) = chain_files(plain, "000")
    whole = path.read_bytes()
    path.write_bytes(whole + b"half a li")
    replicate(plain, target)
    (copy,) = chain_files(source_root(target, NO_LINEAGE), "000")
    assert copy.read_bytes() == whole
    record(plain, "1.2")  # cuts it off
    replicate(plain, target)
    assert copy.read_bytes() == path.read_bytes()
    assert not list(target.rglob("*.old-*"))


def test_a_log_of_many_pieces_arrives_whole(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.archive.copies import audit_shipping

    monkeypatch.setattr(audit_shipping, "PIECE_BYTES", 2000)
    monkeypatch.setattr(audit_shipping, "COMMIT_BYTES", 5000)
    record(data, *(f"1.{number}" for number in range(60)))
    replicate(data, tmp_path / "replica")
    promote(tmp_path / "replica")
    assert events(source_root(tmp_path / "replica", NO_LINEAGE)) == events(data)
    assert verify(tmp_path / "replica").is_whole


class Stopped(Exception):
    """The process ends here."""


class Limited(Files):
    """Ends the process at the call number `left` that changes something of a source's log."""

    left = 0

    def __init__(self) -> None:
        super().__init__()
        self._fds: set[int] = set()

    def _count(self, *, is_counted: bool) -> None:
        self.left -= is_counted
        if is_counted and not self.left:
            raise Stopped

    def open(self, path: str, flags: int, mode: int = 0o640) -> int:
        fd = super().open(path, flags, mode)
        self._fds.discard(fd)
        if "/sources/" in path:
            self._fds.add(fd)
        return fd

    def pwritev(self, fd: int, buffers: Sequence[Any], offset: int, length: int = -1) -> None:
        self._count(is_counted=fd in self._fds)
        super().pwritev(fd, buffers, offset, length)

    def fdatasync(self, fd: int) -> None:
        self._count(is_counted=fd in self._fds)
        super().fdatasync(fd)

    def rename(self, source: str, target: str) -> None:
        self._count(is_counted="/sources/" in target or target.endswith("archive.json"))
        super().rename(source, target)

    def unlink(self, path: str) -> None:
        self._count(is_counted="/sources/" in path)
        super().unlink(path)


def test_a_replica_that_is_killed_at_any_call_gets_the_log_whole(data: Path, tmp_path: Path) -> None:
    record(data, "1.1", "1.2")
    layout, files, stops = existing(data), Limited(), 0
    for left in range(1, 50):
        target = tmp_path / f"replica-{left}"
        files.left = left
        replication = replicating(layout, target, files=files)
        try:
            replication.run_once()
            break
        except Stopped:
            stops += 1
        files.left = 0
        with pytest.MonkeyPatch.context() as patch:  # a killed process gives its locks back, and no more
            patch.setattr(ReplicaAudit, "commit", lambda self: None)
            replication.close()
        if (target / "archive.json").exists():  # the source may be gone at this moment
            KEYRING.clear()
            promote(Path(shutil.copytree(target, tmp_path / f"burnt-{left}")))
            assert verify(tmp_path / f"burnt-{left}").problems == []
            KEYRING.clear()
        replicate(data, target)
        promote(target)
        assert events(source_root(target, NO_LINEAGE)) == events(data)
        assert verify(target).is_whole
        assert not list(target.rglob("*.old-*"))
    assert stops >= 6
    replication.close()


def test_a_promotion_that_is_killed_at_any_call_is_done_again(tmp_path: Path) -> None:
    data = tmp_path / "data"
    key_file.make(tmp_path / "kek")
    encryption.begin(data, "site", "file", {"path": str(tmp_path / "kek")}, data_key_days=30)
    made(data)
    record(data, "1.1", "1.2")
    files, stops = Limited(), 0
    for left in range(1, 50):
        target = tmp_path / f"replica-{left}"
        replicate(data, target)
        KEYRING.clear()
        files.left = left
        try:
            promote(target, files=files)
            break
        except Stopped:
            stops += 1
        KEYRING.clear()
        if existing(target).role == "replica":
            record(data, f"1.{left + 2}")
            replicate(data, target)
            promote(target)
            assert events(source_root(target, NO_LINEAGE)) == events(data)
        report = verify(target)
        assert report.is_whole and report.events >= 2
    assert stops > 3


class Synced(Files):
    """Notes the length that each file of an audit log had when it was synced."""

    def __init__(self) -> None:
        super().__init__()
        self.lengths: dict[str, int] = {}

    def fdatasync(self, fd: int) -> None:
        super().fdatasync(fd)
        self.lengths[os.readlink(f"/proc/self/fd/{fd}")] = self.size(fd)


def test_what_counts_as_shipped_is_durable_at_both_ends(plain: Path, tmp_path: Path) -> None:
    layout, target, here, there = existing(plain), tmp_path / "replica", Synced(), Synced()
    record(plain, "1.1")
    replica = Replica(target, layout.archive_id, layout.lineage, there)
    replication = Replication(layout, lambda: replica, Status("replica"), files=here)
    for _ in range(2):
        assert replication.run_once()
        for root, files in ((plain, here), (source_root(target, NO_LINEAGE), there)):
            paths = [*chain_files(root, "000"), *checkpoint_files(root)]
            assert len(paths) == 2
            assert {str(path): path.stat().st_size for path in paths}.items() <= files.lengths.items()
        record(plain, "1.2")
    replication.close()


def test_the_wrapping_of_a_new_key_comes_before_what_it_seals(tmp_path: Path) -> None:
    data, target = tmp_path / "data", tmp_path / "replica"
    key_file.make(tmp_path / "kek")
    encryption.begin(data, "site", "file", {"path": str(tmp_path / "kek")}, data_key_days=30)
    made(data)
    record(data, "1.1")
    files = Limited()
    replication = replicating(existing(data), target, files=files)
    assert replication.run_once()
    encryption.open_keys(data).rotate_data_key()
    record(data, "1.2")
    files.left = 3  # the chain's new piece is durable
    with pytest.raises(Stopped):
        replication.run_once()
    files.left = 0
    replication.close()
    KEYRING.clear()
    promote(target)
    assert events(source_root(target, NO_LINEAGE)) == events(data)


def test_an_archive_that_was_encrypted_since_has_only_a_sealed_copy(tmp_path: Path) -> None:
    data, target = made(tmp_path / "data"), tmp_path / "replica"
    record(data, "1.1")
    replicate(data, target)
    key_file.make(tmp_path / "kek")
    encryption.begin(data, "site", "file", {"path": str(tmp_path / "kek")}, data_key_days=30)
    record(data, "1.2")
    replicate(data, target)
    assert b"DOE^JANE" not in texts(target / "sources")
    promote(target)
    assert events(source_root(target, NO_LINEAGE)) == events(data)


def test_without_a_key_the_rest_is_replicated_and_that_is_said(tmp_path: Path) -> None:
    data, target = tmp_path / "data", tmp_path / "replica"
    key_file.make(tmp_path / "kek")
    encryption.begin(data, "site", "file", {"path": str(tmp_path / "kek")}, data_key_days=30)
    made(data)
    record(data, "1.1")
    KEYRING.clear()
    (tmp_path / "kek").rename(tmp_path / "away")
    (finding,) = replicate(data, target).status.findings
    assert "audit log" in finding and "key" in finding
    assert not (target / "sources").exists()
    (tmp_path / "away").rename(tmp_path / "kek")
    assert replicate(data, target).status.findings == []
    promote(target)
    assert events(source_root(target, NO_LINEAGE)) == events(data)


def test_a_replica_of_an_older_version_gets_no_audit_log_and_that_is_said(plain: Path, tmp_path: Path) -> None:
    class Older(Replica):
        audit = None  # type: ignore[assignment]

        def __setattr__(self, name: str, value: object) -> None:
            if name != "audit":
                super().__setattr__(name, value)

        def close(self) -> None:
            self.audit = ReplicaAudit(self.layout.data, Files())

    record(plain, "1.1")
    layout = existing(plain)
    older = Older(tmp_path / "replica", layout.archive_id, layout.lineage)
    replication = replicating(layout, tmp_path / "replica", connect=lambda: older)
    assert replication.run_once()
    (finding,) = replication.status.findings
    assert "older version" in finding
    assert not (tmp_path / "replica" / "sources").exists()


CHAIN = AuditFile("ab" * 16, Kind.CHAIN, 7, 12)


@pytest.mark.parametrize(
    "piece",
    [
        Piece(CHAIN, False, True, 5, b"line\n"),
        Piece(CHAIN, False, False, 5, b"line\n"),
        Piece(CHAIN, False, False, 0, b""),
        Piece(CHAIN, False, False, 0, bytes(1 << 19)),
        Piece(CHAIN, True, False, 0, b"short"),
        Piece(CHAIN, True, False, 0, bytes(36) + b"\0" * 16),
        Piece(CHAIN, True, False, 9, bytes(24) + b"\0\0\0\0\0\0\0\0" + b"\5\0\0\0" + bytes(21)),
        Piece(CHAIN, True, False, 0, bytes(24) + b"\5\0\0\0\0\0\0\0" + b"\5\0\0\0" + bytes(21)),
        Piece(CHAIN, True, False, 0, bytes(32) + b"\xff\xff\xff\xff" + bytes(100)),
        Piece(AuditFile("ab" * 16, Kind.VERIFY_KEY), True, False, 0, b"key"),
        Piece(AuditFile("ab" * 16, Kind.VERIFY_KEY), False, False, 0, bytes(1 << 17)),
    ],
)
def test_a_piece_that_does_not_belong_there_is_refused(tmp_path: Path, piece: Piece) -> None:
    replica = ReplicaAudit(tmp_path, Files())
    with pytest.raises(EngineError):
        replica.write(piece)
    replica.close()


@pytest.mark.parametrize(
    ("kind", "chain", "first"), [(3, 0, 1), (2, 10**6, 1), (2, 0, 0), (2, 0, 10**12), (0, 0, 1), (1, 0, 0), (255, 0, 1)]
)
def test_numbers_that_name_no_file_are_refused(kind: int, chain: int, first: int) -> None:
    with pytest.raises(ReplicationFailed):
        AuditFile.of_numbers(bytes(16), kind, chain, first)


@pytest.mark.parametrize("file", [CHAIN, AuditFile("00" * 16, Kind.CHECKPOINTS, 0, 3), AuditFile("", Kind.VERIFY_KEY)])
def test_a_name_and_its_file_belong_together(file: AuditFile) -> None:
    assert AuditFile.of_name(file.lineage, file.name) == file


@pytest.mark.parametrize(
    "name",
    [
        "signing-key.pem", "sent.json", "reserve", "chains/000/lock", "chains/000/ended",
        "chains/0/000000000001.events", "chains/000/000000000000.events",
        "chains/000/1.events", "checkpoints/000000000001.events",
        "chains/000/000000000001.signed", "chains/000/000000000001.events.old-1", "chains/0012/000000000001.events",
    ],
)  # fmt: skip
def test_nothing_else_of_the_folder_is_shipped(name: str) -> None:
    assert AuditFile.of_name("", name) is None
