"""The rig's own test: an engine with one safeguard taken out must be caught, else the rig proves nothing.

    python -m tests.faults.controls NAME [FIRST_SEED [SEEDS]]

Exit code 3 when a history breaks a promise (or LMDB crashes the process, which is as good), 0 when the rig sees
nothing. A process of its own, since a corrupt LMDB may take it down.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

from engine import boot
from engine.archive.lifecycle.compaction import Compactor
from engine.archive.lifecycle.ledger_copy import LedgerCopy
from engine.index.database import data_file
from engine.index.upkeep import checkpoint_file
from engine.index.upkeep.checkpoint import Checkpointer
from engine.index.upkeep.checkpoint_file import Checkpoint, Kind, write_file
from engine.storage.segment_log import SegmentLog
from tests.faults.histories import History
from tests.faults.model import Broken
from tests.faults.world import World
from tests.faulty_files import SimulatedFile

SEEDS = 12


def without_fdatasync(world: World) -> None:
    world.disk.loses_syncs = True


def without_directory_sync(world: World) -> None:
    world.disk.loses_directories = True


def as_it_is(world: World) -> None:
    """Nothing taken out."""


def _without_pin() -> AbstractContextManager[Any]:
    """The checkpointed state is not pinned: LMDB uses its pages again."""
    take = Checkpointer._take

    def take_and_let_go(self: Checkpointer, kind: Kind) -> None:
        take(self, kind)
        if self._pin is not None:
            self._pin.abort()
            self._pin = None

    return patch.object(Checkpointer, "_take", take_and_let_go)


def _no_fault(*_: object) -> str:
    return ""


def _as_summed(*_: object) -> bool:
    return True


def _checkpoint_first() -> AbstractContextManager[Any]:
    """The checkpoint file is written before what it speaks of is on the disk, and no start looks whether it is."""

    def take(self: Checkpointer, kind: Kind) -> None:
        pin, transaction_id, page, _ = self._environment.holding_write_lock(self._pin_newest)
        write_file(self._directory, self._files, Checkpoint(kind, transaction_id, boot.boot_id(), page))
        before, self._pin = self._pin, pin
        if before is not None:
            before.abort()
        self._checkpointed_id = transaction_id
        self._sync_log()
        self._files.fdatasync(self._data_fd)

    changes = ExitStack()
    changes.enter_context(patch.object(Checkpointer, "_take", take))
    changes.enter_context(
        patch.multiple(data_file, fault_of=_no_fault, meta_fault=_no_fault, matches_checksum=_as_summed)
    )
    return changes


def _index_before_log() -> AbstractContextManager[Any]:
    """A checkpoint does not sync the log: the index may point to records that are gone."""
    real = Checkpointer.__init__

    def init(self: Checkpointer, environment: Any, files: Any, sync_log: Callable[[], None]) -> None:
        real(self, environment, files, lambda: None)

    return patch.object(Checkpointer, "__init__", init)


def _no_wait() -> AbstractContextManager[Any]:
    """A compaction removes a file before a checkpoint says where its records are now."""
    return patch.object(Compactor, "_checkpointed", lambda self, commit: True)


def _trusting_cache() -> AbstractContextManager[Any]:
    """A recovery believes the page cache after a sync that failed."""
    return patch.object(SimulatedFile, "drop_cache", lambda self: None)


def _sync_again() -> AbstractContextManager[Any]:
    """A log goes on after a sync that failed."""
    return patch.object(SegmentLog, "_fail", lambda self, error: None)


def _no_void() -> AbstractContextManager[Any]:
    """Nobody says that the index is behind no checkpoint."""
    return patch.object(checkpoint_file, "write_void", lambda directory, files: None)


def _ledger_once() -> AbstractContextManager[Any]:
    """Tombstones, holds and corrections are kept in the log alone."""
    return patch.object(LedgerCopy, "settle", lambda self, index, lost, records_of: set())


Change = tuple[Callable[[], AbstractContextManager[Any]], Callable[[World], None]]

CONTROLS: dict[str, Change] = {
    "as it is": (nullcontext, as_it_is),
    "fdatasync removed": (nullcontext, without_fdatasync),
    "directory sync removed": (nullcontext, without_directory_sync),
    "pin removed": (_without_pin, as_it_is),
    "checkpoint file before data": (_checkpoint_first, as_it_is),
    "log not synced at checkpoint": (_index_before_log, as_it_is),
    "compaction does not wait": (_no_wait, as_it_is),
    "cache trusted after EIO": (_trusting_cache, as_it_is),
    "log goes on after EIO": (_sync_again, as_it_is),
    "no void": (_no_void, as_it_is),
    "ledger kept once": (_ledger_once, as_it_is),
}


def main(arguments: list[str]) -> int:
    """See the module's head."""
    name = arguments[0]
    first = int(arguments[1]) if len(arguments) > 1 else 1
    count = int(arguments[2]) if len(arguments) > 2 else SEEDS
    changed, prepare = CONTROLS[name]
    for seed in range(first, first + count):
        with tempfile.TemporaryDirectory(prefix="faults") as folder, changed():
            try:
                History(Path(folder), seed, prepared=prepare).run()
            except Broken as error:
                sys.stdout.write(f"{error}\n")
                return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
