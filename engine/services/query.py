"""Identifiers of C-FIND, C-MOVE and C-GET as queries of the index (PS3.4 C.4).

Does not match. Knows which keys an identifier carries that are no attributes of anything: level, character set, and
those that describe where an answer comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.dicom import tags, transfer_syntax
from engine.dicom.identifier import Identifier, decode_identifier
from engine.errors import QueryError
from engine.index.types import Level, Query, Root
from engine.services.policy import PATIENT_ROOT, PATIENT_STUDY_ONLY, STUDY_ROOT, information_model

if TYPE_CHECKING:
    from engine.ul.negotiation import AcceptedContext

ROOTS = {PATIENT_ROOT: Root.PATIENT, STUDY_ROOT: Root.STUDY, PATIENT_STUDY_ONLY: Root.PATIENT_STUDY_ONLY}

UNIQUE_KEYS = {
    Level.PATIENT: tags.PatientID,
    Level.STUDY: tags.StudyInstanceUID,
    Level.SERIES: tags.SeriesInstanceUID,
    Level.IMAGE: tags.SOPInstanceUID,
}

ANSWERED_HERE = frozenset(
    {tags.QueryRetrieveLevel, tags.RetrieveAETitle, tags.InstanceAvailability, tags.SpecificCharacterSet}
)
"""Keys that a service fills in, whatever matches."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A C-FIND identifier: what to look for, and what to give back."""

    query: Query
    returned: tuple[int, ...]
    """Every key of the identifier, ascending."""
    level_name: bytes


def find_query(context: AcceptedContext, identifier: bytes, limit: int) -> Asked:
    """The query of a C-FIND; `limit` matches at most, 0 for all. Raises DataSetError or QueryError."""
    decoded, level = _decode(context, identifier)
    query = Query(
        level=level,
        keys={tag: value for tag, value in decoded.items.items() if tag not in ANSWERED_HERE},
        root=_root(context),
        character_set=decoded.character_set,
        limit=limit or None,
        # Negotiated or not: an archive that can answer does; the standard's baseline is a subset.
        relational=True,
    )
    return Asked(query, tuple(sorted(decoded.items)), level.name.encode("ascii"))


def retrieval_query(context: AcceptedContext, identifier: bytes) -> Query:
    """The query of a C-MOVE or C-GET: the unique keys down to the level. Raises DataSetError or QueryError.

    Other keys are left out (PS3.4 C.4.2.1.4.1 allows none, and some clients send what they got from C-FIND).
    """
    decoded, level = _decode(context, identifier)
    keys = {
        tag: decoded.items[tag]
        for key_level, tag in UNIQUE_KEYS.items()
        if key_level <= level and decoded.value(tag).strip(b" \0")
    }
    own = UNIQUE_KEYS[level]
    if own not in keys:
        raise QueryError(f"{tags.keyword_of(own)} is missing at level {level.name}")
    if any(wildcard in decoded.value(tag) for tag in keys for wildcard in (b"*", b"?")):
        raise QueryError("a retrieval takes no wildcards")
    return Query(level=level, keys=keys, root=_root(context), character_set=decoded.character_set, relational=True)


def _decode(context: AcceptedContext, identifier: bytes) -> tuple[Identifier, Level]:
    decoded = decode_identifier(identifier, transfer_syntax.of(context.transfer_syntax))
    if not decoded.value(tags.QueryRetrieveLevel).strip(b" \0"):
        raise QueryError("Query/Retrieve Level (0008,0052) is missing")
    level = Level.of(decoded.value(tags.QueryRetrieveLevel))
    if level not in _root(context).value:
        raise QueryError(f"the information model has no level {level.name}")
    return decoded, level


def _root(context: AcceptedContext) -> Root:
    return ROOTS[information_model(context.abstract_syntax)]
