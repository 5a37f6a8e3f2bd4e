"""Answers of FHIR: resources in the release that the client asks for, and errors as OperationOutcome."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import orjson
from aiohttp import web

from engine.errors import NotAcceptable, RequestError
from engine.fhir import outcome
from engine.fhir.elements import only
from engine.fhir.release import Release, release_of
from engine.fhir.search import parse
from engine.web.conditional import is_unchanged
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
    body = orjson.dumps(resource, option=option)
    headers = {"Content-Type": release.content_type, "Cache-Control": "private, no-cache", "Vary": "Accept"}
    if request.method in ("GET", "HEAD"):
        digest = hashlib.blake2b(body, digest_size=12, person=release.value.encode()).hexdigest()
        headers["ETag"] = f'W/"{digest}"'  # weak: of the content, since resources have no versions
        if is_unchanged(request.headers, headers["ETag"]):
            del headers["Content-Type"]
            return web.Response(status=304, headers=headers)
    return web.Response(body=body, headers=headers)


def read_answer(request: Request, resource: Json, release: Release) -> web.Response:
    """A resource that was read by its id, with the elements that are asked for. Raises RequestError."""
    names = ("_elements", "_summary")
    shape = parse({}, [pair for pair in request.query.items() if pair[0] in names], "", is_lenient=False)
    if not shape.count:
        raise RequestError("_summary: count is for searches")
    return answer(request, only(resource, shape.elements), release)


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
