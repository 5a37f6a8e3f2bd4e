"""Keys against stored values, one line each, by the paragraphs of PS3.4 C.2.2.2.

Also checks that ranges, pieces and quick tests never exclude a value that meets their condition.
"""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.dicom import tags
from engine.errors import QueryError
from engine.index.format.types import KeyValue
from engine.index.query import matching
from engine.index.query.condition import BASELINE, Rules
from engine.index.query.matching import condition
from tests.index.query.condition_checks import meet_all, meets, met, texts_of

FUZZY = Rules(fuzzy=True)
EMPTY = Rules(empty_values=True)
MULTIPLE = Rules(multiple_values=True)
DATE_TIME = Rules(date_time=True)


def item_of(content: Mapping[int, bytes]) -> bytes:
    """An item in Explicit VR Little Endian, as in level blobs."""
    data = b""
    for tag in sorted(content):
        vr, value = tags.vr_of(tag), content[tag]
        value += b" " * (len(value) & 1)
        data += struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode()
        data += struct.pack("<xxI" if vr == "SQ" else "<H", len(value)) + value
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(data)) + data


# C.2.2.2.1, C.2.2.2.4: single values and wild cards ---------------------------------------------------


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
        ("Gro?mann", "Großmann", True),
        ("Gro?mann", "Grossmann", False),
        ("Gro??mann", "Großmann", True),
        ("GROß?ANN", "Großmann", True),
        ("?uvré*", "Œuvré^Éléonore", True),
        ("Oeuvre*", "Œuvré^Éléonore", True),
        ("Stra?e=?*", "Straße=道", True),
        ("Doe\\Smith", "Smith", True),
        ("Doe^John^^^", "Doe^John", True),
        ("Doe ^ John", "Doe^John", True),
        ("Doe^John", "Doe^ John  ", True),
        ("Doe^Mary Jo", "Doe^Mary  Jo", True),
        ("Doe John", "Doe^John", False),
        ("Doe*John", "DOE  JOHN", True),
        ("Do? John", "DOE JOHN", True),
        ("^John", "Doe^John", False),
        ("*^John*", "Doe^John^Q", True),
        ("DOE^JOHN", "doe^john\\roe^jane", True),
        ("ﾔﾏﾀﾞ*", "ヤマダ^タロウ", True),
        ("やまだ^たろう", "Yamada^Tarou=山田^太郎=やまだ^たろう", True),
        ("=山田^太郎", "山田^太郎", False),
        ("Yamada^Tarou=", "Yamada^Tarou=山田^太郎", True),
        ("홍^길동", "Hong^Gildong=洪^吉洞=홍^길동", True),
        ("Иванов*", "ИВАНОВ^ПЁТР", True),
        ("Παπαδοπουλος*", "Παπαδόπουλος^Νίκος", True),
        ("*=*", "Yamada^Tarou=山田^太郎", True),
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
        (tags.Modality, "CT", "ct ", True),
        (tags.Modality, "CT\\MR", "MR", True),
        (tags.PatientID, "P1", " P1 \0", True),
        (tags.PatientID, "A[!1]", "A2", False),
        (tags.PatientID, "P?1", "P\u00e41", True),
        (tags.PatientComments, "a\\b", "a\\b", True),
        (tags.PatientComments, "b", "a\\b", False),
        (tags.PatientComments, "*b", "a\\b", True),
        (tags.PatientComments, "x", " x", False),
        (tags.StudyDescription, "Head CT", "Head  CT", False),
        (tags.PatientAge, "043Y", "043Y", True),
        (tags.PatientAge, "04*", "043Y", False),
        (tags.PatientWeight, "70", "70.0", True),
        (tags.PatientWeight, "7e1", "70.00 ", True),
        (tags.PatientWeight, "70", "70.1", False),
        (tags.SeriesNumber, "7", " 7", True),
        (tags.SeriesNumber, "7", "7.0", True),
        (tags.SeriesNumber, "7", "0.7", False),
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
        key_condition = condition(tag, key, b"")
        assert key_condition is not None
        assert not key_condition.met_by({}) and not key_condition.met_by({tag: b""})


