"""The extra attributes of an archive, recorded in DATA/attributes.json so that all its processes use the same.

    {"crc32c": <of the bytes of set>, "set": {"format": 1, "number": …, "attributes": [{"tag": …, "level": …, …}, …]}}

Written to a temporary name, synced, renamed. Only the keeper may change the set: a keeper that was started with a
configuration file (a server, `filmroom reindex`) records the set that the file describes, and gives a changed set the
next number. Every other process loads the recorded set, whatever its own configuration says, so that an import with
another file stores as the server does. Without attributes.json the archive has no extra attributes.

`dicom.schema` derives the index's attributes from a set; `lifecycle.reindex` applies a new set to stored instances.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine import log
from engine.archive.layout import Layout, open_layout
from engine.dicom import extra
from engine.dicom.extra import Extra, ExtraSet
from engine.dicom.schema import Schema
from engine.errors import ArchiveInUse, StorageError, StorageFull, for_log
from engine.storage.files import Files, replace_file
from engine.storage.record import crc32c

if TYPE_CHECKING:
    from engine.config import Config

logger = log.get("archive.extras")

FORMAT = 1
FILE_BYTES_MAX = 64 << 10


class _Set(msgspec.Struct, forbid_unknown_fields=True):
    attributes: tuple[Extra, ...]
    number: int
    format: int = FORMAT


class _Checked(msgspec.Struct):
    crc32c: int
    set: msgspec.Raw


def _path(layout: Layout) -> str:
    return str(layout.data / "attributes.json")


def configured(config: Config) -> ExtraSet | None:
    """The set that a configuration describes. None: no configuration file was given. Raises ConfigError."""
    return None if config.attributes is None else extra.of(config.attributes)


def has_record(layout: Layout, files: Files) -> bool:
    """Whether a set has ever been recorded, even an empty one."""
    return files.exists(_path(layout))


def recorded(layout: Layout, files: Files) -> ExtraSet:
    """The recorded set. Raises StorageError if it cannot be read, since storing under another set would be wrong."""
    path = _path(layout)
    try:
        fd = files.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return extra.NONE
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    try:
        checked = msgspec.json.decode(files.pread(fd, FILE_BYTES_MAX, 0), type=_Checked)
        if crc32c(bytes(checked.set)) != checked.crc32c:
            raise msgspec.ValidationError("wrong checksum")
        record = msgspec.json.decode(checked.set, type=_Set)
        if record.format != FORMAT or len(record.attributes) > extra.COUNT_MAX:
            raise msgspec.ValidationError(f"format {record.format}")
    except (OSError, msgspec.DecodeError) as error:
        raise StorageError(f"{path} cannot be used ({error}): start the server with its configuration") from error
    finally:
        files.close(fd)
    return ExtraSet(record.attributes, record.number)


def schema_of(data: Path) -> Schema:
    """The schema of the archive in `data`, without opening the archive. Raises StorageError."""
    files = Files()
    return Schema(recorded(open_layout(data, files, create=False), files))


def choose(layout: Layout, files: Files, configured: ExtraSet | None) -> ExtraSet:
    """The set to use: the configured one if there is one (pass it for a keeper only), else the recorded one."""
    if configured is None:
        return recorded(layout, files)
    try:
        previous = recorded(layout, files)
    except StorageError as error:
        logger.warning("attributes.json is unreadable and written anew", reason=for_log(error))
        # Never give a number twice.
        return ExtraSet(configured.extras, time.time_ns())
    return previous if previous.extras == configured.extras else ExtraSet(configured.extras, previous.number + 1)


def settle(layout: Layout, files: Files, new_set: ExtraSet, *, is_keeper: bool) -> ExtraSet:
    """Records the new set and returns the set in force: the previous one if the disk is full.

    Raises ArchiveInUse when another process keeps the archive under another set.
    """
    previous: ExtraSet | None
    try:
        previous = recorded(layout, files)
    except StorageError:
        previous = None
    if previous == new_set:
        return new_set
    if not is_keeper:
        raise ArchiveInUse("another process uses other [[attribute]] tables: restart the server to change them")
    try:
        _record(_path(layout), new_set, files)
    except StorageFull as error:
        if previous is None:
            raise
        logger.warning("extra attributes not changed: the disk is full", error=for_log(error))
        return previous
    logger.info("extra attributes recorded", count=len(new_set.extras), number=new_set.number)
    return new_set


def _record(path: str, new_set: ExtraSet, files: Files) -> None:
    content = msgspec.json.encode(_Set(new_set.extras, new_set.number))
    replace_file(files, path, msgspec.json.encode(_Checked(crc32c(content), msgspec.Raw(content))))
