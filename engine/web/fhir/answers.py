"""Answers of FHIR: resources in the release that the client asks for, and errors as OperationOutcome."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson
from aiohttp import web

from engine.errors import NotAcceptable
from engine.fhir import outcome
from engine.fhir.release import Release, release_of
from engine.web.route import FHIR

if TYPE_CHECKING:
    from engine.fhir.datatypes import Json
    from engine.web.request import Request

TYPES: Final = tuple(release.content_type for release in Release)


def asked_release(request: Request) -> Release:
    """The release of the answer. Raises NotAcceptable."""
    return release_of(request.headers.get("Accept", ""), request.query.get("_format", ""))


def answer(request: Request, resource: Json, release: Release) -> web.Response:
    """A resource as the answer."""
    option = orjson.OPT_INDENT_2 if request.query.get("_pretty") == "true" else 0
    headers = {"Content-Type": release.content_type, "Cache-Control": "private, no-cache", "Vary": "Accept"}
    return web.Response(body=orjson.dumps(resource, option=option), headers=headers)


def root_of(request: Request) -> str:
    """The address of FHIR on this server, as its client sees it."""
    return request.root + FHIR


def is_fhir(request: Request) -> bool:
    """Whether a request is one of FHIR, of which errors are outcomes too."""
    return f"{request.raw_path.partition('?')[0]}/".startswith(f"{FHIR}/")


def as_outcome(request: Request, problem: web.Response) -> web.Response:
    """An error of the server, a problem document, as an OperationOutcome."""
    assert isinstance(problem.body, bytes)
    facts = orjson.loads(problem.body)
    try:
        release = asked_release(request)
    except NotAcceptable:
        release = Release.R4
    resource = outcome.of_error(problem.status, f"{facts['detail']} (request {facts['request_id']})")
    problem.body = orjson.dumps(resource)
    problem.headers["Content-Type"] = release.content_type
    return problem
