"""What the command line does with another archive: sends it what is stored here, and pulls what is stored there.

The part of `backend` for that; nothing here writes to the terminal.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from engine.archive.selection import Selection
from engine.cli import backend, query
from engine.cli.output import Progress
from engine.config import Config, Peer
from engine.services import stored_scu
from engine.services.stored_scu import StoredReport

__all__ = ["StoredReport", "send"]


def send(
    config: Config,
    peer: Peer,
    wanted: list[query.Keys],
    report: StoredReport,
    missing: list[str],
    progress: Progress,
    *,
    retries: int = 1,
    resume: Path | None = None,
) -> None:
    """Sends what matches; `missing` gets the UIDs that are named and not stored. Raises AssociationFailed."""
    remaining = stored_scu.Remaining(resume) if resume is not None else None
    with backend.opened(config) as archive:
        missing.extend(backend.not_stored(archive, wanted))
        matching = backend.matching(archive, wanted)
        folder = Path(tempfile.gettempdir()) if archive.is_read_only else archive.layout.index
        with Selection(remaining.of(matching) if remaining else matching, Path(folder)) as selection:
            resources = stored_scu.Resources(archive, config)
            try:
                if remaining is not None:
                    remaining.save()
                work = stored_scu.send_stored(
                    resources,
                    peer,
                    selection,
                    report,
                    progress,
                    retries=retries,
                    is_taken=remaining.taken if remaining is not None else lambda uid: None,
                )
                backend.run(work)
            finally:
                resources.close()
                if remaining is not None:
                    remaining.save()
