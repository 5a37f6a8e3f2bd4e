"""DATA/hospital/index: an LMDB environment with the state of the registry. It is derived from the state log.

    tables          `orders.tables`
    keys            `orders.names`
    transactions    `orders.transactions`

A commit is not synced: after kill -9 the page cache has it; after a power cut the machine has another boot id than
DATA/hospital/boot, and the environment is made anew from the log. LMDB's own lock lets one writer of all processes in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import lmdb

from engine.environments import SharedEnvironment
from engine.errors import OrdersError
from engine.orders.tables import Tables
from engine.orders.transactions import Reading, Writing

FORMAT: Final = b"4"
"""A database of another format is made anew from the log."""
MAP_BYTES: Final = 1 << 36
"""Address space for some ten million steps; takes neither memory nor disk."""


def boot_id() -> bytes:
    """What distinguishes this boot of the machine from others."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    except OSError:
        return b"unknown"


class Database(Tables):
    """A handle; thread-safe. All handles of a process share one environment."""

    def __init__(self, folder: Path) -> None:
        """Opens it, and creates it if there is none. `is_stale` then tells whether to fill it from the log.

        Raises OrdersError.
        """
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._shared = SharedEnvironment(folder, map_bytes=MAP_BYTES, is_synced=False)
        except (lmdb.Error, OSError) as error:
            raise OrdersError(f"the orders in {folder} cannot be opened: {error}") from error
        try:
            super().__init__(self._shared.lmdb)
            self._environment.reader_check()
        except lmdb.Error as error:
            self.close()
            raise OrdersError(f"the orders in {folder} cannot be opened: {error}") from error

    def is_stale(self, reading: Reading) -> bool:
        """Whether it is to be filled from the log: it is new, or of another format."""
        return bool(reading.meta_value(b"format") != FORMAT)

    def mark_filled(self, writing: Writing) -> None:
        """From now on it is not stale, if the transaction is committed."""
        writing.set_meta(b"format", FORMAT)

    def empty(self, writing: Writing) -> None:
        """Removes all rows."""
        derived = (self.names, self.days, *self.workitem_index.handles)
        for handle in (self.meta, *derived, *(table.handle for table in self.tables)):
            writing.drop(handle)

    @contextmanager
    def read(self) -> Iterator[Reading]:
        """A snapshot. Raises OrdersError."""
        try:
            with self._environment.begin() as txn:
                yield Reading(self, txn)
        except lmdb.Error as error:
            raise OrdersError(f"the orders cannot be read: {error}") from error

    @contextmanager
    def write(self) -> Iterator[Writing]:
        """Changes, which all processes see when the context ends without an error. Raises OrdersError."""
        try:
            with self._environment.begin(write=True) as txn:
                yield Writing(self, txn)
        except (lmdb.Error, OSError) as error:
            raise OrdersError(f"the orders cannot be written: {error}") from error

    def close(self) -> None:
        """Closes it. No transaction may be open."""
        self._shared.close()
