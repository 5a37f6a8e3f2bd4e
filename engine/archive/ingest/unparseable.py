"""Keeps data sets that cannot be stored as instances in quarantine (`lifecycle.quarantine`), within limits.

The sender gets its failure status in any case. Limits, so that a faulty sender cannot fill the disk: bytes and number
over the whole archive; and the same bytes under the same UID are kept once, however often a device tries.

Used only after a refusal, never for an accepted instance.
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
"""Reasons of refusals that are kept: not those for lack of permission or of room."""

LIST_AGE_S = 60.0
"""How long a process trusts its copy of the quarantine's list; others add to it too."""


@dataclass(frozen=True, slots=True)
class QuarantineLimits:
    """The limits of the quarantine; see [quarantine] in the configuration."""

    bytes_max: int
    count_max: int


class Unparseable:
    """The quarantine's limits in one process. As thread-safe as its index: two threads may decide the same."""

    def __init__(
        self, index: Catalog, limits: QuarantineLimits, counters: MutableMapping[str, int] | None = None
    ) -> None:
        """`counters`: for its own counts."""
        self._index = index
        self._limits = limits
        self._listed: set[tuple[bytes, int, int]] = set()
        """Key, length and checksum of each record in quarantine."""
        self._recent: set[tuple[bytes, int, int]] = set()
        """Records that were admitted since; some may not be in the index yet."""
        self._listed_at_s = -LIST_AGE_S
        self.counters: MutableMapping[str, int] = Counter() if counters is None else counters

    def claim(self, refusal: InstanceRefused, request: StoreRequest) -> Quarantined:
        """The facts recorded with the bytes: the reason, and the front end's parameters. Without position and stamp."""
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
        """Whether refusals for this reason are kept at all."""
        return error.refusal in REASONS

    def wants(self, claim: Quarantined, length: int, crc: int) -> bool:
        """Whether to keep these bytes. Reads the index, and now and then the whole list of the quarantine."""
        if time.monotonic() - self._listed_at_s > LIST_AGE_S:
            self._listed = {
                (item.sop_instance_uid, item.position.payload_length, item.position.payload_crc)
                for item in self._index.quarantined()
            } | self._recent
            self._recent = set()
            self._listed_at_s = time.monotonic()
        identity = (claim.sop_instance_uid, length, crc)
        if identity in self._listed:
            self.counters["quarantine_known"] += 1
            return False
        if not self.has_room(length):
            return False
        self._listed.add(identity)
        self._recent.add(identity)
        return True

    def has(self, claim: Quarantined, length: int, crc: int) -> bool:
        """Whether these bytes are kept already, as far as this process knows."""
        return (claim.sop_instance_uid, length, crc) in self._listed

    def has_room(self, length: int) -> bool:
        """Whether this many more bytes are within the limits."""
        has_room = (
            self._index.quarantined_bytes() + length <= self._limits.bytes_max
            and len(self._listed) < self._limits.count_max
        )
        if not has_room:
            self.counters["quarantine_full"] += 1
            logger.warning("the quarantine is full: an unparseable data set is dropped", bytes=length)
        return has_room


def _uid(text: str | None) -> bytes:
    """A claimed UID for a record; empty if it is too long."""
    uid = (text or "").encode("ascii", "replace")
    return uid if len(uid) <= UID_LENGTH_MAX and b"\0" not in uid else b""
