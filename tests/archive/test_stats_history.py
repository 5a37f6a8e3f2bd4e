"""The history of statistics: minutes become hours, files stay as long as they are, damage costs what it hit."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.archive import stats_history
from engine.archive.archive import Archive
from engine.archive.stats_history import COLUMNS, HOUR_S, KEPT, MINUTE_S, StatsHistory
from engine.web.history_sampler import sample

START_S = 1_700_000_000 // HOUR_S * HOUR_S
"""The beginning of an hour."""
CLOCK = [0.0]


@pytest.fixture
def history(tmp_path: Path) -> StatsHistory:
    with Archive.open(tmp_path / "data", role="keeper", create=True) as archive:
        return archive.stats_history(now=lambda: CLOCK[0])


@pytest.fixture(autouse=True)
def _clock() -> None:
    CLOCK[0] = START_S + 2 * HOUR_S


def column(rows: list[tuple[int, tuple[float, ...]]], name: str) -> list[float]:
    return [row[COLUMNS.index(name)] for _, row in rows]


def test_an_hour_adds_counts_up_and_has_the_peak_and_the_last_level(history: StatsHistory) -> None:
    assert history.rows(HOUR_S) == []
    for minute, (instances, queue, free) in enumerate(((5, 1, 90), (7, 8, 80), (1, 3, 85))):
        values = {"instances": instances, "queue_depth": queue, "free_bytes": free}
        history.add(START_S + 57 * MINUTE_S + minute * MINUTE_S + 1, values)
    history.add(START_S + HOUR_S + 1, {"instances": 100})
    minutes, hours = history.rows(MINUTE_S), history.rows(HOUR_S)
    assert [time_s for time_s, _ in minutes] == [START_S + (57 + each) * MINUTE_S for each in range(4)]
    assert [time_s for time_s, _ in hours] == [START_S, START_S + HOUR_S]
    assert column(hours, "instances") == [13, 100]
    assert (column(hours, "queue_depth")[0], column(hours, "free_bytes")[0]) == (8, 85)
    assert history.rows(MINUTE_S, START_S + HOUR_S) == minutes[-1:]


def test_old_minutes_go_and_the_files_stay_as_long_as_they_are(history: StatsHistory, tmp_path: Path) -> None:
    for minute in (0, 1, KEPT[MINUTE_S], KEPT[MINUTE_S] + 5):
        history.add(START_S + minute * MINUTE_S, {"instances": minute})
    CLOCK[0] = START_S + (KEPT[MINUTE_S] + 6) * MINUTE_S
    assert column(history.rows(MINUTE_S), "instances") == [KEPT[MINUTE_S], KEPT[MINUTE_S] + 5]
    size = (tmp_path / "data/stats/minutes").stat().st_size
    for minute in range(KEPT[MINUTE_S] + 6, KEPT[MINUTE_S] + 40):
        history.add(START_S + minute * MINUTE_S, {})
    assert (tmp_path / "data/stats/minutes").stat().st_size <= max(size, 8192 + KEPT[MINUTE_S] * (8 + 8 * len(COLUMNS)))


def test_a_damaged_record_is_none_and_a_file_of_another_form_is_begun_anew(
    history: StatsHistory, tmp_path: Path
) -> None:
    history.add(START_S, {"instances": 1})
    history.add(START_S + MINUTE_S, {"instances": 2})
    path = tmp_path / "data/stats/minutes"
    content = bytearray(path.read_bytes())
    at = 8192 + START_S // MINUTE_S % KEPT[MINUTE_S] * (8 + 8 * len(COLUMNS))
    content[at + 20] ^= 1
    path.write_bytes(content)
    assert column(history.rows(MINUTE_S), "instances") == [2]
    path.write_bytes(b"something else")
    assert history.rows(MINUTE_S) == []
    history.add(START_S + 2 * MINUTE_S, {"instances": 3})
    assert column(history.rows(MINUTE_S), "instances") == [3]


def test_what_a_replaced_worker_had_counted_does_not_count_backwards() -> None:
    def answer(instances: int, sent: int) -> dict[str, object]:
        peer = {"instances": instances, "bytes": 10 * instances, "failures": 0, "associations": 1, "sent_bytes": 1}
        latency = {"bounds": [0.1, 1.0], "buckets": [instances, sent, 0]}
        operation = {"failures": 0, "received_bytes": 0, "sent_bytes": sent, "latency_s": latency}
        return {
            "workers": [{"peers": {"CT": peer}, "operations": {"dicom C-FIND": operation}}],
            "archive": {"studies": 3, "live_bytes": 99},
        }

    values = sample(answer(30, 500), answer(10, 100))
    assert (values["instances"], values["instance_bytes"], values["sent_bytes"]) == (20, 200, 400)
    assert sample(answer(5, 50), answer(10, 100))["instances"] == 5
    assert (values["query_p50_s"], values["query_p99_s"], values["web_p99_s"]) == (1.0, 1.0, 0.0)
    assert values["archive_bytes"] == 99 and values["archive_studies"] == 3 and set(values) == set(COLUMNS)


def test_minutes_of_a_wrong_clock_hide_no_others(history: StatsHistory) -> None:
    history.add(START_S, {"instances": 1})
    history.add(START_S + 400 * 24 * HOUR_S + MINUTE_S, {"instances": 9})
    history.add(START_S + 2 * MINUTE_S, {"instances": 2})
    assert column(history.rows(MINUTE_S), "instances") == [1, 2]
    CLOCK[0] = START_S - HOUR_S
    assert history.rows(MINUTE_S) == []


def test_a_file_of_a_version_with_other_columns_is_read_and_converted(
    history: StatsHistory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        columns = ("free_bytes", "gone", "instances")
        older.setattr(stats_history, "COLUMNS", columns)
        older.setattr(stats_history, "COUNTS", ())
        older.setattr(stats_history, "PEAKS", ())
        for minute in range(3):
            values = {"instances": minute, "free_bytes": 7, "gone": 1}
            history.add(START_S + minute * MINUTE_S, values)
    assert column(history.rows(MINUTE_S), "instances") == [0, 1, 2]
    assert column(history.rows(HOUR_S), "free_bytes") == [7]
    history.add(START_S + 3 * MINUTE_S, {"instances": 3})
    assert column(history.rows(MINUTE_S), "instances") == [0, 1, 2, 3]
    assert column(history.rows(MINUTE_S), "free_bytes") == [7, 7, 7, 0]
    assert (tmp_path / "data/stats/minutes").stat().st_size == 8192 + KEPT[MINUTE_S] * (8 + 8 * len(COLUMNS))
