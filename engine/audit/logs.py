"""The audit logs of an archive: its own, and those of the archives that it is or was a replica of.

    DATA/audit/                       its own: what processes here have recorded
    DATA/sources/LINEAGE/audit/       the same of a source, as far as it came here; nobody here appends to it

LINEAGE has 32 hex digits (`archive.layout`), zeros for an archive that has none. A label names a chain among all logs:
"007" of the own log, "LINEAGE/007" of a source's. Each log has checkpoints and keys of its own.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final, NamedTuple

from engine.audit.chain import chain_names

SOURCES: Final = "sources"
_LINEAGE: Final = re.compile(r"[0-9a-f]{32}")


class Chain(NamedTuple):
    """One chain of one of the logs."""

    root: Path
    """Its log is ROOT/audit."""
    name: str


def source_root(data: Path, lineage: str) -> Path:
    """The folder of a source: its audit log is in `audit` there."""
    return data / SOURCES / lineage


def source_roots(data: Path) -> dict[str, Path]:
    """The folders of all sources, by their lineages."""
    try:
        names = os.listdir(data / SOURCES)
    except FileNotFoundError:
        return {}
    return {name: source_root(data, name) for name in sorted(names) if _LINEAGE.fullmatch(name)}


def chains(data: Path) -> dict[str, Chain]:
    """The chains of all logs, by their labels."""
    own = {name: Chain(data, name) for name in chain_names(data)}
    others = {
        f"{lineage}/{name}": Chain(root, name)
        for lineage, root in source_roots(data).items()
        for name in chain_names(root)
    }
    return own | others
