"""The part of `backend` for the trash."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.cli import backend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.config import Config


def list_all(config: Config) -> list[dict[str, Any]]:
    """Every entry, the latest first."""
    from engine.archive.admin import trash

    with backend.opened(config) as archive:
        rows = list(trash.list_all(archive, config.deletion.trash_days, values=True))
    for row in rows:
        shown = row.pop("shown")
        name, patient_id = shown.get("PatientName", ""), shown.get("PatientID", "")
        row["patient"] = f"{name} ({patient_id})"
        row["study_date"] = shown.get("StudyDate", "")
        row["description"] = shown.get("SeriesDescription") or shown.get("StudyDescription", "")
    return rows


def restore(config: Config, numbers: Sequence[str], *, series: str, reason: str) -> dict[str, Any]:
    """Restores entries one after another. Raises NotInTrash at the first that is not there."""
    from engine.archive.admin import trash

    total: dict[str, Any] = {}
    with backend.opened(config) as archive:
        for number in dict.fromkeys(numbers):
            restored = trash.restore(
                archive, number, series_instance_uid=series, actor=backend.operator(), reason=reason
            )
            total = {name: total.get(name, 0) + restored[name] for name in ("entries", "instances", "bytes")}
    return total


def empty(config: Config, numbers: Sequence[str] | None, *, reason: str) -> dict[str, Any]:
    """Empties entries, or with None all. Raises NotInTrash and DeletionRefused."""
    from engine.archive.admin import trash

    with backend.opened(config) as archive:
        return trash.empty(archive, numbers, actor=backend.operator(), reason=reason)


def expire(config: Config) -> dict[str, Any]:
    """Empties what is older than trash_days, whatever the clock says."""
    from engine.archive.admin import trash

    with backend.opened(config) as archive:
        return trash.expire(archive, config.deletion.trash_days, actor=backend.operator())
