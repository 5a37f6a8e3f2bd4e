"""Keys against stored values, one line each; a range must hold whatever its condition is met by."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from engine.dicom import tags
from engine.errors import QueryError
from engine.index import matching
from engine.index.matching import Condition, condition
from engine.index.terms import search_keys


def met(tag: int, key: str, stored: str, character_set: bytes = b"ISO_IR 192") -> bool:
    asked = condition(tag, key.encode(), character_set)
    if asked is None:
        return True
    found = asked.met_by({tag: stored.encode()})
    if found and asked.ranges is not None:
        assert in_ranges(asked, tag, stored), f"{key!r} meets {stored!r} and its ranges do not hold it"
    if found and asked.may_meet is not None:
        assert asked.may_meet(tag.to_bytes(4, "little") + len(stored).to_bytes(4, "little") + stored.encode())
    return found


def in_ranges(asked: Condition, tag: int, stored: str) -> bool:
    ranges: Sequence[tuple[bytes, bytes]] = asked.ranges or ()
    return any(low <= key < high for key in search_keys({tag: stored.encode()}, b"\0\0\0\1") for low, high in ranges)


@pytest.mark.parametrize(
    ("key", "stored", "expected"),
    [
        ("Doe^John", "DOE^JOHN", True),
        ("doe^john", "Doe^John^^^", True),
        ("Doe", "Doe^John", False),
        ("Doe*", "Doe^John", True),
        ("D?e^John", "Doe^John", True),
        ("Muller^Jorg", "Müller^Jörg", True),
        ("Müller*", "MULLER^HANS", True),
        ("Mueller*", "Müller^Hans", False),
        ("*^John", "Doe^John", True),
        ("*^jo*", "Doe^Mary Jo", False),
        ("*oe^Jo*", "Doe^John", True),
        ("*n^Q*", "Doe^John^Q", True),
        ("* Jo*", "Doe^Mary Jo", True),
        ("*ohn", "Doe^John", True),
        ("山田^太郎", "Yamada^Tarou=山田^太郎=やまだ^たろう", True),
        ("山*", "Yamada^Tarou=山田^太郎", True),
        ("=山田^太郎", "Yamada^Tarou=山田^太郎", True),
        ("Yamada*=山*", "Yamada^Tarou=山田^太郎", True),
        ("Tanaka*=山*", "Yamada^Tarou=山田^太郎", False),
        ("Yamada*==や*", "Yamada^Tarou=山田^太郎=やまだ^たろう", True),
        ("Yamada*=山*", "Yamada^Tarou", False),
        ("Straße*", "STRASSE^A", True),
        ("Doe\\Smith", "Smith", True),
        ("*", "Doe", True),
        ("**", "Doe", True),
        ("?*", "Doe", True),
        ("", "Doe", True),
    ],
)
def test_person_names(key: str, stored: str, expected: bool) -> None:
    assert met(tags.PatientName, key, stored) == expected


@pytest.mark.parametrize(
    ("tag", "key", "stored", "expected"),
    [
        (tags.PatientID, "p1", "P1", False),
        (tags.PatientID, "P1 ", "P1", True),
        (tags.PatientID, " P1", "P1", True),
        (tags.PatientID, "P*", "P1", True),
        (tags.PatientID, "P?", "P12", False),
        (tags.PatientID, "P[1]*", "P[1]x", True),
        (tags.PatientID, "P.", "P1", False),
        (tags.AccessionNumber, "A1\\A2", "A2", True),
        (tags.AccessionNumber, "A*\\B*", "B7", True),
        (tags.AccessionNumber, "A1\\*", "B7", True),
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
        (tags.SeriesNumber, "7", "07", True),
        (tags.SeriesNumber, "07", "7", True),
        (tags.SeriesNumber, "7", "+7", True),
        (tags.SeriesNumber, "7", "17", False),
        (tags.SeriesNumber, "7", "70", False),
        (tags.SeriesNumber, "-7", "-7", True),
        (tags.SeriesNumber, "1\\7", "7", True),
        (tags.InstanceNumber, "7", "3\\7", True),
        (tags.StudyInstanceUID, "1.2\\1.3", "1.3", True),
        (tags.StudyInstanceUID, "1.2*", "1.23", False),
        (tags.StudyInstanceUID, "1.2\0", "1.2", True),
        (tags.Modality, "C*", "CT", True),
        (tags.ImageType, "PRIMARY", "ORIGINAL\\PRIMARY", True),
        (tags.StudyDescription, "a\\b", "b", True),
        (tags.StudyDescription, "Schädel", "Schädel", True),
        (tags.StudyDescription, "schädel", "Schädel", False),
        (tags.StudyDescription, "x" * 300, "x" * 300, True),
        (tags.StudyDescription, "x" * 300 + "*", "x" * 299, False),
        (tags.StudyDescription, "x" * 250 + "*", "x" * 300, True),
        (tags.PatientID, "\\", "anything", True),
        (tags.PatientID, "a\nb", "a\nb", True),
        (tags.PatientID, "a*b", "a\nb", True),
    ],
)
def test_other_values(tag: int, key: str, stored: str, expected: bool) -> None:
    assert met(tag, key, stored) == expected


def test_an_absent_or_empty_value_meets_no_condition() -> None:
    for tag, key in ((tags.PatientID, b"P*"), (tags.StudyDate, b"-20240101"), (tags.SeriesNumber, b"1")):
        asked = condition(tag, key, b"")
        assert asked is not None
        assert not asked.met_by({}) and not asked.met_by({tag: b""})


def test_numbers_in_binary_are_compared_as_bytes() -> None:
    asked = condition(tags.Rows, b"\0\2", b"")
    assert asked is not None
    assert asked.met_by({tags.Rows: b"\0\2"}) and not asked.met_by({tags.Rows: b"\1\2"})


def test_keys_are_decoded_in_their_own_character_set() -> None:
    assert condition(tags.PatientName, b"M\xfcller", b"ISO_IR 100").met_by({tags.PatientName: "Müller".encode()})  # type: ignore[union-attr]
    japanese = "山田".encode("iso2022_jp")
    asked = condition(tags.PatientName, japanese, b"\\ISO 2022 IR 87")
    assert asked is not None and asked.met_by({tags.PatientName: "Yamada=山田".encode()})


def test_without_wild_cards_a_star_is_a_star() -> None:
    asked = condition(tags.PatientID, b"P*", b"", wildcards=False)
    assert asked is not None
    assert asked.met_by({tags.PatientID: b"P*"}) and not asked.met_by({tags.PatientID: b"P1"})
    assert condition(tags.PatientID, b"*", b"", wildcards=False) is not None


def test_too_many_values_are_refused() -> None:
    with pytest.raises(QueryError, match="limit"):
        condition(tags.SOPInstanceUID, b"\\".join([b"1.2"] * (matching.KEY_VALUES_MAX + 1)), b"")


def test_too_deep_sequences_are_refused() -> None:
    items: list[dict[int, object]] = [{tags.CodeValue: b"1"}]
    for _ in range(40):
        items = [{tags.ProcedureCodeSequence: items}]
    with pytest.raises(QueryError, match="nests"):
        condition(tags.ProcedureCodeSequence, items, b"")  # type: ignore[arg-type]


def test_damaged_stored_sequences_are_no_match() -> None:
    asked = condition(tags.ProcedureCodeSequence, [{tags.CodeValue: b"1"}], b"")
    assert asked is not None
    for stored in (b"x", b"\xfe\xff\x00\xe0\xff\xff\x00\x00", b"\0" * 20):
        assert not asked.met_by({tags.ProcedureCodeSequence: stored})
