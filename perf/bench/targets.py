"""Hardware targets: what a machine must have and what must hold on it, one file each in `perf/targets`.

title = "Department"
text = "What it stands for, in words."
years = 5                        # that the disk holds
start_s_max = 10.0               # from the start of the server until it answers

[volume]
studies_per_day = 200
instances_per_study = 300
megabytes_per_instance = 0.5

[hardware]                       # engine.doctor.hardware.Hardware; `filmroom doctor --target` compares with it
cores = 4
...

[[run]]                          # a load, and what must hold under it
profile = "ct-scanner"
factor = 3.0
seconds = 60.0

[[run.must]]
text = "three scanners at once"
stream = "scans"
figure = "rate"                  # rate, instances_per_s, failures, p50_ms, p95_ms, p99_ms, max_ms
at_least = 171.0                 # or at_most
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from engine.doctor.hardware import Hardware
from perf.bench import toml
from perf.harness import PerfError

Above0 = Annotated[float, Meta(gt=0)]


class Volume(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What arrives."""

    studies_per_day: Above0
    instances_per_study: Above0
    megabytes_per_instance: Above0

    @property
    def bytes_per_day(self) -> float:
        return self.studies_per_day * self.instances_per_study * self.megabytes_per_instance * 1e6


class Must(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One limit. It has exactly one of `at_least` and `at_most`."""

    text: str
    stream: str
    figure: Literal["rate", "instances_per_s", "failures", "p50_ms", "p95_ms", "p99_ms", "max_ms"]
    at_least: float | None = None
    at_most: float | None = None

    @property
    def limit(self) -> str:
        name = self.figure.removesuffix("_ms").replace("instances_per_s", "instances/s")
        value = f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"
        return f"{name}: {value}{self.unit}"

    @property
    def unit(self) -> str:
        return " ms" if self.figure.endswith("_ms") else "/s" if self.figure == "rate" else ""


class TargetRun(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A load and its limits."""

    profile: str
    must: list[Must]
    factor: Above0 = 1.0
    seconds: Above0 = 60.0


class Target(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One hardware target."""

    title: str
    text: str
    years: Above0
    start_s_max: Above0
    volume: Volume
    hardware: Hardware
    run: list[TargetRun]
    name: str = ""

    @property
    def growth_tb_a_year(self) -> float:
        return round(self.volume.bytes_per_day * 365 / 1e12, 2)


def read(name: str) -> Target:
    """Reads a target by its name or path. Raises PerfError."""
    target = msgspec.structs.replace(toml.read("targets", name, Target), name=name)
    for run in target.run:
        for must in run.must:
            if (must.at_least is None) == (must.at_most is None):
                raise PerfError(f"target {name}: {must.text!r} needs at_least or at_most, and not both")
    if not target.run:
        raise PerfError(f"target {name} has no [[run]]")
    return target


def shipped() -> dict[str, Target]:
    """All targets that are shipped, the smallest first."""
    found = [read(name) for name in toml.names("targets")]
    return {target.name: target for target in sorted(found, key=lambda target: target.volume.bytes_per_day)}
