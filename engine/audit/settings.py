"""The [audit] table: whether the audit log is kept, how long, and who signs it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from engine.setting import FIXED, MIB


class Audit(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The audit log: who did what with which patient's data."""

    enabled: Annotated[bool, FIXED] = True
    """Whether it is kept. Without it nobody can show who has seen or deleted something (HIPAA 164.312(b))."""

    keep_days: Annotated[int, Meta(ge=1, le=36_500)] = 2192
    """Days that events are kept: six years, as HIPAA asks of documentation (164.316(b)(2)). Files with older ones are
    removed, and a signed statement names their last record."""

    signing_key: Annotated[Path | None, FIXED] = None
    """The Ed25519 key that signs checkpoints, in PEM; unset: DATA/audit/signing-key.pem, made at the first start. Only
    the supervisor reads it. Put it on another medium to make a stolen disk useless to a forger."""

    reserve_bytes: Annotated[int, Meta(ge=0, le=1024 * MIB), FIXED] = 4 * MIB
    """Disk space that is freed when the disk is full, so that a deletion, which makes room, can be recorded."""
