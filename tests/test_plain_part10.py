"""The quick writer of test data writes what pydicom writes, or leaves it to pydicom."""

from __future__ import annotations

import random
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from tests import plain_part10, samples


def coded(code: str, **more: Any) -> Dataset:
    item = Dataset()
    item.CodeMeaning = code
    for keyword, value in more.items():
        setattr(item, keyword, value)
    return item


VALUES: list[tuple[str, Any]] = [
    ("PatientName", "Doe^Jane^^Dr"), ("PatientName", "Doe^Jane=ideographic"), ("PatientName", "Dö^J"),
    ("PatientName", ""), ("PatientName", "Doe^"), ("OtherPatientNames", ["A^B", "C^D"]), ("PatientID", None),
    ("PatientID", "odd"),
    ("PatientID", " both "), ("ImageType", ["ORIGINAL", "PRIMARY"]), ("ImageType", []), ("SliceThickness", 1.5),
    ("SliceThickness", "1.50"), ("ImagePositionPatient", [1, -2.25, "3.0e1"]), ("SeriesNumber", "007"),
    ("NumberOfFrames", 3), ("StudyDate", "20260102"), ("StudyTime", "101112.5"), ("PatientAge", "044Y"),
    ("PatientComments", "two\r\nlines"), ("PatientComments", "\x1b$B"), ("RescaleType", "HU"), ("Rows", 512),
    ("SmallestImagePixelValue", 3), ("PixelSpacing", ["0.5", "0.5"]), ("FrameIncrementPointer", 0x00181063),
    ("RequestAttributesSequence", [Dataset()]), ("DeidentificationMethod", "x" * 70_000), ("URLCodeValue", "http://a"),
    ("RequestAttributesSequence", [coded("C1"), coded("Größe")]), ("RequestAttributesSequence", []),
    ("ContentSequence", [coded("C1", ConceptNameCodeSequence=[coded("C2"), Dataset()])]),
    ("ContentSequence", [coded("C1", SpecificCharacterSet="ISO_IR 100")]), ("StudyDescription", "Größe"),
    ("SpecificCharacterSet", "ISO_IR 13"), ("SpecificCharacterSet", ["", "ISO 2022 IR 87"]), ("PixelData", b"\1\2\3"),
    ("PixelData", b""), ("SOPInstanceUID", "1.2.3"), ("FloatPixelData", b"1234"), ("ExposureTime", None),
]  # fmt: skip


def assert_as_pydicom_writes(ds: Dataset) -> None:
    assert samples.encoded(ds) == samples.encoded_by_pydicom(ds)
    assert samples.part10(ds) == samples.part10_by_pydicom(ds)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("syntax", [samples.ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_each_value_is_written_as_by_pydicom(syntax: str) -> None:
    for keyword, value in VALUES:
        for name in ("Doe^Jane", "Größe^J"):  # the second makes it UTF-8
            ds = samples.instance(transfer_syntax=syntax, patient_name=name)
            setattr(ds, keyword, value)
            assert_as_pydicom_writes(ds)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("seed", range(20))
def test_values_together_are_written_as_by_pydicom(seed: int) -> None:
    rng = random.Random(seed)
    syntax = rng.choice([samples.ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
    ds = samples.instance(rng.randrange(9), 1, rng.randrange(1000), transfer_syntax=syntax)
    for keyword, value in rng.sample(VALUES, rng.randrange(5)):
        setattr(ds, keyword, value)
    if rng.random() < 0.2:
        ds.preamble = b"x" * 128
    if rng.random() < 0.2:
        ds.file_meta.SourceApplicationEntityTitle = "SOURCE"
    assert_as_pydicom_writes(ds)


@pytest.mark.parametrize("syntax", [samples.ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_the_usual_instance_is_plain(syntax: str) -> None:
    more = {"StudyDescription": "odd", "PatientWeight": "70.5", "RequestAttributesSequence": [coded("Größe")]}
    ds = samples.instance(3, 2, 11, transfer_syntax=syntax, patient_name="Größe^J", **more)  # type: ignore[arg-type]
    assert plain_part10.data_set(ds) == samples.encoded_by_pydicom(ds)
    assert plain_part10.head(ds) + samples.encoded(ds) == samples.part10_by_pydicom(ds)


def test_what_is_not_native_is_left_to_pydicom() -> None:
    assert plain_part10.data_set(samples.instance(transfer_syntax=DeflatedExplicitVRLittleEndian)) is None
    assert plain_part10.data_set(samples.instance(StudyDescription="Dö")) is None
    assert plain_part10.data_set(samples.instance(RequestAttributesSequence=[coded("Dö")])) is None
