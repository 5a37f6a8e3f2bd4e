"""The epoch of an index, in which its ids are valid: INDEX/lifetime, 8 random bytes.

Ids are given in the order of arrival and never twice, so an id marks where a long query can be resumed. That ends when
the index is made anew or goes back to a checkpoint, since a replay may give other ids. If you send ids to a peer
(`services.repository_query`), send the epoch with them.

    no index, discarded, gone back ──keeper──► a new one, synced before anybody can ask for it
    closed cleanly, in use, as it was          the same as before
"""

from __future__ import annotations

import os

from engine.storage.files import Files, replace_file

EPOCH_ID_BYTES = 8
NAME = "lifetime"


def read(directory: str, files: Files) -> bytes:
    """The one in effect; b"" when there is none, and then no id may be given away."""
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
    """Begins another one. Raises StorageFull or StorageFailed; the old one is over then too."""
    path = f"{directory}/{NAME}"
    files.unlink(path)
    replace_file(files, path, os.urandom(EPOCH_ID_BYTES))
