"""Runs all examinations: first of what the whole server needs, last of what only some features need.

An examination that fails is itself a finding; the others still run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from engine.config import Config, Target
from engine.doctor import (
    archive_state,
    disk,
    encryption,
    hardware,
    host,
    messages,
    object_store,
    peers,
    second_copy,
    security,
    worklists,
)
from engine.doctor.finding import Finding, fault
from engine.doctor.hardware import Hardware
from engine.errors import EngineError

MEASURE_BYTES = 256 << 20

Progress = Callable[[str, int, int], None]


Examination = tuple[str, Callable[[], Iterator[Finding]]]


@dataclass(frozen=True, slots=True)
class Goal:
    """The hardware target to compare with, among all that are known."""

    name: str
    targets: Mapping[str, Hardware]

    @property
    def disk(self) -> Target:
        """The target of the disk's own examination."""
        each = self.targets[self.name]
        return Target(
            sync_p99_ms_max=each.sync_p99_ms_max,
            write_mb_per_s_min=each.write_mb_per_s_min,
            read_mb_per_s_min=each.read_mb_per_s_min,
        )


def examine(
    config: Config,
    *,
    measure_bytes: int = MEASURE_BYTES,
    progress: Progress | None = None,
    goal: Goal | None = None,
) -> list[Finding]:
    """Examines everything; writes and reads `measure_bytes` to measure the disk.

    0: measures nothing, and writes nothing to an object store.
    """
    if goal is not None:
        config = msgspec.structs.replace(config, target=goal.disk)
    findings = _run(
        [
            ("disk", lambda: disk.examine(config, measure_bytes=measure_bytes)),
            ("machine", lambda: host.examine(config)),
            ("archive", lambda: archive_state.examine(config)),
            ("peers", lambda: peers.examine(config)),
            ("security", lambda: security.examine(config)),
            ("hl7", lambda: messages.examine(config)),
            ("worklists", lambda: worklists.examine(config)),
            ("object store", lambda: object_store.examine(config, with_checks=measure_bytes > 0)),
            ("second copy", lambda: second_copy.examine(config)),
        ],
        progress,
    )
    if goal is not None:
        findings.extend(hardware.examine(goal.name, goal.targets, findings))
    return findings


def examine_security(config: Config) -> list[Finding]:
    """Examines only what protects the archive from others."""
    examinations: list[Examination] = [
        ("security", lambda: security.examine(config)),
        ("encryption", lambda: encryption.examine(config)),
    ]
    return _run(examinations, None)


def _run(examinations: list[Examination], progress: Progress | None) -> list[Finding]:
    findings: list[Finding] = []
    for done, (subject, examination) in enumerate(examinations):
        if progress is not None:
            progress(subject, done, len(examinations))
        try:
            findings.extend(examination())
        except (EngineError, OSError) as error:
            findings.append(fault(subject, f"could not be examined: {error}", "see the message"))
    return findings
