"""From studies a day to cores, memory, disk, syncs and network: the sums of `filmroom size`, and of SIZING.md.

    python -m perf.sizing            prints the tables of SIZING.md, which a test compares with the page

Every rule names the measured figure that it uses (`figures.toml`). What is assumed about people and machines stands
below as a constant with its reason. The results are for Filmroom on one server.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec
from msgspec import Struct

from engine.sizes import bytes_text
from perf.harness import PerfError, say

FIGURES_FILE = Path(__file__).with_name("figures.toml")

DAYS = 365
SCANNER_RATE = 60.0
"""Instances a second of a CT on a line of 1 Gbit/s."""
STUDIES_A_SENDER = 150
"""One scanner more sends at the busiest moment for so many studies a day."""
STUDIES_A_WORKSTATION = 120
"""One workstation more fetches at the busiest moment for so many studies a day."""
WORKSTATION_MB_PER_S = 118.0
"""A line of 1 Gbit/s."""
CACHED_DAY_SHARE = 0.25
"""The studies of the last hours are fetched from memory."""
CACHED_READ_SHARE = 0.5
"""So much of what workstations fetch is of the last hours."""
INDEX_PAGES_SHARE = 0.05
"""So much of the index is read often: recent studies, and the upper pages of all trees."""
RESERVE = 2.0
"""Processors, syncs and writes for the busiest moment, times this: compaction, scrubbing, rendering, and bad days."""
GROUP_MAX = 8
"""So many waiting senders share a sync."""

CORES = (2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
MEMORY_GB = (4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048)
NETWORK_GBIT_PER_S = (1, 10, 25, 50, 100, 200, 400)
"""What machines are sold with."""

STUDIES: dict[str, tuple[float, float]] = {
    "ct": (400, 0.53),
    "mr": (250, 0.13),
    "mg": (4, 27.0),
    "cr": (2, 9.0),
    "dx": (2, 15.0),
    "us": (40, 0.9),
    "xa": (15, 8.0),
    "pt": (300, 0.05),
    "nm": (4, 0.5),
}
"""Modality → (instances, MB an instance) of a usual study, uncompressed."""
USUAL_MIX = {"ct": 34.0, "mr": 22.0, "dx": 24.0, "us": 12.0, "mg": 4.0, "pt": 2.0, "nm": 2.0}
"""Per cent of the studies of a general hospital."""


class Figure(Struct, frozen=True, forbid_unknown_fields=True):
    """One measured figure."""

    value: float
    unit: str
    text: str
    measured: str
    source: str


@cache
def figures() -> dict[str, Figure]:
    """All measured figures by their names."""
    return msgspec.toml.decode(FIGURES_FILE.read_bytes(), type=dict[str, Figure])


@dataclass(frozen=True, slots=True)
class Demand:
    """What arrives, and how long it stays. 0 senders or workstations: as many as is usual for the studies."""

    studies_per_day: float
    instances_per_study: float
    megabytes_per_instance: float
    years: float
    copies: int = 1
    senders: int = 0
    workstations: int = 0


@dataclass(frozen=True, slots=True)
class Need:
    """One line of the result."""

    part: str
    value: float
    """In the unit of `text`'s number; for programs."""
    text: str
    rule: str
    """The sum, with its numbers."""
    figure: str = ""
    """The name of the measured figure behind it."""


def mixed(mix: Mapping[str, float]) -> tuple[float, float]:
    """(instances a study, MB an instance) of a mix of modalities, in any common unit. Raises PerfError."""
    if unknown := sorted(set(mix) - set(STUDIES)):
        raise PerfError(f"unknown modality {unknown[0]!r}; there are {', '.join(STUDIES)}")
    total = sum(mix.values())
    if not total > 0 or min(mix.values()) < 0:
        raise PerfError("the shares of the modalities are not below 0, and one is above")
    instances = sum(share / total * STUDIES[name][0] for name, share in mix.items())
    megabytes = sum(share / total * STUDIES[name][0] * STUDIES[name][1] for name, share in mix.items())
    return instances, megabytes / instances


