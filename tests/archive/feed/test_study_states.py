"""A study is arriving, quiet, complete or reopened, and each reader of the feed knows which and why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.archive.announced import AnnouncedInstances
from engine.archive.archive import Archive
from engine.archive.feed import quiet, study_states
from engine.archive.feed.quiet import QuietTimes, QuietTracker
from engine.archive.feed.state import State, read_state, write_state
from engine.archive.feed.study_states import StudyStates
from engine.archive.feed.study_watch import Announced
from engine.archive.feed.subscription import Feed
from engine.archive.feed.writer import FeedOptions, FeedWriter
from engine.archive.hospital import open_orders
from engine.dicom import tags
from engine.dicom.identifier import Identifier as DataSet
from engine.errors import OrdersError
from engine.orders.registry import NoRules
from engine.orders.values import (
    Identifier,
    OrderAction,
    OrderUpdate,
    PatientUpdate,
    ProcedureUpdate,
    Source,
    StepUpdate,
)
from tests.actors import actor
from tests.archive.feed.followed import told
from tests.archive.filled import opened, payload_of, store, study_query, uid
from tests.cli.commands import run

TIMES = QuietTimes(10.0, 60.0, 900.0)
MPPS = Source(name="CT1")


class Clock:
    """The time of a writer, which the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.offset_s = 0.0
        monkeypatch.setattr("engine.archive.feed.writer.time", self)

    def time(self) -> float:
        import time

        return time.time() + self.offset_s

    def monotonic(self) -> float:
        import time

        return time.monotonic()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with opened(tmp_path / "data") as found:
        yield found


def writer_of(archive: Archive, announced: Announced | None = None) -> FeedWriter:
    options = FeedOptions(30.0, TIMES, announced)
    return FeedWriter(archive.parts.layout, archive.parts.files, archive.parts.index, options)


def state(archive: Archive, study: int = 1) -> tuple[str, str]:
    """State and reason, as a reader that has followed and one that has just begun see them."""
    (followed,) = archive.study_states.of([uid(study)])
    (begun,) = StudyStates(archive.parts.layout, archive.parts.files).of([uid(study)])
    assert followed == begun and followed is not None
    return followed.state, followed.reason


def events(archive: Archive) -> list[str]:
    found = [each for each in told(Feed(archive.parts.layout)) if each.action != "series_quiet"]
    return [each.action.removeprefix("study_") + (f" {each.reason}" if each.reason else "") for each in found]


def test_a_study_arrives_becomes_quiet_and_complete_and_another_instance_reopens_it(
    archive: Archive, clock: Clock
) -> None:
    writer = writer_of(archive)

    def come(*payloads: bytes) -> tuple[str, str]:
        clock.offset_s = 0  # instances are received by the clock of the machine
        store(archive, *payloads)
        writer.follow()
        return state(archive)

    def wait(seconds: float) -> tuple[str, str]:
        clock.offset_s += seconds
        writer.follow()
        return state(archive)

    assert come(payload_of(1, 1, 1)) == ("arriving", "new")
    assert come(payload_of(1, 1, 2), payload_of(1, 2, 1)) == ("arriving", "new")
    assert wait(61) == ("quiet", "idle")
    assert come(payload_of(1, 1, 3)) == ("reopened", "after_quiet")
    assert come(payload_of(1, 1, 4)) == ("reopened", "after_quiet")
    assert wait(61) == ("quiet", "idle")
    writer.save()
    assert wait(900) == ("complete", "idle")
    assert come(payload_of(1, 1, 5)) == ("reopened", "after_complete")
    writer.close()
    assert events(archive) == [
        "stored", "stored", "stored", "quiet idle", "reopened after_quiet", "stored", "stored", "quiet idle",
        "complete idle", "reopened after_complete", "stored",
    ]  # fmt: skip


def test_a_writer_that_was_killed_goes_on_with_each_state(archive: Archive, clock: Clock) -> None:
    writer = writer_of(archive)
    for study in (1, 2):
        store(archive, payload_of(study, 1, 1))
    writer.follow()
    clock.offset_s = 61
    writer.follow()
    clock.offset_s = 0
    store(archive, payload_of(1, 1, 2))
    writer.follow()
    expected = [archive.study_states.of([uid(study)]) for study in (1, 2)]
    assert [state(archive, study)[0] for study in (1, 2)] == ["reopened", "quiet"]
    for is_clean in (False, True):
        if is_clean:
            writer.close()
        else:
            writer._journal.close()
            writer._files.close(writer._lock_fd)
        writer = writer_of(archive)
        assert [archive.study_states.of([uid(study)]) for study in (1, 2)] == expected
        assert [StudyStates(archive.parts.layout, archive.parts.files).of([uid(each)]) for each in (1, 2)] == expected
    writer.close()


def test_a_study_that_was_forgotten_is_reopened_since_it_has_an_earlier_instance(
    archive: Archive, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quiet, "COMPLETE_MAX", 0)
    writer = writer_of(archive)
    store(archive, payload_of(1, 1, 1))
    for seconds in (0, 61, 961):
        clock.offset_s = seconds
        writer.follow()
    assert state(archive) == ("complete", "idle")
    clock.offset_s = 0
    store(archive, payload_of(1, 1, 2), payload_of(1, 1, 3), payload_of(2, 1, 1), payload_of(2, 1, 2))
    writer.follow()
    assert (state(archive), state(archive, 2)) == (("reopened", "after_complete"), ("arriving", "new"))
    archive.delete(study_query(2), actor=actor(), reason="a test")
    clock.offset_s = 2000
    writer.follow()
    clock.offset_s = 0
    store(archive, payload_of(2, 1, 3))
    writer.follow()
    assert state(archive, 2) == ("arriving", "new"), "nothing was left of it"
    writer.close()


