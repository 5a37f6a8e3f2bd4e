"""/fhir/Provenance and /fhir/AuditEvent: where a study comes from, and what was done with it.

    GET /fhir/Provenance?target=ImagingStudy/UID     who sent it, and who corrected it: for who may find the study
    GET /fhir/AuditEvent?…, /fhir/AuditEvent/{id}    the audit log, the newest event first: for who may read that

Reading the audit log is an event of the audit log. A page may have fewer events than asked for, or none, when few of
many match: follow the link `next`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from engine import audit
from engine.access import Action
from engine.archive.admin import studies as facts_of_studies
from engine.audit import Event, Kind
from engine.audit.message import event_code
from engine.audit.search import Condition
from engine.audit.search import search as search_log
from engine.errors import RequestError
from engine.fhir import bundle, outcome, record_search
from engine.fhir.audit_event import audit_event, id_of
from engine.fhir.provenance import provenances
from engine.fhir.record_search import AUDIT_EVENT, PROVENANCE
from engine.fhir.search import PAGE, Search
from engine.web.errors import NotFound
from engine.web.fhir import asking
from engine.web.fhir.answers import answer, asked_release, read_answer, root_of
from engine.web.fhir.parameters import page_url, search_of

if TYPE_CHECKING:
    from typing import Any

    from aiohttp import web

    from engine.archive.view import View
    from engine.fhir.datatypes import Json
    from engine.fhir.release import Release
    from engine.web.request import Request

_ID: Final = re.compile(r"((?:[0-9a-f]{32}\.)?\d{3,6})-(\d{1,18})", re.ASCII)


async def search_provenance(request: Request) -> web.Response:
    """Where studies come from. Raises RequestError, TooLarge."""
    release, asked = asked_release(request), await search_of(request, PROVENANCE)
    if "target" not in asked.values:
        raise RequestError("target: must name a study, as ImagingStudy/UID")
    found: list[Json] = []
    view = request.view(Action.QUERY)
    await asking.run(request, _provenances(view, asked.values["target"], release, found))
    total = len(found) if asked.wants_total else None
    found = found[: asked.count] if asked.count else []
    links = [("self", page_url(request, "Provenance", None))]
    return answer(request, bundle.searchset(found, _ignored(asked), links, root_of(request), total), release)


def _provenances(view: View, uids: Sequence[str], release: Release, found: list[Json]) -> Iterator[None]:
    for uid in uids:
        facts = facts_of_studies.details(view, uid)
        found += provenances(uid, facts, release) if facts is not None else ()
        yield


async def search_events(request: Request) -> web.Response:
    """A page of events. Raises RequestError, AuditUnavailable."""
    release, asked = asked_release(request), await search_of(request, AUDIT_EVENT)
    if asked.wants_total:
        raise RequestError("events are not counted")
    values = {name: each[0] for name, each in asked.values.items()}
    outcomes = asked.values.get(record_search.OUTCOME)
    condition = Condition(
        kind=values.get(record_search.KIND, ""),
        user=values.get(record_search.USER, ""),
        patient=values.get(record_search.PATIENT_ID, ""),
        study=values.get(record_search.STUDY, ""),
        since=values.get(record_search.SINCE, ""),
        until=values.get(record_search.UNTIL, ""),
        outcome="failure" if outcomes and "0" not in outcomes else "",
    )
    links, events = [("self", page_url(request, "AuditEvent", None))], []
    if asked.cursor is None:
        await _record(request, condition.summary)
    if not asked.is_empty:
        work = partial(search_log, request.config.data, condition, asked.count, asked.cursor or "")
        try:
            page = await request.engine.pools.slow.run(work)
        except ValueError as error:
            raise RequestError(f"{PAGE}: {error}") from None
        events = [each for each in page.events if outcomes is None or str(each.get("outcome", 0)) in outcomes]
        if page.older:
            links.append(("next", page_url(request, "AuditEvent", page.older)))
    resources = [_event(request, each, release) for each in events]
    return answer(request, bundle.searchset(resources, _ignored(asked), links, root_of(request), None), release)


async def read_event(request: Request) -> web.Response:
    """One event. Raises NotFound, AuditUnavailable."""
    release, match = asked_release(request), _ID.fullmatch(request.path_values["id"])
    if match is None:
        raise NotFound("there is no such event")
    await _record(request, f"id={match[0]}")
    before = f"{match[1].replace('.', '/')}-{int(match[2]) + 1}"
    page = await request.engine.pools.slow.run(partial(search_log, request.config.data, Condition(), 1, before))
    if not page.events or id_of(page.events[0]) != match[0]:
        raise NotFound("there is no such event")
    return read_answer(request, _event(request, page.events[0], release), release)


def _event(request: Request, event: dict[str, Any], release: Release) -> Json:
    source = request.config.audit.source or "filmroom"
    return audit_event(event, event_code(str(event["kind"])), source, release)


async def _record(request: Request, detail: str) -> None:
    await audit.begin(Event(kind=Kind.AUDIT_READ, principal=request.principal, action="FHIR: search", detail=detail))


def _ignored(asked: Search) -> list[Json]:
    return [outcome.of_warning(f"ignored: {', '.join(asked.ignored)}")] if asked.ignored else []
