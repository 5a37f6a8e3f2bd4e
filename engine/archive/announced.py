"""Whether all instances that performed procedure steps (MPPS) list of a study are stored.

Nobody who only counts can say so: a step that goes on, or ends without a list, announces nothing. A step whose order is
not known is not found by its study, and announces nothing either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.archive.hospital import has_orders, open_orders

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.orders.registry import Orders
    from engine.orders.work import Rules


class AnnouncedInstances:
    """For one thread; opens the registry of orders when it is asked, if there is one."""

    def __init__(self, archive: Archive, rules: Rules) -> None:
        self._archive = archive
        self._rules = rules
        self._orders: Orders | None = None

    def are_here(self, study_instance_uid: str) -> bool:
        """Whether instances are announced, and all of them are stored. Raises EngineError."""
        if self._orders is None:
            if not has_orders(self._archive):
                return False
            self._orders = open_orders(self._archive, self._rules)
        uids = self._orders.announced_instances(study_instance_uid)
        if not uids:
            return False
        return all(self._archive.parts.index.current_records([uid.encode() for uid in uids]))

    def close(self) -> None:
        """Closes the registry."""
        if self._orders is not None:
            self._orders.close()
            self._orders = None
