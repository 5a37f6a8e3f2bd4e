"""Members of a zip archive as sources of an import: read as streams, and no name in it becomes a path.

refused     encrypted, other methods than stored and deflated, links, members that share bytes, more than
            ZIP_MEMBER_BYTES_MAX, and what is beyond the allowance
allowance   members that are compressed more than ZIP_RATIO_MAX-fold may have ZIP_DENSE_BYTES_MAX together, by what
            the directory says: a segmentation that is nearly empty is no bomb, thousands of them are one
within it   a zip archive is opened, one level deep, with the same allowance: where it is stored, in its place;
            where it is deflated, in memory up to ZIP_NESTED_BYTES_MAX
in front    anything: a self-extracting program, a damaged beginning. The directory at the end counts
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
"""Of a central directory: some 300 000 members with long names; each costs half a kilobyte of memory."""
ZIP_MEMBER_BYTES_MAX: Final = 16 << 30
"""As said in the central directory; no more than that is ever read."""
ZIP_RATIO_MAX: Final = 200
"""Deflate reaches 1030; black pixels and empty segmentations come near that, whole studies do not."""
ZIP_DENSE_BYTES_MAX: Final = 4 << 30
ZIP_NESTED_BYTES_MAX: Final = 256 << 20

_STARTS: Final = (b"PK\x03\x04", b"PK\x05\x06")
_LOCAL_HEADER_BYTES: Final = 30
_ENCRYPTED: Final = 0x1
_DICOM_ENDINGS: Final = (".dcm", ".ima", ".img", ".dicom")
"""Members of these names are not looked into for another archive."""


def is_zip(start: bytes) -> bool:
    """By its first bytes. A preamble may hold anything, so DICOM is asked for first."""
    return start.startswith(_STARTS) and start[part10.PREAMBLE_BYTES :][:4] != part10.MAGIC


def has_directory(path: Path) -> bool:
    """Whether a zip archive ends here, whatever it begins with."""
    try:
        with open_regular(path, follow=True) as file:
            return zipfile.is_zipfile(file)
    except READ_ERRORS:
        return False


class _Bounded(io.RawIOBase):
    """A file, or a part of one, that refuses the one large read of `zipfile`: the central directory, into memory."""

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
        remaining = max(self._length - self._at, 0)
        length = remaining if size is None or size < 0 else min(size, remaining)
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
    """What members that are dense may still have, in one archive with those in it."""

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
    """Its members. `shallow`: archives in it count for one, so that nothing is inflated."""
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
    """What an archive holds, as it is; that it cannot be read, with nothing beside."""
    try:
        # Every item that is given out reads from it, also after this generator has ended; it goes with the last one.
        archive = zipfile.ZipFile(cast(BinaryIO, file))
    except READ_ERRORS as error:
        file.close()
        yield None, None, Refused(name, f"the zip archive {reason_of(error)}")
        return
    weakref.finalize(archive, file.close)
    sharing = _sharing(archive.infolist())
    for member in archive.infolist():
        if member.filename.endswith("/"):
            continue
        member_name = f"{name}!{printable(member.filename)}"
        reason = "shares its bytes with another member" if member in sharing else _unfit(member, allowance)
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
        return False  # whoever reads it says so


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
            yield Refused(name, "is a zip archive that is compressed once more, and too large: unpack it first")
            return
    except READ_ERRORS as error:
        yield Refused(name, reason_of(error))
        return
    for within, inner_member, source in _members(inner, name, allowance):
        if isinstance(source, SourceItem) and _may_be_archive(within, inner_member):
            yield Refused(source.name, "is a zip archive, two deep in others: unpack it first")
        else:
            yield source


def _in_place(path: Path, member: zipfile.ZipInfo) -> _Bounded:
    """A stored member where it lies, by a descriptor of its own: seeking in it costs nothing. Raises READ_ERRORS."""
    file = open_regular(path, follow=True)
    try:
        file.seek(member.header_offset)
        header = file.read(_LOCAL_HEADER_BYTES)
        name_bytes, extra_bytes = struct.unpack_from("<HH", header, 26)
        return _Bounded(file, member.header_offset + len(header) + name_bytes + extra_bytes, member.file_size)
    except BaseException:
        file.close()
        raise


def _unfit(member: zipfile.ZipInfo, allowance: _Allowance) -> str | None:
    """Why a member is not read, as far as its entry in the central directory tells."""
    if member.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"is compressed by method {member.compress_type}; stored and deflated members are read"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "is a symbolic link"
    if member.file_size > ZIP_MEMBER_BYTES_MAX:
        return f"has {member.file_size} bytes, the limit is {ZIP_MEMBER_BYTES_MAX}"
    if not allowance.takes(member):
        what = f"is compressed more than {ZIP_RATIO_MAX}-fold, as are others here that have {ZIP_DENSE_BYTES_MAX} bytes"
        return f"{what}: it may be a decompression bomb; unpack it first if it is none"
    return None


def _sharing(members: Sequence[zipfile.ZipInfo]) -> set[zipfile.ZipInfo]:
    """Members whose bytes overlap those of an earlier one: how a small archive pretends to be a huge one."""
    sharing: set[zipfile.ZipInfo] = set()
    end = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        if member.header_offset < end:
            sharing.add(member)
        header_bytes = _LOCAL_HEADER_BYTES + len(member.orig_filename.encode("utf-8", "surrogateescape"))
        # A name in code page 437 may be shorter than in UTF-8: count what it has at least.
        header_bytes = min(header_bytes, _LOCAL_HEADER_BYTES + len(member.orig_filename))
        end = max(end, member.header_offset + header_bytes + member.compress_size)
    return sharing
