"""The keys of a scope: what finds a superset of the studies that it admits. Opens nothing.

    alternative      all its requirements must hold, so the keys of one of them are enough
    scope            the union of its alternatives; if one of them has no keys, neither has the scope

    one of some studies                                            their UIDs
    of some patients                                               ranges of Patient IDs in `search`
    recent                                                         a range of Study Dates in `search`
    institution, department, referrer, modality, sender            keys of `access`; wildcards: all keys that match
    de-identified                                                  the key of `access`
    not de-identified                                              none: `admission` tests each study

`admission` decides; here too many are right, too few are not. So a value has ranges only if every stored form that
`access.scope.normalized` makes equal to it has the same normal form in `search`. In `access` the texts are normalized.

Some keys are exact: every study that they find is one that `admission` would admit, so that it need not be asked. Those
of institution, department, referrer, modality and sender, if the text of the key is whole, and UIDs that are whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from operator import eq

from engine.access.scope import (
    AccessFacts,
    Alternative,
    Deidentified,
    Matching,
    OfPatients,
    OneOfStudies,
    Patient,
    Recent,
    Requirement,
    Scope,
)
from engine.dicom import tags, values
from engine.dicom.schema import Schema
from engine.index.format import access_tags
from engine.index.format.keys import is_whole
from engine.index.format.terms import Range, normal_values, ranges_between

VALUES_MAX = 10_000
"""Studies, patients or values of one requirement; with more, every study is tested."""
_LAST_DATE = "99999999"
_WILDCARD = re.compile(r"[*?]")


@dataclass(frozen=True, slots=True)
class ScopeKeys:
    """What finds the studies that one requirement admits: one of the four."""

    study_instance_uids: tuple[bytes, ...] = ()
    ranges: tuple[Range, ...] = ()
    """Of `search`; their ids are those of studies."""
    access: tuple[bytes, ...] = ()
    """Keys of `access`."""
    matching: Matching | None = None
    """A requirement with wildcards: the keys of `access` that it admits (`is_key_admitted`)."""
    is_exact: bool = False
    """Whether they find only studies that it admits; of wildcards, if the text of every key is whole."""


def keys_of(scope: Scope, today: date, schema: Schema) -> list[list[ScopeKeys]] | None:
    """For each alternative the keys of its requirements; None: an alternative has none."""
    found = [list(_keys_of(each, today, schema)) for each in scope.alternatives]
    return found if all(found) else None


def starts_of(matching: Matching) -> set[bytes]:
    """How the keys of `access` begin that a requirement with wildcards may admit."""
    kind = access_tags.KIND_OF[matching.attribute]
    literal = {_WILDCARD.split(pattern, maxsplit=1)[0] for pattern in matching.patterns}
    if "" in literal:
        return {kind}
    return {kind + text.encode("utf-8", "replace") for text in literal} | {kind + access_tags.LONG}


def is_key_admitted(key: bytes, matching: Matching, today: date) -> bool:
    """Whether a requirement admits the text of a key of `access`, or may admit one that is not whole."""
    text = access_tags.text_of(key)
    return text is None or matching.admits(AccessFacts("", Patient(""), {matching.attribute: frozenset({text})}), today)


def _keys_of(alternative: Alternative, today: date, schema: Schema) -> Iterator[ScopeKeys]:
    for requirement in alternative:
        keys = _of_requirement(requirement, today, schema)
        if keys is not None:
            yield keys


def _of_requirement(requirement: Requirement, today: date, schema: Schema) -> ScopeKeys | None:
    if isinstance(requirement, OneOfStudies):
        uids = tuple(uid.encode() for uid in sorted(requirement.study_instance_uids))
        return ScopeKeys(uids, is_exact=all(map(is_whole, uids))) if len(uids) <= VALUES_MAX else None
    if isinstance(requirement, OfPatients):
        texts = sorted({patient.patient_id for patient in requirement.patients})
        return _of_values(tags.PatientID, "LO", texts, schema)
    if isinstance(requirement, Recent):
        return _of_dates(requirement.days, today, schema)
    if isinstance(requirement, Deidentified):
        return ScopeKeys(access=(access_tags.DEIDENTIFIED_KEY,)) if requirement.is_deidentified else None
    if requirement.patterns:
        return ScopeKeys(matching=requirement, is_exact=True)
    if len(requirement.values) > VALUES_MAX:
        return None
    access = tuple(access_tags.key_of(requirement.attribute, text) for text in requirement.values)
    # A text that is not whole, or cannot be encoded, may have the key of another one.
    is_exact = all(map(eq, map(access_tags.text_of, access), requirement.values))
    return ScopeKeys(access=access, is_exact=is_exact)


def _of_values(tag: int, vr: str, texts: Sequence[str], schema: Schema) -> ScopeKeys | None:
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
    return ScopeKeys(ranges=tuple(ranges))


def _of_dates(days: float, today: date, schema: Schema) -> ScopeKeys | None:
    try:
        low = f"{today - timedelta(days=int(days)):%Y%m%d}".zfill(8)
    except (OverflowError, ValueError):
        return None
    ranges = ranges_between(tags.StudyDate, values.normalise("DA", low), _LAST_DATE, schema)
    return None if ranges is None else ScopeKeys(ranges=tuple(ranges))
