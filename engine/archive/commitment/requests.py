"""Requests for storage commitment that are asked for again under their Transaction UID, and their answers (PS3.18 13).

    DATA/commitments/http/<32 hex digits>.json   {"transaction": {…}, "verdicts": null | ["committed", …]}

A file is made and synced before its request is accepted; its name is a digest of the Transaction UID. It stays for
`keep_days`: its UID is known to be in use, and the answer can be fetched again. A file that cannot be read, since
its process died while it wrote it, is none: nobody was told of it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Final

import msgspec

from engine.archive.commitment.transactions import FILE_BYTES_MAX, Transaction
from engine.archive.sealing import PLAIN, Sealing, Unsealable, unseal
from engine.errors import StorageError, StorageFull
from engine.storage.files import Files, replace_file

_PURPOSE: Final = b"commitment request"
_DAY_NS: Final = 86_400 * 10**9


class CommitmentRequest(msgspec.Struct, frozen=True):
    """A request, and its answer once there is one."""

    transaction: Transaction
    verdicts: tuple[str, ...] | None = None
    """Values of `judge.Verdict`, one a reference; None: not yet."""


class CommitmentRequests:
    """The requests of one archive; any number of processes at once. Blocks."""

    def __init__(self, data: Path, files: Files, sealing: Sealing = PLAIN) -> None:
        self._sealing = sealing
        self._parent = str(data / "commitments")
        self._data = str(data)
        self._folder = f"{self._parent}/http"
        self._files = files

    def add(self, transaction: Transaction, *, count_max: int, reserve_bytes: int, keep_days: float) -> bool:
        """Keeps a request; durable when this returns. False: its Transaction UID is in use.

        Raises StorageFull, StorageFailed.
        """
        files = self._files
        for folder, above in ((self._parent, self._data), (self._folder, self._parent)):
            if not files.exists(folder):
                files.make_directory(folder)
                files.sync_directory(above)
        self._drop_old(keep_days)
        if len(files.list_directory(self._folder)) >= count_max:
            raise StorageFull(f"{count_max} storage commitment requests are kept already")
        if files.free_bytes(self._folder) < reserve_bytes:
            raise StorageFull("the free space of the disk is below its reserve")
        path = self._path(transaction.transaction_uid)
        try:
            fd = files.create(path)
        except FileExistsError:
            if self.find(transaction.transaction_uid) is not None:
                return False
            fd = files.open(path, os.O_RDWR | os.O_TRUNC)
        try:
            files.pwritev(fd, [self._encoded(CommitmentRequest(transaction))], 0)
            files.fdatasync(fd)
        finally:
            files.close(fd)
        files.sync_directory(self._folder)
        return True

    def find(self, transaction_uid: str) -> CommitmentRequest | None:
        """A request by its Transaction UID. Raises StorageError."""
        try:
            fd = self._files.open(self._path(transaction_uid), os.O_RDONLY)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"a storage commitment cannot be opened: {error.strerror}") from error
        try:
            content = unseal(_PURPOSE, self._files.pread(fd, FILE_BYTES_MAX, 0), transaction_uid.encode())
            found = msgspec.json.decode(content, type=CommitmentRequest)
        except (msgspec.DecodeError, Unsealable):
            return None
        finally:
            self._files.close(fd)
        return found if found.transaction.transaction_uid == transaction_uid else None

    def set_verdicts(self, request: CommitmentRequest, verdicts: Sequence[str]) -> CommitmentRequest:
        """The request with its answer, which is kept. Raises StorageFull, StorageFailed."""
        judged = CommitmentRequest(request.transaction, tuple(verdicts))
        replace_file(self._files, self._path(request.transaction.transaction_uid), self._encoded(judged))
        return judged

    def _encoded(self, request: CommitmentRequest) -> bytes:
        bound = request.transaction.transaction_uid.encode()
        return self._sealing.seal(_PURPOSE, msgspec.json.encode(request), bound)

    def _drop_old(self, keep_days: float) -> None:
        oldest_ns = time.time_ns() - int(keep_days * _DAY_NS)
        for name in self._files.list_directory(self._folder):
            path = f"{self._folder}/{name}"
            try:
                is_old = os.stat(path).st_mtime_ns < oldest_ns
            except OSError:
                continue  # another process was faster
            if is_old:
                self._files.unlink(path)

    def _path(self, transaction_uid: str) -> str:
        return f"{self._folder}/{blake2b(transaction_uid.encode(), digest_size=16).hexdigest()}.json"
