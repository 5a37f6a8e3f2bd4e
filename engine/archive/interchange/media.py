"""Finds the DICOM files of an import: in folders, single files, zip and tar archives, and media with a DICOMDIR.

Reads no data set and stores nothing: it yields items that can be opened, and the reason for everything that it leaves
out. It does not trust a medium:

    folder      everything, hidden files too. A symbolic link to something inside the folder is ignored, since that is
                found anyway. A link to the outside is refused, unless `follow` is set: then each folder is read once,
                however many links lead there
    zip, tar    see `zip_archives`, `tar_archives`; recognised by their endings in a folder, else by their content
    DICOMDIR    named as a path: the files that its records refer to, ignoring case, a missing ending and the version
                number of ISO 9660, and never outside of its own folder.
                Found in a folder: a file like others; missing files are reported

Other archives are not opened, and the refusal names their format (`formats`). Items come in a fixed order, by name
within a folder.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from engine.archive.interchange import dicomdir, tar_archives, zip_archives
from engine.archive.interchange.source_items import (
    NO_FILE,
    READ_ERRORS,
    Refused,
    Source,
    SourceItem,
    open_regular,
    printable,
    reason_of,
    why,
)
from engine.dicom import part10, uids
from engine.errors import DataSetError, InstanceRefused

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["READ_ERRORS", "Refused", "Source", "SourceItem", "files", "item_of", "open_regular", "reason_of", "sources"]

DICOMDIR_BYTES_MAX: Final = 256 << 20
"""Half a million records; a larger one is refused rather than read into memory."""

_ENDING: Final = re.compile(r"\.[a-z]{1,5}$")


def sources(paths: Sequence[Path], *, follow: bool = False, shallow: bool = False) -> Iterator[Source]:
    """Everything under these paths, one after the other; recognises a path by its content.

    `follow`: follows symbolic links in folders. `shallow`: for a quick count, an archive that must be inflated counts
    as one.
    """
    for source in files(paths, follow=follow):
        if isinstance(source, Refused):
            yield source
        else:
            yield from _open(source, shallow)


def files(paths: Sequence[Path], *, follow: bool = False) -> Iterator[File | Refused]:
    """The regular files under these paths, unopened."""
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            yield Refused(printable(path), why(error))
            continue
        if stat.S_ISDIR(status.st_mode):
            yield from _folder(path, follow)
        elif stat.S_ISREG(status.st_mode):
            yield File(path, status.st_size, is_named=True)
        else:
            yield Refused(printable(path), NO_FILE)


def item_of(source: str | os.PathLike[str] | Buffer) -> SourceItem:
    """One file, by its path or as its bytes. Raises InstanceRefused if there is no such file."""
    if not isinstance(source, str | os.PathLike):
        view = memoryview(source).cast("B")
        return SourceItem("bytes", len(view), lambda: io.BytesIO(view))
    path = Path(source)
    try:
        status = path.stat()
    except OSError as error:
        raise InstanceRefused(f"{printable(path)} {why(error)}") from None
    if not stat.S_ISREG(status.st_mode):
        raise InstanceRefused(f"{printable(path)} is no file")
    return SourceItem(printable(path), status.st_size, lambda: open_regular(path, follow=True))


# Files and folders -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class File:
    """A regular file on the disk."""

    path: Path
    size_bytes: int
    is_named: bool = False
    """Named as a path, not found in a folder."""
    is_link: bool = False

    @property
    def follow(self) -> bool:
        """Whether the last component may be a link."""
        return self.is_named or self.is_link


def _open(file: File, shallow: bool) -> Iterator[Source]:
    """The sources in a file: itself, or the members of an archive, or the files of a medium."""
    name = file.path.name.lower()
    is_directory = name.startswith(dicomdir.NAME.lower())
    if not (file.is_named or is_directory or name.endswith((".zip", *tar_archives.ENDINGS))):
        yield _item(file)
        return
    try:
        with open_regular(file.path, follow=file.follow) as stream:
            start = stream.read(part10.FILE_META_BYTES_MAX)
    except READ_ERRORS as error:
        yield Refused(printable(file.path), reason_of(error))
        return
    if start[part10.PREAMBLE_BYTES :][:4] == part10.MAGIC:
        if not _is_dicomdir(start):
            yield _item(file)
        elif file.is_named:
            yield from _dicomdir(file.path, file.size_bytes)
        else:  # the files that it refers to are found anyway
            yield _item(file)
            references = _dicomdir(file.path, file.size_bytes)
            yield from (item for item in references if isinstance(item, Refused))
    elif zip_archives.is_zip(start):
        yield from zip_archives.sources(file.path, shallow=shallow)
    elif tar_archives.is_tar(file.path, start):
        yield from tar_archives.sources(file.path, shallow=shallow)
    elif not _is_data_set(start) and zip_archives.has_directory(file.path):
        yield from zip_archives.sources(file.path, shallow=shallow)
    else:
        yield _item(file)


def _is_data_set(start: bytes) -> bool:
    """Whether a file without a preamble may still be DICOM."""
    try:
        part10.read_file_meta(start)
    except DataSetError:
        return False
    return True


def _is_dicomdir(start: bytes) -> bool:
    try:
        meta = part10.read_file_meta(start)
    except DataSetError:
        return False
    return meta.media_storage_sop_class_uid == uids.MediaStorageDirectoryStorage


def _item(file: File) -> SourceItem:
    return SourceItem(printable(file.path), file.size_bytes, lambda: open_regular(file.path, follow=file.follow))


def _folder(root: Path, follow: bool) -> Iterator[File | Refused]:
    real_root = os.path.realpath(root)
    visited: set[tuple[int, int]] = set()
    folders: list[str] = [os.fspath(root)]
    while folders:
        folder = folders.pop()
        try:
            if follow:
                status = os.stat(folder)
                if (status.st_dev, status.st_ino) in visited:
                    continue
                visited.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            yield Refused(printable(folder), why(error))
            continue
        folders += [entry.path for entry in reversed(entries) if entry.is_dir(follow_symlinks=follow)]
        for entry in entries:
            if not entry.is_dir(follow_symlinks=follow):
                yield from _entry(entry, real_root, follow)


def _entry(entry: os.DirEntry[str], real_root: str, follow: bool) -> Iterator[File | Refused]:
    """The file of a directory entry that is no folder."""
    try:
        is_link = entry.is_symlink()
        if is_link and (refused := _link(entry, real_root, follow)) is not None:
            yield from refused
            return
        status = entry.stat(follow_symlinks=is_link)
    except OSError as error:
        yield Refused(printable(entry.path), why(error))
        return
    if stat.S_ISREG(status.st_mode):
        yield File(Path(entry.path), status.st_size, is_link=is_link)
    else:
        yield Refused(printable(entry.path), NO_FILE)


def _link(entry: os.DirEntry[str], real_root: str, follow: bool) -> list[Refused] | None:
    """[] for a link to something that is found anyway, a refusal, or None for a link to follow."""
    target = os.path.realpath(entry.path)
    if not os.path.lexists(target):
        return [Refused(printable(entry.path), "is a symbolic link to nothing")]
    if _is_within(target, real_root):
        return []
    if follow:
        return None
    reason = "is a symbolic link that leads out of the folder: --follow reads it, as does naming it on the command line"
    return [Refused(printable(entry.path), reason)]


def _is_within(real_path: str, real_root: str) -> bool:
    return os.path.commonpath((real_path, real_root)) == real_root


# DICOMDIR ----------------------------------------------------------------------------------------


def _dicomdir(path: Path, size_bytes: int) -> Iterator[Source]:
    """The files that its records refer to."""
    medium = _Medium(path.parent)
    name = printable(path)
    try:
        file_ids = _file_ids(path, size_bytes)
    except DataSetError as error:
        yield Refused(name, f"the DICOMDIR cannot be read: {error}")
        return
    visited: set[str] = set()
    for file_id in file_ids:
        target = medium.find(file_id)
        if isinstance(target, str):
            yield Refused(_reference(name, file_id), target)
        elif target.path not in visited:
            visited.add(target.path)
            try:
                yield _item(File(Path(target.path), target.stat(follow_symlinks=False).st_size))
            except OSError as error:
                yield Refused(printable(target.path), why(error))


def _file_ids(path: Path, size_bytes: int) -> list[tuple[str, ...]]:
    if size_bytes > DICOMDIR_BYTES_MAX:
        raise DataSetError(f"it has {size_bytes} bytes, the limit is {DICOMDIR_BYTES_MAX}")
    try:
        with open_regular(path, follow=True) as file:
            data = bytearray()
            while piece := file.read(min(1 << 20, DICOMDIR_BYTES_MAX - len(data))):
                data += piece
    except OSError as error:
        raise DataSetError(why(error)) from error
    return list(dicomdir.file_ids(data))


def _reference(name: str, file_id: Sequence[str]) -> str:
    return f"{name}: {'/'.join(file_id)}"


class _Medium:
    """The folder of a DICOMDIR, for looking up file IDs; lists each of its folders once."""

    def __init__(self, root: Path) -> None:
        self._root = os.path.realpath(root)
        self._listings: dict[str, dict[str, list[os.DirEntry[str]]]] = {}

    def find(self, file_id: Sequence[str]) -> os.DirEntry[str] | str:
        """The file, or the reason why there is none."""
        # PS3.10 8.2 separates components by backslashes; some writers use slashes.
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
        name = _normalised(component)
        candidates = listing.get(name)
        if candidates is None and is_file:
            stem = _stem(name)
            candidates = [entry for name, entries in listing.items() if _stem(name) == stem for entry in entries]
            if len(candidates) > 1:
                return None  # ambiguous
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
                        listing.setdefault(_normalised(entry.name), []).append(entry)
            except OSError:
                pass  # an unreadable folder, or no folder: it has no entries
        return listing


def _normalised(name: str) -> str:
    """The name without case, the version number of ISO 9660 and the full stop before it."""
    return name.casefold().partition(";")[0].rstrip(".")


def _stem(name: str) -> str:
    """The name without an ending such as .dcm or .ima; numbers after a full stop belong to the name."""
    return _ENDING.sub("", name)
