"""Turns identifiers of C-FIND, C-MOVE and C-GET into queries of the index (PS3.4 C.4).

It separates keys that are not attributes of instances: the level, the character set, and those that describe the source
of a response.

    C-FIND          baseline unless an option was negotiated for the SOP class of its context (PS3.4 Table C.5-2), or
                    the configuration sets it for the peer ([query] options, [[peer]] query_options)
    C-MOVE, C-GET   unique keys above the level may be missing, whether relational retrieval was negotiated or not:
                    UIDs are unique, users retrieve by the UIDs that they have, and the meaning is clear
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

SERVICE_KEYS = frozenset(
    {
        tags.QueryRetrieveLevel,
        tags.RetrieveAETitle,
        tags.InstanceAvailability,
        tags.SpecificCharacterSet,
        tags.StorageMediaFileSetID,
        tags.StorageMediaFileSetUID,
    }
)
"""Keys whose values come from the service, not from a match."""

_UNIVERSAL = b" *\0"
"""The characters of a value for universal matching."""

DESCRIBED_KEYS_MAX = 20
"""Keys that `describe` names; an identifier may have thousands."""

_OPTION_BYTES: Mapping[int, QueryOption] = {
    0: "relational",
    1: "date-time",
    2: "fuzzy",
    3: "timezone",
    5: "empty-values",
    6: "multiple-values",
}
"""Option of each byte of the negotiated item (PS3.4 Table C.5-2)."""

FIND_OPTIONS = bytes(number in _OPTION_BYTES for number in range(7))
"""The options that we support, for negotiation; byte 4 is enhanced multi-frame conversion."""


@dataclass(frozen=True, slots=True)
class FindRequest:
    """The content of a C-FIND identifier."""

    query: Query
    return_keys: tuple[int, ...]
    """All keys of the identifier, ascending."""
    level_name: bytes
    substitutes: Mapping[int, int] = field(default_factory=dict)
    """Keys whose value in a response is that of another attribute: key → attribute."""


def query_options(configured: Collection[QueryOption], application_information: bytes) -> frozenset[QueryOption]:
    """The options of a C-FIND: those negotiated for its SOP class, and those of the configuration."""
    negotiated = [
        option for number, option in _OPTION_BYTES.items() if application_information[number : number + 1] == b"\1"
    ]
    return frozenset(negotiated).union(configured)


def find_query(
    context: AcceptedContext, identifier: bytes, limit: int = 0, options: Collection[QueryOption] = ()
) -> FindRequest:
    """The query of a C-FIND; `limit` matches at most, 0 for all. Raises DataSetError or QueryError.

    At study level Modality (0008,0060), which is not an attribute of a study, counts as Modalities in Study
    (0008,0061): users who search for CT studies and get all would think that the search is broken. Relational queries
    look at the series instead.
    """
    decoded, level = _decode(context, identifier)
    keys = {tag: value for tag, value in decoded.items.items() if tag not in SERVICE_KEYS}
    substitutes: dict[int, int] = {}
    is_study_query = level is Level.STUDY and "relational" not in options
    has_modalities = bool(decoded.value(tags.ModalitiesInStudy).strip(_UNIVERSAL))
    if is_study_query and not has_modalities and decoded.value(tags.Modality).strip(_UNIVERSAL):
        keys[tags.ModalitiesInStudy] = keys.pop(tags.Modality)
        substitutes[tags.Modality] = tags.ModalitiesInStudy
    if tags.InstanceAvailability in decoded.items:
        keys.setdefault(UNIQUE_KEYS[level], b"")  # it is looked up by that
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
    return FindRequest(query, tuple(sorted(decoded.items)), level.name.encode("ascii"), substitutes)


def retrieval_query(context: AcceptedContext, identifier: bytes) -> Query:
    """The query of a C-MOVE or C-GET: the unique keys down to the level. Raises DataSetError or QueryError.

    Other keys are ignored (PS3.4 C.4.2.1.4.1 allows none, but some clients send back their C-FIND responses).
    """
    decoded, level = _decode(context, identifier)
    keys = {
        tag: decoded.items[tag]
        for key_level, tag in UNIQUE_KEYS.items()
        if key_level <= level and decoded.value(tag).strip(b" \0")
    }
    level_key = UNIQUE_KEYS[level]
    if level_key not in keys:
        raise QueryError(f"{tags.keyword_of(level_key)} is missing at level {level.name}", level_key)
    wildcard_keys = [tag for tag in keys if any(wildcard in decoded.value(tag) for wildcard in (b"*", b"?"))]
    if wildcard_keys:
        raise QueryError("a retrieval allows no wildcards", *wildcard_keys)
    return Query(level=level, keys=keys, root=_root(context), character_set=decoded.character_set, relational=True)


def describe(query: Query) -> str:
    """The keys of a query and their kinds of matching (PS3.4 C.2.2.2), without any value."""
    kinds = [(tags.keyword_of(tag), _kind(tag, query.keys[tag], query)) for tag in sorted(query.keys)]
    texts = [f"{keyword} {kind}" for keyword, kind in kinds if kind]
    more_count = len(texts) - DESCRIBED_KEYS_MAX
    return ", ".join(texts[:DESCRIBED_KEYS_MAX]) + (f" and {more_count} more" if more_count > 0 else "")


def spelled(query: Query) -> str:
    """The keys of a query with their values, for the audit log: universal matching is left out."""
    texts = []
    for tag in sorted(query.keys):
        value = query.keys[tag]
        if not isinstance(value, bytes):
            texts += [f"{tags.keyword_of(tag)}=(sequence)"] if _kind(tag, value, query) else []
        elif text := charset.decode(value, query.character_set, tags.vr_of(tag)).strip(" \0"):
            texts.append(f"{tags.keyword_of(tag)}={text}")
    return f"{query.level.name.lower()} {' '.join(texts)}".strip()


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
