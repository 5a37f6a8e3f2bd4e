"""Wake: tells at once that a chain has grown, by LISTEN and NOTIFY.

A notification saves waiting and promises nothing: none is kept for who is not connected. So a follower reads the
chains whenever `wait` returns, also when it returns without one.
"""

from __future__ import annotations

import time
import uuid

from engine.cluster import driver
from engine.cluster.database import Database
from engine.cluster.driver import Connection
from engine.errors import ClusterUnreachable


def channel(archive: uuid.UUID) -> str:
    """The name under which the nodes of an archive are told; what is said is the number of a slot."""
    return f"filmroom_{archive.hex}"


class Wake:
    """Listens for one archive, on a connection of its own. For one thread."""

    def __init__(self, database: Database, archive: uuid.UUID) -> None:
        self._database = database
        self._channel = channel(archive)
        self._connection: Connection | None = None

    def wait(self, timeout_s: float) -> set[int]:
        """The slots whose chains have grown; waits for the first. Empty: the time is over, or it has just begun to
        listen, so that something may have come before. Raises ClusterUnreachable; the next call connects anew."""
        deadline = time.monotonic() + timeout_s
        if self._connection is None:
            self._listen()
            return set()
        try:
            while True:
                # Shorter than the limit of an answer, since this waits for none.
                slice_s = min(self._database.timeout_s / 2, deadline - time.monotonic())
                found = {
                    int(note.payload)
                    for note in self._connection.notifies(timeout=max(0.0, slice_s), stop_after=1)
                    if note.payload.isdecimal()
                }
                if found or time.monotonic() >= deadline:
                    return found
        except driver.psycopg().Error as error:
            self.close()
            raise ClusterUnreachable(f"the connection that listens has ended: {driver.first_line(error)}") from error

    def close(self) -> None:
        """Ends the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _listen(self) -> None:
        connection = self._database.open()
        try:
            connection.execute(f'listen "{self._channel}"')
        except driver.psycopg().Error as error:
            connection.close()
            raise ClusterUnreachable(f"nobody tells of new groups: {driver.first_line(error)}") from error
        self._connection = connection
