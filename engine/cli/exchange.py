"""The part of `backend` for other archives: sends stored instances to them and pulls studies from them.

Nothing here writes to the terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.archive.selection import Selection
from engine.cli import backend, query
from engine.cli.output import Progress
from engine.config import Config, Peer
from engine.dicom import tags
from engine.errors import ConfigError, QueryError
from engine.exchange import sending
from engine.exchange.web_pull import web_pulling
from engine.index.query import key_values
from engine.services import stored_scu
from engine.services.pull import pulling
from engine.services.pull_plan import PullQuery
from engine.services.pull_report import PullReport
from engine.services.stored_scu import StoredReport

__all__ = ["PullReport", "StoredReport", "PullQuery", "planned", "pull", "send", "pull_query_of"]


def send(
    config: Config,
    peer: Peer,
    queries: list[query.Keys],
    report: StoredReport,
    missing: list[str],
    progress: Progress,
    *,
    retries: int = 1,
    resume: Path | None = None,
) -> None:
    """Sends the matching instances; adds named UIDs that are not stored to `missing`. Raises AssociationFailed."""
    remaining = stored_scu.RemainingFile(resume) if resume is not None else None
    with backend.opened(config) as archive:
        missing.extend(backend.not_stored(archive, queries))
        matching = backend.matching(archive, queries)
        with Selection(remaining.select(matching) if remaining else matching, archive.scratch_folder) as selection:
            resources = stored_scu.Resources(archive, config)
            try:
                if remaining is not None:
                    remaining.save()
                work = sending.send(
                    resources,
                    peer,
                    selection,
                    report,
                    progress,
                    retries=retries,
                    on_sent=remaining.remove if remaining is not None else lambda uid: None,
                )
                backend.run(work)
            finally:
                resources.close()
                if remaining is not None:
                    remaining.save()


def pull(
    config: Config,
    peer: Peer,
    pull_query: PullQuery,
    report: PullReport,
    progress: Progress,
    *,
    is_move: bool,
    **options: int,
) -> None:
    """Pulls the requested studies from a peer; `options` as in `services.pull.pulling`.

    Raises AssociationFailed, and ControlUnavailable for a C-MOVE without a running server to receive it.
    """
    if is_move and peer.url and not peer.has_address:
        raise ConfigError(f"peer {peer.aet} has a url only: there is no C-MOVE to it")
    if is_move:
        backend.control(config, "stats")
    with backend.opened(config, create=True, progress=progress) as archive:

        async def run() -> None:
            if peer.url and not is_move:
                async with web_pulling(archive, config, peer, pull_query, report, progress) as web_pull:
                    await web_pull.run()
                return
            async with pulling(archive, config, peer, pull_query, report, progress, is_move=is_move, **options) as work:
                await work.run()

        backend.run(run())


def planned(
    config: Config, peer: Peer, pull_query: PullQuery, report: PullReport, progress: Progress
) -> list[dict[str, Any]]:
    """The matching studies, with the number of missing instances of each. Raises AssociationFailed."""
    rows: list[dict[str, Any]] = []
    with backend.opened(config) as archive:

        async def run() -> None:
            if peer.url:
                async with web_pulling(archive, config, peer, pull_query, report, progress) as web_pull:
                    rows.extend(await web_pull.plan())
                return
            async with pulling(archive, config, peer, pull_query, report, progress) as work:
                rows.extend([study.facts() async for study in work.plan()])

        backend.run(run())
    return rows


def pull_query_of(
    studies: Sequence[str], keys: Sequence[str], since: str | None, limit: int | None, *, again: bool
) -> PullQuery:
    """The request of a command line. Raises QueryError."""
    for uid in studies:
        key_values.check_uid(uid)
    values = {tag: value for tag, value in query.parse(keys).values.items() if value} if keys else {}
    if since:
        if tags.StudyDate in values:
            raise QueryError("--since and StudyDate both limit the study date; give one of them")
        values |= {tag: value for tag, value in query.parse([f"StudyDate={since}-"]).values.items() if value}
    return PullQuery(tuple(dict.fromkeys(studies)), values, limit, again)
