"""What changes or destroys studies is in the audit log, and nothing is destroyed that cannot be recorded."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.access import Kind, Principal
from engine.archive.archive import Archive
from engine.archive.lifecycle import correction, trash
from engine.archive.lifecycle.patients import Patient
from engine.archive.questions import Level, Query
from engine.audit import Outcome
from engine.dicom import tags
from engine.errors import AuditUnavailable, StorageFailed
from tests import samples
from tests.audit.recording import events, recording
from tests.faulty_files import FaultyFiles

BY = Principal(Kind.OPERATOR, "ann")
STUDY = f"{samples.ROOT}.1"


@pytest.fixture
def files() -> FaultyFiles:
    return FaultyFiles()


@pytest.fixture
def archive(tmp_path: Path, files: FaultyFiles) -> Iterator[Archive]:
    data = tmp_path / "data"
    with Archive.open(data, role="keeper", create=True) as opened:
        for study in (1, 2):
            for number in (1, 2):
                opened.store(samples.part10(samples.instance(study, 1, number)))
        with recording(data, files=files):
            yield opened


def one(uid: str) -> Query:
    return Query(Level.STUDY, {tags.StudyInstanceUID: uid.encode()})


def found(tmp_path: Path) -> list[tuple[str, str]]:
    return [(event["kind"], event.get("study", "")) for event in events(tmp_path / "data")]


def test_a_deletion_is_recorded_with_patient_and_reason_before_it_happens(archive: Archive, tmp_path: Path) -> None:
    archive.delete(one(STUDY), actor=BY, reason="by mistake")
    (event,) = events(tmp_path / "data")
    assert (event["kind"], event["study"], event["count"], event["reason"]) == ("deleted", STUDY, 2, "by mistake")
    assert event["patient"] == {"id": "P1", "name": "Doe^Jane"} and event["who"]["name"] == "ann"


def test_a_deletion_that_fails_is_followed_by_its_failure(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(records: object) -> None:
        raise StorageFailed("the disk is gone")

    monkeypatch.setattr(archive.parts.ledger, "write", broken)
    with pytest.raises(StorageFailed):
        archive.delete(one(STUDY), actor=BY, reason="")
    monkeypatch.undo()
    archive.set_holds([STUDY], actor=BY, reason="")
    archive.delete(one(f"{samples.ROOT}.2"), actor=BY, reason="")
    assert [event.get("outcome", 0) for event in events(tmp_path / "data")][:2] == [0, Outcome.SERIOUS]


def test_nothing_is_deleted_that_cannot_be_recorded(archive: Archive, files: FaultyFiles) -> None:
    files.fail("pwritev", errno.EIO, repeat=True)
    for into_trash in (False, True):
        with pytest.raises(AuditUnavailable):
            archive.delete(one(STUDY), actor=BY, reason="", into_trash=into_trash)
    files.heal()
    assert len(list(archive.find("study"))) == 2


def test_the_trash_holds_and_corrections_are_recorded(archive: Archive, tmp_path: Path) -> None:
    number = archive.delete(one(STUDY), actor=BY, reason="", into_trash=True).trash[0]
    trash.restore(archive.parts, number, actor=BY, reason="needed")
    archive.set_holds([STUDY], actor=BY, reason="trial")
    archive.release_holds([STUDY], actor=BY, reason="over")
    done = correction.correct_study(archive, STUDY, {tags.StudyDescription: "Head"}, actor=BY, reason="typo")
    correction.undo(archive, done.number, actor=BY, reason="no typo")
    correction.correct_patient(archive, Patient("P1"), {tags.PatientName: "Roe^Jane"}, actor=BY, reason="married")
    number = archive.delete(one(STUDY), actor=BY, reason="", into_trash=True).trash[0]
    trash.empty(archive.parts, [number], actor=BY, reason="privacy")
    archive.delete(one(f"{samples.ROOT}.2"), actor=BY, reason="")
    assert found(tmp_path) == [
        ("trashed", STUDY),
        ("restored", STUDY),
        ("held", STUDY),
        ("released", STUDY),
        ("corrected", STUDY),
        ("corrected", ""),
        ("corrected", ""),
        ("trashed", STUDY),
        ("deleted", STUDY),
        ("deleted", f"{samples.ROOT}.2"),
    ]
    by_kind = {event["kind"]: event for event in events(tmp_path / "data")}
    assert "PatientName=Roe^Jane" in by_kind["corrected"]["detail"]
