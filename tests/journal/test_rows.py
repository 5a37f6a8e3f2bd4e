"""The tables of rows say of each message what the log says, or they are not believed."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from engine.errors import StorageFull
from engine.journal import row_keeper, row_table
from engine.journal.entry import Fault, Outcome, Result
from engine.journal.history import History, Row
from engine.journal.journal import Journal
from engine.journal.row_table import HEADER_BYTES, ROW_BYTES
from engine.storage.files import Files
from tests.journal.test_journal import ARCHIVE_ID, done, opened, received, rows

SEED = 20261130


def fill(folder: Path, seed: int = SEED, segments: int = 4) -> list[Outcome]:
    """A journal of several segments with refusals, faults and replays; returns the last outcome of each message."""
    choose = random.Random(seed)
    last: dict[int, Outcome] = {}
    with opened(folder, segment_bytes=1 << 16) as journal:
        while len(journal.history.segments()) < segments:
            fault = Fault(101, "PID-3 is empty") if choose.random() < 0.1 else None
            number = journal.append(received(str(journal.last_number), fault=fault), bytes(choose.randrange(4000)))
            if choose.random() < 0.2 and number > 5:
                outcome = done(choose.randrange(1, number + 1), Result.UNCHANGED, is_replay=True)
                journal.append_outcome(outcome)
                last[outcome.number] = outcome
            while len(journal.waiting) > choose.randrange(1, 8):
                first = journal.waiting.popleft().number
                refusal = Fault(204, f"refused {first}") if choose.random() < 0.2 else None
                outcome = Outcome(number=first, time=1.0, result=Result.REFUSED if refusal else Result.APPLIED,
                                  fault=refusal)  # fmt: skip
                journal.append_outcome(outcome)
                last[first] = outcome
            journal.log.sync()
            journal.seal_rolled()
        journal.append(received("the last one"), b"message")
    return [last[number] for number in sorted(last)]


def tables(folder: Path) -> list[Path]:
    return sorted((folder / "journal").glob("*.rows"))


def state(journal: Journal) -> tuple[object, ...]:
    waiting = [(each.number, each.position) for each in journal.waiting]
    return journal.cursor, journal.last_number, waiting, journal.refusals, journal._places, list(journal._ages)


def state_and_rows(folder: Path) -> tuple[tuple[object, ...], list[Row]]:
    with opened(folder, segment_bytes=1 << 16) as journal:
        return state(journal), rows(folder)


def walked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The segments that are walked over from now on."""
    seen: list[int] = []
    records = History.records

    def noted(self: History, segment_id: int, start_offset: int = 0) -> list[object]:
        seen.append(segment_id)
        return records(self, segment_id, start_offset)  # type: ignore[return-value]

    monkeypatch.setattr(History, "records", noted)
    return seen


