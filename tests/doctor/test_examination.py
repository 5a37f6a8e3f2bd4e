"""filmroom doctor: each thing that can be wrong is brought about and found, with what to do about it."""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine import cli
from engine.archive.archive import Archive
from engine.archive.commitment.transactions import Transaction, Transactions
from engine.archive.ingest.request import ReceivedInstance
from engine.archive.lifecycle import reindex
from engine.config import Attribute, Config, Limits, Peer, Storage, Target
from engine.dicom import extra, tags
from engine.doctor import archive_state, disk, examination, host
from engine.doctor.finding import Finding, Verdict
from engine.index.format.types import Level, Query
from engine.storage.files import Files
from engine.storage.record import crc32c
from engine.web.settings import Http
from tests import samples
from tests.peer import (
    C_ECHO_RQ,
    NO_DATA_SET,
    RELEASE_RP,
    RELEASE_RQ,
    RESPONSE,
    Listener,
    command_set,
    message,
    pdu,
)
from tests.peer import (
    number as number_of,
)

MEASURED = 4 << 20


def config_of(data: Path, **more: object) -> Config:
    settings: dict[str, object] = {
        "data": data,
        "host": "127.0.0.1",
        "dicom_port": 0,
        "http": Http(port=0),
        "workers": 1,
        "limits": Limits(disk_reserve_bytes=0),
        "storage": Storage(segment_bytes=4 << 20),
        # What a machine that runs tests can reach is not what is tested.
        "target": Target(sync_p99_ms_max=10_000, write_mb_per_s_min=0, read_mb_per_s_min=0),
    }
    return Config(**{**settings, **more})


def examine(config: Config, measure_bytes: int = 0) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for finding in examination.examine(config, measure_bytes=measure_bytes):
        found.setdefault(finding.subject, []).append(finding)
    return found


def received(number: int) -> ReceivedInstance:
    payload = samples.encoded(samples.instance(number=number))
    return ReceivedInstance([payload], len(payload), crc32c(payload), "1.2.840.10008.1.2.1")


def fill(data: Path, count: int = 3) -> None:
    with Archive.open(data, create=True) as archive:
        archive.ingest_batch([received(number) for number in range(1, count + 1)])


def c_echo_rsp(rq: Mapping[int, bytes]) -> bytes:
    verification = "1.2.840.10008.1.1"
    return command_set(
        {
            0x0002: verification,
            0x0100: C_ECHO_RQ | RESPONSE,
            0x0120: number_of(rq, 0x0110),
            0x0800: NO_DATA_SET,
            0x0900: 0,
        }
    )


def every_instance() -> Query:
    return Query(level=Level.STUDY, keys={tags.StudyInstanceUID: f"{samples.ROOT}.1".encode()})


def faults(found: dict[str, list[Finding]]) -> list[str]:
    return [str(each) for some in found.values() for each in some if each.verdict is Verdict.FAULT]


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk: pytest's own may lie in memory."""
    folder = tmp_path / "data"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_a_sound_archive_has_no_faults_and_every_bad_finding_has_advice(data: Path) -> None:
    fill(data)
    found = examine(config_of(data), MEASURED)
    assert not [each for each in faults(found) if "in memory" not in each]
    assert {"file system", "room", "sync latency", "write rate", "memory", "log", "index", "port"} <= set(found)
    for some in found.values():
        assert all(bool(each.advice) == (each.verdict is not Verdict.GOOD) for each in some)
    assert not [name for name in os.listdir(data) if "doctor" in name], "the measured file is left behind"


def test_before_the_first_start_nothing_is_created(data: Path) -> None:
    found = examine(config_of(data), MEASURED)
    assert not data.exists()
    assert "none in" in found["archive"][0].what


def test_a_relative_data_directory_is_the_same_folder(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data.mkdir(mode=0o777)
    data.chmod(0o777)
    monkeypatch.chdir(data.parent)
    found = examine(config_of(Path(data.name)))
    assert "data directory" not in found
    assert any("open to every user" in each.what for each in found["permissions"])


def test_a_slow_disk_is_reported_with_its_measurements(data: Path) -> None:
    fill(data)
    target = Target(sync_p99_ms_max=1e-6, write_mb_per_s_min=1e6, read_mb_per_s_min=1e6)
    found = examine(config_of(data, target=target), MEASURED)
    assert found["sync latency"][0].verdict is Verdict.WARNING
    assert found["sync latency"][0].figures["sync_p99_ms"] >= found["sync latency"][0].figures["sync_p50_ms"] > 0
    assert found["write rate"][0].verdict is Verdict.WARNING
    assert found["write rate"][0].figures["write_mb_per_s"] > 0


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="no memory file system here")
def test_a_folder_in_memory_is_a_fault(tmp_path: Path) -> None:
    folder = Path("/dev/shm") / f"filmroom-test-{os.getpid()}"
    folder.mkdir()
    try:
        assert [each.subject for each in disk.examine(config_of(folder), measure_bytes=0) if "in memory" in each.what]
    finally:
        folder.rmdir()


