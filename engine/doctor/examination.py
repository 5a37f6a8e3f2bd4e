"""All examinations in order: from what everything else needs to what only some features do.

One that breaks is itself a finding; the others still run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from engine.config import Config
from engine.doctor import archive_state, disk, host, peers
from engine.doctor.finding import Finding, fault
from engine.errors import EngineError

MEASURE_BYTES = 256 << 20

Progress = Callable[[str, int, int], None]


def examine(config: Config, *, measure_bytes: int = MEASURE_BYTES, progress: Progress | None = None) -> list[Finding]:
    """Looks at everything; `measure_bytes` are written and read to measure the disk, 0: not measured."""
    examinations: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("disk", lambda: disk.examine(config, measure_bytes=measure_bytes)),
        ("machine", lambda: host.examine(config)),
        ("archive", lambda: archive_state.examine(config)),
        ("peers", lambda: peers.examine(config)),
    ]
    findings: list[Finding] = []
    for done, (what, examination) in enumerate(examinations):
        if progress is not None:
            progress(what, done, len(examinations))
        try:
            findings.extend(examination())
        except (EngineError, OSError) as error:
            findings.append(fault(what, f"could not be examined: {error}", "see the sentence"))
    return findings