def test_numbers_in_binary_are_compared_one_by_one() -> None:
    key_condition = condition(tags.Rows, b"\0\2", b"")
    assert key_condition is not None
    assert key_condition.met_by({tags.Rows: b"\0\2"}) and not key_condition.met_by({tags.Rows: b"\1\2"})
    assert key_condition.met_by({tags.Rows: b"\1\2\0\2"}) and not key_condition.met_by({tags.Rows: b"\1\0\2\1"})
    pointer = condition(tags.FrameIncrementPointer, b"\x18\0\x63\x10", b"")
    assert pointer is not None
    assert pointer.met_by({tags.FrameIncrementPointer: b"\x54\0\x10\0\x18\0\x63\x10"})
    assert not pointer.met_by({tags.FrameIncrementPointer: b"\x18\0\x65\x10"})


def test_keys_are_decoded_in_their_own_character_set() -> None:
    assert condition(tags.PatientName, b"M\xfcller", b"ISO_IR 100").met_by({tags.PatientName: "Müller".encode()})  # type: ignore[union-attr]
    japanese = "山田".encode("iso2022_jp")
    key_condition = condition(tags.PatientName, japanese, b"\\ISO 2022 IR 87")
    assert key_condition is not None and key_condition.met_by({tags.PatientName: "Yamada=山田".encode()})


def test_without_wild_cards_a_star_is_a_star() -> None:
    key_condition = condition(tags.PatientID, b"P*", b"", Rules(wildcards=False))
    assert key_condition is not None
    assert key_condition.met_by({tags.PatientID: b"P*"}) and not key_condition.met_by({tags.PatientID: b"P1"})
    assert condition(tags.PatientID, b"*", b"", Rules(wildcards=False)) is not None


def test_too_many_values_are_refused() -> None:
    with pytest.raises(QueryError, match="limit"):
        condition(tags.SOPInstanceUID, b"\\".join([b"1.2"] * (matching.UIDS_MAX + 1)), b"")


def test_a_pattern_is_matched_without_backtracking() -> None:
    """With backtracking this would not end: there are some 10^40 ways to place the stars."""
    key_condition = condition(tags.StudyDescription, b"*a" * 20 + b"b*", b"")
    assert key_condition is not None
    assert not key_condition.met_by({tags.StudyDescription: b"a" * 4000})
    assert key_condition.met_by({tags.StudyDescription: b"a" * 4000 + b"b"})


