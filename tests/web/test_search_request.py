"""The parameters of a search become a query of the archive, or are refused or ignored by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.archive.questions import Level
from engine.dicom import tags
from engine.dicom.extra import Extra, ExtraSet
from engine.dicom.schema import STANDARD, Schema
from engine.errors import QueryError, RequestError
from engine.web.search_request import PARAMETER_COUNT_MAX, SearchRequest, parse

STUDY, SERIES = "1.2.3", "1.2.3.4"


def asked(query: str, level: Level = Level.STUDY, scope: dict[Level, str] | None = None, **more: int) -> SearchRequest:
    return parse(query, level, scope or {}, STANDARD, **more)


def values(request: SearchRequest) -> dict[int, object]:
    """The keys that ask for something."""
    return {tag: value for tag, value in request.query.keys.items() if value}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {}),
        ("PatientName=DOE*", {tags.PatientName: b"DOE*"}),
        ("00100010=DOE*&0020000D=1.2.3", {tags.PatientName: b"DOE*", tags.StudyInstanceUID: b"1.2.3"}),
        ("PatientName=M%C3%BCller%5EJ", {tags.PatientName: "Müller^J".encode()}),
        ("PatientName=a+b%2Cc", {tags.PatientName: b"a b,c"}),
        ("StudyDate=20260101-&StudyTime=10-11", {tags.StudyDate: b"20260101-", tags.StudyTime: b"10-11"}),
        # OHIF joins UIDs with a backslash, others with commas, encoded or not.
        ("StudyInstanceUID=1.2.3%5C1.2.4", {tags.StudyInstanceUID: b"1.2.3\\1.2.4"}),
        ("StudyInstanceUID=1.2.3,1.2.4", {tags.StudyInstanceUID: b"1.2.3\\1.2.4"}),
        ("StudyInstanceUID=1.2.3%2C1.2.4", {tags.StudyInstanceUID: b"1.2.3\\1.2.4"}),
        ("ModalitiesInStudy=CT%2CMR", {tags.ModalitiesInStudy: b"CT\\MR"}),
        ("TimezoneOffsetFromUTC=+0100", {tags.TimezoneOffsetFromUTC: b"+0100"}),
        ("TimezoneOffsetFromUTC=%2B0100", {tags.TimezoneOffsetFromUTC: b"+0100"}),
        ("PatientID=&PatientName=", {}),
        ("00400275.00400009=S1", {0x00400275: [{0x00400009: b"S1", 0x00401001: b""}]}),
        (
            "RequestAttributesSequence.ScheduledProcedureStepID=S1&00400275.RequestedProcedureID=R",
            {0x00400275: [{0x00400009: b"S1", 0x00401001: b"R"}]},
        ),
    ],
)
def test_a_parameter_is_a_key(query: str, expected: dict[int, object]) -> None:
    found = values(asked(query))
    assert found == expected
    assert asked(query).query.character_set == b"ISO_IR 192"
    assert not asked(query).warnings


def test_the_switches_are_those_of_c_find() -> None:
    plain = asked("").query
    assert (plain.relational, plain.date_time, plain.timezone) == (True, True, True)
    assert (plain.fuzzy, plain.empty_values, plain.multiple_values) == (False, False, False)
    every = asked("fuzzymatching=true&emptyvaluematching=TRUE&multiplevaluematching=true").query
    assert (every.fuzzy, every.empty_values, every.multiple_values) == (True, True, True)
    assert not asked("fuzzymatching=false").query.fuzzy


def test_limit_and_offset_and_the_maximum_of_the_server() -> None:
    assert asked("limit=5&offset=7").query.limit == 5
    assert asked("limit=5&offset=7").query.offset == 7
    assert asked("limit=5", results_max=3).query.limit == 3
    assert asked("", results_max=3).query.limit == 3
    assert asked("").query.limit is None
    assert asked("limit=0").query.limit == 0


def test_what_is_returned_always_follows_resource_and_scope() -> None:
    study, series, instance = tags.PatientName, tags.SeriesNumber, tags.InstanceNumber
    uids = {tags.StudyInstanceUID, tags.SeriesInstanceUID}
    everything, of_study = {}, {Level.STUDY: STUDY}
    of_series = {Level.STUDY: STUDY, Level.SERIES: SERIES}
    for level, scope, there, missing in (
        (Level.STUDY, everything, {study}, {series, instance}),
        (Level.SERIES, everything, {study, series}, {instance}),
        (Level.SERIES, of_study, {series, tags.StudyInstanceUID}, {study, instance}),
        (Level.IMAGE, everything, {study, series, instance}, set()),
        (Level.IMAGE, of_study, {series, instance, *uids}, {study}),
        (Level.IMAGE, of_series, {instance, *uids}, {study, series}),
    ):
        found = asked("", level, scope)
        assert there <= set(found.query.keys) and there <= found.always
        assert not missing & set(found.query.keys)
    assert tags.Rows in asked("", Level.IMAGE).query.keys
    assert tags.Rows not in asked("", Level.IMAGE).always  # only with a value


def test_included_attributes_of_this_level_and_those_above_are_returned() -> None:
    found = asked("includefield=00081030,Modality&includefield=PatientComments%2C00102180&includefield=Rows")
    assert {tags.StudyDescription, tags.PatientComments, tags.Occupation} <= set(found.query.keys)
    assert not {tags.Modality, tags.Rows} & set(found.query.keys)  # of levels below: dropped silently
    assert not found.warnings
    every = asked("includefield=all").query.keys
    assert {tags.AdmittingDiagnosesDescription, tags.ProcedureCodeSequence} <= set(every)
    assert tags.BodyPartExamined in asked("includefield=all", Level.SERIES).query.keys


def test_the_path_narrows_the_search() -> None:
    scope = {Level.STUDY: STUDY, Level.SERIES: SERIES}
    found = values(asked("", Level.IMAGE, scope))
    assert found == {tags.StudyInstanceUID: b"1.2.3", tags.SeriesInstanceUID: b"1.2.3.4"}
    assert values(asked(f"StudyInstanceUID={STUDY}", Level.SERIES, {Level.STUDY: STUDY}))
    with pytest.raises(RequestError, match="StudyInstanceUID"):
        asked("StudyInstanceUID=1.9", Level.SERIES, {Level.STUDY: STUDY})
    odd = values(asked("SOPInstanceUID=3gb_native.0", Level.IMAGE, {Level.STUDY: "3gb_native"}))
    assert odd == {tags.StudyInstanceUID: b"3gb_native", tags.SOPInstanceUID: b"3gb_native.0"}
    for uid in ("*", "1.2?", "1.2\\1.3", "1.2,1.3", " "):
        with pytest.raises((RequestError, QueryError)):
            asked("", Level.SERIES, {Level.STUDY: uid})


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("limit=x", "limit"), ("limit=-1", "limit"), ("limit=", "limit"), ("offset=1.5", "offset"),
        ("limit=1&limit=2", "limit"), ("LIMIT=1&limit=2", "limit"), ("PatientID=1&PatientID=2", "PatientID"),
        ("fuzzymatching=yes", "fuzzymatching"), ("StudyDate=yesterday", "StudyDate"),
        ("StudyDate=20260230", "StudyDate"), ("StudyDate=20260201-20260101", "StudyDate"),
        ("StudyInstanceUID=1.2.*", "StudyInstanceUID"), ("00080030=99", "00080030"),
        ("PatientName.PatientID=x", "PatientName.PatientID"),
        ("RequestAttributesSequence=x", "RequestAttributesSequence"),
        ("00400275." * 2000 + "00400009=1", "more than 32 sequences"),
        ("PatientID=%FF", "UTF-8"), ("NumberOfFrames=abc", "NumberOfFrames"),
        ("&".join(f"a{i}=1" for i in range(PARAMETER_COUNT_MAX + 1)), "parameters"),
    ],
)  # fmt: skip
def test_an_invalid_value_is_refused_with_its_name(query: str, name: str) -> None:
    with pytest.raises((RequestError, QueryError)) as raised:
        asked(query)
    assert name in str(raised.value)


@pytest.mark.parametrize(
    "query", ["colour=blue", "_=1735", "PatientsName=x", "00191234=7", "PixelData=x", "RouteAET=x"]
)
def test_unknown_parameters_are_ignored_with_a_warning(query: str) -> None:
    found = asked(query + "&PatientID=1")
    assert values(found) == {tags.PatientID: b"1"}
    (warning,) = found.warnings
    assert "ignored" in warning and warning.isascii()


def test_a_warning_has_only_characters_allowed_in_a_header() -> None:
    (warning,) = asked("a%0D%0ASet-Cookie:%20x%C3%A4" + "b" * 500 + "=1").warnings
    assert warning.isprintable() and warning.isascii() and len(warning) < 200


def test_a_private_attribute_comes_with_its_creator() -> None:
    schema = Schema(ExtraSet((Extra(0x001910A3, 2, "LO", "ACME 1.0"),)))
    found = parse("00190012=ACME+1.0&001912A3=7", Level.SERIES, {}, schema)
    assert values(found)[0x001912A3] == b"7" and values(found)[0x00190012] == b"ACME 1.0"
    without = parse("001912A3=7", Level.SERIES, {}, schema)
    assert 0x001912A3 not in without.query.keys and without.warnings


@given(st.text(max_size=80), st.sampled_from([Level.STUDY, Level.SERIES, Level.IMAGE]))
def test_any_query_string_is_parsed_or_a_known_error(query: str, level: Level) -> None:
    try:
        found = asked(query, level)
    except (RequestError, QueryError):
        return
    assert found.query.level is level


NAMES = st.sampled_from(
    ["PatientName", "00080020", "00400275.00400009", "includefield", "limit", "StudyInstanceUID", "a"]
)


@given(st.lists(st.tuples(NAMES, st.text(st.sampled_from("0123456789.,-*?\\ ab%"), max_size=12)), max_size=5))
def test_any_parameters_are_parsed_or_a_known_error(pairs: list[tuple[str, str]]) -> None:
    try:
        asked("&".join(f"{name}={value}" for name, value in pairs))
    except (RequestError, QueryError):
        return
