"""Corrections and conflicts as plain data. Write patients as ID or ID^^^ISSUER (HL7 CX)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from engine.archive.admin.times import time_text
from engine.archive.lifecycle import correction, patients
from engine.dicom import plain_values, tags
from engine.errors import CorrectionRefused, PatientUnknown

if TYPE_CHECKING:
    from engine.access.principal import Principal
    from engine.archive.archive import Archive
    from engine.archive.lifecycle.correction import Corrected
    from engine.archive.view import View


def list_all(view: View, *, values: bool) -> Iterator[dict[str, Any]]:
    """Every correction and undo, the earliest first, with the keywords that it sets, or with `values` also their
    values."""
    for row in correction.list_all(view):
        made_text = time_text(row.pop("made_ns"))
        texts = {tags.keyword_of(tag): value for tag, value in row.pop("sets").items()}
        yield {**row, "made": made_text, "sets": texts if values else list(texts)}


def conflicts(view: View, *, values: bool) -> Iterator[dict[str, Any]]:
    """Studies and series whose instances disagree, with the keywords, or with `values` also the values of each."""
    for conflict in view.conflicts():
        texts_by_keyword = {
            tags.keyword_of(tag): [plain_values.text_of(tag, value, view.schema.vr_of) for value in texts]
            for tag, texts in conflict.values.items()
        }
        yield {
            "study_instance_uid": conflict.study_instance_uid.decode("utf-8", "replace"),
            "series_instance_uid": conflict.series_instance_uid.decode("utf-8", "replace"),
            "attributes": texts_by_keyword if values else list(texts_by_keyword),
        }


def studies_of(view: View, patient: str) -> set[str]:
    """The Study Instance UIDs of a patient, and of others whom the same text may mean."""
    name = patients.patient_of(patient)
    keys = {"PatientID": name.patient_id, "IssuerOfPatientID": name.issuer or "", "StudyInstanceUID": ""}
    return {study["StudyInstanceUID"] for study in view.find("study", keys)}


def merge(
    archive: Archive, source: str, into: str, *, in_advance: bool, actor: Principal, reason: str
) -> dict[str, Any]:
    """Moves all studies of one patient to another one. Raises CorrectionRefused, as all of these."""
    names = (patients.patient_of(source), patients.patient_of(into))
    with _naming("--in-advance merges before anything of it has arrived"):
        return _facts(correction.merge(archive, *names, in_advance=in_advance, actor=actor, reason=reason))


def move(archive: Archive, studies: Sequence[str], into: str, *, actor: Principal, reason: str) -> dict[str, Any]:
    """Moves studies to another patient."""
    with _naming("to make a new patient of these studies: filmroom patient split"):
        return _facts(correction.move(archive, studies, patients.patient_of(into), actor=actor, reason=reason))


def split(
    archive: Archive, studies: Sequence[str], new: str, sets: Mapping[int, str], *, actor: Principal, reason: str
) -> dict[str, Any]:
    """Moves studies to a new patient with these attributes."""
    return _facts(correction.split(archive, studies, patients.patient_of(new), sets, actor=actor, reason=reason))


def correct(
    archive: Archive,
    sets: Mapping[int, str],
    *,
    patient: str | None = None,
    study: str | None = None,
    series: str | None = None,
    actor: Principal,
    reason: str,
) -> dict[str, Any]:
    """Sets attributes of a patient, of a study, or of a series (`study` is optional then)."""
    with _naming():
        if patient is not None:
            name = patients.patient_of(patient)
            return _facts(correction.correct_patient(archive, name, sets, actor=actor, reason=reason))
        if series is not None:
            result = correction.correct_series(
                archive, series, sets, study_instance_uid=study or "", actor=actor, reason=reason
            )
            return _facts(result)
        return _facts(correction.correct_study(archive, study or "", sets, actor=actor, reason=reason))


def undo(archive: Archive, number: str, *, actor: Principal, reason: str) -> dict[str, Any]:
    """Undoes a correction."""
    return {"number": correction.undo(archive, number, actor=actor, reason=reason).number}


def _facts(result: Corrected) -> dict[str, Any]:
    return {"number": result.number, "studies": result.studies}


@contextmanager
def _naming(hint: str = "") -> Iterator[None]:
    """Names an unknown patient in the error, which only the caller sees: never log it."""
    try:
        yield
    except PatientUnknown as error:
        patient = patients.as_text(error.patient_id, error.issuer or "")
        raise CorrectionRefused(f"no study of patient {patient!r} is stored" + (f"; {hint}" if hint else "")) from error
