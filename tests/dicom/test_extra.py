"""dicom.extra: valid [[attribute]] tables, and the attributes extracted for them, judged by pydicom."""

from __future__ import annotations

import random
import zlib
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from engine.config import Attribute
from engine.dicom import elements, extra, tags
from engine.dicom.extra import COUNT_MAX, NONE, ExtraSet
from engine.dicom.schema import STANDARD, Schema
from engine.dicom.transfer_syntax import (
    BIG_ENDIAN,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    TransferSyntax,
)
from engine.errors import ConfigError
from tests import samples
from tests.oracle import foreign

ACME = "ACME 1.0"
SYNTAXES = (
    IMPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
)


def extra_set(*attributes: dict[str, Any]) -> ExtraSet:
    return extra.of([Attribute(**{"level": "study", **one}) for one in attributes])


def encoded(ds: Dataset, syntax: TransferSyntax) -> bytes:
    out = DicomBytesIO()
    out.is_little_endian = not syntax.encoding & BIG_ENDIAN
    out.is_implicit_VR = not syntax.encoding & EXPLICIT_VR
    write_dataset(out, ds)
    data = out.getvalue()
    if syntax.deflated:
        deflater = zlib.compressobj(wbits=-15)
        data = deflater.compress(data) + deflater.flush()
    return data


def extracted(
    ds: Dataset, schema: Schema = STANDARD, syntax: TransferSyntax = EXPLICIT_VR_LITTLE_ENDIAN
) -> list[dict[int, bytes]]:
    head = elements.extract(encoded(ds, syntax), syntax, extractor=schema.extractor)
    return [elements.blob_items(blob) for blob in (head.patient, head.study, head.series, head.instance)]


