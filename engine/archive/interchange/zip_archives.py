"""Members of a zip archive as sources of an import, read as streams. Never make a path from a member's name.

refused     encrypted members, methods other than stored and deflated, links, members that share bytes, members larger
            than ZIP_MEMBER_BYTES_MAX, and those beyond the allowance
allowance   members that are compressed more than ZIP_RATIO_MAX-fold may have ZIP_DENSE_BYTES_MAX together, according
            to the directory: one segmentation that is nearly empty is no bomb, thousands of them are
nested      a zip archive in the archive is opened, one level deep, with the same allowance: at its offset if it is
            stored, in memory up to ZIP_NESTED_BYTES_MAX if it is deflated
before it   anything: a self-extracting program, a damaged beginning. The directory at the end counts
"""

from __future__ import annotations

import io
import os
import stat
import struct
import weakref
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias, cast

from engine.archive.interchange.source_items import (
    READ_ERRORS,
    Refused,
    Source,
    SourceItem,
    open_regular,
    printable,
    reason_of,
)
from engine.dicom import part10

ZIP_DIRECTORY_BYTES_MAX: Final = 32 << 20
"""The longest central directory: some 300 000 members with long names; each costs half a kilobyte of memory."""
ZIP_MEMBER_BYTES_MAX: Final = 16 << 30
"""The size in the central directory; no more than that is ever read."""
ZIP_RATIO_MAX: Final = 200
"""Deflate reaches 1030-fold; black pixels and empty segmentations come near that, whole studies do not."""
ZIP_DENSE_BYTES_MAX: Final = 4 << 30
ZIP_NESTED_BYTES_MAX: Final = 256 << 20

_STARTS: Final = (b"PK\x03\x04", b"PK\x05\x06")
_LOCAL_HEADER_BYTES: Final = 30
_ENCRYPTED: Final = 0x1
_DICOM_ENDINGS: Final = (".dcm", ".ima", ".img", ".dicom")
"""Members with these endings are not searched for another archive."""


def is_zip(start: bytes) -> bool:
    """Recognises an archive by its first bytes. Check for DICOM first, since a preamble may hold anything."""
    return start.startswith(_STARTS) and start[part10.PREAMBLE_BYTES :][:4] != part10.MAGIC


def has_directory(path: Path) -> bool:
    """Whether a file ends like a zip archive, whatever its beginning."""
    try:
        with open_regular(path, follow=True) as file:
            return zipfile.is_zipfile(file)
    except READ_ERRORS:
        return False


class _Bounded(io.RawIOBase):
    """A file, or a part of one, that refuses a read of a too large central directory into memory."""

    def __init__(self, file: BinaryIO, start: int = 0, length: int | None = None) -> None:
        self._file = file
        self._start = start
        self._length = file.seek(0, os.SEEK_END) - start if length is None else length
        self._at = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence]
        if origin + offset < 0:
            raise io.UnsupportedOperation("a place before the beginning")
        self._at = origin + offset
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left_bytes = max(self._length - self._at, 0)
        length = left_bytes if size is None or size < 0 else min(size, left_bytes)
        if length > ZIP_DIRECTORY_BYTES_MAX:
            raise zipfile.BadZipFile(f"a central directory of {length} bytes, the limit is {ZIP_DIRECTORY_BYTES_MAX}")
        self._file.seek(self._start + self._at)
        data = self._file.read(length)
        self._at += len(data)
        return data

    def close(self) -> None:
        self._file.close()
        super().close()


class _Allowance:
    """The bytes that dense members may still have, in one archive with its nested archives."""

    def __init__(self) -> None:
        self._left_bytes = ZIP_DENSE_BYTES_MAX

    def takes(self, member: zipfile.ZipInfo) -> bool:
        if member.file_size <= member.compress_size * ZIP_RATIO_MAX:
            return True
        if member.file_size > self._left_bytes:
            return False
        self._left_bytes -= member.file_size
        return True


def sources(path: Path, *, shallow: bool = False) -> Iterator[Source]:
    """The members. `shallow`: nested archives count as one, so that nothing is inflated."""
    try:
        file = open_regular(path, follow=True)
    except READ_ERRORS as error:
        yield Refused(printable(path), reason_of(error))
        return
    name = printable(path)
    allowance = _Allowance()
    for archive, member, source in _members(_Bounded(file), name, allowance):
        if isinstance(source, SourceItem) and not shallow and _may_be_archive(archive, member):
            yield from _nested(path, archive, member, source.name, allowance)
        else:
            yield source


