"""Pulls matching instances from a DICOMweb server: QIDO-RS, then WADO-RS for those that are not here.

    QIDO studies ─► QIDO instances of each ─► compare with the index
                                                no instance of the study, or of a series, is here: request it as a whole
                                                else request instance by instance
                                           ─► request instances that did not arrive once more, one by one; then report
                                              them as failed

All instances are requested as they are stored there (`transfer-syntax=*`). A pull keeps no state of its own: after an
interruption a new one compares with the index again. Memory is bounded by the list of one study's instances.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from engine.dicom import tags
from engine.errors import ArchiveReadOnly, AssociationFailed, EngineError, StorageFailed, StorageFull
from engine.exchange.arrival import ResponseStore
from engine.exchange.dicomweb import connected
from engine.index.format.types import Level, Outcome, Query
from engine.runtime.engine import Engine
from engine.services.pull_report import PullReport

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.archive.ingest.request import Answer
    from engine.config import Config, Peer
    from engine.exchange.dicomweb import DicomwebPeer
    from engine.services.pull_plan import PullQuery

Progress = Callable[[str, int, int], None]

PAGE: Final = 1000
"""Rows of one search; the next search asks for the following rows, even if the server returned fewer."""
ROWS_MAX: Final = 1_000_000
ACCEPT: Final = 'multipart/related; type="application/dicom"; transfer-syntax=*'
LOST_MAX: Final = 3
"""Consecutive failed requests after which we give up."""


@dataclass(frozen=True, slots=True)
class _PeerInstance:
    """One instance of the peer."""

    study: str
    series: str
    uid: str

    @property
    def path(self) -> str:
        """The path of the instance."""
        return f"{_study_path(self.study)}/series/{quote(self.series, safe='')}/instances/{quote(self.uid, safe='')}"


def _study_path(uid: str) -> str:
    return f"/studies/{quote(uid, safe='')}"


@asynccontextmanager
async def web_pulling(
    archive: Archive, config: Config, peer: Peer, query: PullQuery, report: PullReport, progress: Progress
) -> AsyncIterator[WebPull]:
    """A pull into an archive that is open in this process."""
    failures: list[EngineError] = []
    engine = Engine.open(archive, config, writer=f"pull-{os.getpid()}", on_failure=failures.append, prewrite_bytes=0)
    try:
        async with connected(peer, config) as client:
            yield WebPull(engine, client, peer, query, report, progress)
    finally:
        await engine.audit_trail.finish()
        engine.close()


class WebPull:
    """One pull from one peer."""

    def __init__(
        self, engine: Engine, client: DicomwebPeer, peer: Peer, query: PullQuery, report: PullReport, progress: Progress
    ) -> None:
        self._engine = engine
        self._client = client
        self._peer = peer
        self._query = query
        self._report = report
        self._progress = progress
        self._missing: dict[str, _PeerInstance] = {}
        """Instances of the present study that have not arrived, by SOP Instance UID."""
        self._refusals: dict[str, str] = {}
        self._lost = 0
        self._fatal: EngineError | None = None

    async def run(self) -> None:
        """Plans and retrieves. Raises StorageFull; AssociationFailed when no query is possible or nothing arrives."""
        start_s = time.monotonic()
        try:
            for uid in await self._studies():
                await self._study(uid)
                if self._fatal is not None:
                    raise self._fatal
        finally:
            self._report.seconds = time.monotonic() - start_s

    async def plan(self) -> list[dict[str, object]]:
        """The matching studies, with the number of missing instances of each."""
        rows: list[dict[str, object]] = []
        for uid in await self._studies():
            peer_instances, local_uids = await self._compare(uid)
            missing = [each for each in peer_instances if self._query.again or each.uid not in local_uids]
            rows.append(
                {
                    "StudyInstanceUID": uid,
                    "instances": len(peer_instances),
                    "here": len(peer_instances) - len(missing),
                    "missing": len(missing),
                }
            )
        return rows

    # -- queries ----------------------------------------------------------------------------------

    async def _studies(self) -> list[str]:
        keys = {tags.keyword_of(tag): value for tag, value in self._query.keys.items() if isinstance(value, str)}
        if len(keys) < len(self._query.keys):
            raise AssociationFailed("keys in sequences are not supported for a DICOMweb server")
        if not self._query.studies:
            rows = await self._rows("/studies", keys, self._query.limit)
            return list(dict.fromkeys(filter(None, (_text(row, "0020000D") for row in rows))))
        studies = []
        for uid in self._query.studies[: self._query.limit]:
            if await self._rows("/studies", {**keys, "StudyInstanceUID": uid}, 1):
                studies.append(uid)
            else:
                self._report.not_found.append(f"study {uid}")
        return studies

    async def _rows(self, path: str, keys: dict[str, str], limit: int | None = None) -> list[dict[str, Any]]:
        """All rows of a search, page by page."""
        rows: list[dict[str, Any]] = []
        while limit is None or len(rows) < limit:
            count = PAGE if limit is None else min(PAGE, limit - len(rows))
            page = await self._client.rows(path, {**keys, "limit": str(count), "offset": str(len(rows))})
            count_before = len(rows)
            rows += page
            if not page or len(rows) >= ROWS_MAX or (count_before and page == rows[:count_before][-len(page) :]):
                break  # the end, or the server ignores `offset`
            if len(page) > count:
                break  # the server ignores `limit`: these are all rows
        return rows[:limit]

    async def _compare(self, study: str) -> tuple[list[_PeerInstance], set[str]]:
        """The peer's instances of a study, and the UIDs of the study's instances in this archive."""
        rows = await self._rows(f"{_study_path(study)}/instances", {})
        peer_instances = [_PeerInstance(study, _text(row, "0020000E"), _text(row, "00080018")) for row in rows]
        keys = {tags.StudyInstanceUID: study.encode("ascii", "replace")}
        archive = self._engine.archive
        instances = await self._engine.pools.index.run(lambda: archive.instances(Query(Level.STUDY, {**keys})))
        unique = {each.uid: each for each in peer_instances if each.uid and each.series}
        return list(unique.values()), {instance.sop_instance_uid for instance in instances}

    # -- retrieval --------------------------------------------------------------------------------

    async def _study(self, study: str) -> None:
        peer_instances, local_uids = await self._compare(study)
        missing = [each for each in peer_instances if self._query.again or each.uid not in local_uids]
        report = self._report
        report.studies += 1
        report.studies_here += not missing
        report.here += len(peer_instances) - len(missing)
        self._missing = {each.uid: each for each in missing}
        self._show_progress()
        why = ""
        if missing and len(missing) == len(peer_instances):
            why = await self._get(_study_path(study))
        elif missing:
            why = await self._series_by_series(study, peer_instances)
        if self._missing and self._fatal is None:
            why = await self._one_by_one() or why
        for uid in self._missing:
            report.fail(uid, self._refusals.pop(uid, "") or why or "it did not arrive")
        self._missing = {}
        self._show_progress()

    async def _series_by_series(self, study: str, peer_instances: list[_PeerInstance]) -> str:
        why = ""
        for series in dict.fromkeys(each.series for each in self._missing.values()):
            if all(each.uid in self._missing for each in peer_instances if each.series == series):
                why = await self._get(f"{_study_path(study)}/series/{quote(series, safe='')}") or why
        return why

    async def _one_by_one(self) -> str:
        why = ""
        for each in list(self._missing.values()):
            if self._fatal is not None:
                break
            why = await self._get(each.path) or why
        return why

    async def _get(self, path: str) -> str:
        """Requests instances and stores them; returns "", or why some did not arrive.

        Raises AssociationFailed when the peer is unreachable, or refuses access.
        """
        store = ResponseStore(self._engine, self._peer, self._on_stored)
        try:
            async with self._client.request("GET", path, headers={"Accept": ACCEPT}) as response:
                if response.status in (401, 403):
                    raise self._client.refusal(response.status, path)
                if response.status not in (200, 206):
                    return str(self._client.refusal(response.status, path))
                await store.store(response)
        except AssociationFailed as error:
            self._lost += 1
            if self._lost >= LOST_MAX or not self._report.arrived:
                raise
            return str(error)
        return ""

    def _on_stored(self, answer: Answer, length: int) -> None:
        outcome, uid, report = answer.outcome, answer.sop_instance_uid, self._report
        if isinstance(outcome, EngineError):
            self._refusals[uid] = str(outcome)
            if isinstance(outcome, StorageFull | StorageFailed | ArchiveReadOnly):
                self._fatal = outcome
            return
        self._lost = 0
        if self._missing.pop(uid, None) is None:
            report.unwanted += 1
            return
        self._refusals.pop(uid, None)
        report.bytes += length
        if outcome is Outcome.DUPLICATE:
            report.duplicates += 1
        elif outcome is Outcome.KEPT_ASIDE:
            report.versions += 1
        else:
            report.stored += 1
        self._show_progress()

    def _show_progress(self) -> None:
        done = self._report.here + self._report.arrived + self._report.failed_count
        self._progress("pulling", done, done + len(self._missing))


def _text(row: dict[str, Any], tag: str) -> str:
    element = row.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    value = values[0] if isinstance(values, list) and values else ""
    return value.strip() if isinstance(value, str) else ""
