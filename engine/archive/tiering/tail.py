"""Tail: brings records into the bucket that are in no sealed segment there yet: a chain of groups (`objects.bucket`).

    step    each segment that is not published ─► how far it is whole (`copies.extent`) ─► what is new, as groups
    start   the chain is read from the bucket: the next number, and how far each segment has come

    DATA/chain.json    {"url", "epoch", "token"}: which chain is ours

    the next group's number is taken      by our own token: our answer was lost; the group is there
                                          by another's, or by a SEAL: Fenced. Another machine continues this archive
    no note, or of another lineage        the last chain is sealed at its first free number, and a new epoch begins
    a segment is published                its groups are removed, where other nodes read them some time later

A segment that was sealed before this process saw it grow is left to the publisher. Records may be in the bucket before
the local disk has synced them: more is there then, never less.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import orjson

from engine import log
from engine.archive.copies import extent, shipped_logs
from engine.archive.copies.shipped_logs import AllLogs
from engine.archive.layout import Layout
from engine.errors import CorruptRecord, Fenced, ObjectExists, ObjectWrong, SegmentGone, StoreUnreachable, for_log
from engine.objects import bucket as buckets
from engine.objects.bucket import DATA, SEAL, Bucket, Group, Place, SegmentName
from engine.storage.files import Files, replace_file

logger = log.get("archive.tail")

FILE = "chain.json"
TOKEN_BYTES = 16
KEPT_GROUPS = 64
"""The last groups of a chain stay, published or not: a start finds the chain's end by them, also in a stale list."""
SEALED_BYTES_MAX = 64 << 20
"""The rest of a segment that was sealed while it was followed; more is left to the publisher, which comes soon."""


@dataclass(slots=True)
class _Following:
    """A segment whose groups are in the bucket."""

    end: int = 0
    places: tuple[Place, ...] = ()


