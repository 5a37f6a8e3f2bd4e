"""archive.lifecycle.correction: merge, move, split, correct, undo; refusals in words; through crashes and copies."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.archive.archive import Archive
from engine.archive.copies.backup import back_up
from engine.archive.copies.replica import Replica
from engine.archive.copies.replication import Replication
from engine.archive.copies.replication_status import Status
from engine.archive.copies.restore import restore
from engine.archive.lifecycle import correction, reserve_file, scrub
from engine.archive.lifecycle.compaction import Compactor
from engine.archive.lifecycle.correction import Corrected
from engine.archive.lifecycle.patients import Patient, patient_of
from engine.config import Compaction, Scrub
from engine.dicom import tags
from engine.errors import ArchiveReadOnly, CorrectionRefused, EngineError, StorageFull
from engine.index.format.types import Level, Query, Root
from tests.actors import actor
from tests.archive import kept
from tests.archive.filled import contents, findings, opened, payload_of, store, uid
from tests.faulty_files import FaultyFiles

NAME, SEX, BIRTH = tags.PatientName, tags.PatientSex, tags.PatientBirthDate
WHO = {"actor": actor(), "reason": "a reason"}


def fill(archive: Archive) -> None:
    """Doe (P1) with studies 1 and 2, Roe (P2) with 3; P1 of another issuer with 4; nobody's 5."""
    store(
        archive,
        payload_of(1, 1, 1),
        payload_of(1, 2, 1, modality="MR"),
        payload_of(2, 1, 1),
        payload_of(3, 1, 1, patient_name="Roe^Jane", patient_id="P2", PatientSex="O", EthnicGroup="x"),
        payload_of(4, 1, 1, patient_name="Else^Someone", IssuerOfPatientID="WEST"),
        payload_of(5, 1, 1, patient_id=""),
    )


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with opened(tmp_path / "data") as found:
        fill(found)
        yield found


def patients(archive: Archive) -> dict[str, tuple[str, set[int]]]:
    """ID^^^ISSUER → name, studies."""
    asked = (tags.PatientID, tags.IssuerOfPatientID, NAME, tags.StudyInstanceUID)
    query = Query(Level.STUDY, dict.fromkeys(asked, b""), Root.PATIENT, relational=True)
    found: dict[str, tuple[str, set[int]]] = {}
    for match in archive.find(query):
        patient_id, issuer, name, study = (match.attributes[tag].decode() for tag in asked)
        who = f"{patient_id}^^^{issuer}" if issuer else patient_id
        found.setdefault(who, (name, set()))[1].add(int(study.rpartition(".")[2]))
    return found


BEFORE = {
    "P1": ("Doe^Jane", {1, 2}),
    "P2": ("Roe^Jane", {3}),
    "P1^^^WEST": ("Else^Someone", {4}),
    "": ("Doe^Jane", {5}),
}
P1, P2, WEST = Patient("P1", ""), Patient("P2"), Patient("P1", "WEST")


def seen(archive: Archive, study: int, *asked: int) -> list[str]:
    keys = {tags.StudyInstanceUID: uid(study).encode(), **dict.fromkeys(asked, b"")}
    (match,) = archive.find(Query(Level.STUDY, keys))
    return [match.attributes[tag].decode() for tag in asked]


def retrieved(archive: Archive, patient_id: str, issuer: str = "") -> set[str]:
    keys = {tags.PatientID: patient_id.encode(), tags.IssuerOfPatientID: issuer.encode()}
    return {one.sop_instance_uid for one in archive.instances(Query(Level.PATIENT, keys, Root.PATIENT))}


# what each does --------------------------------------------------------------------------------------


def test_merged_studies_are_found_and_retrieved_under_the_other_patient_and_their_bytes_stay(archive: Archive) -> None:
    before = contents(archive)
    assert patients(archive) == BEFORE
    done = correction.merge(archive, P1, P2, **WHO)
    assert done.studies == 2
    store(archive, payload_of(6, 1, 1))
    assert patients(archive)["P2"] == ("Roe^Jane", {1, 2, 3, 6})
    assert "P1" not in patients(archive)
    assert seen(archive, 1, SEX, BIRTH, tags.EthnicGroup) == ["O", "19700203", "x"]
    assert retrieved(archive, "P2") == {uid(1, 1, 1), uid(1, 2, 1), uid(2, 1, 1), uid(3, 1, 1), uid(6, 1, 1)}
    assert retrieved(archive, "P1") == retrieved(archive, "P1", "WEST") == {uid(4, 1, 1)}
    after = contents(archive)
    assert {one: after[one] for one in before} == before
    correction.undo(archive, done.number, **WHO)
    assert patients(archive) == {**BEFORE, "P1": ("Doe^Jane", {1, 2, 6})}
    assert findings(archive) == []


