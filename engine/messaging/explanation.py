"""Messages and the journal for people: which messages came, what each says, how it is mapped, and what it did."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

from engine.errors import ConfigError, MessageUnreadable, ProfileError
from engine.hl7 import parse
from engine.hl7.acknowledgement import code_of
from engine.hl7.field_names import field_name
from engine.mapping import apply, load
from engine.messaging.sources import Sources

if TYPE_CHECKING:
    from engine.config import Config
    from engine.hl7 import Message
    from engine.journal import Row
    from engine.mapping import Mapped, Profile
    from engine.messaging.sources import KnownSource

OPENED_BYTES_MAX = 256 << 10
"""A longer message, as one with a document, is not decoded for a page."""
SEGMENTS_MAX = 500
VALUE_CHARACTERS_MAX = 2000


@dataclasses.dataclass(frozen=True, slots=True)
class Filter:
    """Which messages of the journal are shown."""

    patient: str = ""
    kind: str = ""
    source: str = ""
    result: str = ""
    since: float = 0.0
    until: float = 0.0

    def takes(self, row: Row) -> bool:
        """Whether a message is shown."""
        received = row.received
        return (
            (not self.patient or received.patient_id == self.patient)
            and (not self.kind or received.kind.startswith(self.kind))
            and (not self.source or received.source == self.source)
            and (not self.result or result_of(row) == self.result)
            and (not self.until or received.time < self.until)
        )


def result_of(row: Row) -> str:
    """What became of a message: waiting, applied, unchanged, refused or failed."""
    if row.outcome is not None:
        return row.outcome.result.value  # also of one that was refused when it came, and was replayed
    return "refused" if row.received.fault is not None else "waiting"


def facts_of(row: Row) -> dict[str, Any]:
    """A message of the journal, and what it did."""
    received, outcome = row.received, row.outcome
    fault = outcome.fault if outcome is not None else received.fault
    return {
        "number": row.number,
        "time": datetime.fromtimestamp(received.time).astimezone().isoformat(timespec="milliseconds"),
        "source": received.source,
        "host": received.host,
        "kind": received.kind,
        "control_id": received.control_id,
        "patient_id": received.patient_id,
        "result": result_of(row),
        "reason": f"{fault.code} {fault.text}" if fault is not None else "",
        "changes": list(outcome.changes) if outcome is not None else [],
        "warnings": list(outcome.warnings) if outcome is not None else [],
        "oddities": list(received.oddities),
    }


def mapping_of(config: Config, source: str, profile: str) -> tuple[Profile, KnownSource]:
    """The profile for a source, and the source. Raises ConfigError."""
    known = Sources(config.hl7, config.hl7_sources).named(source)
    if source and known.name != source:
        raise ConfigError(f"there is no [[hl7_source]] {source!r}")
    try:
        chosen = load(profile) if profile else known.profile
    except ProfileError as error:
        raise ConfigError(str(error)) from error
    return chosen, known


def explain(config: Config, data: bytes, *, source: str, profile: str) -> dict[str, Any]:
    """What a message says and how it would be answered; without `source` as from the one that it names.

    Raises MessageUnreadable, ConfigError.
    """
    if not source and config.hl7_sources:
        named = Sources(config.hl7, config.hl7_sources).naming(parse(data)).name
        source = named if named in {each.name for each in config.hl7_sources} else ""
    chosen, known = mapping_of(config, source, profile)
    message = parse(data, default=known.settings.default_charset, override=known.settings.charset)
    mapped = apply(message, chosen, known.options)
    refusal = known.judge(message)
    if refusal is not None:
        mapped.faults.insert(0, refusal)
    return {
        "kind": message.kind,
        "control_id": message.control_id,
        "version": message.version,
        "sender": "^".join((message.header.text(3), message.header.text(4))),
        "source": known.name,
        "character_set": message.codec,
        "oddities": list(message.oddities),
        "profile": chosen.name,
        "answer": code_of(mapped.faults[0] if mapped.faults else None),
        **plain_mapped(mapped),
        "segments": segments_of(message),
    }


def plain_mapped(mapped: Mapped) -> dict[str, Any]:
    """Values, faults and warnings as plain data."""
    return {
        "values": [{"value": type(value).__name__, **plain(value)} for value in mapped.values],
        "faults": [
            {"code": int(fault.condition), "reason": fault.text, "location": _location(fault.location)}
            for fault in mapped.faults
        ],
        "warnings": mapped.warnings,
    }


def _location(location: tuple[str, int, int] | None) -> str:
    return f"{location[0]}-{location[2]}" if location and location[2] else location[0] if location else ""


def segments_of(message: Message) -> list[dict[str, Any]]:
    """The segments with the first repetition of each field, by its number."""
    return [
        {
            "segment": segment.name,
            "fields": {
                str(number): segment.value(number).whole() if number > 2 or segment.name != "MSH" else field
                for number, field in enumerate(segment.fields)
                if number and field
            },
        }
        for segment in message
    ]


def plain(value: Any) -> Any:
    """A value of `orders.values` as plain data, without what it does not say."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        if set(fields) == {"value", "issuer", "type"}:
            return str(value)
        return {name: plain(each) for name, each in fields.items() if each not in (None, (), {}, False)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, tuple):
        return [plain(each) for each in value]
    return value


def opened(config: Config, row: Row, data: bytes) -> dict[str, Any]:
    """A message of the journal for a page: its text, its fields with their names, its mapping by the profile in force.

    Of a long message only the beginning. Raises ConfigError.
    """
    known = {source.name for source in config.hl7_sources}
    profile, source = mapping_of(config, row.received.source if row.received.source in known else "", "")
    settings = source.settings
    facts: dict[str, Any] = {"bytes": len(data), "profile": profile.name, "segments": [], "mapped": None}
    if len(data) > OPENED_BYTES_MAX:
        return {**facts, "text": _plain_text(data[:OPENED_BYTES_MAX]), "is_cut": True, "why_not": ""}
    try:
        message = parse(data, default=settings.default_charset, override=settings.charset)
    except MessageUnreadable as error:
        return {**facts, "text": _plain_text(data), "is_cut": False, "why_not": str(error)}
    named = _named_segments(message)
    text = data.decode(message.codec, "replace").replace("\r\n", "\n").replace("\r", "\n")
    mapped = plain_mapped(apply(message, profile, source.options))
    is_cut = len(named) < sum(1 for _ in message)
    return {
        **facts,
        "text": text,
        "character_set": message.codec,
        "segments": named,
        "mapped": mapped,
        "is_cut": is_cut,
        "why_not": "",
    }


def _plain_text(data: bytes) -> str:
    return data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")


def _named_segments(message: Message) -> list[dict[str, Any]]:
    """The first segments; values are cut."""
    found: list[dict[str, Any]] = []
    for segment in message:
        if len(found) >= SEGMENTS_MAX:
            break
        fields = [
            {
                "field": f"{segment.name}-{number}",
                "name": field_name(segment.name, number),
                "value": segment.raw(number)[:VALUE_CHARACTERS_MAX],
            }
            for number in range(1, len(segment.fields) + (segment.name == "MSH"))
            if segment.raw(number)
        ]
        found.append({"segment": segment.name, "fields": fields})
    return found