class Tail:
    """The one writer of a chain; for one thread. Make it again after an error of the store at `open`."""

    def __init__(
        self,
        layout: Layout,
        files: Files,
        bucket: Bucket,
        url: str,
        *,
        group_bytes: int,
        announce: Callable[[Group], None] = lambda group: None,
        keep_s: float = 0.0,
    ) -> None:
        """`announce` is called with each group that is in the bucket, before it counts; at `open` with those that are
        there already. `keep_s`: for how long groups stay after their segment was published.
        """
        self._layout = layout
        self._files = files
        self._bucket = bucket
        self._url = url
        self._group_bytes = group_bytes
        self._announce = announce
        self._keep_s = keep_s
        self._published_s: dict[SegmentName, float] = {}
        """When a segment with groups was first seen to be published."""
        self._logs = AllLogs(layout.data, files)
        self._path = str(layout.data / FILE)
        self._token = b""
        self._before = bytes(32)
        self._following: dict[SegmentName, _Following] = {}
        self._ends: dict[SegmentName, int] = {}
        """Where whole records are known to end."""
        self._finished: set[int] = set()
        """Segments that are the publisher's, or published: they are not opened again."""
        self._pending: tuple[Group, bytes] | None = None
        """Written, perhaps: the answer was lost."""
        self.next = Place(layout.slot, 0, 0)
        self.shipped_bytes = 0
        self.lag_bytes = 0
        """What the last step found new and could not ship."""

    # -- the chain ------------------------------------------------------------------------------

    def open(self) -> None:
        """Finds the end of our chain, or begins one. Raises Fenced, StoreUnreachable, ObjectWrong."""
        places = self._bucket.places(self._layout.slot)
        note = self._read_note()
        last_epoch = max((place.epoch for place in places), default=0)
        if note is not None and note[0] >= last_epoch:
            epoch, self._token = note
        else:
            seal_chain(self._bucket, self._layout.slot, places)
            epoch, self._token = last_epoch + 1, os.urandom(TOKEN_BYTES)
            self._write_note(epoch)
        self._resume(epoch, [place for place in places if place.epoch == epoch])

    def _resume(self, epoch: int, places: list[Place]) -> None:
        self.next = Place(self._layout.slot, epoch, _after(places))
        self._before = bytes(32)
        for place in places:
            group = self._bucket.group(place)
            self._note_group(group)
            self._announce(group)

    def _note_group(self, group: Group) -> None:
        if group.kind == SEAL or group.token != self._token:
            raise Fenced("another machine continues this archive's chain in the bucket")
        self._before = buckets.digest(group.encode())
        following = self._following.setdefault(group.name, _Following())
        if group.start <= following.end:
            following.end = max(following.end, group.end)
        following.places = (*following.places, group.place)

    def _read_note(self) -> tuple[int, bytes] | None:
        try:
            with open(self._path, "rb") as file:
                content = orjson.loads(file.read(4096))
            if content["url"] != self._url or content["lineage"] != self._layout.lineage:
                return None
            token = bytes.fromhex(content["token"])
            return (int(content["epoch"]), token) if len(token) == TOKEN_BYTES else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("DATA/chain.json cannot be read: a new chain begins", error=for_log(error))
            return None

    def _write_note(self, epoch: int) -> None:
        note = {"url": self._url, "lineage": self._layout.lineage, "epoch": epoch, "token": self._token.hex()}
        replace_file(self._files, self._path, orjson.dumps(note))

    # -- shipping -------------------------------------------------------------------------------

    def step(
        self,
        published: Collection[SegmentName],
        spent: Callable[[int], None] = lambda count: None,
        ship_keys: Callable[[], None] = lambda: None,
    ) -> int:
        """Ships what is new; returns its bytes. Raises Fenced, StoreUnreachable.

        `ship_keys` is called between the look at the log and the first record: no record may come before its key.
        """
        lags = self._measure(published)  # also while the store is away: the lag grows then
        ship_keys()
        if self._pending is not None:
            self._write(*self._pending)
            lags = self._measure(published)
            ship_keys()
        count = 0
        for name, (start, end) in lags.items():
            while start < end:
                piece = self._read(name, start, min(end, start + self._group_bytes))
                if not piece:
                    break
                spent(len(piece))
                group = Group(self.next, self._layout.archive_id, self._token, name, start, piece, self._before)
                self._write(group, group.encode())
                start = group.end
                count += len(piece)
                self.lag_bytes -= len(piece)
        self._release(published)
        return count

    def reached(self, wanted: Mapping[int, int], published: Collection[SegmentName]) -> dict[int, int]:
        """Those of these ends, by segment, up to which the records are in the bucket."""
        ends = {name.segment_id: following.end for name, following in self._following.items()}
        whole = {name.segment_id for name in published} if wanted else set()
        return {each: end for each, end in wanted.items() if each in whole or end <= ends.get(each, 0)}

    def _measure(self, published: Collection[SegmentName]) -> dict[SegmentName, tuple[int, int]]:
        lags = {name: (start, end) for name, start, end in self._new(published)}
        self.lag_bytes = sum(end - start for start, end in lags.values())
        return lags

    def _new(self, published: Collection[SegmentName]) -> list[tuple[SegmentName, int, int]]:
        found = []
        present = self._logs.numbers()
        self._finished.intersection_update(present)
        for segment_id in reversed(present):  # see `shipped_logs`
            if segment_id in self._finished:
                continue
            try:
                data = self._logs.open(segment_id)
                there = extent.look(data, shipped_logs.id_of(segment_id), self._known_end(segment_id))
            except (CorruptRecord, OSError) as error:
                if not isinstance(error, SegmentGone):
                    logger.warning("a segment cannot be shipped", segment_id=segment_id, error=for_log(error))
                continue
            if there is None or there.is_empty:
                continue
            name = SegmentName(segment_id, there.salt)
            start = self._following[name].end if name in self._following else 0
            if name in published:
                self._finished.add(segment_id)
                continue
            if there.is_sealed and (name not in self._following or there.end - start > SEALED_BYTES_MAX):
                self._finished.add(segment_id)
                continue
            self._ends[name] = there.end
            if start < there.end:
                found.append((name, start, there.end))
        return found[::-1]

    def _known_end(self, segment_id: int) -> Callable[[int], int]:
        return lambda salt: self._ends.get(SegmentName(segment_id, salt), 0)

    def _read(self, name: SegmentName, start: int, end: int) -> bytes:
        try:
            data = self._logs.open(name.segment_id, salt=name.salt)
        except SegmentGone:
            return b""
        return data.read(end - start, start)

    def _write(self, group: Group, content: bytes) -> None:
        self._pending = group, content
        try:
            self._bucket.objects.create(self._bucket.group_key(group.place), content)
        except ObjectExists:
            self._check_own(group, content)
        self._announce(group)
        self._pending = None
        self._note_group(group)
        self.next = group.place._replace(number=group.place.number + 1)
        self.shipped_bytes += len(group.data)

    def _check_own(self, group: Group, content: bytes) -> None:
        """The key is taken. Returns if it is by this very group, whose answer was lost. Raises Fenced."""
        try:
            there = self._bucket.group(group.place)
        except ObjectWrong as error:
            raise Fenced(f"the bucket has something else in our place: {error}") from error
        if there.token != self._token:
            raise Fenced("another machine continues this archive's chain in the bucket")
        if there.encode() != content:
            # An older one of ours that no list has shown: the chain is read anew.
            self._pending = None
            self._following.clear()
            self.open()
            raise StoreUnreachable("the chain was longer than the store has listed")

    def _release(self, published: Collection[SegmentName]) -> None:
        """Removes the groups of segments that are in the bucket as a whole."""
        now_s = time.monotonic()
        for name in [name for name in self._following if name in published]:
            if now_s - self._published_s.setdefault(name, now_s) < self._keep_s:
                continue
            places = self._following[name].places
            going = [place for place in places if place[1:] < (self.next.epoch, self.next.number - KEPT_GROUPS)]
            self._bucket.objects.delete([self._bucket.group_key(place) for place in going])
            staying = tuple(place for place in places if place not in going)
            if staying:
                self._following[name].places = staying
            else:
                del self._following[name]
                del self._published_s[name]


