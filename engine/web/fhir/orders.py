"""/fhir/ServiceRequest and /fhir/Task: orders of the hospital, their scheduled steps, workitems; read and search.

    GET  /fhir/ServiceRequest/{id}    GET /fhir/ServiceRequest?…    POST /fhir/ServiceRequest/_search
    GET  /fhir/Task/{id}              GET /fhir/Task?…              POST /fhir/Task/_search

For who may see worklists; of a role with `studies` those entries that its worklists would show (`orders.reach`). The
latest order comes first. A page begins behind an order: the link `next` names it. Behind the steps come workitems
(`workitems`), for who may see them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

from engine.access import Action, Records
from engine.dicom import tags
from engine.errors import RequestError
from engine.fhir import bundle, outcome, workitem_task
from engine.fhir.datatypes import text_of
from engine.fhir.elements import only
from engine.fhir.order import (
    ORDER_ATTRIBUTES,
    STEP_ATTRIBUTES,
    Order,
    Step,
    request_status,
    service_request,
    system_of_scheme,
    task,
    task_status,
)
from engine.fhir.order_search import CODE, ID, NUMBER, ORDER, OWNER, SERVICE_REQUEST, STATUS, TASK, is_id
from engine.fhir.search import PAGE, Search
from engine.orders import requests
from engine.orders.entry import ROOT, STEP
from engine.orders.reach import reach_of
from engine.orders.requests import Condition
from engine.orders.values import Code
from engine.orders.workitems.rules import is_uid
from engine.web.errors import NotFound, TooLarge
from engine.web.fhir import workitems
from engine.web.fhir.answers import answer, asked_release, read_answer, root_of
from engine.web.fhir.parameters import page_url, search_of
from engine.web.window import SLICE_S

if TYPE_CHECKING:
    from aiohttp import web

    from engine.fhir.datatypes import Json
    from engine.fhir.release import Release
    from engine.orders.reach import Reach
    from engine.web.request import Request


@dataclass(slots=True)
class Found:
    """A search in progress, for one thread at a time."""

    condition: Condition
    statuses: tuple[str, ...] | None
    steps: frozenset[str] | None
    """The only steps that match; None: all of an order."""
    step_names: frozenset[str] | None
    """Their Scheduled Procedure Step IDs; None: any."""
    is_of_steps: bool
    limit: int
    counts_all: bool
    before: int
    orders: list[Order]
    matches: int = 0
    last: int = 0
    """The order behind which the next page begins."""
    has_more: bool = False
    is_over: bool = False
    next: str = ""
    """Where a page of what follows the orders begins; "": there is none."""

    def slice(self, request: Request, reach: Reach | None) -> None:
        """Looks at orders for SLICE_S, in a transaction of its own."""
        end_s = perf_counter() + SLICE_S
        with request.engine.orders().read() as reading:
            for number, each in requests.search(reading, self.condition, self.before, reach):
                if each is not None and not self._take(_order(each)):
                    return
                self.before = number
                if perf_counter() >= end_s:
                    return
        self.is_over = True

    def _take(self, order: Order) -> bool:
        """Adds an order that matches. Returns whether to go on."""
        steps = [step for step in order.steps if self._is_match(order, step)] if self.is_of_steps else order.steps
        count = len(steps) if self.is_of_steps else int(self._has_status(request_status(order)))
        if not count:
            return True
        if self.matches >= self.limit and not self.counts_all:
            self.has_more = self.is_over = True
            return False
        if self.matches < self.limit:
            self.orders.append(Order(order.id, order.attributes, steps, order.final, order.created, order.codes))
            self.last = int(order.id)
        else:
            self.has_more = True
        self.matches += count
        return True

    def _has_status(self, status: str) -> bool:
        return self.statuses is None or status in self.statuses

    def _is_match(self, order: Order, step: Step) -> bool:
        name = text_of(step.attributes, tags.ScheduledProcedureStepID)
        return (
            self._has_status(task_status(step))
            and (self.steps is None or step.id in self.steps)
            and (self.step_names is None or name in self.step_names)
        )


async def read_request(request: Request) -> web.Response:
    """One order. Raises NotFound."""
    release = asked_release(request)
    order = await _one(request, Condition(orders=(_id_of(request),)))
    return read_answer(request, service_request(order, release), release)


async def read_task(request: Request) -> web.Response:
    """One step, or one workitem. Raises NotFound."""
    release, uid = asked_release(request), request.path_values["id"]
    if "." in uid and is_uid(uid):
        workitem = await workitems.one(request, uid, Search()) if workitems.sees(request) else None
        if workitem is None:
            raise _missing()
        return read_answer(request, workitem_task.task(workitem, release), release)
    number = _id_of(request)
    order = await _one(request, Condition(steps=(number,)))
    step = next((each for each in order.steps if each.id == str(number)), None)
    if step is None:
        raise _missing()
    return read_answer(request, task(order, step, release), release)


async def search_requests(request: Request) -> web.Response:
    """A page of orders. Raises RequestError, TooLarge."""
    release, asked = asked_release(request), await search_of(request, SERVICE_REQUEST)
    found = await _find(request, asked, is_of_steps=False)
    others: list[Json] = []
    if "tasks" in asked.includes and request.allowed(Action.WORKLIST, Records("Task", "r")):
        others = [task(order, step, release) for order in found.orders for step in order.steps]
    return _page(request, asked, found, [service_request(each, release) for each in found.orders], others)


async def search_tasks(request: Request) -> web.Response:
    """A page of steps, all that match of each of its orders; then workitems. Raises RequestError, TooLarge."""
    release, asked = asked_release(request), await search_of(request, TASK)
    is_of_workitems = workitems.is_cursor(asked.cursor or "")
    found = await _steps(request, asked)
    tasks = [task(order, step, release) for order in found.orders for step in order.steps]
    numbers = {order.id for order in found.orders}
    if not found.has_more and workitems.sees(request):
        more = await workitems.find(request, asked, max(asked.count - found.matches, 0))
        tasks += [workitem_task.task(each, release) for each in more.workitems]
        numbers.update(number for each in more.workitems for number in each.orders)
        found.matches += more.matches
        found.next = more.following
    elif found.has_more and asked.wants_total and workitems.sees(request) and not is_of_workitems:
        found.matches += (await workitems.find(request, asked, 0)).matches
    others: list[Json] = []
    if "request" in asked.includes and request.allowed(Action.WORKLIST, Records("ServiceRequest", "r")):
        others = await _requests_of(request, numbers, release)
    return _page(request, asked, found, tasks, others)


async def _steps(request: Request, asked: Search) -> Found:
    """The steps of a page; none if it begins among the workitems, or if only workitems have what is asked for."""
    if workitems.is_cursor(asked.cursor or "") or CODE in asked.values or OWNER in asked.values:
        nothing = Found(Condition(), None, None, None, True, 0, False, 0, [])
        nothing.is_over = True
        return nothing
    return await _find(request, asked, is_of_steps=True)


async def _requests_of(request: Request, numbers: set[str], release: Release) -> list[Json]:
    """The orders of matching steps and workitems, with all their steps: their status depends on them."""
    chosen = Condition(orders=tuple(map(int, numbers)))
    whole = Found(chosen, None, None, None, False, len(numbers), False, requests.LAST, [])
    await _run(request, whole)
    return [service_request(order, release) for order in whole.orders]


def _page(request: Request, asked: Search, found: Found, matches: list[Json], others: list[Json]) -> web.Response:
    kind = request.target.kind if isinstance(request.target, Records) else ""
    links = [("self", page_url(request, kind, None))]
    following = str(found.last) if found.has_more else found.next
    if following and asked.count:
        links.append(("next", page_url(request, kind, following)))
    others = [only(each, asked.elements) for each in others]
    if asked.ignored:
        others.append(outcome.of_warning(f"ignored: {', '.join(asked.ignored)}"))
    total = found.matches if asked.wants_total else None
    matches = [only(each, asked.elements) for each in matches]
    return answer(request, bundle.searchset(matches, others, links, root_of(request), total), asked_release(request))


async def _one(request: Request, condition: Condition) -> Order:
    found = Found(condition, None, None, None, False, 1, False, requests.LAST, [])
    await _run(request, found)
    if not found.orders:
        raise _missing()
    return found.orders[0]


async def _find(request: Request, asked: Search, *, is_of_steps: bool) -> Found:
    if not re.fullmatch(r"\d{1,18}", asked.cursor or "0", re.ASCII):
        raise RequestError(f"{PAGE}: is none of this server's")
    found = Found(
        _condition(asked, is_of_steps=is_of_steps),
        asked.values.get(STATUS),
        frozenset(asked.values[ID]) if is_of_steps and ID in asked.values else None,
        frozenset(asked.values[NUMBER]) if is_of_steps and NUMBER in asked.values else None,
        is_of_steps,
        asked.count,
        asked.wants_total,
        int(asked.cursor) if asked.cursor else requests.LAST,
        [],
    )
    if not asked.is_empty:
        await _run(request, found)
    return found


async def _run(request: Request, found: Found) -> None:
    reach = reach_of(request.scope(Action.WORKLIST), request.engine.stations)
    timeout_s, work_s = request.config.limits.query_timeout_s, 0.0
    while not found.is_over:
        await request.engine.pools.orders.run(partial(found.slice, request, reach))
        work_s += SLICE_S
        if timeout_s and work_s > timeout_s:
            raise TooLarge(f"the search was stopped after {timeout_s:g} s: narrow it")


def _condition(asked: Search, *, is_of_steps: bool) -> Condition:
    values = asked.values
    letters = "t" if is_of_steps else "pfa"
    ids = tuple(int(each) for each in values[ID] if is_id(each)) if ID in values else None
    orders = tuple(map(int, values[ORDER])) if ORDER in values else None
    return Condition(
        orders=orders if is_of_steps else ids,
        steps=ids if is_of_steps else None,
        numbers=tuple((letter, value) for value in values[NUMBER] for letter in letters) if NUMBER in values else None,
        patients=asked.patients,
    )


def _order(found: requests.Request) -> Order:
    order, entries = found.order, found.entries
    codes = [
        (system_of_scheme(code.scheme), code.value, code.meaning)
        for procedure in order.procedures
        for code in procedure.attributes.get("RequestedProcedureCodeSequence", ())
        if isinstance(code, Code) and code.value
    ]
    steps = [
        Step(str(each.number), {tag: (STEP.get(tag) or ROOT[tag])(each) for tag in STEP_ATTRIBUTES}) for each in entries
    ]
    created = datetime.fromtimestamp(order.created, UTC).isoformat(timespec="seconds") if order.created else ""
    if entries:
        attributes = {tag: ROOT[tag](entries[0]) for tag in ORDER_ATTRIBUTES}
    else:
        attributes = _attributes_alone(found)
    return Order(str(found.number), attributes, steps, order.final, created, codes)


def _attributes_alone(found: requests.Request) -> dict[int, bytes]:
    """What is known of an order without steps."""
    order, primary = found.order, next(iter(found.patient.identifiers), None)
    name = found.patient.attributes.get("PatientName", "")
    numbers = {
        tags.AccessionNumber: order.accession,
        tags.PlacerOrderNumberImagingServiceRequest: order.placer,
        tags.FillerOrderNumberImagingServiceRequest: order.filler,
        tags.PatientID: primary,
    }
    values = {tag: each.value.encode() for tag, each in numbers.items() if each is not None}
    if primary is not None:
        values[tags.IssuerOfPatientID] = (primary.issuer.name or primary.issuer.universal_id).encode()
    return {**values, tags.PatientName: name.encode() if isinstance(name, str) else b""}


def _id_of(request: Request) -> int:
    text = request.path_values["id"]
    if not is_id(text):
        raise _missing()
    return int(text)


def _missing() -> NotFound:
    return NotFound("there is no such resource")
