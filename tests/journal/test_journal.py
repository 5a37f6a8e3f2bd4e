"""The journal keeps every message that was synced, in order, once, and knows what has been applied."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.errors import ArchiveInUse, JournalError
from engine.journal.entry import Fault, Outcome, Received, Result
from engine.journal.history import History, Row
from engine.journal.journal import Journal
from engine.storage.files import Files
from engine.storage.keyring import KEYRING, DataKey

ARCHIVE_ID = bytes(range(16))


def received(
    control_id: str = "1", *, time: float = 1000.0, fault: Fault | None = None, patient: str = "P1"
) -> Received:
    return Received(
        time=time, source="ris", host="10.0.0.1", kind="ADT^A08", control_id=control_id, application="KIS",
        facility="ST", patient_id=patient, fault=fault,
    )  # fmt: skip


@contextmanager
def opened(folder: Path, **options: object) -> Iterator[Journal]:
    options = {"segment_bytes": 1 << 20, "prewrite_bytes": 0, "clock": lambda: 1000.0, **options}
    journal = Journal(str(folder / "journal"), Files(), ARCHIVE_ID, **options)  # type: ignore[arg-type]
    try:
        yield journal
    finally:
        journal.close()


def rows(folder: Path) -> list[Row]:
    history = History(str(folder / "journal"), Files())
    try:
        return list(history.rows())
    finally:
        history.close()


def test_the_disk_begins_early_with_long_messages_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    monkeypatch.setattr(Files, "write_back", lambda self, fd, offset, length: begun.append(length))
    with opened(tmp_path) as journal:
        for number in range(1, 20):
            journal.append(received(str(number)), bytes(1500))
        assert not begun
        journal.append(received("20"), bytes(100_000))
        assert len(begun) == 1 and begun[0] >= 100_000


def test_the_messages_below_a_number_are_read_without_the_segments_after_them(tmp_path: Path) -> None:
    with opened(tmp_path, segment_bytes=1 << 16) as journal:
        for number in range(1, 61):
            journal.append(received(str(number)), bytes(10_000))
            journal.append_outcome(done(number))
            journal.log.sync()
            journal.seal_rolled()
    history = History(str(tmp_path / "journal"), Files())
    assert len(history.segments()) > 5
    read: list[int] = []
    records, history.records = history.records, lambda segment: read.append(segment) or records(segment)  # type: ignore[method-assign,func-returns-value]
    for before in (61, 60, 40, 13, 7, 2, 1):
        read.clear()
        found = list(history.rows(before))
        assert [row.number for row in found] == list(range(before - 1, 0, -1))
        assert all(row.outcome is not None for row in found)
        assert before > 50 or len(read) < len(history.segments())
    history.close()


def done(number: int, result: Result = Result.APPLIED, **more: bool) -> Outcome:
    return Outcome(number=number, time=1001.0, result=result, **more)


def test_messages_are_read_again_with_what_they_did(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        assert journal.append(received("1"), b"first") == 1
        assert journal.append(received("2"), b"second") == 2
        assert journal.append(received("3", fault=Fault(200, "no")), b"third") == 3
        journal.append_outcome(done(1))
        assert journal.cursor == 1
    found = rows(tmp_path)
    assert [row.number for row in found] == [3, 2, 1]
    assert [row.outcome and row.outcome.result for row in found] == [None, None, Result.APPLIED]
    history = History(str(tmp_path / "journal"), Files())
    assert history.read(history.find(2).position) == b"second"
    with pytest.raises(JournalError):
        history.find(4)
    history.close()


def test_a_start_knows_what_waits_and_goes_on_with_the_numbers(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        for number in range(1, 6):
            journal.append(received(str(number)), b"message")
        journal.append_outcome(done(1))
        journal.append_outcome(done(2))
    with opened(tmp_path) as journal:
        assert journal.cursor == 2
        assert [each.number for each in journal.waiting] == [3, 4, 5]
        assert journal.append(received("6"), b"x") == 6


def test_a_refused_message_waits_for_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.append(received(fault=Fault(101, "PID-3 is empty", "PID", 1, 3)), b"x")
        assert not journal.waiting
    with opened(tmp_path) as journal:
        assert not journal.waiting and journal.last_number == 1
    assert rows(tmp_path)[0].received.fault == Fault(101, "PID-3 is empty", "PID", 1, 3)


def test_a_replay_does_not_move_the_cursor(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        for number in range(3):
            journal.append(received(str(number)), b"x")
        journal.append_outcome(done(1))
        journal.append_outcome(done(3, is_replay=True))
    with opened(tmp_path) as journal:
        assert [each.number for each in journal.waiting] == [2, 3]


def test_a_message_that_comes_again_is_known_also_after_a_start(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        assert journal.known(received("7"), b"same") is None
        journal.append(received("7"), b"same")
        for _ in range(2):
            same, other = journal.known(received("7"), b"same"), journal.known(received("7"), b"other")
            assert same is not None and other is not None
            assert (same.number, same.is_same, other.is_same) == (1, True, False)
            journal.close()
            journal = Journal(str(tmp_path / "journal"), Files(), ARCHIVE_ID, clock=lambda: 1000.0)
        assert journal.known(received("8"), b"same") is None
        journal.close()


def test_a_message_without_an_id_is_never_known(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.append(received(""), b"same")
        assert journal.known(received(""), b"same") is None


def test_the_window_of_duplicates_has_an_end(tmp_path: Path) -> None:
    with opened(tmp_path, window_s=10.0) as journal:
        journal.append(received("1", time=1000.0), b"x")
        journal.append(received("2", time=1009.0), b"x")
        journal.append(received("3", time=1011.0), b"x")
        assert journal.known(received("1"), b"x") is None
        assert journal.known(received("2"), b"x") is not None
    with opened(tmp_path, window_s=10.0, clock=lambda: 1020.0) as journal:
        assert journal.known(received("2"), b"x") is None and journal.known(received("3"), b"x") is not None
    with opened(tmp_path, identifiers_max=1) as journal:
        assert journal.known(received("2"), b"x") is None and journal.known(received("3"), b"x") is not None


def test_segments_roll_and_the_order_stays(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        for number in range(40):
            journal.append(received(str(number)), bytes(100_000))
            journal.append_outcome(done(number + 1))
        journal.log.sync()
        journal.seal_rolled()
        assert len(journal.history.segments()) > 3
    assert [row.number for row in rows(tmp_path)] == list(range(40, 0, -1))
    assert all(row.outcome for row in rows(tmp_path))


def test_retention_removes_whole_segments_that_are_applied_and_no_number_comes_twice(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        for number in range(60):
            journal.append(received(str(number)), bytes(100_000))
        for number in range(1, 31):
            journal.append_outcome(done(number))
            journal.waiting.popleft()
        journal.log.sync()
        journal.seal_rolled()
        for segment_id in journal.history.segments():
            os.utime(tmp_path / "journal" / f"{segment_id:016x}.seg", (500, 500))
        assert journal.remove_before(400.0) == 0
        assert journal.remove_before(600.0) > 0
        left = [row.number for row in rows(tmp_path)]
        assert set(range(31, 61)) <= set(left) and 1 not in left
    with opened(tmp_path) as journal:
        assert journal.last_number == 60


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(ArchiveInUse), opened(tmp_path):
        pass
    with opened(tmp_path):
        pass


def test_an_encrypted_journal_shows_no_message_without_its_key(tmp_path: Path) -> None:
    key = DataKey(b"journal1", bytes(range(32)), ARCHIVE_ID)
    KEYRING.add([key])
    try:
        with opened(tmp_path, data_key=lambda: key) as journal:
            journal.append(received("1", patient="SECRET-ID"), b"SECRET-MESSAGE")
            assert journal.known(received("1"), b"SECRET-MESSAGE") is not None
        stored = b"".join(path.read_bytes() for path in (tmp_path / "journal").iterdir())
        assert b"SECRET" not in stored
        with opened(tmp_path) as journal:
            assert journal.read(journal.waiting[0].position) == b"SECRET-MESSAGE"
        assert rows(tmp_path)[0].received.patient_id == "SECRET-ID"
    finally:
        KEYRING.drop([key.key_id])


WRITER = """
    import sys
    from engine.journal.entry import Outcome, Received, Result
    from engine.journal.journal import Journal
    from engine.storage.files import Files
    journal = Journal(sys.argv[1], Files(), bytes(range(16)), segment_bytes=1 << 20, prewrite_bytes=0)
    number = journal.last_number
    while True:
        number += 1
        entry = Received(time=1.0, source="s", host="h", control_id=str(number))
        assert journal.append(entry, b"%d " % number * 1000) == number
        if number % 3 == 0:
            journal.append_outcome(Outcome(number=number // 3, time=1.0, result=Result.APPLIED))
        journal.log.sync()
        sys.stdout.write(f"{number}\\n")
        sys.stdout.flush()
"""


def test_what_was_synced_before_a_kill_is_there_after_it(tmp_path: Path) -> None:
    """Rounds of kill -9: numbers have no gap, none is lost that was reported, and every one has its own bytes."""
    highest = 0
    for round_ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path / "journal")],
            stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert process.stdout is not None
        for _ in range(60 * round_ + 25):
            line = process.stdout.readline()
            assert line, "the writer has ended"
            highest = int(line)
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().splitlines()
        process.stdout.close()
        process.wait()
        highest = max([highest, *(int(line) for line in rest if line.strip().isdigit())])
        with opened(tmp_path) as journal:
            assert journal.last_number >= highest
            highest = journal.last_number
            assert journal.cursor in (highest // 3, highest // 3 - 1)
            for waiting in journal.waiting:
                assert journal.read(waiting.position) == b"%d " % waiting.number * 1000
        assert [row.number for row in rows(tmp_path)] == list(range(highest, 0, -1))


def test_a_message_is_read_although_its_segment_has_the_number_of_a_spare_that_a_kill_left(tmp_path: Path) -> None:
    """The recovery removes the spare, and the next segment gets its number: no open file of it may stay behind."""
    with opened(tmp_path / "alive", prewrite_bytes=1 << 16) as journal:
        journal.append(received("1"), b"first")
        journal.log.sync()
        journal.log.prepare()
        shutil.copytree(tmp_path / "alive", tmp_path / "killed")
    with opened(tmp_path / "killed", prewrite_bytes=1 << 16) as journal:
        journal.append(received("2"), b"second")
        journal.log.sync()
        found = [journal.read(row.position) for row in rows(tmp_path / "killed")]
    assert found == [b"second", b"first"]


def test_damage_in_one_message_costs_that_message_alone(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        for number in range(1, 4):
            journal.append(received(str(number)), b"message %d" % number * 10)
        position = journal.waiting[1].position
    path = next((tmp_path / "journal").glob("*.seg"))
    data = bytearray(path.read_bytes())
    data[position.payload_offset] ^= 1
    path.write_bytes(data)
    with opened(tmp_path) as journal:
        assert journal.read(journal.waiting[2].position).startswith(b"message 3")
        assert journal.known(received("3"), b"message 3" * 10) is not None
        damaged = journal.known(received("2"), b"message 2" * 10)
        assert damaged is not None and not damaged.is_same, "its sender may send it again, and it is kept"
