"""Which object store an archive has: the settings in force, in DATA/object-store.json.

    {"format": 1, "settings": {…as [object_store]…}}        written by the server and by a restore; without secrets

Every process that opens the archive reads segments that are only in the bucket, so where the bucket is has to be a fact
of the archive, as that it is encrypted. A command without `--config` then works too.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from engine.errors import StorageError
from engine.objects import credentials
from engine.objects.bucket import Bucket
from engine.objects.client import ObjectClient, Objects
from engine.objects.encrypted_objects import EncryptedObjects
from engine.objects.settings import ObjectStore
from engine.storage.files import Files, replace_file

FILE = "object-store.json"
FORMAT = 1
_FILE_BYTES_MAX = 1 << 16


class _Note(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    settings: ObjectStore


def objects_of(settings: ObjectStore) -> Objects:
    """The objects of a bucket, decrypted here if it is encrypted here. Makes no request. Raises ConfigError."""
    client = ObjectClient(settings)
    if settings.encryption_key_file is None:
        return client
    return EncryptedObjects(client, credentials.secret(settings.encryption_key_file))


def bucket_of(archive_id: bytes, settings: ObjectStore) -> Bucket:
    """The archive's objects. Makes no request. Raises ConfigError."""
    return Bucket(objects_of(settings), archive_id)


def remember(data: Path, settings: ObjectStore, files: Files) -> None:
    """Notes the settings in the archive, durably, if they have changed. Raises StorageFull or StorageFailed."""
    if recorded(data, files) != settings:
        note = _Note(FORMAT, settings)
        replace_file(files, str(data / FILE), msgspec.json.encode(note, enc_hook=str))


def recorded(data: Path, files: Files) -> ObjectStore | None:
    """The settings in the archive; None: it has no store. Raises StorageError."""
    path = str(data / FILE)
    try:
        fd = files.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    try:
        content = files.pread(fd, _FILE_BYTES_MAX, 0)
        note = msgspec.json.decode(content, type=_Note, dec_hook=_to_path)
        if note.format != FORMAT:
            raise ValueError(f"it has format {note.format}, this version reads format {FORMAT}")
    except (OSError, ValueError) as error:  # msgspec's errors too
        raise StorageError(f"{path} cannot be used: {error}") from error
    finally:
        files.close(fd)
    return note.settings


def _to_path(type_: type, value: object) -> object:
    if type_ is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(f"no conversion to {type_}")
