"""Shredding: destroys the keys of a study of which nothing is left, so that no copy of it can be read any more.

    retire    before a study is deleted or put into the trash: what comes of it from now on gets another key
    shred     after a deletion or after the trash was emptied: destroys the keys that nothing needs
    sweep     the same for studies whose deletion was interrupted; the caretaker calls it

A key is destroyed when no current instance, kept version or instance in the trash is encrypted by it, and its study is
on no legal hold. That is decided under the lock of the ledger, so nobody restores or holds the study meanwhile. A
writer that stores at this moment has either written its record, which is then found at the end of its segment, or
notices that the key was retired, and takes another one (`keys.study_keys`).

    retired keys ──► records that are not applied yet ──► rows of the index ──► destroy what neither names

Whoever cannot be read counts as a user of the key. What is in doubt stays, and is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine import log
from engine.access.principal import Principal
from engine.archive.lifecycle.recorded import changed
from engine.audit import Kind
from engine.dicom import tags
from engine.errors import CorruptRecord, DeletionRefused, EngineError, StorageError, StorageFailed, for_log
from engine.index.format.types import Level, Query
from engine.keys.study_keys import State, StudyKey
from engine.storage.encryption import key_id_of
from engine.storage.segment import FIRST_RECORD, Damage, Walk, list_segments, read_segment_header

if TYPE_CHECKING:
    from engine.archive.parts import Parts
    from engine.index.format.types import Instance, InstanceIdentifiers

logger = log.get("archive.shredding")

HELD = "it is on legal hold"
NEEDED = "something of it is left"
ARRIVING = "something of it is being stored"
UNREADABLE = "a record of it cannot be read, which may need its key"
NO_KEY = "it has no key of its own"

TRASH_AT_ONCE = 100
"""Entries of the trash that are read at a time."""


@dataclass(slots=True)
class Shredded:
    """The result of shredding studies."""

    studies: list[str] = field(default_factory=list)
    """Studies of which no record can be read any more."""
    kept: dict[str, str] = field(default_factory=dict)
    """Studies whose keys stay, and why."""


def is_on(parts: Parts) -> bool:
    """Whether studies have keys of their own, or had."""
    return parts.layout.study_keys is not None


def retire(parts: Parts, studies: Iterable[str]) -> None:
    """What comes of these studies from now on is encrypted by another key than what is there. Durable."""
    keys = parts.layout.study_keys
    if keys is not None:
        keys.retire([key for of_study in keys.of_studies(map(str.encode, studies)).values() for key in of_study])


def refuse_shared(parts: Parts, instances: Sequence[InstanceIdentifiers]) -> None:
    """Raises DeletionRefused unless each instance is encrypted by a key of its study."""
    keys = parts.layout.study_keys
    if keys is None:
        raise DeletionRefused("studies have no keys of their own (encryption.study_keys); nothing was deleted", [])
    shared = 0
    for instance in instances:
        located = parts.index.locate(instance.sop_instance_uid)
        if located is not None and not keys.is_mine(parts.reader.key_id(located.position)):
            shared += 1
    if shared:
        raise DeletionRefused(
            f"{shared} of {len(instances)} instances are not encrypted by a key of their study;"
            " run `filmroom encrypt --old-keys` first; nothing was deleted",
            [],
        )


def shred(parts: Parts, studies: Iterable[str], *, actor: Principal, reason: str) -> Shredded:
    """Destroys the keys of these studies that nothing needs. Does nothing where studies have no keys.

    Raises ArchiveInUse, KeyStoreError, StorageFull or StorageFailed; the caretaker then tries again.
    """
    shredded = Shredded()
    keys = parts.layout.study_keys
    studies = list(dict.fromkeys(studies))
    if keys is None or not studies:
        return shredded
    with parts.ledger.locked():
        of_studies = keys.of_studies(map(str.encode, studies))
        open_keys = {
            study: [key for key in of_studies.get(study.encode(), ()) if key.state != State.DESTROYED]
            for study in studies
        }
        shredded.kept = _refusals(parts, open_keys)
        chosen = {study: own for study, own in open_keys.items() if study not in shredded.kept}
        if not chosen:
            return shredded
        trashed = _trashed(parts, chosen)
        for study, own in chosen.items():
            if not trashed[study] and not parts.index.has_study(study.encode()):
                keys.retire(own)
        arriving = _arriving(parts)
        doomed: list[StudyKey] = []
        for study, own in chosen.items():
            left = [key for key in own if not _is_needed(parts, shredded, study, key, arriving, trashed[study])]
            doomed += left
            if len(left) == len(own):
                shredded.studies.append(study)
        keys.destroy(doomed)
    if shredded.studies:
        changed(parts.index, Kind.SHREDDED, shredded.studies, actor=actor, reason=reason)
        logger.info("shredded", studies=len(shredded.studies), keys=len(doomed), by=actor.actor)
    return shredded


def after_deletion(parts: Parts, studies: Iterable[str], *, actor: Principal, reason: str) -> list[str]:
    """Shreds studies of which something was deleted. Returns those that nobody can read any more.

    The deletion counts whatever happens here: what fails is left to the caretaker. Raises StorageFailed.
    """
    try:
        return shred(parts, studies, actor=actor, reason=reason).studies
    except StorageFailed:
        raise
    except EngineError as error:
        logger.warning("deleted studies are not shredded yet", reason=for_log(error))
        return []


def sweep(
    parts: Parts, *, actor: Principal, everything: bool, is_stopping: Callable[[], bool] = lambda: False
) -> Shredded:
    """Destroys the retired keys of studies of which nothing is left; with `everything`, all of their keys.

    Raises as `shred` does.
    """
    keys = parts.layout.study_keys
    if keys is None:
        return Shredded()
    keys.settle()
    studies: dict[str, None] = {}
    for key in keys.slots():
        if is_stopping():
            return Shredded()
        is_meant = key.state == State.RETIRED or (everything and key.state == State.ASSIGNED)
        if is_meant and (study := keys.study_of(key)) and not parts.index.has_study(study):
            studies[study.decode("utf-8", "replace")] = None
    trashed = _trashed(parts, studies)
    left = [study for study in studies if not trashed[study]]
    return shred(parts, left, actor=actor, reason="its deletion was interrupted")


# inside --------------------------------------------------------------------------------------------


def _refusals(parts: Parts, open_keys: dict[str, list[StudyKey]]) -> dict[str, str]:
    """The studies whose keys must stay, or that have none, and why."""
    refusals = {study: NO_KEY for study, own in open_keys.items() if not own}
    return refusals | {study: HELD for study, own in open_keys.items() if own and parts.index.is_held(study.encode())}


def _is_needed(
    parts: Parts, shredded: Shredded, study: str, key: StudyKey, arriving: set[bytes], trashed: list[Instance]
) -> bool:
    """Whether something is encrypted by a key, or may be; notes why."""
    if key.state == State.FREE or key.key_id in arriving:
        shredded.kept[study] = ARRIVING
        return True
    try:
        for instance in (*_stored(parts, study), *trashed):
            if parts.reader.key_id(instance.position) == key.key_id:
                shredded.kept[study] = NEEDED
                return True
    except (CorruptRecord, StorageError):
        shredded.kept[study] = UNREADABLE
        return True
    return False


def _stored(parts: Parts, study: str) -> Iterator[Instance]:
    """The current instances and kept versions of a study."""
    index = parts.index
    if index.has_study(study.encode()):
        yield from index.instances(Query(Level.STUDY, {tags.StudyInstanceUID: study.encode()}))
    if index.version_count():
        yield from (version for version in index.kept_versions() if version.study_instance_uid == study)


def _trashed(parts: Parts, studies: Iterable[str]) -> dict[str, list[Instance]]:
    """What waits in the trash of each study."""
    trashed: dict[str, list[Instance]] = {study: [] for study in studies}
    before = 0
    while trashed and (page := parts.index.trash_entries(before, TRASH_AT_ONCE)):
        before = page[-1].stamp
        for entry in page:
            study = entry.put.study_instance_uid.decode("utf-8", "replace")
            if study in trashed:
                trashed[study] += parts.index.in_trash(entry)
    return trashed


def _arriving(parts: Parts) -> set[bytes]:
    """The ids of the keys of records that lie in the log and are not in the index yet."""
    key_ids: set[bytes] = set()
    marks = parts.index.segment_marks()
    for segment_id in list_segments(parts.layout.segments, parts.files):
        mark = marks.get(segment_id)
        if mark is not None and mark.sealed:
            continue
        try:
            data = parts.segments.open(segment_id)
            header = read_segment_header(data, segment_id)
        except StorageError:
            continue  # removed meanwhile, or a new file without records
        start = FIRST_RECORD if mark is None else mark.indexed_bytes
        for item in Walk(data, header, start, opens=False):
            if not isinstance(item, Damage):
                key_ids.add(key_id_of(item))
    return key_ids
