"""The parts of the simulated hospital: plans that repeat, names that say what they are, books that see mistakes."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Any

import pytest

from engine.cli import exit_codes
from engine.hl7 import FrameReader, framed, parse
from engine.hl7.message import Message
from perf.hospital import day, invented, network, pictures
from perf.hospital.books import Account, Books, Doers
from perf.hospital.day import Examination, Fate
from perf.hospital.notices import Notices
from tests.cli.commands import run
from tests.hl7.samples import lines
from tests.system.server import free_port

RUN = 28_800_000


def planned(count: int, seed: int = 1) -> list[Examination]:
    return list(islice(day.examinations(RUN, seed), count))


def test_the_same_seed_is_the_same_day_and_begins_with_each_fate() -> None:
    assert planned(50) == planned(50) != planned(50, seed=2)
    assert {one.fate for one in planned(len(Fate))} == set(Fate)


def test_everything_shows_that_it_is_invented_and_fits_its_attribute() -> None:
    for one in islice(day.examinations(999_999_999, 3), 99_990, 99_999):
        image = pictures.image(one, 1)
        assert image.IssuerOfPatientID == invented.AUTHORITY and str(image.PatientName).startswith("Invented^")
        assert image.PatientID.startswith(invented.PATIENT_ID_PREFIX) and invented.is_ours(image.StudyInstanceUID)
        assert len(one.accession) <= 16 and all(len(step) <= 16 for step in one.step_ids)
        assert max(len(uid) for uid in (image.SOPInstanceUID, f"{one.uid}.93.1000")) <= 64
    assert not invented.is_ours("1.2.826.0.1.3680043.10.1599.100.1")


def test_instances_can_be_read_with_their_pixels() -> None:
    one = planned(1)[0]
    for data_set in (pictures.image(one, 1), pictures.segmentation(one)):
        read = network.decoded(network.encoded(data_set))
        assert read.pixel_array.max() == (1 if read.BitsAllocated == 1 else 2100)
        assert read.pixel_array.shape[-2:] == (pictures.SIDE, pictures.SIDE)
    text = network.decoded(network.encoded(pictures.report(one)))
    assert text.ContentSequence[0].TextValue


class Archive:
    """What an archive says of a day; `state` and the others may be spoiled."""

    def __init__(self, one: Examination, control_ids: list[str]) -> None:
        self.one = one
        self.rows = [{"control_id": each, "result": "applied"} for each in control_ids]
        self.state, self.uids, self.linked = "COMPLETED", list(one.stored), [one.accession]
        self.patient_id = one.person.patient_id

    async def read(self, path: str, **parameters: Any) -> Any:
        one = self.one
        if path == "/api/messages":
            return {"messages": self.rows, "older": None}
        if path == "/api/worklist":
            steps = [{"ScheduledProcedureStepID": step} for step in one.step_ids]
            return {"entries": [{**step, "ScheduledProcedureStepStatus": self.state} for step in steps]}
        if path.endswith("/instances"):
            return [{"00080018": {"Value": [uid]}} for uid in self.uids]
        if path == "/dicom-web/studies":
            return [{"00100020": {"Value": [self.patient_id]}, "00080050": {"Value": [one.accession]}}]
        if path.startswith("/api/reconciliation"):
            return {"links": [{"is_undone": False, "order": {"AccessionNumber": each}} for each in self.linked]}
        raise AssertionError(path)


class Reporting:
    """An information system and modalities that did what they should."""

    def __init__(self, sent: list[str]) -> None:
        self.sent = sent

    async def performed(self, one: Examination) -> str:
        return "COMPLETED"


def balanced(archive: Archive, sent: list[str], failures: tuple[str, ...] = ()) -> list[Account]:
    doer: Any = Reporting(sent)
    web: Any = archive
    books = Books(web, RUN, Doers(doer, doer, None, failures), patience_s=0)
    return asyncio.run(books.balanced([archive.one]))


def done() -> tuple[Archive, list[str]]:
    """An examination with everything as it should be, and the messages that were sent."""
    one = planned(1)[0]
    one.stored = [f"{one.uid}.1.{number}" for number in range(1, one.image_count + 1)]
    one.committed_count = one.read_count = one.image_count
    one.performed_uid = f"{one.uid}.90"
    sent = [f"SIM-{invented.letters(RUN)}-{number}" for number in (1, 2)]
    return Archive(one, sent), sent


def test_books_of_what_is_right_balance() -> None:
    archive, sent = done()
    accounts = balanced(archive, sent)
    assert all(each.is_balanced for each in accounts) and sum(each.expected for each in accounts) > 6


@pytest.mark.parametrize(
    ("spoiled", "value", "what"),
    [
        ("rows", [], "messages"),
        ("rows", [{"control_id": f"SIM-{invented.letters(RUN)}-1", "result": "applied"}] * 2, "messages"),
        ("rows", [{"control_id": f"SIM-{invented.letters(RUN)}-{each}", "result": "failed"} for each in (1, 2)],
         "messages"),
        ("state", "SCHEDULED", "steps"),
        ("uids", [], "instances"),
        ("uids", ["1.2.3"], "instances"),
        ("patient_id", "4711", "studies"),
        ("linked", [], "links"),
        ("linked", ["OTHER"], "links"),
    ],
)  # fmt: skip
def test_books_with_something_missing_double_or_strange_do_not(spoiled: str, value: object, what: str) -> None:
    archive, sent = done()
    setattr(archive, spoiled, value)
    wrong = [each for each in balanced(archive, sent) if not each.is_balanced]
    assert [each.what for each in wrong] == [what] and wrong[0].wrong


def test_what_the_server_refused_is_in_the_books() -> None:
    archive, sent = done()
    assert [each.what for each in balanced(archive, sent, ("no",)) if not each.is_balanced] == ["refusals"]


def test_a_notice_that_comes_twice_counts_once_and_is_acknowledged_twice() -> None:
    head = "MSH|^~\\&|FILMROOM|RAD|X|Y|20261130||ORM^O01|17|P|2.5.1"
    notice = lines(head, "PID|1||SIM-1", "ORC|SC", "OBR|1", "ZDS|1.2.3^100^Application^DICOM")

    async def sent(port: int) -> tuple[Notices, list[Message]]:
        notices = Notices("127.0.0.1", port)
        await notices.open()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(framed(notice) * 2)
        frames, answers = FrameReader(), []
        while len(answers) < 2:
            answers += [parse(frame.payload) for frame in frames.feed(await reader.read(65536))]
        await notices.close()
        writer.close()
        return notices, answers

    notices, answers = asyncio.run(sent(free_port()))
    assert notices.studies == {"1.2.3": 1} and notices.repeated_count == 1
    assert [answer.text("MSA", 1) + answer.text("MSA", 2) for answer in answers] == ["AA17", "AA17"]


def test_the_command_names_a_server_that_does_not_answer_and_wrong_options(
    capsys: pytest.CaptureFixture[str],
) -> None:
    nowhere = ("--http", f"http://127.0.0.1:{free_port()}")
    code, _, err = run(capsys, "simulate", "hospital", *nowhere)  # with its two minutes for a server that comes back
    assert code == exit_codes.PEER and "does not answer" in err
    for wrong in (("--http", "ftp://x"), ("--aet", "A" * 17), ("--header", "nothing")):
        assert run(capsys, "simulate", "clean", *wrong)[0] == exit_codes.USAGE
