"""Times are read to the precision that they have."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from engine.hl7.moment import Moment, parse, write

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1960", Moment("1960")),
        ("196002", Moment("196002")),
        ("19600229", Moment("19600229")),
        ("2026113010", Moment("20261130", "10")),
        ("202611301015", Moment("20261130", "1015")),
        ("20261130101559.1234+0100", Moment("20261130", "101559.1234", "+0100")),
        ("20261130-0500", Moment("20261130", "", "-0500")),
        ("20261231235960", Moment("20261231", "235959")),
        (" 20261130 ", Moment("20261130")),
    ],
)
def test_a_time_has_what_it_says(text: str, moment: Moment) -> None:
    assert parse(text) == moment


@pytest.mark.parametrize("text", ["", "196", "19610229", "20261301", "2026113025", "today", "20261130+9900", "٢٠٢٦"])
def test_what_is_no_time_is_none(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize("zone", [None, BERLIN, ZoneInfo("Pacific/Kiritimati"), ZoneInfo("America/New_York")])
@pytest.mark.parametrize("text", ["0001", "00010101", "00010101+1400", "99991231235960-1400", "9999"])
def test_the_first_and_last_days_have_their_seconds_in_every_zone(text: str, zone: ZoneInfo | None) -> None:
    moment = parse(text)
    assert moment is not None
    year = int(text[:4])
    assert abs(moment.seconds(zone) - datetime(year, 1, 1, tzinfo=UTC).timestamp()) < 367 * 86400


def test_a_zone_has_another_offset_in_summer() -> None:
    def at(text: str) -> float:
        moment = parse(text)
        assert moment is not None
        return moment.seconds(BERLIN)

    assert at("20260701120000") - at("20260701120000+0200") == 0
    assert at("20261201120000") - at("20261201120000+0100") == 0
    # The clock shows 02:30 twice on 2026-10-25, and never on 2026-03-29.
    assert at("20261025023000") == at("20261025023000+0200")
    assert at("20260329023000") == at("20260329033000+0200")


def test_partial_dates_keep_their_precision() -> None:
    moment = parse("1960")
    assert moment is not None and moment.full_date == ""
    assert moment.seconds(ZoneInfo("UTC")) == datetime(1960, 1, 1, tzinfo=UTC).timestamp()


def test_written_times_are_read_again() -> None:
    moment = parse(write(1796000000.0, BERLIN))
    assert moment is not None and moment.seconds(None) == 1796000000.0
