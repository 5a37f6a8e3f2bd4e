"""The registry of patients and orders in a copy of an archive, before the first process opens it there."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from engine.orders.registry import FOLDER, Orders, Place, exists
from engine.orders.state_log import StateLog

if TYPE_CHECKING:
    from engine.archive.layout import Layout
    from engine.storage.files import Files


class Restored(NamedTuple):
    """What a copy has."""

    patients: int
    orders: int
    dropped: list[int]
    """The stamps of transactions that the copy has without those before them."""


def bring_up(layout: Layout, files: Files) -> Restored:
    """Makes the registry whole, and its database. Raises OrdersError, KeyMissing, StorageError."""
    if not exists(layout.data):
        return Restored(0, 0, [])
    dropped = StateLog(layout.data / FOLDER / "state", files, layout.archive_id, layout.data_key).settle()
    with Orders(Place(layout.data, layout.archive_id, files, layout.data_key)) as orders:
        counts = orders.counts()
    return Restored(counts["patients"], counts["orders"], dropped)
