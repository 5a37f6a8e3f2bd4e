"""The part of `backend` for patients and corrections.

Nothing here writes to the terminal. A patient is written ID or ID^^^ISSUER, as in HL7; an attribute KEYWORD=VALUE.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from engine.archive.admin import corrections
from engine.cli import backend, query
from engine.config import Config
from engine.errors import QueryError
from engine.index.query import key_values


def merge(config: Config, source: str, into: str, *, in_advance: bool, reason: str) -> dict[str, Any]:
    """Assigns all studies of one patient to another. Raises CorrectionRefused, as do all functions here."""
    _check_encoding(source, into)
    with backend.opened(config) as archive:
        return corrections.merge(archive, source, into, in_advance=in_advance, actor=backend.operator(), reason=reason)


def move(config: Config, studies: Sequence[str], into: str, *, reason: str) -> dict[str, Any]:
    """Assigns studies to another patient."""
    _check_uids(studies)
    _check_encoding(into)
    with backend.opened(config) as archive:
        return corrections.move(archive, studies, into, actor=backend.operator(), reason=reason)


def split(config: Config, studies: Sequence[str], new: str, texts: Sequence[str], *, reason: str) -> dict[str, Any]:
    """Assigns studies to a new patient."""
    _check_uids(studies)
    _check_encoding(new)
    sets = _attributes(texts)
    with backend.opened(config) as archive:
        return corrections.split(archive, studies, new, sets, actor=backend.operator(), reason=reason)


def correct(
    config: Config, texts: Sequence[str], *, patient: str | None, study: str | None, series: str | None, reason: str
) -> dict[str, Any]:
    """Sets attributes of a patient, a study, or a series (then `study` may name its study)."""
    _check_uids([uid for uid in (study, series) if uid is not None])
    _check_encoding(patient or "")
    sets = _attributes(texts)
    with backend.opened(config) as archive:
        return corrections.correct(
            archive, sets, patient=patient, study=study, series=series, actor=backend.operator(), reason=reason
        )


def undo(config: Config, number: str, *, reason: str) -> dict[str, Any]:
    """Undoes a correction."""
    with backend.opened(config) as archive:
        return corrections.undo(archive, number, actor=backend.operator(), reason=reason)


def listed(config: Config, *, values: bool) -> Iterator[dict[str, Any]]:
    """Every correction and undo; see `archive.admin.corrections`."""
    with backend.opened(config) as archive:
        yield from corrections.list_all(archive, values=values)


def conflicts(config: Config, *, values: bool) -> Iterator[dict[str, Any]]:
    """Studies and series whose instances disagree."""
    with backend.opened(config) as archive:
        yield from corrections.conflicts(archive, values=values)


def _attributes(texts: Sequence[str]) -> dict[int, str]:
    """KEYWORD=VALUE as tag → value; "KEYWORD=" is no value. Raises QueryError."""
    values: dict[int, str] = {}
    for text in texts:
        name, mark, value = text.partition("=")
        if not mark:
            raise QueryError(f"{name}: give a value, {name}=VALUE, or {name}= for no value")
        values[query.tag_of(name)] = value
        _check_encoding(value)
    return values


def _check_uids(uids: Sequence[str]) -> None:
    _check_encoding(*uids)
    for uid in uids:
        key_values.check_uid(uid)


def _check_encoding(*texts: str) -> None:
    """Raises QueryError for text that is not UTF-8."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise QueryError("the argument is not UTF-8") from None
