"""study.keys on a disk that forgets: a kill and a power cut at every call. No acknowledged record is ever unreadable, a
destroyed key never comes back, and whose a key is that an acknowledged record needs is never forgotten."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from engine.errors import KeyDestroyed, KeyStoreError
from engine.keys import study_keys
from engine.keys.study_keys import SLOT_BYTES, State, StudyKeys
from engine.storage.files import Files
from engine.storage.keyring import KEYRING, DataKey
from engine.storage.reader import LogReader
from engine.storage.record import Position, crc32c
from engine.storage.recovery import recover_segment
from engine.storage.segment import list_segments
from engine.storage.segment_log import SegmentLog
from engine.storage.segment_store import LocalSegments
from tests.faulty_files import PowerCut, SimulatedDisk

DIRECTORY = "D"
DATA = Path(DIRECTORY)
ARCHIVE_ID = b"archive-id-16-by"
DATA_KEY = DataKey(b"studykey", bytes(range(32)), ARCHIVE_ID)
WRAPPING = DataKey(b"wrapping", bytes(range(32)), ARCHIVE_ID)
SEEDS = (1, 2, 3)


@pytest.fixture(autouse=True)
def unlocked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(study_keys, "RESERVE", 3)
    KEYRING.clear()
    KEYRING.add([DATA_KEY])
    yield
    KEYRING.clear()


def unlock(files: Files) -> StudyKeys:
    keys = StudyKeys(DATA, ARCHIVE_ID, files, WRAPPING)
    KEYRING.add_finder("test", keys.find)
    return keys


def ready(disk: SimulatedDisk) -> None:
    StudyKeys.create(DATA, ARCHIVE_ID, disk)
    keys = unlock(disk)
    keys.use(True)
    disk.calls = 0


class Promised(NamedTuple):
    """What the world was told before the cut."""

    synced: dict[Position, tuple[bytes, bytes]]
    """Study and payload of each acknowledged record."""
    shredded: set[Position]
    """Those whose study was shredded, and said to be."""
    doubtful: set[bytes]
    """Studies whose shredding had begun."""
    destroyed: set[bytes]
    """The ids of keys that were said to be destroyed."""


def work(disk: SimulatedDisk, seed: int) -> Promised:
    """Stores instances of some studies, and shreds studies, until the power goes."""
    rng = random.Random(seed)
    promised = Promised({}, set(), set(), set())
    unsynced: dict[Position, tuple[bytes, bytes]] = {}
    try:
        keys = unlock(disk)
        log = SegmentLog(
            DIRECTORY, disk, ARCHIVE_ID, writer="w", segment_bytes=12_000, data_key=lambda: DATA_KEY, study_keys=keys,
            clock_ns=lambda: 7, random_bytes=rng.randbytes,
        )  # fmt: skip
        for count in range(12):
            study = b"1.2.%d" % rng.randrange(4)
            payload = rng.randbytes(rng.choice((0, 10, 600)))
            crc = crc32c(payload)
            if rng.random() < 0.15:
                appender = log.begin_stream(1, 0, count, b"%d" % count, 20)
                appender.write([payload], len(payload))
                promised.synced[appender.finish(b"meta", crc, study=study)] = study, payload
            else:
                position = log.append(1, 0, count, b"%d" % count, b"meta", [payload], len(payload), crc, study=study)
                unsynced[position] = study, payload
            if rng.random() < 0.5:
                log.sync()
                promised.synced.update(unsynced)
                unsynced.clear()
            if rng.random() < 0.25:
                # What `shredding` does when nothing of a study is left.
                log.sync()
                promised.synced.update(unsynced)
                unsynced.clear()
                promised.doubtful.add(study)
                own = keys.of_studies([study]).get(study, [])
                keys.retire(own)
                keys.destroy(keys.of_studies([study]).get(study, []))
                promised.destroyed.update(key.key_id for key in own)
                promised.shredded.update(place for place, (whose, _) in promised.synced.items() if whose == study)
                promised.doubtful.discard(study)
    except PowerCut:
        pass
    return promised


def judge(disk: SimulatedDisk, promised: Promised, replay: str) -> None:
    keys = unlock(disk)
    states = {slot.key_id: slot for slot in keys.slots()}
    for key_id in promised.destroyed:
        assert states[key_id].state == State.DESTROYED, f"{replay}: a destroyed key came back"
        with pytest.raises(KeyDestroyed):
            keys.find(key_id)
    for segment_id in list_segments(DIRECTORY, disk):
        recover_segment(disk, DIRECTORY, segment_id, 0)
    reader = LogReader(LocalSegments(DIRECTORY, disk))
    for position, (study, payload) in promised.synced.items():
        if position in promised.shredded:
            with pytest.raises(KeyDestroyed):
                reader.read_record(position)
        elif study in promised.doubtful:
            try:
                assert reader.read(position) == payload, replay
            except KeyDestroyed:
                pass
        else:
            assert reader.read(position) == payload, replay
            # And it can be shredded: its key is known as that of its study.
            key_id = reader.key_id(position)
            assert key_id in {key.key_id for key in keys.of_studies([study])[study]}, replay
    reader.close()
    keys.settle()
    for key_id in promised.destroyed:
        number = states[key_id].number
        start = study_keys.HEADER_BYTES + number * SLOT_BYTES
        assert not any(disk.content(keys.path)[start + 32 : start + 80]), f"{replay}: a destroyed key is still there"


def call_count(seed: int) -> int:
    disk = SimulatedDisk()
    ready(disk)
    work(disk, seed)
    return disk.calls


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["kill", "power"])
def test_at_every_call(seed: int, kind: str) -> None:
    shredded = 0
    for cut_at in range(1, call_count(seed) + 1):
        disk = SimulatedDisk()
        ready(disk)
        disk.cut_at = cut_at
        promised = work(disk, seed)
        shredded += len(promised.shredded)
        for state in range(1 if kind == "kill" else 3):
            after = disk.after_kill() if kind == "kill" else disk.after_power_cut(state)
            judge(after, promised, f"seed {seed}, {kind} at {cut_at}, state {state}")
    assert shredded


def test_a_key_that_is_not_durable_before_its_record_would_be_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a disk whose syncs do nothing."""
    with pytest.raises((AssertionError, KeyError, KeyStoreError)):
        for cut_at in range(5, call_count(0) + 1):
            disk = SimulatedDisk()
            ready(disk)
            disk.loses_syncs = True
            disk.cut_at = cut_at
            promised = work(disk, 0)
            for state in range(5):
                judge(disk.after_power_cut(state), promised, "control")


