"""engine.archive.commitment: what is said of an instance, and that a request that was taken is never forgotten."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from engine.access import FULL
from engine.archive.archive import Archive, StorageOptions
from engine.archive.commitment.judge import Judge, Place, Verdict
from engine.archive.commitment.transactions import ABANDONED_NS, Attempts, Transaction, Transactions
from engine.archive.ingest.entry import make_entry, scan
from engine.archive.lifecycle.compaction import Compactor
from engine.config import Compaction
from engine.dicom import tags
from engine.dicom.schema import STANDARD
from engine.errors import CommitmentError, StorageError, StorageFailed, StorageFull
from engine.index.format.types import Level, Query
from engine.storage.record import crc32c
from tests import samples
from tests.actors import actor
from tests.archive import kept
from tests.faulty_files import FaultyFiles, SimulatedDisk

CT = samples.CT


def judge(archive: Archive) -> Judge:
    return Judge(archive, lambda uid: uid.startswith("1.2.840.10008.5.1.4.1.1"), threading.Event())


def verdicts(archive: Archive, *uids: str, verify: str = "read", whole: set[Place] | None = None) -> list[Verdict]:
    wanted = [(CT, uid) for uid in uids]
    return judge(archive).verdicts(
        wanted, scope=FULL, verify=verify, bytes_per_s=0, whole=set() if whole is None else whole
    )


# Judging -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("verify", ["index", "read", "disk"])
def test_what_is_stored_is_committed_and_what_is_not_has_a_reason(tmp_path: Path, verify: str) -> None:
    payloads = kept.filled(tmp_path / "data", 3)
    with kept.opened(tmp_path / "data") as archive:
        first, second, third = payloads
        archive.delete(
            Query(Level.IMAGE, {tags.SOPInstanceUID: third.encode()}, relational=True), actor=actor("t"), reason="t"
        )
        wanted = [(CT, first), (samples.MR, second), (CT, third), (CT, "1.2.3"), ("1.2.840.10008.1.1", "1.2.3")]
        assert judge(archive).verdicts(wanted, scope=FULL, verify=verify, bytes_per_s=0, whole=set()) == [
            Verdict.COMMITTED,
            Verdict.OTHER_CLASS,
            Verdict.ABSENT,
            Verdict.ABSENT,
            Verdict.NOT_SUPPORTED,
        ]


@pytest.mark.parametrize("verify", ["read", "disk"])
@pytest.mark.parametrize("part", ["payload", "meta", "header"])
def test_what_is_damaged_is_found_by_reading_and_named(tmp_path: Path, part: str, verify: str) -> None:
    data = tmp_path / "data"
    whole, damaged = kept.filled(data, 2)
    with kept.opened(data) as archive:
        place = kept.current(archive, damaged).position
        offsets = {"payload": place.payload_offset + 9, "meta": place.payload_offset - 3, "header": place.offset + 5}
        kept.turn_byte(data, place.segment_id, offsets[part])
        assert verdicts(archive, whole, damaged, verify="index") == [Verdict.COMMITTED] * 2, "nothing is known yet"
        assert verdicts(archive, whole, damaged, verify=verify) == [Verdict.COMMITTED, Verdict.DAMAGED]
        assert [row.sop_instance_uid.decode() for row in archive.parts.index.damage()] == [damaged]
        assert verdicts(archive, whole, damaged, verify="index") == [Verdict.COMMITTED, Verdict.DAMAGED]


def test_a_re_send_heals_the_verdict_too(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (uid,) = kept.filled(data, 1)
    with kept.opened(data) as archive:
        place = kept.current(archive, uid).position
        kept.turn_byte(data, place.segment_id, place.payload_offset + 9)
        assert verdicts(archive, uid) == [Verdict.DAMAGED]
        kept.store(archive, [kept.data_set(0)])
        assert verdicts(archive, uid) == [Verdict.COMMITTED]


def test_a_version_kept_aside_leaves_the_current_one_committed(tmp_path: Path) -> None:
    with kept.opened(tmp_path / "data") as archive:
        kept.store(archive, [kept.data_set(0), kept.data_set(0, patient_name="Roe^Richard")])
        assert archive.parts.index.version_count() == 1
        assert verdicts(archive, kept.uid_of(0)) == [Verdict.COMMITTED]


def test_what_was_found_whole_is_read_once(tmp_path: Path) -> None:
    data = tmp_path / "data"
    first, second = kept.filled(data, 2)
    files = FaultyFiles()
    with kept.opened(data, files=files) as archive:
        whole: set[Place] = set()
        assert verdicts(archive, first, whole=whole) == [Verdict.COMMITTED]
        before = files.calls["preadv"]
        assert verdicts(archive, first, whole=whole) == [Verdict.COMMITTED]
        assert files.calls["preadv"] == before
        assert verdicts(archive, first, second, whole=whole) == [Verdict.COMMITTED] * 2
        assert files.calls["preadv"] > before


def test_what_a_compaction_has_moved_is_committed_where_it_lies_now(tmp_path: Path) -> None:
    data = tmp_path / "data"
    uids = list(kept.filled(data, 4))
    with kept.opened(data) as archive:
        kept.store(archive, [kept.data_set(60)])  # the newest sealed segment is never compacted
    with kept.opened(data) as archive:
        archive.delete(
            Query(Level.IMAGE, {tags.SOPInstanceUID: uids[0].encode()}, relational=True), actor=actor("t"), reason="t"
        )
        before = kept.positions(archive)
        found = [archive.parts.index.locate(uid.encode()) for uid in uids[1:]]
        Compactor(archive, Compaction(dead_share_min=0.01), segment_bytes=1 << 20, everything=True).run(lambda *_: None)
        assert kept.positions(archive) != before, "nothing was moved"
        assert verdicts(archive, *uids) == [Verdict.ABSENT] + [Verdict.COMMITTED] * 3
        # As if the move had come between the look into the index and the reading.
        judging = judge(archive)
        judging._durable = lambda references, view: found  # type: ignore[method-assign]
        wanted = [(CT, uid) for uid in uids[1:]]
        assert (
            judging.verdicts(wanted, scope=FULL, verify="read", bytes_per_s=0, whole=set()) == [Verdict.COMMITTED] * 3
        )


# Durability --------------------------------------------------------------------------------------


class Synced(FaultyFiles):
    """Notes which files were synced, by name."""

    __slots__ = ("synced",)

    def __init__(self) -> None:
        super().__init__()
        self.synced: list[str] = []

    def fdatasync(self, fd: int) -> None:
        super().fdatasync(fd)
        self.synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))


def write_behind(archive: Archive, number: int) -> str:
    """Stores an instance as a write-behind worker does: written and visible, not synced. Its segment's file."""
    store = archive.writer("test", StorageOptions(segment_bytes=1 << 20))
    payload = kept.data_set(number)
    entry = make_entry(
        scan([payload], "1.2.840.10008.1.2.1", STANDARD),
        STANDARD,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        calling_ae_title="MODALITY",
        sop_class_uid=None,
        sop_instance_uid=None,
    )
    store.append(entry, [payload], len(payload), crc32c(payload), 0, sync_soon=False)
    store.apply([entry])
    assert entry.position is not None
    return f"{entry.position.segment_id:016x}.seg"


