"""engine.services.query: identifiers as queries, and queries in words that say nothing of a patient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from engine.dicom import tags
from engine.dicom.identifier import Identifier, Value, encode_identifier
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from engine.errors import QueryError
from engine.index.format.types import Level, Query, Root
from engine.services.query import (
    DESCRIBED_KEYS_MAX,
    FIND_OPTIONS,
    FindRequest,
    describe,
    find_query,
    query_options,
    retrieval_query,
)
from engine.ul.negotiation import AcceptedContext

MODEL = "1.2.840.10008.5.1.4.1.2."


def context(sop_class: str = "2.1") -> AcceptedContext:
    return AcceptedContext(1, MODEL + sop_class, EXPLICIT_VR_LITTLE_ENDIAN.uid, False, True)


def asked(keys: Mapping[int, Value], sop_class: str = "2.1", **more: Any) -> FindRequest:
    return find_query(context(sop_class), encode_identifier(keys, EXPLICIT_VR_LITTLE_ENDIAN), **more)


def retrieval(keys: Mapping[int, Value], sop_class: str = "2.2") -> Query:
    return retrieval_query(context(sop_class), encode_identifier(keys, EXPLICIT_VR_LITTLE_ENDIAN))


def test_an_identifier_is_a_query_of_its_model_and_what_is_to_be_returned() -> None:
    keys: dict[int, Value] = {
        tags.SpecificCharacterSet: b"ISO_IR 100",
        tags.QueryRetrieveLevel: b"STUDY",
        tags.RetrieveAETitle: b"",
        tags.InstanceAvailability: b"",
        tags.StorageMediaFileSetID: b"",
        tags.StorageMediaFileSetUID: b"",
        tags.PatientName: b"M\xfcller",
        tags.StudyInstanceUID: b"",
    }
    for sop_class, root in (("1.1", Root.PATIENT), ("2.1", Root.STUDY), ("3.1", Root.PATIENT_STUDY_ONLY)):
        got = asked(keys, sop_class, limit=7)
        query = got.query
        assert (query.level, query.root, query.limit, query.character_set) == (Level.STUDY, root, 7, b"ISO_IR 100")
        assert query.keys == {tags.PatientName: b"M\xfcller", tags.StudyInstanceUID: b""}
        assert set(got.return_keys) == set(keys) - {tags.SpecificCharacterSet}
    assert asked(keys).query.limit is None


@pytest.mark.parametrize(
    ("keys", "offending"),
    [
        ({tags.PatientID: b"1"}, tags.QueryRetrieveLevel),
        ({tags.QueryRetrieveLevel: b""}, tags.QueryRetrieveLevel),
        ({tags.QueryRetrieveLevel: b"PATIENT"}, tags.QueryRetrieveLevel),
        ({tags.QueryRetrieveLevel: b"studies"}, tags.QueryRetrieveLevel),
    ],
)
def test_an_invalid_level_is_an_offending_element(keys: Mapping[int, Value], offending: int) -> None:
    for ask in (asked, retrieval):
        with pytest.raises(QueryError) as caught:
            ask(keys)
        assert caught.value.offending_elements == (offending,)
        assert len(str(caught.value)) <= 64


def test_a_retrieval_takes_unique_keys_and_needs_no_parents() -> None:
    query = retrieval({tags.QueryRetrieveLevel: b"IMAGE", tags.SOPInstanceUID: b"1.2", tags.PatientName: b"X"})
    assert query.keys == {tags.SOPInstanceUID: b"1.2"}
    assert query.relational
    for keys, offending in (
        ({tags.StudyInstanceUID: b"1.2"}, tags.SeriesInstanceUID),
        ({tags.SeriesInstanceUID: b"1.*"}, tags.SeriesInstanceUID),
    ):
        with pytest.raises(QueryError) as caught:
            retrieval({tags.QueryRetrieveLevel: b"SERIES", **keys})
        assert caught.value.offending_elements == (offending,)


@pytest.mark.parametrize(
    ("tag", "value", "words"),
    [
        (tags.PatientName, b"", ""),
        (tags.PatientName, b"*", ""),
        (tags.PatientName, b"Doe^Jane", "PatientName single value"),
        (tags.PatientName, b"Doe^*", "PatientName wild card"),
        (tags.PatientID, b"P?", "PatientID wild card"),
        (tags.StudyDate, b"20260101", "StudyDate single value"),
        (tags.StudyDate, b"20260101-", "StudyDate range"),
        (tags.StudyTime, b"-1200", "StudyTime range"),
        (tags.AccessionNumber, b"A-1", "AccessionNumber single value"),
        (tags.StudyInstanceUID, b"1.2", "StudyInstanceUID single value"),
        (tags.StudyInstanceUID, b"1.2\\1.3", "StudyInstanceUID list of UID"),
        (tags.ProcedureCodeSequence, [], ""),
        (tags.ProcedureCodeSequence, [Identifier({tags.CodeValue: b""})], ""),
        (tags.ProcedureCodeSequence, [Identifier({tags.CodeValue: b"7"})], "ProcedureCodeSequence sequence"),
    ],
)
def test_a_query_is_described_by_its_keys_and_kinds_of_matching(tag: int, value: Any, words: str) -> None:
    assert describe(Query(Level.STUDY, {tag: value})) == words


def test_options_make_other_kinds_of_matching() -> None:
    def kind(tag: int, value: bytes, **options: bool) -> str:
        return describe(Query(Level.STUDY, {tag: value}, **options)).partition(" ")[2]

    assert kind(tags.PatientName, b"Doe", fuzzy=True) == "fuzzy"
    assert kind(tags.PatientID, b"P1", fuzzy=True) == "single value"
    assert kind(tags.PatientID, b'""', empty_values=True) == "empty value"
    assert kind(tags.PatientID, b'""') == "single value"
    assert kind(tags.PatientID, b"1\\2", multiple_values=True) == "multiple values"


def test_only_some_of_many_keys_are_described() -> None:
    keys = {tag: b"1" for tag in sorted(vars(tags).values(), key=str) if isinstance(tag, int) and tag >> 16 == 0x18}
    words = describe(Query(Level.IMAGE, keys))
    assert words.count(",") == DESCRIBED_KEYS_MAX - 1
    assert words.endswith(f" and {len(keys) - DESCRIBED_KEYS_MAX} more")


@pytest.mark.parametrize("level", [b"study ", b"Study", b" STUDY"])
def test_a_level_may_be_lower_case_and_have_spaces(level: bytes) -> None:
    found = asked({tags.QueryRetrieveLevel: level, tags.StudyInstanceUID: b""})
    assert (found.query.level, found.level_name) == (Level.STUDY, b"STUDY")
    assert retrieval({tags.QueryRetrieveLevel: level, tags.StudyInstanceUID: b"1.2"}).level is Level.STUDY


@pytest.mark.parametrize("in_study", [None, b"", b"*"])
@pytest.mark.parametrize("value", [b"CT", b"CT\\MR", b"C*"])
def test_modality_at_study_level_is_modalities_in_study(value: bytes, in_study: bytes | None) -> None:
    keys: dict[int, Value] = {tags.QueryRetrieveLevel: b"STUDY", tags.Modality: value}
    if in_study is not None:
        keys[tags.ModalitiesInStudy] = in_study
    found = asked(keys)
    assert found.query.keys == {tags.ModalitiesInStudy: value}
    assert found.substitutes == {tags.Modality: tags.ModalitiesInStudy}
    assert tags.Modality in found.return_keys
    relational = asked(keys, options=["relational"])
    assert relational.query.keys[tags.Modality] == value, "that looks at the series"
    assert not relational.substitutes


@pytest.mark.parametrize(
    "keys",
    [
        {tags.QueryRetrieveLevel: b"SERIES", tags.StudyInstanceUID: b"1.2", tags.Modality: b"CT"},
        {tags.QueryRetrieveLevel: b"STUDY", tags.Modality: b"CT", tags.ModalitiesInStudy: b"MR"},
        {tags.QueryRetrieveLevel: b"STUDY", tags.Modality: b""},
        {tags.QueryRetrieveLevel: b"STUDY", tags.Modality: b"*"},
    ],
)
def test_modality_at_other_levels_and_with_modalities_in_study_is_itself(keys: dict[int, Value]) -> None:
    found = asked(keys)
    assert found.query.keys[tags.Modality] == keys[tags.Modality]
    assert not found.substitutes


ALL_OPTIONS = frozenset({"relational", "date-time", "fuzzy", "timezone", "empty-values", "multiple-values"})


@pytest.mark.parametrize(
    ("agreed", "options"),
    [
        (b"", set()),
        (b"\0", set()),
        (b"\1", {"relational"}),
        (b"\0\1", {"date-time"}),
        (b"\0\0\1", {"fuzzy"}),
        (b"\0\0\0\1", {"timezone"}),
        (b"\0\0\0\0\1", set()),
        (b"\0\0\0\0\0\1", {"empty-values"}),
        (b"\0\0\0\0\0\0\1", {"multiple-values"}),
        (b"\1\1\1\1\1\1\1\1\1", ALL_OPTIONS),
        (b"\2", set()),
    ],
)
def test_each_byte_of_the_negotiated_item_is_one_option(agreed: bytes, options: set[str]) -> None:
    assert query_options((), agreed) == options


def test_configured_options_apply_in_addition_to_negotiated_ones() -> None:
    assert query_options(("relational",), b"\0\0\1") == {"relational", "fuzzy"}
    assert query_options((), b"\0\0\1") == {"fuzzy"}
    assert query_options((), b"") == set()


def test_supported_options_are_offered() -> None:
    assert FIND_OPTIONS == b"\1\1\1\1\0\1\1"
    assert query_options((), FIND_OPTIONS) == ALL_OPTIONS
