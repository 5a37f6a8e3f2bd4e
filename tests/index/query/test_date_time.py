"""Dates and times in keys against stored ones: PS3.4 C.2.2.2.1 and C.2.2.2.5, pairs, zones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.dicom import tags
from engine.dicom.schema import STANDARD
from engine.index.query.condition import BASELINE, Rules
from engine.index.query.matching import conditions
from tests.index.query.condition_checks import meet_all, met, texts_of

DATE_TIME = Rules(date_time=True)
DAY, TIME = tags.StudyDate, tags.StudyTime


@pytest.mark.parametrize(
    ("tag", "key", "stored", "expected"),
    [
        (tags.StudyDate, "20240102", "20240102", True),
        (tags.StudyDate, "20240102", "2024.01.02", True),
        (tags.StudyDate, "20240101-20240131", "20240131", True),
        (tags.StudyDate, "20240101-20240131", "20240201", False),
        (tags.StudyDate, "-20240131", "20240131", True),
        (tags.StudyDate, "20240131-", "20240131", True),
        (tags.StudyDate, "20240201-", "20240131", False),
        (tags.StudyDate, "20240131-20240101", "20240115", False),
        (tags.StudyTime, "10", "100000", True),
        (tags.StudyTime, "1000-1200", "120059.9", True),
        (tags.StudyTime, "1000-1200", "1201", False),
        (tags.StudyTime, "-09", "095959.999999", True),
        (tags.StudyTime, "235959-", "235959.5", True),
        (tags.StudyTime, "1015", "101530.25", True),
        (tags.StudyTime, "101530", "101530.999", True),
        (tags.StudyTime, "1015", "1016", False),
        (tags.StudyTime, "101530", "1015", False),
        (tags.StudyTime, "10:15", "10:15:30", True),
        (tags.StudyTime, "noon", "noon", True),
        (tags.StudyTime, "0000-", "noon", False),
        (tags.StudyTime, "-2400", "noon", False),
        (tags.StudyDate, "20240101-", "unknown", False),
        (tags.StudyDate, "-20240101", "unknown", False),
        (tags.StudyDate, "unknown", "unknown", True),
        (tags.StudyDate, "2024-", "20240101", True),
        (tags.StudyDate, "2023-202402", "20240229", True),
        (tags.StudyDate, "20240101\\20240103-20240105", "20240104", True),
        (tags.StudyDate, "20240101\\20240103-20240105", "20240102", False),
        (tags.StudyDate, "2024*", "20240101", False),
        (tags.StudyDate, "*", "20240101", True),
        (tags.StudyDate, " 20240101 - 20240131 ", "20240102 ", True),
        (tags.AcquisitionDateTime, "20240102", "20240102103015.5", True),
        (tags.AcquisitionDateTime, "2024010210-2024010212", "20240102125959", True),
        (tags.AcquisitionDateTime, "2024010210-2024010212", "20240102130000", False),
        (tags.AcquisitionDateTime, "20240102103000+0100", "20240102093000+0000", True),
        (tags.AcquisitionDateTime, "20240102103000+0100", "20240102103000+0000", False),
        (tags.AcquisitionDateTime, "20240102103000", "20240102103000-0500", True),
        (tags.AcquisitionDateTime, "20240102-0500-", "20240102045959+0000", False),
        (tags.AcquisitionDateTime, "20240102-0500-", "20240102050000+0000", True),
        (tags.AcquisitionDateTime, "-20240102", "20240102235959.9", True),
        (tags.AcquisitionDateTime, "-20240102", "20240103", False),
        (tags.AcquisitionDateTime, "unknown", "unknown", True),
    ],
)
def test_moments(tag: int, key: str, stored: str, expected: bool) -> None:
    assert met(tag, key, stored) == expected


# C.2.2.2.5.4: dates with their times ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("day", "time", "stored", "combined", "separate"),
    [
        ("20060705-20060707", "1000-1800", ("20060706", "0300"), True, False),
        ("20060705-20060707", "1000-1800", ("20060705", "0959"), False, False),
        ("20060705-20060707", "1000-1800", ("20060705", "1000"), True, True),
        ("20060705-20060707", "1000-1800", ("20060707", "180059.9"), True, True),
        ("20060705-20060707", "1000-1800", ("20060707", "1801"), False, False),
        ("20060705-", "1000-", ("20060706", "0300"), True, False),
        ("-20060705", "-1000", ("20060704", "2300"), True, False),
        ("20060705-", "-1000", ("20060706", "0300"), True, True),
        ("20060705-", "-1000", ("20060706", "2300"), False, False),
        ("20060705", "1000-1800", ("20060705", "1200"), True, True),
        ("20060705-20060707", "10", ("20060706", "1030"), True, True),
        ("20060705-20060707", "1000-1800", ("20060706", ""), True, False),
        ("20060705-20060707", "1000-1800", ("20060708", ""), False, False),
        ("20060705-20060707", "1000-1800", ("", "1200"), False, False),
        ("20060705-20060707", "", ("20060706", ""), True, True),
        ("", "1000-1800", ("", "1200"), True, True),
    ],
)
def test_if_negotiated_a_date_and_its_time_are_one_range(
    day: str, time: str, stored: tuple[str, str], combined: bool, separate: bool
) -> None:
    items = {DAY: stored[0], TIME: stored[1]}
    assert meet_all({DAY: day, TIME: time}, items, DATE_TIME) == combined
    assert meet_all({DAY: day, TIME: time}, items, BASELINE) == separate


@pytest.mark.parametrize("keyword", ["Series", "Content", "InstanceCreation", "PatientBirth", "Acquisition"])
def test_every_date_has_its_time(keyword: str) -> None:
    date, time = tags.tag_of(keyword + "Date"), tags.tag_of(keyword + "Time")
    assert date is not None and time is not None
    keys = {date: "20060705-20060707", time: "1000-1800"}
    assert meet_all(keys, {date: "20060706", time: "03"}, DATE_TIME)
    assert not meet_all(keys, {date: "20060706", time: "03"}, BASELINE)


# timezone adjustment ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "stored", "zone", "expected"),
    [
        ({DAY: "20240102"}, ("20240101", "2330"), "-0100", True),
        ({DAY: "20240101"}, ("20240101", "2330"), "-0100", False),
        ({DAY: "20240102", TIME: "0130"}, ("20240101", "2330"), "-0100", True),
        ({TIME: "01-02"}, ("20240101", "2330"), "-0100", True),
        ({DAY: "20240101-20240102", TIME: "00-02"}, ("20240101", "2330"), "-0100", True),
        ({DAY: "20231230-20231231"}, ("20240102", "0030"), "+1400", False),
        ({DAY: "20240101"}, ("20240102", "0030"), "+1400", True),
        ({DAY: "20240101"}, ("20240101", "2330"), "", True),
        ({DAY: "20240101"}, ("20240101", "2330"), "unknown", True),
        ({DAY: "20240101"}, ("20240101", ""), "-0100", True),
        ({DAY: "unknown"}, ("unknown", "2330"), "-0100", True),
    ],
)
def test_dates_and_times_are_converted_to_the_zone_of_the_query(
    keys: dict[int, str], stored: tuple[str, str], zone: str, expected: bool
) -> None:
    items = {DAY: stored[0], TIME: stored[1]}
    assert meet_all(keys, items, Rules(zone="+0100"), zone) == expected


def test_a_date_and_its_time_are_converted_before_they_are_combined() -> None:
    rules = Rules(date_time=True, zone="+0000")
    keys = {DAY: "20240102-20240103", TIME: "0000-0100"}
    assert meet_all(keys, {DAY: "20240103", TIME: "0130"}, rules, "+0100")
    assert not meet_all(keys, {DAY: "20240103", TIME: "0230"}, rules, "+0100")
    assert meet_all(keys, {DAY: "20240102", TIME: "2330"}, rules, "+0100")
    assert not meet_all(keys, {DAY: "20240102", TIME: "0030"}, rules, "+0100")


def test_dates_of_birth_have_no_zone() -> None:
    rules = Rules(zone="+0100")
    stored = {tags.PatientBirthDate: "19700101", tags.PatientBirthTime: "2330"}
    assert meet_all({tags.PatientBirthDate: "19700101"}, stored, rules, "-0100")


def test_date_times_without_an_offset_have_the_zone_of_the_study() -> None:
    tag = tags.AcquisitionDateTime
    assert meet_all({tag: "20240102103000"}, {tag: "20240102093000"}, Rules(zone="+0100"), "+0000")
    assert not meet_all({tag: "20240102103000"}, {tag: "20240102103000"}, Rules(zone="+0100"), "+0000")
    assert meet_all({tag: "20240102103000"}, {tag: "20240102043000-0500"}, Rules(zone="+0100"), "+0000")


def test_the_zone_itself_is_never_matched() -> None:
    for rules in (BASELINE, Rules(zone="+0100")):
        assert conditions({tags.TimezoneOffsetFromUTC: b"+0100"}, b"", rules) == []


# properties -------------------------------------------------------------------------------------------

MOMENTS = ["2024", "01", "02", "10", "30", "59", ".5", "-", "+0100", "-0500", ":", "\\", " ", "*", "unknown", '""']
RULES = [
    BASELINE,
    Rules(empty_values=True),
    Rules(multiple_values=True),
    DATE_TIME,
    Rules(date_time=True, zone="-0500"),
    Rules(zone="+0100"),
]


def test_a_word_of_more_digits_than_a_date_has_is_no_date_that_a_zone_moves() -> None:
    for zone in ("-0500", "+0100"):
        assert met(tags.StudyDate, "202420242024", "202420242024", rules=Rules(zone=zone))


@given(
    st.sampled_from([tags.StudyDate, tags.StudyTime, tags.AcquisitionDateTime]),
    texts_of(MOMENTS),
    texts_of(MOMENTS),
    st.sampled_from(RULES),
)
def test_every_value_that_meets_a_moment_is_in_its_ranges(tag: int, key: str, stored: str, rules: Rules) -> None:
    met(tag, key, stored, rules=rules)


@given(
    st.tuples(st.dates(), st.times()),
    st.tuples(st.dates(), st.times()),
    st.sampled_from(["+0000", "+0100", "-0500", "+1400", "-1200", ""]),
    st.sampled_from(["+0000", "+0100", "-1200"]),
    st.booleans(),
)
def test_converted_dates_are_in_the_ranges_of_their_key(
    key_values: tuple[object, object], stored: tuple[object, object], zone: str, own: str, combined: bool
) -> None:
    assert DAY in STANDARD.searched
    keys = {DAY: f"{key_values[0]:%Y%m%d}-", TIME: f"{key_values[1]:%H%M%S}-"}
    items = {DAY: f"{stored[0]:%Y%m%d}", TIME: f"{stored[1]:%H%M%S.%f}"}
    meet_all(keys, items, Rules(date_time=combined, zone=own), zone)
