"""OperationOutcome: what went wrong, for a client of FHIR (operationoutcome.html)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from engine.fhir.datatypes import Json

_CODES: Final = {
    HTTPStatus.BAD_REQUEST: "invalid",
    HTTPStatus.UNAUTHORIZED: "login",
    HTTPStatus.FORBIDDEN: "forbidden",
    HTTPStatus.NOT_FOUND: "not-found",
    HTTPStatus.METHOD_NOT_ALLOWED: "not-supported",
    HTTPStatus.NOT_ACCEPTABLE: "not-supported",
    HTTPStatus.GONE: "deleted",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too-costly",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "not-supported",
    HTTPStatus.UNPROCESSABLE_ENTITY: "business-rule",
    HTTPStatus.TOO_MANY_REQUESTS: "throttled",
    HTTPStatus.SERVICE_UNAVAILABLE: "transient",
}


def of_error(status: int, text: str) -> Json:
    """The outcome of a request that failed with this status."""
    return _outcome("error", _CODES.get(HTTPStatus(status), "exception"), text)


def of_warning(text: str) -> Json:
    """The outcome of a search of which a part was ignored."""
    return _outcome("warning", "not-supported", text)


def _outcome(severity: str, code: str, text: str) -> Json:
    issue = {"severity": severity, "code": code, "diagnostics": text or "no details"}
    return {"resourceType": "OperationOutcome", "issue": [issue]}
