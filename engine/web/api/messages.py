"""/api/messages: HL7 messages that were received, what each says, and what it did; one can be applied again.

patient=P1 (PID-3.1)    kind=ADT, ADT^A08    source=ris    result=refused    since=, until= (ISO 8601)
before=                 `older` of an earlier answer

The newest comes first. Messages name patients: they are for who sees the whole archive, and each view is recorded. A
page may have fewer messages than `limit`, or none, when few of many match; `older` leads on.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from engine import audit
from engine.access import Action
from engine.archive import messages
from engine.audit import Event, Kind, Patient
from engine.errors import JournalError, RequestError
from engine.messaging.explanation import Filter, facts_of, opened
from engine.web.api import reach
from engine.web.api.bodies import ReasonBody
from engine.web.api.json_bodies import ROWS_MAX, answer, body_of, check_parameters, number_of
from engine.web.errors import HttpError, NotFound, Unavailable
from engine.web.route import Parameter

if TYPE_CHECKING:
    from aiohttp import web

    from engine.archive.archive import Archive
    from engine.config import Config
    from engine.web.request import Request

RESULTS: Final = ("waiting", "applied", "unchanged", "refused", "failed")
TEXT_MAX: Final = 256
SCANNED_MAX: Final = 20_000
"""Messages that are looked at for one page."""
NUMBER_MAX: Final = (1 << 53) - 1

PARAMETERS: Final = (
    Parameter("patient", "The patient's identifier in the message (PID-3.1)"),
    Parameter("kind", "ADT, or ADT^A08"),
    Parameter("source", "The name of an [[hl7_source]]"),
    Parameter("result", "What became of it", options=RESULTS),
    Parameter("since", "Not before this time: ISO 8601"),
    Parameter("until", "Before this time: ISO 8601"),
    Parameter("before", "`older` of an earlier answer", schema="integer"),
    Parameter("limit", f"Maximum number of messages, up to {ROWS_MAX}", schema="integer"),
)


async def listed(request: Request) -> web.Response:
    """One page of messages."""
    reach.everything(request, Action.MANAGE)
    reach.everything(request, Action.QUERY)
    check_parameters(request, [parameter.name for parameter in PARAMETERS])
    which = _filter(request)
    before = number_of(request, "before", 0, NUMBER_MAX)
    limit = number_of(request, "limit", 100, ROWS_MAX) or 1
    if not before and audit.is_on():
        query = " ".join(f"{name}={value}" for name, value in sorted(request.query.items()) if name != "limit")
        event = Event(kind=Kind.QUERY, principal=request.principal, action="page: messages", query=query)
        await audit.begin(event)
    work = partial(_page, request.engine.archive, which, before, limit)
    found, older = await request.engine.pools.slow.run(work)
    sources = [source.name for source in request.config.hl7_sources]
    return answer({"messages": found, "older": older, "sources": sources})


def _filter(request: Request) -> Filter:
    texts = {name: request.query.get(name, "") for name in ("patient", "kind", "source", "result")}
    if too_long := [name for name, text in texts.items() if len(text) > TEXT_MAX]:
        raise RequestError(f"{too_long[0]}: is longer than {TEXT_MAX} characters")
    if texts["result"] not in ("", *RESULTS):
        raise RequestError(f"result: is not one of {', '.join(RESULTS)}")
    return Filter(**texts, since=_seconds(request, "since"), until=_seconds(request, "until"))


def _seconds(request: Request, name: str) -> float:
    text = request.query.get(name, "")
    try:
        return datetime.fromisoformat(text).timestamp() if text else 0.0
    except (ValueError, OverflowError):
        raise RequestError(f"{name}: is no time, as 2026-12-01T09:30") from None


def _page(archive: Archive, which: Filter, before: int, limit: int) -> tuple[list[dict[str, Any]], int | None]:
    """The messages of a page, and where to go on."""
    found: list[dict[str, Any]] = []
    history = messages.history_of(archive)
    try:
        for scanned, row in enumerate(history.rows(before)):
            if which.since and row.received.time < which.since:
                return found, None
            if len(found) == limit or scanned == SCANNED_MAX:
                return found, row.number + 1
            if which.takes(row):
                found.append(facts_of(row))
    finally:
        history.close()
    return found, None


async def one(request: Request) -> web.Response:
    """One message: its text, its fields, how it is mapped now, and what it did."""
    reach.everything(request, Action.MANAGE)
    reach.everything(request, Action.QUERY)
    check_parameters(request)
    number = _number(request)
    facts = await request.engine.pools.slow.run(partial(_one, request.engine.archive, request.config, number))
    if audit.is_on():
        patient = Patient(facts["patient_id"]) if facts["patient_id"] else None
        detail = f"message {number}"
        principal = request.principal
        await audit.begin(
            Event(kind=Kind.VIEWED, principal=principal, action="page: message", patient=patient, detail=detail)
        )
    return answer(facts)


def _one(archive: Archive, config: Config, number: int) -> dict[str, Any]:
    history = messages.history_of(archive)
    try:
        row = history.find(number)
        return {**facts_of(row), **opened(config, row, history.read(row.position))}
    except JournalError as error:
        raise NotFound(str(error)) from None
    finally:
        history.close()


async def replay(request: Request) -> web.Response:
    """Applies a message again, by the configuration in force; answers with what that did."""
    body = await body_of(request, ReasonBody)
    reach.everything(request, Action.CORRECT)
    number = _number(request)
    if audit.is_on():
        detail = f"message {number} applied again"
        event = Event(
            kind=Kind.OPERATION,
            principal=request.principal,
            action="page: replay",
            reason=body.reason,
            detail=detail,
        )
        await audit.begin(event)
    facts = await request.host_front.replay_message(number)
    if not facts:
        raise Unavailable("the supervisor does not answer")
    if not facts.pop("ok"):
        raise HttpError(HTTPStatus.CONFLICT, facts["error"])
    return answer(facts)


def _number(request: Request) -> int:
    text = request.path_values["number"]
    if not (text.isascii() and text.isdigit() and 0 < int(text[:17]) <= NUMBER_MAX and len(text) < 17):
        raise NotFound("there is no such message")
    return int(text)
