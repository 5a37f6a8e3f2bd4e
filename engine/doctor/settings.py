"""The [target] table: the hardware that `filmroom doctor` compares with."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class Target(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The hardware that this site plans for: `filmroom doctor` compares its measurements with it.

    The defaults are for a hospital's server that durably stores 500 CT or MR instances of half a megabyte a second and
    serves workstations meanwhile: an NVMe drive with power-loss protection, or a mirror of two."""

    sync_p99_ms_max: Annotated[float, Meta(gt=0, le=10_000)] = 5.0
    """Milliseconds of an fdatasync of 4 KiB, at the 99th percentile. A single sender waits for one sync for each
    instance; drives with power-loss protection take some 0.1 ms, consumer drives 1 to 10, hard disks 10 to 30."""

    write_mb_per_s_min: Annotated[float, Meta(ge=0, le=1_000_000)] = 300.0
    """Megabytes a second, appended with one fdatasync every eight instances: 500 instances/s are 265."""

    read_mb_per_s_min: Annotated[float, Meta(ge=0, le=1_000_000)] = 500.0
    """Megabytes a second read past the page cache: ten workstations that each pull a study over 1 Gbit/s take 1 000,
    and a part of that is in memory."""
