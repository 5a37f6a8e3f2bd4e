"""copies.ahead, copies.awaited: a record goes to the replica while the disk here is at work, and counts afterwards."""

from __future__ import annotations

import asyncio
import random
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.archive.archive import Archive
from engine.archive.copies import ahead as aheads
from engine.archive.copies.ahead import Ahead
from engine.archive.copies.replica import Replica, Shipped, promote
from engine.archive.copies.replication import Replication
from engine.archive.layout import Layout
from engine.archive.receipts import Kind
from engine.errors import ReplicationFailed
from engine.index.format.types import Outcome
from engine.storage.background_sync import BackgroundSync
from engine.storage.segment import segment_path
from engine.storage.segment_log import SegmentLog
from tests.archive.filled import contents, opened, store, uid
from tests.archive.replicas import replicating as to_folder
from tests.archive.replicas import some
from tests.archive.test_encryption import NAME, begin, marked_files
from tests.archive.test_second_copy import Server, found_after_take_over, replicating, served
from tests.faulty_files import SimulatedDisk

SELDOM_S = 3600.0
"""The interval of the passes: what comes to the replica was waited for."""


def test_what_was_sent_is_confirmed_piece_by_piece() -> None:
    data = random.Random(1).randbytes(1000)

    def read(length: int, start: int) -> bytes:
        return data[start : start + length]

    ahead = Ahead()
    assert (ahead.end(1, 5), ahead.has(1), ahead.is_synced(1, 1)) == (0, False, False)
    ahead.confirm(1, 1000, read)
    for start, end in ((100, 300), (300, 450), (450, 1000)):
        ahead.add(1, 5, start, data[start:end])
    assert (ahead.end(1, 5), ahead.end(1, 6), ahead.has(1)) == (1000, 0, True)
    ahead.note_sync(1)
    assert ahead.is_synced(1, 1000) and not ahead.is_synced(1, 1001)
    ahead.confirm(1, 400, read)
    assert ahead.end(1, 5) == 1000
    data = data[:420] + b"another" + data[427:]
    with pytest.raises(ReplicationFailed, match="has been changed"):
        ahead.confirm(1, 430, read)
    ahead.forget(1)
    assert not ahead.has(1)
    ahead.add(1, 6, 100, data[100:])
    ahead.confirm(1, 1000, read)
    assert not ahead.has(1)
    ahead.add(1, 6, 100, data[100:])
    data = data[:500]
    with pytest.raises(ReplicationFailed):
        ahead.confirm(1, 1000, read)
    ahead.clear()
    assert not ahead.has(1)


# -- beside the disk here -----------------------------------------------------------------------------