def parse_mix(text: str) -> dict[str, float]:
    """A mix such as ct=40,mr=30,dx=30. Raises PerfError."""
    try:
        pairs = [part.partition("=") for part in text.split(",")]
        return {name.strip().lower(): float(share) for name, _, share in pairs}
    except ValueError:
        raise PerfError(f"{text!r} is no mix of modalities: write ct=40,mr=30,dx=30") from None


def needs(demand: Demand) -> list[Need]:
    """What a server needs for a demand. Raises PerfError for a demand that is none, or beyond one machine."""
    if not all(math.isfinite(each) and each > 0 for each in (
        demand.studies_per_day, demand.instances_per_study, demand.megabytes_per_instance, demand.years, demand.copies,
    )):  # fmt: skip
        raise PerfError("studies, instances, sizes, years and copies are all above 0")
    senders = demand.senders or math.ceil(demand.studies_per_day / STUDIES_A_SENDER)
    workstations = demand.workstations or math.ceil(demand.studies_per_day / STUDIES_A_WORKSTATION)
    load = _Load(demand, senders, workstations)
    return [load.arrivals(), load.disk(), load.index(), load.cores(), load.memory(), load.syncs(), load.sync_latency(),
            load.writes(), load.reads(), load.network()]  # fmt: skip


class _Load:
    """The demand at its busiest moment."""

    def __init__(self, demand: Demand, senders: int, workstations: int) -> None:
        self._demand, self._senders, self._workstations = demand, senders, workstations
        self._day_instances = demand.studies_per_day * demand.instances_per_study
        self._day_bytes = self._day_instances * demand.megabytes_per_instance * 1e6
        self._in_per_s = senders * SCANNER_RATE
        self._in_mb_per_s = self._in_per_s * demand.megabytes_per_instance
        self._out_mb_per_s = workstations * WORKSTATION_MB_PER_S
        self._out_per_s = self._out_mb_per_s / demand.megabytes_per_instance
        self._figures = {name: figure.value for name, figure in figures().items()}

    def arrivals(self) -> Need:
        rule = f"{self._senders} senders × {SCANNER_RATE:g}/s; the day's mean is {self._day_instances / 86400:.1f}/s"
        return Need("busiest moment", self._in_per_s, f"{self._in_per_s:g} instances/s", rule)

    def disk(self) -> Need:
        demand, figures = self._demand, self._figures
        each = demand.megabytes_per_instance * 1e6 + figures["record_bytes"]
        total = self._day_instances * each * DAYS * demand.years * figures["space_share"]
        rule = (
            f"{demand.studies_per_day:g} studies × {demand.instances_per_study:.0f} × {bytes_text(each)} × {DAYS} × "
            f"{demand.years:g} years × {figures['space_share']:g}"
        )
        copies = f", and the same on {demand.copies - 1} more" if demand.copies > 1 else ""
        return Need("disk space", total / 1e12, f"{total / 1e12:.1f} TB{copies}", rule, "space_share")

    def _index_bytes(self) -> float:
        studies = self._demand.studies_per_day * DAYS * self._demand.years
        instances = studies * self._demand.instances_per_study
        return instances * self._figures["index_instance_bytes"] + studies * self._figures["index_study_bytes"]

    def index(self) -> Need:
        each, study = self._figures["index_instance_bytes"], self._figures["index_study_bytes"]
        rule = f"{each:g} bytes an instance, {study:g} a study; on an SSD"
        size = self._index_bytes()
        return Need("index", size / 1e9, bytes_text(size), rule, "index_instance_bytes")

    def cores(self) -> Need:
        store, send = self._figures["store_durable_ms"], self._figures["send_ms"]
        busy = (self._in_per_s * store + self._out_per_s * send) / 1000 * RESERVE
        rule = (
            f"({self._in_per_s:g}/s × {store:g} ms + {self._out_per_s:.0f}/s × {send:g} ms) × {RESERVE:g} = "
            f"{busy:.1f} cores"
        )
        count = _next(CORES, busy, "cores")
        return Need("processors", count, f"{count} cores", rule, "store_durable_ms")

    def memory(self) -> Need:
        figures = self._figures
        workers = _next(CORES, (self._in_per_s * figures["store_durable_ms"]
                                + self._out_per_s * figures["send_ms"]) / 1000 * RESERVE, "cores")  # fmt: skip
        parts = {
            f"{workers} workers × {bytes_text(figures['worker_bytes'])}": workers * figures["worker_bytes"],
            f"{bytes_text(figures['ingest_bytes'])} being received": figures["ingest_bytes"],
            f"a quarter of a day, {bytes_text(self._day_bytes * CACHED_DAY_SHARE)}": self._day_bytes * CACHED_DAY_SHARE,
            f"{INDEX_PAGES_SHARE:.0%} of the index": self._index_bytes() * INDEX_PAGES_SHARE,
        }
        total = sum(parts.values())
        size = _next(MEMORY_GB, total / 1e9, "GB of memory")
        return Need("memory", size, f"{size} GB", f"{' + '.join(parts)} = {bytes_text(total)}", "worker_bytes")

    def syncs(self) -> Need:
        group = min(self._senders, GROUP_MAX)
        count = self._in_per_s / group * RESERVE
        rule = f"{self._in_per_s:g}/s / {group} waiting senders × {RESERVE:g}; doctor measures it"
        return Need("disk syncs (IOPS)", count, f"{count:.0f} fdatasync/s", rule)

    def sync_latency(self) -> Need:
        latency_ms = 1000 / SCANNER_RATE / RESERVE
        rule = f"a sender waits for a sync an instance: 1 / {SCANNER_RATE:g} s / {RESERVE:g}"
        return Need("sync latency", round(latency_ms, 1), f"at most {latency_ms:.1f} ms (p99)", rule)

    def writes(self) -> Need:
        rate = self._in_mb_per_s * RESERVE
        rule = f"{self._in_per_s:g}/s × {self._demand.megabytes_per_instance:.2g} MB × {RESERVE:g}"
        return Need("disk writes", rate, f"{rate:.0f} MB/s", rule)

    def reads(self) -> Need:
        rate = self._out_mb_per_s * CACHED_READ_SHARE
        rule = f"{self._workstations} workstations × {WORKSTATION_MB_PER_S:g} MB/s, half of it from memory"
        return Need("disk reads", rate, f"{rate:.0f} MB/s", rule)

    def network(self) -> Need:
        incoming, outgoing = self._in_mb_per_s * 8 / 1000, self._out_mb_per_s * 8 / 1000
        size = _next(NETWORK_GBIT_PER_S, max(incoming, outgoing), "Gbit/s")
        rule = f"{incoming:.1f} Gbit/s in from {self._senders} senders, {outgoing:.1f} out to {self._workstations}"
        return Need("network", size * 1000, f"{size} Gbit/s", rule)


