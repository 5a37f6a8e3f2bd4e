"""Judges whether instances are stored safely, from the durable log: for storage commitment (PS3.4 J.3).

An instance is committed when all of this holds, in this order:

    its SOP Instance UID has a current record         else ABSENT (deleted, in quarantine, never seen), or NOT_SUPPORTED
                                                      when its SOP class is none that would be taken
    the record is of the SOP class that was asked for  else OTHER_CLASS
    no damage is known at its place                    else DAMAGED
    its data set does not end early                    else TRUNCATED: stored before that was found out on the way in,
                                                       or from a peer that may
    every unsealed segment has been synced since       a failed sync is final for the process, as everywhere
    its record was read and its checksums are right    verify = "read" (as a retrieval reads it) and "disk" (past the
                                                      page cache); what is found damaged is noted, and DAMAGED

A version that is kept aside does not count: its C-STORE was answered with a warning, and a retrieval of its UID returns
the current instance. It is durable all the same. Blocks; run it in a thread of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING

from engine.archive import completeness
from engine.archive.keeper import sync_log
from engine.errors import CorruptRecord, SegmentGone, StorageError
from engine.rate_limiter import RateLimiter

if TYPE_CHECKING:
    import threading

    from engine.access.scope import Scope
    from engine.archive.archive import Archive
    from engine.archive.commitment.transactions import Reference
    from engine.archive.view import View
    from engine.index.format.types import Instance

Place = tuple[int, int]
"""Segment and offset of a record."""

SYNC_TRIES = 5
"""How often to sync again because records were replaced or moved between a sync and the second look."""


class Verdict(Enum):
    """The verdict on one instance."""

    COMMITTED = "committed"
    ABSENT = "absent"
    OTHER_CLASS = "of another SOP class"
    NOT_SUPPORTED = "of a SOP class that is not supported"
    DAMAGED = "damaged"
    TRUNCATED = "ending early"
    DUPLICATE = "the transaction UID is in use"


class Judge:
    """Judges for one process; one thread at a time."""

    def __init__(
        self,
        archive: Archive,
        is_supported: Callable[[str], bool],
        stopping: threading.Event,
    ) -> None:
        """`is_supported`: whether the server stores instances of a SOP class."""
        self._archive = archive
        self._parts = archive.parts
        self._is_supported = is_supported
        self._stopping = stopping

    def verdicts(
        self, references: Sequence[Reference], *, scope: Scope, verify: str, bytes_per_s: int, whole: set[Place]
    ) -> list[Verdict]:
        """One verdict a reference, in order. What is not in `scope` is absent. `whole`: records that need not be read
        again; new ones are added.

        Raises StorageFailed when a sync fails, StorageError when no verdict is possible now.
        """
        durable = self._durable(references, self._archive.view(scope))
        damaged = {(row.segment_id, row.offset) for row in self._parts.index.damage()}
        rate_limiter = RateLimiter(bytes_per_s, wait=self._stopping.wait)
        return [
            self._verdict(sop_class_uid, instance, damaged, verify, rate_limiter, whole)
            for (sop_class_uid, _), instance in zip(references, durable, strict=True)
        ]

    def _durable(self, references: Sequence[Reference], view: View) -> list[Instance | None]:
        """The current instances, all of which now survive a power cut."""
        located = self._located(references, view)
        for _ in range(SYNC_TRIES):
            sync_log(self._parts.index, self._parts.reader)
            second_look = self._located(references, view)
            is_settled = all(_lie_together(one, other) for one, other in zip(located, second_look, strict=True))
            located = second_look
            if is_settled:
                return located
        raise StorageError("the instances that commitment is asked for are being replaced")

    def _located(self, references: Sequence[Reference], view: View) -> list[Instance | None]:
        return [view.instance(uid) for _, uid in references]

    def _verdict(
        self,
        sop_class_uid: str,
        instance: Instance | None,
        damaged: set[Place],
        verify: str,
        rate_limiter: RateLimiter,
        whole: set[Place],
    ) -> Verdict:
        if instance is None:
            return Verdict.ABSENT if self._is_supported(sop_class_uid) else Verdict.NOT_SUPPORTED
        if instance.sop_class_uid != sop_class_uid:
            return Verdict.OTHER_CLASS
        place = (instance.position.segment_id, instance.position.offset)
        if place in damaged:
            return Verdict.DAMAGED
        if place in whole:
            return Verdict.COMMITTED
        if completeness.cut_of(self._parts.reader, instance):
            return Verdict.TRUNCATED
        if verify == "index":
            return Verdict.COMMITTED
        if self._stopping.is_set():
            raise StorageError("the server is stopping")
        verdict = self._read(instance, is_past_the_cache=verify == "disk")
        rate_limiter.spent(instance.position.payload_length)
        if verdict is Verdict.COMMITTED:
            whole.add((instance.position.segment_id, instance.position.offset))
        return verdict

    def _read(self, instance: Instance, *, is_past_the_cache: bool) -> Verdict:
        try:
            self._archive.retrieval.open(instance).verify_record(past_the_cache=is_past_the_cache)
        except SegmentGone:
            return Verdict.ABSENT
        except CorruptRecord:
            return Verdict.DAMAGED
        return Verdict.COMMITTED


def _lie_together(one: Instance | None, other: Instance | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.position == other.position
