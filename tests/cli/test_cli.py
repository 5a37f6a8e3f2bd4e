"""engine.cli: what each command asks of the engine, what it writes, its exit code. The engine is a stand-in."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from engine import __version__, cli, errors
from engine.cli import backend, exit_codes, live, output, query, summary
from engine.dicom import plain_values, tags
from engine.dicom.identifier import encode_identifier
from engine.dicom.schema import STANDARD
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from engine.totals import totals
from tests.cli.commands import run


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, answer: Any) -> list[tuple[Any, ...]]:
    """Puts `answer` in the place of a function of the backend; the list gets its arguments."""
    calls: list[tuple[Any, ...]] = []

    def call(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(backend, name, call)
    return calls


@pytest.fixture
def _standard_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive, which is not there, that keeps the standard attributes."""
    stand_in(monkeypatch, "schema", STANDARD)


def test_version_loads_neither_the_engine_nor_rich() -> None:
    program = (
        "import sys; from engine import cli; code = cli.run(['version']);"
        "heavy = {'lmdb', 'numpy', 'pydicom', 'pynetdicom', 'rich', 'uvloop', 'asyncio', 'engine.dicom.tags'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"filmroom {__version__}\n"


def test_every_command_has_help_and_a_module(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == exit_codes.OK
    for name, line in cli.COMMANDS.items():
        assert f"  {name} " in out
        code, text, _ = run(capsys, name, "--help")
        assert code == exit_codes.OK
        assert text.startswith(f"Usage: filmroom {name}")
        assert line.split()[0] in text


def test_python_m_engine_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "engine", "version", "--json"], capture_output=True, check=True)
    assert json.loads(done.stdout)["filmroom"] == __version__


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["nonsense"], exit_codes.USAGE, "No such command"),
        (["import"], exit_codes.USAGE, "Missing argument"),
        (["import", "not-there"], exit_codes.USAGE, "no such file or folder"),
        (["export", "target"], exit_codes.USAGE, "say what to export"),
        (["find", "PatinetName=X"], exit_codes.USAGE, "did you mean PatientName?"),
        (["find", "QueryRetrieveLevel=FILM"], exit_codes.USAGE, "one of PATIENT, STUDY, SERIES, IMAGE"),
        (["find", "--config", "not-there.toml"], exit_codes.CONFIGURATION, "there is no configuration file"),
        (["echo", "NOBODY"], exit_codes.CONFIGURATION, "AET@HOST:PORT works too"),
        (["echo", "A@127.0.0.1:1", "--aet", "A" * 17], exit_codes.CONFIGURATION, "--aet: "),
    ],
)
def test_mistakes_are_one_sentence_and_an_exit_code(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, told: str
) -> None:
    got, out, err = run(capsys, *arguments)
    assert (got, out) == (code, "")
    assert told in err
    assert "Traceback" not in err


def test_each_mistake_of_a_configuration_has_a_line_and_none_can_begin_another(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "filmroom.toml"
    path.write_text('"one\\ntwo" = 1\nthree = 2\n')
    code, _, err = run(capsys, "find", "--config", str(path))
    lines = err.splitlines()
    assert (code, lines[0], len(lines)) == (exit_codes.CONFIGURATION, "filmroom: 2 mistakes:", 3)
    assert "one" in lines[1] and "two" in lines[1] and "'three'" in lines[2]
    code, _, err = run(capsys, "find", "--config", str(path), "--json")
    assert json.loads(err)["error"].startswith("2 mistakes:\n")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ArchiveInUse("x"), exit_codes.UNAVAILABLE),
        (errors.StorageFull("x"), exit_codes.UNAVAILABLE),
        (errors.CorruptRecord("x", 1, 2), exit_codes.FAILED),
        (errors.AssociationFailed("x"), exit_codes.PEER),
        (errors.TranscodeError("x"), exit_codes.FAILED),
        (errors.ConfigError("x"), exit_codes.CONFIGURATION),
    ],
)
def test_errors_of_the_engine_have_their_exit_codes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: errors.EngineError, code: int
) -> None:
    stand_in(monkeypatch, "echo", error)
    got, _, err = run(capsys, "echo", "A@127.0.0.1:104")
    assert got == code
    assert err == "filmroom: x\n"


