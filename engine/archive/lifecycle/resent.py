"""Versions that say what another one of their UID says: found in the background, and retired.

A router sends each image once more in another transfer syntax, or DCMTK writes lengths otherwise: other bytes, and no
conflict. Small ones are compared before they are stored (`ingest.writer`). What is stored first and compared later is:

    a version kept aside, compared with the current one and with earlier versions (`archive.likeness`)
        the same            a tombstone with its stamp: dropped, as `filmroom quarantine drop` does it; a rebuild from
                            the log says so too, compaction gives its space back, and the same bytes that come again
                            are known for it (`Store.resent`)
        not the same        stays
        on legal hold       stays until the hold is released and the archive is opened again

Nothing is retired unless every byte of both has been read, checked and compared, and both are still there then. How far
it has come is kept in DATA/resent.json, so that a start does not compare everything again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from engine import log
from engine.access.principal import Kind, Principal
from engine.archive import likeness
from engine.archive.lifecycle import deletion
from engine.archive.likeness import Side
from engine.archive.retrieve import StoredInstance
from engine.archive.transcoding import transcode
from engine.archive.transcoding.process_pool import ProcessPool
from engine.archive.transcoding.spool import Spool
from engine.dicom import transfer_syntax
from engine.dicom.sources import PIECE_BYTES, Inflated
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from engine.errors import CorruptRecord, DataSetError, TranscodeError
from engine.storage.files import replace_file

if TYPE_CHECKING:
    from pathlib import Path

    from engine.archive.archive import Archive
    from engine.index.format.types import Instance

logger = log.get("archive.resent")

RESENT: Final = Principal(Kind.JOB, likeness.BY)
"""Who retires versions."""

OTHERS_MAX: Final = 4
"""With so many others of its UID a version is compared: the current one, then the oldest."""
BATCH: Final = 64
"""Versions of one step, whose tombstones are synced together."""
STEP_S: Final = 1.0
LOOK_AGAIN_S: Final = 600.0
"""How often all versions are looked at though their number has not changed."""
LATE_NS: Final = 3600 * 10**9
"""So much later than its stamp a version may have become visible."""


class Judge:
    """Compares stored instances; starts a decoder only when there is something to decode. One thread at a time."""

    def __init__(self, archive: Archive, *, reserve_bytes: int = 0) -> None:
        self._archive = archive
        self._parts = archive.parts
        self._reserve_bytes = reserve_bytes
        self._pool: ProcessPool | None = None

    def is_same(self, one: Instance, other: Instance) -> bool:
        """Whether both have the same content. Blocks. Raises CorruptRecord."""
        if not likeness.may_be_same(one, other):
            return False
        sources = self._archive.retrieval.open(one), self._archive.retrieval.open(other)
        try:
            left, right = [self.side(source, instance) for source, instance in zip(sources, (one, other), strict=True)]
        except (DataSetError, TranscodeError):
            return False
        if not likeness.is_same(left, right, decode=self.decoded):
            return False
        for source in sources:
            source.finish()
        return True

    def side(self, source: StoredInstance, instance: Instance) -> Side:
        """A stored data set, inflated. Raises TranscodeError."""
        syntax = transfer_syntax.of(instance.transfer_syntax_uid)
        if not syntax.deflated:
            return Side(source, syntax)
        inflated = Inflated(source)
        spool = self._spool()
        for at in range(0, inflated.length, PIECE_BYTES):
            spool.write(inflated.read(at, PIECE_BYTES))
        return Side(spool.source(), syntax)

    def decoded(self, side: Side) -> Side:
        """The same with native pixels. Raises TranscodeError."""
        if self._pool is None:
            self._pool = ProcessPool(
                transcode.CODECS, transcode.TIME_LIMIT_S, transcode.DECODED_BYTES_MAX, transcode.IDLE_S
            )
        spool = self._spool()
        self._pool.run(side.source, {"job": "decoding", "syntax": side.syntax.uid}, spool.write)
        return Side(spool.source(), EXPLICIT_VR_LITTLE_ENDIAN)

    def _spool(self) -> Spool:
        return Spool(str(self._parts.layout.data), self._reserve_bytes)

    def close(self) -> None:
        """Ends the decoders."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None


@dataclass(slots=True)
class Counters:
    """Since the start."""

    compared: int = 0
    same_content: int = 0
    other_content: int = 0

    def as_dict(self) -> dict[str, int]:
        """By their names."""
        return asdict(self)