def test_two_patients_of_one_id_are_retrieved_together_or_by_their_issuer(archive: Archive) -> None:
    assert len(retrieved(archive, "P1")) == 4
    assert retrieved(archive, "P1", "WEST") == {uid(4, 1, 1)}


def test_deleting_a_patient_deletes_what_was_merged_into_it(archive: Archive) -> None:
    correction.merge(archive, P1, P2, **WHO)
    deleted = archive.delete(Query(Level.PATIENT, {tags.PatientID: b"P2"}, Root.PATIENT), actor=actor(""), reason="")
    assert deleted.studies == 3
    assert {**patients(archive), "P1": None, "P2": None} == {**BEFORE, "P1": None, "P2": None}


def test_a_moved_study_takes_the_other_patients_data_and_no_other_study_does(archive: Archive) -> None:
    done = correction.move(archive, [uid(1), uid(5)], P2, **WHO)
    assert done.studies == 2
    assert patients(archive)["P2"] == ("Roe^Jane", {1, 3, 5})
    assert patients(archive)["P1"] == ("Doe^Jane", {2})
    correction.move(archive, [uid(1)], WEST, **WHO)
    assert patients(archive)["P1^^^WEST"] == ("Else^Someone", {1, 4})
    correction.undo(archive, done.number, **WHO)
    assert patients(archive) == {**BEFORE, "P1": ("Doe^Jane", {2}), "P1^^^WEST": ("Else^Someone", {1, 4})}


def test_a_split_makes_a_patient_that_says_what_its_studies_say(archive: Archive) -> None:
    correction.correct_patient(archive, P1, {NAME: "Wrong^For Both"}, **WHO)
    correction.split(archive, [uid(2)], Patient("P7", "EAST"), {SEX: "M"}, **WHO)
    assert patients(archive)["P7^^^EAST"] == ("Doe^Jane", {2})
    assert patients(archive)["P1"] == ("Wrong^For Both", {1})
    assert seen(archive, 2, SEX) == ["M"]
    correction.merge(archive, Patient("P7"), P2, **WHO)
    assert patients(archive)["P2"] == ("Roe^Jane", {2, 3})


def test_what_is_set_of_a_patient_holds_for_all_its_studies_and_is_found(archive: Archive) -> None:
    correction.merge(archive, WEST, P1, **WHO)
    first = correction.correct_patient(archive, Patient("P1"), {NAME: "Müller^Jörg", SEX: ""}, **WHO)
    correction.correct_patient(archive, Patient("P1"), {BIRTH: "19991231", SEX: "M"}, **WHO)
    store(archive, payload_of(6, 1, 1, patient_name="Later^One"))
    assert patients(archive)["P1"] == ("Müller^Jörg", {1, 2, 4, 6})
    assert seen(archive, 6, SEX, BIRTH) == ["M", "19991231"]
    found = archive.find(Query(Level.PATIENT, {NAME: b"mueller*"}, Root.PATIENT))
    assert [match.attributes[NAME] for match in found] == []
    found = archive.find(Query(Level.PATIENT, {NAME: b"muller*"}, Root.PATIENT))
    assert [match.attributes[NAME].decode() for match in found] == ["Müller^Jörg"]
    correction.undo(archive, first.number.upper(), **WHO)
    assert seen(archive, 6, NAME, SEX) == ["Later^One", "M"]


def test_studies_and_series_are_corrected_one_by_one(archive: Archive) -> None:
    correction.correct_study(archive, uid(1), {tags.AccessionNumber: "A77", tags.StudyDescription: ""}, **WHO)
    correction.correct_series(archive, uid(1, 2), {tags.Modality: "US", tags.SeriesDescription: "Neck"}, **WHO)
    assert seen(archive, 1, tags.AccessionNumber, tags.StudyDescription, tags.ModalitiesInStudy) == [
        "A77",
        "",
        "CT\\US",
    ]
    assert seen(archive, 2, tags.AccessionNumber) == ["A2"]
    assert [match.attributes for match in archive.find(Query(Level.STUDY, {tags.AccessionNumber: b"A1"}))] == []
    assert archive.corrected(uid(1), uid(1, 1)) == {tags.AccessionNumber: b"A77", tags.StudyDescription: b""}
    assert archive.corrected(uid(1), uid(1, 2))[tags.SeriesDescription] == b"Neck"
    assert archive.corrected(uid(2), uid(2, 1)) == {}


