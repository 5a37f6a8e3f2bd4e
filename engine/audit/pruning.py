"""Removes events that are older than [audit] keep_days: whole files, after a signed statement of what they end with.

A file goes when all of its events are old, is not the last of its chain, and only one of each chain a day: a clock that
jumped ahead by years must not empty the log before somebody notices. An empty file, DATA/audit/pruned, has the time of
the last pass, so that a server that is started again each day prunes too, and one that starts again and again no more.

The logs of sources (`logs`) go likewise when the archive is no replica any more, to their last file, since nothing is
added to them. A checkpoint of the own log says so: by the chain's label, "LINEAGE/007" or "LINEAGE/checkpoints".
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import orjson

from engine import log
from engine.audit.chain import HASH_BYTES, Head, chain_files, chain_names, first_number, folder_of, parse_head
from engine.audit.checkpoint import CHECKPOINTS, Notary, checkpoint_files, parse
from engine.audit.event import when
from engine.audit.logs import source_roots
from engine.audit.reading import lines_of
from engine.storage.files import Files

logger = log.get("audit.pruning")

PASS_S: Final = 86400.0

PRUNED: Final = "pruned"

_NOTHING: Final = Head(0, b"")


def until_pass_s(data: Path, now_s: float) -> float:
    """Seconds until the next pass, by the clock; 0: it is due, also if the last one seems to be still to come."""
    try:
        since_s = now_s - os.stat(folder_of(data) / PRUNED).st_mtime
    except FileNotFoundError:
        return 0.0
    return PASS_S - since_s if 0 <= since_s < PASS_S else 0.0


def note_pass(data: Path, now_s: float) -> None:
    """Notes that a pass has ended. Raises OSError."""
    path = folder_of(data) / PRUNED
    path.touch(mode=0o600)
    os.utime(path, (now_s, now_s))


def prune(data: Path, notary: Notary, keep_days: float, files: Files, *, with_sources: bool = False) -> int:
    """Removes what is old enough; returns the number of files. Raises StorageFull, StorageFailed.

    `with_sources`: nobody ships the logs of sources here any more.
    """
    limit = when(time.time_ns() - int(keep_days * 86400e9))
    old = {each.label: each for each in _old_files(data, "", limit, is_ended=False)}
    for lineage, root in source_roots(data).items() if with_sources else ():
        old |= {each.label: each for each in _old_files(root, f"{lineage}/", limit, is_ended=True)}
    if not old:
        return 0
    # A statement that goes with its file is repeated: for years nothing may have been removed of that chain.
    earlier = _statements_in(old[CHECKPOINTS].path) if CHECKPOINTS in old else {}
    notary.sign(pruned=earlier | {label: each.head for label, each in old.items()})
    for each in old.values():
        files.unlink(str(each.path))
        files.sync_directory(os.path.dirname(each.path))
        name = f"{each.label}/{each.path.name}"
        logger.info("old audit events were removed", file=name, before=limit)
    return len(old)


class _Old(NamedTuple):
    """The first file of a chain, or of the checkpoints of a log; all in it is old."""

    label: str
    path: Path
    head: Head
    """Its last record."""


def _old_files(root: Path, prefix: str, limit: str, *, is_ended: bool) -> Iterator[_Old]:
    """`is_ended`: nothing is added to this log, so that the last file of a chain goes too."""
    has_events = False
    for name in chain_names(root):
        paths = chain_files(root, name)
        has_events = has_events or bool(paths)
        head = _last_of_old(paths[0], limit) if len(paths) > 1 or (is_ended and paths) else None
        if head is not None and (len(paths) == 1 or head.number + 1 == first_number(paths[1])):
            yield _Old(prefix + name, paths[0], head)
    signed = checkpoint_files(root)
    if len(signed) > 1 or (is_ended and signed and not has_events):
        head = _last_checkpoint_of_old(signed[0], limit)
        if head is not None:
            yield _Old(prefix + CHECKPOINTS, signed[0], head)


def _statements_in(path: Path) -> dict[str, Head]:
    """The newest statement about each chain in a file of checkpoints."""
    statements: dict[str, Head] = {}
    for line in lines_of(path):
        checkpoint = parse(line)
        for label, head in checkpoint.pruned.items() if checkpoint is not None else ():
            if label != CHECKPOINTS and head.number > statements.get(label, _NOTHING).number:
                statements[label] = head
    return statements


def _last_of_old(path: Path, limit: str) -> Head | None:
    """The last record of a file whose events are all older than the limit."""
    last = b""
    for line in lines_of(path):
        last = line
    head = parse_head(last)
    try:
        return head if head is not None and orjson.loads(last[HASH_BYTES + 1 :])["t"] < limit else None
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None


def _last_checkpoint_of_old(path: Path, limit: str) -> Head | None:
    last = b""
    for line in lines_of(path):
        last = line
    checkpoint = parse(last)
    if checkpoint is None or checkpoint.time >= limit:
        return None
    return Head(checkpoint.number, bytes.fromhex(checkpoint.digest))