def test_a_data_directory_open_to_all_is_a_warning(data: Path) -> None:
    data.mkdir(mode=0o777)
    data.chmod(0o777)
    found = examine(config_of(data))
    assert any("open to every user" in each.what for each in found["permissions"])


def test_too_little_disk_space_is_a_fault(data: Path) -> None:
    data.mkdir()
    found = examine(config_of(data, limits=Limits(disk_reserve_bytes=1 << 60)))
    assert found["room"][0].verdict is Verdict.FAULT
    assert "A700" in found["room"][0].advice


def test_a_nearly_full_disk_is_reported_in_fitting_units(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data.mkdir()
    status = SimpleNamespace(f_bavail=20_000_768, f_frsize=1)
    monkeypatch.setattr(disk.os, "statvfs", lambda path: status)
    found = disk._room(config_of(data, limits=Limits(disk_reserve_bytes=20_000_000)), data)
    assert found.verdict is Verdict.FAULT
    assert found.what == "20.0 MB free, 20.0 MB of them in reserve"


def test_a_port_in_use_is_a_fault_and_a_free_one_is_not(data: Path) -> None:
    with socket.socket() as sock:
        # Nobody else gets the port while it is bound here, and ours can be bound until somebody listens.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        config = config_of(data, dicom_port=sock.getsockname()[1], http=Http(port=sock.getsockname()[1]))
        found = examine(config)
        assert (found["port"][0].verdict, found["HTTP port"][0].verdict) == (Verdict.GOOD, Verdict.GOOD)
        sock.listen()
        found = examine(config)
        assert (found["port"][0].verdict, found["HTTP port"][0].verdict) == (Verdict.FAULT, Verdict.FAULT)


def test_too_few_open_files_are_a_warning(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (256, 1000))
    many = config_of(data, limits=Limits(disk_reserve_bytes=0, associations_max=1000))
    few = config_of(data, limits=Limits(disk_reserve_bytes=0, associations_max=1))
    findings = [next(each for each in host.examine(config) if each.subject == "open files") for config in (many, few)]
    assert [finding.verdict for finding in findings] == [Verdict.WARNING, Verdict.GOOD]
    assert "1000 files" in findings[0].what


def test_a_peer_that_answers_is_good_and_one_that_does_not_is_a_fault(data: Path) -> None:
    with Listener() as listener, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))

        def answer() -> None:
            with listener.accept() as scripted:
                scripted.accept()
                echo = scripted.expect_message()
                scripted.send(message(echo.context_id, c_echo_rsp(echo.command)))
                scripted.expect(RELEASE_RQ)
                scripted.send(pdu(RELEASE_RP, bytes(4)))

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        peers = (
            Peer(aet="HERE", host="127.0.0.1", port=listener.port),
            Peer(aet="NOBODY", host="127.0.0.1", port=nobody.getsockname()[1]),
            Peer(aet="SILENT"),
        )
        found = examine(config_of(data, peers=peers))
        thread.join(60)
    assert found["peer HERE"][0].verdict is Verdict.GOOD
    assert found["peer HERE"][0].figures["echo_ms"] > 0
    assert found["peer NOBODY"][0].verdict is Verdict.FAULT
    assert "cannot be reached" in found["peer NOBODY"][0].what
    assert found["peer SILENT"][0].verdict is Verdict.GOOD


def _lose(data: Path) -> str:
    for path in (data / "segments").glob("*.seg"):
        path.unlink()
    return "in missing segments"


def _mix(data: Path) -> str:
    other = data.parent / "other"
    for _ in range(4):
        fill(other)
        with Archive.open(other) as archive:
            archive.ingest_batch([received(9)], policy="replace")
    path = max((other / "segments").glob("*.seg"))
    assert not (data / "segments" / path.name).exists()
    path.rename(data / "segments" / path.name)
    return "another archive"


def _set_aside(data: Path) -> str:
    (data / "segments" / "0000000000000009.seg.damaged").write_bytes(b"something")
    return "1 set aside"


@pytest.mark.parametrize("harm", [_lose, _mix, _set_aside])
def test_an_invalid_log_is_a_fault(data: Path, harm: Callable[[Path], str]) -> None:
    fill(data)
    expected = harm(data)
    assert any(expected in each for each in faults(examine(config_of(data)))), expected


