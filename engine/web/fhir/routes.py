"""The routes of FHIR, which are part of the route table (`web.routes`), and what the server says of itself."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from engine import __version__
from engine.access import Action, Records
from engine.errors import RequestError
from engine.fhir.conformance import capability_statement, endpoint
from engine.fhir.imaging_study import ENDPOINT_ID
from engine.fhir.order_search import SERVICE_REQUEST, TASK
from engine.fhir.record_search import AUDIT_EVENT, PROVENANCE
from engine.fhir.report_search import DIAGNOSTIC_REPORT
from engine.fhir.search import IMAGING_STUDY, PATIENT
from engine.fhir.subscription_search import SUBSCRIPTION
from engine.web.errors import NotFound
from engine.web.fhir import (
    export,
    imaging_studies,
    orders,
    patients,
    records,
    reports,
    subscription_channel,
    subscriptions,
)
from engine.web.fhir.answers import TYPES, answer, asked_release, read_answer, root_of
from engine.web.fhir.parameters import FORM
from engine.web.fhir.smart import WELL_KNOWN
from engine.web.fhir.smart import configuration as smart_configuration
from engine.web.route import DICOMWEB, FHIR, Handler, Parameter, Route

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from engine.fhir.search import Parameter as SearchParameter
    from engine.web.request import Request

_STARTED: Final = datetime.now(UTC).isoformat(timespec="seconds")


async def _metadata(request: Request) -> web.Response:
    release = asked_release(request)
    mode = request.query.get("mode", "full")
    if mode not in ("full", "normative"):
        raise RequestError("mode: must be full or normative")
    has_tokens = request.engine.identities.accepts_tokens
    statement = capability_statement(release, __version__, _STARTED, root_of(request), has_tokens=has_tokens)
    return answer(request, statement, release)


async def _endpoint(request: Request) -> web.Response:
    if request.path_values["id"] != ENDPOINT_ID:
        raise NotFound("there is no endpoint with this id")
    release = asked_release(request)
    return read_answer(request, endpoint(release, request.root + DICOMWEB), release)


def _described(parameters: Mapping[str, SearchParameter]) -> tuple[Parameter, ...]:
    controls = (
        Parameter("_count", "Matches on a page"),
        Parameter("_elements", "The only elements to return, beside mandatory ones"),
        Parameter("_total", "Whether to count all matches", options=("none", "estimate", "accurate")),
    )
    return (*(Parameter(name, each.text) for name, each in parameters.items()), *controls)


def _route(
    path: str,
    handler: Handler,
    summary: str,
    parameters: tuple[Parameter, ...] = (),
    *,
    method: str = "GET",
    action: Action | None = Action.QUERY,
) -> Route:
    kind, _, rest = path.lstrip("/").partition("/")
    if kind == "Endpoint":  # where the images of a study are: whoever may read studies may read it
        kind = "ImagingStudy"
    return Route(
        method,
        FHIR + path,
        handler,
        summary,
        action,
        parameters,
        consumes=(FORM,) if method == "POST" else (),
        produces=TYPES,
        statuses=(200, 304) if method == "GET" else (200,),
        errors=(404, 406, 410, 413),
        error_form="OperationOutcome",
        tag="FHIR",
        target=Records(kind, "r" if rest not in ("", "_search") else "s"),
    )


def _orders(kind: str, read: Handler, search: Handler, parameters: Mapping[str, SearchParameter]) -> tuple[Route, ...]:
    """The routes of a kind of resource that is made of orders."""
    what, action = ("orders" if kind == "ServiceRequest" else "scheduled steps"), Action.WORKLIST
    return (
        _route(f"/{kind}", search, f"Search for {what}", _described(parameters), action=action),
        _route(f"/{kind}/_search", search, f"Search for {what}", method="POST", action=action),
        _route(f"/{kind}/{{id}}", read, f"One of the {what}", action=action),
    )


def _records(
    kind: str, search: Handler, parameters: Mapping[str, SearchParameter], summary: str, action: Action
) -> tuple[Route, ...]:
    """The routes of a search."""
    return (
        _route(f"/{kind}", search, summary, _described(parameters), action=action),
        _route(f"/{kind}/_search", search, summary, method="POST", action=action),
    )


_EXPORT_PARAMETERS: Final = (
    Parameter("_type", "Kinds of resources: ImagingStudy, Patient"),
    Parameter("_since", "Only studies that arrived at this instant or later, and their patients"),
    Parameter("_outputFormat", "application/fhir+ndjson"),
)
_KIND: Final = Parameter("kind", "Kind of resources", "path", is_required=True, options=export.KINDS)
_IMAGES: Final = Records("ImagingStudy", "s")
_EXPORT_ROUTES: Final = (
    *(
        Route(
            "GET",
            f"{FHIR}{path}/$export",
            export.begin,
            "Begin an export of everything that the client may see",
            Action.QUERY,
            _EXPORT_PARAMETERS,
            statuses=(202,),
            errors=(406, 503),
            error_form="OperationOutcome",
            tag="FHIR",
            target=_IMAGES,
        )
        for path in ("", "/Patient")
    ),
    *(
        Route(
            method,
            f"{FHIR}{export.STATUS}/{{id}}{path}",
            handler,
            summary,
            Action.QUERY,
            (_KIND,) if path else (),
            produces=(produces,),
            statuses=(status,),
            errors=(404,),
            error_form="OperationOutcome",
            tag="FHIR",
            target=_IMAGES,
        )
        for method, path, handler, summary, produces, status in (
            ("GET", "", export.status, "The files of an export", "application/json", 200),
            ("DELETE", "", export.cancel, "Forget an export", "application/json", 202),
            ("GET", "/{kind}", export.file, "All resources of a kind", export.NDJSON, 200),
        )
    ),
)

_NUMBERS: Final = (
    Parameter("eventsSinceNumber", "The first event", schema="integer"),
    Parameter("eventsUntilNumber", "The last event", schema="integer"),
    Parameter("content", "Whether the resources are named", options=("empty", "id-only")),
)


def _subscription(
    method: str,
    path: str,
    handler: Handler,
    summary: str,
    interaction: str,
    parameters: tuple[Parameter, ...] = (),
    *,
    status: int = 200,
) -> Route:
    return Route(
        method,
        f"{FHIR}/Subscription{path}",
        handler,
        summary,
        Action.QUERY,
        parameters,
        consumes=subscriptions.TYPES if method in ("POST", "PUT") else (),
        produces=TYPES if status != 204 else (),
        statuses=(200, 304) if method == "GET" else (status,),
        errors=(404, 406, 413, 415, 422, 503) if method in ("POST", "PUT") else (404, 406, 422),
        error_form="OperationOutcome",
        tag="FHIR",
        target=Records("Subscription", interaction),
    )


_SUBSCRIPTION_ROUTES: Final = (
    _route("/SubscriptionTopic", subscriptions.search_topics, "What one can subscribe to (R5)"),
    _route("/SubscriptionTopic/{id}", subscriptions.read_topic, "A topic (R5)"),
    _subscription("GET", "", subscriptions.search, "Search for one's subscriptions", "s", _described(SUBSCRIPTION)),
    _route("/Subscription/_search", subscriptions.search, "Search for one's subscriptions", method="POST"),
    _subscription("POST", "", subscriptions.create, "Subscribe to a topic", "c", status=201),
    _subscription(
        "GET", "/$status", subscriptions.status, "The state of subscriptions", "r", (Parameter("id", "Of which"),)
    ),
    _subscription("GET", "/{id}", subscriptions.read_one, "A subscription", "r"),
    _subscription("PUT", "/{id}", subscriptions.update, "Change a subscription, stop it, resume it", "u"),
    _subscription("DELETE", "/{id}", subscriptions.delete, "End a subscription", "d", status=204),
    _subscription("GET", "/{id}/$status", subscriptions.status, "The state of a subscription", "r"),
    _subscription("GET", "/{id}/$events", subscriptions.events, "Events of a subscription again", "r", _NUMBERS),
    _subscription(
        "GET", "/{id}/$get-ws-binding-token", subscription_channel.binding_token, "A token for the WebSocket", "r"
    ),
    Route(
        "GET",
        subscription_channel.PATH,
        subscription_channel.channel,
        "Notifications of subscriptions, as a WebSocket",
        None,
        produces=(),
        statuses=(101,),
        errors=(403, 503),
        error_form="OperationOutcome",
        tag="FHIR",
    ),
)

FHIR_ROUTES: Final = (
    Route(
        "GET",
        FHIR + WELL_KNOWN,
        smart_configuration,
        "Where clients get tokens, and for which scopes (SMART)",
        None,
        errors=(404, 503),
        error_form="OperationOutcome",
        tag="FHIR",
    ),
    *_EXPORT_ROUTES,
    *_SUBSCRIPTION_ROUTES,
    _route("/metadata", _metadata, "What this server does", action=None),
    _route("/ImagingStudy", imaging_studies.search, "Search for studies", _described(IMAGING_STUDY)),
    _route("/ImagingStudy/_search", imaging_studies.search, "Search for studies", method="POST"),
    _route("/ImagingStudy/{study}", imaging_studies.read, "A study with its series and instances"),
    *_records("DiagnosticReport", reports.search, DIAGNOSTIC_REPORT, "Search for reports", Action.QUERY),
    _route("/DiagnosticReport/{id}", reports.read, "A report, with the addresses of its document"),
    _route("/Patient", patients.search, "Search for patients", _described(PATIENT)),
    _route("/Patient/_search", patients.search, "Search for patients", method="POST"),
    _route("/Patient/{id}", patients.read, "A patient"),
    *_orders("ServiceRequest", orders.read_request, orders.search_requests, SERVICE_REQUEST),
    *_orders("Task", orders.read_task, orders.search_tasks, TASK),
    *_records("Provenance", records.search_provenance, PROVENANCE, "Where studies come from", Action.QUERY),
    *_records("AuditEvent", records.search_events, AUDIT_EVENT, "Search the audit log", Action.AUDIT),
    _route("/AuditEvent/{id}", records.read_event, "An event of the audit log", action=Action.AUDIT),
    _route("/Endpoint/{id}", _endpoint, "Where the images are"),
)
