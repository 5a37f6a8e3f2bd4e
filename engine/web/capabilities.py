"""OPTIONS: the capabilities of this server, derived from the routes (PS3.18 8.9 and Annex H).

application/vnd.sun.wadl+xml    a WADL document, the default
application/json                the same as JSON: each element an object, attributes prefixed with @
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import orjson
from aiohttp import web

from engine.web.accept import Offer, negotiate

if TYPE_CHECKING:
    from engine.web.request import Request
    from engine.web.route import Handler, Parameter, Route

WADL = "application/vnd.sun.wadl+xml"
CAPABILITIES = (WADL, "application/json")
_OFFERS = tuple(map(Offer, CAPABILITIES))
NAMESPACE = "http://wadl.dev.java.net/2009/02"
_STYLES = {"path": "template", "query": "query", "header": "header"}


def handler(routes: Iterable[Route]) -> Handler:
    """Makes a handler that describes these routes."""
    resources = by_path(routes)
    methods = {route.method for of_path in resources.values() for route in of_path}

    async def capabilities(request: Request) -> web.Response:
        media_type = negotiate(_OFFERS, request.headers.get("Accept"), request.query.getall("accept", []))[
            0
        ].offer.media_type
        headers = {"Allow": ", ".join(sorted(methods | {"HEAD", "OPTIONS"})), "Vary": "Accept"}
        if media_type == "application/json":
            body = orjson.dumps(as_json(resources, request.root))
            return web.Response(body=body, content_type="application/json", headers=headers)
        return web.Response(body=as_wadl(resources, request.root), content_type=WADL, headers=headers)

    return capabilities


def by_path(routes: Iterable[Route]) -> dict[str, list[Route]]:
    """Routes by template, in the order of the table."""
    resources: dict[str, list[Route]] = {}
    for route in routes:
        resources.setdefault(route.path, []).append(route)
    return resources


def as_json(resources: dict[str, list[Route]], root: str) -> dict[str, Any]:
    """The document in the form of PS3.18 H.4."""
    descriptions = [
        {"@path": path.lstrip("/"), "method": [_method_json(route) for route in routes]}
        for path, routes in resources.items()
    ]
    return {"application": {"resources": {"@base": f"{root}/", "resource": descriptions}}}


def as_wadl(resources: dict[str, list[Route]], root: str) -> bytes:
    """The document in the form of PS3.18 H.3."""
    application = ElementTree.Element("application", xmlns=NAMESPACE)
    whole = ElementTree.SubElement(application, "resources", base=f"{root}/")
    for path, routes in resources.items():
        resource = ElementTree.SubElement(whole, "resource", path=path.lstrip("/"))
        for route in routes:
            _add_method(resource, route)
    document: bytes = ElementTree.tostring(application, encoding="utf-8", xml_declaration=True)
    return document


def _add_method(resource: ElementTree.Element, route: Route) -> None:
    method = ElementTree.SubElement(resource, "method", name=route.method, id=route.identifier)
    ElementTree.SubElement(method, "doc").text = route.summary
    request = ElementTree.SubElement(method, "request")
    for parameter in route.all_parameters:
        attributes = {"name": parameter.name, "style": _STYLES[parameter.place], "required": _truth(parameter)}
        param = ElementTree.SubElement(request, "param", attributes)
        ElementTree.SubElement(param, "doc").text = parameter.summary
        for option in parameter.options:
            ElementTree.SubElement(param, "option", value=option)
    for media_type in route.consumes:
        ElementTree.SubElement(request, "representation", mediaType=media_type)
    response = ElementTree.SubElement(method, "response", status=" ".join(map(str, route.statuses)))
    for media_type in route.produces:
        ElementTree.SubElement(response, "representation", mediaType=media_type)


def _method_json(route: Route) -> dict[str, Any]:
    parameters = [
        {
            "@name": parameter.name,
            "@style": _STYLES[parameter.place],
            "@required": parameter.is_required,
            "doc": parameter.summary,
            **({"option": [{"@value": option} for option in parameter.options]} if parameter.options else {}),
        }
        for parameter in route.all_parameters
    ]
    return {
        "@name": route.method,
        "@id": route.identifier,
        "doc": route.summary,
        "request": {"param": parameters, "representation": [{"@mediaType": kind} for kind in route.consumes]},
        "response": [
            {
                "@status": " ".join(map(str, route.statuses)),
                "representation": [{"@mediaType": kind} for kind in route.produces],
            }
        ],
    }


def _truth(parameter: Parameter) -> str:
    return "true" if parameter.is_required else "false"
