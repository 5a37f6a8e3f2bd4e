"""CapabilityStatement and Endpoint: what this server is (capabilitystatement.html, endpoint.html)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from engine.fhir.datatypes import Json
from engine.fhir.imaging_study import ENDPOINT_ID
from engine.fhir.order_search import SERVICE_REQUEST, TASK
from engine.fhir.record_search import AUDIT_EVENT, PROVENANCE
from engine.fhir.release import Release
from engine.fhir.report_search import DIAGNOSTIC_REPORT
from engine.fhir.search import IMAGING_STUDY, PATIENT, Parameter
from engine.fhir.subscription_search import SUBSCRIPTION
from engine.fhir.subscription_topic import TOPICS

_CONNECTION: Final = "http://terminology.hl7.org/CodeSystem/endpoint-connection-type"
_RESOURCES: Final[Mapping[str, Mapping[str, Parameter]]] = {
    "ImagingStudy": IMAGING_STUDY,
    "DiagnosticReport": DIAGNOSTIC_REPORT,
    "Patient": PATIENT,
    "ServiceRequest": SERVICE_REQUEST,
    "Task": TASK,
    "Provenance": PROVENANCE,
    "AuditEvent": AUDIT_EVENT,
}
_SEARCHED_ONLY: Final = ("Provenance",)
_BACKPORT: Final = "http://hl7.org/fhir/uv/subscriptions-backport/"
_TOPIC: Final = f"{_BACKPORT}StructureDefinition/capabilitystatement-subscriptiontopic-canonical"
_OPERATION_ROOT: Final = f"{_BACKPORT}OperationDefinition/backport-subscription-"
_OPERATIONS: Final = ("status", "events", "get-ws-binding-token")

_BULK_DATA: Final = "http://hl7.org/fhir/uv/bulkdata/"
_EXPORTS: Final[Mapping[str, str]] = {
    "": f"{_BULK_DATA}OperationDefinition/export",
    "Patient": f"{_BULK_DATA}OperationDefinition/patient-export",
}
"""Resource, or "" for the whole server: what defines its $export."""

_SMART: Final = {
    "system": "http://terminology.hl7.org/CodeSystem/restful-security-service",
    "code": "SMART-on-FHIR",
}
_SECURITY: Final = {
    "cors": True,
    "service": [{"coding": [_SMART]}],
    "description": "GET [base]/.well-known/smart-configuration",
}


def capability_statement(release: Release, version: str, date: str, root: str, *, has_tokens: bool) -> Json:
    """The statement of a server of this version, at this address. `has_tokens`: it takes those of SMART."""
    resources = [
        {
            "type": kind,
            "interaction": [*([] if kind in _SEARCHED_ONLY else [{"code": "read"}]), {"code": "search-type"}],
            "versioning": "no-version",
            "searchParam": [
                {"name": name, "type": parameter.kind, "documentation": parameter.text}
                for name, parameter in sorted(parameters.items())
                if parameter.kind != "special" and ":" not in name and "." not in name
            ],
            **_operations(kind),
            **{
                member: list(parameters[name].includes)
                for name, member in (("_include", "searchInclude"), ("_revinclude", "searchRevInclude"))
                if name in parameters
            },
        }
        for kind, parameters in _RESOURCES.items()
    ]
    resources += _subscriptions(release)
    resources.append({"type": "Endpoint", "interaction": [{"code": "read"}], "versioning": "no-version"})
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": date,
        "kind": "instance",
        "software": {"name": "Filmroom", "version": version},
        "implementation": {"description": "The images of this archive", "url": root},
        "fhirVersion": release.version,
        "format": ["json", "application/fhir+json"],
        "instantiates": [f"{_BULK_DATA}CapabilityStatement/bulk-data"],
        "rest": [
            {
                "mode": "server",
                **({"security": _SECURITY} if has_tokens else {}),
                "resource": resources,
                **_operations(""),
            }
        ],
    }


def _operations(kind: str) -> Json:
    """The operations on all resources of a kind, or on the whole server."""
    return {"operation": [{"name": "export", "definition": _EXPORTS[kind]}]} if kind in _EXPORTS else {}


def _subscriptions(release: Release) -> list[Json]:
    """Subscription, with its topics for R4, and SubscriptionTopic, which R5 has."""
    actions = ("read", "search-type", "create", "update", "delete")
    topics = [{"url": _TOPIC, "valueCanonical": topic.url} for topic in TOPICS.values()]
    found: list[Json] = [
        {
            **({"extension": topics} if release is Release.R4 else {}),
            "type": "Subscription",
            "interaction": [{"code": code} for code in actions],
            "versioning": "no-version",
            "searchParam": [
                {"name": name, "type": each.kind, "documentation": each.text} for name, each in SUBSCRIPTION.items()
            ],
            "operation": [{"name": name, "definition": f"{_OPERATION_ROOT}{name}"} for name in _OPERATIONS],
        }
    ]
    if release is Release.R5:
        reads = [{"code": "read"}, {"code": "search-type"}]
        found.append({"type": "SubscriptionTopic", "interaction": reads, "versioning": "no-version"})
    return found


def endpoint(release: Release, address: str) -> Json:
    """DICOMweb at this address."""
    kind = {"system": _CONNECTION, "code": "dicom-wado-rs"}
    payload = {"text": "DICOM WADO-RS"}
    is_r5 = release is Release.R5
    return {
        "resourceType": "Endpoint",
        "id": ENDPOINT_ID,
        "status": "active",
        "connectionType": [{"coding": [kind]}] if is_r5 else kind,
        **({"payload": [{"type": [payload]}]} if is_r5 else {"payloadType": [payload]}),
        "address": address,
    }
