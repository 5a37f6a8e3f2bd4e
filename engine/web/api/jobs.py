"""/api/jobs: sends to peers and pulls from peers in the background. Created here, run by `exchange.runner`.

A list of jobs leaves out the failed instances; a single job has them; `counts` has the number of jobs in each state.
Whoever asks again and again names the `version` of the last answer, so that a thousand jobs are not read for nothing.
Cancel and retry take one job, many, or all in one state. They are asynchronous: the answer is 202, and the job's state
changes shortly after.
"""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from engine.access import FULL, Action, Destination
from engine.archive.admin.times import with_times
from engine.archive.jobs import job as states
from engine.archive.jobs.job import Job, Work
from engine.archive.jobs.job_files import CANCEL, RETRY, new_id
from engine.archive.questions import Level, Query, path_of
from engine.dicom import tags
from engine.errors import JobError, NotAllowed, RequestError
from engine.web.api import bodies, reach
from engine.web.api.json_bodies import PAGE_PARAMETERS, answer, body_of, check_parameters, page, page_of
from engine.web.api.peers import peer_of
from engine.web.errors import NotFound
from engine.web.route import Parameter

if TYPE_CHECKING:
    from aiohttp import web

    from engine.web.request import Request

STATES: Final = (states.WAITING, states.RUNNING, states.DONE, states.FAILED, states.CANCELLED)
SETTLED_NS: Final = 10**9
"""A folder that changed later than that may change again without another time of change."""
PARAMETERS: Final = (
    Parameter("state", "Only jobs in this state", options=STATES),
    Parameter("unless", "`version` of an earlier answer: if nothing has changed since, the answer has no jobs"),
    *PAGE_PARAMETERS,
)


async def listed(request: Request) -> web.Response:
    """The jobs, latest first."""
    check_parameters(request, ("state", "unless", "limit", "offset"))
    limit, offset = page_of(request)
    state = request.query.get("state")
    if state not in (None, *STATES):
        raise RequestError(f"state: is not one of {', '.join(STATES)}")
    files = request.engine.archive.job_files()
    sees_all = request.scope(Action.QUERY) is FULL  # a job names studies

    def read() -> dict[str, Any]:
        # Taken first: what changes meanwhile changes the next version too.
        changed_ns = files.changed_ns()
        version = str(changed_ns if time.time_ns() - changed_ns > SETTLED_NS else 0)
        if version == request.query.get("unless", "") != "0":
            return {"unchanged": True, "version": version}
        jobs = [job for job in files.all() if sees_all or job.by == request.principal.actor]
        rows = (_facts(job, is_whole=False) for job in jobs if state in (None, job.state))
        return {**page("jobs", rows, limit, offset), "counts": Counter(job.state for job in jobs), "version": version}

    return answer(await request.engine.pools.reads.run(read))


async def one(request: Request) -> web.Response:
    """One job in full: for who requested it, and for whom may observe. Raises JobError, NotFound."""
    check_parameters(request)
    return answer(_facts(await _job_of(request, Action.OBSERVE), is_whole=True))


async def _job_of(request: Request, action: Action) -> Job:
    """The job of the path, if the client requested it or may do that with any job. Raises JobError, NotFound."""
    load = partial(request.engine.archive.job_files().load, request.path_values["id"])
    job: Job = await request.engine.pools.reads.run(load)
    sees_all = request.allowed(action) and request.scope(Action.QUERY) is FULL  # a job names studies
    if job.by != request.principal.actor and not sees_all:
        raise NotFound("there is no such job")
    return job


async def create(request: Request) -> web.Response:
    """Creates a job. Raises NotFound for an unknown peer, NotAllowed, JobsFull."""
    body: bodies.Job = await body_of(request, bodies.Job)  # type: ignore[arg-type]
    peer = peer_of(request, body.peer)
    is_send = isinstance(body, bodies.SendJob)
    if isinstance(body, bodies.SendJob):
        request.require(Action.SEND, Destination(peer.aet))
        await request.engine.pools.index.run(partial(_check_reach, request, body, peer.aet))
    else:
        request.require(Action.MANAGE)
        request.require(Action.STORE)
        reach.everything(request, Action.STORE)  # what a pull brings is not judged instance by instance
    job = Job(
        id=new_id(),
        kind=states.SEND if is_send else states.PULL,
        peer=peer.aet,
        work=_work(request, body),
        by=request.principal.actor,
        reason=body.reason,
        created_ns=time.time_ns(),
    )
    await request.engine.pools.slow.run(partial(request.engine.archive.job_files().create, job))
    return answer(_facts(job, is_whole=True), 201)


