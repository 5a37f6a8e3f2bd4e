"""Awaited: ships to a replica the records for whose receipts workers wait, between the passes of a replication.

    what workers want ─► the bytes from where the replica is up to there ─► sync there ─► receipts

A worker asks when its records are durable here, so nothing counts at the replica that a power cut could take from here.
It says before, when they are written: then they are sent and synced there while the disk here is at work (`ahead`), up
to AHEAD_BYTES_MAX at once. The replica makes no note of these, and a receipt says only what is durable at both ends.
The rate limit of the replication does not hold for these bytes. Of a segment that a pass is shipping just now, and of
one whose file cannot be read, receipts are put off until the pass has ended. Of one that is in the bucket only, which
a sender of old instances waits for, the replica has what it has.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial

from engine import log
from engine.archive.copies import shipped_logs
from engine.archive.copies.ahead import Ahead, Read
from engine.archive.copies.replica import Destination, Held, Shipped
from engine.archive.copies.source import Vanished
from engine.archive.layout import Layout
from engine.archive.receipts import Desk, Kind
from engine.errors import CorruptRecord, SegmentGone, StorageError, for_log
from engine.storage.files import Files
from engine.storage.hints import read_header_or_trailer
from engine.storage.segment import FIRST_RECORD
from engine.storage.segment_bytes import FileBytes

logger = log.get("archive.replication")

PIECE_BYTES = 1 << 20
AHEAD_BYTES_MAX = 4 << 20
"""Of one segment, before others get their receipts."""


class Awaited:
    """For the thread of one replication."""

    def __init__(
        self,
        layout: Layout,
        files: Files,
        held: Callable[[], Mapping[int, Held]],
        has_come: Callable[[Shipped], None],
        join: Callable[[int, Held], None],
        send_keys: Callable[[Destination], None],
    ) -> None:
        """`held`: what the replica has, `has_come` adds to it; `join` compares the end of a segment there with ours."""
        self._layout = layout
        self._files = files
        self._held = held
        self._has_come = has_come
        self._join = join
        self._send_keys = send_keys
        self._salts: dict[int, tuple[int, int]] = {}
        """Of open segments, with the inodes of their files."""
        self._unnoted: set[int] = set()
        """Segments with bytes that are durable at the replica, and of which it has made no note."""
        self._ahead = Ahead()
        self._desk: Desk | None = None
        self._has_failed = False

    def open(self, name: str) -> None:
        """Begins to take what workers want. Where no socket can be made, only who waits has a loss."""
        if self._desk is not None or self._has_failed:
            return
        try:
            self._desk = Desk(self._layout.data, name)
        except StorageError as error:
            self._has_failed = True
            logger.error("no receipts can be given to workers", error=for_log(error))

    def close(self) -> None:
        """Ends all connections of workers."""
        desk, self._desk = self._desk, None
        if desk is not None:
            desk.close()

    def tell(self, state: Kind) -> None:
        """Tells workers whether receipts can be had."""
        if self._desk is not None:
            self._desk.tell(state)

    def forget(self) -> None:
        """The destination is opened anew: it writes what it has not noted again."""
        self._unnoted.clear()
        self._ahead.clear()

    @property
    def is_open(self) -> bool:
        """Whether workers are listened to."""
        return self._desk is not None

    def wait(self, destination: Destination | None, timeout_s: float, busy: Collection[int] = ()) -> None:
        """Serves what is wanted, if anything comes in this time. Without a destination it only listens.

        `busy`: segments of which bytes are on their way. Raises ReplicationFailed.
        """
        desk = self._desk
        if desk is None or not desk.wait(timeout_s):
            return
        wanted, coming = desk.wanted(), desk.take_coming()
        granted: dict[int, int] = {}
        if destination is not None:
            granted = self._ship(destination, {each: end for each, end in wanted.items() if each not in busy})
        desk.grant(granted)
        desk.put_off(wanted.keys() - granted.keys())
        if destination is not None and destination.takes_syncs:
            self._send_ahead(destination, {each: end for each, end in coming.items() if each not in busy})

    def take_over(self, segment_id: int, salt: int, read: Read) -> int:
        """A pass ships this segment, whose file has been synced: up to where the replica has been sent it; 0: nothing
        but what it holds. Raises ReplicationFailed."""
        sent_end = self._ahead.end(segment_id, salt)
        if sent_end:
            self._ahead.confirm(segment_id, sent_end, read)
        self._ahead.forget(segment_id)
        return sent_end

    def begin_pass(self, destination: Destination, transfers: Collection[int]) -> None:
        """Has the replica note what was shipped since, but of segments that this pass ships anyway."""
        # What was sent ahead of one is in a transfer, or stays unnoted.
        noted = sorted(each for each in self._unnoted.difference(transfers) if not self._ahead.has(each))
        held = self._held()
        # A segment that a compaction has removed since is nothing to note.
        there = [Shipped(each, held[each].salt, held[each].length, False) for each in noted if each in held]
        if there:
            destination.commit(there)
        self.noted(noted)

    def noted(self, segment_ids: Iterable[int]) -> None:
        """The replica has noted all that it has of these segments."""
        self._unnoted.difference_update(segment_ids)

    def renew(self) -> None:
        """Tries again what was put off."""
        if self._desk is not None:
            self._desk.renew()

    def _ship(self, destination: Destination, wanted: Mapping[int, int]) -> dict[int, int]:
        """Ships up to these ends; those of them that are durable there now."""
        held, granted = self._held(), {}
        shipped: list[Shipped] = []
        synced: list[Shipped] = []
        for segment_id, end in wanted.items():
            there = held.get(segment_id)
            if not shipped_logs.is_image_log(segment_id):
                continue
            try:
                if there is not None and there.length >= end and self._is_elsewhere(segment_id, there.salt):
                    granted[segment_id] = end
                    continue
                salt = self._salt(segment_id)
                if there is not None and there.length:
                    if there.salt != salt:
                        continue  # the pass removes the old one first
                    self._join(segment_id, there)
                    if there.length >= end:
                        granted[segment_id] = end
                        continue
                start = max(there.length if there is not None else 0, self._ahead.end(segment_id, salt))
                is_synced = self._ahead.is_synced(segment_id, end)
                self._ahead.confirm(segment_id, end, partial(self._read, segment_id))
                if is_synced:
                    synced.append(Shipped(segment_id, salt, end, False))
                elif start >= end or self._write(destination, segment_id, salt, start, end):
                    shipped.append(Shipped(segment_id, salt, max(start, end), False))
            except (CorruptRecord, Vanished, OSError) as error:
                logger.warning(
                    "a segment that is waited for cannot be shipped", segment=segment_id, error=for_log(error)
                )
        if shipped:
            self._send_keys(destination)
            destination.sync(shipped)
        for item in shipped:
            self._ahead.note_sync(item.segment_id)
        for item in shipped + synced:
            there = held.get(item.segment_id)
            if destination.takes_syncs and there is not None and there.length:
                self._unnoted.add(item.segment_id)
            end = wanted[item.segment_id]  # what was sent beyond may not be durable here yet
            self._has_come(item._replace(length=end))
            granted[item.segment_id] = end
        return granted

    def _send_ahead(self, destination: Destination, coming: Mapping[int, int]) -> None:
        """Brings records to the replica's disk that are perhaps not durable here yet.

        Of a segment of which it has a note: the first records of another one are noted as soon as they are synced.
        """
        held = self._held()
        sent: list[Shipped] = []
        for segment_id, end in coming.items():
            there = held.get(segment_id)
            if there is None or not there.length or there.is_sealed or not shipped_logs.is_image_log(segment_id):
                continue
            try:
                start = max(there.length, self._ahead.end(segment_id, there.salt))
                end = min(end, start + AHEAD_BYTES_MAX)
                if start >= end or self._salt(segment_id) != there.salt:
                    continue
                self._join(segment_id, there)
                if self._write(destination, segment_id, there.salt, start, end, self._ahead):
                    sent.append(Shipped(segment_id, there.salt, end, False))
            except (CorruptRecord, Vanished, OSError) as error:
                logger.warning("a segment cannot be sent ahead", segment=segment_id, error=for_log(error))
        if sent:
            self._send_keys(destination)
            destination.sync(sent)
            for item in sent:
                self._ahead.note_sync(item.segment_id)

    def _is_elsewhere(self, segment_id: int, salt: int) -> bool:
        """Whether a segment with this salt is no file here, and in an object store."""
        elsewhere = self._layout.elsewhere
        path = shipped_logs.path_of(self._layout.data, segment_id)
        if elsewhere is None or self._files.identity(path) is not None:
            return False
        try:
            elsewhere.open(segment_id, salt=salt)
        except SegmentGone:
            return False
        return True

    def _salt(self, segment_id: int) -> int:
        path = shipped_logs.path_of(self._layout.data, segment_id)
        identity = self._files.identity(path)
        if identity is None:
            raise CorruptRecord("the segment file is missing", segment_id, 0)
        known = self._salts.get(segment_id)
        if known is not None and known[0] == identity[0]:
            return known[1]
        fd = self._files.open(path, os.O_RDONLY)
        try:
            salt = read_header_or_trailer(FileBytes(self._files, fd), segment_id).salt
        finally:
            self._files.close(fd)
        if len(self._salts) > 1000:
            self._salts.clear()
        self._salts[segment_id] = identity[0], salt
        return salt

    def _read(self, segment_id: int, length: int, start: int) -> bytes:
        fd = self._files.open(shipped_logs.path_of(self._layout.data, segment_id), os.O_RDONLY)
        try:
            return self._files.pread(fd, length, start)
        finally:
            self._files.close(fd)

    def _write(
        self, destination: Destination, segment_id: int, salt: int, at: int, end: int, ahead: Ahead | None = None
    ) -> bool:
        """Sends these bytes, and notes them in `ahead`; False if there are not so many."""
        fd = self._files.open(shipped_logs.path_of(self._layout.data, segment_id), os.O_RDONLY)
        try:
            if end <= FIRST_RECORD or self._files.size(fd) < end:
                return False
            while at < end:
                data = self._files.pread(fd, min(PIECE_BYTES, end - at), at)
                if not data:
                    return False
                destination.write(segment_id, salt, at, data)
                if ahead is not None:
                    ahead.add(segment_id, salt, at, data)
                at += len(data)
            return True
        finally:
            self._files.close(fd)
