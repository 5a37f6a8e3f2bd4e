"""Legal holds, each with how much of its study is here."""

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


def listed(archive: Archive) -> list[dict[str, Any]]:
    """Every hold that stands, by study."""
    return [
        {
            "study_instance_uid": hold.study_instance_uid.decode("utf-8", "replace"),
            "since": time_text(hold.set_ns),
            "by": hold.by.decode("utf-8", "replace"),
            "reason": hold.reason.decode("utf-8", "replace"),
            "instances": _count(archive, hold.study_instance_uid),
        }
        for hold in archive.holds()
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
    """Sets or releases holds; the studies that this changed.

    Raises NotStored for a study that is to be held and is not here, unless `in_advance`.
    """
    if is_set and not in_advance:
        missing = [uid for uid in study_instance_uids if not _count(archive, uid.encode())]
        if missing:
            raise NotStored(f"no study {', no study '.join(missing)} is stored; nothing was held")
    work = archive.set_holds if is_set else archive.release_holds
    return work(study_instance_uids, actor=actor, reason=reason)


def _count(archive: Archive, study_instance_uid: bytes) -> int:
    """Instances of a study that are here."""
    keys = {tags.StudyInstanceUID: study_instance_uid, tags.NumberOfStudyRelatedInstances: b""}
    return sum(int(match["NumberOfStudyRelatedInstances"]) for match in archive.find(Query(Level.STUDY, keys)))
