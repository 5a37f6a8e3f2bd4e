"""An event as a message of the DICOM audit trail profile (PS3.15 A.5): one XML document, in ASCII.

Names and codes are those of A.5.1 and A.5.3. Text from data sets and peers can neither end an attribute nor begin a
line: what is not plain ASCII is a character reference, and what XML cannot hold is spelled out (`\\x00`).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from engine.audit_settings import Audit

MESSAGE_BYTES_MAX: Final = 32_768
"""What every collector takes (PS3.15 A.6): of longer messages the texts are shortened."""
TEXT_SHORT: Final = 200

_EVENTS: Final = {
    "start": ("110100", "Application Activity", "E"),
    "stop": ("110100", "Application Activity", "E"),
    "received": ("110104", "DICOM Instances Transferred", "C"),
    "sending": ("110102", "Begin Transferring DICOM Instances", "E"),
    "sent": ("110104", "DICOM Instances Transferred", "R"),
    "query": ("110112", "Query", "E"),
    "viewed": ("110103", "DICOM Instances Accessed", "R"),
    "corrected": ("110103", "DICOM Instances Accessed", "U"),
    "merged": ("110103", "DICOM Instances Accessed", "U"),
    "held": ("110103", "DICOM Instances Accessed", "U"),
    "released": ("110103", "DICOM Instances Accessed", "U"),
    "restored": ("110103", "DICOM Instances Accessed", "U"),
    "trashed": ("110103", "DICOM Instances Accessed", "D"),
    "deleted": ("110105", "DICOM Study Deleted", "D"),
    "shredded": ("110105", "DICOM Study Deleted", "D"),
    "exported": ("110106", "Export", "R"),
    "imported": ("110107", "Import", "C"),
    "login": ("110114", "User Authentication", "E"),
    "logout": ("110114", "User Authentication", "E"),
    "alert": ("110113", "Security Alert", "E"),
    "operation": ("110113", "Security Alert", "E"),
    "audit-read": ("110101", "Audit Log Used", "R"),
}
"""Kind → EventID, its meaning, EventActionCode."""

_TYPES: Final = {
    "start": ("110120", "Application Start"),
    "stop": ("110121", "Application Stop"),
    "login": ("110122", "Login"),
    "logout": ("110123", "Logout"),
    "operation": ("110132", "Use of Restricted Function"),
    "node-authentication": ("110126", "Node Authentication"),
    "emergency-override-started": ("110127", "Emergency Override Started"),
    "network-configuration": ("110128", "Network Configuration"),
    "security-configuration": ("110129", "Security Configuration"),
    "software-configuration": ("110131", "Software Configuration"),
    "use-of-restricted-function": ("110132", "Use of Restricted Function"),
    "audit-recording-stopped": ("110133", "Audit Recording Stopped"),
    "audit-recording-started": ("110134", "Audit Recording Started"),
    "object-security-attributes-changed": ("110135", "Object Security Attributes Changed"),
    "security-roles-changed": ("110136", "Security Roles Changed"),
    "user-security-attributes-changed": ("110137", "User security Attributes Changed"),
    "emergency-override-stopped": ("110138", "Emergency Override Stopped"),
}
"""Kind or alert → EventTypeCode and its meaning."""


def event_code(kind: str) -> tuple[str, str, str]:
    """EventID, its meaning, and EventActionCode of a kind of event."""
    return _EVENTS.get(kind, _EVENTS["operation"])


_APPLICATION, _LAUNCHER = ("110150", "Application"), ("110151", "Application Launcher")
_DESTINATION, _SOURCE = ("110152", "Destination Role ID"), ("110153", "Source Role ID")
_DESTINATION_MEDIA, _SOURCE_MEDIA = ("110154", "Destination Media"), ("110155", "Source Media")
_URI_MEDIA = ("110037", "URI")

_PLAIN: Final = re.compile(r"[A-Za-z0-9 .,:;/()^=*?+_@-]*")
_ESCAPED: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Source:
    """Who reports: this archive."""

    id: str
    site: str
    aet: str
    host: str

    @classmethod
    def of(cls, settings: Audit, aet: str, host: str) -> Source:
        """As the configuration names it."""
        return cls(settings.source, settings.enterprise_site, aet, host)


def message(record: Record, source: Source) -> bytes:
    """The XML document of a record."""
    text = _document(record, source)
    if len(text) > MESSAGE_BYTES_MAX:
        text = _document({key: _shortened(value) for key, value in record.items() if key != "identifier"}, source)
    return text.encode("ascii")


def _shortened(value: Any) -> Any:
    if isinstance(value, str):
        return value[:TEXT_SHORT]
    if isinstance(value, Mapping):
        return {_shortened(key): _shortened(each) for key, each in list(value.items())[:20]}
    return [_shortened(each) for each in value[:20]] if isinstance(value, list) else value


def _document(record: Record, source: Source) -> str:
    parts = [
        _event(record),
        *(_participant(*each) for each in _participants(record, source)),
        _element("AuditSourceIdentification", {"AuditEnterpriseSiteID": source.site, "AuditSourceID": source.id}),
        *_objects(record),
    ]
    return f'<?xml version="1.0" encoding="UTF-8"?><AuditMessage>{"".join(parts)}</AuditMessage>'


# -- the event ------------------------------------------------------------------------------------------


def _event(record: Record) -> str:
    kind = record["kind"]
    code, meaning, action = _EVENTS.get(kind, _EVENTS["operation"])
    if kind == "received" and record.get("detail", "").startswith(f"{record.get('count')} "):
        action = "R"  # all of them were stored before
    if kind == "deleted" and record.get("series"):
        code, meaning = "110103", "DICOM Instances Accessed"  # of the study something is left
    if kind in ("merged", "corrected") and not record.get("study"):
        code, meaning = "110110", "Patient Record"
    outcome = record.get("outcome", 0)
    children = _coded("EventID", code, meaning)
    event_type = _TYPES.get(record.get("alert", kind))
    if event_type is not None:
        children += _coded("EventTypeCode", *event_type)
    if outcome or (record.get("detail") and not record.get("study")):
        children += f"<EventOutcomeDescription>{escape(record.get('detail', ''))}</EventOutcomeDescription>"
    attributes = {"EventActionCode": action, "EventDateTime": record["t"], "EventOutcomeIndicator": str(outcome)}
    return _element("EventIdentification", attributes, children)


# -- who ------------------------------------------------------------------------------------------------

_Participant = tuple[Mapping[str, str], str]


def _participants(record: Record, source: Source) -> Iterator[_Participant]:
    """Attributes and children of each participant."""
    kind, peer = record["kind"], record.get("peer", "")
    user = _user(record["who"])
    ours = {
        "UserID": source.aet,
        "AlternativeUserID": f"AETITLES={source.aet}",
        "UserIsRequestor": "false",
        **_network(source.host),
    }
    third = {"UserID": peer, "UserIsRequestor": "false", **_network(record.get("peer_address", ""))}
    match kind:
        case "start" | "stop":
            yield ours, _role(_APPLICATION)
            yield user, _role(_LAUNCHER)
        case "received":
            yield user, _role(_SOURCE)
            yield ours, _role(_DESTINATION)
            if peer:
                yield third, ""
        case "sending" | "sent":
            yield ours, _role(_SOURCE)
            if peer:
                yield third, _role(_DESTINATION)
                yield user, ""
            else:
                yield user, _role(_DESTINATION)
        case "query":
            yield user, _role(_SOURCE)
            yield ours, _role(_DESTINATION)
        case "exported":
            yield user, ""
            yield ours, _role(_SOURCE)
            yield {**third, "UserID": peer or "download"}, _role(_DESTINATION_MEDIA) + _media()
        case "imported":
            yield user, _role(_DESTINATION)
            yield ours, ""
            yield {**third, "UserID": peer or "files"}, _role(_SOURCE_MEDIA) + _media()
        case _:
            yield user, ""
            yield ours, _role(_APPLICATION)
            if peer:
                yield third, ""


def _user(who: Record) -> dict[str, str]:
    name, address = who.get("name", ""), who.get("address", "")
    attributes = {"UserID": name or address or who["kind"]}
    if who["kind"] == "peer" and name:
        attributes["AlternativeUserID"] = f"AETITLES={name}"
    elif session := who.get("session", ""):
        attributes["AlternativeUserID"] = session
    if user := who.get("user", ""):
        attributes["UserName"] = user
    elif claim := who.get("claimed_user", ""):
        attributes["UserName"] = f"{claim} (not proven)"
    return {**attributes, "UserIsRequestor": "true", **_network(address)}


def _network(address: str) -> dict[str, str]:
    if not address:
        return {}
    if "://" in address:
        return {"NetworkAccessPointID": address, "NetworkAccessPointTypeCode": "5"}
    try:
        ip_address(address)
    except ValueError:
        return {"NetworkAccessPointID": address, "NetworkAccessPointTypeCode": "1"}
    return {"NetworkAccessPointID": address, "NetworkAccessPointTypeCode": "2"}


def _participant(attributes: Mapping[str, str], children: str) -> str:
    return _element("ActiveParticipant", attributes, children)


def _role(code: tuple[str, str]) -> str:
    return _coded("RoleIDCode", *code)


def _media() -> str:
    return f"<MediaIdentifier>{_coded('MediaType', *_URI_MEDIA)}</MediaIdentifier>"


# -- what -----------------------------------------------------------------------------------------------


def _objects(record: Record) -> Iterator[str]:
    kind = record["kind"]
    if study := record.get("study", ""):
        yield _study(record, study)
    if "patient" in record:
        patient = record["patient"]
        issuer = patient.get("issuer", "")
        identifier = patient.get("id", "") + (f"^^^{issuer}" if issuer else "")
        yield _object(
            {"ParticipantObjectID": identifier or "(none)", "ParticipantObjectTypeCode": "1"},
            "1",
            _coded("ParticipantObjectIDTypeCode", "2", "Patient Number", "RFC-3881"),
            _text_element("ParticipantObjectName", patient.get("name", "")),
        )
    if kind == "query":
        yield _query(record)
    if kind == "audit-read":
        yield _object(
            {"ParticipantObjectID": "audit", "ParticipantObjectTypeCode": "2"},
            "13",
            _coded("ParticipantObjectIDTypeCode", "12", "URI", "RFC-3881"),
            _text_element("ParticipantObjectName", "Security Audit Log"),
            _details(record, ("action", "detail")),
        )
    if kind in ("alert", "operation") and (record.get("action") or record.get("detail")):
        yield _object(
            {
                "ParticipantObjectID": record.get("action") or record.get("alert", kind),
                "ParticipantObjectTypeCode": "2",
            },
            "13",
            _coded("ParticipantObjectIDTypeCode", "12", "URI", "RFC-3881"),
            _text_element("ParticipantObjectName", record.get("alert", kind)),
            _details(record, ("detail", "reason")),
        )


def _study(record: Record, study: str) -> str:
    classes = record.get("classes", {})
    count = record.get("count", 0)
    description = "".join(
        _element("SOPClass", {"UID": uid, "NumberOfInstances": str(number)}) for uid, number in classes.items()
    )
    if not classes and count:
        description = _element("SOPClass", {"NumberOfInstances": str(count)})
    if accession := record.get("accession", ""):
        description = _element("Accession", {"Number": accession}) + description
    lifecycle = {"trashed": "14", "deleted": "15"}.get(record["kind"])
    return _object(
        {
            "ParticipantObjectID": study,
            "ParticipantObjectTypeCode": "2",
            **({"ParticipantObjectDataLifeCycle": lifecycle} if lifecycle else {}),
        },
        "3",
        _coded("ParticipantObjectIDTypeCode", "110180", "Study Instance UID"),
        _text_element("ParticipantObjectName", ""),
        _details(record, ("action", "reason", "detail"))
        + "".join(_detail("SeriesInstanceUID", uid) for uid in record.get("series", ())),
        f"<ParticipantObjectDescription>{description}</ParticipantObjectDescription>" if description else "",
    )


def _query(record: Record) -> str:
    identifier = record.get("identifier") or base64.b64encode(record.get("query", "").encode()).decode()
    details = _details(record, ("query",))
    if syntax := record.get("transfer_syntax", ""):
        details = _detail("TransferSyntax", syntax) + details
    sop_class = record.get("sop_class", "")
    code = ("110181", "SOP Class UID") if sop_class else ("10", "Search Criteria", "RFC-3881")
    return _object(
        {"ParticipantObjectID": sop_class or record.get("action") or "query", "ParticipantObjectTypeCode": "2"},
        "3",
        _coded("ParticipantObjectIDTypeCode", *code),
        f"<ParticipantObjectQuery>{identifier}</ParticipantObjectQuery>",
        details,
    )


def _object(attributes: Mapping[str, str], role: str, *children: str) -> str:
    return _element(
        "ParticipantObjectIdentification", {**attributes, "ParticipantObjectTypeCodeRole": role}, "".join(children)
    )


def _details(record: Record, names: tuple[str, ...]) -> str:
    return "".join(_detail(name, str(record[name])) for name in names if record.get(name))


def _detail(name: str, value: str) -> str:
    encoded = base64.b64encode(value.encode("utf-8", "backslashreplace")).decode()
    return _element("ParticipantObjectDetail", {"type": name, "value": encoded})


# -- XML ------------------------------------------------------------------------------------------------


def _coded(name: str, code: str, meaning: str, system: str = "DCM") -> str:
    return _element(name, {"csd-code": code, "codeSystemName": system, "originalText": meaning})


def _text_element(name: str, text: str) -> str:
    return f"<{name}>{escape(text)}</{name}>"


def _element(name: str, attributes: Mapping[str, str], children: str = "") -> str:
    """Attributes without a value are left out."""
    texts = "".join(f' {key}="{escape(value)}"' for key, value in attributes.items() if value)
    return f"<{name}{texts}>{children}</{name}>" if children else f"<{name}{texts}/>"


def escape(text: str) -> str:
    """Text for an attribute or an element, in ASCII."""
    if _PLAIN.fullmatch(text):
        return text
    return "".join(map(_escape_character, text))


def _escape_character(character: str) -> str:
    if character in _ESCAPED:
        return _ESCAPED[character]
    number = ord(character)
    if 0x20 <= number < 0x7F:
        return character
    if number in (9, 10, 13) or 0x7F <= number <= 0xD7FF or 0xE000 <= number <= 0xFFFD or number > 0xFFFF:
        return f"&#x{number:X};"
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
