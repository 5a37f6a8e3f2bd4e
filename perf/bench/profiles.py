"""Profiles: loads in words and figures, one file each in `perf/profiles`.

title = "CT scanner"
text = "What it stands for, in words."

[stock]                          # studies that are stored before the clock starts
studies = 4
instances = 200
template = "ct"

[[stream]]                       # requests of one kind that run beside the other streams
name = "scans"
text = "What it stands for."
does = "store"                   # store, find, retrieve or frames
rate = 60.0                      # arrivals a second: instances, queries, studies or frames
connections = 2                  # requests at the same time
p99_ms_max = 250.0               # the limit that the report judges
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from perf.bench import toml
from perf.harness import PerfError

Does = Literal["store", "find", "retrieve", "frames"]
Count = Annotated[int, Meta(ge=1, le=100_000)]

UNITS: dict[Does, str] = {"store": "instances", "find": "queries", "retrieve": "studies", "frames": "frames"}
"""What one request of each kind is."""


class Stock(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Studies that a run stores first, so that the other streams find something."""

    studies: Count
    instances: Count = 200
    template: str = "ct"


class Stream(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Requests of one kind."""

    name: str
    text: str
    does: Does
    rate: Annotated[float, Meta(gt=0, le=1_000_000)]
    """Arrivals a second, of all connections together, at factor 1."""
    connections: Annotated[int, Meta(ge=1, le=1000)]
    arrivals: Literal["random", "steady"] = "random"
    """Random: independent users (exponential gaps). Steady: a machine with a fixed rhythm."""
    template: str = "ct"
    """Of stored instances."""
    series_instances: Count = 200
    """Instances of each stored study."""
    p99_ms_max: Annotated[float, Meta(gt=0)] | None = None

    @property
    def unit(self) -> str:
        return UNITS[self.does]


class Profile(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One load."""

    title: str
    text: str
    stream: list[Stream]
    stock: Stock | None = None
    name: str = ""


def read(name: str) -> Profile:
    """Reads a profile by its name or path. Raises PerfError."""
    profile = msgspec.structs.replace(toml.read("profiles", name, Profile), name=name)
    streams = [stream.name for stream in profile.stream]
    if not streams or len(set(streams)) < len(streams):
        raise PerfError(f"profile {name}: it needs a [[stream]], and each has a name of its own")
    needs_stock = [stream.name for stream in profile.stream if stream.does != "store"]
    if needs_stock and profile.stock is None:
        raise PerfError(f"profile {name}: {needs_stock[0]} needs a [stock] of studies")
    return profile
