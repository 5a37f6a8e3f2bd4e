"""Identifiers of C-FIND, C-MOVE and C-GET as queries of the index (PS3.4 C.4).

Does not match. Knows which keys an identifier carries that are no attributes of anything: level, character set, and
those that describe where an answer comes from.

    C-FIND          baseline unless an option was negotiated for the SOP class of its context (PS3.4 Table C.5-2), or
                    holds for the peer by configuration ([query] options, [[peer]] query_options)
    C-MOVE, C-GET   unique keys above the level may be missing, whether relational retrieval was negotiated or not: a
                    UID needs no context, users retrieve by the UIDs that they have, and nothing else can be meant
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.dicom import charset, tags, transfer_syntax
from engine.dicom.identifier import Identifier, decode_identifier
from engine.errors import QueryError
from engine.index.format.types import KeyValue, Level, Query, Root
from engine.services.information_models import PATIENT_ROOT, PATIENT_STUDY_ONLY, STUDY_ROOT, information_model

if TYPE_CHECKING:
    from engine.config import QueryOption
    from engine.ul.negotiation import AcceptedContext

ROOTS = {PATIENT_ROOT: Root.PATIENT, STUDY_ROOT: Root.STUDY, PATIENT_STUDY_ONLY: Root.PATIENT_STUDY_ONLY}

UNIQUE_KEYS = {
    Level.PATIENT: tags.PatientID,
    Level.STUDY: tags.StudyInstanceUID,
    Level.SERIES: tags.SeriesInstanceUID,
    Level.IMAGE: tags.SOPInstanceUID,
}

ANSWERED_HERE = frozenset(
    {
        tags.QueryRetrieveLevel,
        tags.RetrieveAETitle,
        tags.InstanceAvailability,
        tags.SpecificCharacterSet,
        tags.StorageMediaFileSetID,
        tags.StorageMediaFileSetUID,
    }
)
"""Keys that a service fills in, whatever matches."""

_ANY = b" *\0"
"""What a value of universal matching consists of."""

DESCRIBED_MAX = 20
"""Keys that `described` names; an identifier may have thousands."""


_OPTION_BYTES: Mapping[int, QueryOption] = {
    0: "relational",
    1: "date-time",
    2: "fuzzy",
    3: "timezone",
    5: "empty-values",
    6: "multiple-values",
}
"""Which byte of the negotiated item means which option (PS3.4 Table C.5-2)."""

FIND_OPTIONS = bytes(number in _OPTION_BYTES for number in range(7))
"""Those that we can do, to be negotiated; byte 4 is enhanced multi-frame conversion."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A C-FIND identifier: what to look for, and what to give back."""

    query: Query
    returned: tuple[int, ...]
    """Every key of the identifier, ascending."""
    level_name: bytes
    said_by: Mapping[int, int] = field(default_factory=dict)
    """Keys that are answered with another attribute's value, with that attribute."""


def query_options(configured: Collection[QueryOption], agreed: bytes) -> frozenset[QueryOption]:
    """The options of a C-FIND: what was agreed in extended negotiation of its SOP class, and what holds anyway."""
    negotiated = [option for number, option in _OPTION_BYTES.items() if agreed[number : number + 1] == b"\1"]
    return frozenset(negotiated).union(configured)


def find_query(
    context: AcceptedContext, identifier: bytes, limit: int = 0, options: Collection[QueryOption] = ()
) -> Asked:
    """The query of a C-FIND; `limit` matches at most, 0 for all. Raises DataSetError or QueryError.

    A value of Modality (0008,0060), which is none of a study, is taken for one of Modalities in Study (0008,0061): who
    asks for CT studies and gets all takes the search for broken. Relational queries look at the series for it.
    """
    decoded, level = _decode(context, identifier)
    keys = {tag: value for tag, value in decoded.items.items() if tag not in ANSWERED_HERE}
    said_by: dict[int, int] = {}
    in_series = level is not Level.STUDY or "relational" in options or decoded.value(tags.ModalitiesInStudy).strip(_ANY)
    if not in_series and decoded.value(tags.Modality).strip(_ANY):
        keys[tags.ModalitiesInStudy] = keys.pop(tags.Modality)
        said_by[tags.Modality] = tags.ModalitiesInStudy
    query = Query(
        level=level,
        keys=keys,
        root=_root(context),
        character_set=decoded.character_set,
        limit=limit or None,
        relational="relational" in options,
        date_time="date-time" in options,
        fuzzy="fuzzy" in options,
        timezone="timezone" in options,
        empty_values="empty-values" in options,
        multiple_values="multiple-values" in options,
    )
    return Asked(query, tuple(sorted(decoded.items)), level.name.encode("ascii"), said_by)


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
        raise QueryError(f"{tags.keyword_of(own)} is missing at level {level.name}", own)
    wild = [tag for tag in keys if any(wildcard in decoded.value(tag) for wildcard in (b"*", b"?"))]
    if wild:
        raise QueryError("a retrieval takes no wildcards", *wild)
    return Query(level=level, keys=keys, root=_root(context), character_set=decoded.character_set, relational=True)


def described(query: Query) -> str:
    """Which keys a query matches and how (PS3.4 C.2.2.2), without any value."""
    kinds = [(tags.keyword_of(tag), _kind(tag, query.keys[tag], query)) for tag in sorted(query.keys)]
    shown = [f"{keyword} {kind}" for keyword, kind in kinds if kind]
    left_out = len(shown) - DESCRIBED_MAX
    return ", ".join(shown[:DESCRIBED_MAX]) + (f" and {left_out} more" if left_out > 0 else "")


def _kind(tag: int, value: KeyValue, query: Query) -> str:
    """The kind of matching; "" for universal matching."""
    if not isinstance(value, bytes):
        items = [item.items if isinstance(item, Identifier) else item for item in value]
        return "sequence" if any(_kind(key, nested, query) for item in items for key, nested in item.items()) else ""
    vr = tags.vr_of(tag)
    text = charset.decode(value, query.character_set, vr).strip(" \0")
    if not text.strip("*"):
        return ""
    if query.empty_values and text == '""':
        return "empty value"
    if vr == "UI":
        return "list of UID" if "\\" in text else "single value"
    if vr in ("DA", "TM", "DT") and "-" in text:
        return "range"
    if "*" in text or "?" in text:
        return "wild card"
    if vr == "PN" and query.fuzzy:
        return "fuzzy"
    return "multiple values" if query.multiple_values and "\\" in text else "single value"


def _decode(context: AcceptedContext, identifier: bytes) -> tuple[Identifier, Level]:
    decoded = decode_identifier(identifier, transfer_syntax.of(context.transfer_syntax))
    if not decoded.value(tags.QueryRetrieveLevel).strip(b" \0"):
        raise QueryError("Query/Retrieve Level (0008,0052) is missing", tags.QueryRetrieveLevel)
    level = Level.of(decoded.value(tags.QueryRetrieveLevel))
    if level not in _root(context).value:
        raise QueryError(f"the information model has no level {level.name}", tags.QueryRetrieveLevel)
    return decoded, level


def _root(context: AcceptedContext) -> Root:
    return ROOTS[information_model(context.abstract_syntax)]
