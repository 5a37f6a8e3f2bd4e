"""The part of `backend` for the nodes of an archive. Nothing here writes to the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engine import __version__
from engine.config import Config, second_copies
from engine.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from engine.cluster.cluster import Cluster
    from engine.cluster.nodes import Node


def init(config: Config) -> dict[str, Any]:
    """Makes the tables in PostgreSQL. Raises ConfigError, ClusterError, StorageError."""
    from engine.cluster.cluster import Cluster

    with Cluster(config.cluster, bytes(16)) as cluster:  # the tables are those of all archives
        is_new = cluster.init()
        return {"tables": "made" if is_new else "there already", "warnings": cluster.database.look().warnings}


def status(config: Config) -> tuple[list[dict[str, Any]], list[str]]:
    """The nodes, and what somebody has to look at. Raises ConfigError, ClusterError, StorageError."""
    from engine.errors import ClusterUnreachable

    with _cluster(config) as cluster:
        cluster.check()
        nodes = cluster.nodes.list()
        troubles = []
        for server in cluster.database.servers():
            if isinstance(server, ClusterUnreachable):
                troubles.append(str(server))
            else:
                troubles += server.warnings
    return [_row(node, nodes) for node in nodes], troubles


def _row(node: Node, nodes: Sequence[Node]) -> dict[str, Any]:
    state = node.state if node.is_alive or node.state not in ("active", "draining") else "silent"
    return {
        "node": node.name,
        "slot": node.slot,
        "state": state,
        "lease_s": round(node.lease_s, 1),
        "epoch": node.epoch,
        "last_number": node.number,
        "behind": node.behind(nodes),
        "clock_offset_s": None if node.clock_offset_s is None else round(node.clock_offset_s, 3),
        "address": node.address,
        "software": node.software,
        "trimmed": node.trimmed,
        "is_sealed": node.is_sealed,
        "taken_by": node.taken_by,
        "joined": node.joined.isoformat(),
    }


def _cluster(config: Config) -> Cluster:
    from engine.archive.layout import existing
    from engine.cluster.cluster import Cluster

    if config.cluster.database and not (config.data / "archive.json").exists():
        raise StorageError(f"{config.data} is no node yet: `filmroom cluster join` makes it one")
    return Cluster(config.cluster, existing(config.data).archive_id)


def join(config: Config, archive_id: str, *, is_new: bool) -> dict[str, Any]:
    """Makes the data folder a node. Raises ConfigError, ClusterError, StorageError."""
    from engine.archive.nodes import joining

    try:
        chosen = bytes.fromhex(archive_id) if archive_id else None
    except ValueError as error:
        raise ConfigError(f"--archive {archive_id}: 32 hex digits") from error
    second_copies.check_node(config)
    membership = joining.join(
        config.data, config.cluster, config.object_store, archive_id=chosen, is_new=is_new, software=__version__
    )
    with membership.cluster as cluster:
        nodes = len([node for node in cluster.nodes.list() if node.state in ("active", "draining")])
    return {
        "node": membership.settings.node,
        "slot": membership.slot,
        "archive_id": membership.archive_id.hex(),
        "nodes": nodes,
    }


def leave(config: Config) -> dict[str, Any]:
    """Ends this node. Raises ArchiveInUse while its server runs, ClusterError, StorageError."""
    from engine.archive.archive import Archive
    from engine.archive.nodes import departure

    with Archive.open(config.data, role="keeper") as archive:
        count = departure.leave(archive, config.object_store)
    return {"node": config.cluster.node, "segments_published": count}


def remove(config: Config, name: str) -> dict[str, Any]:
    """Removes a node that is lost. Raises ClusterError while it is alive, StorageError."""
    from engine.archive.archive import Archive
    from engine.archive.nodes import departure

    with Archive.open(config.data) as archive:
        adopted = departure.remove(archive, name, config.object_store)
    return {"node": name, "groups_adopted": adopted}