def test_a_study_on_hold_can_be_corrected(archive: Archive) -> None:
    archive.set_holds([uid(1)], actor=actor(""), reason="")
    correction.move(archive, [uid(1)], P2, **WHO)
    assert patients(archive)["P2"][1] == {1, 3}


def test_a_patient_that_is_not_there_yet_can_be_merged_in_advance(archive: Archive) -> None:
    correction.merge(archive, Patient("P8"), P2, in_advance=True, **WHO)
    correction.merge(archive, P1, Patient("P9"), in_advance=True, **WHO)
    store(archive, payload_of(6, 1, 1, patient_id="P8", patient_name="Old^Name"))
    assert patients(archive)["P2"] == ("Roe^Jane", {3, 6})
    assert patients(archive)["P9"] == ("Doe^Jane", {1, 2})


def test_everything_is_listed_with_who_when_and_why(archive: Archive) -> None:
    merged = correction.merge(archive, P1, P2, actor=actor("Ann"), reason="one person")
    corrected = correction.correct_study(archive, uid(3), {SEX: "F"}, actor=actor("Bob"), reason="typo")
    undo = correction.undo(archive, merged.number, actor=actor("Cem"), reason="two persons")
    first, second, third = correction.list_all(archive)
    assert (first["number"], first["operation"], first["names"], first["by"]) == (merged.number, "merge", ["P1"], "Ann")
    assert (first["undone_by"], first["reason"], first["sets"][NAME]) == (undo.number, "one person", "Roe^Jane")
    assert (second["number"], second["level"], second["names"]) == (corrected.number, "study", [uid(3)])
    assert second["undone_by"] == ""
    assert (third["operation"], third["undoes"], third["by"]) == ("undo", merged.number, "Cem")
    assert first["made_ns"] < second["made_ns"] < third["made_ns"]
    assert archive.stats()["corrections"] == 1


# what is refused -------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Callable[[Archive], Corrected], str]] = {
    "unknown source": (lambda a: correction.merge(a, Patient("P8"), P2, **WHO), "no study of this patient is stored"),
    "unknown target": (lambda a: correction.move(a, [uid(1)], Patient("P8"), **WHO), "no study of this patient"),
    "no id": (lambda a: correction.merge(a, Patient(" "), P2, **WHO), "name a patient by an ID"),
    "two issuers": (
        lambda a: correction.merge(a, Patient("P1"), P2, **WHO),
        "2 patients have this ID.*ID\\^\\^\\^ISSUER",
    ),
    "itself": (lambda a: correction.merge(a, P2, Patient("P2 ", " "), **WHO), "both names are of one patient"),
    "moved already": (lambda a: correction.move(a, [uid(3)], P2, **WHO), "are the patient.s already"),
    "no study": (lambda a: correction.move(a, [], P2, **WHO), "no study is named"),
    "unknown study": (lambda a: correction.move(a, ["1.2.3"], P2, **WHO), "no study 1.2.3 is stored"),
    "split into one": (lambda a: correction.split(a, [uid(1)], P2, **WHO), "there is a patient of this ID"),
    "split of two": (lambda a: correction.split(a, [uid(1), uid(3)], Patient("P8"), **WHO), "of several patients"),
    "odd id": (lambda a: correction.split(a, [uid(1)], Patient("a\\b"), **WHO), "cannot have two values"),
    "long id": (lambda a: correction.split(a, [uid(1)], Patient("x" * 65), **WHO), "has 65 characters"),
    "no series": (
        lambda a: correction.correct_series(a, "1.2", {tags.Modality: "CT"}, **WHO),
        "no series 1.2 is stored",
    ),
    "other study": (
        lambda a: correction.correct_series(a, uid(1, 1), {tags.Modality: "CT"}, study_instance_uid="1.2", **WHO),
        "no series .* in study 1.2",
    ),
    "nothing": (lambda a: correction.correct_study(a, uid(1), {}, **WHO), "no attribute is named"),
    "identity": (lambda a: correction.correct_patient(a, P2, {tags.PatientID: "P8"}, **WHO), "merge the patient"),
    "own uid": (lambda a: correction.correct_study(a, uid(1), {tags.StudyInstanceUID: "1"}, **WHO), "cannot be set"),
    "level": (lambda a: correction.correct_patient(a, P2, {tags.StudyDate: "20260101"}, **WHO), "of the patient level"),
    "not kept": (lambda a: correction.correct_study(a, uid(1), {tags.KVP: "1"}, **WHO), "KVP is not indexed"),
    "no date": (lambda a: correction.correct_patient(a, P2, {BIRTH: "1.1.1970"}, **WHO), "it is not a date"),
    "sequence": (
        lambda a: correction.correct_patient(a, P2, {tags.OtherPatientIDsSequence: "x"}, **WHO),
        "its VR is SQ",
    ),
    "no number": (lambda a: correction.undo(a, "7", **WHO), "there is no correction 7"),
    "wrong number": (lambda a: correction.undo(a, "g" * 16, **WHO), "there is no correction g"),
    "large": (lambda a: too_large(a), "name fewer studies"),
}