def made(folder: Path) -> StudyKeys:
    StudyKeys.create(folder, ARCHIVE_ID, Files())
    keys = StudyKeys(folder, ARCHIVE_ID, Files(), WRAPPING)
    keys.use(True)
    return keys


def test_a_writer_whose_key_another_process_retires_meanwhile_takes_another_one(tmp_path: Path) -> None:
    keys, other = made(tmp_path), StudyKeys(tmp_path, ARCHIVE_ID, Files(), WRAPPING)
    key = keys.of(b"1.2")
    assert keys.is_current(b"1.2", key)
    assert keys.of(b"1.2") is key
    other.retire(other.of_studies([b"1.2"])[b"1.2"])
    assert not keys.is_current(b"1.2", key)
    fresh = keys.of(b"1.2")
    assert fresh.key_id != key.key_id
    assert keys.is_current(b"1.2", fresh)
    assert keys.find(key.key_id) is not None  # old records stay readable
    other.destroy(other.of_studies([b"1.2"])[b"1.2"][:1])
    with pytest.raises(KeyDestroyed):
        keys.find(key.key_id)
    assert keys.find(fresh.key_id) is not None


def test_a_record_that_is_written_while_its_key_is_retired_is_written_again(tmp_path: Path) -> None:
    keys, other = made(tmp_path), StudyKeys(tmp_path, ARCHIVE_ID, Files(), WRAPPING)
    KEYRING.add_finder(keys.path, keys.find)
    (tmp_path / "segments").mkdir()

    class Shredder(Files):
        """Retires the key at the moment in which the record is written."""

        __slots__ = ("waits",)

        def pwritev(self, fd: int, buffers: object, offset: int, length: int = -1) -> None:
            super().pwritev(fd, buffers, offset, length)  # type: ignore[arg-type]
            if self.waits and offset >= 4096:
                self.waits = False
                other.retire(other.of_studies([b"1.2"])[b"1.2"])
                other.destroy(other.of_studies([b"1.2"])[b"1.2"])

    files = Shredder()
    files.waits = False
    log = SegmentLog(
        str(tmp_path / "segments"), files, ARCHIVE_ID, writer="w", segment_bytes=1 << 20, data_key=lambda: DATA_KEY,
        study_keys=keys, allocate=False,
    )  # fmt: skip
    log.append(1, 0, 1, b"a", b"m", [b"one"], 3, crc32c(b"one"), study=b"1.2")
    files.waits = True
    position = log.append(1, 0, 2, b"b", b"m", [b"two"], 3, crc32c(b"two"), study=b"1.2")
    log.close()
    reader = LogReader(LocalSegments(str(tmp_path / "segments"), Files()))
    assert reader.read(position) == b"two"
    reader.close()
    assert [key.state for key in other.of_studies([b"1.2"])[b"1.2"]] == [State.DESTROYED, State.ASSIGNED]


