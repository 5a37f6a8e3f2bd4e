"""One attempt of a job: sends the instances that its peer does not have yet, or pulls those that are not here yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

import msgspec

from engine import audit
from engine.access import FULL, Action, Kind, Principal
from engine.archive.jobs.job import ROUTE
from engine.archive.selection import Selection
from engine.audit import Outcome
from engine.dicom import tags
from engine.exchange.dicomweb import connected
from engine.exchange.sending import send
from engine.exchange.web_pull import WebPull
from engine.index.format.types import Level, Query
from engine.index.query.keywords import tag_of
from engine.runtime.audit_trail import Act, Contents
from engine.runtime.engine import Engine
from engine.services.pull import Pull
from engine.services.pull_plan import PullQuery
from engine.services.pull_report import PullReport
from engine.services.shared import Services
from engine.services.stored_scu import StoredReport

if TYPE_CHECKING:
    from engine.archive.jobs.job import Job, Work
    from engine.archive.jobs.job_files import PeerInstances
    from engine.archive.view import View
    from engine.config import Peer
    from engine.index.format.types import Instance

RETRIES: Final = 1
SENT_PER_FLUSH: Final = 64
"""Sent instances after which their UIDs are written to the file: a crash repeats at most so many."""


async def send_job(services: Services, peer: Peer, job: Job, peer_instances: PeerInstances) -> None:
    """Sends the instances of a job. Raises AssociationFailed, NotStored, StorageFull."""
    archive, pools, trail = services.archive, services.pools, services.engine.audit_trail
    report = StoredReport()
    missing: list[str] = []
    contents = Contents()
    """What is sent, for the audit log."""
    before = len(peer_instances.uids)
    unflushed = 0
    counters, counted, counted_bytes = services.engine.metrics.peer(peer.aet), 0, 0

    def select() -> Selection:
        unsent = peer_instances.unsent(_instances(_views_of(services, peer, job), job.work, missing))
        return Selection(_counted(unsent, contents), archive.scratch_folder)

    def start() -> audit.Started | None:
        return trail.start_sending(act, contents, list(contents.studies))

    def note(uid: str) -> None:
        nonlocal unflushed
        peer_instances.add(uid)
        unflushed += 1
        if unflushed % SENT_PER_FLUSH == 0:
            peer_instances.flush()

    def show_progress(step: str, done: int, total: int) -> None:
        nonlocal counted, counted_bytes
        counters.sent_instances += report.sent - counted
        counters.sent_bytes += report.bytes - counted_bytes
        counted, counted_bytes = report.sent, report.bytes
        job.total = before + report.total
        job.completed = before + report.sent
        job.bytes = report.bytes
        job.failed_count = len(report.failed)

    act = Act(Principal(Kind.JOB, job.by), "send", peer.aet, peer.host or peer.url)
    with await pools.slow.run(select) as selection:
        trail.open(contents)
        try:
            await audit.durable(await pools.index.run(start, then=audit.flush))
            await send(services, peer, selection, report, show_progress, retries=RETRIES, on_sent=note)
        finally:
            peer_instances.flush()
            show_progress("", 0, 0)
            trail.sent(act, contents, report.sent, Outcome.MINOR if report.failed else Outcome.SUCCESS)
            job.failed_count = 0
            for uid, why in report.failed.items():
                job.fail(uid, why)
    job.remarks = [f"{name} is not stored" for name in missing]
    if missing:
        job.error = job.remarks[0]


def _views_of(services: Services, peer: Peer, job: Job) -> tuple[View, View]:
    """What the requester may send by now, and what the peer may receive: rights may have been withdrawn since the job
    was created, or failed for the first time. Whoever works at the command line may send everything to everybody; a
    route may send everything to those who may have it."""
    access, archive = services.engine.access, services.archive
    scope = access.scope_of_actor(job.by, Action.SEND)
    is_free = scope is FULL and not job.by.startswith((f"{Kind.HTTP.value}:", f"{ROUTE}:"))
    return archive.view(scope), archive.view(FULL if is_free else access.scope_of_destination(peer.aet))


def _instances(views: tuple[View, View], work: Work, missing: list[str]) -> Iterator[Instance]:
    """The instances that a job names, each once; adds what is not stored, or not in both views, to `missing`."""
    sent, received = views
    yielded: set[str] = set()
    by_level = (
        (Level.STUDY, "study", tags.StudyInstanceUID, work.studies),
        (Level.SERIES, "series", tags.SeriesInstanceUID, work.series),
        (Level.IMAGE, "instance", tags.SOPInstanceUID, work.instances),
    )
    for level, name, tag, uids in by_level:
        for uid in uids:
            instances = sent.instances(Query(level, {tag: uid.encode("ascii")}, relational=True))
            if received.scope is not FULL:
                instances = [instance for instance in instances if received.sees(instance.study_instance_uid)]
            if not instances:
                missing.append(f"{name} {uid}")
            for instance in instances:
                if instance.sop_instance_uid not in yielded:
                    yielded.add(instance.sop_instance_uid)
                    yield instance


def _counted(instances: Iterable[Instance], contents: Contents) -> Iterator[Instance]:
    for instance in instances:
        contents.add((instance,))
        yield instance


async def pull_job(services: Services, peer: Peer, job: Job) -> None:
    """Pulls the instances of a job. Raises AssociationFailed, StorageFull."""
    report = PullReport()
    work = job.work
    keys = {tag_of(name): value for name, value in work.filters.items()}
    query = PullQuery(work.studies, keys, work.limit, work.again)

    def show_progress(step: str, done: int, total: int) -> None:
        job.total, job.completed, job.bytes = total, report.here + report.arrived, report.bytes
        job.failed_count = report.failed_count

    try:
        engine = _engine_for(services.engine, peer)
        if peer.url:
            async with connected(peer, engine.config) as client:
                await WebPull(engine, client, peer, query, report, show_progress).run()
        else:
            pull_services = Services(engine, services.pool)
            try:
                await Pull(pull_services, engine.config.peer(peer.aet) or peer, query, report, show_progress).run()
            finally:
                pull_services.commitments.close()
    finally:
        job.completed, job.bytes = report.here + report.arrived, report.bytes
        job.failed_count = 0
        for uid, why in report.failed.items():
            job.fail(uid, why)
        job.failed_count = report.failed_count
        job.remarks = [*report.remarks, *(f"{peer.aet} has no {name}" for name in report.not_found)]
    if report.not_found or report.remarks:
        job.error = job.remarks[0]


def _engine_for(engine: Engine, peer: Peer) -> Engine:
    """A copy of the engine in whose configuration the peer may store, for the duration of a pull."""
    storing_peer = msgspec.structs.replace(peer, may=tuple({*peer.may, "store"}))
    others = tuple(other for other in engine.config.peers if other.aet != peer.aet)
    config = msgspec.structs.replace(engine.config, peers=(storing_peer, *others))
    copy = Engine(
        loop=engine.loop,
        archive=engine.archive,
        ingestor=engine.ingestor,
        config=config,
        metrics=engine.metrics,
        transcoder=engine.transcoder,
        renderer=engine.renderer,
        associations=engine.associations,
        pools=engine.pools,
        opened_accounts=engine.accounts,
    )
    copy.admission, copy.retrieval_budget = engine.admission, engine.retrieval_budget
    copy.audit_trail = engine.audit_trail
    return copy
