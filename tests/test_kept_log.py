"""engine.kept_log: the newest events, in bounded files that several processes write."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from engine import kept_log, log
from engine.config import Log
from engine.kept_log import Filter, KeptLog


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "archive.json").write_text("{}")
    return tmp_path


def line(number: int, level: str = "info", **fields: object) -> str:
    moment = f"2026-01-05T10:{number // 60 % 60:02}:{number % 60:02}.000Z"
    return json.dumps({"time": moment, "level": level, "logger": "x", "event": f"event {number}", **fields}).replace(
        '": ', '":'
    )


def numbers(page: kept_log.Page) -> list[int]:
    return [int(event["event"].split()[1]) for event in page.events]


def test_events_come_newest_first_and_page_by_page(data: Path) -> None:
    kept = KeptLog(data, 1 << 20)
    for number in range(10):
        kept.append(line(number))
    first = kept_log.read(data, Filter(), 4)
    assert numbers(first) == [9, 8, 7, 6] and first.older is not None
    second = kept_log.read(data, Filter(), 4, before=first.older)
    assert numbers(second) == [5, 4, 3, 2] and second.older is not None
    last = kept_log.read(data, Filter(), 4, before=second.older)
    assert numbers(last) == [1, 0] and last.older is None
    kept.append(line(10))
    later = kept_log.read(data, Filter(), 4, after=first.newest)
    assert numbers(later) == [10]
    assert numbers(kept_log.read(data, Filter(), 4, after=later.newest)) == []


def test_two_writers_keep_a_bounded_number_of_bytes_and_the_newest_events(data: Path) -> None:
    bound = 20_000
    writers = [KeptLog(data, bound), KeptLog(data, bound)]
    for number in range(1000):
        writers[number % 2].append(line(number))
    sizes = [(data / "log" / name).stat().st_size for name in (kept_log.NEWER, kept_log.OLDER)]
    assert bound // 2 <= sum(sizes) <= bound + 2 * len(line(999))
    found = numbers(kept_log.read(data, Filter(), 10_000))
    assert found == list(range(999, 999 - len(found), -1)) and len(found) > 50


def test_a_cursor_of_a_file_that_is_gone_means_everything_or_nothing(data: Path) -> None:
    KeptLog(data, 1 << 20).append(line(1))
    assert numbers(kept_log.read(data, Filter(), 9, after="1-1")) == [1]
    assert numbers(kept_log.read(data, Filter(), 9, before="1-1")) == []
    with pytest.raises(ValueError):
        kept_log.read(data, Filter(), 9, before="x")


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (Filter(level="warning"), [3, 2]),
        (Filter(level="error"), [3]),
        (Filter(peer="CT1"), [2]),
        (Filter(peer="CT"), []),
        (Filter(text="1.2.840"), [3]),
        (Filter(event="EVENT 1"), [1]),
        (Filter(event="CT1"), []),
        (Filter(since="2026-01-05T10:00:02"), [3, 2]),
        (Filter(until="2026-01-05T10:00:02"), [1, 0]),
    ],
)
def test_a_filter_finds_what_meets_it(data: Path, condition: Filter, expected: list[int]) -> None:
    kept = KeptLog(data, 1 << 20)
    kept.append(line(0, "debug"))
    kept.append(line(1))
    kept.append(line(2, "warning", calling="CT1"))
    kept.append(line(3, "error", sop_instance_uid="1.2.840.1"))
    assert numbers(kept_log.read(data, condition, 9)) == expected


def test_damaged_and_unfinished_lines_are_left_out(data: Path) -> None:
    kept = KeptLog(data, 1 << 20)
    kept.append(line(1))
    with open(data / "log" / kept_log.NEWER, "ab") as file:
        file.write(b'\xff\xfe\n[1]\n{"time":5}\nnull\n' + b"x" * (3 << 20) + b"\n")
    kept.append(line(2))
    with open(data / "log" / kept_log.NEWER, "ab") as file:
        file.write(line(3).encode()[:20])
    assert numbers(kept_log.read(data, Filter(), 9)) == [2, 1]


def test_lines_longer_than_a_block_and_at_its_borders_are_whole(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = KeptLog(data, 1 << 20)
    for number in range(20):
        kept.append(line(number, comment="y" * number * 7))
    for length in (1, 7, 64, 100, 1000):
        monkeypatch.setattr(kept_log, "BLOCK_BYTES", length)
        assert numbers(kept_log.read(data, Filter(), 50)) == list(range(19, -1, -1))


def test_events_before_the_archive_is_there_wait_for_it(tmp_path: Path) -> None:
    kept = KeptLog(tmp_path, 1 << 20)
    kept.append(line(1))
    assert not any(tmp_path.iterdir())
    (tmp_path / "archive.json").write_text("{}")
    kept.append(line(2))
    assert numbers(kept_log.read(tmp_path, Filter(), 9)) == [2, 1]


def test_a_folder_that_cannot_be_written_loses_lines_and_nothing_else(data: Path) -> None:
    (data / "log").write_text("in the way")
    KeptLog(data, 1 << 20).append(line(1))
    assert kept_log.read(data, Filter(), 9).events == []


def test_the_last_bytes_of_a_disk_are_not_taken(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = KeptLog(data, 1 << 20)
    kept.append(line(0))
    monkeypatch.setattr(kept_log, "RETRY_S", 0.0)
    with monkeypatch.context() as full:
        full.setattr(kept_log, "FREE_BYTES_MIN", 1 << 62)
        kept.append(line(1))
    kept.append(line(2))
    assert numbers(kept_log.read(data, Filter(), 10)) == [2, 0]


def test_kept_events_never_have_patient_data_and_are_json_on_a_terminal_too(data: Path) -> None:
    stream = io.StringIO()
    for form in ("json", "console"):
        settings = Log(format=form, patient_data=True)  # type: ignore[arg-type]
        log.configure(settings, stream=stream, keeper=KeptLog(data, 1 << 20))
        try:
            log.get("x").info("found", patient_name=log.patient("DOE^JANE"))
        finally:
            log.configure(Log())
    assert stream.getvalue().count("DOE^JANE") == 2
    events = kept_log.read(data, Filter(), 9).events
    assert [event["patient_name"] for event in events] == [log.HIDDEN, log.HIDDEN]
