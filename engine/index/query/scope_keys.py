"""The keys of a scope: what finds a superset of the studies that it admits. Opens nothing.

    alternative      all its requirements must hold, so the keys of one of them are enough
    scope            the union of its alternatives; if one of them has no keys, neither has the scope

    one of some studies, of some patients      their UIDs; their Patient IDs
    referrer, modality without wild cards      the values in `search`
    recent                                     a range of Study Dates
    institution, department, sender, identity  have no keys: `admission` tests each study

`admission` decides; here too many are right, too few are not. So a value has keys only if every stored form that
`access.scope.normalized` makes equal to it has the same normal form in `search`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from engine.access.scope import Alternative, Attribute, Matching, OfPatients, OneOfStudies, Recent, Requirement, Scope
from engine.dicom import tags, values
from engine.dicom.schema import Schema
from engine.index.format.terms import Range, normal_values, ranges_between

VALUES_MAX = 10_000
"""Studies, patients or values of one requirement; with more, every study is tested."""
_LAST_DATE = "99999999"


@dataclass(frozen=True, slots=True)
class ScopeKeys:
    """Keys of one requirement: UIDs, or ranges of `search`."""

    study_instance_uids: tuple[bytes, ...] = ()
    ranges: tuple[Range, ...] = ()
    is_owned_by_series: bool = False
    """Whether the ids in the ranges are those of series, not of studies."""


def keys_of(scope: Scope, today: date, schema: Schema) -> list[list[ScopeKeys]] | None:
    """For each alternative the keys of its requirements, the best first; None: an alternative has none."""
    found = [sorted(_keys_of(each, today, schema), key=_rank) for each in scope.alternatives]
    return found if all(found) else None


def _keys_of(alternative: Alternative, today: date, schema: Schema) -> Iterator[ScopeKeys]:
    for requirement in alternative:
        keys = _of_requirement(requirement, today, schema)
        if keys is not None:
            yield keys


def _rank(keys: ScopeKeys) -> tuple[bool, bool, int]:
    """UIDs, then ids of studies, then of series; few ranges before many."""
    return bool(keys.ranges), keys.is_owned_by_series, len(keys.ranges)


def _of_requirement(requirement: Requirement, today: date, schema: Schema) -> ScopeKeys | None:
    if isinstance(requirement, OneOfStudies):
        uids = requirement.study_instance_uids
        return ScopeKeys(tuple(uid.encode() for uid in sorted(uids))) if len(uids) <= VALUES_MAX else None
    if isinstance(requirement, OfPatients):
        texts = sorted({patient.patient_id for patient in requirement.patients})
        return _of_values(tags.PatientID, "LO", texts, schema)
    if isinstance(requirement, Recent):
        return _of_dates(requirement.days, today, schema)
    if isinstance(requirement, Matching) and not requirement.patterns:
        if requirement.attribute is Attribute.REFERRER:
            return _of_values(tags.ReferringPhysicianName, "PN", sorted(requirement.values), schema)
        if requirement.attribute is Attribute.MODALITY and all(map(_is_code, requirement.values)):
            return _of_values(tags.Modality, "CS", sorted(requirement.values), schema, is_owned_by_series=True)
    return None


def _of_values(
    tag: int, vr: str, texts: Sequence[str], schema: Schema, *, is_owned_by_series: bool = False
) -> ScopeKeys | None:
    """The keys of all stored values that are one of these."""
    if len(texts) > VALUES_MAX:
        return None
    ranges: list[Range] = []
    for text in texts:
        normal = next(iter(normal_values(vr, text.encode("utf-8", "replace"))), "")
        of_text = ranges_between(tag, normal, normal, schema) if normal else None
        if of_text is None:
            return None
        ranges += of_text
    return ScopeKeys(ranges=tuple(ranges), is_owned_by_series=is_owned_by_series)


def _of_dates(days: float, today: date, schema: Schema) -> ScopeKeys | None:
    try:
        low = f"{today - timedelta(days=int(days)):%Y%m%d}".zfill(8)
    except (OverflowError, ValueError):
        return None
    ranges = ranges_between(tags.StudyDate, values.normalise("DA", low), _LAST_DATE, schema)
    return None if ranges is None else ScopeKeys(ranges=tuple(ranges))


def _is_code(text: str) -> bool:
    """Whether a value has one form only, but for its case."""
    return text.isascii() and " " not in text
