"""The state log: what is no whole state does not count, whatever a power cut, a set clock or a copy has left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.errors import OrdersError
from engine.orders import state_log
from engine.orders.state_log import Change, StateLog
from engine.storage.files import Files
from engine.storage.segment import list_segments, segment_path

NEXT = 7


@pytest.fixture
def log(tmp_path: Path) -> Iterator[StateLog]:
    opened = StateLog(tmp_path / "state", Files(), bytes(16))
    yield opened
    opened.close()


def row(number: int) -> Change:
    return 0, b"%d" % number, b"row"


def rows(log: StateLog) -> list[bytes]:
    return [key for _, _, changes in log.replay() for _, key, _ in changes]


def test_a_snapshot_that_was_never_finished_is_no_state(log: StateLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_log, "SNAPSHOT_ROWS", 2)
    last = log.append(log.append(0, NEXT, [row(1)]), NEXT, [row(2)])
    log.sync()

    def cut() -> Iterator[Change]:
        yield from map(row, range(10, 15))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        log.write_snapshot(last, NEXT, cut())
    assert rows(log) == [b"1", b"2"]
    assert log.settle() == []
    log.append(last, NEXT, [row(3)])
    assert rows(log) == [b"1", b"2", b"3"]


def test_a_snapshot_holds_though_the_clock_was_set_back(log: StateLog, monkeypatch: pytest.MonkeyPatch) -> None:
    last = log.append(0, NEXT, [row(1)])
    log.sync()
    monkeypatch.setattr(state_log, "time", SimpleNamespace(time_ns=lambda: 1000))
    last = log.write_snapshot(last, NEXT, [row(5)])
    log.remove_old()
    log.append(last, NEXT, [row(6)])
    log.sync()
    assert rows(log) == [b"5", b"6"]


def test_a_copy_ends_with_the_last_transaction_that_has_all_before_it(tmp_path: Path, log: StateLog) -> None:
    other = StateLog(tmp_path / "state", Files(), bytes(16))
    first = log.append(0, NEXT, [row(1)])
    second = other.append(first, NEXT, [row(2)])
    third = log.append(second, NEXT, [row(3)])
    log.sync()
    other.sync()
    log.close()
    other.close()
    directory = str(tmp_path / "state")
    lost = segment_path(directory, list_segments(directory, Files())[1])
    Path(lost).unlink()
    with pytest.raises(OrdersError, match="gap"):
        rows(log)
    assert log.settle() == [third]
    assert rows(log) == [b"1"]
    last = [stamp for stamp, next_id, _ in log.replay() if next_id == NEXT][-1]
    log.append(last, NEXT, [row(4)])
    assert rows(log) == [b"1", b"4"]


def test_a_log_without_a_beginning_is_not_settled_to_nothing(tmp_path: Path, log: StateLog) -> None:
    log.append(5, NEXT, [row(1)])
    log.sync()
    with pytest.raises(OrdersError, match="gap"):
        log.settle()