class Settler:
    """Compares the versions that nobody has compared yet, a batch a step."""

    def __init__(
        self,
        archive: Archive,
        *,
        reserve_bytes: int = 0,
        since_ns: int | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """`since_ns`: only versions that came after this moment, nothing is remembered; None: where it was left off."""
        self._archive = archive
        self._parts = archive.parts
        self._judge = Judge(archive, reserve_bytes=reserve_bytes)
        self._stopped = stopped
        self._is_lasting = since_ns is None
        self._path = archive.parts.layout.data / "resent.json"
        self._from_ns = _read_mark(self._path) - LATE_NS if since_ns is None else since_ns
        self._done: set[tuple[str, int]] = set()
        self._left: Iterator[Instance] | None = None
        self._began_ns = 0
        self._count = -1
        self._looked_s = 0.0
        self.counters = Counters()

    def step(self) -> bool:
        """One batch; whether there may be more at once. Raises EngineError."""
        index = self._parts.index
        if self._left is None:
            count = index.version_count()
            if not count or (count == self._count and time.monotonic() - self._looked_s < LOOK_AGAIN_S):
                return False
            self._count, self._looked_s = count, time.monotonic()
            self._began_ns = time.time_ns()
            if self._from_ns > self._began_ns and self._is_lasting:
                self._from_ns = 0  # the clock was set back
            self._left = index.kept_versions()
        until_s = time.monotonic() + STEP_S
        same: list[tuple[Instance, Instance]] = []
        for version in self._left:
            if version.stamp < self._from_ns or (version.sop_instance_uid, version.stamp) in self._done:
                continue
            other = self._same_as(version, {each.stamp for each, _ in same})
            if other is not None:
                same.append((version, other))
            self._done.add((version.sop_instance_uid, version.stamp))
            if self._stopped() or len(same) == BATCH or time.monotonic() > until_s:
                break
        else:
            self._left = None
            self._remember()
        self._retire(same)
        return self._left is not None

    def run(self) -> int:
        """All that there are; how many were retired. Raises EngineError."""
        while not self._stopped() and self.step():
            pass
        self.close()
        return self.counters.same_content

    def close(self) -> None:
        """Ends the decoders."""
        self._judge.close()

    def _same_as(self, version: Instance, retired: set[int]) -> Instance | None:
        """The current instance or an earlier version with the same content."""
        self.counters.compared += 1
        for other in others_of(self._archive, version):
            if other.stamp in retired:
                continue
            try:
                if self._judge.is_same(version, other):
                    return other
            except CorruptRecord as error:
                logger.warning(
                    "a version was not compared", sop_instance_uid=version.sop_instance_uid, reason=str(error)
                )
        self.counters.other_content += 1
        return None

    def _retire(self, same: list[tuple[Instance, Instance]]) -> None:
        if not same:
            return
        count = len(retire(self._archive, same))
        self.counters.same_content += count
        self._count = -1 if count != len(same) else self._parts.index.version_count()

    def _remember(self) -> None:
        """How far it has come; what came in late is looked at again."""
        if not self._is_lasting:
            return
        self._from_ns = self._began_ns - LATE_NS
        self._done = {each for each in self._done if each[1] >= self._from_ns}
        mark = json.dumps({"compared_until_ns": self._began_ns}).encode()
        replace_file(self._parts.files, str(self._path), mark)


def others_of(archive: Archive, version: Instance) -> list[Instance]:
    """What a version is compared with: the current instance of its UID, then earlier versions."""
    uid = version.sop_instance_uid.encode()
    current = archive.parts.index.locate(uid)
    if current is None:
        return []
    earlier = [each for each in archive.parts.index.versions(uid) if each.stamp < version.stamp]
    return [current, *(each for each in earlier if each.stamp != current.stamp)][:OTHERS_MAX]


def retire(archive: Archive, same: Iterable[tuple[Instance, Instance]]) -> list[Instance]:
    """Drops versions, each beside an instance with the same content, durably; those that were, for some may be on hold.

    Raises StorageFull, StorageFailed.
    """

    def work() -> list[Instance]:
        with archive.parts.ledger.locked():
            retired = [version for version, other in same if _may_go(archive, version, other)]
            drops = [
                deletion.Drop(version.sop_instance_uid.encode(), version.stamp, reasons[version.stamp])
                for version in retired
            ]
            deletion.write_drops(archive.parts, drops, actor=RESENT)
            return retired

    same = list(same)
    reasons = {
        version.stamp: likeness.reason_of(
            other.stamp, likeness.digest_of(version.transfer_syntax_uid, archive.pieces(version))
        )
        for version, other in same
    }
    retired = archive.parts.ledger.with_reserve(work)
    logger.info("versions with the same content were retired", count=len(retired))
    return retired


def _may_go(archive: Archive, version: Instance, other: Instance) -> bool:
    """Whether both are still there, each under a stamp of its own, and nothing is on hold."""
    if any(archive.parts.index.is_held(each.study_instance_uid.encode()) for each in (version, other)):
        return False
    current = archive.parts.index.locate(version.sop_instance_uid.encode())
    stamps = [each.stamp for each in archive.parts.index.versions(version.sop_instance_uid.encode())]
    return (
        current is not None
        and current.stamp != version.stamp
        and stamps.count(version.stamp) == 1
        and other.stamp in stamps
    )


def _read_mark(path: Path) -> int:
    """How far an earlier process came; 0 if nobody knows."""
    try:
        mark = json.loads(path.read_bytes())["compared_until_ns"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return mark if isinstance(mark, int) else 0
