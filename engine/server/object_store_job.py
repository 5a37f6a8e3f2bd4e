"""The caretaker's job for the object store: two threads of its own (`archive.tiering.shipping`), begun here.

Other jobs share one thread at the lowest priority and take turns; records must be in the bucket within a second,
whatever those do. So the threads are begun by the main thread, whose priority they have.
"""

from __future__ import annotations

import threading

from engine import log
from engine.archive.archive import Archive
from engine.archive.nodes.announcer import Announcer
from engine.archive.tiering.shipping import Shipping
from engine.config import Config
from engine.errors import EngineError, for_log

logger = log.get("server.object_store")

NOTHING_TO_DO_S = 3600.0


class ObjectStoreJob:
    """Keeps the bucket up to date while the caretaker runs."""

    name = "object_store"

    def __init__(self, archive: Archive, config: Config, stopping: threading.Event) -> None:
        self._archive = archive
        self._settings = config.object_store
        self._stopping = stopping
        self._shipping: Shipping | None = None
        try:
            self._begin()
        except EngineError as error:
            logger.error("the object store cannot be used", reason=for_log(error))

    def _begin(self) -> None:
        if self._settings.url and self._shipping is None:
            shipping = Shipping(self._archive, self._settings, self._stopping, Announcer.of(self._archive))
            shipping.start()
            self._shipping = shipping

    def configure(self, config: Config) -> None:
        """Applies rates and times; another address needs a restart."""
        if self._shipping is not None:
            self._shipping.configure(config.object_store)

    def step(self) -> float:
        """Begins again what could not begin. Raises ConfigError, StorageError."""
        self._begin()
        return NOTHING_TO_DO_S

    def stats(self) -> dict[str, object]:
        """The state of the bucket, and what waits for it."""
        return {"enabled": False} if self._shipping is None else self._shipping.stats()

    def close(self) -> None:
        """Lets the archive be closed: the threads use it no more."""
        if self._shipping is not None:
            self._shipping.release()
