"""Storage Commitment RS (PS3.18 13): requests and results of storage commitment, by Transaction UID.

    POST   200 with the result, or 202 and Retry-After when reading takes longer; 409 the UID is in use; 503 no room
    GET    200 with the result, 202 not yet, 404 never requested or no longer kept

The judgement is the same as over DIMSE (`archive.commitment.judge`). A result is stored even if its client does not
wait for it; if a process dies while it judges, the process that gets the next request judges again.
"""

from __future__ import annotations

import re
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import orjson
from aiohttp import web

from engine.access import Action
from engine.archive.commitment.judge import Verdict
from engine.archive.commitment.requests import CommitmentRequest
from engine.archive.commitment.transactions import Reference, Transaction
from engine.dicom import model_reader, xml_model
from engine.errors import ArchiveReadOnly, DataSetError, RequestError, StorageFull
from engine.web.accept import MULTIPART, parse_media_type
from engine.web.errors import RETRY_S, HttpError, NotFound, TooLarge, Unavailable, UnsupportedMediaType
from engine.web.forms import choices_of
from engine.web.route import DICOMWEB, Parameter, Route
from engine.web.stow_response import JSON_TYPE, OFFERS, XML_TYPE

if TYPE_CHECKING:
    from engine.web.request import Request

_UID: Final = re.compile(r"[0-9.]{1,64}")
FAILURE_REASONS: Final = {
    Verdict.DAMAGED: 0x0110,
    Verdict.TRUNCATED: 0x0110,
    Verdict.ABSENT: 0x0112,
    Verdict.OTHER_CLASS: 0x0119,
    Verdict.NOT_SUPPORTED: 0x0122,
    Verdict.DUPLICATE: 0x0131,
}
"""PS3.3 C.14.1.1."""


async def ask(request: Request) -> web.StreamResponse:
    """Requests storage commitment."""
    media_type = choices_of(request, OFFERS)[0].offer.media_type
    engine, uid = request.engine, _transaction_uid(request)
    if engine.archive.is_read_only:
        raise ArchiveReadOnly("this archive is read-only and commits to nothing")
    references = _references(await _model(request))
    options = engine.config.commitment
    if len(references) > options.references_max:
        raise TooLarge(f"more than {options.references_max} instances")
    transaction = Transaction.of(uid, request.principal.actor, time.time_ns(), references)
    commitments = request.commitments

    def keep() -> bool:
        return commitments.requests.add(
            transaction,
            count_max=options.transactions_max,
            reserve_bytes=engine.config.limits.disk_reserve_bytes,
            keep_days=options.retry_days,
        )

    try:
        if not await engine.pools.slow.run(keep):
            raise HttpError(HTTPStatus.CONFLICT, "the Transaction UID is in use")
    except StorageFull as error:
        raise Unavailable(str(error)) from error
    return _answer(
        request, await commitments.judged(CommitmentRequest(transaction), request.scope(Action.COMMIT)), media_type
    )


async def result(request: Request) -> web.StreamResponse:
    """Sends the result of a request."""
    media_type = choices_of(request, OFFERS)[0].offer.media_type
    uid, commitments = _transaction_uid(request), request.commitments
    commitment = await request.engine.pools.slow.run(lambda: commitments.requests.find(uid))
    if commitment is not None and request.principal.session:
        # The result says what is stored: it is for who has requested it.
        is_own = commitment.transaction.calling_ae_title == request.principal.actor
        commitment = commitment if is_own else None
    if commitment is None:
        raise NotFound(
            "storage commitment was not requested with this Transaction UID, or its result is no longer kept"
        )
    if commitment.verdicts is None:
        commitment = await commitments.judged(commitment, request.scope(Action.COMMIT))
    return _answer(request, commitment, media_type)