def _check_reach(request: Request, body: bodies.SendJob, ae_title: str) -> None:
    """Raises NotFound if something of it is out of the client's scope, NotAllowed if its receiver may not have it."""
    view = request.view(Action.SEND)
    reach.studies(view, body.studies)
    reach.entities(view, tags.SeriesInstanceUID, body.series)
    reach.entities(view, tags.SOPInstanceUID, body.instances)
    scope = request.engine.access.scope_of_destination(ae_title)
    if scope is FULL:
        return
    receiver = request.engine.archive.view(scope)
    names = ((Level.SERIES, tags.SeriesInstanceUID, body.series), (Level.IMAGE, tags.SOPInstanceUID, body.instances))
    studies = set(body.studies)
    for level, tag, uids in names:
        for uid in uids:
            found = view.identifiers(Query(level, {tag: uid.encode()}, relational=True))
            studies |= {instance.study_instance_uid for instance in found}
    if any(view.sees(study) and not receiver.sees(study) for study in studies):
        raise NotAllowed(f"{ae_title} may not receive these studies")


def _work(request: Request, body: bodies.Job) -> Work:
    """Raises RequestError, QueryError."""
    if isinstance(body, bodies.SendJob):
        if not (body.studies or body.series or body.instances):
            raise RequestError("name what to send: studies, series or instances")
        return Work(studies=body.studies, series=body.series, instances=body.instances)
    if not body.studies and not any(body.filters.values()):
        raise RequestError("name what to pull: studies or filters")
    for name in body.filters:
        if len(path_of(name, request.engine.archive.schema)) > 1:
            raise RequestError(f"{name}: a pull cannot filter by attributes within sequences")
    return Work(studies=body.studies, filters=body.filters, limit=body.limit, again=body.again)


async def cancel(request: Request) -> web.Response:
    """Requests the end of a job. Raises JobError, NotFound."""
    return await _request_change(request, CANCEL)


async def retry(request: Request) -> web.Response:
    """Requests another attempt of a job that failed, was cancelled, or waits. Raises JobError, NotFound."""
    return await _request_change(request, RETRY)


async def _request_change(request: Request, change: str) -> web.Response:
    await body_of(request, bodies.ReasonBody)
    job = await _job_of(request, Action.MANAGE)
    await request.engine.pools.slow.run(partial(request.engine.archive.job_files().request, job.id, change))
    return answer({"id": job.id, "asked": change}, 202)


async def cancel_many(request: Request) -> web.Response:
    """Requests the end of several jobs."""
    return await _request_changes(request, CANCEL)


async def retry_many(request: Request) -> web.Response:
    """Requests another attempt of several jobs."""
    return await _request_changes(request, RETRY)


async def _request_changes(request: Request, change: str) -> web.Response:
    body = await body_of(request, bodies.ManyJobs)
    if bool(body.ids) == bool(body.state):
        raise RequestError("name the jobs: either ids or a state")
    if body.state and body.state not in STATES:
        raise RequestError(f"state: is not one of {', '.join(STATES)}")
    files = request.engine.archive.job_files()
    reaches_all = request.scope(Action.QUERY) is FULL
    actor = request.principal.actor

    def ask() -> int:
        jobs = [job for job in files.all() if reaches_all or job.by == actor]
        ids = [job.id for job in jobs if (job.id in body.ids if body.ids else job.state == body.state)]
        count = 0
        for identifier in ids:
            try:
                files.request(identifier, change)
            except JobError:
                continue  # it has been removed since the client has seen it
            count += 1
        return count

    return answer({"count": await request.engine.pools.slow.run(ask), "asked": change}, 202)


def _facts(job: Job, *, is_whole: bool) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(job)
    for name in ("started_ns", "ended_ns", "due_ns"):
        plain[name] = plain[name] or None
    if not is_whole:
        del plain["failed"]
        plain["work"] = {
            name: len(value) if isinstance(value, list) else value for name, value in plain["work"].items()
        }
    return with_times(plain)
