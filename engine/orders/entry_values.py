"""An order in the form of a worklist's entry: from a file as dump2dcm makes it, or from keywords and texts.

The keywords are those of an identifier (`entry.ROOT`, `entry.STEP`), without the sequence around those of the step.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from engine.dicom import tags
from engine.dicom.identifier import Identifier as DataSet
from engine.errors import UpdateRefused
from engine.orders.values import (
    ORDER_KEYWORDS,
    PATIENT_KEYWORDS,
    PROCEDURE_KEYWORDS,
    STEP_KEYWORDS,
    Code,
    Identifier,
    Issuer,
    OrderAction,
    OrderUpdate,
    PatientUpdate,
    ProcedureUpdate,
    RefusalReason,
    StepState,
    StepUpdate,
    Value,
)

_OWN = frozenset((
    "PatientID", "IssuerOfPatientID", "AccessionNumber", "RequestedProcedureID", "StudyInstanceUID", "AdmissionID",
    "PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest", "ScheduledProcedureStepID",
    "Modality", "ScheduledStationAETitle", "ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime",
    "ScheduledProcedureStepStatus",
))  # fmt: skip
KEYWORDS = _OWN | PATIENT_KEYWORDS | ORDER_KEYWORDS | PROCEDURE_KEYWORDS | STEP_KEYWORDS
"""What an entry may have."""


def order_of(texts: Mapping[str, Value], *, now: float | None = None) -> OrderUpdate:
    """The order of an entry. Without a date it is for today. Without a number of the order, its requested procedure or
    study is the filler's number; without these too it gets an accession number of its time.

    Raises UpdateRefused if it says nothing of the patient, or something that an entry cannot have.
    """
    moment = time.time() if now is None else now
    unknown = sorted(set(texts) - KEYWORDS)
    if unknown:
        raise UpdateRefused(f"{unknown[0]} is nothing that a worklist has", RefusalReason.INVALID)
    if not _text(texts, "PatientID"):
        raise UpdateRefused("an entry needs a PatientID", RefusalReason.INVALID)
    state = _text(texts, "ScheduledProcedureStepStatus")
    if state and state not in set(StepState):
        raise UpdateRefused(f"ScheduledProcedureStepStatus is one of {', '.join(StepState)}", RefusalReason.INVALID)
    issuer = Issuer(_text(texts, "IssuerOfPatientID"))
    accession = _text(texts, "AccessionNumber")
    placer = _identifier(texts, "PlacerOrderNumberImagingServiceRequest")
    filler = _identifier(texts, "FillerOrderNumberImagingServiceRequest")
    if not (accession or placer or filler):
        filler = _identifier(texts, "RequestedProcedureID") or _identifier(texts, "StudyInstanceUID")
    if not (accession or placer or filler):
        accession = time.strftime("%y%m%d%H%M%S", time.localtime(moment)) + f"{int(moment * 1000) % 1000:03}"
    return OrderUpdate(
        action=OrderAction.CHANGE,
        patient=PatientUpdate(
            identifiers=(Identifier(_text(texts, "PatientID"), issuer),), attributes=_some(texts, PATIENT_KEYWORDS)
        ),
        placer=placer,
        filler=filler,
        accession=Identifier(accession) if accession else None,
        visit=_identifier(texts, "AdmissionID"),
        attributes=_some(texts, ORDER_KEYWORDS),
        procedures=(
            ProcedureUpdate(
                requested_procedure_id=_text(texts, "RequestedProcedureID"),
                study_instance_uid=_text(texts, "StudyInstanceUID"),
                attributes=_some(texts, PROCEDURE_KEYWORDS),
                steps=(_step(texts, moment, state),),
            ),
        ),
    )


def _step(texts: Mapping[str, Value], moment: float, state: str) -> StepUpdate:
    aes = _text(texts, "ScheduledStationAETitle")
    return StepUpdate(
        scheduled_procedure_step_id=_text(texts, "ScheduledProcedureStepID"),
        modality=_text(texts, "Modality"),
        station_aes=tuple(filter(None, (each.strip() for each in aes.split("\\")))),
        start_date=_text(texts, "ScheduledProcedureStepStartDate") or time.strftime("%Y%m%d", time.localtime(moment)),
        start_time=_text(texts, "ScheduledProcedureStepStartTime") or time.strftime("%H%M", time.localtime(moment)),
        state=StepState(state) if state else None,
        attributes=_some(texts, STEP_KEYWORDS),
    )


def _text(texts: Mapping[str, Value], keyword: str) -> str:
    value = texts.get(keyword, "")
    return value.strip() if isinstance(value, str) else ""


def _identifier(texts: Mapping[str, Value], keyword: str) -> Identifier | None:
    value = _text(texts, keyword)
    return Identifier(value) if value else None


def _some(texts: Mapping[str, Value], keywords: frozenset[str]) -> dict[str, Value]:
    return {keyword: value for keyword, value in texts.items() if keyword in keywords and value}


def texts_of(data_set: DataSet) -> dict[str, Value]:
    """Keywords and values of an entry in a file; what an entry cannot have is left out."""
    items = [data_set, *data_set.sequence(tags.ScheduledProcedureStepSequence)[:1]]
    texts: dict[str, Value] = {}
    for item in items:
        for tag, value in item.items.items():
            keyword = tags.keyword_of(tag)
            if keyword not in KEYWORDS:
                continue
            if isinstance(value, list):
                texts[keyword] = tuple(_code(each) for each in value)
            elif tags.vr_of(tag) == "US":
                texts[keyword] = str(int.from_bytes(value[:2], "little")) if value else ""
            else:
                texts[keyword] = item.text(tag).strip(" \0")
    return texts


def _code(item: DataSet) -> Code:
    names = (tags.CodeValue, tags.CodingSchemeDesignator, tags.CodeMeaning, tags.CodingSchemeVersion)
    value, scheme, meaning, version = (item.text(tag).strip(" \0") for tag in names)
    return Code(value or item.text(tags.LongCodeValue).strip(" \0"), scheme, meaning, version)
