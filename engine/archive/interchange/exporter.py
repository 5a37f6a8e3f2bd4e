"""Writes instances out of the archive as Part 10 files: into a folder, a zip archive, or onto media with a DICOMDIR.

Each file is File Meta Information and then the stored data set, byte for byte: nothing is parsed for a folder or a zip
archive, and nothing is ever transcoded, even if the General Purpose profiles of PS3.11 (STD-GEN) require Explicit VR
Little Endian. An instance with a wrong checksum is left out and reported.

    folder     <Study Instance UID>/<Series Instance UID>/<SOP Instance UID>.dcm
    zip        the same, stored without compression, ZIP64 where needed
    dicomdir   DICOMDIR and DICOM/PT000001/ST000001/SE000001/IM000001: 8 characters, no ending (PS3.10 8.5)

A valid UID (digits and full stops) is used as a name; others are replaced by a running number. `private_files` handles
existing files and permissions.

    target exists   folder      is added to: a file with the same bytes stays and is counted; one with other bytes fails
                                that instance unless it is forced
                    zip         refused unless it is forced
                    dicomdir    refused unless it is empty

We do not use pydicom's FileSet: it encodes each data set anew and copies it twice, needs quadratic time, and refuses
instances that lack a required key of a directory record.
"""

from __future__ import annotations

import os
import re
import time
import uuid
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol, TypeAlias

from engine.archive.interchange import dicomdir, directory_records, private_files
from engine.archive.interchange.private_files import new_file
from engine.dicom import part10, transfer_syntax
from engine.errors import CorruptRecord, DataSetError, ExportFailed
from engine.index.format.types import Instance
from engine.titles import title_of

Progress: TypeAlias = Callable[[str, int, int], None]
"""(name of the step, done, total)."""

FORMS: Final = ("folder", "zip", "dicomdir")

UID_BYTES_MAX: Final = 128
"""The longest UID that is used as a name; the standard allows 64 characters, file systems 255."""

_UID: Final = re.compile(r"[0-9]+(\.[0-9]+)*")
_ZIP_YEARS: Final = (1980, 2107)


class Source(Protocol):
    """The part of an Archive that an export needs."""

    def pieces(self, instance: Instance) -> Iterator[memoryview]: ...


@dataclass(slots=True)
class ExportSummary:
    """The result of an export."""

    written: int = 0
    already_there: int = 0
    """Files that existed in the folder with the same bytes."""
    failed: list[tuple[str, str]] = field(default_factory=list)
    """(SOP Instance UID, reason)."""
    bytes: int = 0
    """Bytes of the written files."""
    seconds: float = 0.0


def export(
    archive: Source,
    instances: Iterable[Instance],
    target: Path,
    *,
    form: str = "folder",
    force: bool = False,
    progress: Progress | None = None,
    summary: ExportSummary | None = None,
) -> ExportSummary:
    """Writes instances to `target`, each once; with `force` it replaces existing files.

    Fills a given `summary`, also if Ctrl-C ends the export. Raises ExportFailed if the target cannot be written to;
    complete files stay.
    """
    start_s = time.monotonic()
    unique = list({instance.sop_instance_uid: instance for instance in instances}.values())
    summary = summary or ExportSummary()
    writers = {"folder": _folder, "zip": _zip, "dicomdir": _dicomdir}
    try:
        writers[form](archive, _with_progress(unique, progress), target, summary, force)
    except FileExistsError as error:
        raise ExportFailed(f"{error.filename} {error.strerror}") from error
    except OSError as error:
        raise ExportFailed(f"{error.filename or target} cannot be written: {error.strerror or error}") from error
    except KeyboardInterrupt:
        if form == "zip":
            summary.written = summary.bytes = 0  # an unfinished archive is removed
        raise
    finally:
        summary.seconds = time.monotonic() - start_s
    return summary


def _with_progress(instances: list[Instance], progress: Progress | None) -> Iterator[Instance]:
    for number, instance in enumerate(instances):
        yield instance
        if progress is not None:
            progress("exporting", number + 1, len(instances))


def file_pieces(archive: Source, instance: Instance) -> Iterator[memoryview | bytes]:
    """The Part 10 file piece by piece. Raises CorruptRecord before the last piece."""
    yield part10.write_file_meta(
        instance.sop_class_uid,
        instance.sop_instance_uid,
        instance.transfer_syntax_uid,
        source_ae_title=title_of(instance.calling_ae_title),
    )
    yield from archive.pieces(instance)


# Folder ------------------------------------------------------------------------------------------


