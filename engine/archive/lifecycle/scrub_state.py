"""The place of a scrub: DATA/scrub.json, so that it continues there after a restart.

    {"crc32c": <of the bytes of state>, "state": {"number": …, "segment_id": …, "offset": …, …}}

Written to a temporary name, synced, renamed. If the file is missing, damaged or of another version, the pass starts
again and nothing else is lost: the findings are in the index.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from engine import log
from engine.errors import for_log
from engine.storage.files import Files, replace_file
from engine.storage.record import crc32c

logger = log.get("archive.scrub")

FORMAT = 1
STATE_BYTES_MAX = 64 << 10


class FinishedPass(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A pass that has ended."""

    number: int
    began_ns: int
    ended_ns: int
    read_bytes: int
    records: int
    damaged: int
    """Number of damaged records and parts of segments, including those known before."""


class ScrubState(msgspec.Struct, forbid_unknown_fields=True):
    """The pass under way, and the one before it."""

    format: int = FORMAT
    number: int = 1
    began_ns: int = 0
    """0: not begun; it begins when it is due."""
    segment_id: int = 0
    offset: int = 0
    """The pass has read everything before this place."""
    read_bytes: int = 0
    records: int = 0
    damaged: int = 0
    dead: int = 0
    """Number of damaged records that nobody needs: duplicates, replaced, healed or deleted ones."""
    last: FinishedPass | None = None


class _Checked(msgspec.Struct):
    crc32c: int
    state: msgspec.Raw


def path_of(data: Path) -> str:
    """The path of the state file."""
    return str(data / "scrub.json")


def load(path: str, files: Files) -> ScrubState:
    """The saved state; a new one if there is no valid one."""
    try:
        fd = files.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return ScrubState()
    except OSError as error:
        logger.warning("scrub.json cannot be read: the pass begins anew", reason=str(error.strerror))
        return ScrubState()
    try:
        checked = msgspec.json.decode(files.pread(fd, STATE_BYTES_MAX, 0), type=_Checked)
        if crc32c(bytes(checked.state)) != checked.crc32c:
            raise msgspec.ValidationError("wrong checksum")
        state = msgspec.json.decode(checked.state, type=ScrubState)
        if state.format != FORMAT or min(state.segment_id, state.offset, state.began_ns) < 0:
            raise msgspec.ValidationError(f"format {state.format}")
    except (OSError, msgspec.DecodeError) as error:
        logger.warning("scrub.json cannot be used: the pass begins anew", reason=for_log(error))
        return ScrubState()
    finally:
        files.close(fd)
    return state


def save(path: str, state: ScrubState, files: Files) -> None:
    """Replaces the saved state atomically. Raises StorageFull or StorageFailed."""
    content = msgspec.json.encode(state)
    replace_file(files, path, msgspec.json.encode(_Checked(crc32c(content), msgspec.Raw(content))))