@pytest.mark.parametrize("seed", range(20))
def test_stars_match_as_they_do_with_backtracking(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(50):
        pattern = "".join(chance.choices("AB*?", k=chance.randint(1, 8)))
        stored = "".join(chance.choices("AB", k=chance.randint(1, 8)))
        key_condition = condition(tags.StudyDescription, pattern.encode(), b"")
        expected = re.fullmatch(pattern.replace("*", ".*").replace("?", "."), stored) is not None
        assert (key_condition is None or key_condition.met_by({tags.StudyDescription: stored.encode()})) == expected, (
            pattern,
            stored,
        )


def test_any_value_of_a_long_list_may_match_plain_or_with_wild_cards() -> None:
    plain = [b"P%d" % number for number in range(200)]
    key_condition = condition(tags.PatientID, b"\\".join([*plain, b"Q*7"]), b"")
    assert key_condition is not None
    assert key_condition.test_count == 2
    assert key_condition.met_by({tags.PatientID: b"P150"}) and key_condition.met_by({tags.PatientID: b"Q007"})
    assert not key_condition.met_by({tags.PatientID: b"P200"}) and not key_condition.met_by({tags.PatientID: b"Q*8"})
    named = condition(tags.PatientName, "Müller^A\\Meier^B".encode(), b"ISO_IR 192")
    assert named is not None
    assert named.met_by({tags.PatientName: b"muller^a"}) and named.met_by({tags.PatientName: b"X=MEIER^B"})
    assert not named.met_by({tags.PatientName: b"Meier"})


@pytest.mark.parametrize(
    ("tag", "value", "rules"),
    [
        (tags.PatientID, b"\\".join([b"P1"] * (matching.KEY_VALUES_MAX + 1)), Rules()),
        (tags.PatientID, b"\\".join([b"P*"] * (matching.WILD_VALUES_MAX + 1)), Rules()),
        (tags.PatientID, b"\\".join([b"P" * 500 + b"*"] * 40), Rules()),
        (tags.PatientName, b" ".join([b"Li"] * (matching.WILD_VALUES_MAX + 1)), Rules(fuzzy=True)),
        (tags.PatientName, b"A" * (matching.VALUE_CHARACTERS_MAX + 1), Rules()),
        (tags.RequestAttributesSequence, [{tags.CodeValue: b"1"}] * (matching.WILD_VALUES_MAX + 1), Rules()),
    ],
    ids=("values", "wild cards", "long ones with wild cards", "words", "characters", "items"),
)
def test_keys_that_cost_too_much_are_refused(tag: int, value: KeyValue, rules: Rules) -> None:
    with pytest.raises(QueryError, match="the limit is"):
        condition(tag, value, b"", rules)


def test_too_deep_sequences_are_refused() -> None:
    items: list[dict[int, object]] = [{tags.CodeValue: b"1"}]
    for _ in range(40):
        items = [{tags.ProcedureCodeSequence: items}]
    with pytest.raises(QueryError, match="nests"):
        condition(tags.ProcedureCodeSequence, items, b"")  # type: ignore[arg-type]


# C.2.2.2.1, fuzzy -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "stored", "expected"),
    [
        ("Meier", "Maier^Hans", True),
        ("Hans Meyer", "Mayer^Hans", True),
        ("Meyer^Hans", "Hans^Mayer", True),
        ("Mueller^Jörg", "Muller^Joerg^^Dr.", True),
        ("Müller", "MUELLER^X", True),
        ("Schmitt Filip", "Schmidt^Philipp", True),
        ("Meier^Otto", "Maier^Hans", False),
        ("Mei*", "Meier^Hans", True),
        ("Mei*", "Maier^Hans", False),
        ("Hans *", "Meier^Hans", True),
        ("M?ier", "Maier^Hans", True),
        ("*ns", "Maier^Hans", True),
        ("山田", "Yamada^Tarou=山田^太郎", True),
        ("太郎 Yamada", "Yamada^Tarou=山田^太郎", True),
        ("田", "Yamada^Tarou=山田^太郎", False),
        ("Ivanov", "Иванов^Пётр", True),
        ("Schmidt", "Meier-Schmidt^Eva", True),
        ("Doe\\Meier", "Maier", True),
        ("*", "Anybody", True),
        ("* ^ *", "Anybody", True),
    ],
)
def test_names_by_sound(key: str, stored: str, expected: bool) -> None:
    assert met(tags.PatientName, key, stored, rules=FUZZY) == expected
    assert met(tags.PerformingPhysicianName, key, stored, rules=FUZZY) == expected


def test_words_of_one_stored_name_must_meet_every_word_of_the_key() -> None:
    assert not met(tags.OtherPatientNames, "Meier Hans", "Meier^Otto\\Schulz^Hans", rules=FUZZY)
    assert met(
        tags.OtherPatientNames, "Meier\\Hans", "Meier^Otto\\Schulz^Hans", rules=Rules(fuzzy=True, multiple_values=True)
    )
    assert not met(
        tags.OtherPatientNames, "Meier\\Eva", "Meier^Otto\\Schulz^Hans", rules=Rules(fuzzy=True, multiple_values=True)
    )


def test_attributes_other_than_names_do_not_match_by_sound() -> None:
    assert not met(tags.PatientID, "Meier", "Maier", rules=FUZZY)


# C.2.2.2.7: empty values ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tag", [tags.PatientName, tags.StudyDate, tags.StudyTime, tags.AccessionNumber, tags.SeriesNumber]
)
def test_two_quotation_marks_match_an_attribute_without_a_value(tag: int) -> None:
    key_condition = condition(tag, b'"" ', b"", EMPTY)
    assert key_condition is not None and key_condition.ranges is None and not key_condition.infix
    assert key_condition.met_by({}) and key_condition.met_by({tag: b""}) and key_condition.met_by({tag: b" \0"})
    assert not key_condition.met_by({tag: b"20240101"})
    plain = condition(tag, b'""', b"")
    assert plain is not None and not plain.met_by({}) and plain.met_by({tag: b'""'})