def _answer(request: Request, commitment: CommitmentRequest, media_type: str) -> web.Response:
    if commitment.verdicts is None:
        return web.Response(status=HTTPStatus.ACCEPTED, headers={"Retry-After": str(RETRY_S)})
    committed, failed = [], []
    for (sop_class_uid, sop_instance_uid), verdict in zip(
        commitment.transaction.references, map(Verdict, commitment.verdicts), strict=True
    ):
        item: dict[str, Any] = {
            "00081150": {"vr": "UI", "Value": [sop_class_uid]},
            "00081155": {"vr": "UI", "Value": [sop_instance_uid]},
        }
        if verdict is Verdict.COMMITTED:
            committed.append(item)
        else:
            failed.append({**item, "00081197": {"vr": "US", "Value": [FAILURE_REASONS[verdict]]}})
    model = {
        key: {"vr": "SQ", "Value": items} for key, items in (("00081198", failed), ("00081199", committed)) if items
    }
    body = xml_model.encode(model) if media_type.endswith("xml") else orjson.dumps(model)
    return web.Response(body=body, headers={"Content-Type": media_type, "Cache-Control": "private, no-cache"})


def _transaction_uid(request: Request) -> str:
    uid = request.path_values["transaction"]
    if not _UID.fullmatch(uid):
        raise RequestError("the Transaction UID of the path is not a UID")
    return uid


async def _model(request: Request) -> dict[str, Any]:
    """The data set in the body. Raises RequestError, TooLarge, UnsupportedMediaType."""
    content_type = parse_media_type(request.headers.get("Content-Type", ""))
    if content_type is None or content_type.name == MULTIPART:
        raise UnsupportedMediaType(f"the body must be {JSON_TYPE} or {XML_TYPE}")
    body = await request.body()
    if content_type.name in (XML_TYPE, "application/xml"):
        return await request.engine.pools.slow.run(lambda: xml_model.parse(body))
    if content_type.name not in (JSON_TYPE, "application/json"):
        raise UnsupportedMediaType(f"the body must be {JSON_TYPE} or {XML_TYPE}")
    models = await request.engine.pools.slow.run(lambda: model_reader.parse(body))
    if len(models) != 1:
        raise RequestError("the body is not one data set")
    return models[0]


def _references(model: dict[str, Any]) -> list[Reference]:
    """The Referenced SOP Sequence. Raises DataSetError."""
    sequence = model.get("00081199")
    items = sequence.get("Value") if isinstance(sequence, dict) else None
    if not isinstance(items, list) or not items:
        raise DataSetError("Referenced SOP Sequence (0008,1199) is missing or empty")
    return [(_uid(item, "00081150", place), _uid(item, "00081155", place)) for place, item in enumerate(items, 1)]


def _uid(item: Any, key: str, place: int) -> str:
    attribute = item.get(key) if isinstance(item, dict) else None
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    uid = values[0] if isinstance(values, list) and len(values) == 1 else None
    if not isinstance(uid, str) or not _UID.fullmatch(uid):
        raise DataSetError(f"00081199/{place}/{key} is not a UID")
    return uid


_PATH: Final = f"{DICOMWEB}/commitment-requests/{{transaction}}"
_FORMS: Final = (JSON_TYPE, XML_TYPE)
_ANSWERS: Final = tuple(map(str, OFFERS))
_UID_OF_PATH: Final = Parameter("transaction", "Transaction UID", "path", pattern="^[0-9.]{1,64}$", is_required=True)

ROUTES: Final = (
    Route(
        "POST",
        _PATH,
        ask,
        "Request storage commitment of instances",
        Action.COMMIT,
        consumes=_FORMS,
        parameters=(_UID_OF_PATH,),
        produces=_ANSWERS,
        statuses=(200, 202),
        errors=(404, 406, 409),
        tag="Storage Commitment RS",
        schema="DataSet",
    ),
    Route(
        "GET",
        _PATH,
        result,
        "The result of a storage commitment request",
        Action.COMMIT,
        parameters=(_UID_OF_PATH,),
        produces=_ANSWERS,
        statuses=(200, 202),
        errors=(404, 406),
        tag="Storage Commitment RS",
        schema="DataSet",
    ),
)
"""The rows of the route table."""
