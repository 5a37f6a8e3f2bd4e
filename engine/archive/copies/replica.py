"""The writing end of a replica: an archive whose log only a replication writes, and every other process reads.

    DATA/archive.json        as every archive's, with "role": "replica" and the lineage of its source
    DATA/segments/*.seg      as at the source, as far as they have come; not preallocated; grow at the end
    DATA/hospital/           state/ and journal/, likewise
    DATA/sources/            the audit log of the source (`replica_audit`); DATA/audit is that of processes here
    DATA/replica.journal     [number, salt, length, sealed] for each that was made durable; the last note of a number
                             holds, length -1: removed (`storage.journal`); numbers as `shipped_logs` has them
    DATA/replica.lock        flock of whoever writes the log
    DATA/replica.json        what the source last said of itself and of its lag; for people

After a stop, bytes that were written and not committed are written again: a length counts once it is noted. A reader
may have seen them before; they are the same bytes. A replica never throws away anything that the source lacks: a source
with another history is refused (`replication` compares).

Readers open it as any archive (`Archive.open`): their keeper follows the log. `promote` makes it an archive.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

import orjson

from engine import log
from engine.accounts import dump
from engine.archive import layout as layouts
from engine.archive.copies import key_file, registry_copy, shipped_logs, study_key_file
from engine.archive.copies.manifest import make_log, read_whole
from engine.archive.copies.replica_audit import ReplicaAudit, open_all
from engine.archive.copies.shipped_audit import AuditDestination
from engine.archive.keeper import Keeper, Progress
from engine.archive.layout import ARCHIVE, REPLICA, RESTORING, Layout
from engine.archive.unlocking import let_go, unlock
from engine.errors import ArchiveInUse, OrdersError, ReplicationFailed, StorageError, for_log
from engine.storage.files import Files, replace_file
from engine.storage.journal import Journal
from engine.storage.record import crc32c
from engine.storage.segment import list_segments

logger = log.get("archive.replica")

JOIN_BYTES = 4096
"""Bytes at a segment's end that are compared before it grows."""
STATUS_BYTES_MAX = 1 << 16
NOT_SHOWN = ("keys", "study_keys", "accounts", "ships")
"""What a source says that is not of its state."""
NOTES_MAX_FACTOR = 4
"""The journal is rewritten when it has this many times more notes than segments."""


class Held(NamedTuple):
    """A segment as the replica holds it."""

    salt: int
    length: int
    is_sealed: bool
    tail_crc: int = 0
    """crc32c of its last JOIN_BYTES, or fewer."""


_NOTHING = Held(0, 0, False)


class Shipped(NamedTuple):
    """A segment, and how far it has been shipped."""

    segment_id: int
    salt: int
    length: int
    is_sealed: bool


class Destination(Protocol):
    """Where a replication writes: a directory, or another Filmroom."""

    @property
    def takes_all_logs(self) -> bool: ...
    @property
    def takes_syncs(self) -> bool:
        """Whether `sync` leaves it to `commit` to note what has come of a segment that is noted already."""

    @property
    def audit(self) -> AuditDestination | None:
        """Where audit logs go; None: it is of an older version."""

    def held(self) -> dict[int, Held]: ...
    def write(self, segment_id: int, salt: int, offset: int, data: bytes) -> None: ...
    def commit(self, shipped: Sequence[Shipped]) -> None: ...
    def sync(self, shipped: Sequence[Shipped]) -> None: ...
    def remove(self, segment_ids: Sequence[int]) -> None: ...
    def tell(self, status: Mapping[str, object]) -> None: ...
    def close(self) -> None: ...


