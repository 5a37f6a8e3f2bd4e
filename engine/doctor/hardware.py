"""Compares this machine with hardware targets, and says which of them it is good for.

It measures nothing: the disk's figures come from the findings of `disk`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from engine.doctor.finding import Finding, good, warning

MEMORY_SHARE = 0.93
"""A machine of 16 GB shows a little less: the kernel and the firmware keep some."""

Above0 = Annotated[float, Meta(gt=0)]


class Hardware(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the server's machine must have."""

    cores: Annotated[int, Meta(ge=1)]
    memory_gb: Above0
    disk_tb: Above0
    """For the years that the target names."""
    sync_p99_ms_max: Above0
    """Of an fdatasync of 4 KiB."""
    syncs_per_s_min: Above0
    """fdatasyncs of 4 KiB, one after the other."""
    write_mb_per_s_min: Above0
    """Appended with one fdatasync every eight instances."""
    read_mb_per_s_min: Above0
    """Past the page cache."""
    network_mbit_per_s_min: Above0


@dataclass(frozen=True, slots=True)
class Line:
    """One requirement beside what this machine has. `has` None: not known."""

    subject: str
    has: float | None
    needs: float
    unit: str
    at_most: bool = False
    tolerance: float = 1.0

    @property
    def is_met(self) -> bool:
        if self.has is None:
            return True
        return self.has <= self.needs if self.at_most else self.has >= self.needs * self.tolerance

    @property
    def text(self) -> str:
        limit = f"{'at most' if self.at_most else 'at least'} {self.needs:g} {self.unit}"
        return f"{'not known' if self.has is None else f'{self.has:.3g} {self.unit}'}, {limit}"


def compare(hardware: Hardware, figures: Mapping[str, float]) -> list[Line]:
    """This machine beside a target; `figures` are those of the disk's findings."""
    memory_gb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    sync_p50_ms = figures.get("sync_p50_ms")
    free_bytes = figures.get("free_bytes")
    return [
        Line("processors", float(len(os.sched_getaffinity(0))), hardware.cores, "cores"),
        Line("memory", memory_gb, hardware.memory_gb, "GB", tolerance=MEMORY_SHARE),
        Line("free space", None if free_bytes is None else free_bytes / 1e12, hardware.disk_tb, "TB"),
        Line("sync latency", figures.get("sync_p99_ms"), hardware.sync_p99_ms_max, "ms (p99)", at_most=True),
        Line("syncs", 1e3 / sync_p50_ms if sync_p50_ms else None, hardware.syncs_per_s_min, "/s"),
        Line("write rate", figures.get("write_mb_per_s"), hardware.write_mb_per_s_min, "MB/s"),
        Line("read rate", figures.get("read_mb_per_s"), hardware.read_mb_per_s_min, "MB/s"),
        Line("network", network_mbit_per_s(), hardware.network_mbit_per_s_min, "Mbit/s"),
    ]


def network_mbit_per_s(interfaces: Path = Path("/sys/class/net")) -> float | None:
    """The fastest link that is up; None where the kernel does not say, as for most virtual ones."""
    speeds = []
    for interface in interfaces.glob("*"):
        try:
            speeds.append(int((interface / "speed").read_text()))
        except (OSError, ValueError):
            continue
    return float(max(speeds)) if any(speed > 0 for speed in speeds) else None


def examine(name: str, targets: Mapping[str, Hardware], findings: Iterable[Finding]) -> Iterator[Finding]:
    """Compares with target `name`, and says which of all targets this machine meets."""
    figures = {key: value for finding in findings for key, value in finding.figures.items()}
    for line in compare(targets[name], figures):
        subject = f"{name}: {line.subject}"
        if line.has is None:
            yield warning(subject, line.text, "this machine does not say it, or it was not measured: look yourself")
        elif line.is_met:
            yield good(subject, line.text)
        else:
            yield warning(subject, line.text, f"the machine is too small for {name} in this respect")
    yield _good_for(targets, figures)


def _good_for(targets: Mapping[str, Hardware], figures: Mapping[str, float]) -> Finding:
    lacks = {name: [line for line in compare(each, figures) if not line.is_met] for name, each in targets.items()}
    met = [name for name, lines in lacks.items() if not lines]
    what = f"this machine is good for {', '.join(met)}" if met else "this machine is good for none of the targets"
    missing = [f"{name} ({', '.join(line.subject for line in lines)})" for name, lines in lacks.items() if lines]
    if missing:
        what += f"; it is too small for {', '.join(missing)}"
    unknown = [line.subject for line in compare(next(iter(targets.values())), figures) if line.has is None]
    what += f"; not known: {', '.join(unknown)}" if unknown else ""
    return good("good for", what) if met else warning("good for", what, "take a larger machine, or a smaller target")
