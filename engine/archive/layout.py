"""The files of an archive in its data directory, and the archive's identity.

    DATA/archive.json         {"format": 1, "archive_id": "<32 hex digits>", "created": "<ISO 8601>", and optionally
                               "role": "replica", "lineage": "<32 hex digits>", "slot": n}; format 2 if it has
                               ever been encrypted: a version that knows format 1 only would take its records for damage
    DATA/keys.json            the wrapped keys of an encrypted archive (see `keys.key_store`), with the flock keys.lock
    DATA/study.keys           the wrapped keys of its studies, if they have some (see `keys.study_keys`)
    DATA/keeper.lock          flock of the process that recovers and checkpoints (see `archive.keeper`)
    DATA/caretaker.lock       flock of the process that compacts or scrubs (see `archive.locks`, also for the next two)
    DATA/ledger.lock          flock of the process that deletes, or sets or releases a hold
    DATA/journals.lock        flock of the process that writes to one of the next three
    DATA/sealed               which segments were sealed (see `archive.register`)
    DATA/ledger.copy          a copy of tombstones, holds and corrections (see `archive.lifecycle.ledger_copy`)
    DATA/losses               records that are lost for good (see `archive.lifecycle.losses`)
    DATA/commitments.lock     flock of the process that sends pending storage commitment reports
    DATA/workitems.lock       flock of the process that sends events of workitems to their subscribers
    DATA/webhooks.lock        flock of the process that delivers the change feed to webhooks
    DATA/commitments/         those reports (see `archive.commitment.transactions`)
    DATA/ballast              disk space that a deletion frees when the disk is full (see `lifecycle.reserve_file`)
    DATA/control.sock         control socket of a running server
    DATA/attributes.json      the extra attributes in effect (see `archive.extras`)
    DATA/scrub.json           how far the scrub has come (see `archive.lifecycle.scrub_state`)
    DATA/accounts/            users, sessions, keys and grants: LMDB, not derived (see `engine.accounts`)
    DATA/hospital/            patients, orders, scheduled steps: a log of their own, and an LMDB that is derived from it
                              (see `engine.orders`); journal/ and journal.lock: HL7 messages (see `engine.journal`)
    DATA/audit/               the audit log (see `engine.audit.chain`)
    DATA/sources/             audit logs of the archives that this one is or was a replica of (see `engine.audit.logs`)
    DATA/feed/                the change feed: journal, state, cursors (see `archive.feed`)
    DATA/segments/*.seg       the log: the truth
    DATA/elsewhere/*.hint     segments that are in an object store only (see `archive.tiering.remote_segments`)
    DATA/elsewhere/*.groups   segments that other nodes write (see `archive.nodes.growing_segments`)
    DATA/cluster.json         the cluster that this node belongs to (see `archive.nodes.membership`)
    DATA/announced            what the other nodes know of this node's log (see `archive.nodes.announcer`)
    DATA/object-store.json    which store that is (see `archive.tiering.connection`)
    DATA/published            which segments it has; chain.json: the chain of groups that is ours there
    DATA/reads/               which studies were read on which day (see `archive.tiering.last_reads`)
    DATA/index/               LMDB, derived from the log; may be deleted while nothing runs

A replica (`archive.copies.replica`) is an archive whose log another machine writes: processes here only read it. The
lineage tells archives with one id and different histories apart: a restored archive or a promoted replica gets a new
one.

Never make a name in here from a UID, an AE title or anything else that a peer sent.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import orjson

from engine import log
from engine.archive import founding
from engine.archive.leases import FileLeases
from engine.archive.nodes.growing_segments import GrowingSegments
from engine.archive.nodes.membership import Membership, SharedLeases, read_membership
from engine.archive.sealing import Sealing
from engine.archive.tiering.remote_segments import RemoteSegments
from engine.errors import StorageError
from engine.keys.study_keys import StudyKeys
from engine.lease import Leases
from engine.storage.files import Files, replace_file
from engine.storage.keyring import DataKey
from engine.storage.segment_ids import SLOT_MAX, ListedIds, slot_of
from engine.storage.segment_log import SEGMENT_BYTES, SegmentLog
from engine.storage.segment_store import LayeredSegments, LocalSegments, SegmentStore

logger = log.get("archive.layout")

FORMAT = 1
ENCRYPTED_FORMAT = 2
DESCRIPTION_BYTES_MAX = 4096

RESTORING = "restore.json"
"""This file exists while a restore runs (`archive.copies.restore`): the folder is no archive yet."""

ARCHIVE = "archive"
REPLICA = "replica"


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one archive."""

    data: Path
    archive_id: bytes
    """16 bytes, in every segment header: tells a segment of another archive apart."""
    role: str = ARCHIVE
    """ARCHIVE or REPLICA."""
    lineage: str = ""
    """32 hex digits; "" for an archive that was never restored or promoted."""
    is_new: bool = False
    """Whether this process has just created it."""
    is_encrypted: bool = False
    """Whether it has keys: some of its records are encrypted, or were."""
    data_key: Callable[[], DataKey] | None = field(default=None, compare=False)
    """Returns the data key of new records; None: they are not encrypted."""
    study_keys: StudyKeys | None = field(default=None, compare=False)
    """The keys of studies, if it has any."""
    slot: int = 0
    """The slot of the segments that are made here (see `storage.segment_ids`)."""
    elsewhere: SegmentStore | None = field(default=None, compare=False)
    """Has sealed segments that are not on this machine; None: all are."""
    growing: SegmentStore | None = None
    """Has the segments that other nodes write; None: there are none."""
    membership: Membership | None = field(default=None, compare=False)
    """The cluster that this node belongs to; None: there is one node."""

    @property
    def own_slot(self) -> int | None:
        """The slot of the segments that this node writes; None: it writes all."""
        return None if self.membership is None else self.slot

    def writes(self, segment_id: int) -> bool:
        """Whether a segment is of this node's own log."""
        return self.membership is None or slot_of(segment_id) == self.slot

    def segment_store(self, files: Files) -> SegmentStore:
        """The log for reading: the segments of this machine, and those elsewhere."""
        store: SegmentStore = LocalSegments(self.segments, files)
        if self.elsewhere is not None:
            store = LayeredSegments(store, self.elsewhere)
        return store if self.growing is None else LayeredSegments(store, self.growing)

    def leases(self, files: Files) -> Leases:
        """Gives the rights that one process at a time may have."""
        leases = FileLeases(self.data, files)
        return leases if self.membership is None else SharedLeases(leases, self.membership)

    def segment_log(
        self,
        files: Files,
        writer: str,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        reserve_bytes: int = 0,
        prewrite_bytes: int = 0,
    ) -> SegmentLog:
        """The log for a writer that `writer` names; creates nothing yet."""
        return SegmentLog(
            self.segments,
            files,
            self.archive_id,
            writer=writer,
            segment_bytes=segment_bytes,
            reserve_bytes=reserve_bytes,
            prewrite_bytes=prewrite_bytes,
            data_key=self.data_key,
            study_keys=self.study_keys,
            ids=ListedIds(self.segment_store(files), self.slot),
        )

    @property
    def sealing(self) -> Sealing:
        """What encrypts the small files and caches."""
        return Sealing(self.data_key)

    @property
    def segments(self) -> str:
        """The folder of the log."""
        return str(self.data / "segments")

    @property
    def index(self) -> str:
        """The folder of the index."""
        return str(self.data / "index")

    @property
    def metadata(self) -> Path:
        """The folder of cached series metadata for HTTP; it may be removed at any time."""
        return self.data / "cache" / "metadata"

    @property
    def thumbnails(self) -> Path:
        """The folder of cached thumbnails; it may be removed at any time."""
        return self.data / "cache" / "thumbnails"

    @property
    def keeper_lock(self) -> str:
        """The file whose flock makes a process the keeper."""
        return str(self.data / "keeper.lock")