@pytest.mark.parametrize("verify", ["index", "read", "disk"])
def test_what_was_written_behind_is_synced_before_it_is_committed(tmp_path: Path, verify: str) -> None:
    files = Synced()
    with Archive.open(tmp_path / "data", role="keeper", create=True, files=files, sync_interval_s=3600) as archive:
        segment = write_behind(archive, 0)
        assert segment not in files.synced, "the test means nothing: it was synced already"
        assert verdicts(archive, kept.uid_of(0), verify=verify) == [Verdict.COMMITTED]
        assert segment in files.synced


def test_a_sync_that_fails_commits_nothing(tmp_path: Path) -> None:
    files = Synced()
    archive = Archive.open(tmp_path / "data", role="keeper", create=True, files=files, sync_interval_s=3600)
    write_behind(archive, 0)
    files.fail("fdatasync", errno.EIO, repeat=True)
    with pytest.raises(StorageFailed):
        verdicts(archive, kept.uid_of(0))
    files.heal()
    archive.close()


def test_a_record_that_changes_between_sync_and_look_is_synced_too(tmp_path: Path) -> None:
    files = Synced()
    with Archive.open(tmp_path / "data", role="keeper", create=True, files=files, sync_interval_s=3600) as archive:
        uid = kept.uid_of(0)
        synced_after: list[int] = []

        def stored_meanwhile(method: str) -> None:
            # The first sync of the judge finds nothing of it; the record appears while that sync is under way.
            if method == "fdatasync" and not synced_after:
                synced_after.append(len(files.synced))
                write_behind(archive, 0)

        write_behind(archive, 1)
        files.before = stored_meanwhile
        assert verdicts(archive, uid) == [Verdict.COMMITTED]
        files.before = None
        assert len(files.synced) - synced_after[0] > 1


