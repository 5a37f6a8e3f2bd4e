"""Files outside of the archive that hold what patients are in: closed to strangers, whole or not there, nobody's lost.

mode        0640, folders 0750, whatever the umask allows; a stricter umask stays
name        NAME.<8 hex digits>.part until the file is whole
in its way  nothing: written.  A file: FileExistsError unless it may be replaced; `holds` tells beforehand whether
            it is the same one.  A folder, a device, a pipe: always FileExistsError
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

_NO_ROOM_FOR_NAME = "exists, and is no regular file"


def make_folder(path: Path) -> None:
    """A folder and those above it that are missing; one that is there stays as it is. Raises OSError."""
    try:
        path.mkdir(FOLDER_MODE)
    except FileNotFoundError:
        make_folder(path.parent)
        path.mkdir(FOLDER_MODE, exist_ok=True)
    except FileExistsError:
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "there is a file of this name", str(path)) from None


def refuse_taken(path: Path, *, replace: bool) -> None:
    """Raises FileExistsError when something has this name that must not be replaced."""
    if not os.path.lexists(path):
        return
    # A link is replaced and not followed, but never one to a device: /dev/stdout is such a link.
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, _NO_ROOM_FOR_NAME, str(path))
    if not replace:
        raise FileExistsError(errno.EEXIST, "exists already; --force replaces it", str(path))


@contextmanager
def named_when_whole(path: Path, *, replace: bool = False) -> Iterator[BinaryIO]:
    """A new file that is called `path` when nothing was raised, and is gone otherwise. Raises as `refuse_taken`."""
    refuse_taken(path, replace=replace)
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PART}")
    try:
        with open(part, "xb", opener=_private) as file:
            yield file
        refuse_taken(path, replace=replace)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, FILE_MODE)


def holds(path: Path, pieces: Iterable[Buffer]) -> bool:
    """Whether a regular file of that name has just these bytes. Raises what `pieces` raise."""
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
