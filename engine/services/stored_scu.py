"""Storage SCU for `filmroom send` and send jobs: sends a selection of stored instances, with counts and retries.

selection ─► Destination ─► completed, warned, failed ─► the failed ones once more ─► report
                                      └─ with `RemainingFile`, a file lists the instances still to send
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from engine import log
from engine.archive.hospital import has_orders, open_orders
from engine.archive.supplies import Supplies
from engine.archive.transcoding.transcode import Transcoder
from engine.dimse.assembly import ChunkPool
from engine.dimse.status import Category, category
from engine.errors import AssociationFailed, StorageError, for_log
from engine.metrics import Metrics
from engine.orders.stations import Stations
from engine.runtime.pools import Pools
from engine.runtime.retrieval_budget import RetrievalBudget
from engine.runtime.sightings import Sightings
from engine.services.destination import Destination, Results, Sender
from engine.services.destination import Resources as SendResources
from engine.services.suboperations import Originator, SendResult

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.archive.selection import Selection
    from engine.config import Config, Peer
    from engine.index.format.types import Instance
    from engine.net.trace import TraceFolder
    from engine.orders.registry import Orders

Progress = Callable[[str, int, int], None]

logger = log.get("services.stored_scu")

TIMEOUTS_MAX = 3
"""Consecutive instances without an answer in time, after which we give up. Some peers (Orthanc) neither answer nor end
the association for a data set that they cannot parse: it shall not fail all that follow."""


@dataclass(slots=True)
class StoredReport:
    """The results of sending; correct at any time, also after an interruption."""

    total: int = 0
    completed: int = 0
    warned: int = 0
    """Instances accepted with a warning status."""
    bytes: int = 0
    """Stored length of the accepted instances."""
    failed: dict[str, str] = field(default_factory=dict)
    """SOP Instance UID → reason."""
    seconds: float = 0.0

    @property
    def sent(self) -> int:
        """Instances that the peer has accepted."""
        return self.completed + self.warned

    @property
    def untried(self) -> int:
        """Instances that were not tried before an interruption."""
        return self.total - self.sent - len(self.failed)


class Resources:
    """The parts of a process without a server that sending needs (`destination.Resources`)."""

    def __init__(self, archive: Archive, config: Config) -> None:
        self.archive = archive
        self.config = config
        self.transcoder = Transcoder(directory=config.data, reserve_bytes=config.limits.disk_reserve_bytes)
        self.pool = ChunkPool(64 << 10, 1)
        self.trace: TraceFolder | None = None
        self.retrieval_budget = RetrievalBudget(lambda: config, Metrics())
        self.pools = Pools()
        self.sightings = Sightings()
        self._orders: Orders | None = None
        self._opening_orders = threading.Lock()

    async def supplies(self, ae_title: str) -> Supplies | None:
        """What a receiver gets of linked orders. Raises OrdersError."""
        if not self.config.settings_of(ae_title).supply or not has_orders(self.archive):
            return None
        orders = self._orders
        if orders is None:
            orders = await self.pools.orders.run(self._open_orders)
        return Supplies(self.archive, orders)

    def _open_orders(self) -> Orders:
        """The registry, opened at the first call: associations that begin at once share it, as LMDB needs it."""
        with self._opening_orders:
            if self._orders is None:
                self._orders = open_orders(self.archive, Stations(lambda: self.config))
            return self._orders

    def close(self) -> None:
        """Ends decoders and threads."""
        if self._orders is not None:
            self._orders.close()
        self.transcoder.close()
        self.pools.close()


OpenDestination = Callable[[Results], Sender]
"""Makes a sender that reports to the given results."""


async def send_stored(
    resources: SendResources,
    peer: Peer,
    selection: Selection,
    report: StoredReport,
    progress: Progress,
    *,
    retries: int = 1,
    on_sent: Callable[[str], None] = lambda uid: None,
    open_destination: OpenDestination | None = None,
) -> None:
    """Sends a selection; updates `report`, and calls `on_sent` with the SOP Instance UID of each accepted instance.

    `open_destination` makes the sender; None: by C-STORE. Failed instances are sent again up to `retries` times. Raises
    AssociationFailed when nothing could be sent because no association was possible.
    """
    open_destination = open_destination or partial(_by_c_store, resources, peer)
    start_s = time.monotonic()
    results = _Results(report, progress, on_sent)
    try:
        report.total = len(selection)
        progress("sending", 0, report.total)
        with resources.archive.retrieval.pin(selection.segment_ids):
            await _send(resources, open_destination(results), selection.batches())
            for _ in range(retries):
                if failures := results.start_retry():
                    await _send(resources, open_destination(results), [failures])
    finally:
        report.seconds = time.monotonic() - start_s
    if results.unreachable and not report.sent:
        raise AssociationFailed(results.unreachable)


def _by_c_store(resources: SendResources, peer: Peer, results: Results) -> Destination:
    return Destination(resources, peer, results, Originator(), timeouts_max=TIMEOUTS_MAX)


async def _send(resources: SendResources, destination: Sender, batches: Iterable[list[Instance]]) -> None:
    source = iter(batches)
    while (batch := await resources.pools.index.run(lambda: next(source, None))) is not None:
        await destination.send(batch)


class _Results:
    """Counts for a report (`destination.Results`)."""

    def __init__(self, report: StoredReport, progress: Progress, on_sent: Callable[[str], None]) -> None:
        self._report = report
        self._progress = progress
        self._on_sent = on_sent
        self._failed: list[Instance] = []
        self.unreachable = ""
        self.cancelled = False

    @property
    def sent_count(self) -> int:
        """Instances that the peer has accepted."""
        return self._report.sent

    async def cleared(self) -> None:
        """Returns at once: who sends has recorded the beginning before."""

    def note(self, results: Sequence[SendResult]) -> None:
        """Counts results."""
        for result in results:
            self._note(result)

    def _note(self, result: SendResult) -> None:
        outcome = category(result.status) if result.error is None else Category.FAILURE
        if outcome not in (Category.SUCCESS, Category.WARNING):
            self._fail(result.instance, str(result.error or f"refused with status {result.status:04X}"))
            return
        self._report.completed += outcome is Category.SUCCESS
        self._report.warned += outcome is Category.WARNING
        self._report.bytes += result.instance.position.payload_length
        self._on_sent(result.instance.sop_instance_uid)
        self._show_progress()

    def fail_all(self, instances: Iterable[Instance], why: str) -> None:
        """Counts instances that were not sent."""
        for instance in instances:
            self._fail(instance, why)

    def crashed(self, instances: Iterable[Instance], error: Exception) -> None:
        """Our own code failed: logs it, and counts the remaining instances as failed."""
        logger.error("sending crashed", error=for_log(error))
        self.fail_all(instances, f"internal error: {error!r}")

    def start_retry(self) -> list[Instance]:
        """Takes the failed instances for another attempt, those last at which the peer stopped answering."""
        failures, self._failed = self._failed[::-1], []
        self._report.failed.clear()
        if failures:
            self.unreachable = ""
        return failures

    def _fail(self, instance: Instance, why: str) -> None:
        self._failed.append(instance)
        self._report.failed[instance.sop_instance_uid] = why
        self._show_progress()

    def _show_progress(self) -> None:
        self._progress("sending", self._report.sent + len(self._report.failed), self._report.total)


class RemainingFile:
    """A file with the SOP Instance UIDs that are still to be sent, one a line, to resume an interrupted `send`."""

    def __init__(self, path: Path) -> None:
        """Reads the file if it exists. Raises StorageError when it cannot be read or is another file."""
        self._path = path
        self._remaining: dict[str, None] = {}
        self.uids: frozenset[str] | None = None
        """None: there is no file yet, and all instances are to be sent."""
        try:
            lines = path.read_text("utf-8").splitlines()
        except FileNotFoundError:
            return
        except UnicodeDecodeError as error:
            raise StorageError(f"{path} is not a list of UIDs") from error
        if not all(0 < len(line) <= 128 and line.isprintable() and " " not in line for line in lines):
            raise StorageError(f"{path} is not a list of UIDs")
        self.uids = frozenset(lines)

    def select(self, instances: Iterable[Instance]) -> Iterator[Instance]:
        """The instances that are still to be sent."""
        for instance in instances:
            if self.uids is None or instance.sop_instance_uid in self.uids:
                self._remaining[instance.sop_instance_uid] = None
                yield instance

    def remove(self, sop_instance_uid: str) -> None:
        """Removes an instance that was sent."""
        self._remaining.pop(sop_instance_uid, None)

    def save(self) -> None:
        """Writes the remaining UIDs; removes the file when none remain."""
        if not self._remaining:
            self._path.unlink(missing_ok=True)
            return
        new_path = self._path.with_name(f"{self._path.name}.new")
        new_path.write_text("".join(f"{uid}\n" for uid in self._remaining), "utf-8")
        os.replace(new_path, self._path)
