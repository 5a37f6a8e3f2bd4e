"""The manifests of a backup: each names, range by range, the bytes of one state of the archive.

    DEST/backup.json                     {"format": 1, "archive_id": "<32 hex digits>"}
    DEST/manifests/<UTC time>.json       {"manifest": {…}, "blake2b": "<of the manifest as it is written here>"}
    DEST/segments/<id>-<salt>-<n>.seg    a prefix of a segment; grows, is never changed, several manifests share it
    DEST/hospital/state/, journal/       the same of the logs of DATA/hospital: patients and orders, and messages
    DEST/progress                        ["history", name] and ranges of it that are in a file and in no manifest yet
    DEST/lock                            flock of whoever writes

    manifest    {"format": 1, "archive_id", "lineage", of a replica "role": "replica", "created": "<ISO 8601>",
                 "segments": [segment, …], of an encrypted archive "keys": its keys.json, with accounts
                 "accounts": as `accounts.dump` has them, of an archive with DATA/hospital
                 "logs": {"hospital/state": [segment, …], "hospital/journal": [segment, …]}}; whose state it is stands
                 in its first bytes, where a heading is read. Older versions ignore what they do not know
    segment     {"id", "salt", "copy": n, "length", "sealed", "source": [inode, mtime_ns], "ranges": [range, …]}
    range       [start, end, "<blake2b, 32 bytes, of these bytes>"]; the first starts at 0, each where the last ended

A state has everything that was acknowledged before `created`. id and salt together name a segment, since an id alone
may come again. n counts copies that had to begin anew because the source, restored meanwhile, has other bytes. Make
file names from these three numbers only, never from text in a manifest. Thanks to `source` a backup need not open
sealed segments that have not changed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from engine.archive.layout import ARCHIVE, REPLICA, Layout
from engine.audit.chain import make_private
from engine.errors import BackupError
from engine.storage.files import Files, replace_file

FORMAT = 1
DIGEST_BYTES = 32
MANIFEST_BYTES_MAX = 1 << 30
"""The longest manifest that is read: ten million ranges."""
DESCRIPTION_BYTES_MAX = 4096

HEADING_BYTES = 512

IMAGES = "segments"
"""The archive's own log. Each log has a folder of this name in DATA, and one in DEST."""
STATE = "hospital/state"
MESSAGES = "hospital/journal"
HOSPITAL = (MESSAGES, STATE)
"""In the order in which a copy looks at them, before the archive's own log: what a message did is noted after the
registry and the studies have it, so the copy of a note never lacks its effect."""

_HEADING = re.compile(
    rb'\{"manifest":\{"format":1,"archive_id":"([0-9a-f]{32})","lineage":"([0-9a-f]{32}|)"'
    rb'(?:,"role":"([a-z]+)")?,"created":"'
)
_NAME = re.compile(r"(\d{8}T\d{6}\.\d{6})Z\.json")
_NAME_TIME = "%Y%m%dT%H%M%S.%f"

Range = tuple[int, int, str]
"""Start, end, and the hex digits of the hash."""


@dataclass(frozen=True, slots=True)
class SegmentCopy:
    """One segment in a manifest."""

    segment_id: int
    salt: int
    copy: int
    is_sealed: bool
    source: tuple[int, int]
    """Inode and modification time of the segment file, as it was copied."""
    ranges: tuple[Range, ...]
    log: str = IMAGES

    @property
    def length(self) -> int:
        """How much of the segment there is."""
        return self.ranges[-1][1] if self.ranges else 0

    @property
    def file_name(self) -> str:
        """The name of its file in DEST/segments; of another log, the path in DEST."""
        name = f"{self.segment_id:016x}-{self.salt:016x}-{self.copy}.seg"
        return name if self.log == IMAGES else f"{self.log}/{name}"

    def encode(self) -> dict[str, object]:
        """The segment as JSON values, as drawn at the head of this module."""
        return {
            "id": f"{self.segment_id:016x}",
            "salt": f"{self.salt:016x}",
            "copy": self.copy,
            "length": self.length,
            "sealed": self.is_sealed,
            "source": list(self.source),
            "ranges": [list(item) for item in self.ranges],
        }

    @classmethod
    def decode(cls, value: dict[str, Any], log: str = IMAGES) -> SegmentCopy:
        """Raises ValueError, KeyError or TypeError."""
        ranges: list[Range] = []
        at = 0
        for start, end, digest in value["ranges"]:
            if start != at or not start < end or len(bytes.fromhex(digest)) != DIGEST_BYTES:
                raise ValueError(f"segment {value['id']}: the ranges do not follow one another")
            ranges.append((start, end, digest))
            at = end
        inode, mtime_ns = value["source"]
        copy = cls(
            _number(value["id"]),
            _number(value["salt"]),
            _count(value["copy"]),
            bool(value["sealed"]),
            (int(inode), int(mtime_ns)),
            tuple(ranges),
            log,
        )
        if copy.length != value["length"]:
            raise ValueError(f"segment {value['id']}: the ranges end at {copy.length}, not at {value['length']}")
        return copy


