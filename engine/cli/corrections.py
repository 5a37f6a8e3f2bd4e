"""Where the commands about patients and corrections reach the engine; the same as `backend` for them.

Nothing here writes to the terminal. Patients are written ID or ID^^^ISSUER, as HL7 does; attributes KEYWORD=VALUE.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from engine.cli import backend, query
from engine.cli.units import time_text
from engine.config import Config
from engine.dicom import plain_values, tags
from engine.errors import CorrectionRefused, PatientUnknown, QueryError
from engine.index.query import key_values


def merge(config: Config, source: str, into: str, *, in_advance: bool, reason: str) -> dict[str, Any]:
    """All studies of one patient become another one's. Raises CorrectionRefused, as all of these."""
    from engine.archive.lifecycle import correction, patients

    _check_encoding(source, into)
    named = (patients.patient_of(source), patients.patient_of(into))
    with backend.opened(config) as archive, _named("--in-advance merges before anything of it has arrived"):
        done = correction.merge(archive, *named, in_advance=in_advance, actor=backend.operator(), reason=reason)
    return {"number": done.number, "studies": done.studies}


def move(config: Config, studies: Sequence[str], into: str, *, reason: str) -> dict[str, Any]:
    """Studies become another patient's."""
    from engine.archive.lifecycle import correction, patients

    _check_uids(studies)
    _check_encoding(into)
    hint = "to make a new patient of these studies: filmroom patient split"
    with backend.opened(config) as archive, _named(hint):
        done = correction.move(archive, studies, patients.patient_of(into), actor=backend.operator(), reason=reason)
    return {"number": done.number, "studies": done.studies}


def split(config: Config, studies: Sequence[str], new: str, texts: Sequence[str], *, reason: str) -> dict[str, Any]:
    """Studies become a new patient's."""
    from engine.archive.lifecycle import correction, patients

    _check_uids(studies)
    _check_encoding(new)
    attributes = _attributes(texts)
    with backend.opened(config) as archive:
        named = patients.patient_of(new)
        done = correction.split(archive, studies, named, attributes, actor=backend.operator(), reason=reason)
    return {"number": done.number, "studies": done.studies}


def correct(
    config: Config, texts: Sequence[str], *, patient: str | None, study: str | None, series: str | None, reason: str
) -> dict[str, Any]:
    """Sets attributes of a patient, a study, or a series, of which the study may be named too."""
    from engine.archive.lifecycle import correction, patients

    _check_uids([uid for uid in (study, series) if uid is not None])
    _check_encoding(patient or "")
    attributes = _attributes(texts)
    actor = backend.operator()
    with backend.opened(config) as archive, _named():
        if patient is not None:
            done = correction.correct_patient(
                archive, patients.patient_of(patient), attributes, actor=actor, reason=reason
            )
        elif series is not None:
            done = correction.correct_series(
                archive, series, attributes, study_instance_uid=study or "", actor=actor, reason=reason
            )
        else:
            done = correction.correct_study(archive, study or "", attributes, actor=actor, reason=reason)
    return {"number": done.number, "studies": done.studies}


def undo(config: Config, number: str, *, reason: str) -> dict[str, Any]:
    """Takes a correction back."""
    from engine.archive.lifecycle import correction

    with backend.opened(config) as archive:
        return {"number": correction.undo(archive, number, actor=backend.operator(), reason=reason).number}


def listed(config: Config, *, values: bool) -> Iterator[dict[str, Any]]:
    """Every correction and undo, the earliest first; what is set by keyword, with its value if that is asked for."""
    from engine.archive.lifecycle import correction

    with backend.opened(config) as archive:
        for row in correction.listed(archive):
            made = time_text(row.pop("made_ns"))
            named = {tags.keyword_of(tag): value for tag, value in row.pop("sets").items()}
            yield {**row, "made": made, "sets": named if values else list(named)}


def conflicts(config: Config, *, values: bool) -> Iterator[dict[str, Any]]:
    """Studies and series whose instances disagree: on what, and with `values` what they say."""
    with backend.opened(config) as archive:
        for found in archive.conflicts():
            stated = {
                tags.keyword_of(tag): [plain_values.text_of(tag, value, archive.schema.vr_of) for value in said]
                for tag, said in found.values.items()
            }
            yield {
                "study_instance_uid": found.study_instance_uid.decode("utf-8", "replace"),
                "series_instance_uid": found.series_instance_uid.decode("utf-8", "replace"),
                "attributes": stated if values else list(stated),
            }


def _attributes(texts: Sequence[str]) -> dict[int, str]:
    """KEYWORD=VALUE as tag → value; "KEYWORD=" is no value. Raises QueryError."""
    found = {}
    for text in texts:
        name, mark, value = text.partition("=")
        if not mark:
            raise QueryError(f"{name}: say what it is to be, {name}=VALUE, or {name}= for no value")
        found[query.tag_of(name)] = value
        _check_encoding(value)
    return found


@contextmanager
def _named(hint: str = "") -> Iterator[None]:
    """Says which patient is not known: to whoever typed it, and in no log."""
    try:
        yield
    except PatientUnknown as error:
        from engine.archive.lifecycle import patients

        who = patients.as_text(error.patient_id, error.issuer or "")
        raise CorrectionRefused(f"no study of patient {who!r} is stored" + (f"; {hint}" if hint else "")) from error


def _check_uids(uids: Sequence[str]) -> None:
    _check_encoding(*uids)
    for uid in uids:
        key_values.check_uid(uid)


def _check_encoding(*texts: str) -> None:
    """Raises QueryError for what the terminal did not give as UTF-8."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise QueryError("what was typed is not UTF-8") from None
