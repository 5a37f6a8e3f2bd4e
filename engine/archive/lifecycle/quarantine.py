"""What is stored and stands apart: versions kept aside, and bytes that could not be taken as instances.

    kind           came in by                                      readmit                        drop
    version        other bytes under a known SOP Instance UID      becomes the current one; the   its space comes
                   (`ingest.writer`)                              one before is kept aside       back by compaction
    unparseable    a C-STORE that was refused                      tried again, under the UIDs    the same
                   (`ingest.unparseable`)                         that the data set itself has

Versions with the same content as another one retire by themselves (`resent`); what differs in the others:
`difference`. "incomplete" is what is refused only because it lacks a UID. What a peer sends and is refused is kept, for
the peer may forget it; what an import refuses is not: the file stays where it is.

An id names one record wherever it lies: its stamp and a checksum of its UID. Nothing here shows what is
in a data set: no name, no patient. A readmitted instance is a new record with the same bytes; the old one gets a
tombstone. Works on a stopped archive and beside a running server. Legal holds: what belongs to a study on hold, as far
as can be told, is not dropped.
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

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.archive.ingest.writer import Writer
    from engine.archive.lifecycle.resent import Judge

logger = log.get("archive.quarantine")

KEPT_ASIDE: Final = "version"
UNPARSEABLE: Final = "unparseable"
INCOMPLETE: Final = "incomplete"
"""Of what could not be taken as an instance: it can be read, and lacks a UID that every instance has."""

WHOLE_BYTES_MAX: Final = 8 << 20
"""A data set up to this length is read whole; longer ones go in pieces of this length."""

_UID: Final = re.compile(r"[0-9]+(\.[0-9]+)+")
_ASIDE_REASON: Final = "another instance of this SOP Instance UID is current"


@dataclass(frozen=True, slots=True)
class Kept:
    """One thing in quarantine."""

    kind: str
    """KEPT_ASIDE, UNPARSEABLE or INCOMPLETE."""
    reason: str
    instance: Instance
    """Of unparseable ones the UIDs are what the sender claimed, and there is no study."""

    @property
    def id(self) -> str:
        """Names it for `export`, `readmit` and `drop`."""
        return f"{self.instance.stamp:016x}{crc32c(self.instance.sop_instance_uid.encode()):08x}"

    def facts(self) -> dict[str, object]:
        """What may be shown of it."""
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


def listed(archive: Archive) -> Iterator[Kept]:
    """All of it: versions kept aside, then what is unparseable, each in the index's order."""
    for version in archive.parts.index.kept_versions():
        yield Kept(KEPT_ASIDE, _ASIDE_REASON, version)
    for claimed in archive.parts.index.quarantined():
        reason = claimed.reason.decode("utf-8", "replace")
        yield Kept(kind_of(reason), reason, _instance_of(claimed))


def kind_of(reason: str) -> str:
    """The kind of what could not be taken as an instance, by the reason that is kept with it."""
    return INCOMPLETE if reason.endswith("is missing or empty") else UNPARSEABLE


def find(archive: Archive, identifier: str) -> Kept:
    """The one of that id. Raises QuarantineError."""
    prefix = identifier.strip().lower()
    for item in listed(archive):
        if item.id == prefix:
            return item
    raise QuarantineError("nothing in quarantine has this id; `filmroom quarantine list` shows what there is")


def export(archive: Archive, kept: Kept, folder: Path) -> Path:
    """Writes it to `folder`: a Part 10 file ID.dcm, or ID.raw where the claimed UIDs make no file meta information.

    Raises CorruptRecord, ExportFailed.
    """
    instance = kept.instance
    uids = (instance.sop_class_uid, instance.sop_instance_uid, instance.transfer_syntax_uid)
    has_meta = all(len(uid) <= 64 and _UID.fullmatch(uid) for uid in uids)
    path = folder / f"{kept.id}.{'dcm' if has_meta else 'raw'}"

    def pieces() -> Iterator[bytes | memoryview]:
        if has_meta:
            yield part10.write_file_meta(*uids, source_ae_title=instance.calling_ae_title)
        yield from archive.pieces(instance)

    try:
        private_files.make_folder(folder)
        if os.path.lexists(path) and private_files.holds(path, pieces()):
            return path
        with private_files.named_when_whole(path) as file:
            for piece in pieces():
                file.write(piece)
    except FileExistsError as error:
        raise ExportFailed(f"{error.filename} exists already, with other bytes") from error
    except OSError as error:
        raise ExportFailed(f"{error.filename or path} cannot be written: {error.strerror or error}") from error
    return path


def readmit(archive: Archive, identifier: str, *, policy: str, actor: Principal) -> Outcome:
    """Takes it out of quarantine and into the archive; durable and visible when it returns.

    A version kept aside becomes the current one. What was unparseable is tried again; `policy` says what holds when its
    UID is there by now. Raises QuarantineError, InstanceRefused (it stays unparseable), CorruptRecord, StorageFull.
    """
    item = find(archive, identifier)
    if item.kind == KEPT_ASIDE:
        outcome = _readmit_version(archive, item, actor)
    else:
        outcome = _try_again(archive, item.instance, policy)
        with archive.parts.ledger.locked():
            _bury(archive, item, actor, f"readmitted: {outcome.name.lower()}")
    logger.info(
        "readmitted from quarantine",
        sop_instance_uid=item.instance.sop_instance_uid,
        kind=item.kind,
        outcome=outcome.name.lower(),
        by=actor.actor,
    )
    return outcome


