"""dicom.values: the normal forms that matching compares."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.dicom.values import (
    Span,
    add_minutes,
    fold,
    instant,
    normalise,
    offset_minutes,
    parse_range,
    precision_range,
    split,
)

ALL_VRS = ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT")


@pytest.mark.parametrize(
    ("vr", "text", "normal"),
    [
        ("PN", "Müller^Jörg^^Dr.^", "muller^jorg^^dr."),
        ("PN", "MULLER^JORG^^DR.^^", "muller^jorg^^dr."),
        ("PN", "  Doe ^  John  Paul ", "doe^john paul"),
        ("PN", "Yamada^Tarou=山田^太郎=やまだ^たろう", "yamada^tarou=山田^太郎=やまだ^たろう"),
        ("PN", "ﾔﾏﾀﾞ^ﾀﾛｳ", "ヤマダ^タロウ"),
        ("PN", "Strauß^==", "strauss"),
        ("PN", "", ""),
        ("PN", "^^^", ""),
        ("UI", "1.2.3\0", "1.2.3"),
        ("DA", "20260102", "20260102"),
        ("DA", "2026.01.02", "20260102"),
        ("DA", "not known", "not known"),
        ("TM", "1030", "103000.000000"),
        ("TM", "10", "100000.000000"),
        ("TM", "10:30:15", "103015.000000"),
        ("TM", "103015.5 ", "103015.500000"),
        ("TM", "noon", "noon"),
        ("DT", "2026", "20260101000000.000000"),
        ("DT", "20260102103015.123456+0100", "20260102093015.123456"),
        ("DT", "20260102103015-0500", "20260102153015.000000"),
        ("DT", "00010101000000+1200", "00010101000000.000000"),
        ("DT", "20261302103015+0100", "20261302103015.000000"),
        ("IS", " +007 ", "7"),
        ("IS", "-0", "0"),
        ("IS", "seven", "seven"),
        ("IS", "", ""),
        ("DS", "1.50", "1.5"),
        ("DS", "1e2", "100"),
        ("DS", "-0.0", "0"),
        ("DS", "NaN", "NaN"),
        ("DS", "1e999999999", "1e999999999"),
        ("DS", "one", "one"),
        ("LO", "  Head CT  ", "Head CT"),
        ("LO", "Cafe\u0301", "Café"),
        ("LT", "  indented  ", "  indented"),
        ("CS", "CT ", "CT"),
        ("CS", "ct", "CT"),
        ("AE", " Modality1 ", "Modality1"),
        ("IS", "7.0", "7"),
        ("IS", "7.5", "7.5"),
        ("DS", " .5", "0.5"),
        ("DS", "1_0", "1_0"),
        ("LO", "Head  CT", "Head  CT"),
    ],
)
def test_normal_forms(vr: str, text: str, normal: str) -> None:
    assert normalise(vr, text) == normal


@given(st.sampled_from(ALL_VRS), st.text(max_size=30))
def test_a_normal_form_is_its_own_normal_form(vr: str, text: str) -> None:
    if vr != "DT":  # an offset is worked in once
        assert normalise(vr, normalise(vr, text)) == normalise(vr, text)


@given(st.times(), st.times())
def test_normal_forms_of_times_order_as_the_times(one: object, other: object) -> None:
    texts = [normalise("TM", f"{t:%H%M%S.%f}") for t in (one, other)]
    assert (texts[0] < texts[1]) == (one < other)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Müller", "MULLER"),
        ("Ångström", "angstrom"),
        ("Ñandú", "nandu"),
        ("ＡＢＣ", "abc"),
        ("ΆΛΦΑ", "αλφα"),
        ("Łukasik", "LUKASIK"),
        ("Sørensen", "Sorensen"),
        ("Yıldız", "YILDIZ"),
        ("İnönü", "Inonu"),
        ("Kjær", "Kjaer"),
    ],
)
def test_folding_removes_case_accents_and_width(one: str, other: str) -> None:
    assert fold(one) == fold(other)


def test_folding_keeps_marks_that_make_another_letter() -> None:
    assert fold("ガ") != fold("カ")
    assert fold("कि") != fold("क")


def test_values_are_split_where_the_vr_has_several() -> None:
    assert split("CS", "A\\B") == ["A", "B"]
    assert split("LT", "A\\B") == ["A\\B"]
    assert split("CS", "") == []


@pytest.mark.parametrize(
    ("vr", "text", "low", "high"),
    [
        ("DA", "20260101-20260131", "20260101", "20260131"),
        ("DA", "20260101-", "20260101", None),
        ("DA", "-20260131", None, "20260131"),
        ("DA", " 20260101 - 20260131 ", "20260101", "20260131"),
        ("DA", "2026.01.01-2026.01.31", "20260101", "20260131"),
        ("DA", "2025-202602", "20250101", "20260231"),
        ("TM", "10-11", "100000.000000", "115959.999999"),
        ("TM", "1030-", "103000.000000", None),
        ("TM", "-10:30", None, "103059.999999"),
        ("DT", "2026-2027", "20260101000000.000000", "20271231235959.999999"),
        ("DT", "20260102103015-0500-", "20260102103015.000000", None),
        ("DT", "-20260102103015+0100", None, "20260102103015.999999"),
        ("DT", "20260102-0500-20260103-0500", "20260102000000.000000", "20260103235959.999999"),
    ],
)
def test_ranges(vr: str, text: str, low: str | None, high: str | None) -> None:
    ends = parse_range(vr, text)
    assert ends is not None
    assert (ends[0].low if ends[0] else None, ends[1].high if ends[1] else None) == (low, high)


@pytest.mark.parametrize(
    ("vr", "text"),
    [
        ("DA", "20260101"),
        ("DA", "-"),
        ("DA", "1-2-3"),
        ("DA", "2026-01-02"),
        ("DA", "from-to"),
        ("TM", "10-noon"),
        ("DT", "20260102103015-0500"),
        ("DT", "2026-0500"),
        ("DT", "20260-2027"),
        ("LO", "A-B"),
        ("UI", "1.2-1.3"),
    ],
)
def test_an_invalid_range_is_none(vr: str, text: str) -> None:
    assert parse_range(vr, text) is None


def test_the_ends_of_a_range_keep_their_own_offsets() -> None:
    ends = parse_range("DT", "20260102-0500-20260103+0100")
    assert ends is not None and ends[0] is not None and ends[1] is not None
    assert (ends[0].offset, ends[1].offset) == ("-0500", "+0100")


def test_a_moment_covers_its_missing_parts() -> None:
    assert precision_range("TM", "10:30") == Span("103000.000000", "103059.999999")
    assert precision_range("TM", "103015.25") == Span("103015.250000", "103015.259999")
    assert precision_range("DT", "202602") == Span("20260201000000.000000", "20260231235959.999999")
    assert precision_range("DT", "2026010210+0100") == Span("20260102100000.000000", "20260102105959.999999", "+0100")
    assert precision_range("DA", "20260102") == Span("20260102", "20260102")
    assert precision_range("TM", "noon") is None


def test_offsets() -> None:
    assert [offset_minutes(text) for text in ("+0100", "-0530", " +1400 ", "+1500", "0100", "")] == [
        60,
        -330,
        840,
        None,
        None,
        None,
    ]


def test_minutes_are_added_across_midnight_and_not_to_an_invalid_date() -> None:
    assert add_minutes("20251231233000.250000", 45) == "20260101001500.250000"
    assert add_minutes("20260301", -24 * 60) == "20260228"
    assert add_minutes("20261302103000.000000", 60) == "20261302103000.000000"
    assert add_minutes("00010101", -1) == "00010101"


def test_moments_are_compared_in_utc_if_both_have_it_else_by_local_time() -> None:
    berlin, london = instant("20260102103000.000000", "+0100"), instant("20260102100000.000000", "+0000")
    somewhere = instant("20260102101500.000000", "")
    assert berlin.is_before(london) and not london.is_before(berlin)
    assert somewhere.is_before(berlin) and london.is_before(somewhere)


@given(st.sampled_from(ALL_VRS), st.text(max_size=40))
def test_any_text_has_a_normal_form_and_is_a_range_or_none(vr: str, text: str) -> None:
    normalise(vr, text)
    parse_range(vr, text)
    precision_range(vr, text)


@given(st.sampled_from(("DA", "TM", "DT")), st.from_regex(r"[0-9.:+\-]{0,30}", fullmatch=True))
def test_any_text_like_a_date_is_handled(vr: str, text: str) -> None:
    normalise(vr, text)
    parse_range(vr, text)
