"""archive.interchange.exporter: the bytes as they are stored, names that lead nowhere, and nothing half-written."""

from __future__ import annotations

import io
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from pydicom.fileset import FileSet, is_conformant_file_id

from engine.archive.archive import Archive
from engine.archive.interchange import exporter, media
from engine.archive.interchange.exporter import ExportSummary, export
from engine.archive.interchange.importer import import_paths
from engine.dicom.part10 import read_file_meta
from engine.errors import ExportFailed
from engine.index.format.types import Instance, Level, Query
from tests import samples
from tests.archive.stand_in import ArchiveInMemory
from tests.corpus import corpus_files, corpus_part, needs_corpus


def filled(*data_sets: pydicom.Dataset) -> ArchiveInMemory:
    archive = ArchiveInMemory()
    for ds in data_sets:
        payload = samples.encoded(ds)
        archive.keep(payload, ds.file_meta.TransferSyntaxUID)
        instance = archive.found[ds.SOPInstanceUID]
        instance.study_instance_uid, instance.series_instance_uid = ds.StudyInstanceUID, ds.SeriesInstanceUID
    return archive


def exported(archive: ArchiveInMemory, target: Path, form: str, *, force: bool = False) -> ExportSummary:
    return export(archive, list(archive.found.values()), target, form=form, force=force)


def data_set_of(file: bytes) -> bytes:
    return file[read_file_meta(file).data_set_offset :]


def files_of(target: Path) -> dict[str, bytes]:
    """SOP Instance UID in the file meta information → the data set's bytes."""
    answers: dict[str, bytes] = {}
    for source in media.sources([target]):
        assert isinstance(source, media.SourceItem)
        with source.open() as stream:
            file = stream.read()
        meta = read_file_meta(file)
        if meta.media_storage_sop_class_uid != "1.2.840.10008.1.3.10":
            answers[meta.media_storage_sop_instance_uid] = data_set_of(file)
    return answers


@pytest.mark.parametrize(
    ("sender", "title"),
    [("MODALITY", "MODALITY"), ("A:B", "A:B"), ("http:127.0.0.1", None), ("http:2001:db8::1234:5678:9", None)],
)
def test_the_source_of_a_file_is_an_application_entity(tmp_path: Path, sender: str, title: str | None) -> None:
    ds = samples.instance()
    archive = filled(ds)
    archive.found[ds.SOPInstanceUID].calling_ae_title = sender
    exported(archive, tmp_path / "out", "folder")
    (path,) = (tmp_path / "out").rglob("*.dcm")
    assert pydicom.dcmread(path).file_meta.get("SourceApplicationEntityTitle") == title


STUDY = [samples.instance(study, series, number) for study in (1, 2) for series in (1, 2) for number in (1, 2, 3)]


@pytest.mark.parametrize("form", exporter.FORMS)
def test_every_data_set_comes_out_byte_for_byte(tmp_path: Path, form: str) -> None:
    archive = filled(*STUDY, samples.instance(9, transfer_syntax="1.2.840.10008.1.2.2"))
    target = tmp_path / ("out.zip" if form == "zip" else "out")
    summary = exported(archive, target, form)
    assert (summary.written, summary.failed) == (13, [])
    assert files_of(target) == archive.payloads
    size = target.stat().st_size if form == "zip" else sum(p.stat().st_size for p in target.rglob("*") if p.is_file())
    assert 0 < summary.bytes <= size


def test_a_folder_is_laid_out_by_study_and_series(tmp_path: Path) -> None:
    exported(filled(STUDY[0]), tmp_path, "folder")
    root = samples.ROOT
    path = tmp_path / f"{root}.1" / f"{root}.1.1" / f"{root}.1.1.1.dcm"
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]
    read = pydicom.dcmread(path)
    assert read.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert read.PatientName == "Doe^Jane"


@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize("uid", ["../../../up", "..", ".", "/etc/x", "a\0b", "", "1.2\n3", "9" * 200, "1..2", "a:b"])
def test_no_name_is_made_from_what_is_no_uid(tmp_path: Path, form: str, uid: str) -> None:
    archive = filled(STUDY[0])
    (instance,) = archive.found.values()
    odd = replace(instance, study_instance_uid=uid, series_instance_uid=uid, sop_instance_uid=uid)
    archive.payloads[uid] = archive.payloads[instance.sop_instance_uid]
    target = tmp_path / "a/b/c/d/out"
    assert export(archive, [odd], target, form=form).written == 1
    if form == "zip":
        names = zipfile.ZipFile(target).namelist()
    else:
        names = [str(p.relative_to(target)) for p in tmp_path.rglob("*") if p.is_file()]
    assert names == ["study-000001/series-000002/instance-000003.dcm"]


