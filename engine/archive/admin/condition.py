"""The condition of an archive as plain data: what people must know of its upkeep, from files and the index.

Takes some milliseconds. Statistics of processes are not here: they are in the server's answer to `stats`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from engine.archive.admin.commitments import list_all
from engine.archive.admin.upkeep import scrub_status
from engine.archive.disk_forecast import forecast
from engine.archive.stats_history import COLUMNS, HOUR_S, MINUTE_S

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.archive.settings import Scrub

FORECAST_S = 30 * 86_400
"""The history that the forecast uses."""


def facts(archive: Archive, scrub: Scrub, reserve_bytes: int) -> dict[str, Any]:
    """Everything that `health` judges, beside the statistics."""
    waiting = list_all(archive)
    return {
        "read_only": archive.is_read_only,
        "lost": len(archive.losses()),
        "scrub": scrub_status(archive, scrub),
        "backups": archive.backup_states(),
        "replications": archive.replication_states(),
        "commitments": {"waiting": len(waiting), "failing": sum(bool(row["error"]) for row in waiting)},
        "jobs": dict(Counter(job.state for job in archive.job_files().all())),
        "disk": asdict(forecast(_free_bytes(archive), reserve_bytes)),
    }


def _free_bytes(archive: Archive) -> list[tuple[float, float]]:
    """The free bytes of the last days, hour by hour; minute by minute while there are few hours."""
    history, column = archive.stats_history(), COLUMNS.index("free_bytes")
    hours = history.rows(HOUR_S)
    rows = hours if len(hours) >= 24 else history.rows(MINUTE_S)
    newest = rows[-1][0] if rows else 0
    return [(time_s, row[column]) for time_s, row in rows if time_s >= newest - FORECAST_S]
