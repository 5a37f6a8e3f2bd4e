"""interchange.zip_stream: what it holds, and that it holds nothing back."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pydicom

from engine.archive.interchange.zip_stream import UNREADABLE, zip_pieces
from engine.index.format.types import Instance
from tests.archive.test_exporter import STUDY, filled


def test_a_study_is_media_with_a_directory(tmp_path: Path) -> None:
    archive = filled(*STUDY[:3])
    instances = list(archive.found.values())
    data = b"".join(zip_pieces(archive, instances))
    with zipfile.ZipFile(io.BytesIO(data)) as archived:
        assert archived.testzip() is None
        names = archived.namelist()
        archived.extractall(tmp_path)
    assert names[-1] == "DICOMDIR"
    directory = pydicom.dcmread(tmp_path / "DICOMDIR")
    images = [record for record in directory.DirectoryRecordSequence if record.DirectoryRecordType == "IMAGE"]
    uids = {pydicom.dcmread(tmp_path.joinpath(*record.ReferencedFileID)).SOPInstanceUID for record in images}
    assert uids == {each.sop_instance_uid for each in instances}
    assert all(name.isascii() and ".." not in name and not name.startswith("/") for name in names)


def test_what_cannot_be_read_is_left_out_and_named() -> None:
    archive = filled(*STUDY[:3])
    archive.piece_bytes = 100
    bad = STUDY[1].SOPInstanceUID
    archive.corrupt.add(bad)
    data = b"".join(zip_pieces(archive, list(archive.found.values())))
    with zipfile.ZipFile(io.BytesIO(data)) as archived:
        assert archived.read(UNREADABLE).decode().split() == [bad]
        assert len([name for name in archived.namelist() if name.startswith("DICOM/")]) == 2


def test_pieces_come_before_all_is_read() -> None:
    archive = filled(*STUDY[:2])
    taken: list[str] = []

    def one_by_one() -> Iterator[Instance]:
        for each in archive.found.values():
            taken.append(each.sop_instance_uid)
            yield each

    pieces = zip_pieces(archive, one_by_one())
    next(pieces)
    assert len(taken) == 1
    pieces.close()