def too_large(archive: Archive) -> Corrected:
    studies = [payload_of(100 + number, 1, 1, patient_id="P8", pixels=bytes(2)) for number in range(20)]
    store(archive, *studies)
    return correction.move(archive, [uid(100 + number) for number in range(20)], P2, **WHO)


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_words_that_name_no_patient(
    archive: Archive, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.index.format.entry.META_BYTES_MAX", 600)
    what, why = REFUSED[case]
    with pytest.raises(CorrectionRefused, match=why) as refused:
        what(archive)
    assert not any(word in str(refused.value) for word in ("P1", "P2", "P8", "Doe", "Roe"))
    assert list(correction.list_all(archive)) == []


def test_what_is_merged_away_cannot_be_named_any_more_nor_merged_back(archive: Archive) -> None:
    done = correction.merge(archive, P1, P2, **WHO)
    for patient in (P1, Patient("P1", "")):
        with pytest.raises(CorrectionRefused, match=f"merged into another one, by correction {done.number}"):
            correction.merge(archive, patient, WEST, **WHO)
        with pytest.raises(CorrectionRefused, match="name that one"):
            correction.merge(archive, P2, patient, in_advance=True, **WHO)
        with pytest.raises(CorrectionRefused, match="name that one"):
            correction.split(archive, [uid(3)], patient, **WHO)
    correction.merge(archive, P2, WEST, **WHO)
    assert patients(archive)["P1^^^WEST"] == ("Else^Someone", {1, 2, 3, 4})


def test_what_is_undone_cannot_be_undone_again_nor_an_undo(archive: Archive) -> None:
    done = correction.merge(archive, P1, P2, **WHO)
    undo = correction.undo(archive, done.number, **WHO)
    with pytest.raises(CorrectionRefused, match=f"undone already, by {undo.number}"):
        correction.undo(archive, done.number, **WHO)
    with pytest.raises(CorrectionRefused, match="is an undo itself"):
        correction.undo(archive, undo.number, **WHO)
    correction.merge(archive, P2, P1, **WHO)
    assert patients(archive)["P1"] == ("Doe^Jane", {1, 2, 3})


@pytest.mark.parametrize(
    ("text", "patient"),
    [
        ("P1", Patient("P1", None)),
        ("P1^^^", Patient("P1", "")),
        ("P1^^^WEST", Patient("P1", "WEST")),
        ("a^b", Patient("a^b", None)),
    ],
)
def test_patients_are_written_as_hl7_writes_them(text: str, patient: Patient) -> None:
    assert patient_of(text) == patient


# through crashes and copies --------------------------------------------------------------------------


def correct_something(archive: Archive) -> dict[str, tuple[str, set[int]]]:
    """A bit of everything; what is seen of it."""
    gone = correction.merge(archive, P1, P2, **WHO)
    correction.correct_patient(archive, P2, {NAME: "Right^Name"}, **WHO)
    correction.move(archive, [uid(5)], WEST, **WHO)
    correction.correct_study(archive, uid(4), {NAME: "Own^Name"}, **WHO)
    correction.undo(archive, gone.number, **WHO)
    correction.merge(archive, WEST, P1, **WHO)
    return patients(archive)


def test_a_rebuild_sees_the_same(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        fill(archive)
        said = correct_something(archive)
        numbers = [row["number"] for row in correction.list_all(archive)]
    assert Archive.rebuild_index(tmp_path).findings == []
    with opened(tmp_path) as archive:
        assert patients(archive) == said
        assert [row["number"] for row in correction.list_all(archive)] == numbers
        assert findings(archive) == []


def test_a_correction_that_is_in_the_log_alone_holds_from_the_next_start_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as archive:
        fill(archive)
        with monkeypatch.context() as patched:

            def dies(*_: object, **__: object) -> None:
                raise EngineError("killed")

            patched.setattr(archive.parts.index, "apply", dies)
            with pytest.raises(EngineError, match="killed"):
                correction.merge(archive, P1, P2, **WHO)
        assert patients(archive) == BEFORE
    with opened(tmp_path) as archive:
        assert patients(archive)["P2"] == ("Roe^Jane", {1, 2, 3})
        assert findings(archive) == []


def test_without_room_nothing_changes(tmp_path: Path) -> None:
    files = FaultyFiles()
    with opened(tmp_path, files=files) as archive:
        fill(archive)
        files.fail_here("create", 28)
        with pytest.raises(StorageFull):
            correction.merge(archive, P1, P2, **WHO)
        assert patients(archive) == BEFORE
        correction.merge(archive, P1, P2, **WHO)
        assert patients(archive)["P2"] == ("Roe^Jane", {1, 2, 3})


def test_what_the_reserve_file_made_room_for_is_recorded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = FaultyFiles()
    with opened(tmp_path, files=files) as archive:
        fill(archive)
        assert reserve_file.make(archive.parts.layout, files)
        apply = archive.parts.index.apply
        full = iter([True])

        def full_once(*arguments: Any, **options: Any) -> Any:
            if next(full, False):
                raise StorageFull("no room")
            return apply(*arguments, **options)

        monkeypatch.setattr(archive.parts.index, "apply", full_once)
        correction.merge(archive, P1, P2, **WHO)
        assert len(list(correction.list_all(archive))) == 1
    with opened(tmp_path) as archive:
        (row,) = correction.list_all(archive)
        assert archive.stats()["corrections"] == 1
        correction.undo(archive, row["number"], **WHO)
        assert patients(archive) == BEFORE
        assert findings(archive) == []


def test_the_head_of_a_correction_that_turns_is_put_right_from_the_footer(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        fill(archive)
        said = correct_something(archive)
        (place, *_) = [one.correction.position for one in archive.parts.index.corrections()]
    with opened(tmp_path) as archive:
        kept.turn_byte(tmp_path, place.segment_id, place.offset + 70)
        assert findings(archive) == []  # it is sealed: what counts is in the footer as well
        assert scrub.run_pass(archive, Scrub(), 0, lambda *_: None) == []
    Archive.rebuild_index(tmp_path)
    with opened(tmp_path) as archive:
        assert patients(archive) == said


def test_compaction_keeps_corrections_and_what_undid_them(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        fill(archive)
        said = correct_something(archive)
        numbers = [row["number"] for row in correction.list_all(archive)]
    with opened(tmp_path) as archive:
        archive.delete(Query(Level.STUDY, {tags.StudyInstanceUID: uid(2).encode()}), actor=actor(""), reason="")
        said["P1"][1].discard(2)
    with opened(tmp_path) as archive:
        options = Compaction(dead_share_min=0.01, small_segments_min=2)
        summary = Compactor(archive, options, segment_bytes=1 << 20, everything=True).run().as_dict()
        assert summary["segments_removed"]
        assert patients(archive) == said
        assert findings(archive) == []
    Archive.rebuild_index(tmp_path)
    with opened(tmp_path) as archive:
        assert patients(archive) == said
        assert [row["number"] for row in correction.list_all(archive)] == numbers


def test_a_backup_brings_them_back_and_a_replica_has_them(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive:
        fill(archive)
        said = correct_something(archive)
        back_up(archive.parts.layout, tmp_path / "backup")
        folder = tmp_path / "replica"
        source = archive.parts.layout
        to_folder = functools.partial(Replica, folder, source.archive_id, source.lineage, None)
        replication = Replication(source, to_folder, Status(str(folder)), remove_after_s=0.0)
        assert replication.run_once()
        with opened(folder) as replica:
            assert patients(replica) == said
            with pytest.raises(ArchiveReadOnly):
                correction.merge(replica, P1, P2, **WHO)
            for row in list(correction.list_all(archive)):
                if row["operation"] != "undo" and not row["undone_by"]:
                    correction.undo(archive, row["number"], **WHO)
            replication.run_once()
            assert replica.parts.keeper is not None
            replica.parts.keeper.follow()
            assert patients(replica) == patients(archive) == BEFORE
        replication.close()
    restore(tmp_path / "backup", tmp_path / "again")
    with opened(tmp_path / "again") as archive:
        assert patients(archive) == said


def test_where_nothing_can_be_written_nothing_is_corrected(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        fill(archive)
    with Archive.open(tmp_path, role="reader") as archive, pytest.raises(ArchiveReadOnly):
        correction.merge(archive, P1, P2, **WHO)