def control_socket(data: Path) -> Path:
    """The control socket of a running server of this data directory."""
    return data / "control.sock"


def open_layout(data: Path, files: Files, *, create: bool, joins: bool = False) -> Layout:
    """Reads archive.json, or with `create` makes a new archive in an empty or missing folder (see `archive.founding`).

    Raises StorageError when the folder holds no archive, one of another format, or other files.
    """
    description = data / "archive.json"
    is_new = False
    if not files.exists(str(description)):
        if files.exists(str(data / RESTORING)):
            raise StorageError(f"{data} holds an unfinished restore: run `filmroom restore` once more, or remove it")
        is_new = _create_description(data, description, files, create=create)
    try:
        content = orjson.loads(_read(str(description), files))
        archive_id = bytes.fromhex(content["archive_id"])
        if content["format"] not in (FORMAT, ENCRYPTED_FORMAT) or len(archive_id) != 16:
            known = f"{FORMAT} and {ENCRYPTED_FORMAT}"
            raise ValueError(f"it has format {content['format']}, this version reads the formats {known}")
        role, lineage = content.get("role", ARCHIVE), content.get("lineage", "")
        if role not in (ARCHIVE, REPLICA) or not isinstance(lineage, str):
            raise ValueError(f"it has the role {role!r}, which this version does not know")
        slot = content.get("slot", 0)
        if not isinstance(slot, int) or not 0 <= slot <= SLOT_MAX:
            raise ValueError(f"it has the slot {slot!r}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{description} cannot be used: {error}") from error
    is_encrypted = content["format"] == ENCRYPTED_FORMAT
    elsewhere = RemoteSegments(data, archive_id, files)
    membership = read_membership(data, archive_id, slot, files, joins=joins)
    growing = None if membership is None else GrowingSegments(data, files, elsewhere.bucket, elsewhere.pages)
    return Layout(
        data,
        archive_id,
        role,
        lineage,
        is_new,
        is_encrypted,
        slot=slot,
        elsewhere=elsewhere,
        growing=growing,
        membership=membership,
    )


