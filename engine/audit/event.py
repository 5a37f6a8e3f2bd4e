"""An event of the audit log, as a value that knows neither DICOM's messages nor files.

As a record it is one object of JSON; what is empty is left out:

    {"n":17,"t":"2026-11-30T02:15:44.123456Z","kind":"sent","who":{"kind":"peer","name":"CT1","address":"10.0.0.1"},
     "outcome":0,"patient":{"id":"P1","issuer":"","name":"DOE^JANE"},"study":"1.2.3","classes":{"1.2.840…":120},…}

Strings are cut at TEXT_MAX characters, and lists at LIST_MAX items, so that no peer makes a record of megabytes.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, IntEnum
from typing import Any, Final

import orjson

from engine.access.principal import Kind as PrincipalKind
from engine.access.principal import Principal

TEXT_MAX: Final = 4096
LIST_MAX: Final = 500
IDENTIFIER_MAX: Final = 8192
"""Bytes. Longer ones are left out; their keys are in `query`."""


class Kind(Enum):
    """What happened."""

    START = "start"
    STOP = "stop"
    RECEIVED = "received"
    """Instances of one study were stored: C-STORE, STOW-RS, a pull."""
    SENDING = "sending"
    """Instances of one study will be disclosed: recorded before the first byte leaves."""
    SENT = "sent"
    """Instances of one study were disclosed."""
    QUERY = "query"
    VIEWED = "viewed"
    """A person looked at the record of a study."""
    CORRECTED = "corrected"
    """Attributes of a study were corrected, or a correction was undone."""
    MERGED = "merged"
    """Studies of one patient went to another."""
    HELD = "held"
    RELEASED = "released"
    """A legal hold ended."""
    DELETED = "deleted"
    TRASHED = "trashed"
    """Deleted, and can be taken back."""
    RESTORED = "restored"
    SHREDDED = "shredded"
    """The keys of a deleted study were destroyed: no copy of it can be read any more."""
    EXPORTED = "exported"
    """Written to files, a medium, or a zip archive."""
    IMPORTED = "imported"
    LOGIN = "login"
    LOGOUT = "logout"
    ALERT = "alert"
    """A security alert; `Alert` says of which sort."""
    OPERATION = "operation"
    """Something that an operator did to the server: a restore, a rebuild, a job, a backup."""
    AUDIT_READ = "audit-read"


class Alert(Enum):
    """The sort of a security alert (PS3.16 CID 403)."""

    NODE = "node-authentication"
    EMERGENCY_STARTED = "emergency-override-started"
    EMERGENCY_STOPPED = "emergency-override-stopped"
    NETWORK = "network-configuration"
    SECURITY = "security-configuration"
    SOFTWARE = "software-configuration"
    RESTRICTED = "use-of-restricted-function"
    RECORDING_STOPPED = "audit-recording-stopped"
    RECORDING_STARTED = "audit-recording-started"
    OBJECT = "object-security-attributes-changed"
    ROLES = "security-roles-changed"
    USER = "user-security-attributes-changed"


class Outcome(IntEnum):
    """How it ended (PS3.15 A.5.1, EventOutcomeIndicator)."""

    SUCCESS = 0
    MINOR = 4
    """It may be repeated: a refusal, a wrong password."""
    SERIOUS = 8
    """It was ended before it was done."""
    MAJOR = 12
    """It made something unavailable."""


@dataclass(frozen=True, slots=True)
class Patient:
    """A patient as the archive knew it at that time."""

    id: str
    issuer: str = ""
    name: str = ""


SYSTEM: Final = Principal(PrincipalKind.JOB, "filmroom")
"""The server itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What one principal did, at one time, with at most one study or patient."""

    kind: Kind
    principal: Principal = SYSTEM
    outcome: Outcome = Outcome.SUCCESS
    action: str = ""
    """What was done, as people call it: C-GET, STOW-RS, `filmroom export`."""
    patient: Patient | None = None
    study: str = ""
    """Study Instance UID."""
    accession: str = ""
    series: tuple[str, ...] = ()
    """Series Instance UIDs, where not the whole study is meant."""
    classes: Mapping[str, int] = field(default_factory=dict)
    """Instances of each SOP class."""
    count: int = 0
    """Instances; of a query, matches."""
    peer: str = ""
    """The third party: the destination of a C-MOVE or a job, the source of a pull, the medium of an export."""
    peer_address: str = ""
    query: str = ""
    """The keys of a query, or what an address asked for."""
    identifier: bytes = b""
    """The data set of a C-FIND, which DICOM's message carries."""
    transfer_syntax: str = ""
    """Of that data set."""
    sop_class: str = ""
    """Of a query."""
    reason: str = ""
    """Why, in the words of the principal."""
    detail: str = ""
    """What else a reviewer needs: what was refused and why, settings that changed."""
    alert: Alert | None = None
    time_ns: int = field(default_factory=time.time_ns)


def when(time_ns: int) -> str:
    """A time in ISO 8601, with microseconds and zone."""
    moment = datetime.fromtimestamp(time_ns // 1_000_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ns // 1000 % 1_000_000:06d}Z"


def fields_of(event: Event) -> dict[str, Any]:
    """The event's part of its record."""
    who = event.principal
    fields: dict[str, Any] = {"t": when(event.time_ns), "kind": event.kind.value}
    principal: dict[str, Any] = {"kind": who.kind.value}
    for name in ("name", "user", "claimed_user", "address", "session", "share"):
        if value := getattr(who, name, ""):
            principal[name] = _text(str(value))
    if who.roles:
        principal["roles"] = sorted(map(_text, who.roles))[:LIST_MAX]
    if who.certificate_names:
        principal["certificates"] = sorted(map(_text, who.certificate_names))[:20]
    fields["who"] = principal
    if event.outcome:
        fields["outcome"] = int(event.outcome)
    if event.patient is not None:
        known = {"id": event.patient.id, "issuer": event.patient.issuer, "name": event.patient.name}
        fields["patient"] = {name: _text(value) for name, value in known.items() if value}
    for name in _TEXTS:
        if value := getattr(event, name):
            fields[name] = _text(value)
    if event.identifier and len(event.identifier) <= IDENTIFIER_MAX:
        fields["identifier"] = base64.b64encode(event.identifier).decode()
    if event.series:
        fields["series"] = [_text(uid) for uid in event.series[:LIST_MAX]]
    if event.classes:
        fields["classes"] = {_text(uid): count for uid, count in list(event.classes.items())[:LIST_MAX]}
    if event.count:
        fields["count"] = event.count
    if event.alert is not None:
        fields["alert"] = event.alert.value
    return fields


_TEXTS: Final = (
    "action",
    "study",
    "accession",
    "peer",
    "peer_address",
    "query",
    "sop_class",
    "transfer_syntax",
    "reason",
    "detail",
)


def encoded(fields: Mapping[str, Any]) -> bytes:
    """A record in JSON, on one line."""
    try:
        return orjson.dumps(fields)
    except (TypeError, orjson.JSONEncodeError):
        return orjson.dumps(_readable(fields))


def _text(value: str) -> str:
    return value if len(value) <= TEXT_MAX else value[:TEXT_MAX] + "…"


def _readable(value: Any) -> Any:
    """What JSON cannot express (lone surrogates, foreign types) as escaped text."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_readable(str(key)): _readable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_readable(each) for each in value]
    return value if isinstance(value, int | float | bool) or value is None else _readable(str(value))
