"""Storage commitment as one worker does it: takes requests in, has them judged, reports on the requests' associations.

    take ──► claimed here ──begin──► delay_s, judged, sent on the association of the request ──taken──► removed
                 │                            │ closed, released, refused, not answered
                 └── not same_association ────┴──► left to the `reporter`

Parsing and files are one thread's (the desk), reading what is to be verified another's: nothing of it is the loop's,
and a request is taken while another one is being read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from engine import guards, log
from engine.archive.commitment.judge import Judge, Place, Verdict
from engine.archive.commitment.transactions import Claim, Transaction
from engine.dicom import storage_classes
from engine.errors import EngineError, StorageError, StorageFailed, StorageFull
from engine.titles import readable

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.config import Config

logger = log.get("services.commitment")

Result = TypeVar("Result")


REPORTS_WAITING_MAX = 64
"""Reports that wait for their turn on one association; the reporter sends what is beyond it."""

REPORTS_UNDER_WAY_MAX = 256
"""The same on all associations of a worker: each has a descriptor."""


KNOWN_PART = 2
UNKNOWN_PART = 10
UNKNOWN_TITLE_PART = 100
"""Of commitment.transactions_max: a half for one peer that has an address, a tenth for all titles that have none, and
a hundredth for one of these."""


class Turn:
    """Whose report is next on one association: one is out at a time, as the peer performs one operation at a time."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting_count = 0
        """With the one that is out."""
        self.is_over = False
        """A report was not answered there: no other one is tried on this association."""


class Reporting(Protocol):
    """An association that a report can be sent on."""

    turn: Turn

    def is_possible(self) -> bool: ...
    def encode(self, transaction: Transaction, verdicts: Sequence[Verdict]) -> bytes: ...
    async def send(self, verdicts: Sequence[Verdict], information: bytes) -> None: ...


