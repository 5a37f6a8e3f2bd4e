"""Where an import finds its DICOM files: folders, single files, zip archives, and media with a DICOMDIR.

Reads no data set and stores nothing: it gives out items that can be opened, and for whatever it leaves out a sentence
that says why. What lies on a medium is not trusted:

    folder      all of it, hidden files too. A symbolic link is passed over when it leads to something inside the
                folder, which is found anyway, and refused when it leads outside
    zip         members are read as streams; no name in an archive becomes a path. Refused: encrypted ones, other
                methods than stored and deflated, members that share bytes or are absurdly well compressed
    DICOMDIR    named itself: the files that its records refer to, looked for without regard to case, to a missing
                ending or to a version number as ISO 9660 has it, and never outside of its own folder.
                Met inside a folder: a file like others, and asked for what is missing

A zip archive inside a zip archive is not opened. Items come in a fixed order, by name within a folder.
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, TypeAlias, cast

from engine.archive.interchange import dicomdir
from engine.dicom import part10, uids
from engine.errors import DataSetError, InstanceRefused

if TYPE_CHECKING:
    from typing_extensions import Buffer

DICOMDIR_BYTES_MAX: Final = 256 << 20
"""Half a million records; a larger one is refused rather than read into memory."""

ZIP_DIRECTORY_BYTES_MAX: Final = 32 << 20
"""Of a central directory: some 300 000 members with long names; each costs half a kilobyte of memory."""
ZIP_MEMBER_BYTES_MAX: Final = 16 << 30
"""As said in the central directory; no more than that is ever read."""
ZIP_RATIO_MAX: Final = 200
"""Of a member beyond ZIP_RATIO_FREE_BYTES. Deflate reaches 1030; black pixels come near that, whole studies do not."""
ZIP_RATIO_FREE_BYTES: Final = 64 << 20

_ZIP_STARTS: Final = (b"PK\x03\x04", b"PK\x05\x06")
_ZIP_LOCAL_HEADER_BYTES: Final = 30
_ZIP_ENCRYPTED: Final = 0x1

_ENDING: Final = re.compile(r"\.[a-z]{1,5}$")

READ_ERRORS: Final = (
    OSError, EOFError, DataSetError, zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, ValueError,
)  # fmt: skip
"""What opening and reading an item can raise: a bad sector, a damaged or lying archive, a file that was swapped."""


@dataclass(frozen=True, slots=True)
class SourceItem:
    """One file that may hold an instance."""

    name: str
    """For reports only: a path, or `archive.zip!member`."""
    size_bytes: int
    open: Callable[[], AbstractContextManager[BinaryIO]]
    """Opens it for reading from the start; raises READ_ERRORS, as does reading. May be called in any thread."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Something that is left out."""

    name: str
    reason: str


Source: TypeAlias = SourceItem | Refused


def sources(paths: Sequence[Path]) -> Iterator[Source]:
    """Everything under these paths, one after the other; what a path is, is told by what it holds."""
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            yield Refused(_printable(path), _why(error))
            continue
        if stat.S_ISDIR(status.st_mode):
            yield from _folder(path)
        elif stat.S_ISREG(status.st_mode):
            yield from _named_file(path, status.st_size)
        else:
            yield Refused(_printable(path), "is neither a file nor a folder")


def item_of(source: str | os.PathLike[str] | Buffer) -> SourceItem:
    """One file, by its path or as its bytes. Raises InstanceRefused when there is no such file."""
    if not isinstance(source, str | os.PathLike):
        view = memoryview(source).cast("B")
        return SourceItem("bytes", len(view), lambda: io.BytesIO(view))
    path = Path(source)
    try:
        status = path.stat()
    except OSError as error:
        raise InstanceRefused(f"{_printable(path)} {_why(error)}") from None
    if not stat.S_ISREG(status.st_mode):
        raise InstanceRefused(f"{_printable(path)} is no file")
    return SourceItem(_printable(path), status.st_size, lambda: _open_file(path, follow=True))


def reason_of(error: BaseException) -> str:
    """What one of READ_ERRORS says to the person who started the import."""
    if isinstance(error, OSError):
        return _why(error)
    if isinstance(error, EOFError):
        return "cannot be read: it ends early"
    return f"cannot be read: {error}"


def _why(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}"


