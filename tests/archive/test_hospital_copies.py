"""Patients, orders and messages in copies of an archive: what was acknowledged before a backup began is restored."""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engine.archive.admin import encryption
from engine.archive.copies import shipped_logs
from engine.archive.copies.backup import back_up
from engine.archive.copies.backup_check import verify_backup
from engine.archive.copies.manifest import HOSPITAL, MESSAGES, STATE, BackupFolder
from engine.archive.copies.replica import Replica, promote
from engine.archive.copies.restore import restore
from engine.archive.hospital import open_orders
from engine.archive.layout import existing
from engine.archive.messages import open_journal
from engine.errors import BackupError
from engine.journal.entry import Outcome, Result
from engine.keys import key_file
from engine.orders.registry import NoRules
from engine.orders.state_log import Change, StateLog
from engine.orders.values import Identifier, Issuer, PatientUpdate
from engine.storage.files import Files
from engine.storage.keyring import KEYRING
from engine.storage.segment import list_segments, segment_path
from tests.archive.filled import opened, payload_of, store
from tests.archive.hospital import ADT, admit, content, fill, take
from tests.archive.replicas import replicating
from tests.locked import locked_before_and_after as locked_before_and_after


class Interrupted(Files):
    """Calls `before_open` with each path that is opened."""

    before_open: Callable[[str], None] = staticmethod(lambda path: None)

    def open(self, path: str, flags: int, mode: int = 0o640) -> int:
        self.before_open(path)
        return super().open(path, flags, mode)


@pytest.mark.parametrize("is_encrypted", [False, True])
def test_a_restore_has_the_registry_and_the_journal_of_its_state(tmp_path: Path, is_encrypted: bool) -> None:
    data, backup = tmp_path / "data", tmp_path / "backup"
    if is_encrypted:
        key_file.make(tmp_path / "kek")
        encryption.begin(data, "site", "file", {"path": str(tmp_path / "kek")}, data_key_days=30)
    with opened(data) as archive:
        store(archive, payload_of())
        fill(archive, 1, 2, 3)
        earlier = content(archive)
        back_up(existing(data), backup)
        moment = datetime.now(UTC)
        fill(archive, 4, 5)
        later = content(archive)
        report = back_up(existing(data), backup)
        assert report.findings == []
        assert 0 < report.copied_bytes < report.hospital_bytes, "the second one copies what is new"
        assert back_up(existing(data), backup).copied_bytes == 0
    check = verify_backup(backup)
    assert check.findings == []
    assert check.counts["segments"] > len(list((backup / "segments").iterdir()))
    files = [path.read_bytes() for path in (backup / "hospital").rglob("*.seg")]
    assert any(b"Doe^Jane" in each for each in files) is not is_encrypted
    KEYRING.clear()
    for target, at, expected, patients in (("new", None, later, 5), ("old", moment, earlier, 3)):
        restored = restore(backup, tmp_path / target, at=at)
        assert restored.findings == []
        assert (restored.patients, restored.instances) == (patients, 1)
        assert (tmp_path / target / "hospital").stat().st_mode & 0o077 == 0
        with opened(tmp_path / target) as archive:
            assert content(archive) == expected
            fill(archive, 9)  # and goes on
            rows, messages = content(archive)
            assert len(rows["patients"]) == patients + 1
            assert [message[0] for message in messages] == list(range(patients + 1, 0, -1))
        KEYRING.clear()


def test_damage_is_found_and_not_restored(tmp_path: Path) -> None:
    data, backup = tmp_path / "data", tmp_path / "backup"
    with opened(data) as archive:
        fill(archive, 1)
    back_up(existing(data), backup)
    for log in HOSPITAL:
        (path,) = (backup / log).glob("*.seg")
        whole = path.read_bytes()
        path.write_bytes(whole[:600] + bytes([whole[600] ^ 1]) + whole[601:])
        assert any(log in finding for finding in verify_backup(backup).findings)
        with pytest.raises(BackupError, match=log):
            restore(backup, tmp_path / f"restored-{path.parent.name}")
        path.write_bytes(whole)
    assert verify_backup(backup).findings == []


