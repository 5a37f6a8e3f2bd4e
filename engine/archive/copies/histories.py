"""The histories in a folder of backups: which state belongs to which, and which states may be removed.

A restored archive and a promoted replica keep their archive id and begin a new history, with a lineage of its own
(`archive.layout`). From then on each takes in instances that the other lacks, so a state of one never replaces a state
of the other. A folder holds one history unless somebody asks for more, a restore from several must name one, and
newer states of one history never cause states of another to be removed. A replica lags behind its source, and so is a
history of its own.

    name        "original" before the first restore or promotion, else 32 hex digits; "replica:" in front of a replica's
    one's own   a state of the same history whose segments are in the same files as in the newest one. An archive that
                was rolled back or cloned has the same name, and other segments from there on
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from engine import log
from engine.archive.copies.manifest import HOSPITAL, IMAGES, BackupFolder, Heading, Manifest, SegmentCopy, time_of
from engine.errors import BackupError, for_log
from engine.storage.files import Files
from engine.storage.segment_ids import newest_of_slots, slot_of

logger = log.get("archive.backup")

STATES_SHOWN = 6
"""In a message; `filmroom backup DEST --list` shows all."""


class Pruned(NamedTuple):
    """What `prune` removed."""

    manifests: int
    segments: int


def headings(folder: BackupFolder) -> tuple[list[Heading], list[str]]:
    """The headings of all readable manifests, the oldest first, and what is wrong with the others."""
    headings: list[Heading] = []
    problems: list[str] = []
    for name in folder.names():
        try:
            headings.append(folder.heading(name))
        except BackupError as error:
            problems.append(str(error))
    return headings, problems


def names_of(found: Iterable[Heading]) -> list[str]:
    """The histories, each once, in the order in which they come first."""
    return list(dict.fromkeys(heading.history for heading in found))


def admit(folder: BackupFolder, ours: str, *, join: bool) -> list[Heading]:
    """The headings of all states. Raises BackupError when none is of our history, unless `join`."""
    ours_there, _ = headings(folder)
    histories = names_of(ours_there)
    if histories and ours not in histories and not join:
        raise BackupError(
            f"{folder.path} holds another history of this archive: {_described(ours_there)}. This one, {ours}, began"
            " with a restore, a promotion or as a replica: give it a folder of its own,"
            " or keep both in this one with --join"
        )
    return ours_there


def choose(folder: BackupFolder, at: datetime | None, history: str | None) -> Manifest:
    """The newest state, not after `at` if given, of the only history or of the one whose name begins with `history`.

    Raises BackupError when there is none, or more than one history has such a state and none is named.
    """
    names = folder.names()
    if not names:
        raise BackupError(f"{folder.path} holds no backup")
    complete, problems = headings(folder)
    if history is not None:
        meant = [name for name in names_of(complete) if name.startswith(history)]
        if len(meant) != 1:
            what = f"{len(meant)} histories that begin with {history!r}"
            raise BackupError(f"{folder.path} holds {what}; it holds {_described(complete)}")
        complete = [heading for heading in complete if heading.history == meant[0]]
    candidates = [heading for heading in complete if at is None or heading.created <= at]
    if not candidates:
        when = f" from {at.isoformat()} or before" if at is not None else ""
        there = f"there are {_states(complete)}"
        raise BackupError("; ".join([f"{folder.path} holds no backup{when}", *problems, there]))
    if len(names_of(candidates)) > 1:
        raise BackupError(
            f"{folder.path} holds more than one history of this archive: {_described(candidates)}. Name one:"
            f" --lineage {names_of(candidates)[-1]}"
        )
    newest = candidates[-1]
    damaged = [name for name in names if name > newest.name and name not in {heading.name for heading in complete}]
    if history is None and problems and any(at is None or time_of(name) <= at for name in damaged):
        raise BackupError(f"{problems[-1]}; an older state can be taken with --at {_moment(newest.created)}")
    return folder.read(newest.name)


def _described(found: list[Heading]) -> str:
    parts = []
    for name in names_of(found):
        times = [heading.created for heading in found if heading.history == name]
        parts.append(f"{name} ({len(times)} states, the last of {_moment(times[-1])})")
    return ", ".join(parts)


def _states(found: list[Heading]) -> str:
    if not found:
        return "none that can be read"
    shown = [_moment(heading.created) for heading in found[-STATES_SHOWN:]]
    return ("… " if len(found) > STATES_SHOWN else "") + ", ".join(shown)


def _moment(created: datetime) -> str:
    return created.astimezone().isoformat(timespec="seconds")


def claims(folder: BackupFolder, found: Iterable[Heading], ours: str) -> dict[str, int]:
    """File name of a copy → how many of its bytes states of other histories need. Never overwrite these.

    Raises BackupError when one of them cannot be read.
    """
    needed: dict[str, int] = {}
    for heading in found:
        if heading.history != ours:
            for copy in folder.read(heading.name).copies:
                needed[copy.file_name] = max(needed.get(copy.file_name, 0), copy.length)
    return needed


def prune(folder: BackupFolder, keep: int, ours: str) -> Pruned:
    """Removes all but the newest `keep` states of our history, then the segments that no state names any more."""
    files = folder.files
    whole: list[Manifest] = []
    for name in folder.names():
        try:
            whole.append(folder.read(name))
        except BackupError as error:
            logger.error("not pruned: a manifest cannot be read, what it names is not known", error=for_log(error))
            return Pruned(0, 0)
    own = [manifest for manifest in whole if manifest.history == ours]
    newest = {copy.segment_id: copy for copy in own[-1].segments} if own else {}
    own = [manifest for manifest in own if _agrees(manifest, newest)]
    removed = own[:-keep]
    for manifest in removed:
        files.unlink(f"{folder.manifests}/{manifest.file_name}")
    files.sync_directory(folder.manifests)
    dropped = {manifest.file_name for manifest in removed}
    named = {copy.file_name for manifest in whole if manifest.file_name not in dropped for copy in manifest.copies}
    unnamed = 0
    for log_name in (IMAGES, *HOSPITAL):
        names = [name for name in folder.files_of(log_name) if name not in named]
        for name in names:
            files.unlink(f"{folder.segments if log_name == IMAGES else folder.path}/{name}")
        if names:
            files.sync_directory(str(folder.path / log_name))
        unnamed += len(names)
    return Pruned(len(removed), unnamed)


def _agrees(manifest: Manifest, newest: dict[int, SegmentCopy]) -> bool:
    """Whether a state came before the newest one: no segment is in another file there, or has a higher number
    than the last of its slot."""
    last = newest_of_slots(newest)
    return all(
        copy.segment_id <= last.get(slot_of(copy.segment_id), -1)
        and newest.get(copy.segment_id, copy).file_name == copy.file_name
        for copy in manifest.segments
    )


def listed(path: Path) -> list[dict[str, object]]:
    """Every state of a backup as plain data, the oldest first. Raises BackupError when this is none."""
    folder = BackupFolder(path, Files())
    folder.archive_id()
    rows: list[dict[str, object]] = []
    for name in folder.names():
        try:
            manifest = folder.read(name)
        except BackupError as error:
            rows.append({"created": time_of(name).astimezone(UTC).isoformat(), "error": str(error)})
            continue
        rows.append(
            {
                "created": manifest.created.astimezone().isoformat(timespec="microseconds"),
                "lineage": manifest.history,
                "segments": len(manifest.segments),
                "bytes": manifest.total_bytes,
                "error": "",
            }
        )
    return rows
