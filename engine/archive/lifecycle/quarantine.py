"""Quarantine: versions kept aside, and bytes that could not be stored as instances.

    kind           origin                                          readmit                        drop
    version        other bytes under a known SOP Instance UID      becomes the current one; the   compaction frees
                   (`ingest.writer`)                               previous one is kept aside     its space
    unparseable    a C-STORE that was refused                      tried again, under the UIDs    the same
                   (`ingest.unparseable`)                          of the data set itself

`resent` retires versions with the same content as another one; `difference` compares the others. An unparseable data
set is "incomplete" if it only lacks a UID. Refused bytes of a peer are kept, since the peer may delete them; those of
an import are not, since the file stays where it is.

An id names one record wherever it lies: its stamp and a checksum of its UID. Nothing here shows the values of a data
set: no name, no patient. A readmitted instance is a new record with the same bytes; the old one gets a tombstone. Works
on a stopped archive and beside a running server. An item that may belong to a study on legal hold is not dropped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from engine import log
from engine.access.principal import Principal
from engine.archive import completeness
from engine.archive.ingest.request import ReceivedInstance
from engine.archive.interchange import private_files
from engine.archive.lifecycle import deletion, resent
from engine.dicom import part10
from engine.errors import CorruptRecord, DataSetError, DeletionRefused, EngineError, ExportFailed, QuarantineError
from engine.index.format.entry import POLICY_KEEP_BOTH, Entry, Quarantined
from engine.index.format.types import Instance, Level, Outcome
from engine.storage.record import Kind, crc32c
from engine.titles import title_of

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.archive.ingest.writer import Writer
    from engine.archive.lifecycle.resent import Judge

logger = log.get("archive.quarantine")

KEPT_ASIDE: Final = "version"
UNPARSEABLE: Final = "unparseable"
INCOMPLETE: Final = "incomplete"
"""The kind of unparseable bytes that can be read, but lack a UID that every instance has."""

WHOLE_BYTES_MAX: Final = 8 << 20
"""A data set up to this length is read whole; longer ones are read in pieces of this length."""

_UID: Final = re.compile(r"[0-9]+(\.[0-9]+)+")
_ASIDE_REASON: Final = "another instance of this SOP Instance UID is current"


@dataclass(frozen=True, slots=True)
class QuarantineItem:
    """One record in quarantine."""

    kind: str
    """KEPT_ASIDE, UNPARSEABLE or INCOMPLETE."""
    reason: str
    instance: Instance
    """For unparseable bytes, with the UIDs that the sender claimed, and without a study."""

    @property
    def id(self) -> str:
        """The identifier for `export`, `readmit` and `drop`."""
        return f"{self.instance.stamp:016x}{crc32c(self.instance.sop_instance_uid.encode()):08x}"

    def facts(self) -> dict[str, object]:
        """The facts that may be shown."""
        instance = self.instance
        return {
            "id": self.id,
            "kind": self.kind,
            "received_ns": instance.received_ns,
            "calling_ae_title": instance.calling_ae_title,
            "bytes": instance.position.payload_length,
            "sop_instance_uid": instance.sop_instance_uid,
            "transfer_syntax_uid": instance.transfer_syntax_uid,
            "reason": self.reason,
        }


def list_all(archive: Archive) -> Iterator[QuarantineItem]:
    """All items: versions kept aside, then unparseable bytes, each in the index's order."""
    for version in archive.parts.index.kept_versions():
        yield QuarantineItem(KEPT_ASIDE, _ASIDE_REASON, version)
    for row in archive.parts.index.quarantined():
        reason = row.reason.decode("utf-8", "replace")
        yield QuarantineItem(kind_of(reason), reason, _instance_of(row))


def kind_of(reason: str) -> str:
    """The kind of bytes that could not be stored, from the recorded reason."""
    return INCOMPLETE if reason.endswith("is missing or empty") else UNPARSEABLE


def find(archive: Archive, identifier: str) -> QuarantineItem:
    """The item with this id. Raises QuarantineError."""
    prefix = identifier.strip().lower()
    for item in list_all(archive):
        if item.id == prefix:
            return item
    raise QuarantineError("nothing in quarantine has this id; `filmroom quarantine list` shows what there is")


