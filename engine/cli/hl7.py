"""The part of `backend` for HL7 messages."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

from engine import audit
from engine.cli import backend
from engine.errors import ConfigError, MessageUnreadable, ProfileError

if TYPE_CHECKING:
    from engine.config import Config
    from engine.hl7 import Message
    from engine.journal import History, Row
    from engine.mapping import Mapped, Profile
    from engine.messaging.sources import KnownSource

_START = re.compile(rb"(?:\A|(?<=[\r\n]))\s*(?=MSH[^A-Za-z0-9\s])")


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


def messages_of(data: bytes) -> list[bytes]:
    """The messages of a file: blocks of MLLP, or texts that begin with MSH, one after another."""
    from engine.hl7 import FrameReader

    if data.lstrip(b"\r\n").startswith(b"\x0b"):
        reader = FrameReader(len(data) + 1)
        return [frame.payload for frame in (*reader.feed(data), *reader.end()) if not frame.is_commit]
    starts = list(dict.fromkeys(match.end() for match in _START.finditer(data)))
    if not starts:
        return [data]
    return [data[start:end] for start, end in zip(starts, [*starts[1:], len(data)], strict=True)]


def mapping_of(config: Config, source: str, profile: str) -> tuple[Profile, KnownSource]:
    """The profile for a source, and the source. Raises ConfigError."""
    from engine.mapping import load
    from engine.messaging.sources import Sources

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
    from engine.hl7 import parse
    from engine.hl7.acknowledgement import code_of
    from engine.mapping import apply
    from engine.messaging.sources import Sources

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
        "segments": _segments(message),
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


def _segments(message: Message) -> list[dict[str, Any]]:
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


def send(
    config: Config, messages: Sequence[bytes], *, host: str, port: int, timeout_s: float, secure: bool
) -> Iterator[dict[str, Any]]:
    """Sends messages one after another; each answer as it comes. Raises HL7SendFailed, ConfigError."""
    from engine import tls
    from engine.messaging.client import Client

    context = tls.client_context(config.tls, checks_name=True) if secure else None
    with asyncio.Runner() as runner:
        client = Client(host, port, timeout_s=timeout_s, context=context)
        runner.run(client.connect())
        try:
            for message in messages:
                answer = runner.run(client.send(message))
                yield {"control_id": answer.control_id, "code": answer.code, "text": answer.text}
        finally:
            runner.run(client.close())


def listener_of(config: Config) -> tuple[str, int, bool]:
    """Host and port of our first listener, and whether it uses TLS. Raises ConfigError."""
    if not config.hl7_listeners:
        raise ConfigError("there is no [[hl7_listener]]: name a receiver with --to HOST:PORT")
    listener = config.hl7_listeners[0]
    host = "127.0.0.1" if listener.host in ("0.0.0.0", "::") else listener.host
    return host, listener.port, listener.tls


def result_of(row: Row) -> str:
    """What became of a message: waiting, applied, unchanged, refused or failed."""
    if row.outcome is not None:
        return row.outcome.result.value  # also of one that was refused when it came, and was replayed
    return "refused" if row.received.fault is not None else "waiting"


def journal(config: Config, which: Filter) -> Iterator[dict[str, Any]]:
    """The messages of the journal, the newest first."""
    from engine.archive import messages

    with backend.opened(config) as archive:
        history = messages.history_of(archive)
        try:
            for row in history.rows():
                if which.since and row.received.time < which.since:
                    break
                if which.takes(row):
                    yield _facts(row)
        finally:
            history.close()


def _facts(row: Row) -> dict[str, Any]:
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


def show(config: Config, number: int) -> tuple[dict[str, Any], bytes]:
    """One message and its bytes. Raises JournalError."""
    from engine.archive import messages

    with backend.opened(config) as archive:
        history = messages.history_of(archive)
        try:
            row = history.find(number)
            if row.received.patient_id:
                backend.record_patient(audit.Patient(row.received.patient_id), detail=f"message {number}")
            return _facts(row), history.read(row.position)
        finally:
            history.close()


def replay(config: Config, number: int) -> dict[str, Any]:
    """Has the running server apply a message again. Raises ControlUnavailable, EngineError."""
    from engine import control

    with backend.opened(config):  # records the command
        answer = control.request(config.data, {"command": "replay", "number": number})
    answer.pop("ok")
    return answer


def differences(config: Config, profile: str, which: Filter, limit: int | None) -> Iterator[dict[str, Any]]:
    """The messages of which another profile would make other values; the newest first. Raises ConfigError."""
    from engine.archive import messages

    with backend.opened(config) as archive:
        history = messages.history_of(archive)
        try:
            count = 0
            for row in history.rows():
                if which.since and row.received.time < which.since:
                    return
                if not which.takes(row) or not row.received.kind:
                    continue
                count += 1
                if limit is not None and count > limit:
                    return
                difference = _difference(config, history, row, profile)
                if difference is not None:
                    yield difference
        finally:
            history.close()


def _difference(config: Config, history: History, row: Row, profile: str) -> dict[str, Any] | None:
    from engine.hl7 import parse
    from engine.mapping import apply

    name = row.received.source if row.received.source in {source.name for source in config.hl7_sources} else ""
    current, source = mapping_of(config, name, "")
    other, _ = mapping_of(config, name, profile)
    settings, options = source.settings, source.options
    try:
        data = history.read(row.position)
        message = parse(data, default=settings.default_charset, override=settings.charset)
    except MessageUnreadable:
        return None
    before = flat(plain_mapped(apply(message, current, options)))
    after = flat(plain_mapped(apply(message, other, options)))
    changed = sorted(key for key in before | after if before.get(key) != after.get(key))
    if not changed:
        return None
    return {
        "number": row.number,
        "kind": row.received.kind,
        "changed": {key: [before.get(key), after.get(key)] for key in changed},
    }


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested data as one mapping of dotted names."""
    if isinstance(value, Mapping):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = ((str(number), each) for number, each in enumerate(value, 1))  # type: ignore[assignment]
    else:
        return {prefix: value}
    found: dict[str, Any] = {}
    for name, each in pairs:
        found.update(flat(each, f"{prefix}.{name}" if prefix else name))
    return found