def drop(archive: Archive, identifier: str, *, actor: Principal, reason: str) -> Kept:
    """Deletes it, durably. Raises QuarantineError, DeletionRefused (its study is on legal hold), StorageFull."""

    def work() -> Kept:
        with archive.parts.ledger.locked():
            item = find(archive, identifier)
            held_uids = held_studies(archive, [item])
            if held_uids:
                raise DeletionRefused(f"the study {held_uids[0]} is on legal hold; nothing was dropped", held_uids)
            _bury(archive, item, actor, reason)
            return item

    item = archive.parts.ledger.with_reserve(work)
    logger.info(
        "dropped from quarantine", sop_instance_uid=item.instance.sop_instance_uid, kind=item.kind, by=actor.actor
    )
    return item


def chosen(archive: Archive, sop_instance_uids: Container[str] | None, *, same: bool, judge: Judge) -> Iterator[Kept]:
    """What belongs to these SOP Instance UIDs (None: to any); with `same`, versions with the content of another one."""
    for item in listed(archive):
        if sop_instance_uids is not None and item.instance.sop_instance_uid not in sop_instance_uids:
            continue
        if not same or (item.kind == KEPT_ASIDE and _is_same_as_another(archive, item, judge)):
            yield item


def drop_all(archive: Archive, many: Sequence[Kept], *, actor: Principal, reason: str) -> list[Kept]:
    """Deletes what of it is still there, durably, all or nothing. Raises DeletionRefused, StorageFull."""
    ids = {item.id for item in many}

    def work() -> list[Kept]:
        with archive.parts.ledger.locked():
            items = [item for item in listed(archive) if item.id in ids]
            held_uids = held_studies(archive, items)
            if held_uids:
                raise DeletionRefused(f"the study {held_uids[0]} is on legal hold; nothing was dropped", held_uids)
            drops = [
                deletion.Drop(item.instance.sop_instance_uid.encode(), item.instance.stamp, reason) for item in items
            ]
            deletion.write_drops(archive.parts, drops, actor=actor)
            return items

    dropped = archive.parts.ledger.with_reserve(work)
    logger.info("dropped from quarantine", count=len(dropped), by=actor.actor)
    return dropped


def held_studies(archive: Archive, many: Iterable[Kept]) -> list[str]:
    """The studies on legal hold that they may belong to."""
    studies = {uid for item in many for uid in _studies_of(archive, item)}
    return sorted(uid for uid in studies if archive.parts.index.is_held(uid.encode()))


def _is_same_as_another(archive: Archive, kept: Kept, judge: Judge) -> bool:
    for other in resent.others_of(archive, kept.instance):
        try:
            if judge.is_same(kept.instance, other):
                return True
        except CorruptRecord:
            pass  # it has been noted as damaged
    return False


# Inside ------------------------------------------------------------------------------------------


def _instance_of(claimed: Quarantined) -> Instance:
    """An unparseable one in the form that reading and exporting want."""
    return Instance(
        claimed.position,
        claimed.stamp,
        claimed.sop_class_uid.decode("utf-8", "replace"),
        claimed.sop_instance_uid.decode("utf-8", "replace"),
        claimed.transfer_syntax_uid.decode("utf-8", "replace"),
        "",
        "",
        -1,
        claimed.calling_ae_title.decode("utf-8", "replace"),
        claimed.received_ns,
        b"",
        b"",
    )


def _bury(archive: Archive, kept: Kept, actor: Principal, reason: str) -> None:
    """A tombstone for this one record; call it while the ledger is locked."""
    instance = kept.instance
    uid, stamp = instance.sop_instance_uid.encode(), instance.stamp
    deletion.write_tombstones(
        archive.parts, [(uid, [uid])], Level.IMAGE, after=stamp, actor=actor, reason=reason, target_stamp=stamp
    )


def _studies_of(archive: Archive, kept: Kept) -> set[str]:
    """The studies that it may belong to: its own, that of the instance whose UID it claims, what its data set says."""
    instance = kept.instance
    studies = {instance.study_instance_uid}
    current = archive.parts.index.locate(instance.sop_instance_uid.encode())
    if current is not None:
        studies.add(current.study_instance_uid)
    if kept.kind != KEPT_ASIDE:
        try:
            head = completeness.head_of(archive.parts.reader, instance)
            studies.add(head.study_instance_uid.decode("utf-8", "replace"))
        except (CorruptRecord, DataSetError):
            pass  # it says nothing that can be understood
    return studies - {""}


def _readmit_version(archive: Archive, kept: Kept, actor: Principal) -> Outcome:
    """Stores the version's bytes once more as the current instance, then buries the copy that was kept aside."""

    def work() -> Outcome:
        with archive.parts.ledger.locked():
            version = find(archive, kept.id).instance
            entry = Entry.unpack(archive.parts.reader.read_record(version.position))
            writer = archive.parts.ledger.writer()
            versions = archive.parts.index.versions(entry.sop_instance_uid)
            entry.stamp = writer.next_stamp(max(each.stamp for each in versions))
            entry.flags = POLICY_KEEP_BOTH
            _copy(archive, writer, entry, version)
            outcome = writer.apply([entry])[0]
            writer.seal_rolled()
            _bury(archive, kept, actor, "readmitted")
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
    """Stores what was unparseable as if it came now. Raises what it is refused for."""
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