class _Names:
    """Names for files and folders: a valid UID itself, else a running number."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, str], str] = {}

    def of(self, instance: Instance) -> tuple[str, str, str]:
        """The names of study, series and instance."""
        return (
            self._name("study", instance.study_instance_uid),
            self._name("series", instance.series_instance_uid),
            self._name("instance", instance.sop_instance_uid) + ".dcm",
        )

    def _name(self, kind: str, uid: str) -> str:
        if len(uid) <= UID_BYTES_MAX and _UID.fullmatch(uid):
            return uid
        return self._numbers.setdefault((kind, uid), f"{kind}-{len(self._numbers) + 1:06d}")


def _folder(archive: Source, instances: Iterator[Instance], target: Path, summary: ExportSummary, force: bool) -> None:
    names = _Names()
    private_files.make_folder(target)
    for instance in instances:
        study, series, name = names.of(instance)
        folder = target / study / series
        private_files.make_folder(folder)
        _write_file(archive, instance, folder / name, summary, force)


def _write_file(archive: Source, instance: Instance, path: Path, summary: ExportSummary, force: bool = False) -> bool:
    """Writes a file, all or nothing. Returns whether it exists."""
    try:
        if os.path.lexists(path) and private_files.holds(path, file_pieces(archive, instance)):
            summary.already_there += 1
            return True
        with new_file(path, replace=force) as file:
            size = 0
            for piece in file_pieces(archive, instance):
                file.write(piece)
                size += len(piece)
    except FileExistsError as error:
        summary.failed.append((instance.sop_instance_uid, f"{error.filename} {error.strerror}"))
        return False
    except CorruptRecord as error:
        summary.failed.append((instance.sop_instance_uid, str(error)))
        return False
    summary.written += 1
    summary.bytes += size
    return True


# Zip archive -------------------------------------------------------------------------------------


def _zip(archive: Source, instances: Iterator[Instance], target: Path, summary: ExportSummary, force: bool) -> None:
    names = _Names()
    private_files.make_folder(target.parent)
    whole = new_file(target, replace=force)
    with whole as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive_file:
        for instance in instances:
            try:
                _write_member(archive, instance, "/".join(names.of(instance)), archive_file, summary)
            except CorruptRecord as error:
                summary.failed.append((instance.sop_instance_uid, str(error)))


def _write_member(
    archive: Source, instance: Instance, name: str, archive_file: zipfile.ZipFile, summary: ExportSummary
) -> None:
    # Bytes in an archive cannot be taken back, so check a data set of several pieces first.
    pieces = file_pieces(archive, instance)
    head, first = bytes(next(pieces)), bytes(next(pieces))
    if len(first) < instance.position.payload_length:
        for _ in pieces:
            pass
        pieces = file_pieces(archive, instance)
        head, first = bytes(next(pieces)), bytes(next(pieces))
    size = len(head) + instance.position.payload_length
    member = zipfile.ZipInfo(name, zip_time(instance.received_ns))
    member.external_attr = 0o640 << 16
    member.file_size = size
    try:
        with archive_file.open(member, "w", force_zip64=size >= zipfile.ZIP64_LIMIT) as stream:
            stream.write(head)
            stream.write(first)
            for piece in pieces:
                stream.write(piece)
    except CorruptRecord as error:
        raise ExportFailed(f"{instance.sop_instance_uid} became unreadable while it was written: {error}") from error
    summary.written += 1
    summary.bytes += size


def zip_time(received_ns: int) -> tuple[int, int, int, int, int, int]:
    """A time as zip stores it, in UTC, or the nearest one that zip can store."""
    received = datetime.fromtimestamp(received_ns / 1e9, UTC)
    year = min(max(received.year, _ZIP_YEARS[0]), _ZIP_YEARS[1])
    return year, received.month, received.day, received.hour, received.minute, received.second


# DICOMDIR media ----------------------------------------------------------------------------------


class FileIds:
    """File IDs of 8 characters (PS3.10 8.2, 8.5): two letters for the level, and a number within the level above."""

    _LETTERS: Final = ("PT", "ST", "SE")

    def __init__(self) -> None:
        self._numbers: dict[tuple[object, ...], int] = {}
        self._counts: dict[tuple[object, ...], int] = {}

    def next(self, patient: object, instance: Instance) -> tuple[str, ...]:
        """The components of the file ID of another instance."""
        path: tuple[object, ...] = (patient, instance.study_instance_uid, instance.series_instance_uid)
        folders = [f"{letters}{self._number(path[: depth + 1]):06d}" for depth, letters in enumerate(self._LETTERS)]
        self._counts[path] = self._counts.get(path, 0) + 1
        return ("DICOM", *folders, f"IM{self._counts[path]:06d}")

    def _number(self, path: tuple[object, ...]) -> int:
        number = self._numbers.get(path)
        if number is None:
            parent = path[:-1]
            number = self._numbers[path] = self._counts.get(parent, 0) + 1
            self._counts[parent] = number
        return number


def _dicomdir(archive: Source, instances: Iterator[Instance], target: Path, summary: ExportSummary, _: bool) -> None:
    private_files.make_folder(target)
    if any(target.iterdir()):
        raise ExportFailed(f"{target} is not empty: write media into a new or empty folder")
    directory = dicomdir.DirectoryBuilder()
    file_ids = FileIds()
    for instance in instances:
        try:
            keys = directory_keys(archive, instance)
        except CorruptRecord as error:
            summary.failed.append((instance.sop_instance_uid, str(error)))
            continue
        file_id = file_ids.next(directory_records.patient_of(keys), instance)
        path = target.joinpath(*file_id)
        private_files.make_folder(path.parent)
        if _write_file(archive, instance, path, summary):
            directory.add(
                keys,
                file_id,
                sop_class_uid=instance.sop_class_uid,
                sop_instance_uid=instance.sop_instance_uid,
                transfer_syntax_uid=instance.transfer_syntax_uid,
                study_instance_uid=instance.study_instance_uid,
                series_instance_uid=instance.series_instance_uid,
            )
    with new_file(target / dicomdir.NAME) as file:
        try:
            for piece in directory.encode(f"2.25.{uuid.uuid4().int}"):
                file.write(piece)
                summary.bytes += len(piece)
        except DataSetError as error:
            raise ExportFailed(str(error)) from error


def directory_keys(archive: Source, instance: Instance) -> dict[int, bytes]:
    """The keys of the directory records. Raises CorruptRecord."""
    kind = directory_records.record_type(instance.sop_class_uid)
    syntax = transfer_syntax.of(instance.transfer_syntax_uid)
    return directory_records.keys_of(archive.pieces(instance), syntax, kind)