_Member: TypeAlias = tuple[zipfile.ZipFile | None, zipfile.ZipInfo | None, Source]


def _members(file: _Bounded, name: str, allowance: _Allowance) -> Iterator[_Member]:
    """The members of an archive, unopened; or only a refusal if it cannot be read."""
    try:
        # Every yielded item reads from it, also after this generator has ended; the last one closes it.
        archive = zipfile.ZipFile(cast(BinaryIO, file))
    except READ_ERRORS as error:
        file.close()
        yield None, None, Refused(name, f"the zip archive {reason_of(error)}")
        return
    weakref.finalize(archive, file.close)
    sharing = _overlapping(archive.infolist())
    for member in archive.infolist():
        if member.filename.endswith("/"):
            continue
        member_name = f"{name}!{printable(member.filename)}"
        reason = "shares its bytes with another member" if member in sharing else _refusal_of(member, allowance)
        if reason is not None:
            yield archive, member, Refused(member_name, reason)
        else:
            yield archive, member, _item(archive, member, member_name)


def _item(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> SourceItem:
    return SourceItem(name, member.file_size, lambda: cast(BinaryIO, archive.open(member)))


def _may_be_archive(archive: zipfile.ZipFile | None, member: zipfile.ZipInfo | None) -> bool:
    if archive is None or member is None or member.filename.lower().endswith(_DICOM_ENDINGS):
        return False
    try:
        with archive.open(member) as stream:
            return is_zip(stream.read(part10.PREAMBLE_BYTES + 4))
    except READ_ERRORS:
        return False  # its reader reports the error


def _nested(
    path: Path, archive: zipfile.ZipFile | None, member: zipfile.ZipInfo | None, name: str, allowance: _Allowance
) -> Iterator[Source]:
    assert archive is not None and member is not None
    try:
        if member.compress_type == zipfile.ZIP_STORED:
            inner = _in_place(path, member)
        elif member.file_size <= ZIP_NESTED_BYTES_MAX:
            with archive.open(member) as stream:
                inner = _Bounded(io.BytesIO(stream.read(member.file_size)))
        else:
            yield Refused(name, "is a compressed zip archive within the archive, and too large: unpack it first")
            return
    except READ_ERRORS as error:
        yield Refused(name, reason_of(error))
        return
    for nested, inner_member, source in _members(inner, name, allowance):
        if isinstance(source, SourceItem) and _may_be_archive(nested, inner_member):
            yield Refused(source.name, "is a zip archive, nested too deep: unpack it first")
        else:
            yield source


def _in_place(path: Path, member: zipfile.ZipInfo) -> _Bounded:
    """A stored member at its offset, with its own descriptor, so that seeking is cheap. Raises READ_ERRORS."""
    file = open_regular(path, follow=True)
    try:
        file.seek(member.header_offset)
        header = file.read(_LOCAL_HEADER_BYTES)
        name_bytes, extra_bytes = struct.unpack_from("<HH", header, 26)
        return _Bounded(file, member.header_offset + len(header) + name_bytes + extra_bytes, member.file_size)
    except BaseException:
        file.close()
        raise


def _refusal_of(member: zipfile.ZipInfo, allowance: _Allowance) -> str | None:
    """Why a member is refused, according to its entry in the central directory; None if it is not."""
    if member.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"is compressed by method {member.compress_type}; stored and deflated members are read"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "is a symbolic link"
    if member.file_size > ZIP_MEMBER_BYTES_MAX:
        return f"has {member.file_size} bytes, the limit is {ZIP_MEMBER_BYTES_MAX}"
    if not allowance.takes(member):
        reason = (
            f"is compressed more than {ZIP_RATIO_MAX}-fold, as are others here that have {ZIP_DENSE_BYTES_MAX} bytes"
        )
        return f"{reason}: it may be a decompression bomb; unpack it first if it is not"
    return None


def _overlapping(members: Sequence[zipfile.ZipInfo]) -> set[zipfile.ZipInfo]:
    """Members whose bytes overlap those of an earlier one, with which a small archive can expand to a huge one."""
    sharing: set[zipfile.ZipInfo] = set()
    end = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        if member.header_offset < end:
            sharing.add(member)
        header_bytes = _LOCAL_HEADER_BYTES + len(member.orig_filename.encode("utf-8", "surrogateescape"))
        # A name in code page 437 may be shorter than in UTF-8: count its least length.
        header_bytes = min(header_bytes, _LOCAL_HEADER_BYTES + len(member.orig_filename))
        end = max(end, member.header_offset + header_bytes + member.compress_size)
    return sharing
