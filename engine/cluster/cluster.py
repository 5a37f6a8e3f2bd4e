"""The cluster of an archive: its nodes, chains and leases on one database."""

from __future__ import annotations

import uuid
from typing import Self

from engine.cluster import schema
from engine.cluster.chains import Chains
from engine.cluster.database import Database
from engine.cluster.leases import ClusterLeases
from engine.cluster.nodes import Nodes
from engine.cluster.settings import ClusterSettings
from engine.cluster.wake import Wake
from engine.errors import ConfigError


class Cluster:
    """What the nodes of an archive agree on. Thread-safe; open it after a fork, in each process."""

    def __init__(self, settings: ClusterSettings, archive_id: bytes) -> None:
        """Connects at the first use. `archive_id`: 16 bytes. Raises ConfigError without [cluster] database or with a
        wrong one, ClusterError without the package psycopg."""
        if not settings.database:
            raise ConfigError("this server is alone: [cluster] names no database")
        archive = uuid.UUID(bytes=archive_id)
        self.archive_id = archive_id
        self.database = Database(settings)
        self.chains = Chains(self.database, archive)
        self.nodes = Nodes(self.database, archive)
        self.leases = ClusterLeases(self.database, archive, settings.node)
        self._archive = archive

    def init(self) -> bool:
        """Makes the tables; False if they are there. Raises ClusterUnreachable, ClusterError."""
        return schema.create(self.database)

    def check(self) -> None:
        """Raises ClusterError if there are no tables, or some of a newer version; ClusterUnreachable."""
        schema.check(self.database)

    def wake(self) -> Wake:
        """A listener for one thread."""
        return Wake(self.database, self._archive)

    def close(self) -> None:
        """Ends all connections but those of listeners."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
