"""Supplied attributes: what the orders of a study say and its instances lack, as corrections that follow the links.

    update     makes the corrections of one study that are needed now, and undoes those that are not

They are corrections as all others: searches, answers and retrievals show them, and no stored byte changes. REASON
distinguishes them. What an instance states counts more than what is supplied, also if it comes later. Call `update` as
often as you like: without a difference nothing is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from engine import log
from engine.archive.ingest.entry import UNPLACED
from engine.archive.lifecycle.deletion import bounded
from engine.archive.lifecycle.patients import number_of
from engine.archive.lifecycle.recorded import changed
from engine.audit import Kind
from engine.dicom import conformance, tags
from engine.index.format.entry import Correction, Operation
from engine.index.format.statements import blob_of
from engine.index.format.types import Level, Query, Root

if TYPE_CHECKING:
    from engine.access.principal import Principal
    from engine.archive.archive import Archive
    from engine.index.catalog import CorrectionStatus, Snapshot

logger = log.get("archive.supplied")

REASON: Final = b"supplied by the orders that are linked to the study"
SERIES_MAX: Final = 1000
"""Series of one study that get attributes; a study has some tens."""

Lacking = Callable[[Mapping[int, bytes]], tuple[dict[int, bytes], dict[int, bytes]]]
"""From what a study states to what it is supplied with, and what each of its series may be supplied with. Asked anew
under the lock, since a link may have been made or undone meanwhile."""


def update(archive: Archive, study_instance_uid: str, lacking: Lacking, *, actor: Principal) -> list[str]:
    """Brings the corrections of a study up to date; returns the numbers of new ones. Raises StorageError, IndexError_.

    A study that is not stored gets none: it is told of when it has come.
    """
    if not _drafts(archive, study_instance_uid, lacking, actor)[0]:
        return []  # nearly always: nobody waits for the lock then
    ledger = archive.parts.ledger
    with ledger.locked():
        records, stamp = _drafts(archive, study_instance_uid, lacking, actor)
        if not records:
            return []
        for record in records:
            record.stamp = stamp = ledger.next_stamp(stamp)
        ledger.with_reserve(lambda: ledger.write(records))
    numbers = [number_of(record.stamp) for record in records]
    logger.info("attributes supplied by orders", study_instance_uid=study_instance_uid, corrections=len(numbers))
    _write_event(archive, study_instance_uid, numbers, actor)
    return numbers


def _drafts(
    archive: Archive, study_instance_uid: str, lacking: Lacking, actor: Principal
) -> tuple[list[Correction], int]:
    """The records that are needed, and the newest stamp before them."""
    uid = study_instance_uid.encode()
    series = _series_of(archive, study_instance_uid)
    drafts = _Drafts(actor)
    with archive.parts.index.snapshot() as snapshot:
        stated = snapshot.stated_study(uid)
        if stated is not None:
            of_study, of_series = lacking(stated)
            drafts.compare(Level.STUDY, (uid,), allowed(of_study), snapshot.corrections_of_study(uid))
            for name in series:
                own = _series_items(snapshot, uid, name, of_series)
                drafts.compare(Level.SERIES, (uid, name), own, snapshot.corrections_of_series(uid, name))
        return drafts.records, snapshot.newest_correction()


class _Drafts:
    """Collects the records of one study."""

    def __init__(self, actor: Principal) -> None:
        self.records: list[Correction] = []
        self._by = bounded(actor.actor)

    def compare(
        self, level: int, names: tuple[bytes, ...], items: Mapping[int, bytes], in_force: Iterable[CorrectionStatus]
    ) -> None:
        """Undoes what was supplied and is not to be, and supplies the rest."""
        blob = blob_of(items)
        is_needed = bool(items)
        for status in in_force:
            correction = status.correction
            if correction.reason != REASON or correction.operation != Operation.CORRECT:
                continue
            if is_needed and correction.items == blob:
                is_needed = False
            else:
                self._add(Operation.UNDO, level, (), b"", correction.stamp)
        if is_needed:
            self._add(Operation.CORRECT, level, names, blob, 0)

    def _add(self, operation: Operation, level: int, names: tuple[bytes, ...], items: bytes, undoes: int) -> None:
        now = time.time_ns()
        self.records.append(Correction(UNPLACED, 0, operation, level, names, items, undoes, now, self._by, REASON))


def _series_of(archive: Archive, study_instance_uid: str) -> list[bytes]:
    keys = {tags.StudyInstanceUID: study_instance_uid.encode(), tags.SeriesInstanceUID: b""}
    matches = archive.find(Query(Level.SERIES, keys, Root.STUDY, relational=True, limit=SERIES_MAX))
    return [match.attributes[tags.SeriesInstanceUID] for match in matches]


def _series_items(snapshot: Snapshot, uid: bytes, name: bytes, items: Mapping[int, bytes]) -> dict[int, bytes]:
    stated = snapshot.stated_series(uid, name)
    return {} if stated is None else {tag: value for tag, value in items.items() if not stated.get(tag)}


def allowed(items: Mapping[int, bytes]) -> dict[int, bytes]:
    """Without values that their VR does not allow: an accession number of an order may be longer than DICOM's."""
    return {
        tag: value
        for tag, value in items.items()
        if tags.vr_of(tag) == "SQ" or not conformance.fault(tags.vr_of(tag), value.decode("utf-8", "replace"))
    }


def _write_event(archive: Archive, study_instance_uid: str, numbers: Sequence[str], actor: Principal) -> None:
    detail = f"supplied {' '.join(numbers)}"
    reason = REASON.decode()
    changed(archive.parts.index, Kind.CORRECTED, [study_instance_uid], actor=actor, reason=reason, detail=detail)
