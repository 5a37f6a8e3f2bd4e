"""`filmroom pull`: brings what matches in another archive into this one, and goes on where it was interrupted.

    C-FIND studies ─► of each, what is here? ─► C-FIND series, instances of what is not ─► tasks, one a series
                                                                                              │
    `Retriever`s, one an association: the whole series, or the instances that are missing ◄───┘
      └─► what is still missing is asked for once more, by UIDs; after lost associations one by one; then it is named

What is here is what the index has: nothing is written down about a pull, so that one started again asks for what is
missing. By C-GET everything comes in as by C-STORE; by C-MOVE it comes to the running server, and the index is watched.
Asks no more than a series at a time, so that memory is bounded by the largest series and the list of studies.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import msgspec

from engine.dicom import tags, uids
from engine.dimse.assembly import ChunkPool
from engine.errors import ArchiveReadOnly, AssociationFailed, EngineError, StorageFailed, StorageFull
from engine.index.format.types import Outcome
from engine.net.client import Address
from engine.runtime.engine import Engine
from engine.services.find_scu import Finder
from engine.services.pull_plan import Planner, Study, Task, Wish, proposed_classes
from engine.services.pull_report import PullReport
from engine.services.retrieve_scu import Arrivals, AssociationLost, Retriever
from engine.services.shared import Services

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.config import Config, Peer
    from engine.services.shared import Services

Progress = Callable[[str, int, int], None]

UIDS_AT_ONCE: Final = 100
"""Instances that are asked for by UID in one C-GET or C-MOVE: 6.5 KB, which every peer takes."""

LOST_MAX: Final = 10
"""Associations lost one after the other, with nothing coming in between, after which the peer is given up."""

SILENCES_MAX: Final = 3
"""The same for those that we have ended, as the peer said or sent nothing: each has cost its whole time limit."""

BARREN_MAX: Final = 3
"""C-MOVEs, one after the other, of which nothing comes here, after which the peer is taken to send elsewhere."""

ALONE_LOST_MAX: Final = 3
"""The same where the instances of one series are asked for one by one."""

VISIBLE_S: Final = 5.0
"""How long what a C-MOVE is said to have sent may take to be seen here."""

LOOK_S: Final = 0.5
"""How often it is looked for at most; a series is listed each time."""


@asynccontextmanager
async def pulling(
    archive: Archive,
    config: Config,
    peer: Peer,
    wish: Wish,
    report: PullReport,
    progress: Progress,
    *,
    associations: int = 1,
    rate_bytes_per_s: int = 0,
    is_move: bool = False,
) -> AsyncIterator[Pull]:
    """A pull into an archive that is open in this process; `rate_bytes_per_s` 0: as fast as it goes."""
    rate = rate_bytes_per_s or peer.bandwidth_bytes_per_s_max
    # Whom we ask may store, for as long as we ask.
    peer = msgspec.structs.replace(peer, bandwidth_bytes_per_s_max=rate, may=tuple({*peer.may, "store"}))
    others = tuple(other for other in config.peers if other.aet != peer.aet)
    config = msgspec.structs.replace(config, peers=(peer, *others))
    running = list[Pull]()

    def failed(error: EngineError) -> None:
        for each in running:
            each.stop(error)

    # Nothing is written ahead: who pulls once has no use for a prepared segment.
    engine = Engine.open(archive, config, writer=f"pull-{os.getpid()}", on_failure=failed, prewrite_bytes=0)
    services = Services(engine, ChunkPool())
    destination = config.aet if is_move else ""
    pull = Pull(services, peer, wish, report, progress, associations=associations, move_destination=destination)
    running.append(pull)
    try:
        yield pull
    finally:
        engine.close()
        services.commitments.close()


class Pull(Arrivals):
    """One pull from one peer; see the module's head."""

    def __init__(
        self,
        services: Services,
        peer: Peer,
        wish: Wish,
        report: PullReport,
        progress: Progress,
        *,
        associations: int = 1,
        move_destination: str = "",
    ) -> None:
        """`move_destination`: our AE title, where a server of this archive answers; "" for C-GET."""
        self._peer = peer
        self.report = report
        self._progress = progress
        self._finder = Finder(peer, services.config)
        self._index = services.pools.index
        self._planner = Planner(services.archive, self._index, self._finder, wish, report.not_found, report.remarks)
        address = Address.of(peer, services.config)
        self._retrievers = [Retriever(services, address, self, move_destination) for _ in range(associations)]
        self._is_move = bool(move_destination)
        self._here = f"{services.config.aet} as this machine's address with port {services.config.dicom_port}"
        """What a peer must know for a C-MOVE."""
        self._barren = 0
        """C-MOVEs since something came."""
        self._said = ""
        """What the peer said of the last one."""
        self._expected: dict[str, Task] = {}
        """Of what is being asked for now: SOP Instance UID → its task."""
        self._refusals: dict[str, str] = {}
        """Why we did not take one of these."""
        self._lost = 0
        """Associations since something came."""
        self._silences = 0
        """Of these, those that we have ended."""
        self._given_up = ""
        """Why nothing more is asked for."""
        self._fatal: EngineError | None = None
        self._total = 0

    # -- arrivals -------------------------------------------------------------------------------

    def wants(self, sop_instance_uid: str) -> bool:
        """Whether it has been asked for."""
        return sop_instance_uid in self._expected

    def came(self, sop_instance_uid: str, outcome: Outcome | EngineError, length: int) -> None:
        """One has come, and has been stored or refused."""
        task = self._expected.get(sop_instance_uid)
        if task is None:
            self.report.unwanted += 1
            return
        if isinstance(outcome, EngineError):
            self._refusals[sop_instance_uid] = str(outcome)
            if isinstance(outcome, StorageFull | StorageFailed | ArchiveReadOnly):
                self.stop(outcome)
            return
        self._lost = self._silences = self._barren = 0
        if task.wanted.pop(sop_instance_uid, None) is None:
            return  # sent twice
        self._refusals.pop(sop_instance_uid, None)
        self.report.bytes += length
        if outcome is Outcome.DUPLICATE:
            self.report.duplicates += 1
        elif outcome is Outcome.KEPT_ASIDE:
            self.report.versions += 1
        else:
            self.report.stored += 1
        self._tell()

    def stop(self, error: EngineError) -> None:
        """Nothing can be stored here: asks for nothing more, and gives up what is under way."""
        self._fatal = self._fatal or error
        self._given_up = self._given_up or str(error)
        for retriever in self._retrievers:
            retriever.abort()

    async def plan(self) -> AsyncIterator[Study]:
        """Each study that matches, and what of it is missing. Raises AssociationFailed."""
        studies = await self._planner.studies()
        self._total = sum(study.there or 0 for study in studies)
        for study in studies:
            estimated = study.there or 0
            await self._planner.look_into(study)
            self._total += study.here + study.missing - estimated
            self.report.studies += 1
            self.report.studies_here += not study.tasks
            self.report.here += study.here
            self._tell()
            yield study

    # -- fetching -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Plans and fetches. Raises AssociationFailed when the peer cannot even be asked."""
        began = time.monotonic()
        tasks: asyncio.Queue[Task | None] = asyncio.Queue(len(self._retrievers))
        try:
            async with asyncio.TaskGroup() as group:
                for retriever in self._retrievers:
                    group.create_task(self._work(retriever, tasks))
                group.create_task(self._fill(tasks))
        except* AssociationFailed as errors:
            raise errors.exceptions[0] from None
        finally:
            self.report.seconds = time.monotonic() - began
            self._finder.abort()
            for retriever in self._retrievers:
                retriever.abort()
        if self._fatal is not None:
            raise self._fatal
        if self._said and self.report.failed_count and not self.report.arrived:
            self._given_up = self._given_up or self._why_barren()
        if self._given_up and not self.report.arrived:
            raise AssociationFailed(self._given_up)
        if self._given_up:
            self.report.remarks.append(f"it ended early: {self._given_up}")

    async def _fill(self, tasks: asyncio.Queue[Task | None]) -> None:
        async for study in self.plan():
            for task in study.tasks:
                await tasks.put(task)
            if self._given_up:
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
                self._given_up = self._given_up or why
            for uid in task.wanted:
                self.report.fail(uid, self._refusals.pop(uid, "") or self._given_up or why)
            task.wanted.clear()
            self._tell()
        await retriever.close()

    async def _fetch(self, retriever: Retriever, task: Task) -> str:
        """Asks for what is missing, and once more for what did not come; what the peer said of the rest."""
        self._expected |= dict.fromkeys(task.wanted, task)
        asked = list(task.wanted)
        why, was_lost = "", False
        try:
            for number, classes in enumerate(proposed_classes(task)):
                if not task.wanted or self._given_up:
                    break
                uids_asked = None if task.is_whole and number == 0 else list(task.wanted)
                said, lost = await self._ask(retriever, task, uids_asked, classes)
                why, was_lost = said or why, was_lost or lost
            if task.wanted and was_lost and not self._given_up:
                why = await self._ask_one_by_one(retriever, task, classes) or why
        finally:
            for uid in asked:
                self._expected.pop(uid, None)
        return self._why_missing(retriever, task) or why or "it did not come"

    def _why_missing(self, retriever: Retriever, task: Task) -> str:
        """What was agreed on the association explains, if anything."""
        classes = sorted(set(filter(None, task.wanted.values())))
        if refused := ", ".join(uids.name_of(cls) for cls in classes if retriever.refused_class(cls)):
            return f"{self._peer.aet} took no presentation context for {refused}"
        if refused := ", ".join(uids.name_of(cls) for cls in classes if retriever.refused_role(cls)):
            return f"{self._peer.aet} did not agree to send {refused} on our association, as C-GET needs; try --move"
        return ""

    async def _ask(
        self, retriever: Retriever, task: Task, sop_instance_uids: list[str] | None, classes: list[str]
    ) -> tuple[str, bool]:
        """For these, or for the whole series; what the peer said, and whether an association was lost."""
        why, was_lost = "", False
        named = sop_instance_uids or []
        starts = range(0, len(named), UIDS_AT_ONCE)
        pieces: list[list[str] | None] = [named[start : start + UIDS_AT_ONCE] for start in starts]
        for some in pieces or [None]:
            if self._given_up:
                break
            try:
                why = await self._retrieve(retriever, task, some, classes) or why
            except AssociationLost as error:
                why, was_lost = str(error), True
                self._note_lost(error)
        return why, was_lost

    async def _ask_one_by_one(self, retriever: Retriever, task: Task, classes: list[str]) -> str:
        """So that an instance at which the peer breaks down costs that one."""
        why, lost = "", 0
        for uid in list(task.wanted):
            if self._given_up or lost >= ALONE_LOST_MAX:
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
        self._silences += error.is_silence
        if self._lost >= LOST_MAX or self._silences >= SILENCES_MAX:
            self._given_up = self._given_up or f"{self._lost} associations were lost: {error}"

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
        said = "the association was lost"
        try:
            said = await retriever.retrieve(model, level, keys, classes, lambda: self.report.arrived)
        except AssociationLost:
            raise
        except AssociationFailed as error:
            raise AssociationFailed(f"{error}; {self._peer.aet} must know {self._here}") from error
        finally:
            await self._watch(task, set(sop_instance_uids or task.wanted), is_certain=not said)
        self._note_barren(said)
        return said

    async def _watch(self, task: Task, asked: set[str], *, is_certain: bool) -> None:
        """After a C-MOVE: what is here now. A peer may say that all is sent a moment before all is taken."""
        until, pause_s = time.monotonic() + (VISIBLE_S if is_certain else 0), LOOK_S / 16
        study, series = task.study.study_instance_uid, task.series_instance_uid
        while asked & task.wanted.keys():
            for instance in await self._index.run(lambda: self._planner.instances_here(study, series)):
                uid = instance.sop_instance_uid
                if uid in task.wanted and uid not in task.again:
                    self.came(uid, Outcome.STORED, instance.position.payload_length)
                elif uid in asked and uid in task.wanted and is_certain:
                    # It was here before: only the peer knows that it has been sent again.
                    self.came(uid, Outcome.DUPLICATE, instance.position.payload_length)
            if time.monotonic() >= until:
                return
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LOOK_S)

    def _note_barren(self, said: str) -> None:
        """One C-MOVE more; where nothing at all comes, the peer sends elsewhere, or cannot reach us."""
        self._barren += 1
        self._said = said or "it says that all is sent"
        if self._barren >= BARREN_MAX and not self.report.arrived:
            self._given_up = self._given_up or self._why_barren()

    def _why_barren(self) -> str:
        aet = self._peer.aet
        return f"nothing comes here of what {aet} is asked to send ({self._said}); {aet} must know {self._here}"

    # -- inside ---------------------------------------------------------------------------------

    def _tell(self) -> None:
        done = self.report.here + self.report.arrived + self.report.failed_count
        self._progress("pulling", done, max(self._total, done))
