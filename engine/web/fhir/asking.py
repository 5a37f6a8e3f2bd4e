"""Questions to the archive for resources of FHIR."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Final

from engine.archive.admin import studies as facts_of_studies
from engine.archive.questions import Level, Match, Query, query_of, set_key
from engine.dicom import tags
from engine.errors import QueryError, RequestError
from engine.fhir.datatypes import Attributes
from engine.fhir.imaging_study import INSTANCE_ATTRIBUTES, SERIES_ATTRIBUTES, Study
from engine.web.errors import TooLarge
from engine.web.window import SLICE_S

if TYPE_CHECKING:
    from engine.archive.questions import Keys
    from engine.archive.view import View
    from engine.fhir.search import Search
    from engine.web.request import Request

SERIES_MAX: Final = 1000
"""Series of one study in a resource."""
INSTANCES_MAX: Final = 10_000
"""Studies with more instances are read without them: 10 000 are 1.2 MB and 0.2 s."""


def query(view: View, level: Level, search: Search, returned: Iterable[int]) -> Query:
    """The query of a search. Raises RequestError."""
    keys: Keys = {}
    try:
        for tag, value in search.keys.items():
            if view.schema.vr_of(tag) == "UI":
                keys[tag] = value  # unchecked: archives have invalid UIDs of some writers, which must be found too
            else:
                set_key(keys, [tag], value, view.schema)
        for tag in returned:
            keys.setdefault(tag, "")
        return query_of(level, keys, view.schema, date_time=True, timezone=True)
    except QueryError as error:
        # Without the value: the client knows it, and it may identify a patient.
        names = ", ".join(map(tags.keyword_of, error.offending_elements)) or "a parameter"
        raise RequestError(f"the value of {names} cannot be searched for") from None


async def matches(request: Request, view: View, asked: Query) -> list[Attributes]:
    """All matches. Raises TooLarge when the search takes too long."""
    found: list[Attributes] = []
    steps, timeout_s, work_s = view.find_steps(asked), request.config.limits.query_timeout_s, 0.0
    while not await request.engine.pools.index.run(partial(_slice, steps, found)):
        work_s += SLICE_S
        if timeout_s and work_s > timeout_s:
            raise TooLarge(f"the search was stopped after {timeout_s:g} s: narrow it")
    return found


def _slice(steps: Iterator[Match | None], found: list[Attributes]) -> bool:
    """Works for SLICE_S. Returns whether that was all."""
    start_s = perf_counter()
    for step in steps:
        if step is not None:
            found.append(step.attributes)
        if perf_counter() - start_s >= SLICE_S:
            return False
    return True


async def study(request: Request, view: View, attributes: Attributes, *, with_instances: bool) -> Study:
    """A study with its series, and its instances if there are not too many."""
    uid = attributes[tags.StudyInstanceUID].decode("utf-8", "replace")
    series = await matches(request, view, _below(view, Level.SERIES, uid, SERIES_ATTRIBUTES, SERIES_MAX))
    instances = None
    if with_instances:
        found = await matches(request, view, _below(view, Level.IMAGE, uid, INSTANCE_ATTRIBUTES, INSTANCES_MAX + 1))
        instances = found if len(found) <= INSTANCES_MAX else None
    facts = await request.engine.pools.index.run(partial(facts_of_studies.summary, view, uid))
    return Study(attributes, series, instances, facts["last_received"] or "")


def _below(view: View, level: Level, uid: str, returned: Iterable[int], limit: int) -> Query:
    keys = {tags.StudyInstanceUID: uid, **dict.fromkeys(returned, "")}
    return query_of(level, keys, view.schema, limit=limit)
