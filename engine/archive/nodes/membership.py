"""Membership: which cluster a node belongs to, and what a process asks of it.

    DATA/cluster.json    {"format": 1, "archive_id", "slot", "settings": {…as [cluster]…}}, without secrets

`filmroom cluster join` writes it, and each start of a server with its present settings. Every process that opens the
archive takes part: a command that deletes must ask the other nodes too, with or without a configuration.

    catch_up          what any node has acknowledged is in this index (the barrier); else CatalogBehind,
                      ClusterUnreachable
    wait_announced    the other nodes have been told of a record, which is in the bucket
    shared leases     the ledger: one node at a time decides what is deleted, held or corrected
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from engine.archive import receipts
from engine.archive.leases import FileLeases
from engine.archive.receipts import Kind
from engine.cluster.settings import ClusterSettings
from engine.errors import ConfigError, LeaseLost, StorageError, StoreUnreachable
from engine.lease import Grant
from engine.storage.files import Files, replace_file
from engine.storage.record import Position

if TYPE_CHECKING:
    from engine.archive.nodes.node_log import NodeLog
    from engine.cluster.cluster import Cluster

FILE: Final = "cluster.json"
ANNOUNCED: Final = "announced"
"""What a node has told the others (`announcer`)."""
FORMAT: Final = 1
_FILE_BYTES_MAX: Final = 1 << 16
SHARED: Final = frozenset({"ledger"})
"""The leases that one process of all nodes may have; others are a machine's own."""
ANNOUNCED_PATIENCE_S: Final = 30.0


