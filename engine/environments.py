"""LMDB environments that all handles of a process share: LMDB allows each to be open only once in a process.

They are private (0600) and small. The index has another kind (`index.database`).
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Final

import lmdb

if TYPE_CHECKING:
    from pathlib import Path

READERS_MAX: Final = 512
TABLES_MAX: Final = 32

_opened: dict[str, tuple[Any, int]] = {}
"""Path → the environment that this process has open, and how often."""
_opening = threading.Lock()


class SharedEnvironment:
    """One handle of an environment."""

    def __init__(self, folder: Path, *, map_bytes: int, read_only: bool = False, is_synced: bool = True) -> None:
        """Opens it, and creates it in the folder if there is none. Raises lmdb.Error.

        `map_bytes`: the room for it, in the address space. `is_synced`: whether each commit is on stable storage.
        """
        self._path = os.path.realpath(folder)
        with _opening:
            environment, count = _opened.get(self._path, (None, 0))
            if environment is None:
                environment = lmdb.open(
                    self._path,
                    map_size=map_bytes,
                    readonly=read_only,
                    readahead=False,
                    sync=is_synced,
                    metasync=is_synced,
                    max_dbs=TABLES_MAX,
                    max_readers=READERS_MAX,
                    max_spare_txns=4,
                    mode=0o600,
                )
            elif environment.flags()["readonly"] and not read_only:
                raise lmdb.ReadonlyError("this process has it open for reading only")
            _opened[self._path] = environment, count + 1
        self.lmdb: Any = environment
        """LMDB's own object."""

    def close(self) -> None:
        """Closes this handle, and the environment with the last one. No transaction of this handle may be open."""
        with _opening:
            environment, count = _opened[self._path]
            if count > 1:
                _opened[self._path] = environment, count - 1
            else:
                del _opened[self._path]
                environment.close()
