"""Losses: records that were safe once and are missing now. Kept in DATA/losses until acknowledged or found again.

A new index knows nothing of records that the log no longer has. So a recovery or a rebuild notes missing records here,
and `check`, `doctor`, `scrub findings` and the log of every start show them. Lines (`storage.journal`), each about a
place in a segment and, if known, the instance that lay there:

    ["lost", segment id, offset, SOP Instance UID, what, found ns]
    ["acknowledged", segment id, offset, SOP Instance UID, who, when ns]      no longer shown
    ["found again", segment id, offset, SOP Instance UID, when ns]            the segment is whole, or back

An instance that is stored again is no longer lost, whatever its note says.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from engine import log
from engine.access.principal import Principal
from engine.archive import locks
from engine.archive.layout import Layout
from engine.errors import StorageError
from engine.index.catalog import Catalog
from engine.storage.files import Files
from engine.storage.journal import Journal, read_notes
from engine.storage.segment import Damage

logger = log.get("archive.losses")

LOGGED_MAX = 1000
"""New losses that are logged one by one; the rest are counted."""

ADVICE = "filmroom scrub findings names them; restore or send again, or filmroom scrub acknowledge"


class Loss(NamedTuple):
    """A record that was safe once and is missing now."""

    segment_id: int
    offset: int
    sop_instance_uid: str
    """Empty: a part of a segment whose contents are unknown."""
    what: str
    found_ns: int

    @property
    def place(self) -> tuple[int, int, str]:
        """Identifies the loss."""
        return self[:3]

    def __str__(self) -> str:
        name = f" (SOP Instance UID {self.sop_instance_uid})" if self.sop_instance_uid else ""
        return f"segment {self.segment_id:016x} offset {self.offset}: lost: {self.what}{name}"


def of_damage(damage: Iterable[Damage], found_ns: int) -> list[Loss]:
    """The losses in the damage that a recovery has found."""
    return [Loss(fault.segment_id, fault.offset, "", fault.reason, found_ns) for fault in damage]


def _path(layout: Layout) -> str:
    return str(layout.data / "losses")


def _read(layout: Layout, files: Files) -> tuple[dict[tuple[int, int, str], Loss], set[tuple[int, int, str]]]:
    """The losses by place, and the places that are acknowledged."""
    losses: dict[tuple[int, int, str], Loss] = {}
    acknowledged: set[tuple[int, int, str]] = set()
    if not files.exists(_path(layout)):
        return losses, acknowledged
    try:
        notes, _ = read_notes(_path(layout), files)
    except OSError as error:
        raise StorageError(f"{_path(layout)} cannot be read: {error.strerror}") from error
    for note in notes:
        match note:
            case ["lost", int(segment_id), int(offset), str(uid), str(reason), int(found_ns)]:
                losses[segment_id, offset, uid] = Loss(segment_id, offset, uid, reason, found_ns)
            case ["acknowledged", int(segment_id), int(offset), str(uid), *_]:
                acknowledged.add((segment_id, offset, uid))
            case ["found again", int(segment_id), int(offset), str(uid), *_]:
                losses.pop((segment_id, offset, uid), None)
                acknowledged.discard((segment_id, offset, uid))
    return losses, acknowledged


def _append(layout: Layout, files: Files, notes: Sequence[Sequence[object]]) -> None:
    if not notes:
        return
    with locks.journals(layout, files):
        try:
            journal = Journal(_path(layout), files)
        except OSError as error:
            raise StorageError(f"{_path(layout)} cannot be written: {error.strerror}") from error
        try:
            journal.append(notes)
        finally:
            journal.close()


def outstanding(layout: Layout, files: Files, index: Catalog) -> list[Loss]:
    """Losses that are neither acknowledged nor stored again, by place. Raises StorageError."""
    by_place, acknowledged = _read(layout, files)
    losses = [loss for place, loss in by_place.items() if place not in acknowledged]
    return sorted(loss for loss in losses if not _is_back(index, loss))


def _is_back(index: Catalog, loss: Loss) -> bool:
    return bool(loss.sop_instance_uid) and index.locate(loss.sop_instance_uid.encode()) is not None


def acknowledged_segments(layout: Layout, files: Files) -> set[int]:
    """The segments all of whose losses are acknowledged."""
    by_place, acknowledged = _read(layout, files)
    return {place[0] for place in acknowledged} - {place[0] for place in by_place if place not in acknowledged}


def note(layout: Layout, files: Files, losses: Iterable[Loss]) -> list[Loss]:
    """Notes these losses, each once. Logs and returns the new ones. Raises StorageFull or StorageFailed."""
    by_place, _ = _read(layout, files)
    new_losses = list({loss.place: loss for loss in losses if loss.place not in by_place}.values())
    _append(layout, files, [("lost", *loss) for loss in new_losses])
    for loss in new_losses[:LOGGED_MAX]:
        logger.error(
            "stored bytes are lost",
            sop_instance_uid=loss.sop_instance_uid,
            segment=f"{loss.segment_id:016x}",
            offset=loss.offset,
            reason=loss.what,
        )
    if len(new_losses) > LOGGED_MAX:
        logger.error("more stored bytes are lost", count=len(new_losses) - LOGGED_MAX, advice=ADVICE)
    return new_losses


def forget_whole(layout: Layout, files: Files, segment_ids: Collection[int]) -> None:
    """Removes the losses of segments that a rebuild has found as they were sealed."""
    by_place, _ = _read(layout, files)
    places = [place for place in by_place if place[0] in segment_ids]
    _append(layout, files, [("found again", *place, time.time_ns()) for place in places])
    for segment_id in sorted({place[0] for place in places}):
        logger.warning("a damaged segment is whole again", segment=f"{segment_id:016x}")


def acknowledge(
    layout: Layout, files: Files, index: Catalog, segment_ids: Collection[int] | None, *, actor: Principal
) -> list[Loss]:
    """Acknowledges the outstanding losses in these segments (None: in all), and returns them.

    Raises StorageFull or StorageFailed.
    """
    losses = [
        loss for loss in outstanding(layout, files, index) if segment_ids is None or loss.segment_id in segment_ids
    ]
    now_ns = time.time_ns()
    _append(layout, files, [("acknowledged", *loss.place, actor.actor, now_ns) for loss in losses])
    for loss in losses:
        logger.warning("loss acknowledged", loss=str(loss), by=actor.actor)
    return losses


def tell(layout: Layout, files: Files, index: Catalog) -> None:
    """Logs the outstanding losses as errors, a line for each segment. Called at every start."""
    by_segment: dict[int, list[Loss]] = {}
    for loss in outstanding(layout, files, index):
        by_segment.setdefault(loss.segment_id, []).append(loss)
    for segment_id, places in by_segment.items():
        logger.error(
            "stored bytes are lost: not acknowledged yet",
            segment=f"{segment_id:016x}",
            losses=len(places),
            instances=sum(bool(loss.sop_instance_uid) for loss in places),
            reason=places[0].what,
            advice=ADVICE,
        )
