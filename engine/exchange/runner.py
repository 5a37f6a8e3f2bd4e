"""Runs jobs, and implements `runtime.outbound.Outbound` for the fronts.

One worker runs all jobs: the one with the flock on DATA/jobs.lock. When it dies another takes over within a second and
continues the running jobs. Up to [jobs] parallel run at once, one for each peer, in the order of creation.

    check   every CHECK_S: cancels, retries, starts and forgets jobs
    run     sending.send, or a pull; progress is saved to the job's file every SAVE_S

The same worker creates the jobs of routes (`exchange.routing`), and does what the rules say (`exchange.rules`).
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from engine import guards, log
from engine.archive.jobs import job as states
from engine.dimse.assembly import ChunkPool
from engine.errors import AssociationFailed, EngineError, NotStored, for_log
from engine.exchange.echo import echo
from engine.exchange.job_work import pull_job, send_job
from engine.exchange.routing import RETRY_S, Routing
from engine.exchange.rules import Rules
from engine.services.shared import Services
from engine.sole_worker import run_alone

if TYPE_CHECKING:
    from engine.archive.jobs.job import Job
    from engine.config import Peer
    from engine.runtime.engine import Engine

logger = log.get("exchange.jobs")

CHECK_S: Final = 0.5
SAVE_S: Final = 2.0
SETTLED_NS: Final = 10**9
"""A folder that changed later than that may change again without another time of change."""
DAY_NS: Final = 86_400 * 10**9


class Runner:
    """Runs jobs, if no other process does. Used on the loop's thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._files = engine.archive.job_files()
        self._services: Services | None = None
        self._followers = (Routing(engine, self._files), Rules(engine))
        self._running: dict[str, tuple[Job, asyncio.Task[None]]] = {}
        self._cancelled: set[str] = set()
        self._ended: dict[str, int] = {}
        """Jobs that have ended → time of the end. Their files are not read again."""
        self._task = guards.watch(engine.loop.create_task(self._wait_for_lock()), "jobs")

    async def echo(self, peer: Peer) -> dict[str, object]:
        """Verifies a peer. Raises AssociationFailed."""
        sightings, place = self._engine.sightings, peer.url or f"{peer.host}:{peer.port}"
        try:
            times = await echo(peer, self._engine.config)
        except AssociationFailed as error:
            sightings.unreachable(peer.aet, place, str(error))
            raise
        sightings.answered(peer.aet, place)
        return times

    def stats(self) -> dict[str, object]:
        """Its state, as plain data."""
        return {"jobs_running": len(self._running)}

    def close(self) -> None:
        """Starts no further jobs and interrupts those in progress, which continue at the next start."""
        self._task.cancel()
        for each in self._followers:
            each.close()

    async def _wait_for_lock(self) -> None:
        archive = self._engine.archive
        await run_alone(
            archive.running_jobs,
            self._run_jobs,
            is_needed=lambda: not archive.is_read_only,
            check_s=CHECK_S,
            logger=logger,
            failure="jobs cannot be run",
        )

    async def _run_jobs(self) -> None:
        """Runs jobs until this is cancelled."""
        reads = self._engine.pools.reads
        self._services = Services(self._engine, ChunkPool())
        followers = [
            guards.watch(self._engine.loop.create_task(self._follow(each)), type(each).__name__.lower())
            for each in self._followers
        ]
        try:
            quiet_ns = None  # when the folder changed last, if nothing is to be done since
            while True:
                if (changed_ns := self._files.changed_ns()) == quiet_ns:
                    await self._forget()
                    await asyncio.sleep(CHECK_S)
                    continue
                before = set(self._running)
                jobs, cancelled, retried = await reads.run(partial(self._files.poll, set(self._ended)))
                for job in jobs:
                    if job.id not in before:
                        await self._settle(job, job.id in cancelled, job.id in retried)
                    elif job.id in cancelled:
                        self._cancel(job.id)  # do not use `job`: the running job may be newer than its file
                is_settled = time.time_ns() - changed_ns > SETTLED_NS
                quiet_ns = changed_ns if is_settled and not jobs and not self._running else None
                await self._forget()
                await asyncio.sleep(CHECK_S)
        finally:
            tasks = [*followers, *(task for _, task in self._running.values())]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._running.clear()
            self._services.commitments.close()

    async def _follow(self, followers: Routing | Rules) -> None:
        """Follows the change feed for routes or rules until this is cancelled."""
        while True:
            try:
                await followers.run()
            except EngineError as error:
                logger.warning("routes and rules cannot be followed", error=for_log(error))
                await asyncio.sleep(RETRY_S)

    async def _settle(self, job: Job, is_cancelled: bool, is_retried: bool) -> None:
        """Cancels, retries or starts one job."""
        if job.state not in states.ENDED and is_cancelled:
            await self._end(job, states.CANCELLED)
        elif is_retried and job.state != states.DONE:
            job.state, job.attempts, job.due_ns, job.ended_ns = states.WAITING, 0, 0, 0
            await self._save(job)
            self._ended.pop(job.id, None)
        if job.state in states.ENDED:
            self._ended[job.id] = job.ended_ns
        elif job.due_ns <= time.time_ns():
            self._begin(job)

    def _cancel(self, identifier: str) -> None:
        running = self._running.get(identifier)
        if running is not None:
            self._cancelled.add(identifier)
            running[1].cancel()

    async def _forget(self) -> None:
        """Removes jobs that ended long ago."""
        oldest_ns = time.time_ns() - int(self._engine.config.jobs.keep_days * DAY_NS)
        for identifier in [identifier for identifier, ended_ns in self._ended.items() if ended_ns < oldest_ns]:
            await self._engine.pools.reads.run(partial(self._files.remove, identifier))
            del self._ended[identifier]

    async def _save(self, job: Job, *, is_durable: bool = True) -> None:
        """Saves the job in a thread, since a sync may block."""
        await self._engine.pools.reads.run(partial(self._files.save, job, is_durable=is_durable))

    def _begin(self, job: Job) -> None:
        peers = {other.peer for other, _ in self._running.values()}
        if len(self._running) >= self._engine.config.jobs.parallel or job.peer in peers:
            return
        task = guards.watch(self._engine.loop.create_task(self._run(job)), f"job {job.id}")
        self._running[job.id] = job, task
        task.add_done_callback(lambda _: self._running.pop(job.id, None))

    async def _run(self, job: Job) -> None:
        """Runs one attempt, and sets the job's new state."""
        job.state, job.started_ns, job.ended_ns = states.RUNNING, time.time_ns(), 0
        job.begin()
        await self._save(job)
        logger.info("job started", job=job.id, kind=job.kind, peer=job.peer, by=job.by)
        try:
            await self._work_and_save(job)
        except asyncio.CancelledError:
            if job.id not in self._cancelled:
                self._files.save(job, is_durable=False)  # the process ends: the next runner continues the job
                raise
            await self._end(job, states.CANCELLED)
        except AssociationFailed as error:
            await self._retry_later(job, str(error))
        except EngineError as error:
            job.error = str(error)
            await self._end(job, states.FAILED)
        except Exception as error:
            logger.error("job crashed", job=job.id, error=for_log(error))
            job.error = f"internal error: {type(error).__name__}"
            await self._end(job, states.FAILED)
        else:
            await self._end(job, states.FAILED if job.failed_count or job.error else states.DONE)
        finally:
            self._cancelled.discard(job.id)

    async def _work_and_save(self, job: Job) -> None:
        """Works, and saves the progress meanwhile; no progress is written after this returns."""
        end = asyncio.Event()
        saver = guards.watch(self._engine.loop.create_task(self._save_regularly(job, end)), "job progress")
        try:
            await self._work(job)
        finally:
            end.set()
            await saver

    async def _work(self, job: Job) -> None:
        config = self._engine.config
        peer = config.peer(job.peer)
        if peer is None or not peer.is_reachable:
            raise NotStored(f"there is no [[peer]] {job.peer} with an address any more")
        assert self._services is not None
        if job.kind == states.SEND:
            await send_job(self._services, peer, job, self._files.peer_instances(job.id))
        else:
            await pull_job(self._services, peer, job)

    async def _retry_later(self, job: Job, error: str) -> None:
        settings = self._engine.config.jobs
        job.attempts += 1
        job.error = error
        if job.attempts >= settings.attempts_max:
            await self._end(job, states.FAILED)
            return
        pause_s = settings.retry_s * 2.0 ** min(job.attempts - 1, 40)
        job.state, job.due_ns = states.WAITING, time.time_ns() + int(pause_s * 1e9)
        await self._save(job)
        logger.warning("job will be retried", job=job.id, attempt=job.attempts, error=error, pause_s=pause_s)

    async def _end(self, job: Job, state: str) -> None:
        job.state, job.ended_ns = state, time.time_ns()
        await self._save(job)
        self._engine.metrics.counters[f"jobs_{state}"] += 1
        logger.info(
            "job ended", job=job.id, state=state, completed=job.completed, failed=job.failed_count, error=job.error
        )

    async def _save_regularly(self, job: Job, end: asyncio.Event) -> None:
        while not end.is_set():
            try:
                await asyncio.wait_for(end.wait(), SAVE_S)
            except TimeoutError:
                await self._save(job, is_durable=False)
