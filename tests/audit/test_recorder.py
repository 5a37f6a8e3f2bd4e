"""The recorder: what is begun is on the disk; what the disk refuses is refused, and nothing else is lost."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest

from engine import audit
from engine.audit import recorder as recorder_module
from engine.audit.chain import ChainWriter, chain_names
from engine.audit.event import LIST_MAX, TEXT_MAX, Event, Kind, Outcome
from engine.audit.recorder import RESERVE
from engine.audit.verify import verify
from engine.errors import AuditUnavailable, StorageFailed
from tests.audit.recording import CT1, events, recording, stored, wait_until
from tests.faulty_files import FaultyFiles


def test_what_was_begun_is_on_the_disk(tmp_path: Path) -> None:
    with recording(tmp_path):
        asyncio.run(audit.begin(stored()))
        assert [event["study"] for event in events(tmp_path)] == ["1.2.3"]


def test_what_was_written_arrives_without_anybody_waiting(tmp_path: Path) -> None:
    with recording(tmp_path) as recorder:
        audit.write(stored())
        wait_until(lambda: recorder.snapshot()["written"] == 1)
    assert len(events(tmp_path)) == 1


def test_what_was_written_is_there_after_a_close(tmp_path: Path) -> None:
    with recording(tmp_path):
        for number in range(2000):
            audit.write(stored(f"1.2.{number}"))
    assert len(events(tmp_path)) == 2000
    assert verify(tmp_path).events == 2000


def test_processes_at_the_same_time_have_chains_of_their_own(tmp_path: Path) -> None:
    recorders = [audit.Recorder(tmp_path) for _ in range(3)]
    for recorder in recorders:
        recorder.begin_now(stored())
    assert chain_names(tmp_path) == ["000", "001", "002"]
    for recorder in recorders:
        recorder.close()
    for _ in range(5):  # short commands use them again
        recorder = audit.Recorder(tmp_path)
        recorder.begin_now(stored())
        recorder.close()
    assert chain_names(tmp_path) == ["000", "001", "002"]
    assert verify(tmp_path).events == 8


def test_nothing_is_recorded_without_a_recorder() -> None:
    audit.write(stored())
    audit.begin_now(stored())
    audit.check()
    assert audit.snapshot() == {}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_refuses_stops_disclosures_and_loses_nothing_else(tmp_path: Path, number: int) -> None:
    files = FaultyFiles()
    with recording(tmp_path, files=files) as recorder:
        audit.begin_now(stored("1.1"))
        files.fail("pwritev", number, repeat=True)
        with pytest.raises(AuditUnavailable):
            audit.begin_now(stored("1.2"))
        with pytest.raises(AuditUnavailable):
            audit.check()
        audit.write(stored("1.3"))  # storing goes on, and is recorded later
        files.heal()
        wait_until(lambda: not recorder.snapshot()["failure"])
        audit.begin_now(stored("1.4"))
    kinds = [(event["kind"], event.get("alert", event.get("study"))) for event in events(tmp_path)]
    assert ("alert", "audit-recording-stopped") in kinds and ("alert", "audit-recording-started") in kinds
    studies = [study for kind, study in kinds if kind == "received"]
    assert sorted(studies) == ["1.1", "1.3", "1.4"]
    assert verify(tmp_path).events == len(kinds)


def test_whoever_is_refused_has_the_disk_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("RETRY_S", 1e6), ("RETRY_S_MAX", 1e6), ("DEMAND_S", 0.0)):
        monkeypatch.setattr(recorder_module, name, seconds)
    files = FaultyFiles()
    with recording(tmp_path, files=files) as recorder:
        audit.begin_now(stored("1.1"))
        files.fail("pwritev", errno.ENOSPC, repeat=True)
        with pytest.raises(AuditUnavailable):
            audit.begin_now(stored("1.2"))
        files.heal()

        def is_recorded() -> bool:
            try:
                audit.begin_now(stored("1.3"))
            except AuditUnavailable:
                return False
            return True

        wait_until(is_recorded)
        assert not recorder.snapshot()["failure"]


def test_a_server_that_has_taken_a_chain_records_without_descriptors(tmp_path: Path) -> None:
    files = FaultyFiles()
    with recording(tmp_path, files=files) as recorder:
        recorder.prepare()
        files.fail("open", errno.EMFILE, repeat=True)
        audit.begin_now(stored("1.1"))
    assert [event["study"] for event in events(tmp_path)] == ["1.1"] and verify(tmp_path).events == 1


def test_a_chain_that_cannot_be_taken_leaves_no_descriptor_open(tmp_path: Path) -> None:
    for number in range(2):
        recorder = audit.Recorder(tmp_path)
        recorder.begin_now(stored(f"1.{number}"))
        recorder.close()
    files = FaultyFiles()
    files.fail("pread", errno.EIO, repeat=True)
    for _ in range(3):
        with pytest.raises(StorageFailed):
            ChainWriter(tmp_path, files)
    assert files.calls["close"] == files.calls["open"] > 0


def test_after_a_failed_sync_everything_is_written_again_to_another_chain(tmp_path: Path) -> None:
    files = FaultyFiles()
    with recording(tmp_path, files=files) as recorder:
        audit.begin_now(stored("1.1"))
        files.fail("fdatasync", errno.EIO)
        audit.write(stored("1.2"))
        wait_until(lambda: recorder.snapshot()["failure"])
        wait_until(lambda: not recorder.snapshot()["failure"])
    assert chain_names(tmp_path) == ["000", "001"]
    assert "1.2" in {event.get("study") for event in events(tmp_path) if event["n"] < 9}


def test_a_deletion_that_makes_room_uses_the_reserve(tmp_path: Path) -> None:
    files = FaultyFiles()
    reserve = tmp_path / "audit" / RESERVE
    with recording(tmp_path, files=files, reserve_bytes=1 << 20):
        audit.begin_now(stored())
        assert reserve.stat().st_size == 1 << 20
        files.fail("pwritev", errno.ENOSPC)
        with pytest.raises(AuditUnavailable):
            audit.begin_now(Event(kind=Kind.SENDING, principal=CT1, study="1.2"))
        assert reserve.exists()
        files.fail("pwritev", errno.ENOSPC)
        audit.begin_now(Event(kind=Kind.DELETED, principal=CT1, study="1.3"))
    assert "1.3" in {event.get("study") for event in events(tmp_path)}


def test_hostile_texts_stay_one_line_and_short(tmp_path: Path) -> None:
    evil = 'A"\\\n\r\x00\u202e</x>\ud800' * 3000
    with recording(tmp_path):
        audit.begin_now(
            Event(
                kind=Kind.QUERY,
                principal=CT1,
                outcome=Outcome.MINOR,
                query=evil,
                detail=evil,
                series=(evil,) * 1000,
                classes={evil: 1},
            )
        )
        audit.begin_now(stored())
    first, second = events(tmp_path)
    assert (first["n"], second["n"]) == (1, 2)
    assert len(first["query"]) <= TEXT_MAX * 6 and len(first["series"]) <= LIST_MAX
    assert verify(tmp_path).is_whole or verify(tmp_path).problems[0].detail.startswith("there is no key")