def test_a_server_that_stops_says_nothing(tmp_path: Path) -> None:
    (uid,) = kept.filled(tmp_path / "data", 1)
    with kept.opened(tmp_path / "data") as archive:
        stopping = threading.Event()
        stopping.set()
        with pytest.raises(StorageError, match="stopping"):
            Judge(archive, bool, stopping).verdicts([(CT, uid)], scope=FULL, verify="read", bytes_per_s=0, whole=set())


# Transactions ------------------------------------------------------------------------------------

ASKED = Transaction.of("1.2.3", "MODALITY", 7, [(CT, "1.1"), (samples.MR, "1.2"), (CT, "1.3")])
DATA = Path("/D")


def add(transactions: Transactions, transaction: Transaction = ASKED, **options: int) -> str:
    """Keeps a request and lets it go; its identifier."""
    with transactions.add(transaction, **{"count_max": 10, "reserve_bytes": 0, **options}) as claim:
        return claim.identifier


def test_a_transaction_is_what_was_asked() -> None:
    assert ASKED.references == [(CT, "1.1"), (samples.MR, "1.2"), (CT, "1.3")]
    assert ASKED.sop_class_uids == (CT, samples.MR)
    other = Transaction.of("9", "OTHER", 9, ASKED.references)
    assert other.digest == ASKED.digest
    assert Transaction.of("1.2.3", "MODALITY", 7, ASKED.references[::-1]).digest != ASKED.digest


def test_a_request_that_was_taken_survives_a_power_cut_and_is_nobodys_then() -> None:
    disk = SimulatedDisk()
    identifier = Transactions(DATA, disk).add(ASKED, count_max=10, reserve_bytes=0).identifier
    for seed in range(50):
        found = Transactions(DATA, disk.after_power_cut(seed))
        assert list(found.headings()) == [identifier], f"seed {seed}"
        claim = found.claim(identifier)
        assert claim is not None, f"seed {seed}"
        assert claim.read() == ASKED


@pytest.mark.parametrize(("kind", "calls"), [("ENOSPC", 2), ("EIO", 8)])
def test_a_request_that_cannot_be_kept_is_not_taken(kind: str, calls: int) -> None:
    """A fault at every call in turn; what is left behind is no damaged transaction."""
    refused = 0
    disk = SimulatedDisk()
    for at in range(1, 16):
        disk = SimulatedDisk()
        disk.fail_at(disk.calls + at, kind)
        try:
            add(Transactions(DATA, disk))
        except StorageError:
            refused += 1
        left = Transactions(DATA, disk.after_kill()).headings().values()
        assert not [heading for heading in left if heading.is_damaged]
    assert refused >= calls
    assert len(Transactions(DATA, disk.after_kill()).headings()) == 1, "the last fault came after the end"


def test_one_process_at_a_time_works_on_a_transaction(tmp_path: Path) -> None:
    mine, yours = Transactions(tmp_path, FaultyFiles()), Transactions(tmp_path, FaultyFiles())
    claim = mine.add(ASKED, count_max=10, reserve_bytes=0)
    assert yours.claim(claim.identifier) is None
    with pytest.raises(CommitmentError, match="is being reported"):
        yours.drop(claim.identifier)
    claim.close()
    again = yours.claim(claim.identifier)
    assert again is not None
    assert again.read() == ASKED
    again.remove()
    again.close()
    assert mine.claim(claim.identifier) is None
    assert mine.headings() == {}
    with pytest.raises(CommitmentError, match="is not there"):
        mine.drop(claim.identifier)


