"""Members of a tar archive as sources of an import: read at their offsets, or from the stream of a compressed archive.

`tarfile` decodes headers; the walk is our own: forward only, and bounded whatever a header claims.

    plain                each member is opened at its offset, in any thread, any number of times
    gzip, bzip2, xz      a member up to IN_MEMORY_BYTES is read at once; a larger one must be read before the next
                         (`SourceItem.is_passing`)
    refused              links, devices and pipes, sparse files, extended headers beyond EXTENDED_BYTES_MAX, and the
                         rest of a stream that has inflated to DENSE_BYTES_MAX and more than RATIO_MAX-fold

A compressed file without a tar archive is refused as such.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO, Final, cast

from engine.archive.interchange.source_items import (
    READ_ERRORS,
    Refused,
    Source,
    SourceItem,
    open_regular,
    printable,
    reason_of,
)

ENDINGS: Final = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")

EXTENDED_BYTES_MAX: Final = 1 << 20
IN_MEMORY_BYTES: Final = 8 << 20
MEMBER_BYTES_MAX: Final = 16 << 30
DENSE_BYTES_MAX: Final = 4 << 30
RATIO_MAX: Final = 200

_BLOCK: Final = tarfile.BLOCKSIZE
_PIECE_BYTES: Final = 1 << 20
_COMPRESSED: Final = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")
_MAGIC_AT: Final = 257


def is_tar(path: Path, start: bytes) -> bool:
    """Recognises an archive by its magic, or by that of a compression together with its ending or its content."""
    if start[_MAGIC_AT : _MAGIC_AT + 5] == b"ustar":
        return True
    if not start.startswith(_COMPRESSED):
        return False
    try:
        with open_regular(path, follow=True) as file, _inflate(file, start) as stream:
            return stream.read(_BLOCK)[_MAGIC_AT : _MAGIC_AT + 5] == b"ustar"
    except READ_ERRORS:
        return path.name.lower().endswith(ENDINGS)


def _inflate(file: BinaryIO, start: bytes) -> AbstractContextManager[BinaryIO]:
    if start.startswith(_COMPRESSED[0]):
        return cast("AbstractContextManager[BinaryIO]", gzip.GzipFile(fileobj=file))
    if start.startswith(_COMPRESSED[1]):
        return cast("AbstractContextManager[BinaryIO]", bz2.BZ2File(file))
    if start.startswith(_COMPRESSED[2]):
        return cast("AbstractContextManager[BinaryIO]", lzma.LZMAFile(file))
    return nullcontext(file)


def sources(path: Path, *, shallow: bool = False) -> Iterator[Source]:
    """The members. `shallow`: a compressed archive counts as one, so that nothing is inflated."""
    name = printable(path)
    try:
        with open_regular(path, follow=True) as file:
            start = file.read(_BLOCK)
            file.seek(0)
            is_plain = not start.startswith(_COMPRESSED)
            if shallow and not is_plain:
                yield SourceItem(name, 0, lambda: open_regular(path, follow=True))
                return
            with _inflate(file, start) as stream:
                yield from _Walk(path, file, stream, is_plain).members()
    except READ_ERRORS as error:
        yield Refused(name, f"the tar archive {reason_of(error)}")


class _Walk:
    """One pass over an archive."""

    def __init__(self, path: Path, file: BinaryIO, stream: BinaryIO, is_plain: bool) -> None:
        self._path = path
        self._file = file
        self._stream = stream
        self._is_plain = is_plain
        self._at = 0
        self._extended: dict[str, str] = {}
        """The extended headers of the next member."""

    def members(self) -> Iterator[Source]:
        while (block := self._read(_BLOCK)).strip(b"\0"):
            try:
                info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.TarError as error:
                raise ValueError(f"its header at {self._at - _BLOCK}: {error}") from error
            if info.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
                self._extend(info)
                continue
            extended, self._extended = self._extended, {}
            size = int(extended.get("size", info.size))
            end = self._at + size + -size % _BLOCK
            name = f"{printable(self._path)}!{printable(extended.get('path', info.name))}"
            if size < 0:
                raise ValueError(f"its header at {self._at - _BLOCK} has a negative size")
            if info.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE) and not info.name.endswith("/"):
                is_sparse = any(key.startswith("GNU.sparse") for key in extended)
                yield self._member(name, size) if not is_sparse else Refused(name, "is a sparse file: unpack it first")
            elif info.type != tarfile.DIRTYPE:
                yield Refused(name, "is no file but a link, a device or the like")
            self._pass(end)

    def _extend(self, info: tarfile.TarInfo) -> None:
        if info.size > EXTENDED_BYTES_MAX:
            raise ValueError(f"an extended header of {info.size} bytes, the limit is {EXTENDED_BYTES_MAX}")
        value = self._read(info.size + -info.size % _BLOCK)[: info.size]
        if info.type == tarfile.GNUTYPE_LONGNAME:
            self._extended["path"] = value.rstrip(b"\0").decode("utf-8", "surrogateescape")
        elif info.type == tarfile.XHDTYPE:
            while value:
                length, _, rest = value.partition(b" ")
                if not length.isdigit() or not 0 < int(length) <= len(value):
                    raise ValueError("an invalid extended header")
                key, _, text = rest[: int(length) - len(length) - 2].partition(b"=")
                self._extended[key.decode("utf-8", "replace")] = text.decode("utf-8", "surrogateescape")
                value = value[int(length) :]

    def _member(self, name: str, size: int) -> Source:
        if size > MEMBER_BYTES_MAX:
            return Refused(name, f"has {size} bytes, the limit is {MEMBER_BYTES_MAX}")
        if self._is_plain:
            start = self._at
            return SourceItem(name, size, lambda: cast(BinaryIO, _Slice(self._path, start, size)))
        if size <= IN_MEMORY_BYTES:
            data = self.read_up_to(self._at + size, size)
            return SourceItem(name, size, lambda: io.BytesIO(data))
        return SourceItem(name, size, lambda: cast(BinaryIO, _Passing(self, self._at + size)), is_passing=True)

    def _pass(self, end: int) -> None:
        if self._is_plain:
            self._at = self._stream.seek(end)
            return
        while self._at < end:
            self.read_up_to(end, _PIECE_BYTES)

    def _read(self, count: int) -> bytes:
        """This many bytes. Raises EOFError, and ValueError if the stream exceeds its limit."""
        data = b""
        while len(data) < count:
            piece = self._stream.read(count - len(data))
            if not piece:
                if not data:
                    return b""
                raise EOFError
            data += piece
        self._at += count
        if not self._is_plain and self._at > max(DENSE_BYTES_MAX, RATIO_MAX * self._file.tell()):
            raise ValueError(f"more than {RATIO_MAX}-fold compressed: it may be a bomb; unpack it first if it is not")
        return data

    def read_up_to(self, end: int, count: int) -> bytes:
        """The rest of a member, `count` bytes at most."""
        count = max(min(count, end - self._at), 0)
        data = self._read(count)
        if len(data) != count:
            raise EOFError
        return data


class _Passing(io.RawIOBase):
    """A member, readable while the stream is at it."""

    def __init__(self, walk: _Walk, end: int) -> None:
        self._walk = walk
        self._end = end

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        return self._walk.read_up_to(self._end, _PIECE_BYTES if size is None or size < 0 else size)


class _Slice(io.RawIOBase):
    """A member of a plain archive, with its own descriptor."""

    def __init__(self, path: Path, start: int, length: int) -> None:
        self._file = open_regular(path, follow=True)
        self._file.seek(start, os.SEEK_SET)
        self._left_bytes = length

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        length = self._left_bytes if size is None or size < 0 else min(size, self._left_bytes)
        data = self._file.read(length)
        if len(data) < length:
            raise EOFError
        self._left_bytes -= length
        return data

    def close(self) -> None:
        self._file.close()
        super().close()
