"""The [target] table: what `filmroom doctor` measures against."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class Target(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The hardware that this site means to have: `filmroom doctor` measures against it.

    The defaults are what a hospital's server needs that takes in 500 CT or MR instances of half a megabyte a second,
    durably, and serves workstations meanwhile: an NVMe drive with power-loss protection, or a mirror of two."""

    sync_p99_ms_max: Annotated[float, Meta(gt=0, le=10_000)] = 5.0
    """Milliseconds of an fdatasync of 4 KiB, at the 99th percentile. A lone sender waits for one an instance; drives
    with power-loss protection take some 0.1 ms, consumer drives 1 to 10, hard disks 10 to 30."""

    write_mb_per_s_min: Annotated[float, Meta(ge=0, le=1_000_000)] = 300.0
    """Megabytes a second, appended with one fdatasync every eight instances: 500 instances/s are 265."""

    read_mb_per_s_min: Annotated[float, Meta(ge=0, le=1_000_000)] = 500.0
    """Megabytes a second read past the page cache: ten workstations that pull a study each over 1 Gbit/s take 1 000,
    and some of what they ask for is in memory."""