def export(archive: Archive, item: QuarantineItem, folder: Path) -> Path:
    """Writes an item to `folder`: a Part 10 file ID.dcm, or ID.raw if the claimed UIDs make no file meta information.

    Raises CorruptRecord, ExportFailed.
    """
    instance = item.instance
    uids = (instance.sop_class_uid, instance.sop_instance_uid, instance.transfer_syntax_uid)
    has_meta = all(len(uid) <= 64 and _UID.fullmatch(uid) for uid in uids)
    path = folder / f"{item.id}.{'dcm' if has_meta else 'raw'}"

    def pieces() -> Iterator[bytes | memoryview]:
        if has_meta:
            yield part10.write_file_meta(*uids, source_ae_title=title_of(instance.calling_ae_title))
        yield from archive.pieces(instance)

    try:
        private_files.make_folder(folder)
        if os.path.lexists(path) and private_files.holds(path, pieces()):
            return path
        with private_files.new_file(path) as file:
            for piece in pieces():
                file.write(piece)
    except FileExistsError as error:
        raise ExportFailed(f"{error.filename} exists already, with other bytes") from error
    except OSError as error:
        raise ExportFailed(f"{error.filename or path} cannot be written: {error.strerror or error}") from error
    return path


def readmit(archive: Archive, identifier: str, *, policy: str, actor: Principal) -> Outcome:
    """Moves an item from quarantine into the archive; durable and visible when it returns.

    A version kept aside becomes the current one. Unparseable bytes are tried again; `policy` decides if their UID is
    stored by now. Raises QuarantineError, InstanceRefused (they stay in quarantine), CorruptRecord, StorageFull.
    """
    item = find(archive, identifier)
    if item.kind == KEPT_ASIDE:
        outcome = _readmit_version(archive, item, actor)
    else:
        outcome = _try_again(archive, item.instance, policy)
        with archive.parts.ledger.locked():
            _write_tombstone(archive, item, actor, f"readmitted: {outcome.name.lower()}")
    logger.info(
        "readmitted from quarantine",
        sop_instance_uid=item.instance.sop_instance_uid,
        kind=item.kind,
        outcome=outcome.name.lower(),
        by=actor.actor,
    )
    return outcome


def drop(archive: Archive, identifier: str, *, actor: Principal, reason: str) -> QuarantineItem:
    """Deletes an item, durably. Raises QuarantineError, DeletionRefused (its study is on legal hold), StorageFull."""

    def work() -> QuarantineItem:
        with archive.parts.ledger.locked():
            item = find(archive, identifier)
            held_uids = held_studies(archive, [item])
            if held_uids:
                raise DeletionRefused(f"the study {held_uids[0]} is on legal hold; nothing was dropped", held_uids)
            _write_tombstone(archive, item, actor, reason)
            return item

    item = archive.parts.ledger.with_reserve(work)
    logger.info(
        "dropped from quarantine", sop_instance_uid=item.instance.sop_instance_uid, kind=item.kind, by=actor.actor
    )
    return item


def select(
    archive: Archive, sop_instance_uids: Container[str] | None, *, same: bool, judge: Judge
) -> Iterator[QuarantineItem]:
    """The items with these SOP Instance UIDs (None: any); with `same`, versions with the content of another one."""
    for item in list_all(archive):
        if sop_instance_uids is not None and item.instance.sop_instance_uid not in sop_instance_uids:
            continue
        if not same or (item.kind == KEPT_ASIDE and _is_same_as_another(archive, item, judge)):
            yield item


def drop_all(
    archive: Archive, items: Sequence[QuarantineItem], *, actor: Principal, reason: str
) -> list[QuarantineItem]:
    """Deletes those of these items that still exist, durably, all or nothing. Raises DeletionRefused, StorageFull."""
    ids = {item.id for item in items}

    def work() -> list[QuarantineItem]:
        with archive.parts.ledger.locked():
            remaining = [item for item in list_all(archive) if item.id in ids]
            held_uids = held_studies(archive, remaining)
            if held_uids:
                raise DeletionRefused(f"the study {held_uids[0]} is on legal hold; nothing was dropped", held_uids)
            drops = [
                deletion.Drop(item.instance.sop_instance_uid.encode(), item.instance.stamp, reason)
                for item in remaining
            ]
            deletion.write_drops(archive.parts, drops, actor=actor)
            return remaining

    dropped = archive.parts.ledger.with_reserve(work)
    logger.info("dropped from quarantine", count=len(dropped), by=actor.actor)
    return dropped


def held_studies(archive: Archive, items: Iterable[QuarantineItem]) -> list[str]:
    """The studies on legal hold that these items may belong to."""
    studies = {uid for item in items for uid in _studies_of(archive, item)}
    return sorted(uid for uid in studies if archive.parts.index.is_held(uid.encode()))


