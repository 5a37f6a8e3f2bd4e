"""UPS-RS (PS3.18 11): workitems, the same as over DIMSE (`services.ups_scp`).

    POST /workitems?workitem=UID                   201 and Location; 409 it exists
    GET  /workitems?ATTRIBUTE=VALUE&…              those that meet the keys; 200 with [] if none does
    GET  /workitems/{workitem}                     200, without the Transaction UID
    POST /workitems/{workitem}?transaction=UID     sets attributes; without a UID only while it is SCHEDULED
    PUT  /workitems/{workitem}/state               claims or ends it
    POST /workitems/{workitem}/cancelrequest       202
    POST, DELETE /workitems/{workitem}/subscribers/{aetitle}, POST …/suspend        see `workitem_subscribers`

    400 the request is wrong, or its Transaction UID    404 no such workitem    410 it ended and was removed
    409 its state does not allow that

An error's Warning says the same in the words of the standard. UIDs may also be the whole query, as older clients write.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from aiohttp import web

from engine import audit
from engine.access import Action
from engine.audit import Event, Outcome
from engine.audit import Kind as EventKind
from engine.dicom import json_model, model_reader, tags, xml_model
from engine.dicom.identifier import Identifier, decode_identifier, encode_identifier
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from engine.errors import ArchiveReadOnly, RequestError, WorkitemRefused
from engine.orders.attributes import with_set
from engine.orders.workitems.facts import ELEMENT_COUNT_MAX
from engine.orders.workitems.reach import reach_of
from engine.orders.workitems.rules import Fault, Remark, is_uid
from engine.orders.workitems.search import Search, question_of
from engine.orders.workitems.store import Workitems
from engine.runtime.audit_trail import Act
from engine.web import workitem_keys
from engine.web.accept import MULTIPART, parse_media_type
from engine.web.errors import HttpError, UnsupportedMediaType
from engine.web.route import DICOMWEB, Parameter, Route

if TYPE_CHECKING:
    from engine.orders.attributes import Items
    from engine.orders.workitems.search import Reach
    from engine.web.request import Request

Result = TypeVar("Result")

JSON_TYPE: Final = "application/dicom+json"
XML_TYPE: Final = "application/dicom+xml"
PRODUCED: Final = (JSON_TYPE, "application/json")
ANSWER_BYTES_MAX: Final = 16 << 20
"""Of one answer to a search; then there are more, behind an offset. 2000 usual workitems are 10 MB."""

_STATUS: Final = MappingProxyType({
    Fault.UNKNOWN: HTTPStatus.NOT_FOUND,
    Fault.GONE: HTTPStatus.GONE,
    Fault.NOT_ALLOWED: HTTPStatus.FORBIDDEN,
    Fault.RESOURCES: HTTPStatus.SERVICE_UNAVAILABLE,
    **dict.fromkeys(
        (Fault.FINAL, Fault.IN_PROGRESS, Fault.ONLY_CREATED, Fault.INCOMPLETE, Fault.NOT_IN_PROGRESS, Fault.COMPLETED,
         Fault.NOBODY, Fault.DUPLICATE),
        HTTPStatus.CONFLICT,
    ),
})  # fmt: skip
"""All other faults are 400."""
_REMARKS: Final = MappingProxyType({
    Remark.CANCELED: "The UPS is already in the requested state of CANCELED.",
    Remark.COMPLETED: "The UPS is already in the requested state of COMPLETED.",
    Remark.NOT_SET: "Requested optional Attributes are not supported.",
})  # fmt: skip


def warning(text: str) -> dict[str, str]:
    """A Warning header, as PS3.18 11 has it."""
    return {"Warning": f'299 filmroom "{text}"'}


def refusal(error: WorkitemRefused) -> HttpError:
    """A refused request as an answer."""
    status = _STATUS.get(Fault(error.fault), HTTPStatus.BAD_REQUEST)
    headers = {}
    if error.fault == Fault.TRANSACTION:
        headers = warning(f"The Transaction UID is {'missing' if 'missing' in str(error) else 'incorrect'}.")
    elif status == HTTPStatus.CONFLICT and error.fault != Fault.DUPLICATE:
        headers = warning("The submitted request is inconsistent with the state of the UPS Instance.")
    return HttpError(status, str(error), headers)


async def run(request: Request, work: Callable[[Workitems], Result], *, is_change: bool = True) -> Result:
    """Does something with the workitems, in a thread. Raises HttpError and what `work` raises."""
    engine = request.engine
    if is_change and engine.archive.is_read_only:
        raise ArchiveReadOnly("this archive is read-only")
    audit.check()
    try:
        return await engine.pools.orders.run(lambda: work(Workitems(engine.orders())))
    except WorkitemRefused as error:
        raise refusal(error) from None


def reach(request: Request) -> Reach | None:
    """The workitems that the client may see."""
    return reach_of(request.scope(Action.WORKITEM), lambda: request.engine.stations.issuer)


def uid_of_path(request: Request) -> str:
    """The workitem of the path. Raises RequestError."""
    uid = request.path_values["workitem"]
    if not is_uid(uid):
        raise RequestError("the workitem of the path is no UID")
    return uid


# handlers --------------------------------------------------------------------------------------------


async def create(request: Request) -> web.StreamResponse:
    """Makes a workitem."""
    data_set = await _data_set(request)
    uid = _uid_of_query(request, ("workitem", "AffectedSOPInstanceUID"))
    uid = uid or data_set.text(tags.SOPInstanceUID).strip() or f"2.25.{uuid.uuid4().int}"
    creator, seen = request.principal.actor, reach(request)
    await run(request, lambda workitems: workitems.create(uid, data_set, creator, seen))
    address = f"{request.root}{DICOMWEB}/workitems/{uid}"
    return web.Response(status=HTTPStatus.CREATED, headers={"Location": address, "Content-Location": address})


async def get(request: Request) -> web.StreamResponse:
    """Sends a workitem."""
    uid, seen = uid_of_path(request), reach(request)
    items = await run(request, lambda workitems: workitems.get(uid, seen), is_change=False)
    if audit.is_on():
        kind, action = EventKind.OPERATION, "read workitem"
        audit.write(Event(kind=kind, principal=request.principal, action=action, outcome=Outcome.SUCCESS, detail=uid))
    return _answer([_json(items)])


async def update(request: Request) -> web.StreamResponse:
    """Sets attributes of a workitem."""
    uid, seen, actor = uid_of_path(request), reach(request), request.principal.actor
    data_set = await _data_set(request)
    transaction = _uid_of_query(request, ("transaction", "transaction-uid"))
    if transaction:
        data_set.items[tags.TransactionUID] = transaction.encode()
    remark = await run(request, lambda workitems: workitems.update(uid, data_set, actor, seen))
    return _done(HTTPStatus.OK, remark)


async def change_state(request: Request) -> web.StreamResponse:
    """Claims or ends a workitem."""
    uid, seen, actor = uid_of_path(request), reach(request), request.principal.actor
    data_set = await _data_set(request)
    state = data_set.text(tags.ProcedureStepState).strip()
    transaction = data_set.text(tags.TransactionUID).strip()
    remark = await run(request, lambda workitems: workitems.change_state(uid, state, transaction, actor, seen))
    return _done(HTTPStatus.OK, remark)


async def request_cancel(request: Request) -> web.StreamResponse:
    """Cancels a workitem, or asks its performer to."""
    uid, seen = uid_of_path(request), reach(request)
    has_body = request.can_read_body and request.content_length != 0
    information = await _data_set(request) if has_body else Identifier({})
    requester = (request.principal.name or "HTTP")[:16]
    remark = await run(request, lambda workitems: workitems.request_cancel(uid, information, requester, seen))
    return _done(HTTPStatus.ACCEPTED, remark)


async def search(request: Request) -> web.StreamResponse:
    """Sends the workitems that meet the keys of the query."""
    asked = workitem_keys.parse(request.rel_url.raw_query_string, request.config.worklist.limit)
    question = question_of(asked.identifier)
    question.reach = reach(request)
    workitems = await run(request, lambda workitems: workitems, is_change=False)
    found: list[bytes] = []
    length, is_more, running = 0, False, Search(question, skip=asked.offset)
    read = partial(request.engine.pools.orders.run, lambda: workitems.read(running))
    while not is_more and (matches := await read()) is not None:
        for _, items in matches:
            if len(found) == asked.limit or length >= ANSWER_BYTES_MAX:
                is_more = True
                break
            found.append(_json(asked.returned(items)))
            length += len(found[-1])
    if audit.is_on():
        query = " ".join(f"{key}={value}" for key, value in question.keys)
        request.engine.audit_trail.query(
            Act(request.principal, "UPS-RS"), f"workitems {query}".strip(), count=len(found)
        )
    return _answer(found, warning("There are more workitems that can be requested") if is_more else {})


# bodies ----------------------------------------------------------------------------------------------


async def _data_set(request: Request) -> Identifier:
    """The data set in the body. Raises RequestError, DataSetError, TooLarge, UnsupportedMediaType."""
    content_type = parse_media_type(request.headers.get("Content-Type", ""))
    if content_type is None or content_type.name == MULTIPART:
        raise UnsupportedMediaType(f"the body must be {JSON_TYPE} or {XML_TYPE}")
    body, name = await request.body(), content_type.name
    if name not in (*PRODUCED, XML_TYPE, "application/xml"):
        raise UnsupportedMediaType(f"the body must be {JSON_TYPE} or {XML_TYPE}")
    return await request.engine.pools.slow.run(lambda: _decoded(body, is_xml=name.endswith("xml")))


def _decoded(body: bytes, *, is_xml: bool) -> Identifier:
    models: list[Any] = [xml_model.parse(body)] if is_xml else model_reader.parse(body)
    if len(models) != 1:
        raise RequestError("the body is not one data set")
    draft = model_reader.draft(models[0])
    if draft.bulk_data:
        raise RequestError("a workitem has no bulk data")
    whole = draft.whole(lambda _: b"")
    return decode_identifier(whole, EXPLICIT_VR_LITTLE_ENDIAN, element_count_max=ELEMENT_COUNT_MAX)


def _uid_of_query(request: Request, names: tuple[str, ...]) -> str:
    """A UID of the query, by one of these names or as its whole. Raises RequestError."""
    texts = [request.query[name] for name in names if name in request.query]
    if not texts and is_uid(request.query_string):
        texts = [request.query_string]
    unknown = [name for name in request.query if name not in names and not is_uid(name)]
    if unknown:
        raise RequestError(f"{unknown[0][:64]}: unknown parameter; known: {', '.join(names)}")
    if texts and not is_uid(texts[0]):
        raise RequestError(f"{names[0]} is no UID")
    return texts[0] if texts else ""


def _json(items: Items) -> bytes:
    data = encode_identifier(dict(sorted(with_set(items, b"").items())), EXPLICIT_VR_LITTLE_ENDIAN)
    return json_model.encode(data, EXPLICIT_VR_LITTLE_ENDIAN, None)


def _answer(data_sets: list[bytes], headers: dict[str, str] | None = None) -> web.Response:
    body = b"[" + b",".join(data_sets) + b"]"
    return web.Response(
        body=body, headers={"Content-Type": JSON_TYPE, "Cache-Control": "private, no-cache", **(headers or {})}
    )


def _done(status: int, remark: Remark) -> web.Response:
    return web.Response(status=status, headers=warning(_REMARKS[remark]) if remark else {})


# rows ------------------------------------------------------------------------------------------------

PATH: Final = f"{DICOMWEB}/workitems"
WORKITEM: Final = Parameter("workitem", "UID of the workitem", "path", pattern="^[0-9.]{1,64}$", is_required=True)
_CONSUMED: Final = (JSON_TYPE, "application/json", XML_TYPE)
TAG: Final = "UPS-RS"
_TRANSACTION: Final = Parameter("transaction", "Transaction UID of a workitem in progress")


def _route(
    method: str, path: str, handler: Any, summary: str, *, statuses: tuple[int, ...], parameters: tuple[Parameter, ...],
    has_body: bool = True, is_answered: bool = False,
) -> Route:  # fmt: skip
    return Route(
        method,
        PATH + path,
        handler,
        summary,
        Action.WORKITEM,
        parameters=parameters,
        consumes=_CONSUMED if has_body else (),
        produces=PRODUCED if is_answered else (),
        statuses=statuses,
        errors=(403, 404, 409, 410, 503),
        tag=TAG,
        schema="DataSets" if is_answered else "",
    )


ROUTES: Final = (
    _route("POST", "", create, "Create a workitem", statuses=(201,), parameters=(Parameter("workitem", "Its UID"),)),
    _route(
        "GET", "", search, "Search workitems", statuses=(200,), parameters=workitem_keys.PARAMETERS, has_body=False,
        is_answered=True,
    ),
    _route(
        "GET", "/{workitem}", get, "A workitem", statuses=(200,), parameters=(WORKITEM,), has_body=False,
        is_answered=True,
    ),
    _route(
        "POST", "/{workitem}", update, "Set attributes of a workitem", statuses=(200,),
        parameters=(WORKITEM, _TRANSACTION),
    ),
    _route(
        "PUT", "/{workitem}/state", change_state, "Claim, complete or cancel a workitem", statuses=(200,),
        parameters=(WORKITEM,),
    ),
    _route(
        "POST", "/{workitem}/cancelrequest", request_cancel, "Request that a workitem be canceled", statuses=(202,),
        parameters=(WORKITEM,),
    ),
)  # fmt: skip
"""The rows of the route table."""
