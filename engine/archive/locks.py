"""Locks between the processes of an archive: one caretaker at a time, one change of the ledger at a time.

    DATA/caretaker.lock    held for a pass of compaction, scrubbing or retention; if it is taken, try again later
    DATA/ledger.lock       held while a deletion, a hold or a correction is decided and written, and while a segment is
                           removed, so that nothing is deleted between the check for a hold and the deletion
    DATA/journals.lock     held while a note is written to DATA/sealed, DATA/ledger.copy or DATA/losses
    DATA/webhooks.lock     held for its lifetime by the worker that delivers the change feed to webhooks
    DATA/jobs.lock         held for its lifetime by the worker that runs jobs
    DATA/stats.lock        held for its lifetime by the worker that writes the history of statistics
    DATA/commitments.lock  held for its lifetime by the worker that sends pending storage commitment reports
    DATA/workitems.lock    held for its lifetime by the worker that sends events of workitems to their subscribers
    DATA/thumbnails.lock   held for its lifetime by the worker that draws thumbnails of quiet series

All are leases (`leases`), here flocks: they end with their process. Elsewhere: the keeper's lock (`keeper`) and those
of single segments (`storage.files`), which are of one machine however many nodes there are.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from engine.errors import ArchiveInUse

if TYPE_CHECKING:
    from engine.archive.layout import Layout
    from engine.storage.files import Files

LEDGER_PATIENCE_S = 30.0
"""Decisions take milliseconds: a process that holds the lock for so long hangs."""
JOURNALS_PATIENCE_S = 5.0
"""Shorter, since the keeper waits for it and can write its notes later."""

TERM_S = 60.0
"""Of leases that have a term: a holder that is dead or cut off for so long loses them."""

_POLL_S = 0.005


@contextmanager
def caretaker(layout: Layout, files: Files) -> Iterator[None]:
    """The right to compact, scrub or apply rules. Raises ArchiveInUse when another process has it."""
    with _held(layout, files, "caretaker", 0.0, "another process compacts or scrubs this archive"):
        yield


@contextmanager
def ledger(layout: Layout, files: Files) -> Iterator[None]:
    """The right to decide on a deletion, a hold or a correction.

    Waits for others; raises ArchiveInUse when that takes too long.
    """
    obstacle = f"another process has been deleting from this archive, or correcting it, for {LEDGER_PATIENCE_S:g} s"
    with _held(layout, files, "ledger", LEDGER_PATIENCE_S, obstacle):
        yield


@contextmanager
def journals(layout: Layout, files: Files) -> Iterator[None]:
    """The right to write to the archive's journals, which takes milliseconds. Raises ArchiveInUse."""
    obstacle = f"another process has been writing to the archive's journals for {JOURNALS_PATIENCE_S:g} s"
    with _held(layout, files, "journals", JOURNALS_PATIENCE_S, obstacle):
        yield


@contextmanager
def commitments(layout: Layout, files: Files) -> Iterator[None]:
    """The right to send pending reports. Raises ArchiveInUse when another process has it."""
    with _held(layout, files, "commitments", 0.0, "another process reports storage commitments"):
        yield


@contextmanager
def workitems(layout: Layout, files: Files) -> Iterator[None]:
    """The right to send events of workitems. Raises ArchiveInUse when another process has it."""
    with _held(layout, files, "workitems", 0.0, "another process reports events of workitems"):
        yield


@contextmanager
def history(layout: Layout, files: Files) -> Iterator[None]:
    """The right to write the history of statistics. Raises ArchiveInUse when another process has it."""
    with _held(layout, files, "stats", 0.0, "another process writes the history"):
        yield


@contextmanager
def jobs(layout: Layout, files: Files) -> Iterator[None]:
    """The right to run jobs. Raises ArchiveInUse when another process has it."""
    with _held(layout, files, "jobs", 0.0, "another process runs jobs"):
        yield


@contextmanager
def webhooks(layout: Layout, files: Files) -> Iterator[None]:
    """The right to deliver the change feed. Raises ArchiveInUse when another process has it."""
    with _held(layout, files, "webhooks", 0.0, "another process delivers to webhooks"):
        yield


@contextmanager
def subscriptions(layout: Layout, files: Files) -> Iterator[None]:
    """The right to tell subscriptions of FHIR. Raises ArchiveInUse when another process has it."""
    with _held(layout, files, "subscriptions", 0.0, "another process tells subscriptions"):
        yield


@contextmanager
def thumbnails(layout: Layout, files: Files) -> Iterator[None]:
    """The right to draw thumbnails ahead. Raises ArchiveInUse when another process has it."""
    with _held(layout, files, "thumbnails", 0.0, "another process draws thumbnails"):
        yield


@contextmanager
def _held(layout: Layout, files: Files, name: str, patience_s: float, obstacle: str) -> Iterator[None]:
    leases = layout.leases(files)
    left_s = patience_s
    while (grant := leases.acquire(name, TERM_S)) is None:
        if left_s <= 0:
            raise ArchiveInUse(obstacle)
        threading.Event().wait(_POLL_S)
        left_s -= _POLL_S
    try:
        yield
    finally:
        leases.release(grant)