def test_an_empty_date_may_be_combined_with_a_time() -> None:
    keys = {tags.StudyDate: '""', tags.StudyTime: "1000-1200"}
    rules = Rules(empty_values=True, date_time=True, zone="+0100")
    assert meet_all(keys, {tags.StudyTime: "11"}, rules, "+0100")
    assert not meet_all(keys, {tags.StudyDate: "20240101", tags.StudyTime: "11"}, rules, "+0100")


# C.2.2.2.8: multiple values ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "key", "stored", "with_it", "without"),
    [
        (tags.ModalitiesInStudy, "CT\\PT", "CT\\PT", True, True),
        (tags.ModalitiesInStudy, "CT\\PT", "PT\\SR\\CT", True, True),
        (tags.ModalitiesInStudy, "CT\\PT", "CT", False, True),
        (tags.ImageType, "PRIMARY\\AXIAL", "ORIGINAL\\PRIMARY\\AXIAL", True, True),
        (tags.ImageType, "PRIMARY\\AXIAL", "ORIGINAL\\PRIMARY", False, True),
        (tags.OtherPatientIDs, "Z1\\Z2", "Z2\\Z1", True, True),
        (tags.OtherPatientIDs, "Z1\\Z3", "Z1\\Z2", False, True),
        (tags.OperatorsName, "doe^j\\roe^k", "Roe^K\\Doe^J", True, True),
        (tags.PatientID, "P1\\P2", "P2", True, True),
        (tags.Modality, "CT\\PT", "CT", True, True),
        (tags.ReferencedSOPInstanceUID, "1.2\\1.3", "1.3", True, True),
        (tags.StudyDate, "20240101\\20240102", "20240102", True, True),
    ],
)
def test_if_negotiated_each_of_several_values_must_match(
    tag: int, key: str, stored: str, with_it: bool, without: bool
) -> None:
    assert met(tag, key, stored, rules=MULTIPLE) == with_it
    assert met(tag, key, stored) == without


# C.2.2.2.6: sequences ---------------------------------------------------------------------------------

REQUEST = tags.RequestAttributesSequence
STEPS = [
    {tags.ScheduledProcedureStepID: b"S1", tags.RequestedProcedureID: b"R1"},
    {tags.ScheduledProcedureStepID: b"S2", tags.RequestedProcedureID: b"R2"},
]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ([{tags.ScheduledProcedureStepID: b"S1"}], True),
        ([{tags.ScheduledProcedureStepID: b"S1", tags.RequestedProcedureID: b"R1"}], True),
        ([{tags.ScheduledProcedureStepID: b"S1", tags.RequestedProcedureID: b"R2"}], False),
        ([{tags.ScheduledProcedureStepID: b"s1"}], False),
        ([{tags.ScheduledProcedureStepID: b"S*", tags.RequestedProcedureID: b""}], True),
        ([{tags.ScheduledProcedureStepID: b"", tags.RequestedProcedureID: b""}], True),
        ([{}], True),
        ([], True),
        ([{tags.ScheduledProcedureStepDescription: b"x"}], False),
        ([{tags.ScheduledProcedureStepID: b"S9"}, {tags.RequestedProcedureID: b"R2"}], True),
    ],
)
def test_one_stored_item_must_meet_all_keys_of_an_item(keys: list[dict[int, bytes]], expected: bool) -> None:
    stored = b"".join(map(item_of, STEPS))
    key_condition = condition(REQUEST, keys, b"")
    assert (key_condition is None or key_condition.met_by({REQUEST: stored})) == expected


def test_a_sequence_with_keys_needs_a_stored_item() -> None:
    key_condition = condition(REQUEST, [{tags.ScheduledProcedureStepID: b"S1"}], b"")
    assert key_condition is not None and not key_condition.met_by({}) and not key_condition.met_by({REQUEST: b""})


def test_sequences_nest() -> None:
    code = item_of({tags.CodeValue: b"T-D1100", tags.CodingSchemeDesignator: b"SRT"})
    stored = item_of({tags.ScheduledProtocolCodeSequence: code, tags.ScheduledProcedureStepID: b"S1"})

    def finds(value: bytes) -> bool:
        keys = [{tags.ScheduledProtocolCodeSequence: [{tags.CodeValue: value}], tags.ScheduledProcedureStepID: b"S1"}]
        key_condition = condition(REQUEST, keys, b"")
        return key_condition is None or key_condition.met_by({REQUEST: stored})

    assert finds(b"T-D1100") and finds(b"T-*") and finds(b"") and not finds(b"T-D11")