def test_a_quiet_study_is_complete_when_all_that_was_announced_is_here(archive: Archive, clock: Clock) -> None:
    asked: list[str] = []

    def announced(study: str) -> bool:
        asked.append(study)
        if len(asked) == 1:
            raise OrdersError("the orders cannot be read")
        return len(asked) == 3

    writer = writer_of(archive, announced)
    for number, expected in ((1, ("quiet", "idle")), (2, ("quiet", "idle")), (3, ("complete", "announced"))):
        store(archive, payload_of(1, 1, number))
        clock.offset_s = 0
        writer.follow()
        clock.offset_s = 61
        writer.follow()
        assert state(archive) == expected
    assert asked == [uid(1)] * 3
    assert events(archive)[-2:] == ["quiet idle", "complete announced"]
    writer.close()


def test_what_is_announced_are_the_instances_that_ended_steps_list(archive: Archive) -> None:
    announced = AnnouncedInstances(archive, NoRules())
    store(archive, payload_of(1, 1, 1))
    assert not announced.are_here(uid(1)), "without orders nothing is announced"
    with open_orders(archive, NoRules()) as orders:
        step = StepUpdate(scheduled_procedure_step_id="S1")
        procedure = ProcedureUpdate(requested_procedure_id="R1", study_instance_uid=uid(1), steps=(step,))
        patient = PatientUpdate(identifiers=(Identifier("P1"),), attributes={})
        orders.apply(
            OrderUpdate(action=OrderAction.NEW, patient=patient, accession=Identifier("A1"), procedures=(procedure,)),
            Source(name="RIS"),
        )
        assert not announced.are_here(uid(1)), "nobody has performed anything"
        for number, listed in (("1.2.9", [uid(1, 1, 1)]), ("1.2.10", [uid(1, 1, 2)])):
            orders.create_performed(number, performed(), MPPS)
            assert not announced.are_here(uid(1)), "a step goes on"
            orders.modify_performed(number, ended(listed), MPPS)
            assert announced.are_here(uid(1)) is (number == "1.2.9")
        store(archive, payload_of(1, 1, 2))
        assert announced.are_here(uid(1))
        assert not announced.are_here(uid(2))
    announced.close()


def performed() -> DataSet:
    step = DataSet({tags.StudyInstanceUID: uid(1).encode(), tags.AccessionNumber: b"A1",
                    tags.RequestedProcedureID: b"R1", tags.ScheduledProcedureStepID: b"S1"}, b"")  # fmt: skip
    values = {
        tags.PatientID: b"P1", tags.PerformedProcedureStepID: b"PPS", tags.PerformedStationAETitle: b"CT1",
        tags.PerformedProcedureStepStartDate: b"20261130", tags.PerformedProcedureStepStartTime: b"0900",
        tags.Modality: b"CT", tags.PerformedProcedureStepStatus: b"IN PROGRESS",
    }  # fmt: skip
    return DataSet({**values, tags.ScheduledStepAttributesSequence: [step]}, b"")


def ended(listed: list[str]) -> DataSet:
    items = [DataSet({tags.ReferencedSOPInstanceUID: each.encode()}, b"") for each in listed]
    series = DataSet({tags.SeriesInstanceUID: uid(1, 1).encode(), tags.ReferencedImageSequence: items}, b"")
    return DataSet({tags.PerformedProcedureStepStatus: b"COMPLETED", tags.PerformedSeriesSequence: [series]}, b"")


def test_a_state_of_an_earlier_version_is_read_and_an_earlier_version_reads_ours(archive: Archive) -> None:
    writer = writer_of(archive)
    store(archive, payload_of(1, 1, 1))
    writer.follow()
    writer.close()
    files, directory = archive.parts.files, f"{archive.parts.layout.data}/feed"
    saved = read_state(directory, files)
    assert saved is not None
    assert all(len(row) == 4 for row in saved.growths["rows"])  # type: ignore[attr-defined]
    write_state(directory, files, State(saved.sequence, saved.progress, {"rows": saved.growths["rows"]}))
    assert state(archive) == ("arriving", "new")


def test_the_latest_complete_studies_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet, "COMPLETE_MAX", 3)
    tracker = QuietTracker(TIMES)
    for number in range(5):
        tracker._note_complete(f"1.2.{number % 4}", "idle", float(number))
    assert [row[0] for row in tracker.describe()["complete"]] == ["1.2.2", "1.2.3", "1.2.0"]  # type: ignore[index,attr-defined]


def test_a_reader_that_is_far_behind_begins_with_the_saved_state(
    archive: Archive, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert archive.study_states.of([uid(1)]) == [None], "there is no feed"
    writer = writer_of(archive)
    store(archive, payload_of(1, 1, 1))
    writer.follow()
    assert state(archive) == ("arriving", "new")
    monkeypatch.setattr(study_states, "BEHIND_MAX", 2)
    store(archive, *(payload_of(2, 1, number) for number in range(1, 9)))
    clock.offset_s = 61
    writer.follow()
    writer.save()
    assert (state(archive), state(archive, 2)) == (("quiet", "idle"), ("quiet", "idle"))
    writer.close()


def test_the_command_says_the_state_of_studies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(tmp_path / "data")
    with opened(tmp_path / "data") as archive:
        writer = writer_of(archive)
        store(archive, payload_of(1, 1, 1))
        writer.follow()
        writer.close()
    code, out, _ = run(capsys, "study", "state", uid(1), uid(7), "--data", data, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [(row["state"], row.get("reason")) for row in rows] == [("arriving", "new"), ("not stored", None)]
