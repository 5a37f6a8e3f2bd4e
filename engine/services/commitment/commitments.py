"""Storage commitment in one worker: stores requests, has them judged, and reports on the requests' associations.

    add ──► claimed here ──begin──► delay_s, judged, sent on the association of the request ──accepted──► removed
                │                            │ closed, released, refused, not answered
                └── not same_association ────┴──► left to the `reporter`

One thread parses and writes files (the file thread), another reads instances to verify them, so that nothing blocks the
loop, and a request can be stored while another one is verified.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from engine import guards, log
from engine.access import FULL, Scope
from engine.archive.commitment.judge import Judge, Place, Verdict
from engine.archive.commitment.transactions import Claim, Transaction
from engine.dicom import storage_classes
from engine.errors import EngineError, StorageError, StorageFailed, StorageFull, for_log
from engine.titles import readable

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.config import Config

logger = log.get("services.commitment")

Result = TypeVar("Result")

REPORTS_WAITING_MAX = 64
"""Reports that wait on one association; the reporter sends further ones."""

REPORTS_IN_PROGRESS_MAX = 256
"""The same on all associations of a worker: each has a descriptor."""

KNOWN_PART = 2
UNKNOWN_PART = 10
UNKNOWN_TITLE_PART = 100
"""Parts of commitment.transactions_max: a half for one peer that has an address, a tenth for all titles that have none,
and a hundredth for one of these."""


class Turn:
    """The order of reports on one association: one at a time, since the peer performs one operation at a time."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting_count = 0
        """Reports that wait, including the one that is being sent."""
        self.is_over = False
        """Whether a report was not answered: then no other one is tried on this association."""


class ReportChannel(Protocol):
    """An association on which a report can be sent."""

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
        scope_of: Callable[[str], Scope] = lambda title: FULL,
    ) -> None:
        """`scope_of`: the studies that may be committed to an AE title.

        `on_failure` is called with the error of a failed write or sync, which is final for the process.
        """
        self.archive = archive
        self.config = config
        self.counters = counters
        self.transactions = archive.commitment_transactions()
        """Use it in the file thread only, except `exist`."""
        self._on_failure = on_failure
        self._scope_of = scope_of
        self._stopping = Event()
        self._judge = Judge(archive, self._is_supported, self._stopping)
        self._file_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="commitment-files")
        self._readers = ThreadPoolExecutor(max_workers=1, thread_name_prefix="commitment-reader")
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_progress_count = 0
        """Reports that wait for an association, or are being sent."""

    def _is_supported(self, sop_class_uid: str) -> bool:
        return storage_classes.is_stored(sop_class_uid, promiscuous=self.config().promiscuous)

    # -- requests ---------------------------------------------------------------------------------

    async def add(self, transaction: Transaction) -> Claim | None:
        """Stores a request; it is durable when this returns. None: the same request waits for its report already.

        Raises StorageFull or StorageFailed.
        """
        store = asyncio.ensure_future(self.run_in_file_thread(partial(self._store, transaction)))
        try:
            return await asyncio.shield(store)
        except asyncio.CancelledError:
            # The association ended meanwhile. Close the claim, so that the reporter can claim the stored request.
            store.add_done_callback(_close_claim)
            raise

    def _store(self, transaction: Transaction) -> Claim | None:
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
        """Raises StorageFull when a title, or all titles without an address together, have too many requests.

        A peer may call itself anything. Only configured peers can get reports; the requests of all others may never be
        reported, and must leave room for these.
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

    def begin(self, claim: Claim, channel: ReportChannel) -> None:
        """Starts the report of a stored request: on its association if possible, else by the reporter."""
        turn = channel.turn
        has_room = turn.waiting_count < REPORTS_WAITING_MAX and self._in_progress_count < REPORTS_IN_PROGRESS_MAX
        if not self.config().commitment.same_association or self._stopping.is_set() or not has_room:
            claim.close()
            return
        turn.waiting_count += 1
        self._in_progress_count += 1
        self.spawn(self._report(claim, channel))

    async def _report(self, claim: Claim, channel: ReportChannel) -> None:
        with claim:
            try:
                await asyncio.sleep(self.config().commitment.delay_s)
                async with channel.turn.lock:
                    await self._report_in_turn(claim, channel)
            except EngineError as error:
                logger.info("commitment will be reported later", commitment=claim.identifier, reason=for_log(error))
            finally:
                channel.turn.waiting_count -= 1
                self._in_progress_count -= 1

    async def _report_in_turn(self, claim: Claim, channel: ReportChannel) -> None:
        if not channel.is_possible():
            return
        transaction = await self.run_in_file_thread(claim.read)
        verdicts = await self.verdicts(transaction, set())
        information = await self.run_in_file_thread(partial(channel.encode, transaction, verdicts))
        if not channel.is_possible():
            return
        await channel.send(verdicts, information)
        await self.run_in_file_thread(claim.remove)
        self.count_report(transaction, verdicts, "the same association")

    # -- used by the reporter too -------------------------------------------------------------------

    async def verdicts(self, transaction: Transaction, whole: set[Place]) -> list[Verdict]:
        """The verdicts on a transaction's instances; see `Judge.verdicts`."""
        if transaction.is_duplicate:
            return [Verdict.DUPLICATE] * len(transaction.instances)
        options = self.config().commitment
        return await self._in_thread(
            self._readers,
            lambda: self._judge.verdicts(
                transaction.references,
                scope=self._scope_of(transaction.calling_ae_title),
                verify=options.verify,
                bytes_per_s=options.verify_bytes_per_s,
                whole=whole,
            ),
        )

    def count_report(self, transaction: Transaction, verdicts: Sequence[Verdict], where: str) -> None:
        """Counts and logs a report that the peer accepted."""
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

    async def run_in_file_thread(self, work: Callable[[], Result]) -> Result:
        """Runs `work` in the thread for parsing and files."""
        return await self._in_thread(self._file_thread, work)

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
        """Runs `work` as a task, at most until `close`."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        guards.watch(task, "storage commitment")

    def close(self) -> None:
        """Ends all tasks; stored requests stay. Blocks for at most the time of reading one instance."""
        self._stopping.set()
        for task in self._tasks:
            task.cancel()
        self._file_thread.shutdown(wait=True, cancel_futures=True)
        self._readers.shutdown(wait=True, cancel_futures=True)


def _has_address(config: Config, title: str) -> bool:
    peer = config.peer(title)
    return peer is not None and peer.has_address


def _close_claim(store: asyncio.Future[Claim | None]) -> None:
    """Closes the claim of a task that nobody waits for."""
    if store.cancelled() or store.exception() is not None:
        return
    claim = store.result()
    if claim is not None:
        claim.close()
