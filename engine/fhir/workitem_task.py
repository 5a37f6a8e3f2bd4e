"""Task of a workitem (UPS), beside those of scheduled steps (R4, R5).

    SCHEDULED  IN PROGRESS  COMPLETED  CANCELED           id: its SOP Instance UID
    requested  in-progress  completed  cancelled          code: what is to be done    owner: the station

`focus` is the study that it is for, `basedOn` the orders whose steps it belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from engine.dicom import tags
from engine.fhir.datatypes import (
    DICOM_UID,
    Attributes,
    Json,
    coding,
    identifier,
    moment,
    text_of,
    uri_of_uid,
    without_empty,
)
from engine.fhir.order import subject_of, system_of_scheme
from engine.fhir.release import Release

STATES: Final[Mapping[str, str]] = {
    "SCHEDULED": "requested",
    "IN PROGRESS": "in-progress",
    "COMPLETED": "completed",
    "CANCELED": "cancelled",
}
_PRIORITIES: Final = {"HIGH": "urgent", "MEDIUM": "routine", "LOW": "routine"}

Code = tuple[str, str, str]
"""Scheme, value and meaning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workitem:
    """All that a resource needs of a workitem."""

    uid: str
    attributes: Attributes
    """Those of its root that are texts."""
    created: str = ""
    """When it came: an instant."""
    code: Code | None = None
    station: Code | None = None
    reason: str = ""
    """Why it was canceled."""
    study: str = ""
    outputs: Sequence[str] = ()
    """The studies of what was made."""
    orders: Sequence[str] = ()
    """The numbers of the orders that it belongs to."""


def task(workitem: Workitem, release: Release) -> Json:
    """The resource."""
    values, is_r5 = workitem.attributes, release is Release.R5
    state, label = text_of(values, tags.ProcedureStepState), text_of(values, tags.ProcedureStepLabel)
    period = {"start": start} if (start := _moment(text_of(values, tags.ScheduledProcedureStepStartDateTime))) else {}
    due: Json = {"requestedPeriod": period} if is_r5 else {"restriction": {"period": period}}
    reason = {"concept": {"text": workitem.reason}} if is_r5 else {"text": workitem.reason}
    worklist = text_of(values, tags.WorklistLabel)
    return {
        "resourceType": "Task",
        **without_empty(
            {
                "id": workitem.uid,
                "identifier": [identifier(uri_of_uid(workitem.uid), DICOM_UID)],
                "basedOn": [{"reference": f"ServiceRequest/{number}"} for number in workitem.orders],
                "status": STATES.get(state, "requested"),
                "statusReason": reason if workitem.reason else {},
                "businessStatus": {"text": state},
                "intent": "order",
                "priority": _PRIORITIES.get(text_of(values, tags.ScheduledProcedureStepPriority), ""),
                "code": without_empty({"coding": [_coding(workitem.code)] if workitem.code else [], "text": label}),
                "description": label,
                "focus": {"reference": f"ImagingStudy/{workitem.study}"} if workitem.study else {},
                "for": subject_of(values),
                "authoredOn": workitem.created,
                "lastModified": _moment(text_of(values, tags.ScheduledProcedureStepModificationDateTime)),
                "owner": _owner(workitem.station),
                **(due if period else {}),
                "input": [{"type": {"text": "Worklist Label"}, "valueString": worklist}] if worklist else [],
                "output": [
                    {"type": {"text": "Output"}, "valueReference": {"reference": f"ImagingStudy/{study}"}}
                    for study in workitem.outputs
                ],
            }
        ),
    }


def _coding(code: Code) -> Json:
    scheme, value, meaning = code
    return coding(system_of_scheme(scheme), value, meaning)


def _owner(station: Code | None) -> Json:
    if station is None:
        return {}
    _, value, meaning = station
    return {"type": "Device", "identifier": {"value": value}, "display": meaning or value}


def _moment(text: str) -> str:
    """A DT as a dateTime; "" if it is none."""
    zone = text[-5:] if len(text) > 5 and text[-5] in "+-" else ""
    wall = text.removesuffix(zone)
    return moment(wall[:8], wall[8:], zone) if len(wall) >= 8 else ""
