"""Decides which SOP classes are stored: those of PS3.4 Annex B, and unknown ones that may be storage classes."""

from __future__ import annotations

from typing import Final

from . import uids

_STANDARD_ROOT: Final = "1.2.840.10008."
_STANDARD_STORAGE_ROOT: Final = "1.2.840.10008.5.1.4.1.1."
_STORAGE_MANAGEMENT: Final = f"{_STANDARD_STORAGE_ROOT}201."
"""Inventories: their storage, query, retrieval and creation."""
_NOT_STORAGE: Final = frozenset(
    {
        # Query and retrieval of protocol approvals, although below the storage root.
        *(f"{_STANDARD_STORAGE_ROOT}{leaf}" for leaf in ("200.4", "200.5", "200.6")),
        # Non-patient objects, PS3.4 Table GG.3-1: CT and XA defined procedure protocols, protocol approvals ...
        *(f"{_STANDARD_STORAGE_ROOT}{leaf}" for leaf in ("200.1", "200.3", "200.7")),
        # ... hanging protocols, colour palettes, implant templates, their assemblies and groups.
        *(f"1.2.840.10008.5.1.4.{leaf}" for leaf in ("38.1", "39.1", "43.1", "44.1", "45.1")),
        "1.2.840.10008.1.3.10",  # Media Storage Directory, which belongs to a medium (PS3.3 F)
    }
)


def is_stored(uid: str, *, promiscuous: bool) -> bool:
    """Whether instances of a class are stored. `promiscuous`: also those of private and unknown classes."""
    return uids.is_storage_sop_class(uid) or (promiscuous and may_store(uid))


def may_store(uid: str) -> bool:
    """Whether an unknown SOP class may be a storage class."""
    if is_not_storage(uid):
        return False
    return uid.startswith(_STANDARD_STORAGE_ROOT) or not uid.startswith(_STANDARD_ROOT)


def is_not_storage(uid: str) -> bool:
    """Whether a SOP class has the UID of a storage class, but is not one that we store."""
    return uid in _NOT_STORAGE or uid.startswith(_STORAGE_MANAGEMENT)
