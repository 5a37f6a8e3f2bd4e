"""The archive from Python: ten lines as the README has them, in plain strings, silent, and wrong input named."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian

import engine
from engine import Archive, InstanceRefused, Outcome
from engine.errors import QueryError, StorageError
from tests.samples import ROOT, instance, part10

STUDY, SERIES = f"{ROOT}.1", f"{ROOT}.1.1"


def made(number: int, **more: Any) -> bytes:
    """A DICOM file of one study and series."""
    return part10(instance(number=number, **more))


def test_the_ten_lines_of_the_readme_work(tmp_path: Path) -> None:
    path = tmp_path / "ct.dcm"
    path.write_bytes(made(1))
    with Archive.open(tmp_path / "archive", create=True) as archive:
        assert archive.store(str(path)) is Outcome.STORED
        assert archive.store(made(2)) is Outcome.STORED
        assert archive.store(memoryview(made(2))) is Outcome.DUPLICATE
        [study] = archive.find(PatientName="DOE*", StudyDate="20260101-")
        assert (study["PatientName"], study["StudyInstanceUID"]) == ("Doe^Jane", STUDY)
        assert study.to_dict()["NumberOfStudyRelatedInstances"] == 2
        instances = list(archive.matching(StudyInstanceUID=STUDY))
        assert [instance.sop_instance_uid for instance in instances] == [f"{SERIES}.1", f"{SERIES}.2"]
        data_set = archive.dataset(instances[0])
        assert data_set == pydicom.dcmread(io.BytesIO(made(1)))
        assert data_set.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert made(1).endswith(archive.read(instances[0]))


def test_every_level_is_found_and_other_attributes_come_back_when_they_are_named(tmp_path: Path) -> None:
    with Archive.open(tmp_path / "archive", create=True) as archive:
        archive.store(made(1, PatientComments="seen"))
        assert [match["PatientID"] for match in archive.find("patient")] == ["P1"]
        assert [match["SeriesInstanceUID"] for match in archive.find("series")] == [SERIES]
        assert [match["SOPInstanceUID"] for match in archive.find("instance", InstanceNumber="1")] == [f"{SERIES}.1"]
        [study] = archive.find("study", {"0010,4000": ""})
        assert study["PatientComments"] == "seen"
        with pytest.raises(KeyError, match="StudyDescriptio"):
            study["StudyDescriptio"]
        assert list(archive.find("study", limit=0)) == []


def test_an_instance_of_another_modality_than_the_query_names_is_not_among_its_instances(tmp_path: Path) -> None:
    with Archive.open(tmp_path / "archive", create=True) as archive:
        archive.store(made(1))
        assert list(archive.matching("series", Modality="US")) == []
        assert len(list(archive.matching("instance", InstanceNumber="1"))) == 1


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ({"PatientNam": "DOE*"}, "did you mean PatientName"),
        ({"StudyDate": "2026-02-03"}, "write 20260203"),
        ({"StudyInstanceUID": "abc"}, "not a UID"),
        ({"PatientName": 7}, "in a string"),
        ({"PixelData": "x"}, "not indexed"),
    ],
)
def test_a_key_that_is_none_is_refused(tmp_path: Path, named: dict[str, str], why: str) -> None:
    with Archive.open(tmp_path / "archive", create=True) as archive, pytest.raises(QueryError, match=why):
        list(archive.find(**named))


def test_a_level_that_is_none_is_refused(tmp_path: Path) -> None:
    with Archive.open(tmp_path / "archive", create=True) as archive, pytest.raises(QueryError, match="not a level"):
        list(archive.find("image"))


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", "empty"), (b"no DICOM at all, but text", "not DICOM"), (made(1)[:200], "cannot be read|ends early|missing")],
)
def test_what_is_no_instance_is_refused_with_the_reason(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with Archive.open(tmp_path / "archive", create=True) as archive:
        for source in (path, content):
            with pytest.raises(InstanceRefused, match=why):
                archive.store(source)


def test_a_path_that_is_no_file_is_refused_with_its_name(tmp_path: Path) -> None:
    with Archive.open(tmp_path / "archive", create=True) as archive:
        with pytest.raises(InstanceRefused, match="nowhere.dcm"):
            archive.store(tmp_path / "nowhere.dcm")
        with pytest.raises(InstanceRefused, match="is no file"):
            archive.store(tmp_path)


def test_an_archive_that_is_not_there_is_not_made_by_itself(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        Archive.open(str(tmp_path / "archive"))


def test_names_that_are_none_are_no_part_of_the_package() -> None:
    assert {"Archive", "Outcome", "InstanceRefused"} <= set(dir(engine))
    with pytest.raises(AttributeError, match="Archiv"):
        _ = engine.Archiv


SCRIPT = """
import sys
from engine import Archive, InstanceRefused
with Archive.open(sys.argv[1], create=True) as archive:
    try:
        archive.store(b"text")
    except InstanceRefused:
        pass
from engine import log
log.get("test").error("something went wrong")
"""


def test_a_program_that_uses_it_finds_nothing_on_its_standard_error(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "archive")], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_what_there_is_to_say_is_said_by_the_logger_filmroom(tmp_path: Path) -> None:
    script = "import logging; logging.basicConfig()\n" + SCRIPT
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "archive")], capture_output=True, text=True, check=True
    )
    assert "ERROR:filmroom.test:something went wrong" in done.stderr