def test_two_that_are_no_uids_get_two_names(tmp_path: Path) -> None:
    archive = filled(*STUDY[:2])
    for number, instance in enumerate(archive.found.values()):
        instance.series_instance_uid = f"odd {number}"
    exported(archive, tmp_path, "folder")
    assert len(list(tmp_path.rglob("*.dcm"))) == 2


def test_an_instance_named_twice_is_written_once(tmp_path: Path) -> None:
    archive = filled(STUDY[0])
    instances = list(archive.found.values()) * 3
    assert export(archive, instances, tmp_path / "x.zip", form="zip").written == 1


@pytest.mark.parametrize("form", exporter.FORMS)
@pytest.mark.parametrize("piece_bytes", [100, 1 << 20])
def test_a_damaged_instance_is_left_out_and_told(tmp_path: Path, form: str, piece_bytes: int) -> None:
    archive = filled(*STUDY[:3])
    archive.piece_bytes = piece_bytes
    bad = STUDY[1].SOPInstanceUID
    archive.corrupt.add(bad)
    summary = exported(archive, tmp_path / "out", form)
    assert summary.written == 2
    assert [uid for uid, _ in summary.failed] == [bad]
    assert "checksum" in summary.failed[0][1]
    assert files_of(tmp_path / "out") == {uid: data for uid, data in archive.payloads.items() if uid != bad}
    assert not list(tmp_path.rglob("*.part"))


def test_what_is_there_with_the_same_bytes_stays_in_a_folder(tmp_path: Path) -> None:
    archive = filled(*STUDY[:2])
    exported(archive, tmp_path / "f", "folder")
    (tmp_path / "f" / "notes.txt").write_bytes(b"mine")
    again = exported(archive, tmp_path / "f", "folder")
    assert (again.written, again.already_there, again.failed) == (0, 2, [])
    assert (tmp_path / "f" / "notes.txt").read_bytes() == b"mine"


@pytest.mark.parametrize("other", [b"precious", b""])
def test_a_file_with_other_bytes_is_replaced_in_a_folder_only_when_forced(tmp_path: Path, other: bytes) -> None:
    archive = filled(*STUDY[:2])
    exported(archive, tmp_path / "f", "folder")
    path = min((tmp_path / "f").rglob("*.dcm"))
    path.write_bytes(other)
    again = exported(archive, tmp_path / "f", "folder")
    assert (again.written, again.already_there) == (0, 1)
    assert [reason for _, reason in again.failed] == [f"{path} exists already; --force replaces it"]
    assert path.read_bytes() == other
    assert exported(archive, tmp_path / "f", "folder", force=True).written == 1
    assert files_of(tmp_path / "f") == archive.payloads


def test_a_zip_archive_takes_the_place_of_a_file_only_when_forced(tmp_path: Path) -> None:
    archive = filled(*STUDY[:2])
    target = tmp_path / "doc.zip"
    target.write_bytes(b"precious")
    with pytest.raises(ExportFailed, match="doc.zip exists already; --force replaces it"):
        exported(archive, target, "zip")
    assert target.read_bytes() == b"precious"
    assert exported(archive, target, "zip", force=True).written == 2
    assert files_of(target) == archive.payloads


@pytest.mark.parametrize("force", [False, True])
def test_nothing_takes_the_place_of_a_folder_or_a_pipe(tmp_path: Path, force: bool) -> None:
    archive = filled(STUDY[0])
    os.mkfifo(tmp_path / "pipe.zip")
    (tmp_path / "folder.zip").mkdir()
    (tmp_path / "link.zip").symlink_to("/dev/null")
    for name in ("pipe.zip", "folder.zip", "link.zip"):
        with pytest.raises(ExportFailed, match="exists, and is no regular file"):
            exported(archive, tmp_path / name, "zip", force=force)
    exported(archive, tmp_path / "out", "folder")
    (path,) = (tmp_path / "out").rglob("*.dcm")
    path.unlink()
    os.mkfifo(path)
    assert "no regular file" in exported(archive, tmp_path / "out", "folder", force=force).failed[0][1]


def test_a_link_in_the_place_of_a_file_is_replaced_not_followed(tmp_path: Path) -> None:
    archive = filled(STUDY[0])
    exported(archive, tmp_path / "out", "folder")
    (path,) = (tmp_path / "out").rglob("*.dcm")
    path.unlink()
    (tmp_path / "victim").write_bytes(b"precious")
    path.symlink_to(tmp_path / "victim")
    assert len(exported(archive, tmp_path / "out", "folder").failed) == 1
    exported(archive, tmp_path / "out", "folder", force=True)
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert files_of(tmp_path / "out") == archive.payloads


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("form", exporter.FORMS)
def test_no_stranger_can_read_what_is_written(tmp_path: Path, form: str, umask: int) -> None:
    target = tmp_path / "new" / ("out.zip" if form == "zip" else "out")
    before = os.umask(umask)
    try:
        exported(filled(*STUDY[:2]), target, form)
    finally:
        os.umask(before)
    made = [tmp_path / "new", *(tmp_path / "new").rglob("*")]
    modes = {oct(path.stat().st_mode & 0o777) for path in made}
    assert len(made) > 1
    assert modes <= {oct(0o750 & ~umask), oct(0o640 & ~umask)}