class _Note(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    archive_id: str
    slot: int
    settings: ClusterSettings


class FollowingIndex(Protocol):
    """What catching up needs of the index."""

    def wait(self, vector: Mapping[int, int], timeout_s: float) -> None: ...


class Membership:
    """One process's part in the cluster. Thread-safe; connects when it is first asked."""

    def __init__(self, data: Path, archive_id: bytes, slot: int, settings: ClusterSettings) -> None:
        self._data = data
        self.archive_id = archive_id
        self.slot = slot
        self.settings = settings
        self._lock = threading.Lock()
        self._cluster: Cluster | None = None

    @property
    def cluster(self) -> Cluster:
        """What the nodes agree on. Raises ConfigError when the driver of PostgreSQL is not installed."""
        with self._lock:
            if self._cluster is None:
                from engine.cluster.cluster import Cluster  # the driver: only nodes need it

                self._cluster = Cluster(self.settings, self.archive_id)
            return self._cluster

    @cached_property
    def log(self) -> NodeLog:
        """The end of this node's chain: for the caretaker of a server alone."""
        from engine.archive.nodes.node_log import NodeLog

        return NodeLog(self.slot, self.settings, lambda: self.cluster)

    def close(self) -> None:
        """Ends the connections."""
        with self._lock:
            cluster, self._cluster = self._cluster, None
        if cluster is not None:
            cluster.close()

    def catch_up(self, index: FollowingIndex) -> None:
        """Returns when this index has what any node has announced before this call.

        Blocks. Raises ClusterUnreachable, CatalogBehind.
        """
        vector = {slot: number for slot, number in self.cluster.chains.positions().items() if slot != self.slot}
        if vector:
            index.wait(vector, self.settings.wait_s)

    def wait_announced(self, position: Position, patience_s: float = ANNOUNCED_PATIENCE_S) -> None:
        """Returns when a record of this node is in the bucket, and announced.

        The caretaker of a server does that; without one, StoreUnreachable after a moment: the record is durable here
        and takes effect elsewhere when a server runs.
        """
        give_up_at = time.monotonic() + patience_s
        wanted = {position.segment_id: position.end}
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            try:
                sock.settimeout(patience_s)
                with receipts.address(self._data, receipts.OBJECT_STORE) as path:
                    sock.connect(path)
                for message in receipts.pack(Kind.WANT, wanted):
                    sock.send(message)
                while True:
                    sock.settimeout(max(0.001, give_up_at - time.monotonic()))
                    kind, ends = receipts.unpack(sock.recv(receipts.MESSAGE_BYTES_MAX))
                    if kind is Kind.HAVE and ends.get(position.segment_id, 0) >= position.end:
                        return
                    if kind is Kind.FENCED:
                        raise StorageError("another node has taken this one's log over")
            except OSError as error:
                reason = "the other nodes could not be told: the change takes effect there when this node's server runs"
                raise StoreUnreachable(reason) from error


class SharedLeases:
    """The leases of a node: of its own machine, and for some of all nodes too."""

    def __init__(self, own: FileLeases, membership: Membership) -> None:
        self._own = own
        self._membership = membership
        self._lock = threading.Lock()
        self._outer: dict[Grant, Grant] = {}

    def acquire(self, name: str, term_s: float = 0.0) -> Grant | None:
        """The lease; None if somebody has it. Raises ClusterUnreachable."""
        grant = self._own.acquire(name, term_s)
        if grant is None or name not in SHARED:
            return grant
        try:
            outer = self._membership.cluster.leases.acquire(name, term_s)
        except BaseException:
            self._own.release(grant)
            raise
        if outer is None:
            self._own.release(grant)
            return None
        with self._lock:
            self._outer[grant] = outer
        return grant

    def renew(self, grant: Grant, term_s: float = 0.0) -> None:
        """Begins a new term. Raises LeaseLost."""
        self._own.renew(grant)
        if (outer := self._of(grant)) is not None:
            self._membership.cluster.leases.renew(outer, term_s)

    def release(self, grant: Grant) -> None:
        """Gives the lease back."""
        with self._lock:
            outer = self._outer.pop(grant, None)
        try:
            if outer is not None:
                self._membership.cluster.leases.release(outer)
        finally:
            self._own.release(grant)

    def check(self, grant: Grant) -> None:
        """Raises LeaseLost unless the lease is still held."""
        self._own.check(grant)
        if (outer := self._of(grant)) is not None:
            self._membership.cluster.leases.check(outer)

    def _of(self, grant: Grant) -> Grant | None:
        if grant.name not in SHARED:
            return None
        with self._lock:
            outer = self._outer.get(grant)
        if outer is None:
            raise LeaseLost(f"the lease {grant.name} was released")
        return outer


def read_membership(
    data: Path, archive_id: bytes, slot: int, files: Files, *, joins: bool = False
) -> Membership | None:
    """The cluster of a node; None: there is one node. `joins`: it may be a node that has lost its note.

    Raises StorageError.
    """
    path = str(data / FILE)
    note = _read(path, files)
    if note is None:
        if not joins and has_announced(data, files):
            # Alone, it would delete what others hold, and find a part of what there is.
            raise StorageError(f"{path} is missing, and this archive is a node: run `filmroom cluster join` again")
        return None
    if note.archive_id != archive_id.hex() or note.slot != slot:
        raise StorageError(f"{path} cannot be used: it is of another archive or slot")
    return Membership(data, archive_id, slot, note.settings)


def has_announced(data: Path, files: Files) -> bool:
    """Whether this archive was ever served as a node."""
    return files.exists(str(data / ANNOUNCED))


def _read(path: str, files: Files) -> _Note | None:
    try:
        fd = files.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    try:
        note = msgspec.json.decode(files.pread(fd, _FILE_BYTES_MAX, 0), type=_Note, dec_hook=_to_path)
        if note.format != FORMAT:
            raise ValueError(f"it has format {note.format}, this version reads format {FORMAT}")
    except (OSError, ValueError) as error:  # msgspec's errors too
        raise StorageError(f"{path} cannot be used: {error}") from error
    finally:
        files.close(fd)
    return note


def confirm(data: Path, settings: ClusterSettings, files: Files | None = None) -> None:
    """Before a server opens the archive: notes the settings in force. Raises ConfigError where they do not fit it."""
    files = files or Files()
    note = _read(str(data / FILE), files)
    if note is None:
        if settings.database:
            raise ConfigError(f"{data} is no node of a cluster: run `filmroom cluster join` with this configuration")
        return
    if not settings.database:
        raise ConfigError(f"{data} is the node {note.settings.node}: set database and node in [cluster]")
    if settings.node != note.settings.node:
        raise ConfigError(f"{data} is the node {note.settings.node}: it cannot become {settings.node}")
    if settings != note.settings:
        write_membership(data, bytes.fromhex(note.archive_id), note.slot, settings, files)


def write_membership(data: Path, archive_id: bytes, slot: int, settings: ClusterSettings, files: Files) -> None:
    """Notes the cluster, durably. Raises StorageFull or StorageFailed."""
    note = _Note(FORMAT, archive_id.hex(), slot, settings)
    replace_file(files, str(data / FILE), msgspec.json.encode(note, enc_hook=str))


def _to_path(type_: type, value: object) -> object:
    if type_ is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(f"no conversion to {type_}")
