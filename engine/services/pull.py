"""`filmroom pull` and pull jobs: retrieve matching instances of another archive, and continue after an interruption.

    C-FIND studies ─► compare each with the index ─► C-FIND series and instances if some are missing ─► tasks, one a
                                                                                                        series │
    `Retriever`s, one an association: retrieve the whole series, or its missing instances ◄────────────────────┘
      └─► request instances that are still missing once more, by UIDs; after lost associations one by one; then report
          them as failed

A pull keeps no state of its own: a new one compares the peer with the index again and requests the missing instances.
By C-GET instances arrive as by C-STORE; by C-MOVE they arrive at the running server, and the pull watches the index. A
request has at most one series, so memory is bounded by the largest series and the list of studies.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import msgspec

from engine.dicom import tags
from engine.dicom.uids import name_of
from engine.dimse.assembly import ChunkPool
from engine.errors import ArchiveReadOnly, AssociationFailed, EngineError, StorageFailed, StorageFull
from engine.index.format.types import Outcome
from engine.net.client import Address
from engine.runtime.engine import Engine
from engine.services.find_scu import Finder
from engine.services.pull_plan import Planner, PullQuery, Study, Task, proposed_classes
from engine.services.pull_report import PullReport
from engine.services.retrieve_scu import Arrivals, AssociationLost, Retriever
from engine.services.shared import Services

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.config import Config, Peer
    from engine.services.shared import Services

Progress = Callable[[str, int, int], None]

UIDS_AT_ONCE: Final = 100
"""Instances in one C-GET or C-MOVE by UID: 6.5 KB, which every peer accepts."""

LOST_MAX: Final = 10
"""Consecutive lost associations without any arrival after which we give up."""

TIMEOUTS_MAX: Final = 3
"""The same for associations that we ended after a timeout: each has cost its whole time limit."""

EMPTY_MOVES_MAX: Final = 3
"""Consecutive C-MOVEs without any arrival after which we assume that the peer sends elsewhere."""

ONE_BY_ONE_LOST_MAX: Final = 3
"""Consecutive lost associations while the instances of one series are requested one by one."""

VISIBLE_S: Final = 5.0
"""How long instances that a C-MOVE reports as sent may take to appear in the index."""

WATCH_S: Final = 0.5
"""The longest interval of index checks; each lists a series."""


@asynccontextmanager
async def pulling(
    archive: Archive,
    config: Config,
    peer: Peer,
    query: PullQuery,
    report: PullReport,
    progress: Progress,
    *,
    associations: int = 1,
    rate_bytes_per_s: int = 0,
    is_move: bool = False,
) -> AsyncIterator[Pull]:
    """A pull into an archive that is open in this process; `rate_bytes_per_s` 0: no limit."""
    rate = rate_bytes_per_s or peer.bandwidth_bytes_per_s_max
    # The peer may store during the pull.
    peer = msgspec.structs.replace(peer, bandwidth_bytes_per_s_max=rate, may=tuple({*peer.may, "store"}))
    others = tuple(other for other in config.peers if other.aet != peer.aet)
    config = msgspec.structs.replace(config, peers=(peer, *others))
    running = list[Pull]()

    def failed(error: EngineError) -> None:
        for each in running:
            each.stop(error)

    # Prewrite nothing: a single pull does not need a prepared segment.
    engine = Engine.open(archive, config, writer=f"pull-{os.getpid()}", on_failure=failed, prewrite_bytes=0)
    services = Services(engine, ChunkPool())
    destination = config.aet if is_move else ""
    pull = Pull(services, peer, query, report, progress, associations=associations, move_destination=destination)
    running.append(pull)
    try:
        yield pull
    finally:
        await engine.audit_trail.finish()
        engine.close()
        services.commitments.close()


class Pull(Arrivals):
    """One pull from one peer."""

    def __init__(
        self,
        services: Services,
        peer: Peer,
        query: PullQuery,
        report: PullReport,
        progress: Progress,
        *,
        associations: int = 1,
        move_destination: str = "",
    ) -> None:
        """`move_destination`: our AE title, for C-MOVE to the running server of this archive; "" for C-GET."""
        self._peer = peer
        self.report = report
        self._progress = progress
        self._finder = Finder(peer, services.config)
        self._index = services.pools.index
        self._planner = Planner(services.archive, self._index, self._finder, query, report.not_found, report.remarks)
        address = Address.of(peer, services.config)
        self._retrievers = [Retriever(services, address, self, move_destination) for _ in range(associations)]
        self._is_move = bool(move_destination)
        self._own_address = f"{services.config.aet} as this machine's address with port {services.config.dicom_port}"
        """The address that the peer must have configured for a C-MOVE."""
        self._empty_moves = 0
        """C-MOVEs since the last arrival."""
        self._move_answer = ""
        """The final answer to the last C-MOVE."""
        self._expected: dict[str, Task] = {}
        """The task of each requested SOP Instance UID."""
        self._refusals: dict[str, str] = {}
        """Why we refused to store one of these."""
        self._lost = 0
        """Lost associations since the last arrival."""
        self._timeouts = 0
        """Those of them that we ended after a timeout."""
        self._end_reason = ""
        """Why the pull ends early; "" while it continues."""
        self._fatal: EngineError | None = None
        self._total = 0

    # -- arrivals -------------------------------------------------------------------------------

    def is_expected(self, sop_instance_uid: str) -> bool:
        """Whether the instance was requested."""
        return sop_instance_uid in self._expected

    def on_arrival(self, sop_instance_uid: str, outcome: Outcome | EngineError, length: int) -> None:
        """Counts an instance that was stored or refused."""
        task = self._expected.get(sop_instance_uid)
        if task is None:
            self.report.unwanted += 1
            return
        if isinstance(outcome, EngineError):
            self._refusals[sop_instance_uid] = str(outcome)
            if isinstance(outcome, StorageFull | StorageFailed | ArchiveReadOnly):
                self.stop(outcome)
            return
        self._lost = self._timeouts = self._empty_moves = 0
        if task.instances.pop(sop_instance_uid, None) is None:
            return  # it was sent twice
        self._refusals.pop(sop_instance_uid, None)
        self.report.bytes += length
        if outcome is Outcome.DUPLICATE:
            self.report.duplicates += 1
        elif outcome is Outcome.KEPT_ASIDE:
            self.report.versions += 1
        else:
            self.report.stored += 1
        self._show_progress()

    def stop(self, error: EngineError) -> None:
        """Ends the pull, because nothing can be stored here."""
        self._fatal = self._fatal or error
        self._end_reason = self._end_reason or str(error)
        for retriever in self._retrievers:
            retriever.abort()

    async def plan(self) -> AsyncIterator[Study]:
        """Each matching study, with tasks for its missing instances; then releases the association of the queries.

        Raises AssociationFailed.
        """
        studies = await self._planner.studies()
        self._total = sum(study.peer_count or 0 for study in studies)
        for study in studies:
            estimate = study.peer_count or 0
            await self._planner.plan_study(study)
            self._total += study.local_count + study.missing - estimate
            self.report.studies += 1
            self.report.studies_here += not study.tasks
            self.report.here += study.local_count
            self._show_progress()
            yield study
        await self._finder.close()

    # -- fetching -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Plans and retrieves. Raises AssociationFailed when the peer cannot be queried, or nothing arrived."""
        start_s = time.monotonic()
        tasks: asyncio.Queue[Task | None] = asyncio.Queue(len(self._retrievers))
        try:
            async with asyncio.TaskGroup() as group:
                for retriever in self._retrievers:
                    group.create_task(self._work(retriever, tasks))
                group.create_task(self._fill(tasks))
        except* AssociationFailed as errors:
            raise errors.exceptions[0] from None
        finally:
            self.report.seconds = time.monotonic() - start_s
            self._finder.abort()
            for retriever in self._retrievers:
                retriever.abort()
        if self._fatal is not None:
            raise self._fatal
        if self._move_answer and self.report.failed_count and not self.report.arrived:
            self._end_reason = self._end_reason or self._empty_moves_reason()
        if self._end_reason and not self.report.arrived:
            raise AssociationFailed(self._end_reason)
        if self._end_reason:
            self.report.remarks.append(f"it ended early: {self._end_reason}")

    async def _fill(self, tasks: asyncio.Queue[Task | None]) -> None:
        async for study in self.plan():
            for task in study.tasks:
                await tasks.put(task)
            if self._end_reason:
                break
        for _ in self._retrievers:
            await tasks.put(None)
        await self._finder.close()

    async def _work(self, retriever: Retriever, tasks: asyncio.Queue[Task | None]) -> None:
        while (task := await tasks.get()) is not None:
            try:
                why = await self._fetch(retriever, task)
            except AssociationFailed as error:
                why = str(error)
                self._end_reason = self._end_reason or why
            for uid in task.instances:
                self.report.fail(uid, self._refusals.pop(uid, "") or self._end_reason or why)
            task.instances.clear()
            self._show_progress()
        await retriever.close()

    async def _fetch(self, retriever: Retriever, task: Task) -> str:
        """Requests the instances of a task, and those that did not arrive once more; returns why some are missing."""
        self._expected |= dict.fromkeys(task.instances, task)
        requested = list(task.instances)
        why, was_lost = "", False
        try:
            for number, classes in enumerate(proposed_classes(task)):
                if not task.instances or self._end_reason:
                    break
                uids = None if task.is_whole and number == 0 else list(task.instances)
                answer, lost = await self._request(retriever, task, uids, classes)
                why, was_lost = answer or why, was_lost or lost
            if task.instances and was_lost and not self._end_reason:
                why = await self._request_one_by_one(retriever, task, classes) or why
        finally:
            for uid in requested:
                self._expected.pop(uid, None)
        return self._negotiation_problem(retriever, task) or why or "it did not arrive"

    def _negotiation_problem(self, retriever: Retriever, task: Task) -> str:
        """Why the negotiation kept instances from arriving; "" if it did not."""
        classes = sorted(set(filter(None, task.instances.values())))
        if names := ", ".join(name_of(cls) for cls in classes if retriever.is_class_refused(cls)):
            return f"{self._peer.aet} accepted no presentation context for {names}"
        if names := ", ".join(name_of(cls) for cls in classes if retriever.is_role_refused(cls)):
            return f"{self._peer.aet} refused to send {names} on our association, as C-GET needs; try --move"
        return ""

    async def _request(
        self, retriever: Retriever, task: Task, sop_instance_uids: list[str] | None, classes: list[str]
    ) -> tuple[str, bool]:
        """Requests these, or the whole series; returns the peer's answer, and whether an association was lost."""
        why, was_lost = "", False
        uids = sop_instance_uids or []
        starts = range(0, len(uids), UIDS_AT_ONCE)
        batches: list[list[str] | None] = [uids[start : start + UIDS_AT_ONCE] for start in starts]
        for batch in batches or [None]:
            if self._end_reason:
                break
            try:
                why = await self._retrieve(retriever, task, batch, classes) or why
            except AssociationLost as error:
                why, was_lost = str(error), True
                self._note_lost(error)
        return why, was_lost

    async def _request_one_by_one(self, retriever: Retriever, task: Task, classes: list[str]) -> str:
        """Requests the instances one by one, so that one at which the peer breaks down fails alone."""
        why, lost = "", 0
        for uid in list(task.instances):
            if self._end_reason or lost >= ONE_BY_ONE_LOST_MAX:
                break
            try:
                why = await self._retrieve(retriever, task, (uid,), classes) or why
                lost = 0
            except AssociationLost as error:
                why = str(error)
                lost += 1
                self._note_lost(error)
        return why

    def _note_lost(self, error: AssociationLost) -> None:
        self._lost += 1
        self._timeouts += error.is_timeout
        if self._lost >= LOST_MAX or self._timeouts >= TIMEOUTS_MAX:
            self._end_reason = self._end_reason or f"{self._lost} associations were lost: {error}"

    async def _retrieve(
        self, retriever: Retriever, task: Task, sop_instance_uids: Iterable[str] | None, classes: list[str]
    ) -> str:
        keys = {**self._planner.unique_keys(task.study), tags.SeriesInstanceUID: task.series_instance_uid}
        level = "SERIES"
        if sop_instance_uids is not None:
            level, keys[tags.SOPInstanceUID] = "IMAGE", "\\".join(sop_instance_uids)
        keys[tags.QueryRetrieveLevel] = level
        model = self._finder.information_model
        if not self._is_move:
            return await retriever.retrieve(model, level, keys, classes, lambda: self.report.arrived)
        answer = "the association was lost"
        try:
            answer = await retriever.retrieve(model, level, keys, classes, lambda: self.report.arrived)
        except AssociationLost:
            raise
        except AssociationFailed as error:
            raise AssociationFailed(f"{error}; {self._peer.aet} must know {self._own_address}") from error
        finally:
            await self._watch(task, set(sop_instance_uids or task.instances), is_complete=not answer)
        self._note_move(answer)
        return answer

    async def _watch(self, task: Task, requested: set[str], *, is_complete: bool) -> None:
        """Looks for the instances of a C-MOVE in the index, which may appear shortly after the final response."""
        until_s, pause_s = time.monotonic() + (VISIBLE_S if is_complete else 0), WATCH_S / 16
        study, series = task.study.study_instance_uid, task.series_instance_uid
        while requested & task.instances.keys():
            for instance in await self._index.run(lambda: self._planner.local_instances(study, series)):
                uid = instance.sop_instance_uid
                if uid in task.instances and uid not in task.local:
                    self.on_arrival(uid, Outcome.STORED, instance.position.payload_length)
                elif uid in requested and uid in task.instances and is_complete:
                    # It was here before: only the peer's answer shows that it was sent again.
                    self.on_arrival(uid, Outcome.DUPLICATE, instance.position.payload_length)
            if time.monotonic() >= until_s:
                return
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, WATCH_S)

    def _note_move(self, answer: str) -> None:
        """Counts a C-MOVE; if nothing ever arrives, the peer sends elsewhere, or cannot reach us."""
        self._empty_moves += 1
        self._move_answer = answer or "it reports that all were sent"
        if self._empty_moves >= EMPTY_MOVES_MAX and not self.report.arrived:
            self._end_reason = self._end_reason or self._empty_moves_reason()

    def _empty_moves_reason(self) -> str:
        aet, answer = self._peer.aet, self._move_answer
        return f"no instance arrives here from {aet} ({answer}); {aet} must know {self._own_address}"

    # -- inside ---------------------------------------------------------------------------------

    def _show_progress(self) -> None:
        done = self.report.here + self.report.arrived + self.report.failed_count
        self._progress("pulling", done, max(self._total, done))
