"""Questions to the archive for resources of FHIR."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Final

from engine.archive.admin import studies as facts_of_studies
from engine.archive.questions import Level, Query, query_of, set_key
from engine.dicom import tags
from engine.errors import QueryError, RequestError
from engine.fhir.datatypes import Attributes
from engine.fhir.imaging_study import INSTANCE_ATTRIBUTES, SERIES_ATTRIBUTES, Study
from engine.fhir.search import Search
from engine.web.errors import TooLarge
from engine.web.window import SLICE_S

if TYPE_CHECKING:
    from engine.archive.questions import Keys
    from engine.archive.view import View
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
    await run(request, _collected(view, asked, found))
    return found


async def read_study(request: Request, view: View, asked: Query) -> Study | None:
    """The study of a query with its series, and its instances if there are not too many. Raises TooLarge."""
    found: list[Attributes] = []
    studies: list[Study] = []

    def steps() -> Iterator[None]:
        yield from _collected(view, asked, found)
        yield from _completed(view, found[:1], studies, with_instances=True)

    await run(request, steps())
    return studies[0] if studies else None


async def with_series(request: Request, view: View, found: Sequence[Attributes]) -> list[Study]:
    """Studies with their series. Raises TooLarge."""
    studies: list[Study] = []
    await run(request, _completed(view, found, studies, with_instances=False))
    return studies


def completed(view: View, found: Sequence[Attributes]) -> Iterator[Study | None]:
    """Studies with their series, for a thread; None: the caller may do other work."""
    studies: list[Study] = []
    for _ in _completed(view, found, studies, with_instances=False):
        yield studies.pop() if studies else None


def last_updated(view: View, attributes: Attributes) -> str:
    """When an instance of a study arrived last: an instant; "" if nobody knows."""
    uid = attributes[tags.StudyInstanceUID].decode("utf-8", "replace")
    return facts_of_studies.summary(view, uid)["last_received"] or ""


async def run(request: Request, steps: Iterator[None]) -> None:
    """Does all steps in a thread, SLICE_S at a time. Raises TooLarge when they take too long."""
    timeout_s, work_s = request.config.limits.query_timeout_s, 0.0
    while not await request.engine.pools.index.run(partial(_slice, steps)):
        work_s += SLICE_S
        if timeout_s and work_s > timeout_s:
            raise TooLarge(f"the search was stopped after {timeout_s:g} s: narrow it")


def _slice(steps: Iterator[None]) -> bool:
    """Works for SLICE_S. Returns whether that was all."""
    start_s = perf_counter()
    return all(perf_counter() - start_s < SLICE_S for _ in steps)


def _collected(view: View, asked: Query, found: list[Attributes]) -> Iterator[None]:
    for match in view.find_steps(asked):
        if match is not None:
            found.append(match.attributes)
        yield


def _completed(
    view: View, found: Sequence[Attributes], studies: list[Study], *, with_instances: bool
) -> Iterator[None]:
    """Adds to studies what is below them, with one query for all: a query costs as much as ten of its answers."""
    uids = [attributes[tags.StudyInstanceUID].decode("utf-8", "replace") for attributes in found]
    keys = {tags.StudyInstanceUID: "\\".join(uids)}
    series: list[Attributes] = []
    instances: list[Attributes] = []
    if uids:
        yield from _collected(view, below(view, Level.SERIES, keys, SERIES_ATTRIBUTES, SERIES_MAX * len(uids)), series)
    if uids and with_instances:
        limit = (INSTANCES_MAX + 1) * len(uids)
        yield from _collected(view, below(view, Level.IMAGE, keys, INSTANCE_ATTRIBUTES, limit), instances)
    are_given = with_instances and len(instances) <= INSTANCES_MAX
    by_study: dict[bytes, list[Attributes]] = {}
    for each in series:
        by_study.setdefault(each[tags.StudyInstanceUID], []).append(each)
    for attributes in found:
        own = by_study.get(attributes[tags.StudyInstanceUID], [])
        studies.append(Study(attributes, own, instances if are_given else None, last_updated(view, attributes)))
        yield


def below(view: View, level: Level, keys: dict[int, str], returned: Iterable[int], limit: int | None = None) -> Query:
    """The query for entities of a level by keys of any level. Raises RequestError."""
    return replace(query(view, level, Search(keys=keys), returned), relational=True, limit=limit)
