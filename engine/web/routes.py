"""All routes: one table. What is served, what the documents say, and what is counted is made from it.

A new resource is a handler in a module of its own and a row here. Its path begins with DICOMWEB for what PS3.18 has,
with API for what it lacks.
"""

from __future__ import annotations

from engine.access import Action
from engine.web import changes, health, metrics, openapi, qido, rendered, wado_uri
from engine.web.api.routes import API_ROUTES
from engine.web.capabilities import CAPABILITIES, handler
from engine.web.commitment import ROUTES as COMMITMENT_ROUTES
from engine.web.deletion import ROUTES as DELETION_ROUTES
from engine.web.route import DICOMWEB, Route
from engine.web.stow import ROUTES as STOW_ROUTES
from engine.web.wado_routes import WADO_ROUTES

_RESOURCES: tuple[Route, ...] = (
    Route("GET", "/health/live", health.live, "Whether this server is alive", None, schema="Liveness"),
    Route(
        "GET",
        "/health/ready",
        health.ready,
        "Whether requests may be sent here",
        None,
        statuses=(200, 503),
        schema="Readiness",
    ),
    Route(
        "GET",
        "/metrics",
        metrics.metrics,
        "Figures of all processes for Prometheus",
        Action.OBSERVE,
        produces=("text/plain",),
    ),
    *changes.ROUTES,
    *qido.ROUTES,
    *WADO_ROUTES,
    *rendered.ROUTES,
    *wado_uri.ROUTES,
    *API_ROUTES,
    *STOW_ROUTES,
    *DELETION_ROUTES,
    *COMMITMENT_ROUTES,
)

_DESCRIBED: tuple[Route, ...] = (
    *_RESOURCES,
    *(
        Route(
            "OPTIONS",
            path,
            handler(_RESOURCES),
            "What this server can do (PS3.18 8.9)",
            None,
            produces=CAPABILITIES,
            errors=(406,),
            schema="Capabilities",
        )
        for path in ("/", DICOMWEB)
    ),
)

ROUTES: tuple[Route, ...] = (
    *_DESCRIBED,
    Route("GET", openapi.PATH, openapi.handler(_DESCRIBED), "This document", None, schema="OpenApi"),
)
"""Every route of the server."""
