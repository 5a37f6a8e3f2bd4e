"""The audit log is in backups and comes back with a restore, verifiable, without the key that signs."""

from __future__ import annotations

from pathlib import Path

from engine import audit
from engine.archive.archive import Archive
from engine.archive.copies.backup import back_up
from engine.archive.copies.restore import restore
from engine.archive.layout import existing
from engine.audit.chain import folder_of
from engine.audit.checkpoint import SIGNING_KEY, Notary
from engine.audit.logs import source_root
from engine.audit.verify import verify
from tests import samples
from tests.audit.recording import events, make_log, rewrite, stored


def test_a_backup_grows_with_the_log_and_a_restore_brings_it_back(tmp_path: Path) -> None:
    data, backup, restored = tmp_path / "data", tmp_path / "backup", tmp_path / "restored"
    with Archive.open(data, role="keeper", create=True) as archive:
        archive.store(samples.part10(samples.instance()))
    make_log(data)
    back_up(existing(data), backup)
    recorder = audit.Recorder(data)
    recorder.begin_now(stored("1.2.99"))
    recorder.close()
    Notary(data).sign()
    back_up(existing(data), backup)
    assert not (folder_of(backup) / SIGNING_KEY).exists()
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder_of(backup).rglob("*.events"))
    restore(backup, restored)
    assert events(restored) == events(data)
    key = folder_of(data) / "verify-key.pem"
    assert verify(restored, key=key).is_whole
    Notary(restored).sign()  # goes on with a key of its own
    recorder = audit.Recorder(restored)
    recorder.begin_now(stored("1.2.100"))
    recorder.close()
    Notary(restored).sign()
    report = verify(restored)
    assert report.is_whole and report.events == 11 and report.unsigned == 0
    assert not verify(restored, key=key).is_whole, "with the old key alone, the new checkpoints are nobody's"


def test_a_log_that_was_changed_does_not_replace_its_copy(tmp_path: Path) -> None:
    data, backup = tmp_path / "data", tmp_path / "backup"
    Archive.open(data, role="keeper", create=True).close()
    make_log(data)
    back_up(existing(data), backup)
    rewrite(data, "000", lambda lines: lines[:2])
    back_up(existing(data), backup)
    (old,) = folder_of(backup).rglob("*.old-1")
    assert len(old.read_bytes().split(b"\n")) == 6


def test_a_backup_has_the_logs_of_sources_too(tmp_path: Path) -> None:
    data, backup, restored = tmp_path / "data", tmp_path / "backup", tmp_path / "restored"
    with Archive.open(data, role="keeper", create=True) as archive:
        archive.store(samples.part10(samples.instance()))
    source = source_root(data, "ab" * 16)
    source.mkdir(parents=True)
    make_log(source)
    back_up(existing(data), backup)
    restore(backup, restored)
    assert events(source_root(restored, "ab" * 16)) == events(source)
    report = verify(restored)
    assert report.is_whole and report.events == 9