def _is_same_as_another(archive: Archive, item: QuarantineItem, judge: Judge) -> bool:
    for other in resent.others_of(archive, item.instance):
        try:
            if judge.is_same(item.instance, other):
                return True
        except CorruptRecord:
            pass  # it has been noted as damaged
    return False


# Inside ------------------------------------------------------------------------------------------


def _instance_of(row: Quarantined) -> Instance:
    """An unparseable item in the form that `retrieve` and `export` need."""
    return Instance(
        row.position,
        row.stamp,
        row.sop_class_uid.decode("utf-8", "replace"),
        row.sop_instance_uid.decode("utf-8", "replace"),
        row.transfer_syntax_uid.decode("utf-8", "replace"),
        "",
        "",
        -1,
        row.calling_ae_title.decode("utf-8", "replace"),
        row.received_ns,
        b"",
        b"",
    )


def _write_tombstone(archive: Archive, item: QuarantineItem, actor: Principal, reason: str) -> None:
    """Writes a tombstone for this one record. Call it while the ledger is locked."""
    instance = item.instance
    uid, stamp = instance.sop_instance_uid.encode(), instance.stamp
    deletion.write_tombstones(
        archive.parts, [(uid, [uid])], Level.IMAGE, after=stamp, actor=actor, reason=reason, target_stamp=stamp
    )


def _studies_of(archive: Archive, item: QuarantineItem) -> set[str]:
    """The studies of an item: its own, that of the instance whose UID it claims, and the one in its data set."""
    instance = item.instance
    studies = {instance.study_instance_uid}
    current = archive.parts.index.locate(instance.sop_instance_uid.encode())
    if current is not None:
        studies.add(current.study_instance_uid)
    if item.kind != KEPT_ASIDE:
        try:
            head = completeness.head_of(archive.parts.reader, instance)
            studies.add(head.study_instance_uid.decode("utf-8", "replace"))
        except (CorruptRecord, DataSetError):
            pass  # unreadable: it names no study
    return studies - {""}


def _readmit_version(archive: Archive, item: QuarantineItem, actor: Principal) -> Outcome:
    """Stores the version's bytes once more as the current instance, then deletes the copy that was kept aside."""

    def work() -> Outcome:
        with archive.parts.ledger.locked():
            version = find(archive, item.id).instance
            entry = Entry.unpack(archive.parts.reader.read_record(version.position))
            writer = archive.parts.ledger.writer()
            versions = archive.parts.index.versions(entry.sop_instance_uid)
            entry.stamp = writer.next_stamp(max(row.stamp for row in versions))
            entry.flags = POLICY_KEEP_BOTH
            _copy(archive, writer, entry, version)
            outcome = writer.apply([entry])[0]
            writer.seal_rolled()
            _write_tombstone(archive, item, actor, "readmitted")
            return outcome

    return archive.parts.ledger.with_reserve(work)


def _copy(archive: Archive, writer: Writer, entry: Entry, version: Instance) -> None:
    """Appends the entry with the bytes of `version`, and makes it durable."""
    length, crc = version.position.payload_length, version.position.payload_crc
    meta = entry.pack_meta()
    if length <= WHOLE_BYTES_MAX:
        payload = archive.read(version)
        entry.position = writer.log.append(
            Kind.INSTANCE, entry.flags, entry.stamp, entry.sop_instance_uid, meta, [payload], length, crc
        )
        writer.log.sync()
        return
    appender = writer.log.begin_stream(Kind.INSTANCE, entry.flags, entry.stamp, entry.sop_instance_uid, len(meta))
    try:
        for piece in archive.pieces(version):
            appender.write([piece], len(piece))
        entry.position = appender.finish(meta, crc)
    except BaseException:
        appender.abort()
        raise


def _try_again(archive: Archive, instance: Instance, policy: str) -> Outcome:
    """Stores unparseable bytes like a new arrival. Raises the reason of a refusal."""
    if instance.position.payload_length > WHOLE_BYTES_MAX:
        return archive.ingest_stream(
            archive.pieces(instance),
            transfer_syntax_uid=instance.transfer_syntax_uid,
            calling_ae_title=instance.calling_ae_title,
            policy=policy,
        )
    payload = archive.read(instance)
    item = ReceivedInstance(
        [payload], len(payload), crc32c(payload), instance.transfer_syntax_uid, instance.calling_ae_title
    )
    answer = archive.ingest_batch([item], policy=policy)[0]
    if isinstance(answer, EngineError):
        raise answer
    return answer
