"""Brings what matches at a DICOMweb server into this archive: QIDO-RS, then WADO-RS of what is not here.

    QIDO studies ─► QIDO instances of each ─► what is not here?
                                                nothing of the study or of a series is here: it is asked for whole
                                                else instance by instance
                                           ─► what did not come is asked for once more, one by one; then it is named

Everything is asked for as it is stored there (`transfer-syntax=*`). A pull that was interrupted goes on when it is
begun again: what is here is what the index has. Memory is that of the list of one study's instances.
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
from engine.exchange.arrival import Arrival
from engine.exchange.dicomweb import connected
from engine.index.format.types import Level, Outcome, Query
from engine.runtime.engine import Engine
from engine.services.pull_report import PullReport

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.archive.ingest.request import Answer
    from engine.config import Config, Peer
    from engine.exchange.dicomweb import DicomwebPeer
    from engine.services.pull_plan import Wish

Progress = Callable[[str, int, int], None]

PAGE: Final = 1000
"""Rows of one search; a server that gives fewer is asked for what follows."""
ROWS_MAX: Final = 1_000_000
ACCEPT: Final = 'multipart/related; type="application/dicom"; transfer-syntax=*'
LOST_MAX: Final = 3
"""Requests lost one after the other, after which the server is given up."""


@dataclass(frozen=True, slots=True)
class _There:
    """One instance of the peer."""

    study: str
    series: str
    uid: str

    @property
    def path(self) -> str:
        """Of the instance."""
        return f"{_study_path(self.study)}/series/{quote(self.series, safe='')}/instances/{quote(self.uid, safe='')}"


def _study_path(uid: str) -> str:
    return f"/studies/{quote(uid, safe='')}"


@asynccontextmanager
async def web_pulling(
    archive: Archive, config: Config, peer: Peer, wish: Wish, report: PullReport, progress: Progress
) -> AsyncIterator[WebPull]:
    """A pull into an archive that is open in this process."""
    failures: list[EngineError] = []
    engine = Engine.open(archive, config, writer=f"pull-{os.getpid()}", on_failure=failures.append, prewrite_bytes=0)
    try:
        async with connected(peer, config) as client:
            yield WebPull(engine, client, peer, wish, report, progress)
    finally:
        engine.close()


class WebPull:
    """One pull from one peer."""

    def __init__(
        self, engine: Engine, client: DicomwebPeer, peer: Peer, wish: Wish, report: PullReport, progress: Progress
    ) -> None:
        self._engine = engine
        self._client = client
        self._peer = peer
        self._wish = wish
        self._report = report
        self._progress = progress
        self._missing: dict[str, _There] = {}
        """Of what is being asked for: SOP Instance UID → where it is."""
        self._refusals: dict[str, str] = {}
        self._lost = 0
        self._fatal: EngineError | None = None

    async def run(self) -> None:
        """Plans and fetches. Raises AssociationFailed when the peer cannot be asked, or nothing comes; StorageFull."""
        began = time.monotonic()
        try:
            for uid in await self._studies():
                await self._study(uid)
                if self._fatal is not None:
                    raise self._fatal
        finally:
            self._report.seconds = time.monotonic() - began

    async def plan(self) -> list[dict[str, object]]:
        """The studies that match, and how many instances of each would come."""
        rows: list[dict[str, object]] = []
        for uid in await self._studies():
            there, here = await self._compare(uid)
            missing = [each for each in there if self._wish.again or each.uid not in here]
            rows.append(
                {
                    "StudyInstanceUID": uid,
                    "instances": len(there),
                    "here": len(there) - len(missing),
                    "missing": len(missing),
                }
            )
        return rows

    # -- asking

    async def _studies(self) -> list[str]:
        keys = {tags.keyword_of(tag): value for tag, value in self._wish.keys.items() if isinstance(value, str)}
        if len(keys) < len(self._wish.keys):
            raise AssociationFailed("sequences cannot be asked for of a DICOMweb server here")
        if not self._wish.studies:
            rows = await self._rows("/studies", keys, self._wish.limit)
            return list(dict.fromkeys(filter(None, (_text(row, "0020000D") for row in rows))))
        found = []
        for uid in self._wish.studies[: self._wish.limit]:
            if await self._rows("/studies", {**keys, "StudyInstanceUID": uid}, 1):
                found.append(uid)
            else:
                self._report.not_found.append(f"study {uid}")
        return found

    async def _rows(self, path: str, keys: dict[str, str], limit: int | None = None) -> list[dict[str, Any]]:
        """All rows of a search, page by page."""
        rows: list[dict[str, Any]] = []
        while limit is None or len(rows) < limit:
            count = PAGE if limit is None else min(PAGE, limit - len(rows))
            page = await self._client.rows(path, {**keys, "limit": str(count), "offset": str(len(rows))})
            known = len(rows)
            rows += page
            if not page or len(rows) >= ROWS_MAX or (known and page == rows[:known][-len(page) :]):
                break  # the end, or a server that does not know `offset`
            if len(page) > count:
                break  # nor `limit`: that was all
        return rows[:limit]

    async def _compare(self, study: str) -> tuple[list[_There], set[str]]:
        """The instances of a study there, and the UIDs of those that are here."""
        rows = await self._rows(f"{_study_path(study)}/instances", {})
        there = [_There(study, _text(row, "0020000E"), _text(row, "00080018")) for row in rows]
        keys = {tags.StudyInstanceUID: study.encode("ascii", "replace")}
        archive = self._engine.archive
        instances = await self._engine.pools.index.run(lambda: archive.instances(Query(Level.STUDY, {**keys})))
        unique = {each.uid: each for each in there if each.uid and each.series}
        return list(unique.values()), {instance.sop_instance_uid for instance in instances}

    # -- fetching

    async def _study(self, study: str) -> None:
        there, here = await self._compare(study)
        missing = [each for each in there if self._wish.again or each.uid not in here]
        report = self._report
        report.studies += 1
        report.studies_here += not missing
        report.here += len(there) - len(missing)
        self._missing = {each.uid: each for each in missing}
        self._tell()
        why = ""
        if missing and len(missing) == len(there):
            why = await self._get(_study_path(study))
        elif missing:
            why = await self._series_by_series(study, there)
        if self._missing and self._fatal is None:
            why = await self._one_by_one() or why
        for uid in self._missing:
            report.fail(uid, self._refusals.pop(uid, "") or why or "it did not come")
        self._missing = {}
        self._tell()

    async def _series_by_series(self, study: str, there: list[_There]) -> str:
        why = ""
        for series in dict.fromkeys(each.series for each in self._missing.values()):
            of_series = [each for each in there if each.series == series]
            if all(each.uid in self._missing for each in of_series):
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
        """What comes of one request is stored; "" or why not all came. Raises AssociationFailed for a lost peer."""
        arrival = Arrival(self._engine, self._peer, self._came)
        try:
            async with self._client.request("GET", path, headers={"Accept": ACCEPT}) as response:
                if response.status in (401, 403):
                    raise self._client.refused(response.status, path)
                if response.status not in (200, 206):
                    return str(self._client.refused(response.status, path))
                await arrival.store(response)
        except AssociationFailed as error:
            self._lost += 1
            if self._lost >= LOST_MAX or not self._report.arrived:
                raise
            return str(error)
        return ""

    def _came(self, answer: Answer, length: int) -> None:
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
        self._tell()

    def _tell(self) -> None:
        done = self._report.here + self._report.arrived + self._report.failed_count
        self._progress("pulling", done, done + len(self._missing))


def _text(row: dict[str, Any], tag: str) -> str:
    element = row.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    value = values[0] if isinstance(values, list) and values else ""
    return value.strip() if isinstance(value, str) else ""
