"""Merge and undo on a running server, by the command line: every worker sees it at once, and what it stores then."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from pynetdicom.association import Association

from tests import samples
from tests.system import foreign
from tests.system.server import filmroom, running

KIND = (samples.CT, foreign.EXPLICIT)
WORKERS = 2
FIND = foreign.model("patient", "find")


def made(study: int, number: int, patient_id: str, name: str) -> foreign.Stored:
    return foreign.Stored.of(samples.instance(study, 1, number, patient_id=patient_id, patient_name=name))


def patients(assoc: Association) -> dict[str, tuple[str, int]]:
    """Patient ID → name, number of studies: as one worker finds it."""
    asked = {"level": "PATIENT", "PatientID": "", "PatientName": "", "NumberOfPatientRelatedStudies": ""}
    matches = [match for _, match in assoc.send_c_find(foreign.identifier(asked), FIND) if match is not None]
    return {match.PatientID: (str(match.PatientName), int(match.NumberOfPatientRelatedStudies)) for match in matches}


def test_every_worker_sees_a_merge_and_its_undo_at_once(tmp_path: Path) -> None:
    with running(tmp_path / "d", workers=WORKERS) as server, ExitStack() as stack:
        contexts = [(FIND, foreign.EXPLICIT), KIND]
        # One association a worker: the supervisor gives each to the one that has the fewest.
        open_ = [stack.enter_context(foreign.association(server.port, contexts)) for _ in range(WORKERS)]
        assert len(server.worker_pids()) == WORKERS
        for number, assoc in enumerate(open_, 1):
            assert foreign.send(assoc, made(number, 1, "A", "Old^Name")).Status == 0
        assert foreign.send(open_[0], made(9, 1, "B", "New^Name")).Status == 0
        before = {"A": ("Old^Name", 2), "B": ("New^Name", 1)}
        assert [patients(assoc) for assoc in open_] == [before] * WORKERS
        merged = filmroom(server, "patient", "merge", "A", "B", "--reason", "test")
        assert [patients(assoc) for assoc in open_] == [{"B": ("New^Name", 3)}] * WORKERS
        # What each worker remembers of its study's series is used again, and is still right.
        for number, assoc in enumerate(open_, 1):
            assert foreign.send(assoc, made(number, 2, "A", "Old^Name")).Status == 0
            assert foreign.send(assoc, made(10 + number, 1, "A", "Older^Name")).Status == 0
        assert [patients(assoc) for assoc in open_] == [{"B": ("New^Name", 5)}] * WORKERS
        asked = {"level": "PATIENT", "PatientID": "B"}
        assert len(foreign.get(server.port, asked, [KIND], root="patient").data_sets) == 7
        gone = foreign.get(server.port, {"level": "PATIENT", "PatientID": "A"}, [KIND], root="patient")
        assert (gone.statuses, gone.data_sets) == ([0], {})
        filmroom(server, "undo", str(merged["number"]), "--reason", "test")
        after = {"A": ("Old^Name", 4), "B": ("New^Name", 1)}
        assert [patients(assoc) for assoc in open_] == [after] * WORKERS
        assert filmroom(server, "check")["findings"] == []