def test_a_backup_without_a_hospital_is_as_it_was_and_makes_none(tmp_path: Path) -> None:
    data, backup = tmp_path / "data", tmp_path / "backup"
    with opened(data) as archive:
        store(archive, payload_of())
    report = back_up(existing(data), backup)
    assert b'"logs"' not in (backup / "manifests" / report.manifest).read_bytes()
    assert not (backup / "hospital").exists()
    assert restore(backup, tmp_path / "restored").findings == []
    assert not (tmp_path / "restored" / "hospital").exists()


def test_a_version_that_knew_only_images_does_not_spoil_older_states(tmp_path: Path) -> None:
    data, backup = tmp_path / "data", tmp_path / "backup"
    folder = BackupFolder(backup, Files())
    with opened(data) as archive:
        fill(archive, 1)
        expected = content(archive)
        first = folder.read(back_up(existing(data), backup).manifest)
        moment = datetime.now(UTC)
        old = type(first)(first.archive_id, first.lineage, folder.moment(datetime.now(UTC)), first.segments)
        folder.write(old)
        fill(archive, 2)
        last = folder.read(back_up(existing(data), backup).manifest)
    names = {copy.file_name for copy in first.hospital}
    assert names and names.isdisjoint(copy.file_name for copy in last.hospital)
    assert verify_backup(backup).findings == []
    restore(backup, tmp_path / "restored", at=moment)
    with opened(tmp_path / "restored") as archive:
        assert content(archive) == expected
    report = back_up(existing(data), backup, keep=1)
    assert report.removed_segments == len(names)
    assert {copy.file_name for copy in last.hospital} == {*folder.files_of(STATE), *folder.files_of(MESSAGES)}


def test_a_message_that_comes_during_the_backup_has_no_outcome_without_its_effect(tmp_path: Path) -> None:
    data, backup = tmp_path / "data", tmp_path / "backup"
    with opened(data) as archive, open_orders(archive, NoRules()) as orders:
        journal = open_journal(archive)
        admit(orders, 1)
        take(journal, 1)
        take(journal, 2, is_applied=False)
        logs: list[str] = []

        def before_open(path: str) -> None:
            log = Path(path).parent.name
            if log in ("journal", "state") and log not in logs and len(logs) < 2:
                logs.append(log)
                if len(logs) == 2:  # between the looks at the two logs
                    admit(orders, 2)
                    journal.append_outcome(Outcome(number=2, time=1.0, result=Result.APPLIED))
                    journal.log.sync()

        files = Interrupted()
        files.before_open = before_open  # type: ignore[method-assign]
        back_up(existing(data), backup, files=files)
        assert len(logs) == 2
        journal.close()
    restore(backup, tmp_path / "restored")
    with opened(tmp_path / "restored") as archive:
        rows, messages = content(archive)
        assert [(number, outcome is not None) for number, _, outcome, _ in messages] == [(2, False), (1, True)]
        assert len(rows["patients"]) == 2


def state_log(data: Path) -> StateLog:
    return StateLog(data / STATE, Files(), existing(data).archive_id)


def change(number: int) -> list[Change]:
    return [(0, struct.pack(">Q", number), b"row")]


def stamps(data: Path) -> list[int]:
    return [stamp for stamp, _, _ in state_log(data).replay()]


