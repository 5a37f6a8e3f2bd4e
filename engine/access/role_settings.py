"""The [[role]] tables: what users and peers may do, and which studies they may see."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

ActionName = Literal[
    "store", "query", "retrieve", "send", "worklist", "workitem", "delete", "restore", "empty", "correct", "hold",
    "manage", "configure", "observe", "share", "break-glass", "audit", "administer",
]  # fmt: skip
RoleName = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_. -]{0,63}$", description="1 to 64 letters, digits, spaces and _ . -"),
]
Pattern = Annotated[str, Meta(min_length=1, max_length=256)]
Patterns = Pattern | tuple[Pattern, ...]


class StudyRule(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One table of a role's `studies`: a study must meet all its conditions.

    A text may have wildcards (* and ?), and is compared without regard to case. Several texts: any of them. "me" stands
    for the user's own attribute of that name.
    """

    institution: Patterns = ()
    """Institution Name of one of its series."""
    department: Patterns = ()
    """Institutional Department Name of one of its series."""
    referrer: Patterns = ()
    """Referring Physician's Name."""
    modality: Patterns = ()
    """Modality of one of its series."""
    sender: Patterns = ()
    """AE title that has stored one of its instances."""
    age_days: Annotated[float, Meta(gt=0, le=100_000)] | None = None
    """Days since its Study Date. A study without a date that can be read does not meet this."""
    deidentified: bool | None = None
    """Whether Patient Identity Removed is YES."""

    def __str__(self) -> str:
        conditions = []
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value not in ((), None):
                conditions.append(f"{name} {'|'.join(value) if isinstance(value, tuple) else value}")
        return " and ".join(conditions)


class Role(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A role: what its users may do, and with which studies. A role with a built-in name replaces it: admin,
    radiologist, technologist, referrer, researcher, service, auditor, full."""

    name: RoleName
    """Its name, for users, groups of an identity provider, and [[peer]] role."""

    may: tuple[ActionName, ...] = ()
    """Its actions: store, query, retrieve, send, worklist, workitem, delete, restore, empty, correct, hold, manage,
    configure, observe, share, break-glass, audit, administer. Storage commitment goes with store."""

    studies: Literal["all", "none", "granted"] | tuple[StudyRule, ...] = "granted"
    """The studies that its actions reach: all; granted: those that are granted to its user by name; none: not even
    those; or a list of tables with institution, department, referrer, modality, sender, age_days, deidentified: studies
    that meet all conditions of one of them, and those that are granted. Others do not exist for its users."""


BUILT_IN_ROLES: Final = (
    Role(
        name="admin",
        may=(
            "query", "worklist", "workitem", "delete", "restore", "empty", "correct", "hold", "manage", "configure",
            "observe", "audit", "administer",
        ),
        studies="all",
    ),
    Role(
        name="radiologist",
        may=("query", "retrieve", "send", "worklist", "workitem", "share", "break-glass"),
        studies="all",
    ),
    Role(
        name="technologist",
        may=("store", "query", "retrieve", "send", "worklist", "workitem", "correct"),
        studies=(StudyRule(department="me", age_days=30),),
    ),
    Role(name="referrer", may=("query", "retrieve"), studies=(StudyRule(referrer="me"),)),
    Role(name="researcher", may=("query", "retrieve"), studies=(StudyRule(deidentified=True),)),
    Role(name="service", may=("store", "query", "retrieve", "send", "worklist", "workitem"), studies="all"),
    Role(name="auditor", may=("audit", "observe"), studies="none"),
    Role(
        name="full",
        may=(
            "store", "query", "retrieve", "send", "worklist", "workitem", "delete", "restore", "empty", "correct",
            "hold", "manage", "configure", "observe", "share", "break-glass", "audit", "administer",
        ),
        studies="all",
    ),
)  # fmt: skip
"""The roles that need no [[role]]."""
