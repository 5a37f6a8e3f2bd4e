"""Removes events that are older than [audit] keep_days: whole files, after a signed statement of what they end with.

A file goes when all of its events are old, is not the last of its chain, and only one of each chain a day: a clock that
jumped ahead by years must not empty the log before somebody notices.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

import orjson

from engine import log
from engine.audit.chain import HASH_BYTES, Head, chain_files, chain_names, first_number, parse_head
from engine.audit.checkpoint import CHECKPOINTS, Notary, checkpoint_files, parse
from engine.audit.event import when
from engine.audit.reading import lines_of
from engine.storage.files import Files

logger = log.get("audit.pruning")

PASS_S: Final = 86400.0


def prune(data: Path, notary: Notary, keep_days: float, files: Files) -> int:
    """Removes what is old enough; returns the number of files. Raises StorageFull, StorageFailed."""
    limit = when(time.time_ns() - int(keep_days * 86400e9))
    old: dict[str, Head] = {}
    paths: list[Path] = []
    for name in chain_names(data):
        candidates = chain_files(data, name)
        head = _last_of_old(candidates[0], limit) if len(candidates) > 1 else None
        if head is not None and head.number + 1 == first_number(candidates[1]):
            old[name] = head
            paths.append(candidates[0])
    signed = checkpoint_files(data)
    if len(signed) > 1 and (head := _last_checkpoint_of_old(signed[0], limit)) is not None:
        old[CHECKPOINTS] = head
        paths.append(signed[0])
    if not paths:
        return 0
    notary.sign(pruned=old)
    for path in paths:
        files.unlink(str(path))
        files.sync_directory(os.path.dirname(path))
        logger.info("old audit events were removed", file=f"{path.parent.name}/{path.name}", before=limit)
    return len(paths)


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
