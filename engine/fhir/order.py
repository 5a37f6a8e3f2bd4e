"""ServiceRequest and Task of an order and its steps, with the attributes of worklist entries (R4, R5).

    order     ServiceRequest    id: the number of the order here      intent order
    step      Task              id: the number of the step here       focus, basedOn: the order

    active | revoked | completed                       canceled and discontinued orders are revoked
    SCHEDULED  ARRIVED READY     STARTED      COMPLETED  CANCELED   DISCONTINUED  DEPARTED
    requested  ready   ready     in-progress  completed  cancelled  failed        in-progress

The patient is named by identifiers and has no address: an order may come before any study of its patient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from engine.dicom import tags
from engine.fhir.datatypes import (
    DCM,
    Attributes,
    Json,
    coding,
    concept,
    display_name,
    identifier,
    moment,
    system_of,
    text_of,
    without_empty,
)
from engine.fhir.release import Release

ORDER_ATTRIBUTES: Final = (
    tags.PatientID, tags.IssuerOfPatientID, tags.PatientName, tags.AccessionNumber,
    tags.PlacerOrderNumberImagingServiceRequest, tags.FillerOrderNumberImagingServiceRequest,
    tags.RequestedProcedureDescription, tags.RequestedProcedurePriority, tags.ReferringPhysicianName,
    tags.RequestingPhysician, tags.ReasonForTheRequestedProcedure, tags.ReasonForTheImagingServiceRequest,
    tags.RequestedProcedureComments, tags.StudyInstanceUID,
)  # fmt: skip
STEP_ATTRIBUTES: Final = (
    tags.ScheduledProcedureStepID, tags.ScheduledProcedureStepStatus, tags.ScheduledProcedureStepDescription,
    tags.ScheduledStationAETitle, tags.ScheduledProcedureStepStartDate, tags.ScheduledProcedureStepStartTime,
    tags.ScheduledProcedureStepLocation, tags.Modality,
)  # fmt: skip
TASK_STATES: Final = {
    "SCHEDULED": "requested",
    "ARRIVED": "ready",
    "READY": "ready",
    "STARTED": "in-progress",
    "DEPARTED": "in-progress",
    "COMPLETED": "completed",
    "CANCELED": "cancelled",
    "DISCONTINUED": "failed",
}
_PRIORITIES: Final = {"STAT": "stat", "HIGH": "urgent", "ROUTINE": "routine", "MEDIUM": "routine", "LOW": "routine"}
_IMAGING: Final = concept("http://snomed.info/sct", "363679005", "Imaging")


@dataclass(frozen=True, slots=True)
class Step:
    """A scheduled step."""

    id: str
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Order:
    """All that a resource needs of an order; its attributes are those of its first entry, or of the order alone."""

    id: str
    attributes: Attributes
    steps: Sequence[Step]
    final: str = ""
    """canceled, discontinued, completed, or that it is none of them yet."""
    created: str = ""
    """When it came: an instant."""
    codes: Sequence[tuple[str, str, str]] = ()
    """System, code and meaning of what is requested."""


def request_status(order: Order) -> str:
    """The status of a ServiceRequest."""
    if order.final:
        return "completed" if order.final == "completed" else "revoked"
    states = {task_status(step) for step in order.steps}
    return "completed" if states == {"completed"} else "active"


def task_status(step: Step) -> str:
    """The status of a Task."""
    return TASK_STATES.get(text_of(step.attributes, tags.ScheduledProcedureStepStatus), "requested")


def service_request(order: Order, release: Release) -> Json:
    """The order."""
    values = order.attributes
    is_r5 = release is Release.R5
    code = without_empty(
        {
            "coding": [coding(*each) for each in order.codes],
            "text": text_of(values, tags.RequestedProcedureDescription),
        }
    )
    reason = text_of(values, tags.ReasonForTheRequestedProcedure) or text_of(
        values, tags.ReasonForTheImagingServiceRequest
    )
    reasons = [{"text": reason}] if reason else []
    requester = display_name(text_of(values, tags.RequestingPhysician) or text_of(values, tags.ReferringPhysicianName))
    starts = sorted(filter(None, (_start(step) for step in order.steps)))
    note = text_of(values, tags.RequestedProcedureComments)
    return {
        "resourceType": "ServiceRequest",
        **without_empty(
            {
                "id": order.id,
                "identifier": [
                    each for tag, kind in _NUMBERS.items() if (each := identifier(text_of(values, tag), kind=kind))
                ],
                "status": request_status(order),
                "intent": "order",
                "category": [_IMAGING],
                "priority": _PRIORITIES.get(text_of(values, tags.RequestedProcedurePriority), ""),
                "code": ({"concept": code} if is_r5 else code) if code else {},
                "subject": subject_of(values),
                "occurrenceDateTime": starts[0] if starts else "",
                "authoredOn": order.created,
                "requester": {"display": requester} if requester else {},
                **({"reason": [{"concept": each} for each in reasons]} if is_r5 else {"reasonCode": reasons}),
                "note": [{"text": note}] if note else [],
            }
        ),
    }


def task(order: Order, step: Step, release: Release) -> Json:
    """A step of an order."""
    values = step.attributes
    state = text_of(values, tags.ScheduledProcedureStepStatus)
    start = _start(step)
    period = {"start": start}
    due: Json = {"requestedPeriod": period} if release is Release.R5 else {"restriction": {"period": period}}
    stations = [each for each in text_of(values, tags.ScheduledStationAETitle).split("\\") if each]
    modality = concept(DCM, text_of(values, tags.Modality))
    inputs: list[Json] = [{"type": {"text": "Modality"}, "valueCodeableConcept": modality}] if modality else []
    inputs += [{"type": {"text": "Scheduled Station AE Title"}, "valueString": each} for each in stations]
    place = text_of(values, tags.ScheduledProcedureStepLocation)
    return {
        "resourceType": "Task",
        **without_empty(
            {
                "id": step.id,
                "identifier": [*filter(None, [identifier(text_of(values, tags.ScheduledProcedureStepID))])],
                "basedOn": [{"reference": f"ServiceRequest/{order.id}"}],
                "status": task_status(step),
                "businessStatus": {"text": state} if state else {},
                "intent": "order",
                "code": {"text": "Scheduled procedure step"},
                "description": text_of(values, tags.ScheduledProcedureStepDescription),
                "focus": {"reference": f"ServiceRequest/{order.id}"},
                "for": subject_of(order.attributes),
                "authoredOn": order.created,
                "location": {"display": place} if place else {},
                **(due if start else {}),
                "input": inputs,
            }
        ),
    }


_NUMBERS: Final[Mapping[int, str]] = {
    tags.PlacerOrderNumberImagingServiceRequest: "PLAC",
    tags.FillerOrderNumberImagingServiceRequest: "FILL",
    tags.AccessionNumber: "ACSN",
}


SCHEMES: Final[Mapping[str, str]] = {
    "SCT": "http://snomed.info/sct",
    "LN": "http://loinc.org",
    "DCM": DCM,
    "RADLEX": "http://radlex.org",
}


def system_of_scheme(scheme: str) -> str:
    """The system of a coding scheme's codes; "" if none is known."""
    return SCHEMES.get(scheme, "")


def subject_of(values: Attributes) -> Json:
    """The patient, by identifier."""
    issuer = text_of(values, tags.IssuerOfPatientID)
    reference = without_empty(
        {
            "type": "Patient",
            "identifier": identifier(text_of(values, tags.PatientID), system_of(issuer), "MR", issuer),
            "display": display_name(text_of(values, tags.PatientName)),
        }
    )
    return reference if len(reference) > 1 else {**reference, "display": "unknown"}


def _start(step: Step) -> str:
    """When it is to begin: the date, as a step has no zone."""
    values = step.attributes
    return moment(
        text_of(values, tags.ScheduledProcedureStepStartDate), text_of(values, tags.ScheduledProcedureStepStartTime), ""
    )