def seal_chain(bucket: Bucket, slot: int, places: list[Place]) -> None:
    """Seals the last chain of a slot, so that a machine that still writes it stops. `places`: all of the slot."""
    epoch = max((place.epoch for place in places), default=0)
    if not epoch:
        return
    place = Place(slot, epoch, _after([place for place in places if place.epoch == epoch]))
    while True:
        seal = Group(place, bucket.archive_id, os.urandom(TOKEN_BYTES), SegmentName(0, 0), 0, b"", kind=SEAL)
        try:
            bucket.objects.create(bucket.group_key(place), seal.encode())
        except ObjectExists:
            if bucket.group(place).kind == SEAL:
                return
            place = place._replace(number=place.number + 1)
            continue
        logger.warning("a chain of this archive was sealed in the bucket", slot=slot, epoch=epoch)
        return


def _after(places: list[Place]) -> int:
    return places[-1].number + 1 if places else 0


def assembled(groups: Collection[Group], published: Collection[SegmentName]) -> dict[SegmentName, list[Group]]:
    """The groups that a restore needs, by segment, in the order of their data; without those that never counted.

    `groups`: of all chains. What follows the first SEAL of a chain was never acknowledged.
    """
    sealed: dict[tuple[int, int], int] = {}
    for group in groups:
        if group.kind == SEAL:
            chain = group.place[:2]
            sealed[chain] = min(sealed.get(chain, group.place.number), group.place.number)
    found: dict[SegmentName, list[Group]] = defaultdict(list)
    for group in sorted(groups, key=lambda group: group.place):
        counts = group.kind == DATA and group.place.number < sealed.get(group.place[:2], 1 << 64)
        if counts and group.name not in published:
            found[group.name].append(group)
    return {name: sorted(own, key=lambda group: (group.start, group.place)) for name, own in found.items()}
