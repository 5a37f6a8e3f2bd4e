"""GET /openapi.json: the OpenAPI 3.1 document of this server, derived from the routes.

Every route is an operation with its parameters, the media types of its body and of its answers, its statuses, and the
form of errors. Statuses that any request may get (400, 403, 421 …) are listed at each operation. HEAD, which every GET
supports, is not listed.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import msgspec
import orjson
from aiohttp import web

from engine import __version__
from engine.fhir.release import Release
from engine.web.errors import PROBLEM
from engine.web.route import Route
from engine.web.schemas import SCHEMAS, reference

if TYPE_CHECKING:
    from engine.web.request import Request
    from engine.web.route import Handler, Parameter

VERSION: Final = "3.1.0"
PATH: Final = "/openapi.json"

ERRORS_OF_ALL: Final = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.MISDIRECTED_REQUEST,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
"""Statuses that any request may get: see `front`."""
ERRORS_OF_BODIES: Final = (
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.INSUFFICIENT_STORAGE,
)
"""Statuses of routes that accept a body."""

ERROR_FORMS: Final = {"Problem": (PROBLEM,), "OperationOutcome": tuple(release.content_type for release in Release)}
"""The forms of errors, and their media types."""

_WITHOUT_BODY: Final = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED, HTTPStatus.PERMANENT_REDIRECT)
_MEANINGS: Final = {
    HTTPStatus.GONE: "It existed and was deleted",
    HTTPStatus.NOT_ACCEPTABLE: "It is not available in any accepted media type or transfer syntax",
    HTTPStatus.MISDIRECTED_REQUEST: "This server does not have the name in the header Host",
    HTTPStatus.TOO_MANY_REQUESTS: "Too many requests from this client; retry after Retry-After",
    HTTPStatus.SERVICE_UNAVAILABLE: "It cannot be served now; retry after Retry-After",
}


def handler(routes: Iterable[Route]) -> Handler:
    """Makes a handler that describes these routes."""
    all_routes = tuple(routes)

    async def openapi(request: Request) -> web.Response:
        body = orjson.dumps(document(all_routes, request.root))
        headers = {"Cache-Control": "no-cache"}
        return web.Response(body=body, content_type="application/json", headers=headers)

    return openapi


def document(routes: Iterable[Route], root: str) -> dict[str, Any]:
    """The document, for a server at this URL."""
    all_routes = tuple(routes)
    body_routes = [route for route in all_routes if route.body is not None]
    template = "#/components/schemas/{name}"
    bodies, components = msgspec.json.schema_components([route.body for route in body_routes], ref_template=template)
    body_of = {route.name: body for route, body in zip(body_routes, bodies, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for route in all_routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, body_of.get(route.name))
    return {
        "openapi": VERSION,
        "info": {
            "title": "Filmroom",
            "version": __version__,
            "description": "DICOMweb (PS3.18) and an API for everything else, for one archive.",
        },
        "servers": [{"url": root or "/"}],
        "paths": paths,
        "components": {
            "schemas": {**components, **SCHEMAS},
            "responses": {
                name: {
                    "description": "An error",
                    "content": {media_type: {"schema": reference(name)} for media_type in media_types},
                }
                for name, media_types in ERROR_FORMS.items()
            },
        },
    }


def _operation(route: Route, body: dict[str, Any] | None) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.identifier,
        "summary": route.summary,
        "tags": [route.tag],
        "responses": _responses(route),
    }
    if route.all_parameters:
        operation["parameters"] = [_parameter(parameter) for parameter in route.all_parameters]
    if route.consumes:
        content: dict[str, Any] = {media_type: {"schema": body} if body else {} for media_type in route.consumes}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _parameter(parameter: Parameter) -> dict[str, Any]:
    description: dict[str, Any] = {
        "name": parameter.name.strip("{}"),
        "in": parameter.place,
        "description": parameter.summary,
        "required": parameter.is_required,
    }
    if parameter.name.startswith("{"):
        # Any name: an object with a property for each parameter.
        values = {"type": "object", "additionalProperties": {"type": "string"}}
        return {**description, "schema": values, "style": "form", "explode": True}
    return {**description, "schema": _value(parameter)}


def _value(parameter: Parameter) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": parameter.schema}
    if parameter.options and parameter.schema != "boolean":
        schema["enum"] = list(parameter.options)
    if parameter.pattern:
        schema["pattern"] = parameter.pattern
    elif parameter.schema == "string" and parameter.place == "path":
        schema["minLength"] = 1
    elif parameter.schema == "integer":
        schema["minimum"] = 1 if parameter.place == "path" else 0
    return schema


def _responses(route: Route) -> dict[str, Any]:
    responses: dict[str, Any] = {str(status): _response(route, status) for status in route.statuses}
    errors: set[int] = {*ERRORS_OF_ALL, *route.errors, *(ERRORS_OF_BODIES if route.consumes else ())}
    if HTTPStatus.NOT_MODIFIED in route.statuses:  # it has an entity tag, which If-Match may ask for
        errors.add(HTTPStatus.PRECONDITION_FAILED)
    for status in sorted(errors):
        if str(status) not in responses:
            error = {"$ref": f"#/components/responses/{route.error_form}"}
            meaning = _MEANINGS.get(HTTPStatus(status))
            responses[str(status)] = {**error, "description": meaning} if meaning else error
    return responses


def _response(route: Route, status: int) -> dict[str, Any]:
    response: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if status not in _WITHOUT_BODY:
        response["content"] = {media_type: _content(route, media_type) for media_type in route.produces}
    if status >= HTTPStatus.BAD_REQUEST:
        # The resource has its own form for errors, but errors of the front are problem documents.
        response["content"][PROBLEM] = {"schema": reference("Problem")}
    return response


def _content(route: Route, media_type: str) -> dict[str, Any]:
    if media_type.endswith(("/json", "+json")) and route.schema:
        return {"schema": reference(route.schema)}
    return {}
