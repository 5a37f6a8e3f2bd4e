"""What the world was told, kept outside the engine: which instances must be there, which may be, and which must not.

Each SOP Instance UID has its events in their order, and each event a standing:

    SURE      acknowledged and on stable storage: nothing takes it away
    BEHIND    acknowledged in write-behind, not known to be synced: survives a kill, may be lost with the power
    MAYBE     in flight when something failed: there or not there, whole or not at all, and for good after a restart

`settle` compares what an archive shows with all that may be so, and from then on takes what it showed for what is. The
rules for instances that are sent again are told here a second time, in a few lines, on purpose.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum

UNCERTAIN_MAX = 10


class Standing(IntEnum):
    """How certain an event is."""

    SURE = 0
    BEHIND = 1
    MAYBE = 2


@dataclass(eq=False)
class Event:
    """Something that was sent or deleted."""

    uid: str
    data: bytes | None
    """None: a deletion."""
    policy: str = ""
    writer: str = ""
    is_recorded: bool = False
    """Whether it is written even though the same bytes are there (a stream); otherwise it is only compared."""
    standing: Standing = Standing.MAYBE
    is_put: bool = False
    """A deletion into the trash."""
    restores: Event | None = None
    """The put whose instance comes back."""
    empties: Event | None = None
    """The put whose instance goes for good."""
    was_in_doubt: bool = False
    """Whether it is only by what was shown that it counts: what is hidden by it may be otherwise."""


@dataclass(frozen=True)
class Shown:
    """What an archive has of one UID."""

    current: bytes | None
    versions: tuple[bytes, ...] = ()
    """Kept aside, sorted."""

    def __str__(self) -> str:
        return f"current {_name(self.current)}, kept aside {[_name(version) for version in self.versions]}"


def _name(data: bytes | None) -> str:
    return "nothing" if data is None else f"{len(data)} bytes ending {data[-4:].hex()}"


def fold(events: Iterable[Event]) -> Shown:
    """What a UID comes to."""
    return _folded(events)[0]


def _folded(events: Iterable[Event]) -> tuple[Shown, dict[int, list[bytes]]]:
    """The same, and what waits in the trash, by the id of each put: first what was current."""
    current: bytes | None = None
    versions: list[bytes] = []
    trash: dict[int, list[bytes]] = {}
    for event in events:
        data = event.data
        if event.restores is not None:
            for saved in trash.pop(id(event.restores), []):
                if current is None:
                    current = saved
                elif saved != current and saved not in versions:
                    versions.append(saved)
        elif event.empties is not None:
            trash.pop(id(event.empties), None)
        elif data is None:
            if not event.is_put:
                trash = {}
            elif current is not None:
                trash[id(event)] = [current, *versions]
            current = None
            versions = []
        elif current is None:
            current = data
        elif data == current or (data in versions and (not event.is_recorded or event.policy == "keep-first")):
            pass
        elif event.policy == "keep-first":
            versions.append(data)
        elif event.policy == "replace":
            current = data
        else:
            versions.append(current)
            current = data
    return Shown(current, tuple(sorted(versions))), trash


class Broken(AssertionError):
    """A promise that was not kept."""


@dataclass
class Model:
    """All that was sent, by SOP Instance UID."""

    events: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    damaged: set[str] = field(default_factory=set)
    """Bytes of these were damaged on purpose: they may be missing, they must not be wrong."""
    damaged_places: set[str] = field(default_factory=set)
    """Segments that were damaged on purpose, as the engine names them."""
    held: set[str] = field(default_factory=set)
    """Study Instance UIDs on legal hold."""
    held_in_doubt: set[str] = field(default_factory=set)
    """Studies whose hold was being set or released when something failed."""
    trash: dict[str, list[Event]] = field(default_factory=dict)
    """The number of an entry in the trash → its puts."""
    merge_count: int = 0
    merged: dict[str, bool] = field(default_factory=dict)
    """Patient IDs that were merged away → whether that was undone."""
    merges_in_doubt: set[str] = field(default_factory=set)
    """Those that were being merged, or set free, when something failed."""

    def tried(
        self, uid: str, data: bytes | None, policy: str = "", writer: str = "", *, is_recorded: bool = False
    ) -> Event:
        """Something is under way. What is on legal hold is not replaced but kept beside the new one."""
        if policy == "replace" and self.events[uid] and any(uid.startswith(f"{study}.") for study in self.held):
            policy = "keep-both-versions"
        event = Event(uid, data, policy, writer, is_recorded)
        self.events[uid].append(event)
        return event

    def acknowledged(self, event: Event, *, durable: bool) -> None:
        """The archive said that it has it."""
        event.standing = Standing.SURE if durable else Standing.BEHIND
        if durable and event.data is not None and not event.is_recorded:
            # It may have been compared with one that was there already, which is then what was synced.
            for before in self.events[event.uid]:
                if before.data == event.data and before.standing == Standing.BEHIND:
                    before.standing = Standing.SURE

    def refused(self, event: Event) -> None:
        """The archive said that it does not have it, and meant it."""
        self.events[event.uid].remove(event)

    def synced(self, writer: str | None = None) -> None:
        """Whatever was written (by this writer) is on stable storage."""
        for events in self.events.values():
            for event in events:
                if event.standing == Standing.BEHIND and writer in (None, event.writer):
                    event.standing = Standing.SURE

    def is_certain(self, uid: str) -> bool:
        """Whether it is known what a running archive shows of a UID."""
        return all(event.standing != Standing.MAYBE for event in self.events[uid]) and uid not in self.damaged

    def expected(self, uid: str) -> Shown:
        """What a running archive shows of a certain UID."""
        return fold(self.events[uid])

    def is_clear(self, uid: str) -> bool:
        """Whether it is known what a UID has in the trash too, and nothing can be lost of it."""
        events = self.events[uid]
        return uid not in self.damaged and all(
            event.standing == Standing.SURE and not event.was_in_doubt for event in events
        )

    def waits(self, put: Event) -> bool:
        """Whether something waits in the trash by this put."""
        return id(put) in _folded(self.events[put.uid])[1]

    def current(self) -> set[str]:
        """The UIDs that must be found, of those that are certain."""
        return {uid for uid in self.events if self.is_certain(uid) and self.expected(uid).current is not None}

    def sent(self, uid: str) -> set[bytes]:
        """Everything that was ever sent under a UID and not taken back."""
        return {event.data for event in self.events[uid] if event.data is not None}

    def settle(self, uid: str, shown: Shown, *, lost_power: bool) -> None:
        """Raises Broken unless the archive may show this; then it is so. For an archive that has just been started."""
        events = self.events[uid]
        lossy = (Standing.BEHIND, Standing.MAYBE) if lost_power else (Standing.MAYBE,)
        uncertain = [event for event in events if event.standing in lossy][-UNCERTAIN_MAX:]
        for count in range(len(uncertain) + 1):
            for gone in itertools.combinations(uncertain, count):
                left = [event for event in events if event not in gone]
                if fold(left) == shown:
                    for event in left:
                        event.was_in_doubt |= event.standing != Standing.SURE
                        event.standing = Standing.SURE
                    self.events[uid] = left
                    return
        told = "; ".join(
            f"{event.standing.name} {'delete' if event.data is None else _name(event.data)} {event.policy}"
            for event in events
        )
        raise Broken(f"{uid}: the archive shows {shown}; it was told: {told}")
