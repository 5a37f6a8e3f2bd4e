"""Small synthetic instances for tests, made with pydicom: known attributes, a few hundred bytes of pixels."""

from __future__ import annotations

import io
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from tests import plain_part10

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
ROOT = "1.2.826.0.1.3680043.10.1599.99"


def instance(
    study: int = 1,
    series: int = 1,
    number: int = 1,
    *,
    sop_class_uid: str = CT,
    modality: str = "CT",
    patient_id: str = "P1",
    patient_name: str = "Doe^Jane",
    study_date: str = "20260102",
    pixels: bytes = bytes(range(256)) * 2,
    transfer_syntax: str = ExplicitVRLittleEndian,
    **more: object,
) -> Dataset:
    """One instance with file meta; study, series and number give its UIDs."""
    ds = Dataset()
    if not patient_name.isascii():
        ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = sop_class_uid
    ds.SOPInstanceUID = f"{ROOT}.{study}.{series}.{number}"
    ds.StudyDate = study_date
    ds.StudyTime = "101112"
    ds.AccessionNumber = f"A{study}"
    ds.Modality = modality
    ds.Manufacturer = "Synthetic"
    ds.StudyDescription = f"Study {study}"
    ds.SeriesDescription = f"Series {series}"
    ds.ReferringPhysicianName = "Refer^Red"
    ds.PatientName = patient_name
    ds.PatientID = patient_id
    ds.PatientBirthDate = "19700203"
    ds.PatientSex = "F"
    ds.StudyInstanceUID = f"{ROOT}.{study}"
    ds.SeriesInstanceUID = f"{ROOT}.{study}.{series}"
    ds.StudyID = f"S{study}"
    ds.SeriesNumber = series
    ds.InstanceNumber = number
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows = 16
    ds.Columns = min(len(pixels) // 32, 65535)
    ds.BitsAllocated = 16
    ds.BitsStored = 12
    ds.HighBit = 11
    ds.PixelRepresentation = 0
    ds.add_new(0x00091001, "UN", b"private!")
    ds.add_new(0x00090010, "LO", "FILMROOM TEST")
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    ds.PixelData = pixels
    ds["PixelData"].VR = "OW"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = sop_class_uid
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = transfer_syntax
    return ds


def encoded(ds: Dataset) -> bytes:
    """The data set's bytes, without file meta, as pydicom writes them."""
    plain = plain_part10.data_set(ds)
    return encoded_by_pydicom(ds) if plain is None else plain


def encoded_by_pydicom(ds: Dataset) -> bytes:
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    syntax = ds.file_meta.TransferSyntaxUID
    out = DicomBytesIO()
    out.is_little_endian = syntax.is_little_endian
    out.is_implicit_VR = syntax.is_implicit_VR
    write_dataset(out, ds)
    return out.getvalue()


def part10(ds: Dataset) -> bytes:
    """A whole Part 10 file, as pydicom writes it."""
    plain = plain_part10.data_set(ds)
    head = None if plain is None else plain_part10.head(ds)
    return part10_by_pydicom(ds) if plain is None or head is None else head + plain


def part10_by_pydicom(ds: Dataset) -> bytes:
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def write(folder: Path, *data_sets: Dataset) -> list[Path]:
    """Writes a file for each of these instances."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, ds in enumerate(data_sets):
        path = folder / f"{number:05d}.dcm"
        path.write_bytes(part10(ds))
        paths.append(path)
    return paths
