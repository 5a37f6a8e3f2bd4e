"""The table of all routes, from which requests are dispatched, documented and counted.

To add a resource, write a handler in a module of its own and add a row here. Its path begins with DICOMWEB if PS3.18
has the resource, else FHIR if it is one of FHIR, else with API.
"""

from __future__ import annotations

from engine.access import Action
from engine.web import changes, docs, health, metrics, openapi, page_files, qido, rendered, viewer_files, wado_uri
from engine.web.api.routes import API_ROUTES
from engine.web.capabilities import CAPABILITIES, handler
from engine.web.commitment import ROUTES as COMMITMENT_ROUTES
from engine.web.deletion import ROUTES as DELETION_ROUTES
from engine.web.fhir.routes import FHIR_ROUTES
from engine.web.route import DICOMWEB, Route
from engine.web.stow import ROUTES as STOW_ROUTES
from engine.web.wado_routes import WADO_ROUTES
from engine.web.workitem_channel import ROUTES as CHANNEL_ROUTES
from engine.web.workitem_subscribers import ROUTES as SUBSCRIBER_ROUTES
from engine.web.workitems import ROUTES as WORKITEM_ROUTES

_RESOURCES: tuple[Route, ...] = (
    Route("GET", "/health/live", health.live, "Whether this server is alive", None, schema="Liveness"),
    Route(
        "GET",
        "/health/ready",
        health.ready,
        "Whether this server is ready for requests",
        None,
        statuses=(200, 503),
        schema="Readiness",
    ),
    Route(
        "GET",
        "/metrics",
        metrics.metrics,
        "Metrics of all processes for Prometheus",
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
    *WORKITEM_ROUTES,
    *SUBSCRIBER_ROUTES,
    *CHANNEL_ROUTES,
    *FHIR_ROUTES,
    *page_files.ROUTES,
    *docs.ROUTES,
    *viewer_files.ROUTES,
)

_DOCUMENTED: tuple[Route, ...] = (
    *_RESOURCES,
    *(
        Route(
            "OPTIONS",
            path,
            handler(_RESOURCES),
            "The capabilities of this server (PS3.18 8.9)",
            None,
            produces=CAPABILITIES,
            errors=(406,),
            schema="Capabilities",
        )
        for path in ("/", DICOMWEB)
    ),
)

ROUTES: tuple[Route, ...] = (
    *_DOCUMENTED,
    Route("GET", openapi.PATH, openapi.handler(_DOCUMENTED), "This document", None, schema="OpenApi"),
)
"""Every route of the server."""
