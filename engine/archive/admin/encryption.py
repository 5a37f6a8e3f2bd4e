"""Encryption at rest, for administrators: making keys, their status, and encrypting what is not encrypted yet."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from engine.archive import layout as layouts
from engine.archive.archive import Archive
from engine.archive.keeper import KeeperLock
from engine.archive.lifecycle.compaction import Compactor, Encrypts, Totals
from engine.config import Compaction
from engine.errors import CorruptRecord, KeyStoreError, StorageError
from engine.keys import key_file, study_keys
from engine.keys.key_store import KeyStore
from engine.keys.study_keys import State
from engine.storage import hints
from engine.storage.encryption import key_id_of
from engine.storage.files import Files

Progress = Callable[[str, int, int], None]


def make_key_file(path: Path) -> None:
    """Makes a new key in a new file. Raises KeyStoreError."""
    key_file.make(path)


def begin(data: Path, name: str, kind: str, settings: Mapping[str, str], *, data_key_days: int) -> None:
    """Makes the keys of an archive, which encrypts its new records from then on; makes the archive if there is none.

    Raises ArchiveInUse while anything has it open, since a running process would go on writing without encryption.
    """
    files = Files()
    layout = layouts.open_layout(data, files, create=True)
    if layout.role != layouts.ARCHIVE:
        raise KeyStoreError(f"{data} is a replica: it gets the keys of its source")
    with KeeperLock(layout, files):
        store = KeyStore(data, layout.archive_id, files)
        if not store.exists:
            store.create(name, kind, settings, data_key_days=data_key_days)
        elif layout.is_encrypted:
            raise KeyStoreError(f"{data} has keys already")
        else:
            store.unlock()  # an earlier run ended here
        layouts.describe(layouts.encrypted(layout), files)
        # What they say is readable, and they are made again.
        for folder in (layout.metadata, layout.thumbnails):
            shutil.rmtree(folder, ignore_errors=True)


def open_keys(data: Path) -> KeyStore:
    """The unlocked keys of an archive. Raises KeyStoreError."""
    files = Files()
    layout = layouts.open_layout(data, files, create=False)
    if not layout.is_encrypted:
        raise KeyStoreError(f"{data} is not encrypted: `filmroom encryption init` makes its keys")
    store = KeyStore(data, layout.archive_id, files)
    store.unlock()
    return store


def status(data: Path) -> dict[str, object]:
    """What is known of an archive's encryption without its keys: wrappings, data keys, and records by key."""
    files = Files()
    layout = layouts.open_layout(data, files, create=False)
    counts = _records_by_key(layout, files)
    plain = counts.pop("", 0)
    facts: dict[str, object] = {"is_encrypted": layout.is_encrypted, "plain_records": plain}
    if not layout.is_encrypted:
        return facts
    content = KeyStore(data, layout.archive_id, files).unchecked()
    keys = [{"id": key.id, "made": key.made, "records": counts.pop(key.id, 0)} for key in content.data_keys]
    wrappings = [
        {"name": each.name, "kind": each.kind, "made": each.made, "settings": dict(each.settings)}
        for each in content.wrappings
    ]
    return facts | {
        "study_keys": _study_keys(layout, files, counts),
        "encrypts_new_records": content.is_encrypting,
        "data_key_days": content.data_key_days,
        "wrappings": wrappings,
        "data_keys": keys,
        "records_without_key": sum(counts.values()),
    }


def _study_keys(layout: layouts.Layout, files: Files, counts: dict[str, int]) -> dict[str, int] | None:
    """How many studies have keys, and how many records these encrypt, which are taken from `counts`."""
    path = layout.data / study_keys.FILE
    if not files.exists(str(path)):
        return None
    try:
        states = study_keys.states_in(path, layout.archive_id, files)
    except OSError as error:
        raise KeyStoreError(f"{path} cannot be read: {error.strerror}") from error
    records = {key_id: counts.pop(key_id) for key_id in list(counts) if key_id in states}
    shredded = {key_id for key_id, state in states.items() if state == State.DESTROYED}
    return {
        "keys": sum(state in (State.ASSIGNED, State.RETIRED) for state in states.values()),
        "destroyed_keys": len(shredded),
        "records": sum(count for key_id, count in records.items() if key_id not in shredded),
        "shredded_records": sum(count for key_id, count in records.items() if key_id in shredded),
    }


def _records_by_key(layout: layouts.Layout, files: Files) -> dict[str, int]:
    """Records of sealed segments by the id of their key, in hex digits; "" for those without encryption."""
    counts: dict[str, int] = {}
    store = layout.segment_store(files)
    for segment_id in store.segment_ids():
        try:
            summary = hints.read_summary(store.open(segment_id), segment_id, opens=False)
        except (CorruptRecord, StorageError):
            continue
        for record in summary.records if summary is not None else ():
            key_id = key_id_of(record).hex()
            counts[key_id] = counts.get(key_id, 0) + 1
    return counts


def encrypt(
    archive: Archive, options: Compaction, *, segment_bytes: int, old_keys: bool, progress: Progress | None = None
) -> Totals:
    """Copies all records that are not encrypted, or not by the newest data key, so that they are. Blocks."""
    layout = archive.parts.layout
    if layout.data_key is None:
        raise KeyStoreError(f"{layout.data} does not encrypt new records: `filmroom encryption init` makes its keys")
    encrypts = Encrypts.OLD_KEYS if old_keys else Encrypts.PLAIN
    compactor = Compactor(archive, options, segment_bytes=segment_bytes, everything=True, encrypts=encrypts)
    return compactor.run(progress)