def test_media_are_written_into_an_empty_folder_only(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1")
    with pytest.raises(ExportFailed, match="is not empty"):
        exported(filled(STUDY[0]), tmp_path, "dicomdir")


@pytest.mark.parametrize("form", exporter.FORMS)
def test_a_target_that_cannot_be_written_is_told(tmp_path: Path, form: str) -> None:
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(ExportFailed, match="cannot be written"):
        exported(filled(STUDY[0]), tmp_path / "file" / "out", form)


def test_a_full_disk_leaves_no_half_zip_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporter, "_write_member", full)
    with pytest.raises(ExportFailed, match="No space left on device"):
        exported(filled(STUDY[0]), tmp_path / "x.zip", "zip")
    assert not list(tmp_path.iterdir())


def test_members_have_the_time_of_their_reception(tmp_path: Path) -> None:
    archive = filled(*STUDY[:2])
    one, two = archive.found.values()
    one.received_ns, two.received_ns = 0, 1_790_000_000 * 10**9
    exported(archive, tmp_path / "x.zip", "zip")
    assert [info.date_time[0] for info in zipfile.ZipFile(tmp_path / "x.zip").infolist()] == [1980, 2026]


def test_a_large_member_is_zip64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    archive = filled(STUDY[0])
    exported(archive, tmp_path / "x.zip", "zip")
    assert files_of(tmp_path / "x.zip") == archive.payloads


def test_a_medium_is_one_for_pydicom(tmp_path: Path) -> None:
    archive = filled(*STUDY, samples.instance(3, patient_id="P2", patient_name="Zweite^Person"))
    exported(archive, tmp_path, "dicomdir")
    read = FileSet(tmp_path / "DICOMDIR")
    assert [instance.SOPInstanceUID for instance in read] == list(archive.payloads)
    for instance in read:
        relative = Path(instance.path).relative_to(tmp_path)
        assert is_conformant_file_id(relative)
        assert relative.suffix == ""
        assert len(relative.parts) <= 8
        assert samples.encoded(instance.load()) == archive.payloads[instance.SOPInstanceUID]


def test_progress_goes_to_the_end(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    archive = filled(*STUDY)
    export(archive, list(archive.found.values()), tmp_path, progress=lambda *told_now: told.append(told_now))
    assert told == [("exporting", number, 12) for number in range(1, 13)]


# With a real archive -----------------------------------------------------------------------------


def everything(archive: Archive) -> list[Instance]:
    found: list[Instance] = []
    for match in archive.find(Query(Level.STUDY, {0x0020000D: b""})):
        found += archive.instances(Query(Level.STUDY, {0x0020000D: match.attributes[0x0020000D]}))
    return found


@needs_corpus()
def test_the_corpus_goes_in_and_comes_out_of_every_form(tmp_path: Path) -> None:
    originals: dict[str, set[bytes]] = {}
    files = list(corpus_part(corpus_files()))
    for path in files:
        file = path.read_bytes()
        try:
            data = data_set_of(file)
            uid = str(pydicom.dcmread(io.BytesIO(file), force=True, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
        except Exception:  # what pydicom cannot read is not asked for below
            continue
        originals.setdefault(uid, set()).add(data)
    with Archive.open(tmp_path / "data", create=True) as archive:
        stored = import_paths(archive, files).stored
        instances = everything(archive)
        assert len(instances) == stored
        for form in exporter.FORMS:
            target = tmp_path / (f"{form}.zip" if form == "zip" else form)
            summary = export(archive, instances, target, form=form)
            assert (summary.written, summary.failed) == (stored, [])
            out = files_of(target)
            assert len(out) == stored
            for uid, data in out.items():
                if uid in originals:
                    assert data in originals[uid], uid
        directory = pydicom.dcmread(tmp_path / "dicomdir/DICOMDIR")
        leaves = [record for record in directory.DirectoryRecordSequence if "ReferencedFileID" in record]
        assert len(leaves) == stored
        found = list(media.sources([tmp_path / "dicomdir/DICOMDIR"]))
        assert len(found) == stored
        assert not any(isinstance(source, media.Refused) for source in found)