def test_there_is_a_bound_on_what_waits_and_on_the_disk(tmp_path: Path) -> None:
    transactions = Transactions(tmp_path, FaultyFiles())
    add(transactions)
    with pytest.raises(StorageFull, match="1 storage commitment"):
        add(transactions, count_max=1)
    with pytest.raises(StorageFull, match="reserve"):
        add(transactions, reserve_bytes=1 << 62)


@pytest.mark.parametrize("damage", ["cut", "turned", "empty", "other format"])
def test_a_damaged_file_is_named_and_can_only_be_dropped(tmp_path: Path, damage: str) -> None:
    identifier = add(Transactions(tmp_path, FaultyFiles()))
    path = tmp_path / "commitments" / f"{identifier}.json"
    content = path.read_bytes()
    broken = {
        "cut": content[:-5],
        "turned": content.replace(b"MODALITY", b"MODALITI"),
        "empty": b"",
        "other format": content.replace(b"{", b"[", 1),
    }
    path.write_bytes(broken[damage])
    transactions = Transactions(tmp_path, FaultyFiles())
    (heading,) = transactions.headings().values()
    assert heading.is_damaged
    with transactions.claim(identifier) as claim, pytest.raises(CommitmentError, match="damaged"):  # type: ignore[union-attr]
        claim.read()
    transactions.drop(identifier)
    assert transactions.headings() == {}


def test_a_retry_is_asked_for_once_and_only_of_what_is_there(tmp_path: Path) -> None:
    transactions = Transactions(tmp_path, FaultyFiles())
    identifier = add(transactions)
    for _ in range(2):
        transactions.ask_retry(identifier)
    assert transactions.take_retries() == [identifier]
    assert transactions.take_retries() == []
    with pytest.raises(CommitmentError):
        transactions.ask_retry("../../etc/passwd")


def test_attempts_are_kept_and_are_disposable(tmp_path: Path) -> None:
    transactions = Transactions(tmp_path, FaultyFiles())
    assert transactions.load_attempts() == {}
    identifier = add(transactions)
    transactions.save_attempts({identifier: Attempts(3, 99, "nobody is there", True)})
    assert transactions.load_attempts() == {identifier: Attempts(3, 99, "nobody is there", True)}
    (tmp_path / "commitments" / "state.json").write_bytes(b"{")
    assert transactions.load_attempts() == {}
    assert list(transactions.headings()) == [identifier], "state.json is no transaction"


def test_what_a_dead_process_was_writing_is_swept_when_it_is_old(tmp_path: Path) -> None:
    transactions = Transactions(tmp_path, FaultyFiles())
    add(transactions)
    left = tmp_path / "commitments" / f"{'0' * 32}.tmp"
    left.write_bytes(b"half")
    written_ns = left.stat().st_mtime_ns
    transactions.sweep(written_ns + ABANDONED_NS // 2)
    assert left.exists()
    transactions.sweep(written_ns + ABANDONED_NS * 2)
    assert not left.exists()
    assert len(transactions.headings()) == 1


def test_the_folder_is_made_durable_though_who_made_it_may_have_died_before_that(tmp_path: Path) -> None:
    kept.filled(tmp_path / "data", 1)
    (tmp_path / "data" / "commitments").mkdir()
    files = FaultyFiles()
    transactions = Transactions(tmp_path / "data", files)
    add(transactions)
    assert files.calls["sync_directory"] == 2, "the archive's folder, and its own"
    add(transactions)
    assert files.calls["sync_directory"] == 3


def test_a_full_disk_is_not_filled_with_what_could_not_be_written(tmp_path: Path) -> None:
    kept.filled(tmp_path / "data", 1)
    files = FaultyFiles()
    transactions = Transactions(tmp_path / "data", files)
    files.fail("pwritev", errno.ENOSPC)
    with pytest.raises(StorageFull):
        add(transactions)
    assert list((tmp_path / "data" / "commitments").iterdir()) == []