def test_known_damage_is_a_fault_until_it_is_healed(data: Path) -> None:
    fill(data)
    with Archive.open(data) as archive:
        instance = next(iter(archive.parts.index.instances(every_instance())))
        uid = instance.sop_instance_uid.encode()
        archive.parts.index.note_damage(instance.position.segment_id, instance.position.offset, uid, "a turned byte", 1)
    assert any("1 records are damaged" in each for each in faults(examine(config_of(data))))


def test_segments_of_another_archive_are_not_mistaken_for_ours(data: Path) -> None:
    fill(data)
    ours = set((data / "segments").glob("*.seg"))
    _mix(data)
    (foreign,) = set((data / "segments").glob("*.seg")) - ours
    before = foreign.read_bytes()
    for again in (lambda: None, lambda: Archive.rebuild_index(data)):
        again()
        with Archive.open(data) as archive:
            assert archive.stats()["instances"] == 3
            assert int(foreign.stem, 16) not in archive.parts.index.segment_marks()
    assert foreign.read_bytes() == before


def test_an_archive_that_does_not_open_is_a_fault(data: Path) -> None:
    fill(data)
    (data / "archive.json").write_text("{}")
    assert any("archive.json" in each for each in faults(examine(config_of(data))))


def test_the_command_prints_one_line_for_each_finding_and_fails_on_a_fault(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(data)
    monkeypatch.setenv("FILMROOM_LIMITS_DISK_RESERVE_BYTES", "0")
    arguments = ["doctor", "--quick", "--json", "--data", str(data), "--dicom-port", "0", "--workers", "1"]
    code = cli.run(arguments)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    bad = [row for row in rows if row["verdict"] == "fault"]
    assert code == (1 if bad else 0)
    assert {"subject", "verdict", "what", "advice", "figures"} == set(rows[0])
    monkeypatch.setenv("FILMROOM_LIMITS_DISK_RESERVE_BYTES", str(1 << 60))
    assert cli.run(arguments) == 1


def test_undeliverable_reports_are_a_warning_and_damaged_ones_a_fault(data: Path) -> None:
    Archive.open(data, create=True).close()
    transactions = Transactions(data, Files())
    assert "storage commitment" not in examine(config_of(data))
    for received_ns in (time.time_ns(), time.time_ns() - 2 * 86400 * 10**9):
        asked = Transaction.of("1.9", "MODALITY", received_ns, [(samples.CT, "1.2")])
        verdict = Verdict.GOOD if received_ns > time.time_ns() - 10**12 else Verdict.WARNING
        with transactions.add(asked, count_max=9, reserve_bytes=0) as claim:
            path = data / "commitments" / f"{claim.identifier}.json"
        assert [found.verdict for found in examine(config_of(data))["storage commitment"]] == [verdict]
    path.write_bytes(path.read_bytes()[:-9])
    assert [found.verdict for found in examine(config_of(data))["storage commitment"]] == [Verdict.FAULT]


def test_re_indexing_that_is_due_is_a_warning_until_it_is_done(data: Path) -> None:
    fill(data, 1)
    config = config_of(data)
    assert "extra attributes" not in examine(config)
    wanted = extra.of((Attribute(tag="PatientReligiousPreference", level="patient"),))
    with Archive.open(data, extra_attributes=wanted) as archive:
        found = list(archive_state._reindexing(archive))
        assert [each.verdict for each in found] == [Verdict.WARNING] and found[0].advice
        reindex.run(archive, lambda *_: None)
    assert [each.verdict for each in examine(config)["extra attributes"]] == [Verdict.GOOD]


def test_a_server_is_checked_by_its_own_workers_and_truncated_instances_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker: dict[str, object] = {"number": 0, "connections": 2, "admission": {"reason": None}, "counters": {}}
    stats: dict[str, object] = {"workers": [worker], "workers_missing": []}
    monkeypatch.setattr(archive_state.control, "request", lambda *_: stats)
    config = Config(data=tmp_path, workers=2)  # it was started with --workers 1

    def found() -> dict[str, tuple[Verdict, str]]:
        return {one.subject: (one.verdict, one.what) for one in archive_state._server(config)}

    assert found() == {"server": (Verdict.GOOD, "1 workers, 2 connections")}
    worker["counters"] = {"instances_truncated": 3}
    assert found()["truncated instances"][0] is Verdict.WARNING
    stats["workers_missing"] = [{"number": 1, "error": "no memory"}]
    assert found()["server"] == (Verdict.FAULT, "1 of 2 workers run, 0 of them do not answer")
