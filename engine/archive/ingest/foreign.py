"""Instances for studies that their sender may not see: kept in quarantine, and answered as if they were stored.

A sender with a narrow scope must neither add to a foreign study, nor replace an instance of it, nor learn from the
answer that it exists. The quarantine keeps the bytes for an administrator, who can store them (`quarantine readmit`).
A sender may always go on with the studies that it has begun: the scope for storing says so (`access.policy`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import InstanceRefused, Refusal

if TYPE_CHECKING:
    from engine.access.scope import Scope
    from engine.index.catalog import Catalog
    from engine.index.format.entry import Entry


class ForeignStudy(InstanceRefused):
    """The study, or the instance that has this UID, is out of the sender's scope."""

    def __init__(self) -> None:
        super().__init__("it is of a study that its sender may not see", Refusal.MISMATCH)


class NoRoom(InstanceRefused):
    """The quarantine has no room for it. The words are those of any full archive."""

    def __init__(self) -> None:
        super().__init__("out of resources", Refusal.OUT_OF_RESOURCES)


def check(index: Catalog, scope: Scope, entry: Entry, study_instance_uid: bytes) -> None:
    """Raises ForeignStudy unless the study is new or in scope, and so is that of a stored instance of this UID."""
    studies = {study_instance_uid}
    if (stored := index.locate(entry.sop_instance_uid)) is not None:
        studies.add(stored.study_instance_uid.encode())
    for study in studies:
        if index.has_study(study) and not index.is_in_scope(study, scope):
            raise ForeignStudy()
