"""What a server does with data sets that cannot be taken as instances: keeps the bytes, in bounds, and still refuses.

The sender gets its failure status either way. What is kept waits in quarantine (`lifecycle.quarantine`) until somebody
looks at it. Bounds, so that a sender of rubbish fills no disk: bytes and number over the whole archive, and the same
bytes under the same UID are kept once, however often a device tries.

Runs only where an instance has been refused; an instance that is taken never comes by here.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from engine import log
from engine.archive.ingest.entry import UID_LENGTH_MAX, UNPLACED
from engine.errors import InstanceRefused, Refusal
from engine.index.catalog import Catalog
from engine.index.format.entry import NO_UID, Quarantined

if TYPE_CHECKING:
    from engine.archive.ingest.request import StoreRequest

logger = log.get("archive.quarantine")

REASONS: Final = frozenset({Refusal.CANNOT_UNDERSTAND, Refusal.MISMATCH})
"""What is kept: not what the sender was not allowed to send, or what there was no room for."""

KNOWN_AGE_S = 60.0
"""How long a process relies on what it knows of the quarantine; others add to it too."""


@dataclass(frozen=True, slots=True)
class QuarantineLimits:
    """How much the quarantine may hold; see the configuration's [quarantine]."""

    bytes_max: int
    count_max: int


class Unparseable:
    """One process's way into the quarantine. Thread-safe as far as its index is: decisions may be made twice."""

    def __init__(
        self, index: Catalog, limits: QuarantineLimits, counters: MutableMapping[str, int] | None = None
    ) -> None:
        """Counts what it does in `counters`."""
        self._index = index
        self._limits = limits
        self._known: set[tuple[bytes, int, int]] = set()
        """Key, length and checksum of what is in quarantine."""
        self._recent: set[tuple[bytes, int, int]] = set()
        """What was let in since that was read: some of it may still be on its way."""
        self._known_at_s = -KNOWN_AGE_S
        self.counters: MutableMapping[str, int] = Counter() if counters is None else counters

    def claim(self, refusal: InstanceRefused, request: StoreRequest) -> Quarantined:
        """What is written beside the bytes: why, and what the front end says of them. Position and stamp are open."""
        return Quarantined(
            UNPLACED,
            0,
            _uid(request.sop_instance_uid) or NO_UID,
            _uid(request.sop_class_uid),
            _uid(request.transfer_syntax_uid),
            request.calling_ae_title.encode("utf-8", "replace"),
            time.time_ns(),
            str(refusal).encode("utf-8", "replace"),
        )

    def keeps(self, error: InstanceRefused) -> bool:
        """Whether what is refused for this reason is kept at all."""
        return error.refusal in REASONS

    def wants(self, claim: Quarantined, length: int, crc: int) -> bool:
        """Whether these bytes shall be kept. Reads the index, and now and then all of the quarantine."""
        if time.monotonic() - self._known_at_s > KNOWN_AGE_S:
            self._known = {
                (item.sop_instance_uid, item.position.payload_length, item.position.payload_crc)
                for item in self._index.quarantined()
            } | self._recent
            self._recent = set()
            self._known_at_s = time.monotonic()
        what = (claim.sop_instance_uid, length, crc)
        if what in self._known:
            self.counters["quarantine_known"] += 1
            return False
        if not self.has_room(length):
            return False
        self._known.add(what)
        self._recent.add(what)
        return True

    def has_room(self, length: int) -> bool:
        """Whether so many bytes more are within the bounds."""
        within = (
            self._index.quarantined_bytes() + length <= self._limits.bytes_max
            and len(self._known) < self._limits.count_max
        )
        if not within:
            self.counters["quarantine_full"] += 1
            logger.warning("the quarantine is full, what cannot be parsed is dropped", bytes=length)
        return within


def _uid(text: str | None) -> bytes:
    """A claimed UID as a record may carry it; empty when it is too long for one."""
    uid = (text or "").encode("ascii", "replace")
    return uid if len(uid) <= UID_LENGTH_MAX and b"\0" not in uid else b""
