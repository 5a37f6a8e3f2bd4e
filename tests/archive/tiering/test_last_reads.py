"""Last reads: a study counts as read for the days after it, whichever process read it, and never as unread by guess."""

from __future__ import annotations

from pathlib import Path

from engine.archive.tiering.last_reads import FOLDER, KEPT_DAYS, STUDIES_MAX, LastReads, ReadHistory
from engine.storage.files import Files

DAY_S = 86_400.0
START_S = 1_800_000_000.0


def at(day: float) -> float:
    return START_S + day * DAY_S


def read_since(data: Path, day: float, days: int) -> set[str] | None:
    return ReadHistory(data, Files(), round(at(day) * 1e9)).read_since(days)


def noting(data: Path) -> tuple[LastReads, list[float]]:
    now = [at(0)]
    return LastReads(data, Files(), lambda: now[0]), now


def lines(data: Path) -> list[str]:
    return [line for path in sorted((data / FOLDER).iterdir()) for line in path.read_text().splitlines()]


def test_a_study_is_noted_once_a_day_and_process(tmp_path: Path) -> None:
    first, now = noting(tmp_path)
    second, _ = noting(tmp_path)
    for _ in range(3):
        first.note(["1.2", "1.3"])
        second.note(["1.2"])
    assert sorted(lines(tmp_path)) == ["1.2", "1.2", "1.3"]
    now[0] = at(1)
    first.note(["1.2"])
    assert len(lines(tmp_path)) == 4 and len(list((tmp_path / FOLDER).iterdir())) == 2
    assert (tmp_path / FOLDER).stat().st_mode & 0o077 == 0
    first.close()
    second.close()


def test_days_are_counted_back_and_a_shorter_history_says_nothing(tmp_path: Path) -> None:
    reads, now = noting(tmp_path)
    reads.note(["1.1"])
    now[0] = at(10)
    reads.note(["1.2"])
    reads.close()
    assert read_since(tmp_path, 10, 10) == {"1.1", "1.2"}
    assert read_since(tmp_path, 10, 9) == {"1.2"}
    assert read_since(tmp_path, 25, 9) == set()
    assert read_since(tmp_path, 10, 11) is None
    assert read_since(tmp_path / "none", 10, 1) is None


def test_odd_names_and_torn_lines_are_nobodys(tmp_path: Path) -> None:
    reads, _ = noting(tmp_path)
    reads.note(["1.1\n1.2", "", "1" * 65, "Ä", "1.3"])
    reads.close()
    with open(next((tmp_path / FOLDER).iterdir()), "ab") as file:
        file.write(b"1.4\n\xff\xfe1.")
    (tmp_path / FOLDER / "notes.txt").write_text("1.9\n")
    found = read_since(tmp_path, 0, 0)
    assert found is not None and {"1.3", "1.4"} <= found and not found & {"1.1", "1.2", "1.9"}


def test_old_days_go(tmp_path: Path) -> None:
    reads, now = noting(tmp_path)
    reads.note(["1.1"])
    now[0] = at(KEPT_DAYS)
    reads.note(["1.2"])
    assert sorted(lines(tmp_path)) == ["1.1", "1.2"]
    now[0] = at(KEPT_DAYS + 1)
    reads.note(["1.3"])
    reads.close()
    assert sorted(lines(tmp_path)) == ["1.2", "1.3"]


def test_what_a_process_remembers_is_bounded(tmp_path: Path) -> None:
    reads, _ = noting(tmp_path)
    for start in range(0, 2 * STUDIES_MAX, STUDIES_MAX // 4):
        reads.note([f"1.{number}" for number in range(start, start + STUDIES_MAX // 4)])
        assert len(reads._studies) <= STUDIES_MAX
    reads.close()


def test_an_error_is_no_error_of_the_reader(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("in the way")
    reads, _ = noting(tmp_path)
    reads.note(["1.1"])
    (tmp_path / FOLDER).unlink()
    reads.note(["1.1"])
    reads.close()
    assert lines(tmp_path) == ["1.1"]