def test_a_page_and_a_start_after_a_clean_end_walk_over_no_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = fill(tmp_path)
    seen = walked(monkeypatch)
    history = History(str(tmp_path / "journal"), Files())
    found = list(history.rows())
    assert [row.outcome for row in reversed(found) if row.outcome] == last
    for before in (2, 7, len(found) // 2, len(found), len(found) + 1, len(found) + 100):
        assert list(history.rows(before)) == [row for row in found if row.number < before]
    for row in found[::5]:
        assert history.find(row.number) == row
    history.close()
    state_and_rows(tmp_path)
    assert seen == []


@pytest.mark.parametrize("seed", range(SEED, SEED + 3))
def test_tables_that_are_made_anew_say_the_same(tmp_path: Path, seed: int) -> None:
    fill(tmp_path, seed)
    before = state_and_rows(tmp_path)
    contents = [path.read_bytes() for path in tables(tmp_path)]
    for kept in range(len(contents)):
        for path in tables(tmp_path)[kept:]:
            path.unlink()
        assert state_and_rows(tmp_path) == before
        assert [path.read_bytes() for path in tables(tmp_path)] == contents


def test_readers_do_without_tables(tmp_path: Path) -> None:
    fill(tmp_path)
    before = rows(tmp_path)
    for path in tables(tmp_path):
        path.unlink()
    assert [row.number for row in rows(tmp_path)] == [row.number for row in before]
    assert rows(tmp_path) == before


def test_a_row_that_a_killed_writer_did_not_write_is_made_at_the_next_start(tmp_path: Path) -> None:
    fill(tmp_path)
    before = state_and_rows(tmp_path)
    path = tables(tmp_path)[-1]
    content = path.read_bytes()
    for count in range(1, 5):
        path.write_bytes(content[: -ROW_BYTES * count])
        assert state_and_rows(tmp_path) == before


def test_a_damaged_table_is_never_believed(tmp_path: Path) -> None:
    fill(tmp_path, segments=2)
    before = state_and_rows(tmp_path)
    choose = random.Random(SEED)
    for path in tables(tmp_path):
        content = path.read_bytes()
        used = [at for at in range(len(content)) if at < 60 or at >= HEADER_BYTES]
        for at in choose.sample(used, 25):
            damaged = bytearray(content)
            damaged[at] ^= 1 << choose.randrange(8)
            path.write_bytes(damaged)
            assert rows(tmp_path) == before[1], f"byte {at} of {path.name}"
            assert state_and_rows(tmp_path) == before, f"byte {at} of {path.name}"
        path.write_bytes(content[: len(content) // 2])
        assert state_and_rows(tmp_path)[0] == before[0]
        path.write_bytes(content)


def test_tables_that_were_not_synced_are_not_believed_after_another_start_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path)
    before = state_and_rows(tmp_path)
    with opened(tmp_path, segment_bytes=1 << 16) as journal:
        journal.append_outcome(done(1, Result.UNCHANGED, is_replay=True))
        journal.log.sync()
        path = tables(tmp_path)[0]
        content = path.read_bytes()
    after = state_and_rows(tmp_path)
    assert after[1][-1] != before[1][-1]
    lost = bytearray(content)
    lost[HEADER_BYTES : HEADER_BYTES + ROW_BYTES] = bytes(ROW_BYTES)  # a power cut kept the header alone
    path.write_bytes(lost)
    monkeypatch.setattr(row_table, "boot_id", lambda: "another")
    assert state_and_rows(tmp_path) == after


def test_a_table_of_another_history_is_not_believed(tmp_path: Path) -> None:
    """The same segment numbers, as in a folder that was restored from a backup."""
    one, other = tmp_path / "one", tmp_path / "other"
    fill(one, SEED)
    fill(other, SEED + 1)
    expected = state_and_rows(other)
    for path in tables(one):
        (other / "journal" / path.name).write_bytes(path.read_bytes())
    assert rows(other) == expected[1]
    assert state_and_rows(other) == expected


def test_a_log_that_lost_its_end_is_believed_before_its_table(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        for number in range(1, 6):
            journal.append(received(str(number)), b"message")
            place = journal.waiting[-1].position
    table = tables(tmp_path)[0].read_bytes()
    segment = next((tmp_path / "journal").glob("*.seg"))
    segment.write_bytes(segment.read_bytes()[: place.offset])
    with opened(tmp_path) as journal:
        pass
    tables(tmp_path)[0].write_bytes(table)
    with opened(tmp_path) as journal:
        assert (journal.last_number, len(journal.waiting)) == (4, 4)
    assert [row.number for row in rows(tmp_path)] == [4, 3, 2, 1]


def test_tables_go_with_their_segments(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "journal" / "00000000000000ff.rows").write_bytes(b"of no segment")
    with opened(tmp_path, segment_bytes=1 << 16) as journal:
        assert len(tables(tmp_path)) == len(journal.history.segments())
        journal.waiting.clear()
        for path in (tmp_path / "journal").glob("*.seg"):
            os.utime(path, (500, 500))
        assert journal.remove_before(600.0) > 0
    assert {path.stem for path in tables(tmp_path)} == {path.stem for path in (tmp_path / "journal").glob("*.seg")}
    before = state_and_rows(tmp_path)
    for path in tables(tmp_path):
        path.unlink()
    assert state_and_rows(tmp_path) == before


class FullForTables(Files):
    """A disk with room for the log, and none for tables."""

    is_full = False

    def pwritev(self, fd: int, buffers: object, offset: int, length: int = -1) -> None:
        if self.is_full and length in (row_table.MESSAGE_BYTES, ROW_BYTES - row_table.MESSAGE_BYTES):
            raise StorageFull("no room")
        super().pwritev(fd, buffers, offset, length)  # type: ignore[arg-type]


def test_a_table_that_cannot_be_written_costs_no_message(tmp_path: Path) -> None:
    files = FullForTables()
    journal = Journal(str(tmp_path / "journal"), files, ARCHIVE_ID, segment_bytes=1 << 20, prewrite_bytes=0)
    journal.append(received("1"), b"first")
    files.is_full = True
    assert journal.append(received("2"), b"second") == 2
    journal.append_outcome(done(1))
    files.is_full = False
    journal.append(received("3"), b"third")
    assert not tables(tmp_path), "half a table would hide messages"
    assert [row.number for row in rows(tmp_path)] == [3, 2, 1]
    journal.close()
    found, _ = state_and_rows(tmp_path)
    assert found[:2] == (1, 3) and tables(tmp_path)


def test_a_reader_that_stays_open_sees_what_comes_after_its_table_has_gone(tmp_path: Path) -> None:
    files = FullForTables()
    journal = Journal(str(tmp_path / "journal"), files, ARCHIVE_ID, segment_bytes=1 << 20, prewrite_bytes=0)
    history = History(str(tmp_path / "journal"), Files())
    journal.append(received("1"), b"first")
    assert [row.number for row in history.rows()] == [1]
    files.is_full = True
    journal.append(received("2"), b"second")
    assert [row.number for row in history.rows()] == [2, 1]
    assert [row.number for row in history.rows_after(1, 10)] == [2]
    journal.close()
    with opened(tmp_path) as journal:
        journal.append(received("3"), b"third")
        assert [row.number for row in history.rows_after(1, 10)] == [2, 3]
    history.close()


def test_few_tables_are_open_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_keeper, "OPEN_MAX", 1)
    fill(tmp_path)
    before = state_and_rows(tmp_path)
    with opened(tmp_path, segment_bytes=1 << 16) as journal:
        for number in (1, journal.last_number, 2, journal.last_number - 1):
            journal.append_outcome(done(number, Result.FAILED, is_replay=True))
            assert len(journal._rows._open) == 1
    found = {row.number: row.outcome for row in rows(tmp_path)}
    assert found[1] == done(1, Result.FAILED, is_replay=True)
    for path in tables(tmp_path):
        path.unlink()
    after = state_and_rows(tmp_path)
    assert {row.number: row.outcome for row in after[1]} == found and after[0][1:] == before[0][1:]