class ReplicaLock:
    """DATA/replica.lock: the right to write the log of a replica."""

    def __init__(self, data: Path, files: Files) -> None:
        """Raises ArchiveInUse when a replication has it."""
        self._files = files
        try:
            self._fd = files.open(str(data / "replica.lock"), os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise StorageError(f"{data}/replica.lock cannot be opened: {error.strerror}") from error
        try:
            if not files.lock(self._fd):
                raise ArchiveInUse(f"a replication is writing to {data}; stop it first")
        except BaseException:
            files.close(self._fd)
            raise

    def close(self) -> None:
        """Gives the right up."""
        self._files.close(self._fd)


class Replica:
    """The writing end. For one thread. After any error, close it and open it again."""

    takes_all_logs = True
    """Whether it takes patients, orders and messages too."""
    takes_syncs = True

    def __init__(
        self, data: Path, archive_id: bytes, lineage: str, files: Files | None = None, *, create: bool = True
    ) -> None:
        """Opens the replica in `data`; with `create` makes one where it is missing or empty.

        Raises ReplicationFailed when what lies there is no replica of this archive, ArchiveInUse, StorageError.
        """
        self._files = files = files or Files()
        self.layout = _open(data, archive_id, lineage, files, create=create)
        self._lock = ReplicaLock(data, files)
        try:
            self._journal = Journal(str(data / "replica.journal"), files)
            try:
                self._held = self._read_journal()
            except BaseException:
                self._journal.close()
                raise
        except BaseException:
            self._lock.close()
            raise
        self._written: dict[int, int] = {}
        """How far the open segments have been written."""
        self._fds: dict[int, int] = {}
        self._new_names: set[str] = set()
        """The logs with names that are not durable yet."""
        self.audit = ReplicaAudit(data, files)
        self._is_source_of_all = False
        """Whether the source has said that it ships all logs."""

    def _read_journal(self) -> dict[int, Held]:
        segments: dict[int, Held] = {}
        for note in self._journal.notes:
            match note:
                case [int(segment_id), int(salt), int(length), bool(is_sealed)]:
                    segments[segment_id] = Held(salt, length, is_sealed)
        present = shipped_logs.held(self.layout.data, self._files)
        segments = {
            segment_id: item
            for segment_id, item in segments.items()
            if segment_id in present and 0 < item.length <= self._size(segment_id)
        }
        if len(self._journal.notes) > NOTES_MAX_FACTOR * (len(segments) + 1):
            self._journal.replace([(segment_id, *item[:3]) for segment_id, item in segments.items()])
        # Begun and never committed: if the source still has it, it is written from the start.
        return {segment_id: segments.get(segment_id, Held(0, 0, False)) for segment_id in present}

    def _size(self, segment_id: int) -> int:
        fd = self._files.open(shipped_logs.path_of(self.layout.data, segment_id), os.O_RDONLY)
        try:
            return self._files.size(fd)
        finally:
            self._files.close(fd)

    def held(self) -> dict[int, Held]:
        """The durable segments, by their numbers in `shipped_logs`."""
        return {segment_id: self._with_tail(segment_id, item) for segment_id, item in self._held.items()}

    def _with_tail(self, segment_id: int, item: Held) -> Held:
        fd = self._files.open(shipped_logs.path_of(self.layout.data, segment_id), os.O_RDONLY)
        try:
            start = max(0, item.length - JOIN_BYTES)
            return item._replace(tail_crc=crc32c(self._files.pread(fd, item.length - start, start)))
        finally:
            self._files.close(fd)

    def write(self, segment_id: int, salt: int, offset: int, data: bytes) -> None:
        """Appends to a segment; readers see it at once. `offset` may go back to the end that was committed last.

        So a source begins again where it knows that the bytes before have come: where it has committed, or synced for
        somebody who waited. Raises ReplicationFailed for an `offset` before that, or beyond the end.
        """
        segment = self._held.get(segment_id)
        if segment is not None and segment.length and segment.salt != salt:
            raise ReplicationFailed(f"segment {segment_id:016x} is another one here", is_final=True)
        if segment is not None and segment.is_sealed:
            raise ReplicationFailed(f"segment {segment_id:016x} is whole here already", is_final=True)
        if segment_id not in self._fds:
            self._open_segment(segment_id, segment)
        if not (segment.length if segment is not None else 0) <= offset <= self._written[segment_id]:
            what = f"segment {segment_id:016x} ends at {self._written[segment_id]} here"
            raise ReplicationFailed(f"{what}, not at {offset}", is_final=True)
        self._files.pwritev(self._fds[segment_id], [data], offset, len(data))
        self._written[segment_id] = offset + len(data)

    def _open_segment(self, segment_id: int, held: Held | None) -> None:
        path, log_name = shipped_logs.path_of(self.layout.data, segment_id), shipped_logs.log_of(segment_id)
        if not shipped_logs.is_image_log(segment_id):
            make_log(self.layout.data, log_name, self._files)
        try:
            fd = self._files.create(path)
            self._new_names.add(log_name)
        except FileExistsError:
            fd = self._files.open(path, os.O_RDWR)
            if held is None or not held.length:
                self._files.truncate(fd, 0)
                self._new_names.add(log_name)
        self._fds[segment_id] = fd
        self._written[segment_id] = held.length if held is not None else 0

    def commit(self, shipped: Sequence[Shipped]) -> None:
        """Makes these segments durable. They count as replicated when this returns."""
        for item in shipped:
            if self._written.get(item.segment_id) != item.length:
                raise ReplicationFailed(f"segment {item.segment_id:016x} has not come whole", is_final=True)
            fd = self._fds[item.segment_id]
            if item.is_sealed and self._files.size(fd) != item.length:
                self._files.truncate(fd, item.length)
            self._files.fdatasync(fd)
        for log_name in self._new_names:
            self._files.sync_directory(str(self.layout.data / log_name))
        self._new_names.clear()
        self._journal.append(shipped)
        for item in shipped:
            self._held[item.segment_id] = Held(item.salt, item.length, item.is_sealed)
            self._files.close(self._fds.pop(item.segment_id))
            del self._written[item.segment_id]

    def sync(self, shipped: Sequence[Shipped]) -> None:
        """Makes what has come of these segments durable, for a sender that waits; `commit` them later too.

        They are not noted yet, which is another sync: a source that begins anew writes the same bytes again over them.
        A segment of which nothing was noted would be cut off for that, so it is committed.
        """
        known = [item for item in shipped if self._held.get(item.segment_id, _NOTHING).length]
        new = [item for item in shipped if item not in known]
        for item in known:
            if self._written.get(item.segment_id) != item.length:
                raise ReplicationFailed(f"segment {item.segment_id:016x} has not come whole", is_final=True)
            self._files.fdatasync(self._fds[item.segment_id])
        if new:
            self.commit(new)

    def remove(self, segment_ids: Sequence[int]) -> None:
        """Removes segments that the source has compacted away. Commit their replacements first.

        An older version as source, which does not know the logs of DATA/hospital, removes nothing of them.
        """
        if not self._is_source_of_all:
            segment_ids = [each for each in segment_ids if shipped_logs.is_image_log(each)]
        for segment_id in segment_ids:
            if segment_id in self._fds:
                self._files.close(self._fds.pop(segment_id))
                del self._written[segment_id]
            self._files.unlink(shipped_logs.path_of(self.layout.data, segment_id))
            self._held.pop(segment_id, None)
        for log_name in set(map(shipped_logs.log_of, segment_ids)):
            self._files.sync_directory(str(self.layout.data / log_name))
        self._journal.append([(segment_id, 0, -1, False) for segment_id in segment_ids])

    def tell(self, status: Mapping[str, object]) -> None:
        """Stores the source's status for `filmroom replicate --status`, not durably; its keys and accounts, durably."""
        if status.get("ships") == "all logs":
            self._is_source_of_all = True
        keys = status.get("keys", "")
        if isinstance(keys, str):
            self.layout = key_file.adopt(self.layout, keys, self._files)
        study_key_file.receive(self.layout, status, self._files)
        accounts = status.get("accounts", "")
        if isinstance(accounts, str):
            dump.restore(self.layout.data, accounts)
        shown = {name: value for name, value in status.items() if name not in NOT_SHOWN}
        write_status(str(self.layout.data / "replica.json"), shown, self._files)

    def close(self) -> None:
        """Closes the replica. Bytes that were not committed are written again next time."""
        for fd in self._fds.values():
            self._files.close(fd)
        self._fds.clear()
        self.audit.close()
        self._journal.close()
        self._lock.close()


def _open(data: Path, archive_id: bytes, lineage: str, files: Files, *, create: bool) -> Layout:
    if files.exists(str(data / "archive.json")):
        layout = layouts.open_layout(data, files, create=False)
        if layout.role != REPLICA:
            is_ours = layout.archive_id == archive_id
            what = "was promoted, and continues this archive" if is_ours else "is an archive of its own and no replica"
            raise ReplicationFailed(f"{data} {what}", is_final=True, is_fenced=is_ours)
        if layout.archive_id != archive_id:
            raise ReplicationFailed(f"{data} is the replica of another archive", is_final=True)
        if layout.lineage != lineage:
            what = "the source has been restored or promoted since"
            raise ReplicationFailed(f"{data} replicates another history: {what}; begin a new replica", is_final=True)
        return layout
    if not create:
        raise ReplicationFailed(f"the replica in {data} is gone; is the disk mounted?")
    if files.exists(str(data)):
        others = set(files.list_directory(str(data))) - {"segments", "index", "lost+found"}
        if {name for name in others if not name.startswith("archive.json.")} or files.exists(str(data / RESTORING)):
            raise ReplicationFailed(f"{data} is not empty and holds no replica", is_final=True)
    elif not files.exists(str(data.absolute().parent)):
        raise ReplicationFailed(f"{data.absolute().parent} does not exist; is the disk mounted?")
    layout = Layout(data, archive_id, REPLICA, lineage)
    layouts.make_folders(data, files)
    if list_segments(layout.segments, files):
        raise ReplicationFailed(f"{data} holds segments and is no replica", is_final=True)
    layouts.describe(layout, files)
    return layout


def promote(data: Path, *, files: Files | None = None, progress: Progress | None = None) -> Layout:
    """Turns a replica into an archive that accepts instances: with a new lineage, recovered and sealed.

    Raises ReplicationFailed when it is no replica, ArchiveInUse while a replication writes to it or a keeper runs.
    """
    files = files or Files()
    layout = layouts.open_layout(data, files, create=False)
    if layout.role != REPLICA:
        raise ReplicationFailed(f"{data} is no replica", is_final=True)
    layout = unlock(layout, files)
    lock = ReplicaLock(data, files)
    try:
        promoted = replace(layout, role=ARCHIVE, lineage=layouts.new_lineage())
        opened = open_all(data, files)
        # Wait for the keeper to end: a running one still treats it as a replica.
        Keeper(layout, files, progress).close()
        layouts.describe(promoted, files)
        # From here on it is an archive, whatever happens: the next process to open it does the rest.
        Keeper(promoted, files, progress).close()
        _settle_orders(promoted, files)
        for path in (data / "replica.journal", data / "replica.json", *opened):
            files.unlink(str(path))
    finally:
        lock.close()
        let_go(layout)
    logger.info("promoted", data=str(data), lineage=promoted.lineage)
    return promoted


def _settle_orders(layout: Layout, files: Files) -> None:
    """Makes the registry of patients and orders whole. Images are served even if that cannot be."""
    try:
        restored = registry_copy.bring_up(layout, files)
    except OrdersError as error:
        logger.error("patients and orders cannot be used", error=for_log(error))
        return
    if restored.dropped:
        what = "the last transactions of patients and orders had not come whole"
        logger.warning(what, count=len(restored.dropped))


def write_status(path: str, status: Mapping[str, object], files: Files) -> None:
    """Replaces a status file; it need not survive a power cut."""
    replace_file(files, path, orjson.dumps(dict(status)), is_durable=False)


def read_status(path: str) -> dict[str, object] | None:
    """The content of a status file; None when there is no readable one."""
    try:
        content = orjson.loads(read_whole(Files(), path, STATUS_BYTES_MAX))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
