"""The epoch of an index, in which its ids are valid: INDEX/lifetime, 8 random bytes.

Ids ascend in the order of arrival and are never reused, so an id marks where a long query can be resumed. An epoch ends
when the index is rebuilt or returns to a checkpoint, since a replay may assign other ids. If you send ids to a peer
(`services.repository_query`), send the epoch with them.

    no index, discarded, back to a checkpoint    the keeper makes a new one, and syncs it before anyone can read it
    closed cleanly, in use, unchanged            the same as before
"""

from __future__ import annotations

import os

from engine.storage.files import Files, replace_file

EPOCH_ID_BYTES = 8
NAME = "lifetime"


def read(directory: str, files: Files) -> bytes:
    """The present epoch; b"" if there is none: then give no id to a peer."""
    try:
        fd = files.open(f"{directory}/{NAME}", os.O_RDONLY)
    except OSError:
        return b""
    try:
        content = files.pread(fd, EPOCH_ID_BYTES + 1, 0)
    except OSError:
        return b""
    finally:
        files.close(fd)
    return content if len(content) == EPOCH_ID_BYTES else b""


def renew(directory: str, files: Files) -> None:
    """Begins a new epoch. Raises StorageFull or StorageFailed; the old epoch is over then too."""
    path = f"{directory}/{NAME}"
    files.unlink(path)
    replace_file(files, path, os.urandom(EPOCH_ID_BYTES))