def test_the_same_rules_hold_within_items() -> None:
    empty = condition(REQUEST, [{tags.ScheduledProcedureStepDescription: b'""'}], b"", EMPTY)
    assert empty is not None and empty.met_by({REQUEST: item_of(STEPS[0])}) and not empty.met_by({})
    pair = (tags.ScheduledProcedureStepStartDate, tags.ScheduledProcedureStepStartTime)
    keys = [{pair[0]: b"20060705-20060707", pair[1]: b"1000-1800"}]
    stored = {REQUEST: item_of({pair[0]: b"20060706", pair[1]: b"0300"})}
    together, apart = condition(REQUEST, keys, b"", DATE_TIME), condition(REQUEST, keys, b"")
    assert together is not None and together.met_by(stored)
    assert apart is not None and not apart.met_by(stored)
    converted = condition(REQUEST, [{pair[0]: b"20060707"}], b"", Rules(zone="+0100"))
    assert converted is not None
    late = {REQUEST: item_of({pair[0]: b"20060706", pair[1]: b"2330"})}
    assert converted.met_by(late, b"+0000") and not converted.met_by(late, b"+0100")


def test_damaged_stored_sequences_do_not_match() -> None:
    key_condition = condition(tags.ProcedureCodeSequence, [{tags.CodeValue: b"1"}], b"")
    assert key_condition is not None
    for stored in (b"x", b"\xfe\xff\x00\xe0\xff\xff\x00\x00", b"\0" * 20):
        assert not key_condition.met_by({tags.ProcedureCodeSequence: stored})


# properties -------------------------------------------------------------------------------------------

WORDS = ["doe", "Döe", "DOE", "meier", "Maier", "山田", "a", "b", " ", "^", "=", "\\", "*", "?", "-", '""', "\0"]
RULES = [BASELINE, FUZZY, EMPTY, MULTIPLE, DATE_TIME, Rules(fuzzy=True, multiple_values=True), Rules(zone="+0100")]
NAMED = [tags.PatientName, tags.ReferringPhysicianName, tags.PatientID, tags.StudyDescription, tags.OtherPatientIDs]
NAMED += [tags.Modality, tags.OtherPatientNames, tags.PatientComments, tags.ModalitiesInStudy, tags.SeriesNumber]


@given(st.sampled_from(NAMED), texts_of(WORDS), texts_of(WORDS[:-4]), st.sampled_from(RULES))
def test_every_value_that_meets_a_text_key_is_in_its_ranges(tag: int, key: str, stored: str, rules: Rules) -> None:
    met(tag, key, stored, rules=rules)


@given(texts_of(["a", "b", "c", "*", "?"]), texts_of(["a", "b", "c"]))
def test_wild_cards_match_as_in_a_slow_matcher(pattern: str, stored: str) -> None:
    def wild(pattern: str, text: str) -> bool:
        if not pattern:
            return not text
        if pattern[0] == "*":
            return any(wild(pattern[1:], text[at:]) for at in range(len(text) + 1))
        return bool(text) and pattern[0] in ("?", text[0]) and wild(pattern[1:], text[1:])

    if stored:
        assert met(tags.PatientID, pattern, stored) == (not pattern or wild(pattern, stored))


@given(
    st.sampled_from(
        [*NAMED, tags.StudyDate, tags.StudyTime, tags.AcquisitionDateTime, tags.Rows, tags.StudyInstanceUID]
    ),
    st.binary(max_size=20),
    st.binary(max_size=20),
    st.sampled_from(RULES),
    st.sampled_from([b"", b"ISO_IR 100", b"ISO_IR 192", b"\\ISO 2022 IR 87", b"GB18030", b"?"]),
)
def test_any_bytes_can_be_keys_and_stored_values(
    tag: int, key: bytes, stored: bytes, rules: Rules, character_set: bytes
) -> None:
    key_condition = condition(tag, key, character_set, rules)
    assert key_condition is None or meets(key_condition, {tag: stored}) in (True, False)
