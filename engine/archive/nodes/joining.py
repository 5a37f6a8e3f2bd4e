"""Joining: how an archive becomes a node, and how a new node begins.

    DATA holds an archive     it joins with the slot of its segments, which other nodes then never get
    DATA is empty             a node of an archive that is in the bucket: its id, a new slot, no segments; what others
                              have stored comes by their feeds and the bucket (`follower`)
    the bucket is empty too   with `is_new`, the first node of a new archive. Never where an archive is there already: a
                              first node that has lost its folder would begin another one beside that of its fellows
    DATA is a node already    nothing: joining may be repeated, as the first step of a container; a node that has lost
                              DATA/cluster.json gets it again. But one that has left, was removed or taken over does not
                              come back with this folder

Not for archives that encrypt their records, yet: keys are made on one machine and would have to reach all before the
first record does.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from engine.archive import founding
from engine.archive import layout as layouts
from engine.archive.nodes.membership import Membership, has_announced, write_membership
from engine.archive.tiering import connection
from engine.cluster.cluster import Cluster
from engine.cluster.settings import ClusterSettings
from engine.errors import ClusterError, ConfigError, StorageError
from engine.objects import bucket as buckets
from engine.objects.settings import ObjectStore
from engine.storage.files import Files


def join(
    data: Path,
    cluster: ClusterSettings,
    store: ObjectStore,
    *,
    archive_id: bytes | None = None,
    is_new: bool = False,
    software: str = "",
    files: Files | None = None,
) -> Membership:
    """Makes `data` a node. `archive_id`: which one, where the bucket has several. `is_new`: of a new archive, whose
    first node it is: refused where the bucket has one. `software`: the version of this node, for the others to see.

    Raises ConfigError, StorageError, ClusterError, ClusterUnreachable, StoreUnreachable.
    """
    files = files or Files()
    if not store.url or not store.tail:
        raise ConfigError("nodes share their instances in a bucket: set url in [object_store], and leave its tail on")
    if is_new or (data / "archive.json").exists():
        if not (data / "archive.json").exists():
            _refuse_second(data, store, files)
        layout = layouts.open_layout(data, files, create=is_new, joins=True)
        if layout.membership is not None:
            _check_member(layout, cluster)
            write_membership(data, layout.archive_id, layout.slot, cluster, files)
            return layout.membership
        if layout.role != layouts.ARCHIVE:
            raise StorageError(f"{data} is a replica: promote it first, or join with an empty folder")
        if layout.is_encrypted:
            raise StorageError("an archive that encrypts its records can have one node only")
        connection.remember(data, store, files)
        connection.bucket_of(layout.archive_id, store).found(datetime.now(UTC))
        slot: int | None = layout.slot
    else:
        archive_id = _archive_in(store, archive_id)
        bucket = connection.bucket_of(archive_id, store)
        bucket.read_description()
        if bucket.read_keys()[0]:
            raise StorageError("an archive that encrypts its records can have one node only")
        layout, slot = layouts.Layout(data, archive_id), None
    agreed = Cluster(cluster, layout.archive_id)
    try:
        agreed.init()
        if slot is not None and has_announced(data, files) and _is_member(agreed, cluster.node, slot):
            given = slot  # it has lost its note only: its server begins a new epoch, as after any start
        else:
            given, _ = agreed.nodes.join(cluster.node, cluster.address, cluster.lease_s, slot, software=software)
    finally:
        agreed.close()
    layout = replace(layout, slot=given)
    if slot is None:
        layouts.make_folders(data, files)
        connection.remember(data, store, files)
    write_membership(data, layout.archive_id, given, cluster, files)
    if slot is None:
        layouts.describe(layout, files)  # last: until then it is no archive
    return Membership(data, layout.archive_id, given, cluster)


def _is_member(cluster: Cluster, name: str, slot: int) -> bool:
    return any(
        (node.name, node.slot) == (name, slot) and node.state in ("active", "draining") for node in cluster.nodes.list()
    )


def _refuse_second(data: Path, store: ObjectStore, files: Files) -> None:
    """Raises StorageError where the bucket holds an archive, unless segments in the folder say which one it is."""
    if founding.lost_id(data, files) is None and (found := buckets.archives(connection.objects_of(store))):
        raise StorageError(
            f"{store.url} holds an archive already ({', '.join(map(bytes.hex, found))}): join it, without --new."
            " A further archive needs a folder of its own in the bucket"
        )


def _check_member(layout: layouts.Layout, settings: ClusterSettings) -> None:
    """Raises ClusterError if the node has left, or was removed or taken over: its folder cannot be used again."""
    with Cluster(settings, layout.archive_id) as agreed:
        agreed.check()
        for node in agreed.nodes.list(everything=True):
            if node.slot == layout.slot and node.state not in ("active", "draining"):
                raise ClusterError(
                    f"{layout.data} is that of the node {node.name}, which is {node.state}: join with an empty folder"
                )


def _archive_in(store: ObjectStore, archive_id: bytes | None) -> bytes:
    if archive_id is not None:
        return archive_id
    found = buckets.archives(connection.objects_of(store))
    if not found:
        raise StorageError(f"{store.url} holds no archive: its first node joins with its data, or with --new")
    if len(found) > 1:
        raise StorageError(f"{store.url} holds several archives, name one: {', '.join(map(bytes.hex, found))}")
    return found[0]
