"""Subscriptions of FHIR clients, in small files that survive a restart.

    DATA/subscriptions/ID.json      what was asked for, by whom; replaced as a whole
    DATA/subscriptions/ID.events    its events (`subscription_events`)

An id is 32 random hex digits. How far each has been told is in DATA/feed/subscriptions (`feed.destinations`).
"""

from __future__ import annotations

import os
import re
import secrets
import time
from typing import TYPE_CHECKING, Final

import msgspec

from engine.archive.subscription_events import SubscriptionEvents
from engine.errors import JobsFull
from engine.storage.files import Files, replace_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.archive.layout import Layout

COUNT_MAX: Final = 200
OWN_MAX: Final = 20
"""Of one actor, who could else keep all others from subscribing."""
FILE_BYTES_MAX: Final = 64 << 10

_ID: Final = re.compile(r"[0-9a-f]{32}")


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """What a client wants to be told of, and how."""

    id: str
    by: str
    """The actor who asked."""
    created_s: float
    topic: str
    """The name of the topic."""
    channel: str
    """rest-hook or websocket."""
    since: str
    """The cursor of the change feed behind which its events are."""
    filters: tuple[tuple[str, str], ...] = ()
    """Parameters of a search, and their values."""
    endpoint: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    content: str = "id-only"
    """id-only or empty."""
    heartbeat_s: int = 0
    """0: none."""
    timeout_s: int = 0
    """0: the usual one."""
    end: str = ""
    """The instant at which it ends by itself; "": none."""
    reason: str = ""
    release: str = ""
    """Of FHIR, in which it is told."""
    name: str = ""
    address: str = ""
    session: str = ""
    """The API key that it depends on; "": it outlives the session of who asked."""
    roles: tuple[str, ...] = ()
    attributes: dict[str, tuple[str, ...]] = {}
    """Who asked, as `Principal` has it."""
    root: str = ""
    """The address of this server as its client sees it."""
    is_off: bool = False
    revision: int = 1
    """Counts the changes by its client."""


class SubscriptionFiles:
    """The subscriptions of one archive."""

    def __init__(self, layout: Layout, files: Files, now_s: Callable[[], float] = time.time) -> None:
        self._directory = f"{layout.data}/subscriptions"
        self._files = files
        self._now_s = now_s

    def new_id(self) -> str:
        """An id that nobody can guess."""
        return secrets.token_hex(16)

    def add(self, subscription: Subscription) -> None:
        """Keeps a new one, durably. Raises JobsFull, StorageFull, StorageFailed."""
        kept = self.all()
        if sum(each.by == subscription.by for each in kept) >= OWN_MAX:
            raise JobsFull(f"you have {OWN_MAX} subscriptions: delete some")
        if len(kept) >= COUNT_MAX:
            raise JobsFull(f"there are {COUNT_MAX} subscriptions: delete some")
        if self.state() is None:
            self._files.make_directory(self._directory)
            self._files.sync_directory(os.path.dirname(self._directory))
        self.replace(subscription)

    def replace(self, subscription: Subscription) -> None:
        """Keeps one in another form, durably. Raises StorageFull, StorageFailed."""
        replace_file(self._files, self._path(subscription.id), msgspec.json.encode(subscription))

    def load(self, identifier: str) -> Subscription | None:
        """The one with this id; None: there is none."""
        if not _ID.fullmatch(identifier):
            return None
        try:
            with open(self._path(identifier), "rb") as file:
                return msgspec.json.decode(file.read(FILE_BYTES_MAX), type=Subscription)
        except (OSError, msgspec.DecodeError):
            return None

    def remove(self, identifier: str) -> None:
        """Forgets one and its events."""
        if _ID.fullmatch(identifier):
            self._files.unlink(self._path(identifier))
            self._files.unlink(self._events_path(identifier))

    def all(self) -> list[Subscription]:
        """All of them, the oldest first."""
        try:
            names = self._files.list_directory(self._directory)
        except FileNotFoundError:
            return []
        found = (self.load(name.removesuffix(".json")) for name in names if name.endswith(".json"))
        return sorted((each for each in found if each is not None), key=lambda each: (each.created_s, each.id))

    def sweep(self) -> None:
        """Removes events of subscriptions that are no more."""
        try:
            names = self._files.list_directory(self._directory)
        except FileNotFoundError:
            return
        for name in names:
            identifier, _, rest = name.partition(".")
            if rest == "events" and f"{identifier}.json" not in names:
                self._files.unlink(self._events_path(identifier))

    def state(self) -> tuple[int, int] | None:
        """Differs when any was added, replaced or removed; None: there never was one."""
        return self._files.identity(self._directory)

    def events(self, identifier: str) -> SubscriptionEvents:
        """The events of one, for one writer, or for readers."""
        return SubscriptionEvents(self._events_path(identifier), self._files)

    def _path(self, identifier: str) -> str:
        return f"{self._directory}/{identifier}.json"

    def _events_path(self, identifier: str) -> str:
        return f"{self._directory}/{identifier}.events"
