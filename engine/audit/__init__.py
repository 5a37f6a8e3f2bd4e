"""The audit log: who did what, when, from where, with whose data (PS3.15 A.5, HIPAA 164.312(b)).

    audit.write(event)         never blocks, never raises
    await audit.begin(event)   durable when it returns; AuditUnavailable: what discloses or destroys must not go on
    audit.begin_now(event)     the same for a thread that may block
    audit.start(event)         begins it, in any thread; next, call `audit.flush()` in one that may block, and
                               `await audit.durable(…)` before anything leaves
    audit.check()              AuditUnavailable while the disk refuses: before a query, which is recorded by `write`

Write one event for each operation, or each association or session and study; never one an instance. `configure` is
called once a process, as for the ordinary log. Until then, as in a program that only uses the archive, and with
`audit.enabled = false`, nothing is recorded.

    event        values          chain       the files and their hashes       recorder    the thread that writes
    checkpoint   signatures      verify      looks for changes                search      finds events
    message      DICOM's XML     sender      to the collector                 disclosures once a session and study
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.audit.event import SYSTEM, Alert, Event, Kind, Outcome, Patient
from engine.audit.recorder import Recorder, Started

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Protocol

    from engine.audit_settings import Audit

    class _Settings(Protocol):
        @property
        def data(self) -> Path: ...
        @property
        def audit(self) -> Audit: ...


__all__ = [
    "Alert",
    "Event",
    "Kind",
    "Outcome",
    "Patient",
    "Recorder",
    "SYSTEM",
    "Started",
    "begin",
    "begin_now",
    "check",
    "close",
    "configure",
    "durable",
    "flush",
    "is_on",
    "prepare",
    "snapshot",
    "start",
    "use",
    "write",
]

_current: list[Recorder] = []
"""The recorder of this process, if any."""


def configure(config: _Settings) -> None:
    """Records from now on as the [audit] table says."""
    use(Recorder(config.data, reserve_bytes=config.audit.reserve_bytes) if config.audit.enabled else None)


def prepare() -> None:
    """Takes a chain now, for a process that records for long. Never raises."""
    if _current:
        _current[0].prepare()


def use(recorder: Recorder | None) -> Recorder | None:
    """Records with this recorder from now on; returns the one before, which the caller closes."""
    before = _current[0] if _current else None
    _current[:] = [] if recorder is None else [recorder]
    return before


def is_on() -> bool:
    """Whether this process records."""
    return bool(_current)


def write(event: Event) -> None:
    """Records an event soon. Never blocks, never raises."""
    if _current:
        _current[0].write(event)


async def begin(*events: Event) -> None:
    """Records events durably before it returns. Raises AuditUnavailable."""
    if _current and events:
        await _current[0].begin(*events)


def begin_now(*events: Event) -> None:
    """As `begin`, in a thread that may block."""
    if _current and events:
        _current[0].begin_now(*events)


def start(*events: Event) -> Started | None:
    """Begins to record events, in any thread. Call `flush` next, and wait with `durable`. Raises AuditUnavailable."""
    return _current[0].start(*events) if _current and events else None


def flush() -> None:
    """Writes what somebody waits for, in this thread, which may block; unless another one is at it. Never raises."""
    if _current:
        _current[0].flush()


async def durable(started: Started | None) -> None:
    """Waits until events are on the disk; None: there were none. Raises AuditUnavailable."""
    if started is not None and _current:
        await _current[0].durable(started)


def check() -> None:
    """Raises AuditUnavailable while the audit log cannot be written."""
    if _current:
        _current[0].check()


def snapshot() -> dict[str, object]:
    """The recorder's counts and state, as plain data; empty when nothing is recorded."""
    return _current[0].snapshot() if _current else {}


def close() -> None:
    """Writes what waits, and records nothing more."""
    recorder = use(None)
    if recorder is not None:
        recorder.close()
