"""What a bucket of an archive costs a month, by a table of prices: the sums of `filmroom size --cloud`.

segments      all instances of the years, in the class
hints         HEAD_BYTES an instance, always in `standard`: every query after a restore needs them
tail          an object a second at most while something arrives (`object_store.tail_interval_s`)
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from perf.harness import PerfError
from perf.sizing import Demand, Need

PRICES_FILE = Path(__file__).with_name("cloud_prices.toml")
HEAD_BYTES = 738
"""Of an instance in a hint: of a full segment of CT."""
DAYS_A_MONTH = 365 / 12
SECONDS_A_MONTH = 86_400 * DAYS_A_MONTH
_HOT = "standard"
_GIB = 1 << 30


class StorageClass(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The prices of one class, in dollars."""

    gib_month: float
    read_per_gib: float = 0.0
    note: str = ""


class Prices(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The prices of a provider, in dollars."""

    put_per_1000: float
    egress_per_gib: float
    classes: dict[str, StorageClass]


def prices(path: Path = PRICES_FILE) -> Prices:
    """A table of prices. Raises PerfError."""
    try:
        table = msgspec.toml.decode(path.read_bytes(), type=Prices)
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        raise PerfError(f"{path} is no table of prices: {error}") from None
    if _HOT not in table.classes:
        raise PerfError(f"{path} has no class {_HOT!r}, in which hints lie")
    return table


def costs(demand: Demand, table: Prices) -> list[Need]:
    """A line for each class, with all segments in it, when the archive is as old as studies are kept."""
    day_instances = demand.studies_per_day * demand.instances_per_study
    gib = day_instances * demand.megabytes_per_instance * 1e6 * 365 * demand.years / _GIB
    hint_gib = day_instances * HEAD_BYTES * 365 * demand.years / _GIB
    groups = min(day_instances * DAYS_A_MONTH, SECONDS_A_MONTH)
    tail = groups / 1000 * table.put_per_1000
    hints = hint_gib * table.classes[_HOT].gib_month
    needs = []
    for name, each in table.classes.items():
        month = gib * each.gib_month + hints + tail
        everything = gib * (each.read_per_gib + table.egress_per_gib)
        rule = (
            f"{gib:,.0f} GiB × ${each.gib_month:g} + hints ${hints:,.2f} + tail ${tail:,.2f};"
            f" to read all of it elsewhere ${everything:,.0f}"
        )
        rule += f"; {each.note}" if each.note else ""
        needs.append(Need(f"bucket, {name}", month, f"${month:,.0f} a month", rule))
    return needs
