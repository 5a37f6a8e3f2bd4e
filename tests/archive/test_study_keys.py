"""Keys of studies: what is stored, deleted, restored, compacted and rebuilt with them, and what is unreadable then."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.archive import layout as layouts
from engine.archive.admin import encryption
from engine.archive.admin import trash as trashes
from engine.archive.archive import Archive
from engine.archive.copies.backup import back_up
from engine.archive.copies.backup_check import verify_backup
from engine.archive.copies.manifest import BackupFolder
from engine.archive.copies.replica import Replica, promote
from engine.archive.copies.replication import Replication
from engine.archive.copies.replication_status import Status
from engine.archive.copies.restore import restore
from engine.archive.lifecycle import shredding
from engine.archive.lifecycle.compaction import Compactor
from engine.archive.lifecycle.correction import correct_study
from engine.archive.lifecycle.scrub import run_pass
from engine.config import Compaction, Scrub
from engine.dicom import tags
from engine.errors import DeletionRefused, KeyDestroyed, KeyStoreError
from engine.index.format.types import Level
from engine.keys import key_file
from engine.keys.study_keys import State, StudyKeys
from engine.storage import hints
from engine.storage.encryption import key_id_of
from engine.storage.files import Files
from engine.storage.keyring import KEYRING
from engine.storage.record import SHREDDED, Kind
from engine.storage.segment import Damage, Walk, list_segments, read_segment_header
from engine.storage.segment_store import LocalSegments
from tests.actors import actor
from tests.archive import filled
from tests.locked import locked_before_and_after as locked_before_and_after


def begin(data: Path) -> None:
    path = data.parent / "kek"
    if not path.exists():
        key_file.make(path)
    encryption.begin(data, "site", "file", {"path": str(path)}, data_key_days=30)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """An archive with keys, empty."""
    path = tmp_path / "data"
    begin(path)
    return path


def opened(data: Path, *, study_keys: bool | None = True) -> Archive:
    KEYRING.clear()
    return Archive.open(data, role="keeper", create=True, study_keys=study_keys)


def keys_of(archive: Archive) -> StudyKeys:
    keys = archive.parts.layout.study_keys
    assert keys is not None
    return keys


def states(archive: Archive, study: int) -> list[State]:
    uid = filled.uid(study).encode()
    return [key.state for key in keys_of(archive).of_studies([uid]).get(uid, [])]


def store(archive: Archive, study: int, count: int = 2, *, first: int = 1) -> None:
    filled.store(archive, *(filled.payload_of(study, 1, first + number) for number in range(count)))


def delete(archive: Archive, study: int, *, into_trash: bool = False) -> list[str]:
    query = filled.study_query(study)
    return archive.delete(query, actor=actor(), reason="test", into_trash=into_trash).shredded


def compact(archive: Archive) -> None:
    Compactor(archive, Compaction(), segment_bytes=1 << 20, everything=True).run()


def test_each_study_has_a_key_of_its_own_and_reads_back(data: Path) -> None:
    with opened(data) as archive:
        store(archive, 1)
        store(archive, 2)
        expected = filled.contents(archive)
        ids = {study: keys_of(archive).of_studies([filled.uid(study).encode()]) for study in (1, 2)}
        assert states(archive, 1) == states(archive, 2) == [State.ASSIGNED]
        assert ids[1] != ids[2]
    with opened(data, study_keys=None) as archive:
        assert filled.contents(archive) == expected
        assert filled.findings(archive) == []
    shutil.rmtree(data / "index")
    with opened(data) as archive:
        assert filled.contents(archive) == expected


def test_a_deleted_study_is_unreadable_and_counts_as_deleted_after_a_rebuild(data: Path) -> None:
    with opened(data) as archive:
        store(archive, 1)
        store(archive, 2)
        position = archive.instances(filled.study_query(1))[0].position
        assert delete(archive, 1) == [filled.uid(1)]
        expected = filled.contents(archive)
        with pytest.raises(KeyDestroyed):
            archive.parts.reader.read_record(position)
        assert filled.findings(archive) == []
    for _ in range(2):
        shutil.rmtree(data / "index")
        with opened(data) as archive:
            assert filled.contents(archive) == expected
            assert filled.findings(archive) == []
            assert not archive.damage()


def test_the_key_lives_while_the_study_is_in_the_trash(data: Path) -> None:
    with opened(data) as archive:
        store(archive, 1)
        expected = filled.contents(archive)
        assert delete(archive, 1, into_trash=True) == []
        assert states(archive, 1) == [State.RETIRED]
        number = next(trashes.list_all(archive, 30, values=False))["number"]
        trashes.restore(archive, number, actor=actor(), reason="back")
        assert filled.contents(archive) == expected
        delete(archive, 1, into_trash=True)
        number = next(trashes.list_all(archive, 30, values=False))["number"]
        assert trashes.empty(archive, [number], actor=actor(), reason="gone")["shredded"] == 1
        assert states(archive, 1) == [State.DESTROYED]


def test_what_was_sent_again_meanwhile_has_another_key_and_stays(data: Path) -> None:
    with opened(data) as archive:
        store(archive, 1)
        delete(archive, 1, into_trash=True)
        store(archive, 1, 1, first=7)
        assert states(archive, 1) == [State.RETIRED, State.ASSIGNED]
        trashes.empty(archive, None, actor=actor(), reason="gone")
        assert states(archive, 1) == [State.DESTROYED, State.ASSIGNED]
        expected = filled.contents(archive)
        assert len(expected) == 1
        store(archive, 1)
        expected = filled.contents(archive)
        assert len(expected) == 3
    shutil.rmtree(data / "index")
    with opened(data) as archive:
        assert filled.contents(archive) == expected
        assert filled.findings(archive) == []


def test_a_hold_keeps_the_key_and_the_last_part_of_a_study_takes_it_along(data: Path) -> None:
    with opened(data) as archive:
        store(archive, 1, 3)
        first, *others = archive.instances(filled.study_query(1))
        assert archive.delete_instances([first], level=Level.IMAGE, actor=actor(), reason="one").shredded == []
        assert states(archive, 1) == [State.ASSIGNED]
        archive.set_holds([filled.uid(1)], actor=actor(), reason="court")
        with pytest.raises(DeletionRefused):
            delete(archive, 1)
        result = shredding.shred(archive.parts, [filled.uid(1)], actor=actor(), reason="try")
        assert result.kept == {filled.uid(1): shredding.HELD}
        archive.release_holds([filled.uid(1)], actor=actor(), reason="over")
        result = shredding.shred(archive.parts, [filled.uid(1)], actor=actor(), reason="try")
        assert result.kept == {filled.uid(1): shredding.NEEDED}
        done = archive.delete_instances(others, level=Level.IMAGE, actor=actor(), reason="rest")
        assert done.shredded == [filled.uid(1)]


def test_compaction_keeps_the_key_of_what_it_copies_and_removes_what_is_shredded(data: Path) -> None:
    with opened(data) as archive:
        store(archive, 1)
        store(archive, 2)
        store(archive, 3)
        delete(archive, 1)
    with opened(data) as archive:
        compact(archive)
        expected = filled.contents(archive)
        assert len(expected) == 4
        assert states(archive, 2) == [State.ASSIGNED]
        stored = key_ids(data)
        assert delete(archive, 2) == [filled.uid(2)]
        assert filled.findings(archive) == []
    shutil.rmtree(data / "index")
    with opened(data) as archive:  # they were applied as dead records, and their space comes back
        assert len(filled.contents(archive)) == 2
        compact(archive)
        destroyed = keys_of(archive).destroyed_ids()
        assert stored & destroyed
        assert filled.findings(archive) == []
    with opened(data) as archive:
        assert not key_ids(data) & destroyed
        assert filled.findings(archive) == []


def test_the_status_counts_keys_of_studies_and_what_is_shredded(data: Path) -> None:
    assert encryption.status(data)["study_keys"] is None
    with opened(data) as archive:
        store(archive, 1)
        store(archive, 2, 3)
        delete(archive, 1)
    status = encryption.status(data)
    assert status["study_keys"] == {"keys": 1, "destroyed_keys": 1, "records": 3, "shredded_records": 2}
    assert status["records_without_key"] == 0


def key_ids(data: Path) -> set[bytes]:
    store = LocalSegments(str(data / "segments"), Files())
    ids: set[bytes] = set()
    for path in (data / "segments").glob("*.seg"):
        summary = hints.read_summary(store.open(int(path.stem, 16)), int(path.stem, 16), opens=False)
        ids |= {key_id_of(record) for record in summary.records} if summary is not None else set()
    return ids


def test_what_was_stored_before_gets_keys_where_asked_and_can_be_shredded_then(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with opened(data, study_keys=None) as archive:
        store(archive, 1)
    begin(data)
    with opened(data, study_keys=None) as archive:
        store(archive, 2)
        long = filled.payload_of(3, 1, 1)
        archive.ingest_stream(iter([long[:500], long[500:]]), transfer_syntax_uid=filled.EXPLICIT)
    with opened(data) as archive:
        expected = filled.contents(archive)
        with pytest.raises(DeletionRefused, match="encrypt --old-keys"):
            archive.delete_instances(
                archive.instances(filled.study_query(1)), level=Level.STUDY, actor=actor(), reason="x", must_shred=True
            )
        assert filled.contents(archive) == expected
    with opened(data) as archive:
        for _ in range(2):  # and a second time there is nothing to do
            copied = encryption.encrypt(archive, Compaction(), segment_bytes=1 << 20, old_keys=True).records_copied
        assert copied == 0
        assert filled.contents(archive) == expected
        for study in (1, 2, 3):
            assert states(archive, study) == [State.ASSIGNED]
            assert delete(archive, study) == [filled.uid(study)]
        assert filled.contents(archive) == {}


def test_an_object_that_comes_in_parts_has_the_key_of_its_study(data: Path) -> None:
    long = filled.payload_of(1, 1, 1)
    with opened(data) as archive:
        archive.ingest_stream(iter([long[:500], long[500:]]), transfer_syntax_uid=filled.EXPLICIT)
        expected = filled.contents(archive)
        assert len(expected) == 1
    with opened(data) as archive:
        assert filled.contents(archive) == expected
        assert delete(archive, 1) == [filled.uid(1)]


def test_study_keys_need_an_encrypted_archive(tmp_path: Path) -> None:
    with pytest.raises(KeyStoreError, match="filmroom encryption init"):
        opened(tmp_path / "data")


def test_switched_off_new_studies_have_none_and_old_ones_stay_readable(data: Path) -> None:
    with opened(data) as archive:
        store(archive, 1)
    with opened(data, study_keys=False) as archive:
        store(archive, 2)
        assert states(archive, 2) == []
        assert len(filled.contents(archive)) == 4
        assert delete(archive, 1) == [filled.uid(1)]
        assert delete(archive, 2) == []


def test_a_new_master_key_leaves_studies_readable(data: Path) -> None:
    with opened(data) as archive:
        store(archive, 1)
        expected = filled.contents(archive)
    encryption.open_keys(data).rotate_master()
    with opened(data) as archive:
        assert filled.contents(archive) == expected


# copies --------------------------------------------------------------------------------------------


def test_a_backup_reads_back_and_loses_what_is_shredded_at_its_next_run(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    with opened(data) as archive:
        store(archive, 1)
        store(archive, 2)
        everything = filled.contents(archive)
    assert back_up(layouts.existing(data), folder).findings == []
    assert verify_backup(folder).findings == []
    shutil.copytree(folder, tmp_path / "older")
    with opened(data) as archive:
        delete(archive, 1)
        rest = filled.contents(archive)
    KEYRING.clear()
    assert back_up(layouts.existing(data), folder).findings == []
    KEYRING.clear()
    assert verify_backup(folder).findings == []
    first = BackupFolder(folder, Files()).names()[0]
    moment = BackupFolder(folder, Files()).read(first).created
    # The first state of the folder, before the deletion: its records are there, and nobody can read them.
    for source, options, expected in (
        (folder, {"at": moment}, rest),
        (folder, {}, rest),
        (tmp_path / "older", {}, everything),
        (tmp_path / "older", {"destroyed_keys": data}, rest),
    ):
        target = tmp_path / "restored"
        KEYRING.clear()
        report = restore(source, target, **options)  # type: ignore[arg-type]
        assert report.findings == []
        assert report.destroyed_keys == (1 if "destroyed_keys" in options else 0)
        with opened(target, study_keys=None) as archive:
            assert filled.contents(archive) == expected
            assert filled.findings(archive) == []
        shutil.rmtree(target)
    (folder / "study.keys").unlink()
    assert any("study.keys is missing" in finding for finding in verify_backup(folder).findings)


def test_a_replica_reads_back_and_loses_what_is_shredded(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with opened(data) as archive:
        store(archive, 1)
        store(archive, 2)
        position = archive.instances(filled.study_query(1))[0].position
        layout = layouts.existing(data)
        replication = Replication(layout, lambda: Replica(copy, layout.archive_id, layout.lineage), Status("copy"))
        assert replication.run_once()
        KEYRING.clear()
        with Archive.open(copy, role="keeper") as replica:
            assert filled.contents(replica) == filled.contents(archive)
    with opened(data) as archive:
        delete(archive, 1)
        store(archive, 3)
        rest = filled.contents(archive)
    KEYRING.clear()
    assert replication.run_once()
    replication.close()
    assert "study_keys" not in (copy / "replica.json").read_text()
    with Archive.open(copy, role="keeper") as replica:
        assert filled.contents(replica) == rest
        with pytest.raises(KeyDestroyed):
            replica.parts.reader.read_record(position)
        assert filled.findings(replica) == []
    KEYRING.clear()
    promote(copy)
    with opened(copy) as archive:
        assert filled.contents(archive) == rest


def test_what_an_interrupted_deletion_left_is_shredded_by_the_caretaker(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(data) as archive:
        store(archive, 1)
        store(archive, 2)
        store(archive, 3)
        with monkeypatch.context() as context:
            context.setattr(shredding, "after_deletion", lambda *args, **options: [])
            delete(archive, 1)
            delete(archive, 2, into_trash=True)
        assert states(archive, 1) == [State.RETIRED]
        expected = filled.contents(archive)
        done = archive.shred_left(actor=actor(), everything=False)
        assert done.studies == [filled.uid(1)]
        assert states(archive, 2) == [State.RETIRED]  # it can be taken back
        assert states(archive, 3) == [State.ASSIGNED]
        assert archive.shred_left(actor=actor(), everything=True).studies == []
        assert filled.contents(archive) == expected


def test_a_scrub_finds_no_damage_in_what_is_shredded(data: Path) -> None:
    with opened(data) as archive:
        store(archive, 1)
        store(archive, 2)
        delete(archive, 1)
    with opened(data) as archive:
        assert run_pass(archive, Scrub(), 0) == []
        assert not archive.damage()


def test_a_kill_after_a_deletion_leaves_an_archive_that_opens(data: Path) -> None:
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from tests.archive import test_study_keys as tests\n"
        "archive = tests.opened(Path(sys.argv[1]))\n"
        "tests.store(archive, 1)\n"
        "tests.store(archive, 2)\n"
        "tests.delete(archive, 1)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(data)], check=False, capture_output=True)
    assert done.returncode == -9, done.stderr
    with opened(data) as archive:  # unsealed segments with records that nobody can read
        assert len(filled.contents(archive)) == 2
        assert filled.findings(archive) == []
        assert not archive.damage()
        compact(archive)
        assert filled.findings(archive) == []


MARK = b"Shreddmann"


def marked_kinds(data: Path) -> set[Kind]:
    """The kinds of records that name MARK, read with all keys that the archive has."""
    found = set()
    with opened(data, study_keys=None) as archive:
        segments = archive.parts.segments
        for segment_id in list_segments(archive.parts.layout.segments, Files()):
            source = segments.open(segment_id)
            for record in Walk(source, read_segment_header(source, segment_id)):
                assert not isinstance(record, Damage)
                if record.kind == SHREDDED:
                    continue
                payload = archive.parts.reader.read(record.position) if record.position.payload_length else b""
                if MARK in record.meta or MARK in bytes(payload):
                    found.add(Kind(record.kind))
    return found


def test_whoever_has_all_keys_reads_of_a_shredded_study_what_was_corrected_and_said_of_it_and_no_more(
    data: Path, tmp_path: Path
) -> None:
    """Instances and kept versions are gone, here and in a backup; the reasons and values of the ledger are not."""
    name = MARK.decode()
    with opened(data) as archive:
        stored = filled.payload_of(1, 1, 1, PatientName=name)
        filled.store(archive, stored, filled.payload_of(1, 1, 1, PatientName=f"{name}^Other"))
        correct_study(archive, filled.uid(1), {tags.StudyDescription: f"of {name}"}, actor=actor(), reason="a test")
    assert marked_kinds(data) == {Kind.INSTANCE, Kind.CORRECTION}
    folder = tmp_path / "backup"
    KEYRING.clear()
    back_up(layouts.existing(data), folder)
    with opened(data) as archive:
        deleted = archive.delete(filled.study_query(1), actor=actor(), reason=f"{name} asked for it")
        assert deleted.shredded == [filled.uid(1)]
    assert marked_kinds(data) == {Kind.CORRECTION, Kind.TOMBSTONE}
    KEYRING.clear()
    back_up(layouts.existing(data), folder)
    KEYRING.clear()
    restore(folder, tmp_path / "restored")
    assert marked_kinds(tmp_path / "restored") == {Kind.CORRECTION, Kind.TOMBSTONE}
