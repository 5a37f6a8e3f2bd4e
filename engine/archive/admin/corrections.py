"""Corrections and conflicts as plain data, and corrections by name. Patients are written ID or ID^^^ISSUER (HL7 CX)."""

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


def listed(archive: Archive, *, values: bool) -> Iterator[dict[str, Any]]:
    """Every correction and undo, the earliest first; what is set by keyword, with its value if that is asked for."""
    for row in correction.listed(archive):
        made_text = time_text(row.pop("made_ns"))
        named = {tags.keyword_of(tag): value for tag, value in row.pop("sets").items()}
        yield {**row, "made": made_text, "sets": named if values else list(named)}


def conflicts(archive: Archive, *, values: bool) -> Iterator[dict[str, Any]]:
    """Studies and series whose instances disagree: on what, and with `values` what they say."""
    for conflict in archive.conflicts():
        stated = {
            tags.keyword_of(tag): [plain_values.text_of(tag, value, archive.schema.vr_of) for value in texts]
            for tag, texts in conflict.values.items()
        }
        yield {
            "study_instance_uid": conflict.study_instance_uid.decode("utf-8", "replace"),
            "series_instance_uid": conflict.series_instance_uid.decode("utf-8", "replace"),
            "attributes": stated if values else list(stated),
        }


def merge(
    archive: Archive, source: str, into: str, *, in_advance: bool, actor: Principal, reason: str
) -> dict[str, Any]:
    """All studies of one patient become another one's. Raises CorrectionRefused, as all of these."""
    named = (patients.patient_of(source), patients.patient_of(into))
    with _naming("--in-advance merges before anything of it has arrived"):
        return _facts(correction.merge(archive, *named, in_advance=in_advance, actor=actor, reason=reason))


def move(archive: Archive, studies: Sequence[str], into: str, *, actor: Principal, reason: str) -> dict[str, Any]:
    """Studies become another patient's."""
    with _naming("to make a new patient of these studies: filmroom patient split"):
        return _facts(correction.move(archive, studies, patients.patient_of(into), actor=actor, reason=reason))


def split(
    archive: Archive, studies: Sequence[str], new: str, sets: Mapping[int, str], *, actor: Principal, reason: str
) -> dict[str, Any]:
    """Studies become a new patient's, with these attributes."""
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
    """Sets attributes of a patient, of a study, or of a series, of which the study may be named too."""
    with _naming():
        if patient is not None:
            named = patients.patient_of(patient)
            return _facts(correction.correct_patient(archive, named, sets, actor=actor, reason=reason))
        if series is not None:
            done = correction.correct_series(
                archive, series, sets, study_instance_uid=study or "", actor=actor, reason=reason
            )
            return _facts(done)
        return _facts(correction.correct_study(archive, study or "", sets, actor=actor, reason=reason))


def undo(archive: Archive, number: str, *, actor: Principal, reason: str) -> dict[str, Any]:
    """Takes a correction back."""
    return {"number": correction.undo(archive, number, actor=actor, reason=reason).number}


def _facts(done: Corrected) -> dict[str, Any]:
    return {"number": done.number, "studies": done.studies}


@contextmanager
def _naming(hint: str = "") -> Iterator[None]:
    """Says which patient is not known: to whoever asked, and in no log."""
    try:
        yield
    except PatientUnknown as error:
        who = patients.as_text(error.patient_id, error.issuer or "")
        raise CorrectionRefused(f"no study of patient {who!r} is stored" + (f"; {hint}" if hint else "")) from error
