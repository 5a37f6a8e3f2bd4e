"""The format of the bucket: its keys, and what is in each object. Documented in docs/object-store.md; change nothing.

    <folder of the url>/<archive id, 32 hex digits>/
      archive.json                             {"format": 1, "archive_id", "created"}; written once
      s/<segment id>-<salt>.seg                a sealed segment, exactly its file
      h/<segment id>-<salt>.hint               its header block, footer and page checksums; written after s/
      w/<slot>/<epoch>/<number>.grp            records that are in no sealed segment of the bucket yet; create-only
      k/<UTC>.json                             {"format": 1, "archive_id", "keys", "accounts"}: wrapped keys of an
                                               encrypted archive, and who has an account; the last one counts
      y/<lineage>/<number>.keys                64 KiB of study.keys, of an archive whose studies have keys of their own;
                                               only its newest version is in the store (`versions`)
      m/<UTC>.json                             a manifest; the last one counts
      probe/…                                  checks of the store

    Segments of the logs of DATA/hospital have numbers of their own here (`archive.copies.shipped_logs`): slot FFFE is
    patients and orders, FFFF messages; the header of such a segment has the counter alone.

    ids and salts have 16 hex digits, slots 4, epochs 8, numbers of groups 12, of keys 8, lineages 32;
    <UTC> is 20261130T120000.000000Z

A segment is in the bucket when its hint is. A hint object (little endian):

    0              4096               end - 32 - 4n                end - 32
    +--------------+------------------+----------------------------+----------------------------------------------+
    | header block | footer of the    | crc32c of each page of the | "FILMPAGE", page_bytes u32, pages u32,       |
    |              | segment, trailer | segment, n x u32           | segment_bytes u64, segment_crc u32, crc u32  |
    +--------------+------------------+----------------------------+----------------------------------------------+
                                                                     crc: crc32c of table and trailer before it

A group is one step of a chain. Each chain has one writer: a slot of the archive in one epoch. Numbers have no gap, and
no number is written twice, so the writer that was taken over meets the successor's SEAL and stops:

    epoch 1    0 ─► 1 ─► 2 ─► SEAL          SEAL was written by whoever took the chain over: what follows never counts
    epoch 2    0 ─► 1 ─► …

    offset  bytes  field        little endian
    0       8      magic        "FILMGRP\\0"
    8       2      format       1
    10      2      kind         1 bytes of a segment, 2 SEAL
    12      2      slot
    14      2      zeros
    16      4      epoch
    20      4      data_crc     crc32c of the data
    24      8      number
    32      16     archive_id
    48      16     token        random, of the writer: tells its own group from another's after a lost answer
    64      8      segment_id
    72      8      salt
    80      8      start        where in the segment the data lies
    88      8      end
    96      32     before       blake2b of the group before it, whole; zeros in the first one
    128     4      crc          crc32c of the 128 bytes before
    132            data

A manifest:

    {"format": 1, "archive_id", "lineage", "created", "segments": [[id, salt, bytes, crc32c], …],
     "chains": [[slot, epoch, next number], …]}
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, NamedTuple, cast

import orjson

from engine.errors import CorruptRecord, ObjectMissing, ObjectWrong
from engine.objects.client import Head, Objects
from engine.storage import hints
from engine.storage.record import crc32c
from engine.storage.segment import FIRST_RECORD, SegmentHeader, read_segment_header
from engine.storage.segment_bytes import SegmentBytes
from engine.storage.segment_ids import id_in_log

FORMAT = 1
PAGE_BYTES = 4 << 20
"""A read of a page takes two to three times as long as one of 64 KiB, and serves the next instances too."""
HINT_BYTES_MAX = 1 << 30
MANIFEST_BYTES_MAX = 1 << 30
KEYS_BYTES_MAX = 512 << 20
GROUP_BYTES_MAX = 1 << 30
NO_LINEAGE = "0" * 32
"""For the key of an archive that was made before archives had a lineage."""

UNLISTED_MAX = 10_000
"""Groups of a chain that a list may lack: hours of them. A store that says yes to everything has no end."""

DATA, SEAL = 1, 2

_GROUP = struct.Struct("<8sHHHHIIQ16s16sQQQQ32s")
_GROUP_MAGIC = b"FILMGRP\0"
GROUP_HEADER_BYTES = _GROUP.size + 4
_PAGES = struct.Struct("<8sIIQII")
_PAGES_MAGIC = b"FILMPAGE"
_SEGMENT_KEY = re.compile(r"(?:^|/)[sh]/([0-9a-f]{16})-([0-9a-f]{16})\.(seg|hint)$")
_GROUP_KEY = re.compile(r"(?:^|/)w/([0-9a-f]{4})/([0-9a-f]{8})/([0-9]{12})\.grp$")
_STUDY_KEYS_KEY = re.compile(r"(?:^|/)y/([0-9a-f]{32})/([0-9]{8})\.keys$")
_TIMED_KEY = re.compile(r"(?:^|/)[km]/[0-9]{8}T[0-9]{6}\.[0-9]{6}Z\.json$")
_ARCHIVE_FOLDER = re.compile("[0-9a-f]{32}")
_TIME = "%Y%m%dT%H%M%S.%fZ"


class SegmentName(NamedTuple):
    """Names a segment in all histories of an archive."""

    segment_id: int
    salt: int

    def __str__(self) -> str:
        return f"{self.segment_id:016x}-{self.salt:016x}"


class Place(NamedTuple):
    """The key of a group."""

    slot: int
    epoch: int
    number: int


@dataclass(frozen=True, slots=True)
class Group:
    """A step of a chain."""

    place: Place
    archive_id: bytes
    token: bytes
    name: SegmentName
    start: int
    data: bytes
    before: bytes = bytes(32)
    kind: int = DATA

    @property
    def end(self) -> int:
        """Where its data ends in the segment."""
        return self.start + len(self.data)

    def encode(self) -> bytes:
        """The object."""
        header = _GROUP.pack(
            _GROUP_MAGIC,
            FORMAT,
            self.kind,
            self.place.slot,
            0,
            self.place.epoch,
            crc32c(self.data),
            self.place.number,
            self.archive_id,
            self.token,
            *self.name,
            self.start,
            self.end,
            self.before,
        )
        return b"".join((header, struct.pack("<I", crc32c(header)), self.data))

    @classmethod
    def decode(cls, place: Place, archive_id: bytes, content: bytes) -> Group:
        """Raises ObjectWrong unless it is whole, and of this archive and place."""
        header = content[: _GROUP.size]
        if len(content) < GROUP_HEADER_BYTES or not header.startswith(_GROUP_MAGIC):
            raise ObjectWrong(f"group {place} is none")
        if int.from_bytes(content[_GROUP.size : GROUP_HEADER_BYTES], "little") != crc32c(header):
            raise ObjectWrong(f"group {place} has a damaged header")
        (_, format_, kind, slot, _, epoch, data_crc, number, own_archive, token, segment_id, salt, start, end,
         before) = _GROUP.unpack(header)  # fmt: skip
        data = content[GROUP_HEADER_BYTES:]
        if format_ != FORMAT or kind not in (DATA, SEAL):
            raise ObjectWrong(f"group {place} has format {format_}, kind {kind}: written by another version")
        if own_archive != archive_id or (slot, epoch, number) != tuple(place):
            raise ObjectWrong(f"group {place} is of another archive or place")
        if end - start != len(data) or crc32c(data) != data_crc:
            raise ObjectWrong(f"group {place} has damaged data")
        return cls(place, archive_id, token, SegmentName(segment_id, salt), start, data, before, kind)


def digest(content: bytes) -> bytes:
    """The digest of a group, for the next one."""
    return blake2b(content, digest_size=32).digest()


class PageTable(NamedTuple):
    """The checksums of a segment's pages, and where its footer begins."""

    name: SegmentName
    segment_bytes: int
    segment_crc: int
    pages: tuple[int, ...]
    """crc32c of each PAGE_BYTES; the last page may be shorter."""
    tail: int


