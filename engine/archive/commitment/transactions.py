"""Pending requests for storage commitment: one file each in DATA/commitments.

    DATA/commitments/<32 hex digits>.json   {"crc32c": <of the bytes of transaction>, "transaction": {…}}: what was
                                            asked, written once, synced before anybody is told that it was taken
    DATA/commitments/<…>.tmp                one that is being written, or was when its process died
    DATA/commitments/<…>.retry              empty: somebody wants that one reported now
    DATA/commitments/state.json             attempts so far; disposable, without it all are tried at once

    asked ──claimed──► judged, reported ──► removed
      ▲                      │
      └──── not reported ────┘              removed too when nobody took the report for `[commitment] retry_days`

Each is encrypted where the archive is (`archive.sealing`).

A process must hold the flock on a transaction's file while it works on it. The flock ends with the process, so another
process can report the transactions of a killed one at once. Removals are not synced: after a power cut a report may go
out twice. Never make a file name from anything that a peer sent. `judge` finds the verdicts; `services.commitment`
sends the reports.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from engine import log
from engine.archive import layout
from engine.archive.sealing import PLAIN, Sealing, Unsealable, unseal
from engine.archive.unlocking import unlock
from engine.errors import CommitmentError, StorageError, StorageFull, for_log
from engine.storage.files import Files, replace_file
from engine.storage.record import crc32c

logger = log.get("archive.commitment")

FORMAT = 1
_PURPOSE = b"commitment"
_ATTEMPTS = b"commitment attempts"

FILE_BYTES_MAX = 64 << 20
"""A longer file is damaged: no accepted request makes one half as long."""

ABANDONED_NS = 3600 * 10**9
"""A .tmp file this old is abandoned: writing one takes milliseconds."""

_NAME = re.compile(r"([0-9a-f]{32})\.json")

Reference = tuple[str, str]
"""SOP Class UID and SOP Instance UID."""


class Transaction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One request for storage commitment."""

    transaction_uid: str
    calling_ae_title: str
    received_ns: int
    sop_class_uids: tuple[str, ...]
    """Each once."""
    instances: tuple[tuple[int, str], ...]
    """SOP Class UID, as its place in `sop_class_uids`, and SOP Instance UID; in the order of the request."""
    is_duplicate: bool = False
    """Its Transaction UID was in use for other instances (Failure Reason 0131H)."""
    format: int = FORMAT

    @classmethod
    def of(
        cls, transaction_uid: str, calling_ae_title: str, received_ns: int, references: Sequence[Reference]
    ) -> Transaction:
        """A request for these instances."""
        places: dict[str, int] = {}
        instances = tuple((places.setdefault(sop_class, len(places)), uid) for sop_class, uid in references)
        return cls(transaction_uid, calling_ae_title, received_ns, tuple(places), instances)

    def as_duplicate(self) -> Transaction:
        """The same as one whose Transaction UID was in use."""
        return msgspec.structs.replace(self, is_duplicate=True)

    @property
    def references(self) -> list[Reference]:
        """The instances, in the order of the request."""
        return [(self.sop_class_uids[place], uid) for place, uid in self.instances]

    @property
    def digest(self) -> int:
        """The same for two requests for the same instances in the same order."""
        return crc32c(msgspec.json.encode([self.sop_class_uids, self.instances]))


class _Checked(msgspec.Struct):
    crc32c: int
    transaction: msgspec.Raw


class Attempts(msgspec.Struct, forbid_unknown_fields=True):
    """How often a report has been tried, and when it is tried again."""

    count: int = 0
    due_ns: int = 0
    error: str = ""
    """Why the last attempt failed."""
    is_refused: bool = False
    """Whether the peer was reached and answered with a failure."""


@dataclass(frozen=True, slots=True)
class Heading:
    """A transaction without its instances."""

    identifier: str
    transaction_uid: str
    calling_ae_title: str
    received_ns: int
    instance_count: int
    digest: int
    is_damaged: bool = False
    """Whether its file is damaged: it cannot be reported, and stays until somebody drops it."""