def _printable(name: str | Path) -> str:
    """A name for reports, whatever bytes the file system or the archive has in it."""
    return os.fspath(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


# Files and folders -------------------------------------------------------------------------------


def _named_file(path: Path, size_bytes: int) -> Iterator[Source]:
    """A path that was named itself, or a file in a folder that may be more than an instance."""
    name = _printable(path)
    try:
        with _open_file(path, follow=True) as file:
            start = file.read(part10.FILE_META_BYTES_MAX)
    except READ_ERRORS as error:
        yield Refused(name, reason_of(error))
        return
    if _is_zip(start):
        yield from _zip(path)
    elif _is_dicomdir(start):
        yield from _dicomdir(path, size_bytes)
    else:
        yield _file_item(path, size_bytes, follow=True)


def _is_zip(start: bytes) -> bool:
    """A preamble may hold anything, so DICOM is asked for first."""
    return start.startswith(_ZIP_STARTS) and start[part10.PREAMBLE_BYTES :][:4] != part10.MAGIC


def _is_dicomdir(start: bytes) -> bool:
    try:
        meta = part10.read_file_meta(start)
    except DataSetError:
        return False
    return meta.media_storage_sop_class_uid == uids.MediaStorageDirectoryStorage


def _file_item(path: str | Path, size_bytes: int, *, follow: bool = False) -> SourceItem:
    return SourceItem(_printable(path), size_bytes, lambda: _open_file(path, follow=follow))


def _open_file(path: str | Path, *, follow: bool = False) -> BinaryIO:
    """A regular file, unbuffered; never waits for the writer of a pipe that took its place."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    fd = os.open(path, flags)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise DataSetError("it is no regular file any more")
        return cast(BinaryIO, io.FileIO(fd, "rb"))
    except BaseException:
        os.close(fd)
        raise


def _folder(root: Path) -> Iterator[Source]:
    real_root = os.path.realpath(root)
    waiting: list[str] = [os.fspath(root)]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            yield Refused(_printable(folder), _why(error))
            continue
        waiting += [entry.path for entry in reversed(entries) if entry.is_dir(follow_symlinks=False)]
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                yield from _entry(entry, real_root)


def _entry(entry: os.DirEntry[str], real_root: str) -> Iterator[Source]:
    """What is no folder in a folder."""
    try:
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            yield from _link(entry, real_root)
            return
    except OSError as error:
        yield Refused(_printable(entry.path), _why(error))
        return
    if not stat.S_ISREG(status.st_mode):
        yield Refused(_printable(entry.path), "is neither a file nor a folder")
    elif entry.name.upper().startswith(dicomdir.NAME):
        yield from _met_dicomdir(Path(entry.path), status.st_size)
    elif entry.name[-4:].lower() == ".zip":
        yield from _named_file(Path(entry.path), status.st_size)
    else:
        yield _file_item(entry.path, status.st_size)


def _link(entry: os.DirEntry[str], real_root: str) -> Iterator[Refused]:
    target = os.path.realpath(entry.path)
    if not os.path.lexists(target):
        yield Refused(_printable(entry.path), "is a symbolic link to nothing")
    elif not _is_within(target, real_root):
        yield Refused(_printable(entry.path), "is a symbolic link that leads out of the folder")


def _is_within(real_path: str, real_root: str) -> bool:
    return os.path.commonpath((real_path, real_root)) == real_root


# DICOMDIR ----------------------------------------------------------------------------------------


def _dicomdir(path: Path, size_bytes: int) -> Iterator[Source]:
    """The files that its records refer to."""
    medium = _Medium(path.parent)
    name = _printable(path)
    try:
        file_ids = _file_ids(path, size_bytes)
    except DataSetError as error:
        yield Refused(name, f"the DICOMDIR cannot be read: {error}")
        return
    seen: set[str] = set()
    for file_id in file_ids:
        found = medium.find(file_id)
        if isinstance(found, str):
            yield Refused(_reference(name, file_id), found)
        elif found.path not in seen:
            seen.add(found.path)
            try:
                yield _file_item(found.path, found.stat(follow_symlinks=False).st_size)
            except OSError as error:
                yield Refused(_printable(found.path), _why(error))


def _met_dicomdir(path: Path, size_bytes: int) -> Iterator[Source]:
    """A DICOMDIR inside a folder that is read anyway: itself, and what it names and is missing."""
    try:
        with _open_file(path) as file:
            start = file.read(part10.FILE_META_BYTES_MAX)
    except READ_ERRORS as error:
        yield Refused(_printable(path), reason_of(error))
        return
    yield _file_item(path, size_bytes)
    if _is_dicomdir(start):
        yield from (item for item in _dicomdir(path, size_bytes) if isinstance(item, Refused))


def _file_ids(path: Path, size_bytes: int) -> list[tuple[str, ...]]:
    if size_bytes > DICOMDIR_BYTES_MAX:
        raise DataSetError(f"it has {size_bytes} bytes, the limit is {DICOMDIR_BYTES_MAX}")
    try:
        with _open_file(path, follow=True) as file:
            data = bytearray()
            while piece := file.read(min(1 << 20, DICOMDIR_BYTES_MAX - len(data))):
                data += piece
    except OSError as error:
        raise DataSetError(_why(error)) from error
    return list(dicomdir.file_ids(data))


def _reference(name: str, file_id: Sequence[str]) -> str:
    return f"{name}: {'/'.join(file_id)}"


class _Medium:
    """The folder of a DICOMDIR, in which file IDs are looked up; each folder of it is listed once."""

    def __init__(self, root: Path) -> None:
        self._root = os.path.realpath(root)
        self._listings: dict[str, dict[str, list[os.DirEntry[str]]]] = {}

    def find(self, file_id: Sequence[str]) -> os.DirEntry[str] | str:
        """The file, or why there is none."""
        # PS3.10 8.2 separates components by backslashes; some writers have slashes.
        components = [part for component in file_id for part in component.split("/")]
        if not all(components) or any(part in (".", "..") or "\0" in part for part in components):
            return "the DICOMDIR refers to it by a file ID that is no path on the medium"
        folder = self._root
        entry: os.DirEntry[str] | None = None
        for number, component in enumerate(components, 1):
            entry = self._entry(folder, component, is_file=number == len(components))
            if entry is None:
                return "the DICOMDIR refers to it, but it is not on the medium"
            if entry.is_symlink():
                return "the DICOMDIR refers to it through a symbolic link"
            folder = entry.path
        if entry is None or not entry.is_file(follow_symlinks=False):
            return "the DICOMDIR refers to it, but it is no file"
        return entry

    def _entry(self, folder: str, component: str, *, is_file: bool) -> os.DirEntry[str] | None:
        listing = self._listing(folder)
        folded = _folded(component)
        candidates = listing.get(folded)
        if candidates is None and is_file:
            stem = _stem(folded)
            candidates = [entry for name, entries in listing.items() if _stem(name) == stem for entry in entries]
            if len(candidates) > 1:
                return None  # which of them is meant cannot be known
        if not candidates:
            return None
        return next((entry for entry in candidates if entry.name == component), candidates[0])

    def _listing(self, folder: str) -> dict[str, list[os.DirEntry[str]]]:
        listing = self._listings.get(folder)
        if listing is None:
            listing = self._listings[folder] = {}
            try:
                with os.scandir(folder) as entries:
                    for entry in sorted(entries, key=lambda entry: entry.name):
                        listing.setdefault(_folded(entry.name), []).append(entry)
            except OSError:
                pass  # an unreadable folder, or no folder: nothing is found in it
        return listing


def _folded(name: str) -> str:
    """Without case, the version number of ISO 9660 and the full stop that it leaves behind."""
    return name.casefold().partition(";")[0].rstrip(".")


def _stem(folded: str) -> str:
    """Without an ending such as .dcm or .ima; numbers after a full stop are part of the name."""
    return _ENDING.sub("", folded)


# Zip archives ------------------------------------------------------------------------------------


class _BoundedFile(io.FileIO):
    """Refuses the one large read that `zipfile` does: of the central directory, into memory."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > ZIP_DIRECTORY_BYTES_MAX:
            raise zipfile.BadZipFile(f"a central directory of {size} bytes, the limit is {ZIP_DIRECTORY_BYTES_MAX}")
        return super().read(size) or b""


def _zip(path: Path) -> Iterator[Source]:
    name = _printable(path)
    file = _BoundedFile(path)
    try:
        # Every item that is given out reads from it, also after this generator has ended; it goes with the last one.
        archive = zipfile.ZipFile(cast(BinaryIO, file))
    except READ_ERRORS as error:
        file.close()
        yield Refused(name, f"the zip archive {reason_of(error)}")
        return
    weakref.finalize(archive, file.close)
    sharing = _sharing(archive.infolist())
    for member in archive.infolist():
        if member.filename.endswith("/"):
            continue
        member_name = f"{name}!{_printable(member.filename)}"
        reason = "shares its bytes with another member" if member in sharing else _unfit(member)
        if reason is None:
            yield _zip_item(archive, member, member_name)
        else:
            yield Refused(member_name, reason)


def _zip_item(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> SourceItem:
    return SourceItem(name, member.file_size, lambda: cast(BinaryIO, archive.open(member)))


def _unfit(member: zipfile.ZipInfo) -> str | None:
    """Why a member is not read, as far as its entry in the central directory tells."""
    if member.flag_bits & _ZIP_ENCRYPTED:
        return "is encrypted"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"is compressed by method {member.compress_type}; stored and deflated members are read"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "is a symbolic link"
    if member.filename[-4:].lower() == ".zip":
        return "is a zip archive inside a zip archive, which is not opened"
    if member.file_size > ZIP_MEMBER_BYTES_MAX:
        return f"has {member.file_size} bytes, the limit is {ZIP_MEMBER_BYTES_MAX}"
    if member.file_size > ZIP_RATIO_FREE_BYTES and member.file_size > member.compress_size * ZIP_RATIO_MAX:
        return f"is compressed more than {ZIP_RATIO_MAX}-fold, as only a decompression bomb is"
    return None


def _sharing(members: Sequence[zipfile.ZipInfo]) -> set[zipfile.ZipInfo]:
    """Members whose bytes overlap those of an earlier one: how a small archive pretends to be a huge one."""
    sharing: set[zipfile.ZipInfo] = set()
    end = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        if member.header_offset < end:
            sharing.add(member)
        header_bytes = _ZIP_LOCAL_HEADER_BYTES + len(member.orig_filename.encode("utf-8", "surrogateescape"))
        # A name in code page 437 may be shorter than in UTF-8: count what it has at least.
        header_bytes = min(header_bytes, _ZIP_LOCAL_HEADER_BYTES + len(member.orig_filename))
        end = max(end, member.header_offset + header_bytes + member.compress_size)
    return sharing
