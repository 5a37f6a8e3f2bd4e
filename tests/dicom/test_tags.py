"""dicom.tags, dicom.uids and dicom.attributes: the generated dictionaries, which must not be edited by hand."""

from __future__ import annotations

import importlib.util
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pydicom
import pytest
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pynetdicom import sop_class

from engine.dicom import attributes, tags, uids

CHECKOUT = Path(__file__).resolve().parents[2]


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gen_dictionary", CHECKOUT / "tools" / "gen_dictionary.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_modules_are_what_the_generator_writes() -> None:
    if f"pydicom {pydicom.__version__}:" not in (CHECKOUT / "engine/dicom/tags.py").read_text():
        pytest.skip("generated from another pydicom")
    assert (CHECKOUT / "engine/dicom/tags.py").read_text() == generator().tags_module()
    assert (CHECKOUT / "engine/dicom/uids.py").read_text() == generator().uids_module()


def test_vrs_and_keywords_are_those_of_the_dictionary() -> None:
    for tag in (0x00100010, 0x00280106, 0x7FE00010, 0x00283006, 0x60003000, 0x60023000, 0x00000900, 0x50042500):
        assert tags.dictionary_vr(tag) == dictionary_VR(tag)
        assert tags.keyword_of(tag) == keyword_for_tag(tag)


def test_vr_of_decides_the_open_choices() -> None:
    assert tags.vr_of(tags.SmallestImagePixelValue) == "US"
    assert tags.vr_of(tags.PixelData) == "OW"
    assert tags.vr_of(tags.LUTData) == "OW"


def test_unlisted_tags_have_a_vr_too() -> None:
    assert tags.vr_of(0x00090010) == "LO"
    assert tags.vr_of(0x00091010) == "UN"
    assert tags.vr_of(0x00080000) == "UL"
    assert tags.vr_of(0x00089999) == "UN"


def test_keywords_and_tags_go_both_ways() -> None:
    assert tags.tag_of("PatientID") == tags.PatientID == 0x00100020
    assert tags.tag_of("00100020") == 0x00100020
    assert tags.keyword_of(0x00091001) == "00091001"
    for text in ("", "NoSuchKeyword", "_VR_BY_TAG", "vr_of", "Final", "zz100020"):
        assert tags.tag_of(text) is None
    assert tags.is_private(0x00091001)
    assert not tags.is_private(tags.PatientID)


def test_the_packed_dictionary_is_ascending() -> None:
    rows = list(struct.iter_unpack("<IHH", tags.packed()))
    assert [row[0] for row in rows] == sorted({row[0] for row in rows})
    assert (0x00100010, 0x504E, 0) in rows


def test_levels_share_no_attribute_and_know_their_vrs() -> None:
    all_tags = [tag for level in attributes.LEVELS for tag in level]
    assert len(all_tags) == len(set(all_tags)) == 84
    assert "UN" not in {tags.vr_of(tag) for tag in all_tags}


def test_every_storage_class_of_pynetdicom_is_stored() -> None:
    by_name = {**sop_class._STORAGE_CLASSES, **sop_class._NON_PATIENT_OBJECT_CLASSES}
    # What a test of this process registered with pynetdicom (system/foreign.py) has a number for a name.
    listed = {uid for name, uid in by_name.items() if not name.startswith("Storage1_")}
    assert len(listed) > 150
    assert listed <= uids.STORAGE_SOP_CLASSES


def test_retired_storage_classes_count_and_other_services_do_not() -> None:
    assert uids.is_storage_sop_class("1.2.840.10008.5.1.4.1.1.5")  # Nuclear Medicine, retired
    assert uids.is_storage_sop_class(uids.CTImageStorage)
    for uid in (
        uids.Verification,
        uids.StorageCommitmentPushModel,
        uids.MediaStorageDirectoryStorage,
        uids.StudyRootQueryRetrieveInformationModelFind,
        uids.InventoryFind,
        "1.2.3",
    ):
        assert not uids.is_storage_sop_class(uid)


def test_names_of_uids() -> None:
    assert uids.name_of(uids.CTImageStorage) == "CT Image Storage"
    assert uids.name_of("1.2.3") == "1.2.3"
    assert len(uids.IMPLEMENTATION_CLASS_UID) <= 64
    assert len(uids.IMPLEMENTATION_VERSION_NAME) <= 16


def test_the_layer_loads_without_pydicom_and_numpy() -> None:
    code = (
        "import sys; from engine.dicom import attributes, charset, convert, elements, identifier, part10, uids, values;"
        "charset.decode(b'\\xc3\\xa9', b'ISO_IR 192'); charset.decode(b'\\x1b$B;3\\x1b(B', b'\\\\ISO 2022 IR 87');"
        "sys.exit(any(name in sys.modules for name in ('pydicom', 'numpy', 'lmdb')))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, check=True)
