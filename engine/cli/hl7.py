"""The part of `backend` for HL7 messages."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine import audit
from engine.cli import backend
from engine.errors import ConfigError, MessageUnreadable
from engine.messaging.explanation import Filter, facts_of, mapping_of, plain_mapped

if TYPE_CHECKING:
    from engine.config import Config
    from engine.journal import History, Row

_START = re.compile(rb"(?:\A|(?<=[\r\n]))\s*(?=MSH[^A-Za-z0-9\s])")


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
                    yield facts_of(row)
        finally:
            history.close()


def show(config: Config, number: int) -> tuple[dict[str, Any], bytes]:
    """One message and its bytes. Raises JournalError."""
    from engine.archive import messages

    with backend.opened(config) as archive:
        history = messages.history_of(archive)
        try:
            row = history.find(number)
            if row.received.patient_id:
                backend.record_patient(audit.Patient(row.received.patient_id), detail=f"message {number}")
            return facts_of(row), history.read(row.position)
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