def test_a_transaction_that_comes_during_the_backup_costs_none_that_came_before(tmp_path: Path) -> None:
    data, backup = tmp_path / "data", tmp_path / "backup"
    opened(data).close()
    (data / "hospital").mkdir()
    first, second = state_log(data), state_log(data)
    begun = first.append(0, 2, change(1))
    known = second.append(begun, 3, change(2))
    first.sync()
    second.sync()
    oldest = segment_path(str(data / STATE), min(list_segments(str(data / STATE), Files())))
    late: list[int] = []

    def before_open(path: str) -> None:
        if path == oldest and not late:  # the newer segment has been looked at
            late.append(second.append(known, 4, change(3)))
            late.append(first.append(late[0], 5, change(4)))

    files = Interrupted()
    files.before_open = before_open  # type: ignore[method-assign]
    back_up(existing(data), backup, files=files)
    assert late
    first.close()
    second.close()
    assert verify_backup(backup).findings == []
    back_up(existing(data), backup)
    moments = sorted(BackupFolder(backup, Files()).names())
    for name, expected in zip(moments, ([begun, known], [begun, known, *late]), strict=True):
        state = BackupFolder(backup, Files()).read(name)
        target = tmp_path / name
        target.mkdir()
        for copy in state.hospital:
            (target / STATE).mkdir(parents=True, exist_ok=True)
            content = (backup / copy.file_name).read_bytes()[: copy.length]
            Path(segment_path(str(target / STATE), copy.segment_id)).write_bytes(content)
        log = StateLog(target / STATE, Files(), bytes(16))
        dropped = log.settle()
        assert dropped == ([late[1]] if len(expected) == 2 else [])
        replayed = [stamp for stamp, _, changes in log.replay() if changes]
        assert replayed == expected
        assert log.settle() == [], "it is whole now"


def test_a_promoted_replica_has_the_registry_and_the_journal(tmp_path: Path) -> None:
    data, target = tmp_path / "data", tmp_path / "replica"
    with opened(data) as archive:
        store(archive, payload_of())
        fill(archive, 1, 2)
        replication = replicating(existing(data), target)
        assert replication.run_once()
        fill(archive, 3)
        with open_orders(archive, NoRules()) as orders:
            assert orders.compact(least_bytes=0) in (True, False)
            for number in range(4, 40):
                patient = PatientUpdate(
                    identifiers=(Identifier("P1", Issuer("HOSP")),), attributes={"PatientName": f"Doe^{number}"}
                )
                orders.apply(patient, ADT)
            assert orders.compact(least_bytes=0), "the old segments are removed there too"
        while not replication.run_once() or names(data) != names(target):
            pass
        assert replication.status.findings == []
        replication.close()
        assert (target / "hospital").stat().st_mode & 0o077 == 0
        expected = content(archive)
    promote(target)
    with opened(target) as archive:
        assert content(archive) == expected
        fill(archive, 50)


def names(data: Path) -> list[str]:
    return sorted(str(path.relative_to(data)) for path in (data / "hospital").rglob("*.seg"))


def test_a_replica_of_an_older_version_gets_images_only_and_that_is_said(tmp_path: Path) -> None:
    class Older(Replica):
        takes_all_logs = False

    data, target = tmp_path / "data", tmp_path / "replica"
    with opened(data) as archive:
        store(archive, payload_of())
        fill(archive, 1)
        layout = existing(data)
        replication = replicating(layout, target, connect=lambda: Older(target, layout.archive_id, layout.lineage))
        assert replication.run_once()
        (finding,) = replication.status.findings
        assert "older version" in finding
        replication.close()
    assert not (target / "hospital").exists()
    assert len(list((target / "segments").iterdir())) == len(list((data / "segments").iterdir()))


def test_a_source_of_an_older_version_removes_nothing_of_the_hospital(tmp_path: Path) -> None:
    data, target = tmp_path / "data", tmp_path / "replica"
    with opened(data) as archive:
        store(archive, payload_of())
        fill(archive, 1)
        layout = existing(data)
        replication = replicating(layout, target)
        assert replication.run_once()
        replication.close()
    replica = Replica(target, layout.archive_id, layout.lineage)
    before = names(target)
    replica.remove([number for number in replica.held() if not shipped_logs.is_image_log(number)])
    assert before and names(target) == before
    replica.close()