class Claim:
    """The right to work on one transaction, until `close` or the end of the process."""

    def __init__(self, transactions: Transactions, identifier: str, fd: int) -> None:
        self.identifier = identifier
        self._transactions = transactions
        self._fd = fd

    def read(self) -> Transaction:
        """The request. Raises CommitmentError when the file is damaged."""
        return self._transactions.decode(self._fd, self.identifier)

    def remove(self) -> None:
        """Removes the transaction: it was reported, or given up. Raises StorageFull or StorageFailed."""
        self._transactions.unlink(self.identifier)

    def close(self) -> None:
        """Gives up the right to work on it. May be called twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._transactions.files.close(fd)

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class Transactions:
    """The transactions of one archive, as one process sees them; any number of processes at once. One thread a time."""

    def __init__(self, data: Path, files: Files, sealing: Sealing = PLAIN) -> None:
        self._sealing = sealing
        self.files = files
        self._data = data
        self.folder = str(data / "commitments")
        self._headings: dict[str, Heading] = {}
        """The headings read so far; a file never changes."""
        self._has_folder = False
        """Whether this process has synced the folder's name."""

    @classmethod
    def existing(cls, data: Path) -> Transactions:
        """The transactions of an existing archive, which other processes may have open. Raises StorageError."""
        files = Files()
        unlocked = unlock(layout.existing(data), files)
        return cls(unlocked.data, files, unlocked.sealing)

    @property
    def exist(self) -> bool:
        """Whether anybody has ever asked for storage commitment."""
        return self.files.exists(self.folder)

    # -- in ---------------------------------------------------------------------------------------

    def add(self, transaction: Transaction, *, count_max: int, reserve_bytes: int) -> Claim:
        """Stores a request durably, and claims it for this process.

        Raises StorageFull when there are too many or the disk is too full, StorageFailed when it could not be written.
        """
        self._make_folder()
        if len(self._names()) >= count_max:
            raise StorageFull(f"{count_max} storage commitment reports are waiting for their peers")
        if self._free_bytes() < reserve_bytes:
            raise StorageFull("the free space of the disk is below its reserve")
        identifier = uuid.uuid4().hex
        content = msgspec.json.encode(transaction)
        temporary = f"{self.folder}/{identifier}.tmp"
        fd = self.files.create(temporary)
        claim = Claim(self, identifier, fd)
        try:
            self.files.lock(fd)
            content = msgspec.json.encode(_Checked(crc32c(content), msgspec.Raw(content)))
            self.files.pwritev(fd, [self._sealing.seal(_PURPOSE, content, identifier.encode())], 0)
            self.files.fdatasync(fd)
            self.files.rename(temporary, self._path(identifier))
            self.files.sync_directory(self.folder)
        except StorageFull:
            claim.close()
            self.files.unlink(temporary)
            raise
        except BaseException:
            claim.close()
            raise
        return claim

    def _free_bytes(self) -> int:
        try:
            return self.files.free_bytes(self.folder)
        except OSError as error:
            raise StorageError(f"the free space of the disk is not known: {error.strerror}") from error

    def _make_folder(self) -> None:
        """Makes the folder durable. Syncs an existing one too: its maker may have died before the sync."""
        if self._has_folder and self.exist:
            return
        self.files.make_directory(self.folder)
        self.files.sync_directory(str(self._data))
        self._has_folder = True

    # -- out --------------------------------------------------------------------------------------

    def claim(self, identifier: str) -> Claim | None:
        """The right to work on a transaction; None when another process has it, or it is gone."""
        try:
            fd = self.files.open(self._path(identifier), os.O_RDWR)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"commitment {identifier} cannot be opened: {error.strerror}") from error
        if self.files.lock(fd) and self.files.is_linked(fd):
            return Claim(self, identifier, fd)
        self.files.close(fd)
        return None

    def headings(self) -> dict[str, Heading]:
        """All transactions by identifier, the oldest first. Reads each file once."""
        cached = self._headings
        headings = {name: cached[name] if name in cached else self._read_heading(name) for name in self._names()}
        ordered = sorted((heading for heading in headings.values() if heading), key=lambda each: each.received_ns)
        self._headings = {heading.identifier: heading for heading in ordered}
        return dict(self._headings)

    def _read_heading(self, identifier: str) -> Heading | None:
        try:
            fd = self.files.open(self._path(identifier), os.O_RDONLY)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"commitment {identifier} cannot be opened: {error.strerror}") from error
        try:
            transaction = self.decode(fd, identifier)
        except CommitmentError as error:
            logger.error("a storage commitment cannot be reported", commitment=identifier, reason=for_log(error))
            return Heading(identifier, "", "", 0, 0, 0, is_damaged=True)
        finally:
            self.files.close(fd)
        uid, title = transaction.transaction_uid, transaction.calling_ae_title
        return Heading(identifier, uid, title, transaction.received_ns, len(transaction.instances), transaction.digest)

    def decode(self, fd: int, identifier: str) -> Transaction:
        """The transaction in a file. Raises CommitmentError."""
        try:
            content = self.files.pread(fd, min(self.files.size(fd), FILE_BYTES_MAX), 0)
            checked = msgspec.json.decode(unseal(_PURPOSE, content, identifier.encode()), type=_Checked)
            if crc32c(bytes(checked.transaction)) != checked.crc32c:
                raise msgspec.ValidationError("wrong checksum")
            transaction = msgspec.json.decode(checked.transaction, type=Transaction)
            if transaction.format != FORMAT:
                raise msgspec.ValidationError(f"format {transaction.format}")
        except OSError as error:
            raise StorageError(f"commitment {identifier} cannot be read: {error.strerror}") from error
        except (msgspec.DecodeError, Unsealable) as error:
            raise CommitmentError(f"commitment {identifier} is damaged: {error}") from error
        return transaction

    # -- looking after ----------------------------------------------------------------------------

    def ask_retry(self, identifier: str) -> None:
        """Has a transaction reported as soon as a server looks. Raises CommitmentError when there is none."""
        if identifier not in self._names():
            raise CommitmentError(f"there is no storage commitment {identifier!r}")
        try:
            self.files.close(self.files.create(f"{self.folder}/{identifier}.retry"))
        except FileExistsError:
            pass  # asked before; no server has looked yet

    def take_retries(self) -> list[str]:
        """The transactions that `ask_retry` was called for since the last call."""
        requests = [name.removesuffix(".retry") for name in self._listed() if name.endswith(".retry")]
        for identifier in requests:
            self.files.unlink(f"{self.folder}/{identifier}.retry")
        return requests

    def sweep(self, now_ns: int) -> None:
        """Removes the temporary files of processes that died while they wrote."""
        for name in self._listed():
            path = f"{self.folder}/{name}"
            identity = self.files.identity(path) if name.endswith(".tmp") else None
            if identity is not None and identity[1] < now_ns - ABANDONED_NS:
                self.files.unlink(path)

    def drop(self, identifier: str) -> None:
        """Removes a transaction. Raises CommitmentError when there is none, or a process works on it."""
        claim = self.claim(identifier) if identifier in self._names() else None
        if claim is None:
            is_there = identifier in self._names()
            why = "is being reported" if is_there else "is not there"
            raise CommitmentError(f"the storage commitment {identifier!r} {why}")
        with claim:
            claim.remove()
            logger.warning("a storage commitment report was dropped", commitment=identifier)

    def unlink(self, identifier: str) -> None:
        """Removes a transaction's file."""
        self.files.unlink(self._path(identifier))
        self._headings.pop(identifier, None)

    def load_attempts(self) -> dict[str, Attempts]:
        """The attempts that `save_attempts` stored; empty when the file is missing or damaged."""
        path = f"{self.folder}/state.json"
        try:
            fd = self.files.open(path, os.O_RDONLY)
        except OSError:
            return {}
        try:
            content = self.files.pread(fd, min(self.files.size(fd), FILE_BYTES_MAX), 0)
            return msgspec.json.decode(unseal(_ATTEMPTS, content), type=dict[str, Attempts])
        except (OSError, msgspec.DecodeError, Unsealable) as error:
            logger.warning("attempts to report storage commitments begin anew", reason=for_log(error))
            return {}
        finally:
            self.files.close(fd)

    def save_attempts(self, attempts: dict[str, Attempts]) -> None:
        """Stores the attempts for a restart and for people; not synced. Raises StorageFull or StorageFailed."""
        content = self._sealing.seal(_ATTEMPTS, msgspec.json.encode(attempts))
        replace_file(self.files, f"{self.folder}/state.json", content, is_durable=False)

    def _names(self) -> list[str]:
        return [match[1] for name in self._listed() if (match := _NAME.fullmatch(name))]

    def _listed(self) -> list[str]:
        try:
            return self.files.list_directory(self.folder)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"{self.folder} cannot be read: {error.strerror}") from error

    def _path(self, identifier: str) -> str:
        return f"{self.folder}/{identifier}.json"
