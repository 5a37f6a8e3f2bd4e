"""What runs inside the user-mode Linux of test_log_writes: a short life whose acknowledgements are marks in the log.

`python -m tests.faults.uml_guest DATA DEVICE`: ingest, a second start, deletion and compaction. A mark `ack 3` lies in
the log of writes behind everything that was durable when instance 3 was acknowledged.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from engine.archive.archive import Archive
from engine.index.catalog import Catalog
from tests.faults.short_life import LARGE, Life, tell

MAP_BYTES = 1 << 30
"""User-mode Linux has 512 GiB of addresses, less than a map of the usual size."""


class Unarmed:
    """No fault but the one that the test puts together from the log."""

    def has_fired(self) -> bool:
        return False


class MarkedLife(Life):
    """Everything that it tells becomes a mark."""

    device = ""

    def tell(self, *words: object) -> None:
        subprocess.run(["dmsetup", "message", self.device, "0", "mark", "-".join(map(str, words))], check=True)
        tell(*words)


def main(data: Path, device: str) -> None:
    """Two lives of one archive."""
    Catalog.open.__func__.__kwdefaults__["map_bytes"] = MAP_BYTES
    MarkedLife.device = device
    with Archive.open(data, role="keeper", create=True, sync_interval_s=3600.0) as archive:
        asyncio.run(MarkedLife(archive, Unarmed(), writes_behind=False).ingest())
    with Archive.open(data, role="keeper", sync_interval_s=3600.0) as archive:
        life = MarkedLife(archive, Unarmed())
        life.delete(0, 5, LARGE, 9)
        life.compact()
    tell("over")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
