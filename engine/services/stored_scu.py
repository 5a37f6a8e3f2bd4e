"""Storage SCU for `filmroom send` of what is in the archive: as a C-MOVE would send it, with counts and retries.

Does not choose instances (its user selects them) and does not send them (`destination`).

    selection ─► Destination ─► completed, warned, failed ─► the failed ones once more ─► report
                                          └─ with `Remaining`, a file says what is still to be sent
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from engine import log
from engine.archive.transcoding.transcode import Transcoder
from engine.dimse.assembly import ChunkPool
from engine.dimse.status import Category, category
from engine.errors import AssociationFailed, StorageError
from engine.metrics import Metrics
from engine.runtime.pools import Pools
from engine.runtime.retrieval_budget import RetrievalBudget
from engine.services.destination import Destination, Results
from engine.services.destination import Resources as Sending
from engine.services.suboperations import Originator, Sent

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.archive.selection import Selection
    from engine.config import Config, Peer
    from engine.index.format.types import Instance
    from engine.net.trace import TraceFolder

Progress = Callable[[str, int, int], None]

logger = log.get("services.stored_scu")

SILENCES_MAX = 3
"""Instances, one after the other, that a peer does not answer in time before it is given up. Some (Orthanc) neither
answer nor end the association over a data set that they cannot parse: it shall not cost all that follow."""


@dataclass(slots=True)
class StoredReport:
    """What became of the instances; true at any time, also when sending was interrupted."""

    total: int = 0
    completed: int = 0
    warned: int = 0
    """Taken with a warning status."""
    bytes: int = 0
    """As they are stored, of what the peer has taken."""
    failed: dict[str, str] = field(default_factory=dict)
    """SOP Instance UID → reason."""
    seconds: float = 0.0

    @property
    def sent(self) -> int:
        """What the peer has now."""
        return self.completed + self.warned

    @property
    def untried(self) -> int:
        """What was not reached when it was interrupted."""
        return self.total - self.sent - len(self.failed)


class Resources:
    """What sending takes of a process that serves nobody (`destination.Resources`)."""

    def __init__(self, archive: Archive, config: Config) -> None:
        self.archive = archive
        self.config = config
        self.transcoder = Transcoder(directory=config.data, reserve_bytes=config.limits.disk_reserve_bytes)
        self.pool = ChunkPool(64 << 10, 1)
        self.trace: TraceFolder | None = None
        self.retrieval_budget = RetrievalBudget(lambda: config, Metrics())
        self.pools = Pools()

    def close(self) -> None:
        """Ends decoders and threads."""
        self.transcoder.close()
        self.pools.close()


class Sender(Protocol):
    """What instances are given to."""

    async def send(self, instances: list[Instance], /) -> None:
        """Sends them all, or tells why not."""


OpenDestination = Callable[[Results], Sender]
"""Makes what instances are given to, of who counts them."""


async def send_stored(
    resources: Sending,
    peer: Peer,
    selection: Selection,
    report: StoredReport,
    progress: Progress,
    *,
    retries: int = 1,
    is_taken: Callable[[str], None] = lambda uid: None,
    open_destination: OpenDestination | None = None,
) -> None:
    """Sends what is selected; `report` and `is_taken` (a SOP Instance UID) tell of it while it goes on.

    `open_destination`: how the peer is sent to; None: by C-STORE. What failed is sent again up to `retries` times.
    Raises AssociationFailed when the peer took nothing since no association with it was possible.
    """
    open_destination = open_destination or partial(_by_c_store, resources, peer)
    began = time.monotonic()
    results = _Results(report, progress, is_taken)
    try:
        report.total = len(selection)
        progress("sending", 0, report.total)
        with resources.archive.retrieval.pin(selection.segment_ids):
            await _send(resources, open_destination(results), selection.batches())
            for _ in range(retries):
                if again := results.begin_again():
                    await _send(resources, open_destination(results), [again])
    finally:
        report.seconds = time.monotonic() - began
    if results.unreachable and not report.sent:
        raise AssociationFailed(results.unreachable)


def _by_c_store(resources: Sending, peer: Peer, results: Results) -> Destination:
    return Destination(resources, peer, results, Originator(), silences_max=SILENCES_MAX)


async def _send(resources: Sending, destination: Sender, batches: Iterable[list[Instance]]) -> None:
    source = iter(batches)
    while (batch := await resources.pools.index.run(lambda: next(source, None))) is not None:
        await destination.send(batch)


class _Results:
    """Counts for a report (`destination.Results`)."""

    def __init__(self, report: StoredReport, progress: Progress, is_taken: Callable[[str], None]) -> None:
        self._report = report
        self._progress = progress
        self._is_taken = is_taken
        self._failed: list[Instance] = []
        self.unreachable = ""
        self.cancelled = False

    @property
    def answered(self) -> int:
        """Instances that the peer has taken."""
        return self._report.sent

    def note(self, results: Sequence[Sent]) -> None:
        """These have their results."""
        for sent in results:
            self._note(sent)

    def _note(self, sent: Sent) -> None:
        outcome = category(sent.status) if sent.error is None else Category.FAILURE
        if outcome not in (Category.SUCCESS, Category.WARNING):
            self._fail(sent.instance, str(sent.error or f"refused with status {sent.status:04X}"))
            return
        self._report.completed += outcome is Category.SUCCESS
        self._report.warned += outcome is Category.WARNING
        self._report.bytes += sent.instance.position.payload_length
        self._is_taken(sent.instance.sop_instance_uid)
        self._tell()

    def fail_all(self, instances: Iterable[Instance], why: str) -> None:
        """None of these was sent."""
        for instance in instances:
            self._fail(instance, why)

    def crashed(self, instances: Iterable[Instance], error: Exception) -> None:
        """A mistake of ours: it is named, and costs what was still to be sent."""
        logger.error("sending crashed", error=repr(error))
        self.fail_all(instances, f"internal error: {error!r}")

    def begin_again(self) -> list[Instance]:
        """What failed, which counts as not tried from now on; last what the peer was given up over."""
        again, self._failed = self._failed[::-1], []
        self._report.failed.clear()
        if again:
            self.unreachable = ""
        return again

    def _fail(self, instance: Instance, why: str) -> None:
        self._failed.append(instance)
        self._report.failed[instance.sop_instance_uid] = why
        self._tell()

    def _tell(self) -> None:
        self._progress("sending", self._report.sent + len(self._report.failed), self._report.total)


class Remaining:
    """A file of the SOP Instance UIDs, one a line, that are still to be sent: an interrupted `send` goes on with it."""

    def __init__(self, path: Path) -> None:
        """Reads it if it is there. Raises StorageError when it cannot be read or is another file."""
        self._path = path
        self._left: dict[str, None] = {}
        self.uids: frozenset[str] | None = None
        """None: there is no file yet, and everything is to be sent."""
        try:
            lines = path.read_text("utf-8").splitlines()
        except FileNotFoundError:
            return
        except UnicodeDecodeError as error:
            raise StorageError(f"{path} is no list of UIDs") from error
        if not all(0 < len(line) <= 128 and line.isprintable() and " " not in line for line in lines):
            raise StorageError(f"{path} is no list of UIDs")
        self.uids = frozenset(lines)

    def of(self, instances: Iterable[Instance]) -> Iterator[Instance]:
        """Of instances, those that are still to be sent."""
        for instance in instances:
            if self.uids is None or instance.sop_instance_uid in self.uids:
                self._left[instance.sop_instance_uid] = None
                yield instance

    def taken(self, sop_instance_uid: str) -> None:
        """The peer has it."""
        self._left.pop(sop_instance_uid, None)

    def save(self) -> None:
        """Writes what is still to be sent; removes the file when that is nothing."""
        if not self._left:
            self._path.unlink(missing_ok=True)
            return
        beside = self._path.with_name(f"{self._path.name}.new")
        beside.write_text("".join(f"{uid}\n" for uid in self._left), "utf-8")
        os.replace(beside, self._path)
