"""Errors as HTTP answers, as `dimse.status` maps them for DIMSE.

An error is answered with a problem document (RFC 9457): status, title, detail, and the id of the request, which is also
in the log. It has no patient data: the errors of this engine name keys, UIDs and offsets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Final

import orjson
from aiohttp import web
from aiohttp.http_exceptions import InvalidURLError, LineTooLong

from engine.errors import (
    AccountsConflict,
    AccountsError,
    AccountsRefused,
    ArchiveInUse,
    ArchiveReadOnly,
    AssociationFailed,
    AuditUnavailable,
    CatalogBehind,
    ClusterError,
    CommitmentError,
    CorrectionRefused,
    CursorRefused,
    DataSetError,
    DeletionRefused,
    EngineError,
    FeedDamaged,
    FeedError,
    Fenced,
    FramesUnreadable,
    IdentityRefused,
    IdentityUnavailable,
    IndexError_,
    InstanceRefused,
    JobError,
    JobsFull,
    LeaseLost,
    MemoryShort,
    NoSuchAccount,
    NoSuchFrame,
    NotAcceptable,
    NotAllowed,
    NotInTrash,
    NotStored,
    QuarantineError,
    QueryError,
    Refusal,
    RequestError,
    StorageError,
    StorageFull,
    StoreUnreachable,
    TranscodeError,
)

PROBLEM = "application/problem+json"

RETRY_S = 5
"""The default Retry-After."""


class HttpError(EngineError):
    """An error with its own status; the message is the detail of the problem document."""

    def __init__(
        self,
        status: int,
        detail: str,
        headers: Mapping[str, str] | None = None,
        facts: Mapping[str, object] | None = None,
    ) -> None:
        """`facts`: further members of the problem document."""
        super().__init__(detail)
        self.status = status
        self.headers = dict(headers or {})
        self.facts = dict(facts or {})


class NotFound(HttpError):
    """There is no such resource."""

    def __init__(self, detail: str) -> None:
        super().__init__(HTTPStatus.NOT_FOUND, detail)


class Gone(HttpError):
    """The resource existed and was deleted."""

    def __init__(self, detail: str) -> None:
        super().__init__(HTTPStatus.GONE, detail)


class PreconditionFailed(HttpError):
    """The resource is not what the client takes it for."""

    def __init__(self, detail: str) -> None:
        super().__init__(HTTPStatus.PRECONDITION_FAILED, detail)


class UnsupportedMediaType(HttpError):
    """The resource does not accept a body of this type."""

    def __init__(self, detail: str) -> None:
        super().__init__(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail)


class TooLarge(HttpError):
    """The body, or the requested result, is too large."""

    def __init__(self, detail: str) -> None:
        super().__init__(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)


class Unavailable(HttpError):
    """The request cannot be served now; the client may retry."""

    def __init__(self, detail: str, retry_s: int = RETRY_S) -> None:
        super().__init__(HTTPStatus.SERVICE_UNAVAILABLE, detail, {"Retry-After": str(retry_s)})


ERROR_STATUS: Final[Mapping[type[BaseException], int]] = MappingProxyType(
    {
        AccountsConflict: HTTPStatus.CONFLICT,
        AccountsError: HTTPStatus.INTERNAL_SERVER_ERROR,
        AccountsRefused: HTTPStatus.BAD_REQUEST,
        ArchiveInUse: HTTPStatus.CONFLICT,
        ArchiveReadOnly: HTTPStatus.FORBIDDEN,
        AssociationFailed: HTTPStatus.BAD_GATEWAY,
        AuditUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
        CatalogBehind: HTTPStatus.SERVICE_UNAVAILABLE,
        ClusterError: HTTPStatus.SERVICE_UNAVAILABLE,
        LeaseLost: HTTPStatus.SERVICE_UNAVAILABLE,
        CommitmentError: HTTPStatus.NOT_FOUND,
        CorrectionRefused: HTTPStatus.CONFLICT,
        CursorRefused: HTTPStatus.GONE,
        DataSetError: HTTPStatus.BAD_REQUEST,
        DeletionRefused: HTTPStatus.CONFLICT,
        Fenced: HTTPStatus.SERVICE_UNAVAILABLE,
        FeedDamaged: HTTPStatus.INTERNAL_SERVER_ERROR,
        FeedError: HTTPStatus.NOT_FOUND,
        FramesUnreadable: HTTPStatus.NOT_ACCEPTABLE,
        IndexError_: HTTPStatus.INTERNAL_SERVER_ERROR,
        JobError: HTTPStatus.NOT_FOUND,
        IdentityRefused: HTTPStatus.UNAUTHORIZED,
        IdentityUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
        JobsFull: HTTPStatus.SERVICE_UNAVAILABLE,
        MemoryError: HTTPStatus.SERVICE_UNAVAILABLE,
        MemoryShort: HTTPStatus.SERVICE_UNAVAILABLE,
        NotAcceptable: HTTPStatus.NOT_ACCEPTABLE,
        NotAllowed: HTTPStatus.FORBIDDEN,
        NotInTrash: HTTPStatus.NOT_FOUND,
        NotStored: HTTPStatus.NOT_FOUND,
        QuarantineError: HTTPStatus.NOT_FOUND,
        QueryError: HTTPStatus.BAD_REQUEST,
        RequestError: HTTPStatus.BAD_REQUEST,
        NoSuchAccount: HTTPStatus.NOT_FOUND,
        NoSuchFrame: HTTPStatus.NOT_FOUND,
        StorageError: HTTPStatus.INTERNAL_SERVER_ERROR,
        StorageFull: HTTPStatus.INSUFFICIENT_STORAGE,
        StoreUnreachable: HTTPStatus.SERVICE_UNAVAILABLE,
        TranscodeError: HTTPStatus.NOT_ACCEPTABLE,
    }
)
"""Error → status; the nearest base class counts, and other errors are our own fault: 500."""

_REFUSALS: Final[Mapping[Refusal, int]] = {
    Refusal.CANNOT_UNDERSTAND: HTTPStatus.BAD_REQUEST,
    Refusal.MISMATCH: HTTPStatus.CONFLICT,
    Refusal.OUT_OF_RESOURCES: HTTPStatus.SERVICE_UNAVAILABLE,
    Refusal.NOT_AUTHORIZED: HTTPStatus.FORBIDDEN,
    Refusal.OTHER_STUDY: HTTPStatus.CONFLICT,
    Refusal.TRANSFER_SYNTAX: HTTPStatus.CONFLICT,
    Refusal.SOP_CLASS: HTTPStatus.CONFLICT,
}


def status_of(error: BaseException) -> int:
    """The status of the answer to a request that ended with `error`."""
    if isinstance(error, HttpError):
        return error.status
    if isinstance(error, InstanceRefused):
        return _REFUSALS[error.refusal]
    for base in type(error).__mro__:
        if base in ERROR_STATUS:
            return ERROR_STATUS[base]
    return HTTPStatus.INTERNAL_SERVER_ERROR


def problem(error: BaseException, request_id: str) -> web.Response:
    """The answer to a request that ended with `error`."""
    status = status_of(error)
    headers = dict(error.headers) if isinstance(error, HttpError) else {}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        retry_s = math.ceil(error.retry_s) if isinstance(error, StoreUnreachable) else RETRY_S
        headers.setdefault("Retry-After", str(retry_s))
    # The message of an internal error goes to the log only: it may name files.
    is_internal = status == HTTPStatus.INTERNAL_SERVER_ERROR
    detail = "an error of this server; its log has details for this request id" if is_internal else str(error)
    facts = error.facts if isinstance(error, HttpError) else {}
    return problem_response(status, detail, request_id, headers, facts)


def problem_response(
    status: int,
    detail: str,
    request_id: str,
    headers: Mapping[str, str] | None = None,
    facts: Mapping[str, object] | None = None,
) -> web.Response:
    """Makes a problem document."""
    title = HTTPStatus(status).phrase
    # A missing instance may be stored tomorrow, but RFC 9111 lets caches store a 404 or 410.
    headers = {"Cache-Control": "no-store", **(headers or {})}
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, "request_id": request_id}
    body |= facts or {}
    return web.Response(status=status, body=orjson.dumps(body), content_type=PROBLEM, headers=headers)


def parser_reason(error: BaseException | None) -> str:
    """Why aiohttp's parser refused some bytes; without a URL, which may name a patient."""
    if isinstance(error, LineTooLong):
        return "its first line or a header is too long"
    if isinstance(error, InvalidURLError):
        return "invalid URL"
    return str(getattr(error, "message", "")).partition("\n")[0].strip().rstrip(":")
