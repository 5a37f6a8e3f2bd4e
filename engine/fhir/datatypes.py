"""Data types of FHIR from DICOM values (datatypes.html): names, moments, identifiers, codes.

PN   Family^Given^Middle^Prefix^Suffix=ideographic=phonetic     HumanName, one for each group
DA   19700203                                                   date 1970-02-03
DA + TM + zone +0100                                            dateTime 2026-01-02T10:11:12.5+01:00
DA + TM without a zone                                          the date alone: FHIR has no time without a zone
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import Any, Final, TypeAlias

Json: TypeAlias = dict[str, Any]

Attributes: TypeAlias = Mapping[int, bytes]
"""Tag → value as matches of the archive have it: text in UTF-8."""

DICOM_UID: Final = "urn:dicom:uid"
DCM: Final = "http://dicom.nema.org/resources/ontology/DCM"
URI: Final = "urn:ietf:rfc:3986"
SUBSETTED: Final = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}
"""The tag of a resource that is not whole."""
_IDENTIFIER_TYPES: Final = "http://terminology.hl7.org/CodeSystem/v2-0203"
_REPRESENTATION: Final = "http://hl7.org/fhir/StructureDefinition/iso21090-EN-representation"

_NOT_IN_TEXT: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_OID: Final = re.compile(r"[0-2](?:\.(?:0|[1-9]\d*))+", re.ASCII)
_ANY_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\S+", re.ASCII)
_DATE: Final = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})", re.ASCII)
_TIME: Final = re.compile(r"([01]\d|2[0-3]):?([0-5]\d)(?::?([0-5]\d)(\.\d{1,6})?)?", re.ASCII)
_ZONE: Final = re.compile(r"([+-])(0\d|1[0-4])([0-5]\d)", re.ASCII)


def without_empty(values: Mapping[str, Any]) -> Json:
    """The members that have a value: no empty text, list or object."""
    return {name: value for name, value in values.items() if value or isinstance(value, int)}


def text(value: object) -> str:
    """A string of FHIR: without control characters, and without spaces around it."""
    string = "" if value is None else str(value)
    return (string if string.isprintable() else _NOT_IN_TEXT.sub("", string)).strip()


def text_of(attributes: Attributes, tag: int) -> str:
    """The text of an attribute; "" without one."""
    return text(attributes.get(tag, b"").decode("utf-8", "replace"))


def uri_of_uid(uid: str) -> str:
    """A UID as a URI; a UID that is no OID stays what it is."""
    return f"urn:oid:{uid}" if _OID.fullmatch(uid) else uid


def system_of(issuer: str) -> str:
    """The identifier system of an issuer (0010,0021): an OID or a URI; "": the issuer is only a name."""
    if _OID.fullmatch(issuer):
        return f"urn:oid:{issuer}"
    return issuer if _ANY_URI.fullmatch(issuer) else ""


def day(value: str) -> str:
    """A DA as a date; "" if it is none."""
    match = _DATE.fullmatch(value.strip())
    if match is None:
        return ""
    try:
        return date(int(match[1]), int(match[2]), int(match[3])).isoformat()
    except ValueError:
        return ""


def moment(date_value: str, time_value: str, zone: str) -> str:
    """DA, TM and Timezone Offset From UTC as a dateTime, as exact as they are; "" without a valid date."""
    on = day(date_value)
    at, offset = _TIME.fullmatch(time_value.strip()), _ZONE.fullmatch(zone.strip())
    if not on or at is None or offset is None:
        return on
    return f"{on}T{at[1]}:{at[2]}:{at[3] or '00'}{at[4] or ''}{offset[1]}{offset[2]}:{offset[3]}"


def human_names(value: str) -> list[Json]:
    """The groups of a PN (PS3.5 6.2.1) as names; those of ideographic and phonetic groups say what they are."""
    names = []
    for group, representation in zip(value.split("="), ("", "IDE", "SYL"), strict=False):
        family, given, middle, prefix, suffix = ([text(part) for part in group.split("^")] + [""] * 5)[:5]
        name = without_empty(
            {
                "text": " ".join(part for part in (prefix, given, middle, family, suffix) if part),
                "family": family,
                "given": [part for part in (given, middle) if part],
                "prefix": [prefix] if prefix else [],
                "suffix": [suffix] if suffix else [],
            }
        )
        if name and representation:
            name["extension"] = [{"url": _REPRESENTATION, "valueCode": representation}]
        if name:
            names.append(name)
    return names


def display_name(value: str) -> str:
    """A PN as one line."""
    names = human_names(value)
    return str(names[0]["text"]) if names else ""


def coding(system: str, code: str, display: str = "") -> Json:
    """A code; {} without one."""
    return without_empty({"system": system, "code": code, "display": display}) if code else {}


def concept(system: str, code: str, display: str = "") -> Json:
    """A code with room for others beside it; {} without one."""
    return {"coding": [coding(system, code, display)]} if code else {}


def identifier(value: str, system: str = "", kind: str = "", assigner: str = "") -> Json:
    """An identifier of a kind of HL7 table 0203, as ACSN or MR; {} without a value."""
    if not value:
        return {}
    return without_empty(
        {
            "type": concept(_IDENTIFIER_TYPES, kind),
            "system": system,
            "value": value,
            "assigner": {"display": assigner} if assigner and not system else {},
        }
    )
