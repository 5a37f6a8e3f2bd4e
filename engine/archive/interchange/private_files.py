"""Files outside of the archive with patient data: not readable for others, written whole or not at all, never over
other files unless that is allowed.

mode        0640, folders 0750, also with a laxer umask; a stricter umask counts
name        NAME.<8 hex digits>.part until the file is whole
existing    nothing: written.  A file: FileExistsError unless it may be replaced; check with `holds` first whether it
            is the same.  A folder, a device, a pipe: always FileExistsError
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

if TYPE_CHECKING:
    from typing_extensions import Buffer

FILE_MODE: Final = 0o640
FOLDER_MODE: Final = 0o750
PART: Final = ".part"

_NO_REGULAR_FILE = "exists, and is no regular file"


def make_folder(path: Path) -> None:
    """Makes a folder and its missing parents; an existing one stays as it is. Raises OSError."""
    try:
        path.mkdir(FOLDER_MODE)
    except FileNotFoundError:
        make_folder(path.parent)
        path.mkdir(FOLDER_MODE, exist_ok=True)
    except FileExistsError:
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "is a file, not a folder", str(path)) from None


def refuse_existing(path: Path, *, replace: bool) -> None:
    """Raises FileExistsError if something with this name exists that must not be replaced."""
    if not os.path.lexists(path):
        return
    # Replace a link and do not follow it, but never replace one to a device: /dev/stdout is such a link.
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, _NO_REGULAR_FILE, str(path))
    if not replace:
        raise FileExistsError(errno.EEXIST, "exists already; --force replaces it", str(path))


@contextmanager
def new_file(path: Path, *, replace: bool = False) -> Iterator[BinaryIO]:
    """A file that gets its name at the end, or is removed after an exception. Raises as `refuse_existing`."""
    refuse_existing(path, replace=replace)
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PART}")
    try:
        with open(part, "xb", opener=_private) as file:
            yield file
        refuse_existing(path, replace=replace)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, FILE_MODE)


def holds(path: Path, pieces: Iterable[Buffer]) -> bool:
    """Whether a regular file of that name has exactly these bytes. Raises what `pieces` raise."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return False
    with open(fd, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return False
        for piece in pieces:
            expected = memoryview(piece).cast("B")
            at = 0
            while at < len(expected):
                data = file.read(len(expected) - at)
                if not data or expected[at : at + len(data)] != data:
                    return False
                at += len(data)
        return not file.read(1)
