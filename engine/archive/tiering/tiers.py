"""Tiers: which segments need no file here any more, by rules of [[tier]]; the plan, and its application.

A rule names studies, also by when they were read last (`last_reads`); what can go is a segment. A segment goes when at
least SHARE_MIN of its live bytes belong to studies that a rule names, and the bucket has it. Nothing is deleted: a
legal hold does not matter here, and what was evicted is found as before and read through.

    plan      studies and bytes that the rules name, segments that would go, and what it costs to read them again
    apply     `residence.evict` for each of these segments, beside a running server
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine import log
from engine.archive import locks
from engine.archive.tiering import connection
from engine.archive.tiering.last_reads import ReadHistory
from engine.archive.tiering.publisher import published_of
from engine.archive.tiering.remote_segments import RemoteSegments
from engine.archive.tiering.residence import Residence
from engine.dicom import tags
from engine.errors import ArchiveInUse, ConfigError
from engine.index.format.types import Level, Query, Root
from engine.objects.bucket import SegmentName
from engine.objects.settings import ObjectStore, Tier
from engine.storage.segment_ids import newest_of_slots

if TYPE_CHECKING:
    from engine.archive.archive import Archive

logger = log.get("archive.tiers")

DAY_NS = 86_400 * 10**9
SHARE_MIN = 0.8
"""The rest of a segment would be read from the bucket: a fifth is what a month of new reads costs at most."""
TRIES = 600
TRY_EVERY_S = 0.1
_GIB = 1 << 30
_COLUMNS = (tags.StudyInstanceUID, tags.ModalitiesInStudy)


@dataclass(frozen=True, slots=True)
class Leaving:
    """A segment that needs no file here."""

    name: SegmentName
    bytes: int
    """Of its file."""
    share: float
    """Of its live bytes, those of studies that a rule names."""


@dataclass(slots=True)
class TierPlan:
    """What the rules mean now."""

    studies: dict[str, int] = field(default_factory=dict)
    """Rule → studies that it is the first to name."""
    study_bytes: int = 0
    segments: list[Leaving] = field(default_factory=list)
    unpublished_segments: int = 0
    """That would go, and are not in the bucket yet."""
    read_back_usd: float = 0.0
    """What the provider asks for reading these segments once from outside of its cloud."""

    @property
    def bytes(self) -> int:
        """Of the files that would go."""
        return sum(item.bytes for item in self.segments)


def plan(archive: Archive, settings: ObjectStore, rules: Sequence[Tier], now_ns: int) -> TierPlan:
    """The plan at `now_ns`; reads the index study by study. Raises IndexError_, StorageError."""
    result = TierPlan({rule.name: 0 for rule in rules})
    named_bytes: Counter[int] = Counter()
    history = ReadHistory(archive.parts.layout.data, archive.parts.files, now_ns)
    for rule, size, by_segment in _named(archive, rules, now_ns, history):
        result.studies[rule.name] += 1
        result.study_bytes += size
        named_bytes.update(by_segment)
    parts = archive.parts
    published = {name.segment_id: name for name in published_of(parts.layout, parts.files, settings)}
    residence = _residence(archive)
    marks = parts.index.segment_marks()
    newest = newest_of_slots(marks).values()
    for segment_id, count in sorted(named_bytes.items()):
        mark, size = marks.get(segment_id), residence.local_bytes(segment_id)
        if mark is None or not mark.sealed or not mark.live_bytes or not size or segment_id in newest:
            continue
        share = min(count / mark.live_bytes, 1.0)
        if share < SHARE_MIN:
            continue
        if segment_id not in published:
            result.unpublished_segments += 1
            continue
        result.segments.append(Leaving(published[segment_id], size, round(share, 3)))
    result.read_back_usd = round(result.bytes / _GIB * settings.egress_usd_per_gib, 2)
    return result


def apply(
    archive: Archive,
    settings: ObjectStore,
    leaving: Sequence[Leaving],
    on_segment: Callable[[int], None] = lambda count: None,
) -> tuple[int, int]:
    """Evicts the segments of a plan; returns how many went, and their bytes.

    Raises ArchiveInUse while another process compacts, StoreUnreachable, ObjectWrong, StorageFull or StorageFailed.
    """
    if not settings.url:
        raise ConfigError("no object store is configured: set url in [object_store]")
    parts = archive.parts
    connection.remember(parts.layout.data, settings, parts.files)
    residence = _residence(archive)
    segments = freed = 0
    for count, item in enumerate(leaving, 1):
        size = _evict(archive, residence, item)
        segments += size > 0
        freed += size
        on_segment(count)
    logger.info("segments were evicted", segments=segments, bytes=freed)
    return segments, freed


def _evict(archive: Archive, residence: Residence, item: Leaving) -> int:
    """Under the lock of those who move segments: a compaction that reads the same file removes it when it is done."""
    parts = archive.parts
    for attempt in range(1, TRIES + 1):
        try:
            with locks.caretaker(parts.layout, parts.files):
                mark = parts.index.segment_marks().get(item.name.segment_id)
                if mark is None or not mark.live_bytes:
                    return 0
                return residence.evict(item.name)
        except ArchiveInUse:
            if attempt == TRIES:
                raise
            threading.Event().wait(TRY_EVERY_S)
    return 0


def _residence(archive: Archive) -> Residence:
    layout, files = archive.parts.layout, archive.parts.files
    return Residence(layout, files, RemoteSegments(layout.data, layout.archive_id, files))


def _named(
    archive: Archive, rules: Sequence[Tier], now_ns: int, history: ReadHistory
) -> Iterator[tuple[Tier, int, Counter[int]]]:
    """For each study the first rule that names it, its bytes, and those in each segment."""
    for match in archive.find(Query(Level.STUDY, dict.fromkeys(_COLUMNS, b""), Root.STUDY)):
        uid = match.attributes.get(tags.StudyInstanceUID, b"")
        modalities = set(match.values(tags.ModalitiesInStudy))
        fitting = [rule for rule in rules if not rule.modalities or (modalities and modalities <= {*rule.modalities})]
        fitting = [rule for rule in fitting if _is_unread(uid, rule, history) and _is_from(archive, uid, rule)]
        if not fitting:
            continue
        instances = archive.instances(Query(Level.STUDY, {tags.StudyInstanceUID: uid}, Root.STUDY, b"ISO_IR 192"))
        if not instances:
            continue
        received_ns = max(instance.received_ns for instance in instances)
        for rule in fitting:
            if received_ns <= now_ns - round(rule.older_than_days * DAY_NS):
                by_segment: Counter[int] = Counter()
                for instance in instances:
                    by_segment[instance.position.segment_id] += instance.position.end - instance.position.offset
                yield rule, by_segment.total(), by_segment
                break


def _is_unread(uid: bytes, rule: Tier, history: ReadHistory) -> bool:
    """Whether nobody has read a study for as long as a rule wants."""
    if not rule.last_read_days:
        return True
    studies = history.read_since(rule.last_read_days)
    return studies is not None and uid.decode("utf-8", "replace") not in studies


def _is_from(archive: Archive, uid: bytes, rule: Tier) -> bool:
    """Whether all series of a study come from institutions that a rule names."""
    if not rule.institutions:
        return True
    names = {name.strip().casefold() for name in rule.institutions}
    series = archive.parts.index.arrivals(uid)
    return bool(series) and all(each.institution.strip().casefold() in names for each in series)