class Commitments:
    """Requests for storage commitment of one process. Used on the loop's thread."""

    def __init__(
        self,
        archive: Archive,
        config: Callable[[], Config],
        counters: dict[str, int],
        on_failure: Callable[[EngineError], None],
    ) -> None:
        """`on_failure` is told of a failed write or sync, which is final for the process."""
        self.archive = archive
        self.config = config
        self.counters = counters
        self.transactions = archive.commitment_transactions()
        """The desk's; but for `exist`."""
        self._on_failure = on_failure
        self._stopping = Event()
        self._judge = Judge(archive, self._is_supported, self._stopping)
        self._desk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="commitment-desk")
        self._readers = ThreadPoolExecutor(max_workers=1, thread_name_prefix="commitment-reader")
        self._tasks: set[asyncio.Task[None]] = set()
        self._under_way_count = 0
        """Reports that wait for an association, or are out on it."""

    def _is_supported(self, sop_class_uid: str) -> bool:
        return storage_classes.is_stored(sop_class_uid, promiscuous=self.config().promiscuous)

    # -- requests ---------------------------------------------------------------------------------

    async def take(self, transaction: Transaction) -> Claim | None:
        """Keeps a request; durable when this returns. None: the same request is waiting for its report already.

        Raises StorageFull or StorageFailed.
        """
        keeping = asyncio.ensure_future(self.at_desk(partial(self._keep, transaction)))
        try:
            return await asyncio.shield(keeping)
        except asyncio.CancelledError:
            # The association ended meanwhile. What is kept is the reporter's, who needs the claim for it.
            keeping.add_done_callback(_give_up)
            raise

    def _keep(self, transaction: Transaction) -> Claim | None:
        waiting = [
            heading.digest
            for heading in self.transactions.headings().values()
            if heading.transaction_uid == transaction.transaction_uid
            and heading.calling_ae_title == transaction.calling_ae_title
        ]
        if transaction.digest in waiting:
            return None
        config = self.config()
        self._check_share(transaction.calling_ae_title, config)
        return self.transactions.add(
            transaction.as_duplicate() if waiting else transaction,
            count_max=config.commitment.transactions_max,
            reserve_bytes=config.limits.disk_reserve_bytes,
        )

    def _check_share(self, title: str, config: Config) -> None:
        """Raises StorageFull when the requests of a title, or of all that we have no address of, are enough.

        A title is what a peer says it is. Those that we can report to are configured; what all others have asked
        together must leave these room, since it may never be reported.
        """
        count_max = config.commitment.transactions_max
        waiting = [heading.calling_ae_title for heading in self.transactions.headings().values()]
        is_known = _has_address(config, title)
        own_max = max(1, count_max // (KNOWN_PART if is_known else UNKNOWN_TITLE_PART))
        if waiting.count(title) >= own_max:
            raise StorageFull(f"{own_max} storage commitment reports are waiting for this AE title")
        unknown_max = max(1, count_max // UNKNOWN_PART)
        if not is_known and sum(not _has_address(config, other) for other in waiting) >= unknown_max:
            raise StorageFull(f"{unknown_max} storage commitment reports are waiting for peers without an address")

    def begin(self, claim: Claim, reporting: Reporting) -> None:
        """Reports a request that has been answered: on its association if that goes, else the reporter does."""
        turn = reporting.turn
        has_room = turn.waiting_count < REPORTS_WAITING_MAX and self._under_way_count < REPORTS_UNDER_WAY_MAX
        if not self.config().commitment.same_association or self._stopping.is_set() or not has_room:
            claim.close()
            return
        turn.waiting_count += 1
        self._under_way_count += 1
        self.spawn(self._report_there(claim, reporting))

    async def _report_there(self, claim: Claim, reporting: Reporting) -> None:
        with claim:
            try:
                await asyncio.sleep(self.config().commitment.delay_s)
                async with reporting.turn.lock:
                    await self._report_in_turn(claim, reporting)
            except EngineError as error:
                logger.info("commitment is reported later", commitment=claim.identifier, reason=str(error))
            finally:
                reporting.turn.waiting_count -= 1
                self._under_way_count -= 1

    async def _report_in_turn(self, claim: Claim, reporting: Reporting) -> None:
        if not reporting.is_possible():
            return
        transaction = await self.at_desk(claim.read)
        verdicts = await self.verdicts(transaction, set())
        information = await self.at_desk(partial(reporting.encode, transaction, verdicts))
        if not reporting.is_possible():
            return
        await reporting.send(verdicts, information)
        await self.at_desk(claim.remove)
        self.reported(transaction, verdicts, "the same association")

    # -- what reporting needs -----------------------------------------------------------------------

    async def verdicts(self, transaction: Transaction, whole: set[Place]) -> list[Verdict]:
        """What is to be reported; see `Judge.verdicts`."""
        if transaction.is_duplicate:
            return [Verdict.DUPLICATE] * len(transaction.instances)
        options = self.config().commitment
        return await self._in_thread(
            self._readers,
            lambda: self._judge.verdicts(
                transaction.references,
                verify=options.verify,
                bytes_per_s=options.verify_bytes_per_s,
                whole=whole,
            ),
        )

    def reported(self, transaction: Transaction, verdicts: Sequence[Verdict], where: str) -> None:
        """Counts a report that was taken, and says so."""
        failed = sum(verdict is not Verdict.COMMITTED for verdict in verdicts)
        self.counters["commitment_reports"] += 1
        self.counters["commitment_instances_committed"] += len(verdicts) - failed
        self.counters["commitment_instances_failed"] += failed
        logger.info(
            "commitment reported",
            calling=readable(transaction.calling_ae_title),
            transaction_uid=transaction.transaction_uid,
            committed=len(verdicts) - failed,
            failed=failed,
            on=where,
        )

    async def at_desk(self, work: Callable[[], Result]) -> Result:
        """Runs `work` in the desk's thread."""
        return await self._in_thread(self._desk, work)

    async def _in_thread(self, executor: ThreadPoolExecutor, work: Callable[[], Result]) -> Result:
        if self._stopping.is_set():
            raise StorageError("the server is stopping")
        try:
            return await asyncio.get_running_loop().run_in_executor(executor, work)
        except StorageFailed as error:
            self._on_failure(error)
            raise

    # -- the end ------------------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Has it done until `close`."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        guards.watch(task, "storage commitment")

    def close(self) -> None:
        """Ends what is under way; what is not reported stays. Blocks for as long as reading one instance takes."""
        self._stopping.set()
        for task in self._tasks:
            task.cancel()
        self._desk.shutdown(wait=True, cancel_futures=True)
        self._readers.shutdown(wait=True, cancel_futures=True)


def _has_address(config: Config, title: str) -> bool:
    peer = config.peer(title)
    return peer is not None and peer.has_address


def _give_up(keeping: asyncio.Future[Claim | None]) -> None:
    """Gives the claim up that nobody waits for any more."""
    if keeping.cancelled() or keeping.exception() is not None:
        return
    claim = keeping.result()
    if claim is not None:
        claim.close()