def _number(text: str) -> int:
    """Of 16 hex digits; nothing else may become part of a name."""
    if not re.fullmatch("[0-9a-f]{16}", text):
        raise ValueError(f"{text!r} is no id")
    return int(text, 16)


def _count(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value < 1 << 32:
        raise ValueError(f"{value!r} is no count")
    return value


class Heading(NamedTuple):
    """The history and time of a manifest, without its segments."""

    name: str
    history: str
    created: datetime


def history_of(lineage: str, role: str) -> str:
    """The name of a history (see `copies.histories`)."""
    return ("replica:" if role == REPLICA else "") + (lineage or "original")


def time_of(name: str) -> datetime:
    """The time of a state, from the file name of its manifest."""
    return datetime.strptime(name.removesuffix("Z.json"), _NAME_TIME).replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Manifest:
    """One state of an archive."""

    archive_id: bytes
    lineage: str
    created: datetime
    segments: tuple[SegmentCopy, ...]
    role: str = ARCHIVE
    keys: str = ""
    """The wrapped keys of an encrypted archive, the content of its keys.json."""
    accounts: str = ""
    """Users, keys, grants and shares (`accounts.dump`); "": there are none."""
    hospital: tuple[SegmentCopy, ...] = ()
    """Of the logs of DATA/hospital."""

    @property
    def history(self) -> str:
        """Its name."""
        return history_of(self.lineage, self.role)

    @property
    def file_name(self) -> str:
        """Of the manifest, in DEST/manifests."""
        return f"{self.created.astimezone(UTC).strftime(_NAME_TIME)}Z.json"

    @property
    def total_bytes(self) -> int:
        """Of all segments."""
        return sum(segment.length for segment in self.copies)

    @property
    def copies(self) -> tuple[SegmentCopy, ...]:
        """The segments of all logs."""
        return self.segments + self.hospital

    def encode(self) -> bytes:
        """The content of the manifest file, as drawn at the head of this module."""
        body = {
            "format": FORMAT,
            "archive_id": self.archive_id.hex(),
            "lineage": self.lineage,
            **({"role": self.role} if self.role != ARCHIVE else {}),
            "created": self.created.astimezone(UTC).isoformat(timespec="microseconds"),
            "segments": [segment.encode() for segment in self.segments],
            **({"keys": self.keys} if self.keys else {}),
            **({"accounts": self.accounts} if self.accounts else {}),
            **({"logs": self._logs()} if self.hospital else {}),
        }
        return orjson.dumps({"manifest": body, "blake2b": _digest(orjson.dumps(body))})

    def _logs(self) -> dict[str, list[dict[str, object]]]:
        return {log: [copy.encode() for copy in self.hospital if copy.log == log] for log in HOSPITAL}

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """Raises BackupError for anything that is not whole."""
        try:
            outer = orjson.loads(data)
            body = outer["manifest"]
            if _digest(orjson.dumps(body)) != outer["blake2b"]:
                raise ValueError("wrong checksum")
            if body["format"] != FORMAT:
                raise ValueError(f"it has format {body['format']}, this version reads format {FORMAT}")
            manifest = cls(
                bytes.fromhex(body["archive_id"]),
                str(body["lineage"]),
                datetime.fromisoformat(body["created"]),
                tuple(SegmentCopy.decode(segment) for segment in body["segments"]),
                str(body.get("role", ARCHIVE)),
                str(body.get("keys", "")),
                str(body.get("accounts", "")),
                tuple(_hospital(body.get("logs", {}))),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BackupError(f"no whole manifest: {error}") from error
        if manifest.created.tzinfo is None:
            raise BackupError("no whole manifest: its time has no zone")
        return manifest


def _hospital(logs: dict[str, list[dict[str, Any]]]) -> Iterator[SegmentCopy]:
    """Raises ValueError, KeyError, TypeError or AttributeError."""
    for log, segments in logs.items():
        if log not in HOSPITAL:
            raise ValueError(f"it has the log {log!r}, which this version does not know")
        for segment in segments:
            yield SegmentCopy.decode(segment, log)


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


class BackupFolder:
    """DEST and its contents. Only `prepare` and `write` create files."""

    def __init__(self, path: Path, files: Files) -> None:
        self.path = path
        self.files = files
        self.segments = str(path / "segments")
        self.manifests = str(path / "manifests")
        self.progress = str(path / "progress")
        self._description = str(path / "backup.json")

    def archive_id(self) -> bytes:
        """The id of the archive. Raises BackupError when this is no backup."""
        try:
            content = orjson.loads(read_whole(self.files, self._description, DESCRIPTION_BYTES_MAX))
            archive_id = bytes.fromhex(content["archive_id"])
            if content["format"] != FORMAT or len(archive_id) != 16:
                raise ValueError(f"it has format {content['format']}, this version reads format {FORMAT}")
        except FileNotFoundError as error:
            raise BackupError(f"{self.path} holds no backup") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BackupError(f"{self._description} cannot be used: {error}") from error
        return archive_id

    def prepare(self, layout: Layout) -> None:
        """Makes a missing or empty DEST. Raises BackupError when it is not for backups of this archive."""
        path, data = self.path.resolve(), layout.data.resolve()
        if path.is_relative_to(data):
            raise BackupError(f"{self.path} lies in the data directory: what destroys that destroys the backup too")
        files = self.files
        if files.exists(self._description):
            if self.archive_id() != layout.archive_id:
                raise BackupError(f"{self.path} holds the backup of another archive")
            return
        if not files.exists(str(self.path.absolute().parent)):
            raise BackupError(f"{self.path.absolute().parent} does not exist; is the disk mounted?")
        if files.exists(str(self.path)):
            others = set(files.list_directory(str(self.path))) - {"segments", "manifests", "lost+found", "lock"}
            others = {name for name in others if not name.startswith("backup.json.")}
            if others:
                raise BackupError(f"{self.path} is not empty and holds no backup")
        for folder in (str(self.path), self.segments, self.manifests):
            files.make_directory(folder)
        files.sync_directory(str(self.path.absolute().parent))
        replace_file(files, self._description, orjson.dumps({"format": FORMAT, "archive_id": layout.archive_id.hex()}))

    def names(self) -> list[str]:
        """The names of all manifests, the oldest first."""
        try:
            names = self.files.list_directory(self.manifests)
        except OSError as error:
            raise BackupError(f"{self.manifests} cannot be read: {error.strerror}") from error
        return sorted(name for name in names if _NAME.fullmatch(name))

    def read(self, name: str) -> Manifest:
        """One manifest. Raises BackupError."""
        try:
            manifest = Manifest.decode(read_whole(self.files, f"{self.manifests}/{name}", MANIFEST_BYTES_MAX))
        except OSError as error:
            raise BackupError(f"manifest {name} cannot be read: {error.strerror}") from error
        except BackupError as error:
            raise BackupError(f"manifest {name}: {error}") from error
        if manifest.file_name != name:
            raise BackupError(f"manifest {name} says that it is {manifest.file_name}")
        return manifest

    def heading(self, name: str) -> Heading:
        """Of one manifest, by its first bytes where they are as `Manifest.encode` has them. Raises BackupError."""
        try:
            fd = self.files.open(f"{self.manifests}/{name}", os.O_RDONLY | os.O_NONBLOCK)
            try:
                start = self.files.pread(fd, HEADING_BYTES, 0)
            finally:
                self.files.close(fd)
        except OSError as error:
            raise BackupError(f"manifest {name} cannot be read: {error.strerror}") from error
        match = _HEADING.match(start)
        if match is None:
            manifest = self.read(name)
            return Heading(name, manifest.history, manifest.created)
        return Heading(name, history_of(match[2].decode(), (match[3] or ARCHIVE.encode()).decode()), time_of(name))

    def write(self, manifest: Manifest) -> None:
        """Writes a manifest durably. Make the ranges that it names durable first."""
        replace_file(self.files, f"{self.manifests}/{manifest.file_name}", manifest.encode())

    def moment(self, now: datetime) -> datetime:
        """A time for a new manifest: now, but later than every other one."""
        names = self.names()
        if names:
            now = max(now, time_of(names[-1]) + timedelta(microseconds=1))
        return now

    def segment(self, copy: SegmentCopy) -> str:
        """Where a segment's copy lies."""
        return f"{self.segments if copy.log == IMAGES else self.path}/{copy.file_name}"

    def files_of(self, log: str) -> list[str]:
        """The segment files of a log, as `SegmentCopy.file_name` has them."""
        folder = str(self.path / log)
        names = self.files.list_directory(folder) if self.files.exists(folder) else []
        return [name if log == IMAGES else f"{log}/{name}" for name in names if name.endswith(".seg")]

    def size(self, copy: SegmentCopy) -> int:
        """How long that file is; -1 if it is not there."""
        try:
            fd = self.files.open(self.segment(copy), os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            return -1
        try:
            return self.files.size(fd)
        finally:
            self.files.close(fd)


def make_log(root: Path, log: str, files: Files) -> None:
    """Makes the folder of a log of DATA/hospital, for its owner only, durably."""
    folder = root
    for name in log.split("/"):
        folder = folder / name
        make_private(folder, files)


def read_whole(files: Files, path: str, length_max: int) -> bytes:
    """A small file. Raises OSError, ValueError when it is longer than that."""
    fd = files.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        size = files.size(fd)
        if size > length_max:
            raise ValueError(f"{size} bytes, more than the {length_max} that it may have")
        return files.pread(fd, size, 0)
    finally:
        files.close(fd)