@pytest.fixture
def may_sync(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The disk here ends no sync before this event."""
    event = threading.Event()
    event.set()
    sync = SegmentLog.sync

    def wait_and_sync(log: SegmentLog) -> None:
        assert event.wait(300)
        sync(log)

    monkeypatch.setattr(SegmentLog, "sync", wait_and_sync)
    monkeypatch.setattr(BackgroundSync, "begin", lambda self: False)
    return event


def test_a_record_goes_to_the_replica_while_the_disk_here_is_at_work(tmp_path: Path, may_sync: threading.Event) -> None:
    source, target = tmp_path / "source", tmp_path / "replica"
    is_there = threading.Event()

    async def script(server: Server) -> None:
        layout = server.archive.parts.layout

        class Watched(Replica):
            def sync(self, shipped: Sequence[Shipped]) -> None:
                super().sync(shipped)
                is_there.set()

        with replicating(layout, target, lambda: Watched(target, layout.archive_id, layout.lineage), SELDOM_S):
            await server.until_state("ready")
            assert (await server.store(1)).outcome is Outcome.STORED
            noted = held_of(target, layout, tmp_path / "noted")
            is_there.clear()
            may_sync.clear()
            waiting = asyncio.get_running_loop().create_task(server.store(2))
            await server.until(is_there.is_set)
            assert not waiting.done()
            assert held_of(target, layout, tmp_path / "ahead") == noted, "what may be lost here is noted there"
            may_sync.set()
            assert (await waiting).outcome is Outcome.STORED
            assert uid(1, 1, 2) in found_after_take_over(target, tmp_path / "promoted")

    assert served(source, target, script) == {"second_copy_peer_acknowledged": 2}


def held_of(target: Path, layout: Layout, copy: Path) -> dict[int, int]:
    """How much of each segment a replica has noted."""
    shutil.copytree(target, copy, ignore=shutil.ignore_patterns("index", "*.lock", "*.json.*"))
    replica = Replica(copy, layout.archive_id, layout.lineage)
    held = {segment_id: item.length for segment_id, item in replica.held().items()}
    replica.close()
    return held


# -- the replica, step by step --------------------------------------------------------------------------


class Steps:
    """A replication of which a test makes each step."""

    def __init__(self, archive: Archive, one: Replication) -> None:
        self.archive = archive
        self.one = one
        assert one.run_once()

    def stored(self, *payloads: bytes) -> dict[int, int]:
        """Stores data sets; up to where each segment has them."""
        store(self.archive, *payloads)
        ends: dict[int, int] = {}
        for instance in self.archive.matching("instance"):
            position = instance.position
            ends[position.segment_id] = max(position.end, ends.get(position.segment_id, 0))
        held = self.one._held
        return {each: end for each, end in ends.items() if each not in held or held[each].length < end}

    def send_ahead(self, coming: dict[int, int]) -> None:
        assert self.one._destination is not None
        self.one._awaited._send_ahead(self.one._destination, coming)

    def ship(self, wanted: dict[int, int]) -> dict[int, int]:
        assert self.one._destination is not None
        return self.one._awaited._ship(self.one._destination, wanted)


@contextmanager
def steps(tmp_path: Path) -> Iterator[Steps]:
    with opened(tmp_path / "source") as archive:
        store(archive, *some(1, 1))
        one = to_folder(archive.parts.layout, tmp_path / "replica")
        yield Steps(archive, one)
        one.close()


def same_bytes(tmp_path: Path, ends: dict[int, int]) -> bool:
    return all(
        Path(segment_path(str(tmp_path / "source" / "segments"), segment_id)).read_bytes()[:end]
        == Path(segment_path(str(tmp_path / "replica" / "segments"), segment_id)).read_bytes()[:end]
        for segment_id, end in ends.items()
    )


@pytest.mark.parametrize("is_checked", [True, False])
def test_what_has_another_content_by_then_gets_no_receipt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_checked: bool
) -> None:
    """Without the check as the control, which must give a receipt for bytes that are not there."""
    if not is_checked:
        monkeypatch.setattr(aheads, "crc32c", lambda data: 0)
    with steps(tmp_path) as step:
        ends = step.stored(*some(2, 1))
        ((segment_id, end),) = ends.items()
        path = Path(segment_path(str(tmp_path / "source" / "segments"), segment_id))
        with path.open("r+b") as file:
            file.seek(end - 1000)
            right = file.read(8)
            for content in (b"not this", right):
                file.seek(end - 1000)
                file.write(content)
                file.flush()
                if content != right:
                    step.send_ahead(ends)
        if not is_checked:
            assert step.ship(ends) == ends
            assert not same_bytes(tmp_path, ends)
            return
        with pytest.raises(ReplicationFailed, match="has been changed") as failed:
            step.ship(ends)
        assert not failed.value.is_final
        step.one.close()
        assert step.one.run_once()
        assert same_bytes(tmp_path, ends)


def test_a_pass_goes_on_where_was_sent_ahead(tmp_path: Path) -> None:
    with steps(tmp_path) as step:
        for number in range(2, 6):
            ends = step.stored(*some(number, 1))
            step.send_ahead(ends)
            if number % 2:
                assert step.ship(ends) == ends
                step.send_ahead(step.stored(*some(10 + number, 1)))
            if number == 4:
                step.stored(*some(20, 2))
            assert step.one.run_once()
            assert not any(step.one._awaited._ahead.has(each) for each in ends)
            assert step.one._destination is not None
            assert step.one._destination.held().keys() == step.one._held.keys()
            assert all(held.length >= ends.get(each, 0) for each, held in step.one._destination.held().items())
            assert same_bytes(tmp_path, ends)
            assert step.one.run_once(), "nothing is left, and what was synced is noted"
        step.one.close()
        expected = contents(step.archive)
    promote(tmp_path / "replica")
    with opened(tmp_path / "replica") as promoted:
        assert contents(promoted) == expected


def test_what_is_sent_beyond_a_receipt_does_not_count(tmp_path: Path) -> None:
    with steps(tmp_path) as step:
        first = step.stored(*some(2, 1))
        both = step.stored(*some(3, 1))
        step.send_ahead(both)
        assert step.ship(first) == first
        ((segment_id, end),) = first.items()
        assert step.one._held[segment_id].length == end
        assert step.ship(both) == both
        assert same_bytes(tmp_path, both)


def test_of_a_large_record_a_part_is_sent_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.archive.copies.awaited.AHEAD_BYTES_MAX", 20_000)
    monkeypatch.setattr("engine.archive.copies.awaited.PIECE_BYTES", 7000)
    with steps(tmp_path) as step:
        ends = step.stored(*some(2, 1))
        ((segment_id, end),) = ends.items()
        step.send_ahead(ends)
        sent_end = step.one._awaited._ahead.end(segment_id, step.one._held[segment_id].salt)
        assert sent_end == step.one._held[segment_id].length + 20_000 < end
        assert step.ship(ends) == ends
        assert same_bytes(tmp_path, ends)


@pytest.mark.parametrize("loses_syncs", [False, True])
def test_a_power_cut_there_between_sync_and_note_costs_nothing_that_has_a_receipt(
    tmp_path: Path, loses_syncs: bool
) -> None:
    """With a disk that does not sync as the control, which must lose."""
    rng = random.Random(7)
    there = Path("/there/replica")
    lost = 0
    with opened(tmp_path / "source") as archive:
        store(archive, *some(1, 1))
        disk = SimulatedDisk()
        disk.make_directory("/there")
        disk.sync_directory("/")
        step = Steps(archive, to_folder(archive.parts.layout, there, files=disk))
        disk.loses_syncs = loses_syncs
        for number in range(2, 8):
            ends = step.stored(*some(number, 1))
            if number % 2:
                step.send_ahead(ends)
            assert step.ship(ends) == ends
            after = disk.after_power_cut(rng.randrange(1 << 30))
            for segment_id, end in ends.items():
                ours = Path(segment_path(str(tmp_path / "source" / "segments"), segment_id)).read_bytes()[:end]
                lost += after.content(segment_path(str(there / "segments"), segment_id))[:end] != ours
            if number == 7 and not loses_syncs:
                expected = contents(archive)
                folder = tmp_path / "replica"
                for name in (
                    "archive.json",
                    *(f"segments/{each}" for each in after.list_directory(f"{there}/segments")),
                ):
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    (folder / name).write_bytes(after.content(f"{there}/{name}"))
                promote(folder)
                with opened(folder) as promoted:
                    assert contents(promoted) == expected
                again = to_folder(archive.parts.layout, there, files=after)
                assert again.run_once()
                again.close()
        step.one.close()
    assert bool(lost) is loses_syncs


def test_an_encrypted_archive_waits_for_its_replica_which_has_the_keys(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "replica"
    begin(source)

    async def script(server: Server) -> None:
        with replicating(server.archive.parts.layout, target, interval_s=SELDOM_S):
            await server.until_state("ready")
            for number in range(1, 6):
                assert (await server.store(number, PatientName=NAME)).outcome is Outcome.STORED
            assert marked_files(target) == []
            assert found_after_take_over(target, tmp_path / "promoted") == {uid(1, 1, number) for number in range(1, 6)}

    assert served(source, target, script) == {"second_copy_peer_acknowledged": 5}


def test_who_does_not_know_of_what_comes_is_not_told(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "replica"

    async def script(server: Server) -> None:
        copy = server.copies.at("peer")
        with replicating(server.archive.parts.layout, target, interval_s=SELDOM_S):
            await server.until_state("ready")
            copy._takes_coming = False  # as a replication of an earlier version leaves it
            for number in (1, 2):
                assert (await server.store(number)).outcome is Outcome.STORED
            assert copy._state is Kind.READY

    served(source, target, script)