def read_page_table(name: SegmentName, size: int, read: Callable[[int, int], bytes]) -> PageTable:
    """The table of a hint of `size` bytes; `read` takes length and offset. Raises ObjectWrong unless it is whole."""
    end = size - _PAGES.size
    if end < FIRST_RECORD:
        raise ObjectWrong(f"the hint of {name} is too short")
    trailer = read(_PAGES.size, end)
    magic, page_bytes, count, segment_bytes, segment_crc, crc = _PAGES.unpack(trailer)
    start = end - 4 * count
    if magic != _PAGES_MAGIC or page_bytes != PAGE_BYTES or start < FIRST_RECORD:
        raise ObjectWrong(f"the hint of {name} is none, or of another version")
    table = read(4 * count, start)
    if crc != crc32c(trailer[:-4], crc32c(table)) or count != -(-segment_bytes // PAGE_BYTES):
        raise ObjectWrong(f"the hint of {name} has damaged page checksums")
    tail = segment_bytes - (start - FIRST_RECORD)
    if tail < FIRST_RECORD:
        raise ObjectWrong(f"the hint of {name} is longer than its segment")
    return PageTable(name, segment_bytes, segment_crc, struct.unpack(f"<{count}I", table), tail)


@dataclass(frozen=True, slots=True)
class Hint:
    """A sealed segment without its payloads, and the checksums of its pages."""

    name: SegmentName
    segment_bytes: int
    segment_crc: int
    pages: tuple[int, ...]
    """crc32c of each PAGE_BYTES of the segment; the last page may be shorter."""
    block: bytes
    """The header block."""
    footer: bytes

    @property
    def tail(self) -> int:
        """Where the footer begins."""
        return self.segment_bytes - len(self.footer)

    def encode(self) -> bytes:
        """The object."""
        table = struct.pack(f"<{len(self.pages)}I", *self.pages)
        fields = _PAGES.pack(_PAGES_MAGIC, PAGE_BYTES, len(self.pages), self.segment_bytes, self.segment_crc, 0)[:-4]
        crc = struct.pack("<I", crc32c(fields, crc32c(table)))
        return b"".join((self.block, self.footer, table, fields, crc))

    @classmethod
    def decode(cls, name: SegmentName, archive_id: bytes, content: bytes) -> Hint:
        """Raises ObjectWrong unless it is whole, and of this segment."""
        table = read_page_table(name, len(content), lambda length, at: content[at : at + length])
        footer = content[FIRST_RECORD : FIRST_RECORD + table.segment_bytes - table.tail]
        hint = cls(name, table.segment_bytes, table.segment_crc, table.pages, content[:FIRST_RECORD], footer)
        hint.check(archive_id)
        return hint

    def check(self, archive_id: bytes) -> None:
        """Raises ObjectWrong unless header and footer are whole, and of this segment."""
        data = cast("SegmentBytes", _Footer(self))
        try:
            header = read_segment_header(data, id_in_log(self.name.segment_id))
            heads = hints.read_heads(data, id_in_log(self.name.segment_id), opens=False)
        except CorruptRecord as error:
            raise ObjectWrong(f"the hint of {self.name}: {error}") from error
        if heads is None or heads.trailer.tail != self.tail:
            raise ObjectWrong(f"the hint of {self.name} has no whole footer")
        if header.archive_id != archive_id or (header.segment_id, header.salt) != (
            id_in_log(self.name.segment_id),
            self.name.salt,
        ):
            raise ObjectWrong(f"the hint of {self.name} is of another segment or archive")


class _Footer:
    """What `hints` reads of a segment, from its hint."""

    def __init__(self, hint: Hint) -> None:
        self._hint = hint

    def size(self) -> int:
        return self._hint.segment_bytes

    def read(self, length: int, offset: int, /) -> bytes:
        hint = self._hint
        if offset >= hint.tail:
            return hint.footer[offset - hint.tail : offset - hint.tail + length]
        return hint.block[offset : offset + length]


def read_hint(data: SegmentBytes, segment_id: int, pages: Iterable[int], segment_crc: int) -> Hint:
    """The hint of a sealed segment. Raises CorruptRecord when it is not sealed, or damaged."""
    trailer = hints.read_trailer(data, id_in_log(segment_id))
    if trailer is None:
        raise CorruptRecord("the segment is not sealed", segment_id, 0)
    size = data.size()
    block = data.read(FIRST_RECORD, 0)
    footer = data.read(size - trailer.tail, trailer.tail)
    return Hint(SegmentName(segment_id, trailer.salt), size, segment_crc, tuple(pages), block, footer)


@dataclass(frozen=True, slots=True)
class Published:
    """A segment in a manifest."""

    name: SegmentName
    bytes: int
    crc: int


class Bucket:
    """The objects of one archive in a bucket. Raises as `client`, and ObjectWrong."""

    def __init__(self, objects: Objects, archive_id: bytes) -> None:
        self.objects = objects
        self.archive_id = archive_id
        self.root = archive_id.hex()

    def segment_key(self, name: SegmentName) -> str:
        """Of a segment."""
        return f"{self.root}/s/{name}.seg"

    def hint_key(self, name: SegmentName) -> str:
        """Of its hint."""
        return f"{self.root}/h/{name}.hint"

    def group_key(self, place: Place) -> str:
        """Of a group."""
        return f"{self.root}/w/{place.slot:04x}/{place.epoch:08x}/{place.number:012d}.grp"

    def found(self, now: datetime) -> None:
        """Writes archive.json if there is none. Raises ObjectWrong if it is of another format."""
        key = f"{self.root}/archive.json"
        content = {"format": FORMAT, "archive_id": self.root, "created": now.isoformat(timespec="seconds")}
        try:
            self.read_description()
        except ObjectMissing:
            self.objects.put(key, orjson.dumps(content))

    def read_description(self) -> None:
        """Raises ObjectMissing without an archive, ObjectWrong if it has another format."""
        content = _json(self.objects.get(f"{self.root}/archive.json"), "archive.json")
        if content.get("format") != FORMAT or content.get("archive_id") != self.root:
            raise ObjectWrong(f"the bucket has format {content.get('format')!r}, this version reads format {FORMAT}")

    def hint(self, name: SegmentName) -> Hint:
        """The hint of a segment."""
        return Hint.decode(name, self.archive_id, self.objects.get(self.hint_key(name), HINT_BYTES_MAX))

    def group(self, place: Place) -> Group:
        """One group."""
        return Group.decode(place, self.archive_id, self.objects.get(self.group_key(place), GROUP_BYTES_MAX))

    def hint_names(self) -> list[SegmentName]:
        """The segments that are in the bucket, as far as it lists them."""
        return [name for name, _ in self._names("h")]

    def segment_sizes(self) -> dict[SegmentName, int]:
        """The bytes of each object in s/."""
        return dict(self._names("s"))

    def _names(self, folder: str) -> Iterator[tuple[SegmentName, int]]:
        for head in self.objects.heads(f"{self.root}/{folder}"):
            if match := _SEGMENT_KEY.search(head.key):
                yield SegmentName(int(match[1], 16), int(match[2], 16)), head.size

    def places(self, slot: int) -> list[Place]:
        """The groups of a slot in the order of their chains, also the newest ones, which a list may not show yet."""
        matches = (_GROUP_KEY.search(head.key) for head in self.objects.heads(f"{self.root}/w/{slot:04x}"))
        last: dict[int, int] = {}
        places = []
        for match in filter(None, matches):
            place = Place(int(match[1], 16), int(match[2], 16), int(match[3]))
            places.append(place)
            last[place.epoch] = max(place.number, last.get(place.epoch, 0))
        newest = max(last, default=0)
        for epoch in sorted({*last, newest + 1}):
            end = last.get(epoch, -1) + 1 + UNLISTED_MAX
            while self._is_there(place := Place(slot, epoch, last.get(epoch, -1) + 1)):
                if place.number >= end:
                    raise ObjectWrong(f"the store has every object that it is asked for, as {self.group_key(place)}")
                places.append(place)
                last[epoch] = place.number
        return sorted(places)

    def slots(self) -> list[int]:
        """The slots that have groups, ascending: one for each node that has ever shipped, as far as it lists them."""
        matches = (_GROUP_KEY.search(head.key) for head in self.objects.heads(f"{self.root}/w"))
        return sorted({int(match[1], 16) for match in filter(None, matches)})

    def _is_there(self, place: Place) -> bool:
        try:
            self.objects.head(self.group_key(place))
        except ObjectMissing:
            return False
        return True

    def write_keys(self, keys: str, accounts: str, now: datetime) -> None:
        """Adds an object to k/."""
        content = {"format": FORMAT, "archive_id": self.root, "keys": keys, "accounts": accounts}
        self.objects.put(f"{self.root}/k/{now.astimezone(UTC).strftime(_TIME)}.json", _sealed(content))

    def read_keys(self) -> tuple[str, str]:
        """The wrapped keys and the accounts; empty without any."""
        content = self._last("k", KEYS_BYTES_MAX)
        return (str(content.get("keys", "")), str(content.get("accounts", ""))) if content else ("", "")

    def study_keys_folder(self) -> str:
        """Of the pieces of study.keys, of all lineages."""
        return f"{self.root}/y"

    def study_keys_key(self, lineage: str, number: int) -> str:
        """Of a piece of study.keys."""
        return f"{self.study_keys_folder()}/{lineage or NO_LINEAGE}/{number:08d}.keys"

    def study_key_pieces(self) -> dict[str, dict[int, str]]:
        """Lineage → number → key of each piece of study.keys."""
        found: dict[str, dict[int, str]] = {}
        for head in self.objects.heads(self.study_keys_folder()):
            if match := _STUDY_KEYS_KEY.search(head.key):
                found.setdefault(match[1], {})[int(match[2])] = head.key
        return found

    def write_manifest(
        self, segments: Iterable[Published], chains: Iterable[Place], lineage: str, now: datetime
    ) -> None:
        """Adds a manifest."""
        content = {
            "format": FORMAT,
            "archive_id": self.root,
            "lineage": lineage,
            "created": now.astimezone(UTC).isoformat(timespec="microseconds"),
            "segments": [[f"{it.name.segment_id:016x}", f"{it.name.salt:016x}", it.bytes, it.crc] for it in segments],
            "chains": [list(place) for place in chains],
        }
        self.objects.put(f"{self.root}/m/{now.astimezone(UTC).strftime(_TIME)}.json", _sealed(content))

    def read_lineage(self) -> str | None:
        """The lineage of the last manifest; None without one."""
        content = self._last("m", MANIFEST_BYTES_MAX)
        return str(content.get("lineage", "")) if content else None

    def read_manifest(self) -> list[Published]:
        """The segments of the last manifest; none without one."""
        content = self._last("m", MANIFEST_BYTES_MAX)
        try:
            return [
                Published(SegmentName(int(segment_id, 16), int(salt, 16)), int(length), int(crc))
                for segment_id, salt, length, crc in content.get("segments", [])
            ]
        except (ValueError, TypeError, OverflowError) as error:
            raise ObjectWrong(f"the manifest cannot be read: {error}") from error

    def timed(self, folder: str) -> list[Head]:
        """The objects of k/ or m/, the oldest first."""
        return sorted(head for head in self.objects.heads(f"{self.root}/{folder}") if _TIMED_KEY.search(head.key))

    def _last(self, folder: str, length_max: int) -> dict[str, Any]:
        heads = self.timed(folder)
        if not heads:
            return {}
        key = heads[-1].key
        outer = _json(self.objects.get(key, length_max), key)
        content = outer.get("content")
        if not isinstance(content, dict) or outer.get("blake2b") != _hash(orjson.dumps(content)):
            raise ObjectWrong(f"{key} has a wrong checksum")
        if content.get("format") != FORMAT or content.get("archive_id") != self.root:
            raise ObjectWrong(f"{key} is of another archive or format")
        return content


def archives(objects: Objects) -> list[bytes]:
    """The ids of the archives in a bucket. Raises as `client`."""
    return [bytes.fromhex(name) for name in objects.folders() if _ARCHIVE_FOLDER.fullmatch(name)]


def header_of(hint: Hint) -> SegmentHeader:
    """The header of a segment."""
    return read_segment_header(cast("SegmentBytes", _Footer(hint)), id_in_log(hint.name.segment_id))


def _sealed(content: dict[str, object]) -> bytes:
    return orjson.dumps({"content": content, "blake2b": _hash(orjson.dumps(content))})


def _hash(data: bytes) -> str:
    return blake2b(data, digest_size=32).hexdigest()


def _json(data: bytes, key: str) -> dict[str, Any]:
    try:
        content = orjson.loads(data)
    except ValueError as error:
        raise ObjectWrong(f"{key} is no JSON") from error
    if not isinstance(content, dict):
        raise ObjectWrong(f"{key} is no object")
    return content
