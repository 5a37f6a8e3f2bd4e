"""Grant: single studies or one patient, given to somebody by name, for a time."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from engine.access.question import Action
from engine.access.scope import Patient


class Holder(Enum):
    """The kind of holder of a grant."""

    USER = "user"
    SHARE = "share"
    ROLE = "role"


@dataclass(frozen=True, slots=True)
class Grant:
    """A right to some studies beside what roles give."""

    id: str
    holder_kind: Holder
    holder: str
    """The name of the user or role, or the id of the share."""
    actions: frozenset[Action]
    study_instance_uids: frozenset[str] = frozenset()
    series: frozenset[tuple[str, str]] = frozenset()
    """Of these studies only these series, as Study and Series Instance UIDs; for shares."""
    patient: Patient | None = None
    """All studies of this patient, those that arrive later too."""
    until_s: float | None = None
    """When it ends, in Unix seconds; None: when it is revoked."""
    by: str = ""
    """The actor who gave it."""
    reason: str = ""
    is_break_glass: bool = False

    def is_in_force(self, now_s: float) -> bool:
        """Whether it has not ended."""
        return self.until_s is None or now_s < self.until_s
