"""Signs the audit log of an archive that no server keeps."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from engine import log
from engine.archive.keeper import KeeperLock
from engine.archive.layout import existing
from engine.audit.checkpoint import Notary
from engine.errors import ArchiveInUse, EngineError, for_log

logger = log.get("archive.audit")


def sign(data: Path, signing_key: Path | None, *, is_keeper: bool) -> None:
    """Signs what processes have recorded, unless a keeper lives: a server signs itself. Never raises.

    `is_keeper`: whether this process keeps the archive.
    """
    try:
        with nullcontext() if is_keeper else KeeperLock(existing(data)):
            Notary(data, signing_key).sign()
    except ArchiveInUse:
        pass
    except (EngineError, OSError) as error:
        logger.warning("the audit log is not signed", error=for_log(error))