# what may be configured ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ([{"tag": "StudyStatuID"}], "neither a keyword of PS3.6 nor a tag like 0032,000A; did you mean 'StudyStatus"),
        ([{"tag": "0032-000A"}], "neither a keyword"),
        ([{"tag": "PatientName"}], "every archive has it already, at the patient level"),
        ([{"tag": "(0020,0011)"}], "every archive has it already, at the series level"),
        ([{"tag": "ModalitiesInStudy"}], "queries return it anyway"),
        ([{"tag": "SpecificCharacterSet"}], "cannot be indexed: it"),
        ([{"tag": "PixelData"}], "cannot be indexed: it"),
        ([{"tag": "0032,0000"}], "cannot be indexed: it"),
        ([{"tag": "TransferSyntaxUID"}], "cannot be indexed: it"),
        ([{"tag": "0019,10A3", "vr": "LO"}], "the creator is missing"),
        ([{"tag": "0019,10A3", "creator": ACME}], "vr is missing"),
        ([{"tag": "0019,0010", "creator": ACME, "vr": "LO"}], "private elements begin at gggg,1000"),
        ([{"tag": "0019,10A3", "creator": "Ä", "vr": "LO"}], "is not a private creator"),
        ([{"tag": "0019,10A3", "creator": "A" * 65, "vr": "LO"}], "is not a private creator"),
        ([{"tag": "StudyStatusID", "creator": ACME}], "only private attributes, which have odd groups, have a creator"),
        ([{"tag": "StudyStatusID", "vr": "LO"}], "its VR is CS, not LO"),
        ([{"tag": "0032,9999"}], "vr is missing"),
        ([{"tag": "0019,10A3", "creator": ACME, "vr": "OB"}], "values of VR OB cannot be indexed"),
        ([{"tag": "0019,10A3", "creator": ACME, "vr": "lo"}], "'lo' is not a VR; did you mean 'LO'"),
        ([{"tag": "RequestedProcedureCodeSequence", "indexed": True}], "of VR SQ cannot be indexed"),
        ([{"tag": "SliceThickness", "level": "instance", "indexed": True}], "at the instance level cannot be indexed"),
        ([{"tag": "StudyStatusID"}, {"tag": "0032,000A"}], "it is configured twice"),
        (
            [{"tag": "0019,10A3", "creator": c, "vr": "LO"} for c in (ACME, "OTHER")],
            "'ACME 1.0' has this tag already: write another block, such as 0019,11A3",
        ),
        (
            [{"tag": t, "creator": ACME, "vr": "LO"} for t in ("0019,10A3", "0019,11A3")],
            "it is configured twice, in another block",
        ),
        (
            [{"tag": f"0019,10{n:02X}", "creator": ACME, "vr": "LO"} for n in range(COUNT_MAX + 1)],
            f"there are {COUNT_MAX + 1} [[attribute]] tables; the limit is {COUNT_MAX}",
        ),
    ],
)
def test_an_invalid_attribute_is_refused_with_the_reason(attributes: list[dict[str, Any]], reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        extra_set(*attributes)
    assert reason in str(caught.value)


def test_a_set_is_the_same_for_any_spelling_and_order_of_its_attributes() -> None:
    one = extra_set({"tag": "StudyStatusID"}, {"tag": "0019,xxa3", "creator": ACME, "vr": "LO"})
    two = extra_set({"tag": "(0019,10A3)", "creator": f" {ACME}", "vr": "LO"}, {"tag": "0032,000A"})
    assert one == two
    assert one.digest == two.digest


def test_every_change_of_a_set_gives_another_digest_even_if_the_set_returns() -> None:
    sets = [NONE, ExtraSet((), 2)]
    sets += [extra_set({"tag": "StudyStatusID"}), extra_set({"tag": "StudyStatusID", "indexed": True})]
    sets += [extra_set({"tag": "StudyStatusID", "level": "series"}), extra_set({"tag": "ReasonForStudy"})]
    sets += [ExtraSet(sets[2].extras, 3)]
    assert len({one.digest for one in sets}) == len({one.mark for one in sets}) == len(sets)
    assert (NONE.digest, NONE.mark) == (bytes(8), 0)


def test_a_schema_has_level_vr_and_searched_tags_and_does_not_change_another() -> None:
    one = Schema(
        extra_set(
            {"tag": "0019,10A3", "creator": ACME, "vr": "DS", "level": "series"},
            {"tag": "StudyStatusID", "indexed": True},
        )
    )
    other = Schema(extra_set({"tag": "0019,10A3", "creator": "OTHER", "vr": "PN", "level": "patient"}))
    assert [(s.level_of.get(0x001910A3), s.vr_of(0x001910A3)) for s in (one, other, STANDARD)] == [
        (2, "DS"),
        (0, "PN"),
        (None, "UN"),
    ]
    assert [s.level_of.get(tags.StudyStatusID) for s in (one, other)] == [1, None]
    assert [tags.StudyStatusID in s.searched for s in (one, other)] == [True, False]
    assert tags.vr_of(0x001910A3) == "UN"


# what is taken out -----------------------------------------------------------------------------------------------


def private_instance() -> Dataset:
    """Two creators in one group, ours in the second block; both have the same element number."""
    ds = samples.instance(ReasonForStudy="Schmerz", SliceThickness="1.25", PatientSpeciesDescription="Homo sapiens ")
    other = ds.private_block(0x0019, "OTHER 2", create=True)
    other.add_new(0xA3, "LO", "not this")
    ours = ds.private_block(0x0019, ACME, create=True)
    ours.add_new(0xA3, "LO", "this ")
    ours.add_new(0xA4, "US", [1, 258])
    item = Dataset()
    item.CodeValue = "T1"
    item.private_block(0x0019, ACME, create=True).add_new(0xA3, "LO", "within")
    ours.add_new(0xA5, "SQ", [item])
    assert ds[0x0019, 0x11A3].value == "this "
    return ds


EXTRAS = (
    {"tag": "ReasonForStudy", "level": "study"},
    {"tag": "PatientSpeciesDescription", "level": "patient"},
    {"tag": "SliceThickness", "level": "instance"},
    {"tag": "SamplesPerPixel", "level": "series"},
    {"tag": "0019,10A3", "creator": ACME, "vr": "LO", "level": "series"},
    {"tag": "0019,10A4", "creator": ACME, "vr": "US", "level": "study"},
    {"tag": "0019,10A5", "creator": ACME, "vr": "SQ", "level": "study"},
)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_public_and_private_attributes_are_extracted_from_every_encoding(syntax: TransferSyntax) -> None:
    plain = extracted(private_instance(), syntax=syntax)
    patient, study, series, instance = extracted(private_instance(), Schema(extra_set(*EXTRAS)), syntax)
    assert patient.pop(tags.PatientSpeciesDescription) == b"Homo sapiens"
    assert study.pop(tags.ReasonForStudy) == b"Schmerz"
    assert instance.pop(tags.SliceThickness) == b"1.25"
    assert series.pop(tags.SamplesPerPixel) == b"\1\0"
    assert series.pop(0x001910A3) == b"this"
    assert study.pop(0x001910A4) == b"\1\0\2\1"
    items = study.pop(0x001910A5)
    (item,) = elements.walk(items, EXPLICIT_VR)
    within = {
        one.tag: items[one.value_offset : one.value_offset + one.length]
        for one in elements.walk(items, EXPLICIT_VR, item.value_offset, item.value_offset + item.length)
    }
    assert within == {0x00080100: b"T1", 0x00190010: b"ACME 1.0", 0x001910A3: b"within"}
    assert [patient, study, series, instance] == plain


def test_an_element_without_its_creator_or_with_another_one_is_not_extracted() -> None:
    schema = Schema(extra_set({"tag": "0019,10A3", "creator": ACME, "vr": "LO"}))
    ds = samples.instance()
    ds.add_new(0x001910A3, "LO", "literally there")
    assert 0x001910A3 not in extracted(ds, schema)[1]
    ds.add_new(0x00190010, "LO", "ACME 1.0.1")
    assert 0x001910A3 not in extracted(ds, schema)[1]
    ds.add_new(0x00190010, "LO", ACME)
    assert extracted(ds, schema)[1][0x001910A3] == b"literally there"


def test_of_two_creators_with_one_element_number_each_gets_its_own() -> None:
    schema = Schema(
        extra_set(
            {"tag": "0019,10A3", "creator": ACME, "vr": "LO"}, {"tag": "0019,11A3", "creator": "OTHER 2", "vr": "LO"}
        )
    )
    study = extracted(private_instance(), schema)[1]
    assert (study[0x001910A3], study[0x001911A3]) == (b"this", b"not this")


def test_private_values_sent_as_un_are_kept() -> None:
    ds = samples.instance()
    ds.add_new(0x00190010, "LO", ACME)
    ds.add_new(0x001910A3, "UN", b"plain ")
    schema = Schema(extra_set({"tag": "0019,10A3", "creator": ACME, "vr": "LO"}))
    assert extracted(ds, schema)[1][0x001910A3] == b"plain"


def test_extra_attributes_are_found_in_pieces_of_any_size() -> None:
    data = encoded(private_instance(), EXPLICIT_VR_LITTLE_ENDIAN)
    extractor = Schema(extra_set(*EXTRAS)).extractor
    whole = elements.extract(data, EXPLICIT_VR_LITTLE_ENDIAN, extractor=extractor)
    for piece_bytes in (1, 9, 30, 77):
        scanner = elements.Scanner(EXPLICIT_VR_LITTLE_ENDIAN, extractor=extractor)
        for at in range(0, len(data), piece_bytes):
            scanner.feed(data[at : at + piece_bytes])
        head = scanner.finish()
        assert (head.patient, head.study, head.series, head.instance) == (
            whole.patient,
            whole.study,
            whole.series,
            whole.instance,
        )


CREATORS = ("A", "ACME 1.0", "ACME 1.0 EXT", "SIEMENS MR HEADER")


@pytest.mark.parametrize("seed", range(40))
def test_random_private_elements_are_found_as_pydicom_finds_them(seed: int) -> None:
    rng = random.Random(seed)
    ds = samples.instance()
    for group in (0x0019, 0x0029, 0x7001):
        blocks = rng.sample(range(0x10, 0x100), 3)
        for block, creator in zip(sorted(blocks), rng.sample(CREATORS, 3), strict=True):
            if rng.random() < 0.9:
                ds.add_new((group, block), "LO", creator)
            for element in [*rng.sample(range(256), rng.randint(0, 6)), 1, 2]:
                ds.add_new((group, block << 8 | element), "LO", f"{group:x}.{block:x}.{element}")
    keys = {(rng.choice((0x0019, 0x0029, 0x7001)), rng.choice(CREATORS), rng.choice((1, 2, 7, 77))) for _ in range(12)}
    chosen = {}
    for group, creator, element in sorted(keys):
        block = 0x10 + CREATORS.index(creator)
        chosen[group << 16 | block << 8 | element] = (group, creator, element)
    schema = Schema(
        extra_set(
            *[
                {"tag": extra.tag_text(tag), "creator": creator, "vr": "LO", "level": rng.choice(extra.LEVEL_NAMES)}
                for tag, (_, creator, _) in chosen.items()
            ]
        )
    )
    syntax = rng.choice(SYNTAXES)
    theirs = foreign.read_data_set(encoded(ds, EXPLICIT_VR_LITTLE_ENDIAN), EXPLICIT_VR_LITTLE_ENDIAN)
    values = {tag: value for blob in extracted(ds, schema, syntax) for tag, value in blob.items()}
    for tag, (group, creator, element) in chosen.items():
        try:
            expected = theirs.private_block(group, creator)[element].value.encode()
        except KeyError:
            expected = None
        assert values.get(tag) == expected, f"seed {seed}: {tag:08X}"
