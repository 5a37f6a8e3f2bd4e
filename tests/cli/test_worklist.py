"""engine.cli: worklist add, list, import, cancel and why, on a real archive; wlmscpfs as the judge of answers."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from engine.archive import messages
from engine.archive.archive import Archive
from engine.archive.hospital import open_orders
from engine.cli import backend, exit_codes, worklist
from engine.config import Config
from engine.journal.entry import Received
from engine.orders.entry_values import order_of
from engine.orders.registry import NoRules
from engine.orders.rows import AskedRow
from engine.orders.workitems.store import Workitems
from tests.cli.commands import rows, run
from tests.orders.workitem_sets import scheduled
from tests.services.serving import LIMITS, Serving, serve
from tests.system.server import free_port

ADD = ("worklist", "add")
DOE = ("PatientID=4711", "PatientName=Doe^Jane", "AccessionNumber=A1", "Modality=CT", "ScheduledStationAETitle=CT1")
EXAMPLES = Path("/usr/share/doc/dcmtk/examples")


@pytest.fixture(autouse=True)
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new archive in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FILMROOM_DATA", str(tmp_path / "data"))
    Archive.open(tmp_path / "data", role="keeper", create=True).close()


def test_an_entry_is_added_listed_changed_and_canceled(capsys: pytest.CaptureFixture[str]) -> None:
    (added,) = rows(capsys, *ADD, *DOE)
    assert added["accession_number"] == "A1" and added["study_instance_uid"].startswith("2.25.")
    (entry,) = rows(capsys, "worklist", "list", "ScheduledStationAETitle=CT?", "PatientName=doe*")
    assert (entry["PatientName"], entry["ScheduledStationAETitle"]) == ("Doe^Jane", ["CT1"])
    (changed,) = rows(capsys, *ADD, *DOE, "ScheduledProcedureStepStartDate=20300101")
    assert changed["study_instance_uid"] == added["study_instance_uid"] and changed["changes"] == ["step changed"]
    assert rows(capsys, "worklist", "list", "ScheduledProcedureStepStartDate=20300101")
    assert (
        "known with another PatientName"
        in run(capsys, *ADD, *DOE, "PatientName=Roe^Rita", "PatientBirthDate=19700101")[2]
    )
    assert rows(capsys, "worklist", "cancel", "A1")[0]["changes"] == ["order canceled", "step canceled"]
    assert rows(capsys, "worklist", "list") == []
    assert [row["ScheduledProcedureStepStatus"] for row in rows(capsys, "worklist", "list", "--all")] == ["CANCELED"]


def test_workitems_are_listed_shown_and_canceled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with worklist.opened(Config(data=tmp_path / "data")) as orders:
        for uid, label in (("1.2.1", b"AI"), ("1.2.2", b"QA")):
            Workitems(orders).create(uid, scheduled(WorklistLabel=label), "RIS")
    (found,) = rows(capsys, "workitem", "list", "WorklistLabel=A*", "PatientName=doe*")
    assert (found["SOPInstanceUID"], found["ProcedureStepState"]) == ("1.2.1", "SCHEDULED")
    assert rows(capsys, "workitem", "cancel", "1.2.1", "--reason", "wrong patient")[0]["state"] == "CANCELED"
    (shown,) = rows(capsys, "workitem", "show", "1.2.1")
    assert shown["ProcedureStepProgressInformationSequence"][0]["ReasonForCancellation"] == "wrong patient"
    assert [row["SOPInstanceUID"] for row in rows(capsys, "workitem", "list", "ProcedureStepState=SCHEDULED")] == [
        "1.2.2"
    ]
    for command in ("show", "cancel"):
        code, _, err = run(capsys, "workitem", command, "1.2.9")
        assert code and "no such workitem" in err


def test_the_audit_log_finds_by_their_patient_what_commands_show_and_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Archive.open(tmp_path / "data") as archive:
        journal = messages.open_journal(archive)
        journal.append(Received(time=1.0, source="ris", host="::1", kind="ADT^A08", patient_id="4711"), b"MSH|^~")
        journal.close()
    rows(capsys, *ADD, *DOE)
    rows(capsys, *ADD, "PatientID=4712", "ScheduledStationAETitle=CT1")
    rows(capsys, "worklist", "cancel", "A1")
    assert run(capsys, "hl7", "show", "1")[0] == exit_codes.OK
    found = rows(capsys, "audit", "search", "--patient", "4711")
    assert [event["action"] for event in found] == [
        "filmroom hl7 show", "filmroom worklist cancel", "filmroom worklist add",
    ]  # fmt: skip
    assert found[2]["patient"] == {"id": "4711", "name": "Doe^Jane"} and found[2]["accession"] == "A1"


@pytest.mark.parametrize(
    ("command", "line", "arguments"),
    [
        ("worklist list", "worklist list Modality=CT --json", "Modality=CT --json"),
        ("worklist list", "--json worklist --data d list", "--json --data d"),
        ("find", "find PatientID=1", "PatientID=1"),
        ("find", "", ""),
    ],
)
def test_the_audit_log_has_the_arguments_without_the_words_of_the_command(
    command: str, line: str, arguments: str
) -> None:
    assert backend.arguments_of(command, line.split()) == arguments


def test_an_entry_without_a_station_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, *ADD, "PatientID=1", "Modality=MR")
    assert code == exit_codes.OK and "modality MR has no station" in err


def test_two_entries_of_one_moment_are_two(capsys: pytest.CaptureFixture[str]) -> None:
    numbers = [order_of({"PatientID": "1"}, now=now).accession for now in (1e9, 1e9 + 0.001)]
    assert len(set(numbers)) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("PatientName=Doe",), "needs a PatientID"),
        (("PatientID=1", "StudyDate=20200101"), "StudyDate is nothing that a worklist has"),
        (("PatientID=1", "ScheduledProcedureStepStatus=READY?"), "ScheduledProcedureStepStatus is one of SCHEDULED"),
        (("PatientID=1", "ScheduledProcedureStepStartDate=tomorrow"), "begins at no date as 20261201"),
        (("PatientID=1", "PatentName=Doe"), "did you mean PatientName?"),
        (("PatientID",), "is no KEYWORD=VALUE"),
    ],
    ids=["no-patient", "no-key", "no-state", "no-date", "misspelt", "no-value"],
)
def test_what_is_no_entry_is_refused_in_words(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    code, _, err = run(capsys, *ADD, *arguments)
    assert code in (exit_codes.FAILED, exit_codes.USAGE) and message in err
    assert rows(capsys, "worklist", "list", "--all") == []


def test_an_unknown_order_is_not_canceled(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "worklist", "cancel", "A9")
    assert code == exit_codes.FAILED and "no order has the accession number A9" in err


def test_why_says_which_key_leaves_nothing_and_what_others_have(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows(capsys, *ADD, *DOE)
    (never,) = rows(capsys, "worklist", "why", "CT1")
    assert (never["asked"], never["matches_now"], never["scheduled"]) == (None, 1, 1)
    assert "asked\tnever: " in run(capsys, "worklist", "why", "CT1")[1]
    for title in ("", "A" * 17):
        code, _, err = run(capsys, "worklist", "why", title)
        assert code == exit_codes.USAGE and "1 to 16 characters" in err
    keys = (("Modality", "CT"), ("ScheduledStationAETitle", "CT01"))
    with Archive.open(tmp_path / "data") as archive, open_orders(archive, NoRules()) as orders:
        orders.note_asked("CT01", AskedRow(keys=keys, matches=0, time=1e9, host="10.0.0.1", status="0000"))
        orders.note_asked("CT02", AskedRow(keys=(), matches=2, time=1e9, host="10.0.0.1", status="A700"))
    assert "more entries than the limit" in run(capsys, "worklist", "why", "CT02")[1]
    (asked,) = rows(capsys, "worklist", "why", "CT01")
    by_key = {key["keyword"]: key for key in asked["keys"]}
    assert by_key["ScheduledStationAETitle"]["others_have"] == ["CT1"]
    assert (by_key["Modality"]["entries"], by_key["ScheduledStationAETitle"]["without_it"]) == (1, 1)
    code, out, _ = run(capsys, "worklist", "why", "CT01")
    assert code == exit_codes.OK and "CT01" in out and "CT1" in out


def test_a_file_that_is_no_entry_is_named_and_the_others_are_imported(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "entries"
    folder.mkdir()
    (folder / "bad.wl").write_bytes(b"\xff" * 100)
    (folder / "good.wl").write_bytes(b"\x10\0\x20\0LO\2\0P1" + b"\x10\0\x40\0CS\2\0F ")
    (folder / "lockfile").write_bytes(b"")
    code, out, err = run(capsys, "worklist", "import", str(folder), "--json")
    assert (code, json.loads(out)) == (exit_codes.FAILED, {"files": 2, "failed": 1}) and "bad.wl" in err
    assert [row["PatientID"] for row in rows(capsys, "worklist", "list")] == ["P1"]


# DCMTK's wlmscpfs ------------------------------------------------------------------------------------

HAS_DCMTK = all(shutil.which(name) for name in ("wlmscpfs", "findscu", "dump2dcm")) and EXAMPLES.is_dir()


def _made(folder: Path, pattern: str, suffix: str) -> list[Path]:
    """The examples as files."""
    folder.mkdir(parents=True)
    made = []
    for dump in sorted(EXAMPLES.glob(pattern)):
        path = folder / f"{dump.stem}{suffix}"
        subprocess.run(["dump2dcm", "+te", dump, path], check=True, capture_output=True, timeout=60)
        made.append(path)
    return made


def _answers(port: int, query: Path, folder: Path) -> list[dict[str, Any]]:
    folder.mkdir(parents=True)
    command = ["findscu", "-W", "-X", "-aec", "OFFIS", "127.0.0.1", str(port), str(query)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    return sorted((_plain(dcmread(path, force=True)) for path in folder.glob("*.dcm")), key=str)


def _plain(data_set: Dataset) -> dict[str, Any]:
    """Its values, without empty ones, character set and status: DCMTK has no states."""
    values: dict[str, Any] = {}
    for element in data_set:
        if element.keyword in ("SpecificCharacterSet", "ScheduledProcedureStepStatus") or element.tag.group == 2:
            continue
        value = [_plain(item) for item in element.value] if element.VR == "SQ" else str(element.value or "").strip()
        if value and value != [{}]:
            values[element.keyword] = value
    return values


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
    pytest.skip("wlmscpfs did not start")


@pytest.mark.skipif(not HAS_DCMTK, reason="DCMTK's wlmscpfs, findscu, dump2dcm or their examples are not installed")
def test_the_answers_are_those_of_wlmscpfs_for_its_own_examples(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    queries = _made(tmp_path / "queries", "wlistqry/*.dump", ".dcm")
    entries = _made(tmp_path / "folders" / "OFFIS", "wlistdb/OFFIS/*.dump", ".wl")
    (tmp_path / "folders" / "OFFIS" / "lockfile").write_bytes(b"")
    assert rows(capsys, "worklist", "import", str(tmp_path / "folders")) == [{"files": len(entries), "failed": 0}]
    port = free_port()
    theirs: dict[str, list[dict[str, Any]]] = {}
    with subprocess.Popen(["wlmscpfs", "-dfp", tmp_path / "folders", str(port)], stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(port, process)
            theirs = {query.stem: _answers(port, query, tmp_path / "theirs" / query.stem) for query in queries}
        finally:
            process.terminate()
    ours: dict[str, list[dict[str, Any]]] = {}

    def script(serving: Serving) -> None:
        for query in queries:
            ours[query.stem] = _answers(serving.port, query, tmp_path / "ours" / query.stem)
        serving.services.engine.close_orders()

    serve(tmp_path / "data", script, config=Config(data=tmp_path / "data", limits=LIMITS))
    assert sum(map(len, theirs.values())) > 50, "the examples find something"
    assert ours == theirs