def _next(sizes: Sequence[int], least: float, unit: str) -> int:
    """The smallest size that is enough. Raises PerfError if there is none."""
    found = next((size for size in sizes if size >= least), None)
    if found is None:
        raise PerfError(f"{least:.0f} {unit} are more than one machine has: divide the archive")
    return found


# SIZING.md ---------------------------------------------------------------------------------------

EXAMPLE = Demand(600, 400, 0.53, 10)


def markdown() -> dict[str, str]:
    """The tables of SIZING.md, by the names of their places."""
    example = [f"| {need.part} | {need.text} | {need.rule} |" for need in needs(EXAMPLE)]
    measured = [
        f"| {figure.value:g} {figure.unit} {figure.text} | {figure.measured} | {figure.source} |"
        for figure in figures().values()
    ]
    usual = [f"| {name.upper()} | {count:g} | {size:g} |" for name, (count, size) in STUDIES.items()]
    return {
        "example": "\n".join(["| part | example | rule |", "|---|---|---|", *example]),
        "figures": "\n".join(["| figure | measured | command |", "|---|---|---|", *measured]),
        "modalities": "\n".join(["| modality | instances a study | MB an instance |", "|---|---|---|", *usual]),
    }


if __name__ == "__main__":
    for place, table in markdown().items():
        say(f"<!-- {place} -->\n{table}\n<!-- end -->\n")
