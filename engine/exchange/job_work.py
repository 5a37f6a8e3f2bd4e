"""What one attempt of a job does: sends what its peer has not yet, or pulls what is not here yet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import msgspec

from engine.archive.selection import Selection
from engine.dicom import tags
from engine.exchange.dicomweb import connected
from engine.exchange.sending import send
from engine.exchange.web_pull import WebPull
from engine.index.format.types import Level, Query
from engine.index.query.keywords import tag_of
from engine.runtime.engine import Engine
from engine.services.pull import Pull
from engine.services.pull_plan import Wish
from engine.services.pull_report import PullReport
from engine.services.shared import Services
from engine.services.stored_scu import StoredReport

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.archive.jobs.job import Job, Work
    from engine.archive.jobs.job_files import PeerInstances
    from engine.config import Peer
    from engine.index.format.types import Instance

RETRIES: Final = 1
TAKEN_AT_ONCE: Final = 64
"""Instances after which it is noted what the peer has: what a crash repeats."""


async def send_job(services: Services, peer: Peer, job: Job, peer_instances: PeerInstances) -> None:
    """Sends. Raises AssociationFailed, NotStored, StorageFull."""
    archive, pools = services.archive, services.pools
    report = StoredReport()
    missing: list[str] = []
    before = len(peer_instances.uids)
    fresh = 0

    def select() -> Selection:
        return Selection(peer_instances.unsent(_instances(archive, job.work, missing)), archive.scratch_folder)

    def note(uid: str) -> None:
        nonlocal fresh
        peer_instances.add(uid)
        fresh += 1
        if fresh % TAKEN_AT_ONCE == 0:
            peer_instances.flush()

    def tell(what: str, done: int, total: int) -> None:
        job.total = before + report.total
        job.completed = before + report.sent
        job.bytes = report.bytes
        job.failed_count = len(report.failed)

    with await pools.slow.run(select) as selection:
        try:
            await send(services, peer, selection, report, tell, retries=RETRIES, is_taken=note)
        finally:
            peer_instances.flush()
            tell("", 0, 0)
            job.failed_count = 0
            for uid, why in report.failed.items():
                job.fail(uid, why)
    job.remarks = [f"no {named} is stored" for named in missing]
    if missing:
        job.error = job.remarks[0]


def _instances(archive: Archive, work: Work, missing: list[str]) -> Iterator[Instance]:
    """What a job names, each once; `missing` gets what is not stored."""
    seen: set[str] = set()
    of_levels = (
        (Level.STUDY, "study", tags.StudyInstanceUID, work.studies),
        (Level.SERIES, "series", tags.SeriesInstanceUID, work.series),
        (Level.IMAGE, "instance", tags.SOPInstanceUID, work.instances),
    )
    for level, name, tag, uids in of_levels:
        for uid in uids:
            found = archive.instances(Query(level, {tag: uid.encode("ascii")}, relational=True))
            if not found:
                missing.append(f"{name} {uid}")
            for instance in found:
                if instance.sop_instance_uid not in seen:
                    seen.add(instance.sop_instance_uid)
                    yield instance


async def pull_job(services: Services, peer: Peer, job: Job) -> None:
    """Pulls. Raises AssociationFailed, StorageFull."""
    report = PullReport()
    work = job.work
    wish = Wish(work.studies, {tag_of(name): value for name, value in work.filters.items()}, work.limit, work.again)

    def tell(what: str, done: int, total: int) -> None:
        job.total, job.completed, job.bytes = total, report.here + report.arrived, report.bytes
        job.failed_count = report.failed_count

    try:
        engine = _engine_for(services.engine, peer)
        if peer.url:
            async with connected(peer, engine.config) as client:
                await WebPull(engine, client, peer, wish, report, tell).run()
        else:
            own = Services(engine, services.pool)
            try:
                await Pull(own, engine.config.peer(peer.aet) or peer, wish, report, tell).run()
            finally:
                own.commitments.close()
    finally:
        job.completed, job.bytes = report.here + report.arrived, report.bytes
        job.failed_count = 0
        for uid, why in report.failed.items():
            job.fail(uid, why)
        job.failed_count = report.failed_count
        job.remarks = [*report.remarks, *(f"{peer.aet} has no {named}" for named in report.not_found)]
    if report.not_found or report.remarks:
        job.error = job.remarks[0]


def _engine_for(engine: Engine, peer: Peer) -> Engine:
    """The same engine for what a peer sends because we ask: it may store for as long as that."""
    allowed = msgspec.structs.replace(peer, may=tuple({*peer.may, "store"}))
    others = tuple(other for other in engine.config.peers if other.aet != peer.aet)
    config = msgspec.structs.replace(engine.config, peers=(allowed, *others))
    own = Engine(
        loop=engine.loop,
        archive=engine.archive,
        ingestor=engine.ingestor,
        config=config,
        metrics=engine.metrics,
        transcoder=engine.transcoder,
        renderer=engine.renderer,
        associations=engine.associations,
        pools=engine.pools,
    )
    own.admission, own.retrieval_budget = engine.admission, engine.retrieval_budget
    return own
