"""How long the ids of an index mean what they mean: INDEX/lifetime, 8 random bytes.

Ids are given in the order of arrival and never twice, so one of them says where a long query can be taken up again,
until the index is made anew or goes back to a checkpoint: what is replayed then may arrive in another order. Whoever
gives ids away (`services.repository_query`) gives this with them.

    no index, discarded, gone back ──keeper──► a new one, synced before anybody can ask for it
    closed cleanly, in use, as it was          the same as before
"""

from __future__ import annotations

import os

from engine.storage.files import Files, raise_write_error

LIFETIME_BYTES = 8
NAME = "lifetime"


def read(directory: str, files: Files) -> bytes:
    """The one in effect; b"" when there is none, and then no id may be given away."""
    try:
        fd = files.open(f"{directory}/{NAME}", os.O_RDONLY)
    except OSError:
        return b""
    try:
        found = files.pread(fd, LIFETIME_BYTES + 1, 0)
    except OSError:
        return b""
    finally:
        files.close(fd)
    return found if len(found) == LIFETIME_BYTES else b""


def renew(directory: str, files: Files) -> None:
    """Begins another one. Raises StorageFull or StorageFailed; the old one is over then too."""
    path = f"{directory}/{NAME}"
    temporary = f"{path}.new"
    files.unlink(path)
    try:
        fd = files.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    except OSError as error:
        raise_write_error(error, f"open {temporary}")
    try:
        files.pwritev(fd, [os.urandom(LIFETIME_BYTES)], 0)
        files.fdatasync(fd)
    finally:
        files.close(fd)
    files.rename(temporary, path)
    files.sync_directory(directory)
