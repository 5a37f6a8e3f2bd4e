"""Re-sent instances: finds versions with the same content as another one of their UID, and retires them.

A router may send each image again in another transfer syntax, or DCMTK may encode lengths in another way: other bytes,
but no conflict. Ingest compares small instances before it stores them (`ingest.resolver`). This module works in the
background:

    a version kept aside is compared with the current instance and with earlier versions (`archive.likeness`)
        same content        gets a tombstone with its stamp, as with `filmroom quarantine drop`: a rebuild from the log
                            gives the same result, compaction frees its space, and ingest recognises the same bytes if
                            they come again
        other content       stays
        on legal hold       stays until the hold is released and the archive is opened again
        not read, or not    is compared again, ATTEMPTS_MAX times at most: a decoder may be late on a busy machine, and
        decoded             a segment may be moved just then

A version is retired only after every byte of both has been read, checked and compared, and if both still exist then.
DATA/resent.json keeps the progress, so that a start does not compare everything again.
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
from engine.errors import CorruptRecord, DataSetError, TranscodeError, for_log
from engine.storage.files import replace_file

if TYPE_CHECKING:
    from pathlib import Path

    from engine.archive.archive import Archive
    from engine.index.format.types import Instance

logger = log.get("archive.resent")

RESENT: Final = Principal(Kind.JOB, likeness.BY)
"""The actor in the tombstones of retired versions."""

OTHERS_MAX: Final = 4
"""The most others of its UID that a version is compared with: the current one, then the oldest."""
BATCH: Final = 64
"""Versions in one step, whose tombstones are synced together."""
STEP_S: Final = 1.0
LOOK_AGAIN_S: Final = 600.0
"""Interval at which all versions are examined even if their number has not changed."""
RETRY_S: Final = 30.0
"""The same while a version could not be compared."""
ATTEMPTS_MAX: Final = 3
LATE_NS: Final = 3600 * 10**9
"""How much later than its stamp a version may become visible."""


class Judge:
    """Compares stored instances; starts a decoder only if it is needed. One thread at a time."""

    def __init__(self, archive: Archive, *, reserve_bytes: int = 0) -> None:
        self._archive = archive
        self._parts = archive.parts
        self._reserve_bytes = reserve_bytes
        self._pool: ProcessPool | None = None
        self.failures = 0
        """How often something could not be decoded."""

    def is_same(self, left_instance: Instance, right_instance: Instance) -> bool:
        """Whether both have the same content. Blocks. Raises CorruptRecord."""
        if not likeness.may_be_same(left_instance, right_instance):
            return False
        sources = self._archive.retrieval.open(left_instance), self._archive.retrieval.open(right_instance)
        try:
            left, right = [
                self.side(source, instance)
                for source, instance in zip(sources, (left_instance, right_instance), strict=True)
            ]
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
        try:
            self._pool.run(side.source, {"job": "decoding", "syntax": side.syntax.uid}, spool.write)
        except TranscodeError:
            self.failures += 1
            raise
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
    """Counts since the start."""

    compared: int = 0
    same_content: int = 0
    other_content: int = 0

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return asdict(self)


class VersionComparer:
    """Compares new versions, a batch a step."""

    def __init__(
        self,
        archive: Archive,
        *,
        reserve_bytes: int = 0,
        since_ns: int | None = None,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """`since_ns`: only later versions, without keeping the progress. None: continue the kept progress."""
        self._archive = archive
        self._parts = archive.parts
        self._judge = Judge(archive, reserve_bytes=reserve_bytes)
        self._is_stopping = is_stopping
        self._is_lasting = since_ns is None
        self._path = archive.parts.layout.data / "resent.json"
        self._from_ns = _read_mark(self._path) - LATE_NS if since_ns is None else since_ns
        self._compared: set[tuple[str, int]] = set()
        self._attempts: dict[tuple[str, int], int] = {}
        """Versions that could not be compared, and how often that was tried."""
        self._versions: Iterator[Instance] | None = None
        self._began_ns = 0
        self._count = -1
        """The versions of the last pass, without those that it has retired."""
        self._looked_s = 0.0
        self.counters = Counters()

    def step(self) -> bool:
        """Compares one batch. Returns whether there may be more now. Raises EngineError."""
        index = self._parts.index
        if self._versions is None:
            count = index.version_count()
            look_again_s = RETRY_S if self._attempts else LOOK_AGAIN_S
            if not count or (count == self._count and time.monotonic() - self._looked_s < look_again_s):
                return False
            self._count, self._looked_s = count, time.monotonic()
            self._began_ns = time.time_ns()
            if self._from_ns > self._began_ns and self._is_lasting:
                self._from_ns = 0  # the clock was set back
            self._versions = index.kept_versions()
        until_s = time.monotonic() + STEP_S
        same: list[tuple[Instance, Instance]] = []
        for version in self._versions:
            if version.stamp < self._from_ns or _identity(version) in self._compared:
                continue
            other = self._same_as(version, {instance.stamp for instance, _ in same})
            if other is not None:
                same.append((version, other))
            if self._is_stopping() or len(same) == BATCH or time.monotonic() > until_s:
                break
        else:
            self._versions = None
        try:
            self._retire(same)
        except BaseException:
            # Nothing was retired: all of these are to be compared again.
            self._compared -= {_identity(version) for version, _ in same}
            self._versions, self._count = None, -1
            raise
        if self._versions is None and not self._attempts:
            self._remember()
        return self._versions is not None

    def run(self) -> int:
        """Compares all versions. Returns the number of retired ones. Raises EngineError."""
        while not self._is_stopping() and self.step():
            pass
        self.close()
        return self.counters.same_content

    def close(self) -> None:
        """Ends the decoders."""
        self._judge.close()

    def _same_as(self, version: Instance, retired: set[int]) -> Instance | None:
        """The current instance or an earlier version with the same content."""
        self.counters.compared += 1
        is_certain, failures = True, self._judge.failures
        identity = _identity(version)
        for other in others_of(self._archive, version):
            if other.stamp in retired:
                continue
            try:
                if self._judge.is_same(version, other):
                    self._settle(identity)
                    return other
            except CorruptRecord as error:
                is_certain = False
                logger.warning(
                    "a version was not compared", sop_instance_uid=version.sop_instance_uid, reason=for_log(error)
                )
        attempts = self._attempts.get(identity, 0) + 1
        if attempts < ATTEMPTS_MAX and not (is_certain and self._judge.failures == failures):
            self._attempts[identity] = attempts
            return None
        self._settle(identity)
        self.counters.other_content += 1
        return None

    def _settle(self, identity: tuple[str, int]) -> None:
        """This version is not compared again."""
        self._compared.add(identity)
        self._attempts.pop(identity, None)

    def _retire(self, same: list[tuple[Instance, Instance]]) -> None:
        if not same:
            return
        count = len(retire(self._archive, same))
        self.counters.same_content += count
        # Do not count again here: what has come during this pass was not examined.
        self._count = -1 if count != len(same) else self._count - count

    def _remember(self) -> None:
        """Saves the progress, so that late versions are examined again."""
        if not self._is_lasting:
            return
        self._from_ns = self._began_ns - LATE_NS
        self._compared = {identity for identity in self._compared if identity[1] >= self._from_ns}
        mark = json.dumps({"compared_until_ns": self._began_ns}).encode()
        replace_file(self._parts.files, str(self._path), mark)


def _identity(version: Instance) -> tuple[str, int]:
    return version.sop_instance_uid, version.stamp


def others_of(archive: Archive, version: Instance) -> list[Instance]:
    """The instances to compare a version with: the current one of its UID, then earlier versions."""
    uid = version.sop_instance_uid.encode()
    current = archive.parts.index.locate(uid)
    if current is None:
        return []
    earlier = [other for other in archive.parts.index.versions(uid) if other.stamp < version.stamp]
    return [current, *(other for other in earlier if other.stamp != current.stamp)][:OTHERS_MAX]


def retire(archive: Archive, same: Iterable[tuple[Instance, Instance]]) -> list[Instance]:
    """Deletes versions, each paired with an instance of the same content, durably. Skips those on legal hold.

    Returns the deleted ones. Raises StorageFull, StorageFailed.
    """

    def work() -> list[Instance]:
        with archive.parts.ledger.locked():
            retired = [version for version, other in same if _may_retire(archive, version, other)]
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


def _may_retire(archive: Archive, version: Instance, other: Instance) -> bool:
    """Whether both still exist, each with its own stamp, and neither is on hold."""
    if any(archive.parts.index.is_held(instance.study_instance_uid.encode()) for instance in (version, other)):
        return False
    current = archive.parts.index.locate(version.sop_instance_uid.encode())
    stamps = [instance.stamp for instance in archive.parts.index.versions(version.sop_instance_uid.encode())]
    return (
        current is not None
        and current.stamp != version.stamp
        and stamps.count(version.stamp) == 1
        and other.stamp in stamps
    )


def _read_mark(path: Path) -> int:
    """The progress of an earlier process; 0 if unknown."""
    try:
        mark = json.loads(path.read_bytes())["compared_until_ns"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return mark if isinstance(mark, int) else 0
