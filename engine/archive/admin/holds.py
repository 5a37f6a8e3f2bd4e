"""Legal holds as plain data, each with the number of stored instances."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.archive.admin.times import time_text
from engine.dicom import tags
from engine.errors import NotStored
from engine.index.format.types import Level, Query

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.access.principal import Principal
    from engine.archive.archive import Archive
    from engine.archive.view import View


def list_all(view: View) -> list[dict[str, Any]]:
    """Every hold in force, by study."""
    return [
        {
            "study_instance_uid": hold.study_instance_uid.decode("utf-8", "replace"),
            "since": time_text(hold.set_ns),
            "by": hold.by.decode("utf-8", "replace"),
            "reason": hold.reason.decode("utf-8", "replace"),
            "instances": _count(view, hold.study_instance_uid),
        }
        for hold in view.holds()
    ]


def change(
    archive: Archive,
    study_instance_uids: Sequence[str],
    *,
    is_set: bool,
    in_advance: bool = False,
    actor: Principal,
    reason: str,
) -> list[str]:
    """Sets or releases holds. Returns the studies whose hold has changed.

    Raises NotStored for a hold on a study that is not stored, unless `in_advance`.
    """
    if is_set and not in_advance:
        missing = [uid for uid in study_instance_uids if not _count(archive, uid.encode())]
        if missing:
            raise NotStored(f"no study {', no study '.join(missing)} is stored; no hold was set")
    work = archive.set_holds if is_set else archive.release_holds
    return work(study_instance_uids, actor=actor, reason=reason)


def _count(view: View, study_instance_uid: bytes) -> int:
    """Number of stored instances of a study."""
    keys = {tags.StudyInstanceUID: study_instance_uid, tags.NumberOfStudyRelatedInstances: b""}
    return sum(int(match["NumberOfStudyRelatedInstances"]) for match in view.find(Query(Level.STUDY, keys)))