def existing(data: Path) -> Layout:
    """The layout of an existing archive. Raises StorageError."""
    return open_layout(data, Files(), create=False)


def encrypted(layout: Layout) -> Layout:
    """The layout of an archive that has keys from now on; write it with `describe`."""
    return replace(layout, is_encrypted=True)


def describe(layout: Layout, files: Files) -> None:
    """Writes archive.json anew, durably, into an existing folder."""
    number = ENCRYPTED_FORMAT if layout.is_encrypted else FORMAT
    content: dict[str, object] = {"format": number, "archive_id": layout.archive_id.hex(), "created": _now()}
    if layout.role != ARCHIVE:
        content["role"] = layout.role
    if layout.lineage:
        content["lineage"] = layout.lineage
    if layout.slot:
        content["slot"] = layout.slot
    replace_file(files, str(layout.data / "archive.json"), orjson.dumps(content))


def new_lineage() -> str:
    """A lineage for an archive that continues from the state of another one."""
    return uuid.uuid4().hex


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write(path: str, content: bytes, files: Files) -> None:
    try:
        fd = files.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error
    try:
        files.pwritev(fd, [content], 0)
        files.fdatasync(fd)
    finally:
        files.close(fd)


def _read(path: str, files: Files) -> bytes:
    fd = files.open(path, os.O_RDONLY)
    try:
        return files.pread(fd, DESCRIPTION_BYTES_MAX, 0)
    finally:
        files.close(fd)


def make_folders(data: Path, files: Files) -> None:
    """Makes the archive's folders and their missing parents; each is durable before it is used."""
    try:
        missing = [folder for folder in data.absolute().parents if not files.exists(str(folder))]
        # Sync existing folders too: a start that was killed may have left them unsynced.
        for folder in (*reversed(missing), data, data / "segments", data / "index"):
            files.make_directory(str(folder))
            files.sync_directory(str(folder.parent))
    except StorageError as error:
        raise type(error)(f"the data directory {data} cannot be made: {error}") from error


def _create_description(data: Path, description: Path, files: Files, *, create: bool) -> bool:
    """Writes a missing archive.json. Returns whether the archive is new. Raises StorageError."""
    found_id = founding.lost_id(data, files)
    if not create:
        if found_id is not None:
            raise StorageError(
                f"{description} is missing beside the segments of archive {found_id.hex()}:"
                f" `filmroom serve --data {data}` writes it anew from them"
            )
        raise StorageError(f"{data} holds no archive: start `filmroom serve --data {data}` or import into it first")
    if found_id is None:
        founding.refuse_foreign(data, files)
    else:
        logger.warning("archive.json was missing: written anew from the segments", archive_id=found_id.hex())
    _create(data, description, files, found_id or uuid.uuid4().bytes)
    return found_id is None


def _create(data: Path, description: Path, files: Files, archive_id: bytes) -> None:
    """Makes the folders first and archive.json last, so that a half-made archive is made again."""
    make_folders(data, files)
    number = ENCRYPTED_FORMAT if files.exists(str(data / "keys.json")) else FORMAT
    content = orjson.dumps({"format": number, "archive_id": archive_id.hex(), "created": _now()})
    temporary = f"{description}.{os.getpid()}"
    _write(temporary, content, files)
    # When two processes start at once, the first rename wins and the other process uses that archive.
    try:
        files.link(temporary, str(description))
    except FileExistsError:
        pass
    files.unlink(temporary)
    files.sync_directory(str(data))