def test_interrupt_has_its_exit_code(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(backend, "echo", interrupted)
    assert run(capsys, "echo", "A@127.0.0.1:104")[0] == exit_codes.INTERRUPTED


def test_serve_hands_flags_over_as_configuration(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = stand_in(monkeypatch, "serve", 0)
    (tmp_path / "filmroom.toml").write_text('aet = "FILE"\nworkers = 7\n')
    arguments = ["--data", "d", "--dicom-port", "104", "--durability", "write-behind", "--log-level", "debug"]
    assert run(capsys, "serve", *arguments)[0] == 0
    config = calls[0][0].read()
    assert (config.aet, config.workers, config.dicom_port) == ("FILE", 7, 104)
    assert (config.data, config.durability, config.log.level) == (Path("d"), "write-behind", "debug")
    (tmp_path / "filmroom.toml").write_text('aet = "LATER"\n')
    assert calls[0][0].read().aet == "LATER"


def test_config_check_shows_values_and_where_they_come_from(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f.toml").write_text('aet = "ARCHIVE"\n[[peer]]\naet = "P"\n')
    monkeypatch.setenv("FILMROOM_WORKERS", "5")
    code, out, _ = run(capsys, "config", "check", "--config", "f.toml")
    rows = {row[0]: row[1:] for row in (line.split("\t") for line in out.splitlines())}
    assert code == 0
    assert rows["aet"] == ["ARCHIVE", "file"]
    assert rows["workers"] == ["5", "environment"]
    assert rows["dicom_port"] == ["11112", "default"]
    assert rows["peer.P.may"][0] == "store, query, retrieve, worklist, workitem"
    code, out, _ = run(capsys, "config", "check", "--config", "f.toml", "--json")
    assert json.loads(out)["values"]["aet"] == "ARCHIVE"
    (tmp_path / "f.toml").write_text('aett = "ARCHIVE"\n')
    code, _, err = run(capsys, "config", "check", "--config", "f.toml")
    assert code == exit_codes.CONFIGURATION
    assert "did you mean 'aet'?" in err


def test_config_check_warns_of_routes_that_lead_nowhere(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text(
        '[http]\nenabled = false\n[[peer]]\naet = "P"\n'
        '[[route]]\nname = "r"\npeers = ["P", "Q"]\nkeys = { Modalty = "CT" }\n'
    )
    code, out, err = run(capsys, "config", "check", "--config", "f.toml")
    assert (code, "route.r.after\tseries_quiet" in out) == (0, True)
    for aet in "PQ":
        assert f"[[route]] r: there is no [[peer]] {aet} with an address" in err
    assert "did you mean Modality?" in err
    assert "jobs need HTTP" in err


@pytest.mark.usefixtures("_standard_schema")
def test_find_writes_a_table_or_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    match = {tags.PatientName: b"DOE^J\x1b[2J", tags.ModalitiesInStudy: b"CT\\MR", tags.StudyDate: b"20260101"}
    calls = stand_in(monkeypatch, "find", [match])
    arguments = ("find", "PatientName=DOE*", "-k", "0008,0020=20260101-", "-r", "ModalitiesInStudy", "-n", "5")
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert out == "PatientName\tStudyDate\tModalitiesInStudy\nDOE^J\\u001b[2J\t20260101\tCT\\MR\n"
    _, wanted, limit, offset = calls[0]
    assert (wanted.level, limit, offset) == ("study", 5, 0)
    assert wanted.values == {tags.PatientName: "DOE*", tags.StudyDate: "20260101-", tags.ModalitiesInStudy: ""}
    _, out, _ = run(capsys, *arguments, "--json")
    assert json.loads(out) == {
        "PatientName": "DOE^J\x1b[2J",
        "StudyDate": "20260101",
        "ModalitiesInStudy": ["CT", "MR"],
    }


@pytest.mark.usefixtures("_standard_schema")
def test_find_says_beside_its_matches_how_they_were_found(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {"access": "search: PatientName prefix", "keys_read": 3, "took_ms": 0.25}
    calls = stand_in(monkeypatch, "explain", ([{tags.PatientID: b"P1"}], facts))
    arguments = ("find", "PatientName=DOE*", "-r", "PatientID", "--explain", "--offset", "7")
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (0, "PatientName\tPatientID\n\tP1\n")
    assert err == "access: search: PatientName prefix\nkeys read: 3\ntook ms: 0.25\n"
    assert calls[0][2:] == (None, 7)
    _, out, err = run(capsys, *arguments, "--json")
    assert json.loads(out) == {"PatientName": "", "PatientID": "P1"}
    assert json.loads(err) == facts


@pytest.mark.usefixtures("_standard_schema")
def test_the_options_of_a_query_are_flags(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = stand_in(monkeypatch, "find", [])
    assert run(capsys, "find", "PatientName=Mueller")[0] == 0
    assert run(capsys, "find", "PatientName=Mueller", "--fuzzy", "--date-time", "--timezone", "+0130")[0] == 0
    plain, all_of_them = (call[1] for call in calls)
    assert plain.options == frozenset()
    assert all_of_them.options == {"fuzzy", "date_time", "timezone"}
    assert all_of_them.values[tags.TimezoneOffsetFromUTC] == "+0130"
    assert tags.TimezoneOffsetFromUTC not in all_of_them.columns
    code, _, err = run(capsys, "find", "--timezone", "CET")
    assert code == exit_codes.USAGE
    assert "write +0130 or -0800" in err


def import_summary(**changes: Any) -> SimpleNamespace:
    values: dict[str, Any] = {"stored": 3, "duplicates": 1, "kept_aside": 0, "replaced": 0, "directories": 0}
    values |= {"refused": [], "empty_paths": [], "bytes": 9, "seconds": 0.5}
    return SimpleNamespace(**{**values, **changes})


def test_import_fails_only_for_dicom_that_was_not_stored(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    calls = stand_in(monkeypatch, "import_paths", (import_summary(refused=[("a/readme.txt", "not DICOM")]), True))
    code, out, err = run(capsys, "import", "a", "-j", "3")
    assert code == exit_codes.OK
    assert "stored\t3\n" in out
    assert err == "a/readme.txt: not DICOM\n"
    assert calls[0][1:3] == ([Path("a")], 3)
    stand_in(monkeypatch, "import_paths", (import_summary(refused=[("a/x.dcm", "no SOP Instance UID")]), True))
    code, out, _ = run(capsys, "import", "a", "--json")
    assert code == exit_codes.FAILED
    assert json.loads(out)["refused"] == [{"path": "a/x.dcm", "reason": "no SOP Instance UID"}]


def test_export_asks_for_studies_series_and_queries(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = SimpleNamespace(written=2, already_there=0, bytes=10, seconds=0.1, failed=[])
    calls = stand_in(monkeypatch, "export", (summary, True))
    code, out, _ = run(capsys, "export", "out.ZIP", "--study", "1.2", "--series", "1.3", "PatientID=7")
    assert code == 0
    assert "written\t2\n" in out
    _, wanted, target, form, *_ = calls[0]
    assert [keys.level for keys in wanted] == ["study", "series", "study"]
    assert wanted[1].values[tags.SeriesInstanceUID] == "1.3"
    assert (target, form) == (Path("out.ZIP"), "zip")
    stand_in(monkeypatch, "export", (None, True))
    assert run(capsys, "export", "out", "PatientID=8")[0] == exit_codes.FAILED


def test_send_lists_what_failed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "x.dcm").write_bytes(b"")
    calls = stand_in(monkeypatch, "send", SimpleNamespace(sent=1, failed=[("x.dcm", "status A700")]))
    code, out, err = run(capsys, "send", "P@127.0.0.1:104", "x.dcm")
    assert code == exit_codes.FAILED
    assert out == "sent 1 instances to P, 1 failed\n"
    assert "x.dcm: status A700" in err
    assert calls[0][0].port == 104


def test_check_and_rebuild_tell_findings_by_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, "check", SimpleNamespace(findings=[], oddities=["odd"], counts={"records": 4}))
    assert run(capsys, "check")[:2] == (0, "records\t4\nfindings\t0\noddities\t1\n")
    calls = stand_in(
        monkeypatch, "check", SimpleNamespace(findings=["segment 1 offset 64: corrupt"], oddities=[], counts={})
    )
    code, out, _ = run(capsys, "check", "--payloads", "--json")
    assert code == exit_codes.FAILED
    assert json.loads(out)["findings"] == ["segment 1 offset 64: corrupt"]
    assert calls[0][1] is True
    stand_in(monkeypatch, "rebuild_index", ({"instances": 3}, []))
    assert run(capsys, "rebuild-index")[:2] == (0, "instances\t3\nfindings\t0\n")


def test_reload_names_what_takes_a_restart(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(
        monkeypatch,
        "control",
        {"ok": True, "source": "f.toml", "changed": ["peers", "aet"], "restart_needed": ["aet"], "workers_late": [1]},
    )
    code, _, err = run(capsys, "reload")
    assert code == 0
    assert "peers and limits were reloaded: f.toml" in err
    assert "aet has changed too; restart the server to apply it" in err
    assert "before any new connection: 1" in err


def test_without_a_server_reload_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = run(capsys, "reload", "--data", str(tmp_path))
    assert code == exit_codes.UNAVAILABLE
    assert "no server is running" in err


def answer(at: float, instances: int, sync: list[int]) -> dict[str, Any]:
    histogram = {"bounds": [0.001, 0.01], "buckets": sync, "count": sum(sync), "sum": 0.0}
    worker = {
        "associations": 1,
        "queue_depth": 2,
        "counters": {"stored": instances},
        "peers": {"CT1": {"instances": instances, "bytes": instances * 500_000, "failures": 0, "associations": 1}},
        "sync_latency_s": histogram,
        "store_latency_s": histogram,
    }
    return {"ok": True, "time": at, "workers": [worker, worker], "archive": {"instances": 2 * instances}}


def test_stats_adds_the_workers_up(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "control", answer(10.0, 100, [5, 0, 0]))
    code, out, _ = run(capsys, "stats")
    assert code == 0
    assert "instances\t200\n" in out
    assert "stored\t200\n" in out
    assert "fdatasync p99 ms, at most\t1\n" in out


def test_stats_has_the_messages_of_hl7_and_why_they_wait(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counters = {"connections": 9, "taken": 7}
    state = {"connections": 2, "last_number": 7, "applied_to": 3, "waiting": 4, "stalled": "", "counters": counters}
    figures = {**answer(10.0, 100, [5, 0, 0]), "messages": state}
    stand_in(monkeypatch, "control", figures)
    out = run(capsys, "stats")[1]
    assert "hl7 open connections\t2\n" in out and "hl7 connections\t9\n" in out and "hl7 stalled" not in out
    state["stalled"] = "disk full"
    assert "hl7 waiting\t4\nhl7 stalled\tdisk full\n" in run(capsys, "stats")[1]
    figures["messages"] = {"not_started": "no port"}
    assert "hl7\tno port\n" in run(capsys, "stats")[1]


def test_stats_says_on_one_screen_what_is_looked_for_first() -> None:
    held = dict.fromkeys(
        ("studies", "patients", "instances", "segments", "versions", "unparseable", "conflicts", "corrections"), 2
    )
    held |= {"trashed": 0, "trashed_bytes": 0}
    held |= {"held_studies": 1, "damaged": 3, "live_bytes": 147_808_008, "dead_bytes": 0, "index_bytes": 1500}
    facts = summary.of_archive(held)
    assert facts["stored"] == "2 instances of 2 studies, 2 patients, 147.8 MB"
    assert facts["damaged"] == "3: see filmroom scrub findings"
    assert "trash" not in facts
    in_trash = summary.of_archive({**held, "trashed": 7, "trashed_bytes": 1500})
    assert in_trash["trash"] == "7 instances, 1.5 KB: see filmroom trash list"
    said = answer(10.0, 100, [5, 0, 0])
    facts |= summary.of_server(said)
    assert facts["new instances"] == "taken"
    assert facts["received"] == "200 instances, 100.0 MB, 0 failures since the start"
    assert facts["fdatasync takes"] == "≤ 1 ms (p50), ≤ 1 ms (p99)"
    assert len(facts) <= 15
    said["workers"] = [
        {**said["workers"][0], "number": number, "admission": {"reason": "disk reserve", "free_bytes": 768}}
        for number in (0, 1)
    ]
    facts = summary.of_server(said)
    assert facts["new instances"] == "refused: disk full (worker 0, 1)"
    assert facts["free on disk"] == "768 B"


def test_open_associations_and_those_since_the_start_are_two_figures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = answer(10.0, 100, [5, 0, 0])
    figures["workers"][0]["counters"]["associations"] = 40
    stand_in(monkeypatch, "control", figures)
    out = run(capsys, "stats")[1]
    assert "associations\t2\n" in out
    assert "associations since the start\t80\n" in out
    assert "calling AE title\tinstances\tMB\tfailures\tassociations\n" in out


def test_the_live_view_fits_a_small_terminal() -> None:
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    before, now = (totals(answer(at, at * 100, [5, 0, 0])) for at in (10, 11))
    console.print(live._view(now, before))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0].split() == ["200.0", "instances/s", "100.0", "MB/s", "2", "associations", "queue", "4"]
    assert lines[1].startswith("fdatasync p50")
    assert "associations" in "".join(lines[2:])


@pytest.mark.usefixtures("_standard_schema")
def test_an_error_of_the_system_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, "find", PermissionError(13, "Permission denied", "d/keeper.lock"))
    assert run(capsys, "find") == (exit_codes.UNAVAILABLE, "", "filmroom: d/keeper.lock: Permission denied\n")


def test_a_reload_of_a_wrong_configuration_is_a_mistake_in_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, "control", errors.ConfigError("f.toml: unknown key 'aett'"))
    assert run(capsys, "reload")[0] == exit_codes.CONFIGURATION


def test_stats_of_a_stopped_archive_reads_the_archive(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, "control", errors.ControlUnavailable("x"))
    stand_in(monkeypatch, "archive_stats", {"studies": 2})
    assert run(capsys, "stats")[1] == "studies\t2\n"


def test_watch_writes_rates_between_two_answers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([answer(10.0, 100, [5, 0, 0]), answer(12.0, 300, [5, 8, 0])])
    monkeypatch.setattr(backend, "control", lambda config, command: next(answers))
    code, out, _ = run(capsys, "stats", "--watch", "--count", "1", "--interval", "0.1")
    line = json.loads(out)
    assert code == 0
    assert (line["instances_per_s"], line["mb_per_s"]) == (200.0, 100.0)
    assert (line["associations"], line["queue_depth"], line["sync_p50_ms"]) == (2, 4, 10.0)
    assert line["peers"]["CT1"]["instances_per_s"] == 200.0


def test_keys_take_the_forms_of_findscu() -> None:
    keys = query.parse(["QueryRetrieveLevel=SERIES", "(0020,000D)=1.2", "Modality", "PatientName=A=B"])
    assert keys.level == "series"
    assert keys.values == {tags.StudyInstanceUID: "1.2", tags.Modality: "", tags.PatientName: "A=B"}
    assert query.parse(["0008,0052=IMAGE"]).level == "instance"
    assert set(query.parse(["PatientID=1"]).columns) >= {tags.PatientID, tags.StudyInstanceUID}
    assert tags.keyword_of(0x00091001) == "00091001"
    # The first block stands for any, and a creator is a key like another.
    private = query.parse(["0009,xx01=7", "(0009,0010)=ACME", "00100020=1"])
    assert private.values == {0x00091001: "7", 0x00090010: "ACME", tags.PatientID: "1"} | dict.fromkeys(
        (tag for tag in private.columns if tag not in (0x00091001, 0x00090010, tags.PatientID)), ""
    )


REQUEST = tags.RequestAttributesSequence


@pytest.mark.parametrize(
    "key",
    [
        "RequestAttributesSequence[0].ScheduledProcedureStepID=S 7",
        "RequestAttributesSequence.ScheduledProcedureStepID=S 7",
        "(0040,0275)[0].(0040,0009)=S 7",
        "00400275.00400009=S 7",
    ],
)
def test_a_key_within_a_sequence_has_a_path(key: str) -> None:
    keys = query.parse([key, "RequestAttributesSequence.RequestedProcedureID"], level="series")
    item = {tags.ScheduledProcedureStepID: "S 7", tags.RequestedProcedureID: ""}
    assert keys.values[REQUEST] == [item]
    assert keys.columns[0] == REQUEST
    assert tags.SeriesInstanceUID in keys.columns, "nothing was asked for by name"


def test_a_sequence_without_values_is_only_returned() -> None:
    for names in (["RequestAttributesSequence"], ["RequestAttributesSequence[0]"], ["ProcedureCodeSequence.CodeValue"]):
        keys = query.parse(names)
        assert keys.columns == tuple(keys.values)
        assert all(map(query.matches_all, keys.values.values()))
    deep = query.parse(
        ["RequestAttributesSequence.RequestedProcedureCodeSequence.CodeValue=7"], ["RequestAttributesSequence"]
    )
    assert deep.values == {REQUEST: [{tags.RequestedProcedureCodeSequence: [{tags.CodeValue: "7"}]}]}
    assert not query.matches_all(deep.values[REQUEST])


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("RequestAttributesSequence[1].ScheduledProcedureStepID=7", "has only one item"),
        ("RequestAttributesSequence=7", "RequestAttributesSequence.ATTRIBUTE=VALUE"),
        ("PatientName[0].PatientID=7", "PatientName is not a sequence"),
        ("PatientName.PatientID=7", "PatientName is not a sequence"),
        ("RequestAttributeSequence.RequestedProcedureID=7", "did you mean RequestAttributesSequence?"),
        ("RequestAttributesSequence.RequestedProcedurID=7", "did you mean RequestedProcedureID?"),
        ("RequestAttributesSequence.=7", "is not a DICOM keyword"),
    ],
)
def test_a_wrong_path_is_told(key: str, told: str) -> None:
    with pytest.raises(errors.QueryError, match=re.escape(told)):
        query.parse([key])


def test_sequences_of_a_match_are_nested() -> None:
    code = {tags.CodeValue: b"7", tags.CodeMeaning: "Schädel".encode()}
    item = {
        tags.RequestedProcedureID: b"R1",
        tags.RequestedProcedureCodeSequence: [code],
        tags.ReferencedFrameNumber: b"",
    }
    stored = encode_identifier({REQUEST: [item, {tags.RequestedProcedureID: b"R2"}]}, EXPLICIT_VR_LITTLE_ENDIAN)[12:]
    assert plain_values.value_of(REQUEST, stored) == [
        {
            "ReferencedFrameNumber": [],
            "RequestedProcedureCodeSequence": [{"CodeValue": "7", "CodeMeaning": "Schädel"}],
            "RequestedProcedureID": "R1",
        },
        {"RequestedProcedureID": "R2"},
    ]
    assert plain_values.text_of(REQUEST, stored[-18:]) == "[RequestedProcedureID=R2]"
    assert plain_values.value_of(REQUEST, b"") == []
    assert plain_values.text_of(REQUEST, b"") == ""
    assert plain_values.value_of(tags.FrameIncrementPointer, b"\x18\x00\x63\x10") == ["FrameTime"]


def test_text_with_backslashes_is_one_value() -> None:
    assert plain_values.value_of(tags.ModalitiesInStudy, b"CT\\MR") == ["CT", "MR"]
    assert plain_values.value_of(tags.PatientComments, b"a\\b") == "a\\b"


def test_numbers_and_sequences_of_a_match_are_shown() -> None:
    assert plain_values.value_of(tags.Rows, b"\x00\x02") == 512
    assert plain_values.text_of(tags.Rows, b"") == ""
    assert plain_values.text_of(tags.ImageType, b"ORIGINAL\\PRIMARY") == "ORIGINAL\\PRIMARY"
    assert plain_values.text_of(tags.ProcedureCodeSequence, b"\xfe\xff") == "(sequence)"


def test_figures_are_readable() -> None:
    assert [output.bytes_text(n) for n in (0, 999, 1500, 2_500_000, 3e13)] == [
        "0 B",
        "999 B",
        "1.5 KB",
        "2.5 MB",
        "30.0 TB",
    ]
    assert [output.to_text(v) for v in (None, True, 1.5, b"a\nb", ["x", 2])] == ["", "yes", "1.5", "a\\u000ab", "x, 2"]
