"""One archive whose segments were made by several writers, each with a slot of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from engine.archive import layout as layouts
from engine.archive import verify
from engine.archive.archive import Archive
from engine.archive.copies import lag
from engine.archive.copies.backup import back_up
from engine.archive.copies.backup_check import verify_backup
from engine.archive.copies.restore import restore
from engine.archive.lifecycle.compaction import Compactor
from engine.archive.settings import Compaction
from engine.errors import StorageError
from engine.index.format.types import Level, Outcome
from engine.storage.files import Files
from engine.storage.recovery import has_sealed_later
from engine.storage.segment import list_segments, segment_path
from engine.storage.segment_ids import SLOT_MAX, ListedIds, newest_of_slots, segment_id_of, slot_of
from engine.storage.segment_store import LayeredSegments, LocalSegments
from tests.actors import actor
from tests.archive import kept
from tests.archive.replicas import replicating
from tests.index.entries import meaning
from tests.memory_segments import MemoryPlace

SLOTS = (0, 1, 7, SLOT_MAX)
EACH = 6


@pytest.fixture
def joined(tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    """An archive with segments of all slots, and what is stored."""
    data = tmp_path / "data"
    payloads = {}
    for turn, slot in enumerate(SLOTS):
        node = kept.node_of(data, tmp_path / f"node-{slot}", slot) if slot else data
        with kept.opened(node, segment_bytes=1 << 14) as archive:
            numbers = range(100 * turn, 100 * turn + EACH)
            assert kept.store(archive, map(kept.data_set, numbers)) == [Outcome.STORED] * EACH
            payloads |= {kept.uid_of(number): kept.data_set(number) for number in numbers}
        for segment_id in list_segments(str(node / "segments"), Files()):
            assert slot_of(segment_id) == slot
            if slot:
                shutil.copy(segment_path(str(node / "segments"), segment_id), data / "segments")
    return data, payloads


def stored(data: Path) -> dict[str, bytes]:
    """Every instance of a clean archive, by UID."""
    with Archive.open(data, role="keeper") as archive:
        report = verify.check(archive, payloads=True)
        assert report.findings == []
        instances = archive.parts.index.current_instances()
        return {instance.sop_instance_uid: archive.retrieval.open(instance).whole() for instance in instances}


def test_segments_of_several_slots_are_read_compacted_and_rebuilt(joined: tuple[Path, dict[str, bytes]]) -> None:
    data, payloads = joined
    assert stored(data) == payloads
    own_newest = newest_of_slots(list_segments(str(data / "segments"), Files()))
    removed = list(payloads)[1::3]
    with kept.opened(data) as archive:
        doomed = [kept.current(archive, uid) for uid in removed]
        archive.delete_instances(doomed, level=Level.IMAGE, actor=actor("test"), reason="")
        Compactor(archive, Compaction(), segment_bytes=1 << 20, everything=True).run()
    expected = {uid: payload for uid, payload in payloads.items() if uid not in removed}
    assert stored(data) == expected
    after = list_segments(str(data / "segments"), Files())
    assert {slot for slot in map(slot_of, after) if slot} <= set(SLOTS)
    assert newest_of_slots(after)[0] > own_newest[0], "what is made here has the number after the newest of slot 0"
    with Archive.open(data, role="keeper") as archive:
        content = meaning(archive.parts.index)
    assert Archive.rebuild_index(data).findings == []
    with Archive.open(data, role="keeper") as archive:
        assert meaning(archive.parts.index) == content
    assert stored(data) == expected


def test_a_number_is_never_taken_from_another_slot_nor_twice(tmp_path: Path) -> None:
    files, folder = Files(), tmp_path / "segments"
    folder.mkdir()
    elsewhere = MemoryPlace({segment_id_of(3, 41): bytearray()})
    for segment_id in (0, 5, segment_id_of(3, 7), segment_id_of(SLOT_MAX, 9)):
        (folder / f"{segment_id:016x}.seg").touch()
    local = LocalSegments(str(folder), files)
    ids = {slot: ListedIds(LayeredSegments(local, elsewhere), slot) for slot in (0, 1, 3, SLOT_MAX)}
    first = {slot: ids[slot].next() for slot in ids}
    assert first == {
        0: 6,
        1: segment_id_of(1, 0),
        3: segment_id_of(3, 42),
        SLOT_MAX: segment_id_of(SLOT_MAX, 10),
    }
    assert {slot: ids[slot].next() for slot in ids} == {slot: number + 1 for slot, number in first.items()}
    (folder / f"{segment_id_of(1, 0) - 1:016x}.seg").touch()
    with pytest.raises(StorageError, match="no segment can follow"):
        ids[0].next()


def test_a_writer_of_the_same_name_in_another_slot_is_another_writer(joined: tuple[Path, dict[str, bytes]]) -> None:
    directory = str(joined[0] / "segments")
    present = list_segments(directory, Files())
    newest = newest_of_slots(present)
    for segment_id in present:
        # All writers are labelled "test", and seal in order: only the last one of a slot has no later one.
        expected = segment_id != newest[slot_of(segment_id)]
        assert has_sealed_later(Files(), directory, segment_id, present) == expected


def test_a_new_segment_of_a_low_slot_is_lag(joined: tuple[Path, dict[str, bytes]]) -> None:
    data = joined[0]
    layout = layouts.existing(data)
    present = list_segments(layout.segments, Files())
    status: dict[str, object] = {"seen": lag.seen(present, {}, has_hospital=False), "lag_bytes": 0}
    assert lag.now_bytes(layout, status) == 0
    with kept.opened(data) as archive:
        kept.store(archive, [kept.data_set(999)])
    (new,) = set(list_segments(layout.segments, Files())) - set(present)
    assert slot_of(new) == 0
    assert lag.now_bytes(layout, status) == Path(segment_path(layout.segments, new)).stat().st_size
    older = {"seen": {"last": 0, "open": []}, "lag_bytes": 0}
    newer = [number for number in present if number > 0]
    bytes_there = [Path(segment_path(layout.segments, number)).stat().st_size for number in [*newer, new]]
    assert lag.now_bytes(layout, older) == sum(bytes_there)


def test_segments_of_several_slots_are_backed_up_and_replicated(
    joined: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    data, payloads = joined
    assert stored(data) == payloads
    layout = layouts.existing(data)
    for _ in range(2):
        assert back_up(layout, tmp_path / "backup", keep=1).findings == []
        with kept.opened(data, segment_bytes=1 << 14) as archive:
            number = 300 + len(payloads)
            assert kept.store(archive, [kept.data_set(number)]) == [Outcome.STORED]
            payloads[kept.uid_of(number)] = kept.data_set(number)
    assert back_up(layout, tmp_path / "backup", keep=1).findings == []
    assert verify_backup(tmp_path / "backup").findings == []
    restore(tmp_path / "backup", tmp_path / "restored")
    assert stored(tmp_path / "restored") == payloads
    replication = replicating(layout, tmp_path / "replica")
    assert replication.run_once()
    replication.close()
    with Archive.open(tmp_path / "replica", role="keeper") as archive:
        assert {instance.sop_instance_uid for instance in archive.parts.index.current_instances()} == set(payloads)
