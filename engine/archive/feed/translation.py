"""Translates records of the log to events, with their states from the index.

    INSTANCE      duplicate, or not known to the index      no event: nothing became visible
                  kept aside                                kept_aside
                  current, or dead because of a later       stored; the event of its death follows
                    record that the feed has not read yet
                  dead when it became visible               no event
    TOMBSTONE     without a target                          deleted, without UIDs that a later record, read already,
                                                              has brought back
                  with a target                             version_deleted
    TRASH         put                                       deleted, as for a tombstone
                  restored                                  restored
                  emptied                                   no event: it was deleted before
    HOLD          set, released                             held, released
    CORRECTION                                              corrected; an undo with the names of the undone correction
    QUARANTINED                                             no event: it is no part of the archive

An instance may have two events (when a copy has replaced a damaged one), and never none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from engine.archive.feed import event as actions
from engine.archive.feed.event import Event, time_text
from engine.dicom import tags
from engine.dicom.elements import blob_items
from engine.errors import IndexError_
from engine.index.catalog import State
from engine.index.format.entry import (
    Correction,
    Entry,
    Hold,
    LedgerItem,
    Operation,
    Quarantined,
    Tombstone,
    unpack_record,
)
from engine.index.format.trash_record import TrashOperation, TrashRecord
from engine.index.format.types import Level
from engine.storage.record import SHREDDED

if TYPE_CHECKING:
    from engine.archive.feed.progress import Progress
    from engine.index.catalog import Catalog
    from engine.storage.record import Record

UIDS_MAX = 500
"""SOP Instance UIDs in one event: some 32 KB."""

_ALIVE = frozenset((State.CURRENT, State.VERSION))
_NO_EVENT = frozenset((None, State.DUPLICATE))


class Translator:
    """Makes events of records, in their order; the journal gives them their sequences."""

    def __init__(self, index: Catalog, progress: Progress) -> None:
        self._index = index
        self._progress = progress
        self._items: list[Entry | LedgerItem] = []
        """The last read records, and the number of the one that is being translated."""
        self._number = 0
        self._numbers: dict[tuple[int, int], int] = {}
        """The place of each of them; made on demand, since only deletions need it."""
        self.unreadable = 0
        """Number of records of an unknown kind or version."""

    def events(self, records: Sequence[Record]) -> list[Event]:
        """The events of these records, which have just been read."""
        items: list[Entry | LedgerItem] = []
        for record in records:
            if record.kind == SHREDDED:
                continue
            try:
                item = unpack_record(record)
            except IndexError_:
                self.unreadable += 1
                continue
            if not isinstance(item, Quarantined):
                items.append(item)
        self._items = items
        self._numbers = {}
        states = iter(self._index.states([item for item in items if isinstance(item, Entry)]))
        events: list[Event] = []
        for self._number, item in enumerate(items):
            if isinstance(item, Entry):
                state = next(states)
                if state in _ALIVE or (state not in _NO_EVENT and self._was_visible(item)):
                    events.append(_instance_event(item, is_aside=state is State.VERSION))
            elif isinstance(item, Tombstone):
                events += self._version_deleted(item) if item.target_stamp else self._deleted(item)
            elif isinstance(item, TrashRecord):
                if item.operation in (TrashOperation.PUT, TrashOperation.RESTORE):
                    events += self._deleted(item) if item.is_put else self._restored(item)
            elif isinstance(item, Hold):
                events.append(_hold_event(item))
            else:
                events.append(self._corrected(item))
        return events

    def _deleted(self, tombstone: Tombstone | TrashRecord) -> Iterator[Event]:
        uids = []
        current_records = self._index.current_records(tombstone.sop_instance_uids)
        for uid, current in zip(tombstone.sop_instance_uids, current_records, strict=True):
            is_back = current is not None and current.stamp > tombstone.stamp
            if current is None or not is_back or not self._is_read(current.segment_id, current.offset):
                uids.append(_text(uid))
        level = Level(tombstone.level) if tombstone.level in list(Level) else Level.IMAGE
        name = _text(tombstone.uid)
        if isinstance(tombstone, TrashRecord):
            entry, study = str(tombstone.stamp), _text(tombstone.study_instance_uid)
            deleted_ns = tombstone.made_ns
        else:
            entry, study = "", name if level == Level.STUDY else ""
            deleted_ns = tombstone.deleted_ns
        for at in range(0, len(uids), UIDS_MAX):
            yield Event(
                sequence=0,
                action=actions.DELETED,
                time=time_text(deleted_ns),
                study_instance_uid=study,
                series_instance_uid=name if level == Level.SERIES else "",
                level="instance" if level == Level.IMAGE else level.name.lower(),
                sop_instance_uids=tuple(uids[at : at + UIDS_MAX]),
                version=str(tombstone.stamp),
                trash=entry,
                by=_text(tombstone.by),
                reason=_text(tombstone.reason),
            )

    def _restored(self, item: TrashRecord) -> Iterator[Event]:
        level = Level(item.level) if item.level in list(Level) else Level.IMAGE
        for at in range(0, len(item.sop_instance_uids), UIDS_MAX):
            uids = item.sop_instance_uids[at : at + UIDS_MAX]
            current_records = self._index.current_records(uids)
            yield Event(
                sequence=0,
                action=actions.RESTORED,
                time=time_text(item.made_ns),
                study_instance_uid=_text(item.study_instance_uid),
                level="instance" if level == Level.IMAGE else level.name.lower(),
                sop_instance_uids=tuple(map(_text, uids)),
                current_versions=tuple("" if one is None else str(one.stamp) for one in current_records),
                version=str(item.stamp),
                trash=str(item.settles),
                by=_text(item.by),
                reason=_text(item.reason),
            )

    def _was_visible(self, entry: Entry) -> bool:
        """Whether a record that is dead by now was visible before: the feed has not yet read what it died of."""
        later = self._index.places_of_later(entry.sop_instance_uid, entry.stamp)
        return not any(self._is_read(*place) for place in later)

    def _is_read(self, segment_id: int, offset: int) -> bool:
        if not self._numbers:
            self._numbers = {item.position[:2]: number for number, item in enumerate(self._items)}
        is_ahead = self._numbers.get((segment_id, offset), 0) > self._number
        return not is_ahead and self._progress.passed(segment_id, offset)

    def _version_deleted(self, tombstone: Tombstone) -> Iterator[Event]:
        for uid, current in zip(
            tombstone.sop_instance_uids, self._index.current_records(tombstone.sop_instance_uids), strict=True
        ):
            yield Event(
                sequence=0,
                action=actions.VERSION_DELETED,
                time=time_text(tombstone.deleted_ns),
                sop_instance_uid=_text(uid),
                version=str(tombstone.target_stamp),
                current_version="" if current is None else str(current.stamp),
                by=_text(tombstone.by),
                reason=_text(tombstone.reason),
            )

    def _corrected(self, correction: Correction) -> Event:
        named_correction = correction
        if correction.operation == Operation.UNDO:
            undone = self._index.correction(correction.undoes)
            named_correction = correction if undone is None else undone.correction
        level = Level(named_correction.level) if named_correction.level in list(Level) else Level.PATIENT
        names = tuple(map(_text, named_correction.names))
        is_of_study = level in (Level.STUDY, Level.SERIES) and names
        return Event(
            sequence=0,
            action=actions.CORRECTED,
            time=time_text(correction.made_ns),
            study_instance_uid=names[0] if is_of_study else "",
            series_instance_uid=names[1] if level == Level.SERIES and len(names) > 1 else "",
            level=level.name.lower(),
            names=names,
            operation=Operation(correction.operation).name.lower(),
            version=str(correction.stamp),
            undoes=str(correction.undoes) if correction.undoes else "",
            by=_text(correction.by),
            reason=_text(correction.reason),
        )


def _instance_event(entry: Entry, *, is_aside: bool) -> Event:
    return Event(
        sequence=0,
        action=actions.KEPT_ASIDE if is_aside else actions.STORED,
        time=time_text(entry.received_ns),
        study_instance_uid=_uid_in(entry.study, tags.StudyInstanceUID),
        series_instance_uid=_uid_in(entry.series, tags.SeriesInstanceUID),
        sop_instance_uid=_text(entry.sop_instance_uid),
        sop_class_uid=_short_text(entry.sop_class_uid),
        transfer_syntax_uid=_short_text(entry.transfer_syntax_uid),
        calling_ae_title=_short_text(entry.calling_ae_title),
        version=str(entry.stamp),
        bytes=entry.position.payload_length,
    )


def _hold_event(hold: Hold) -> Event:
    return Event(
        sequence=0,
        action=actions.HELD if hold.is_set else actions.RELEASED,
        time=time_text(hold.set_ns),
        study_instance_uid=_text(hold.study_instance_uid),
        version=str(hold.stamp),
        by=_text(hold.by),
        reason=_text(hold.reason),
    )


@lru_cache(maxsize=256)
def _uid_in(blob: bytes, tag: int) -> str:
    """A UID of a level blob. Cached, since the instances of a series have the same one."""
    return _text(blob_items(blob).get(tag, b"").rstrip(b" \0"))


@lru_cache(maxsize=256)
def _short_text(data: bytes) -> str:
    return _text(data)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
