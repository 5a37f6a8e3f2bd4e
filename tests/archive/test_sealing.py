"""What lies beside the log of an encrypted archive: caches, the change feed, jobs and commitments name nobody."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.archive.archive import Archive
from engine.archive.commitment.transactions import Transaction, Transactions
from engine.archive.jobs.job import Job, Work
from engine.archive.jobs.job_files import new_id
from engine.archive.sealing import MORE_BYTES, PLAIN, Sealing, Unsealable, unseal
from engine.errors import CommitmentError, KeyMissing
from engine.storage.keyring import KEYRING, DataKey
from tests.actors import actor
from tests.archive import filled
from tests.archive.feed.followed import told, writer_of
from tests.archive.test_encryption import NAME, TEXT, begin, marked_files
from tests.locked import locked_before_and_after as locked_before_and_after

KEY = DataKey(b"sealing!", bytes(range(32)), b"archive-id-16-by")
SEALING = Sealing(lambda: KEY)
MARKED = "PLANTED"


def job(identifier: str) -> Job:
    work = Work(filters={"PatientName": NAME})
    return Job(id=identifier, kind="pull", peer=MARKED, work=work, by="test", reason=TEXT, created_ns=1)


def transaction() -> Transaction:
    return Transaction.of("1.2.3", MARKED, 1, [("1.2.840.10008.5.1.4.1.1.2", "1.2.3.4")])


def work(archive: Archive) -> str:
    """Leaves something in each place; returns the id of a job."""
    feed = writer_of(archive)
    filled.store(archive, filled.payload_of(1, 1, 1, PatientName=NAME), filled.payload_of(2, 1, 1, PatientName=NAME))
    archive.set_holds([filled.uid(1)], actor=actor(), reason=TEXT)
    archive.delete(filled.study_query(2), actor=actor(), reason=TEXT)
    feed.follow()
    feed.close()
    (revision,) = archive.metadata.revisions(filled.uid(1))
    archive.metadata.blob(revision, "http://here")
    archive.thumbnail_files.write(b"series", b"96", NAME.encode())
    archive.commitment_transactions().add(transaction(), count_max=9, reserve_bytes=0).close()
    archive.commitment_requests().add(transaction(), count_max=9, reserve_bytes=0, keep_days=1)
    identifier = new_id()
    archive.job_files().create(job(identifier))
    return identifier


def test_nothing_beside_the_index_names_anybody_and_all_of_it_reads_back(tmp_path: Path) -> None:
    with filled.opened(tmp_path / "plain") as archive:
        work(archive)
    places = {Path(name).parts[0] for name in marked_files(tmp_path / "plain")}
    assert {"cache", "feed", "jobs", "commitments", "segments"} <= places  # else this test proves nothing
    data = tmp_path / "data"
    begin(data)
    with filled.opened(data) as archive:
        identifier = work(archive)
        events = told(archive.feed())
    assert marked_files(data) == []
    KEYRING.clear()
    (heading,) = Transactions.existing(data).headings().values()
    assert (heading.calling_ae_title, heading.is_damaged) == (MARKED, False)
    KEYRING.clear()
    with filled.opened(data) as archive:
        assert told(archive.feed()) == events
        assert [event.reason for event in events if event.reason] == [TEXT, TEXT]
        assert archive.job_files().load(identifier) == job(identifier)
        assert archive.thumbnail_files.read(b"series", b"96") == NAME.encode()
        (revision,) = archive.metadata.revisions(filled.uid(1))
        assert archive.metadata.cached(revision, "http://here") is not None
        request = archive.commitment_requests().find("1.2.3")
        assert request is not None and request.transaction == transaction()
        feed = writer_of(archive)  # it goes on where it ended
        feed.follow()
        archive.set_holds([filled.uid(9)], actor=actor(), reason=TEXT)
        feed.follow()
        feed.close()
        assert len(told(archive.feed())) == len(events) + 1


def test_what_was_written_before_the_keys_is_read_but_not_kept_in_caches(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with filled.opened(data) as archive:
        identifier = work(archive)
        events = told(archive.feed())
    begin(data)
    assert not (data / "cache").exists() or not any(path.is_file() for path in (data / "cache").rglob("*"))
    with filled.opened(data) as archive:
        assert told(archive.feed()) == events
        assert archive.job_files().load(identifier) == job(identifier)
        path = (
            data
            / "cache"
            / "thumbnails"
            / archive.thumbnail_files._path(b"series", b"96").relative_to(data / "cache" / "thumbnails")
        )
        path.parent.mkdir(parents=True)
        path.write_bytes(NAME.encode())
        assert archive.thumbnail_files.read(b"series", b"96") is None
        assert not path.exists()


def test_a_file_that_was_changed_or_changed_places_is_damaged(tmp_path: Path) -> None:
    data = tmp_path / "data"
    begin(data)
    with filled.opened(data) as archive:
        work(archive)
    (path,) = (path for path in (data / "commitments").glob("*.json") if path.name != "state.json")
    content = path.read_bytes()
    other = path.with_name("0" * 32 + ".json")
    path.rename(other)
    transactions = Transactions.existing(data)
    with transactions.claim("0" * 32) as claim, pytest.raises(CommitmentError):  # type: ignore[union-attr]
        claim.read()
    other.rename(path)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with transactions.claim(path.stem) as claim, pytest.raises(CommitmentError):  # type: ignore[union-attr]
        claim.read()


def test_sealed_content() -> None:
    KEYRING.add([KEY])
    sealed = SEALING.seal(b"job", b"content", b"name")
    assert len(sealed) == len(b"content") + MORE_BYTES
    assert sealed != SEALING.seal(b"job", b"content", b"name")
    assert unseal(b"job", sealed, b"name") == b"content"
    assert unseal(b"job", b"plain", b"name") == b"plain" == PLAIN.seal(b"job", b"plain", b"name")
    for purpose, bound, content in (
        (b"feed", b"name", sealed),
        (b"job", b"other", sealed),
        (b"job", b"name", sealed[:-1]),
        (b"job", b"name", sealed[:20]),
        (b"job", b"name", sealed[:30] + bytes([sealed[30] ^ 1]) + sealed[31:]),
    ):
        with pytest.raises(Unsealable):
            unseal(purpose, content, bound)
    KEYRING.clear()
    with pytest.raises(KeyMissing):
        unseal(b"job", sealed, b"name")
