"""DICOMweb: transactions of PS3.18, from the table of routes."""

from __future__ import annotations

from collections.abc import Iterator

from engine.reports.document import Section, table
from engine.web.route import DICOMWEB, Route
from engine.web.routes import ROUTES


def section() -> Section:
    """All routes that PS3.18 has."""
    return Section(
        "DICOMweb",
        (
            "Every transaction as origin server, over HTTP/1.1. The parameters are described in /openapi.json of a"
            " running server.",
        ),
        (table("method | path | transaction | media types of answers | of requests | statuses", _rows()),),
    )


def route_count() -> int:
    """Transactions."""
    return len(_dicomweb())


def _dicomweb() -> list[Route]:
    return [route for route in ROUTES if route.path.startswith(DICOMWEB) or route.path == "/wado"]


def _rows() -> Iterator[tuple[str, ...]]:
    for route in _dicomweb():
        yield (
            route.method,
            route.path,
            route.summary,
            ", ".join(route.produces),
            ", ".join(route.consumes),
            ", ".join(map(str, (*route.statuses, *route.errors))),
        )
