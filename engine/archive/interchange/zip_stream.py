"""A zip archive that is made while it is sent: media with a DICOMDIR, as `exporter` writes them to a folder.

    DICOM/PT000001/ST000001/SE000001/IM000001 …   each file, not compressed
    UNREADABLE.TXT                                the SOP Instance UIDs of unreadable instances, if there are any
    DICOMDIR                                      comes last, since it describes the other files

Memory holds only the directory records and one piece. A file is verified before its first byte is sent, since sent
bytes cannot be taken back.
"""

from __future__ import annotations

import uuid
import zipfile
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from engine.archive.interchange import dicomdir, directory_records
from engine.archive.interchange.exporter import FileIds, directory_keys, file_pieces, zip_time
from engine.errors import CorruptRecord, SegmentGone

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from engine.archive.interchange.exporter import Source
    from engine.index.format.types import Instance

UNREADABLE = "UNREADABLE.TXT"


class _Outlet:
    """The output of zipfile, which cannot seek; `take` empties it."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: Buffer) -> int:
        part = bytes(data)
        self._parts.append(part)
        return len(part)

    def flush(self) -> None:
        """Does nothing."""

    def take(self) -> list[bytes]:
        parts, self._parts = self._parts, []
        return parts


def zip_pieces(archive: Source, instances: Iterable[Instance]) -> Iterator[bytes]:
    """The archive, piece by piece. Blocks. Raises DataSetError, and CorruptRecord when a file is damaged meanwhile."""
    outlet = _Outlet()
    directory = dicomdir.DirectoryBuilder()
    file_ids = FileIds()
    unreadable: list[str] = []
    with zipfile.ZipFile(outlet, "w", zipfile.ZIP_STORED, allowZip64=True) as archived:  # type: ignore[call-overload]
        for instance in instances:
            try:
                keys = directory_keys(archive, instance)
                for _ in archive.pieces(instance):
                    pass  # verified with the last piece
            except (CorruptRecord, SegmentGone):
                unreadable.append(instance.sop_instance_uid)
                continue
            file_id = file_ids.next(directory_records.patient_of(keys), instance)
            member = zipfile.ZipInfo("/".join(file_id), zip_time(instance.received_ns))
            with archived.open(member, "w", force_zip64=instance.position.payload_length >= 1 << 31) as stream:
                for piece in file_pieces(archive, instance):
                    stream.write(piece)
                    yield from outlet.take()
            directory.add(
                keys,
                file_id,
                sop_class_uid=instance.sop_class_uid,
                sop_instance_uid=instance.sop_instance_uid,
                transfer_syntax_uid=instance.transfer_syntax_uid,
                study_instance_uid=instance.study_instance_uid,
                series_instance_uid=instance.series_instance_uid,
            )
        if unreadable:
            archived.writestr(UNREADABLE, "\r\n".join([*unreadable, ""]))
        with archived.open(dicomdir.NAME, "w", force_zip64=True) as stream:
            for piece in directory.encode(f"2.25.{uuid.uuid4().int}"):
                stream.write(piece)
                yield from outlet.take()
    yield from outlet.take()
