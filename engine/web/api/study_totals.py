"""/api/studies/totals: how many studies, instances and bytes the filters of /api/studies match.

    {"studies": 812, "instances": 240113, "bytes": 98123456789, "is_exact": true}

Exact, unless there is more to count than TOTALS_S of work allow: then these are what has been counted so far. Without
filters the figures are those of the whole archive, and `bytes` has the heads of its records too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from engine.access import FULL, Action
from engine.archive.questions import Explanation, Match
from engine.dicom import tags
from engine.web.api.json_bodies import answer
from engine.web.api.studies import search_of
from engine.web.window import SLICE_S

if TYPE_CHECKING:
    from aiohttp import web

    from engine.archive.view import View
    from engine.web.request import Request

TOTALS_S: Final = 0.3
AT_ONCE: Final = 200
"""Studies whose sizes are read in one transaction."""


@dataclass(slots=True)
class _Totals:
    """The totals so far, for one thread at a time."""

    view: View
    steps: Iterator[Match | None]
    studies: int = 0
    instances: int = 0
    payload_bytes: int = 0
    is_over: bool = False
    work_s: float = 0.0

    def slice(self) -> None:
        """Counts for SLICE_S."""
        start_s, uids = perf_counter(), list[bytes]()
        for step in self.steps:
            if step is not None:
                uids.append(step.attributes[tags.StudyInstanceUID])
            if len(uids) == AT_ONCE:
                self._add(uids)
                uids = []
            if perf_counter() - start_s >= SLICE_S:
                break
        else:
            self.is_over = True
        self._add(uids)
        self.work_s += perf_counter() - start_s

    def _add(self, uids: list[bytes]) -> None:
        for instances, size in self.view.sizes(uids):
            self.studies += 1
            self.instances += instances
            self.payload_bytes += size


async def totals(request: Request) -> web.Response:
    """Counts. Raises RequestError, QueryError."""
    query = search_of(request, ()).query
    view, pools = request.view(Action.QUERY), request.engine.pools
    if view.scope is FULL and not any(query.keys.values()):
        stats = await pools.index.run(request.engine.archive.stats)
        facts: dict[str, Any] = {name: stats[name] for name in ("studies", "instances")}
        return answer({**facts, "bytes": stats["live_bytes"], "is_exact": True})
    keys = {tag: value for tag, value in query.keys.items() if value}
    bare = replace(query, keys={**keys, tags.StudyInstanceUID: keys.get(tags.StudyInstanceUID, b"")})
    search = _Totals(view, view.find_steps(bare, Explanation()))
    while not search.is_over and search.work_s < TOTALS_S:
        await pools.index.run(search.slice)
    return answer(
        {
            "studies": search.studies,
            "instances": search.instances,
            "bytes": search.payload_bytes,
            "is_exact": search.is_over,
        }
    )