def test_damage_is_named_and_a_file_of_another_archive_refused(tmp_path: Path) -> None:
    keys = made(tmp_path)
    keys.of(b"1.2")
    path = tmp_path / study_keys.FILE
    study_keys.check(path, ARCHIVE_ID, Files())
    data = bytearray(path.read_bytes())
    data[study_keys.HEADER_BYTES + 40] ^= 1
    path.write_bytes(data)
    with pytest.raises(KeyStoreError, match="slot 0"):
        study_keys.check(path, ARCHIVE_ID, Files())
    with pytest.raises(KeyStoreError, match="another archive"):
        study_keys.check(path, b"another-id-16-by", Files())
    path.write_bytes(b"\0" * 10)
    with pytest.raises(KeyStoreError, match="damaged"):
        study_keys.check(path, ARCHIVE_ID, Files())


def _has_other(keys: StudyKeys, key: DataKey, *, is_destroyed: bool) -> str:
    """What is wrong in what a file says of a key: it may say that it is damaged, but nothing else that is untrue."""
    try:
        found = keys.find(key.key_id)
    except KeyDestroyed:
        return "" if is_destroyed else "destroyed"
    except KeyStoreError:
        return ""
    return "" if found is None or (found.secret == key.secret and not is_destroyed) else "another key"


def test_no_damaged_byte_makes_a_key_destroyed_or_another_one(tmp_path: Path) -> None:
    """Whoever restores a backup destroys what another copy of the file says is destroyed."""
    keys = made(tmp_path)
    used, retired, destroyed = (keys.of(b"1.2.%d" % number) for number in range(3))
    slots = list(keys.slots())
    keys.retire(slots[1:])
    keys.destroy(slots[2:])
    keys.close()
    path = tmp_path / study_keys.FILE
    whole = path.read_bytes()
    for at in (*range(28), *range(512, 521), *range(study_keys.HEADER_BYTES, study_keys.HEADER_BYTES + 3 * SLOT_BYTES)):
        data = bytearray(whole)
        data[at] ^= 1
        path.write_bytes(data)
        try:
            names = study_keys.destroyed_in(path, ARCHIVE_ID, Files())
        except KeyStoreError:
            names = set()
        assert not names & {used.key_id, retired.key_id}, at
        try:
            odd = StudyKeys(tmp_path, ARCHIVE_ID, Files(), WRAPPING)
        except KeyStoreError:
            continue
        assert odd.is_in_use or at == 520
        for key in (used, retired, destroyed):
            assert not _has_other(odd, key, is_destroyed=key is destroyed), at
        odd.study_of(slots[1])
        odd.close()


def test_a_file_that_is_cut_off_has_the_keys_before_the_cut(tmp_path: Path) -> None:
    keys = made(tmp_path)
    first, second = keys.of(b"1.2.1"), keys.of(b"1.2.2")
    slots = list(keys.slots())
    with (tmp_path / study_keys.FILE).open("r+b") as file:
        file.truncate(study_keys.HEADER_BYTES + SLOT_BYTES + 100)
    keys = StudyKeys(tmp_path, ARCHIVE_ID, Files(), WRAPPING)
    found = keys.find(first.key_id)
    assert found is not None and found.secret == first.secret
    assert keys.find(second.key_id) is None and keys.study_of(slots[1]) == b""


def test_many_threads_and_processes_never_share_a_slot(tmp_path: Path) -> None:
    first, second = made(tmp_path), StudyKeys(tmp_path, ARCHIVE_ID, Files(), WRAPPING)
    ids = [keys.of(b"1.%d" % number).key_id for number in range(40) for keys in (first, second)]
    assert len(set(ids)) == 80
    assert len({key_id[:4] for key_id in ids}) == 80


def test_the_study_of_a_key_is_not_readable_in_the_file(tmp_path: Path) -> None:
    keys = made(tmp_path)
    keys.of(b"1.2.840.4711")
    assert b"4711" not in (tmp_path / study_keys.FILE).read_bytes()
    assert keys.study_of(keys.of_studies([b"1.2.840.4711"])[b"1.2.840.4711"][0]) == b"1.2.840.4711"
