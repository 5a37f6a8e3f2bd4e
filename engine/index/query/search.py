"""Runs a query at its level: finds candidates, tests them, and returns the matches in pages.

    1  candidates   the most selective access: unique keys, else the shortest ranges of `search`, else everything; only
                    ids, in the order of arrival, which is also the order of the answers
    2  walk         patient or study → series → instance down to the level; every condition is tested at its level, and
                    keys below the level (relational) test whether anything below meets them
    3  page         one read transaction makes some matches in some milliseconds. No transaction is open while the
                    caller handles a match, and between two transactions the caller may serve others

An entity that is stored or deleted between two pages may or may not be seen; all others are seen once. `matching`
defines the meaning of keys; the service answers Query/Retrieve Level, Retrieve AE Title and the like; `selection` finds
the instances of a retrieval. Standard: PS3.4 C.4.1.
"""

from __future__ import annotations

from collections.abc import Iterator

from engine.access.scope import FULL, Scope
from engine.index.database.environment import Environment
from engine.index.format.types import Match, Query
from engine.index.query import private_attributes
from engine.index.query.access import find_in_steps
from engine.index.query.explanation import Explanation
from engine.index.query.plan import Plan, check_hierarchy
from engine.index.query.reading import Reading
from engine.index.query.walk import Walk

FIRST_PAGE = 32
"""Matches in the first page, for an early first answer."""
PAGE = 200
"""Matches in the other pages: some milliseconds."""
COUNTED_AT_ONCE = 100
"""Places tested in a read transaction that only counts: the caller may stop at any time."""


def search(
    environment: Environment, query: Query, explanation: Explanation | None = None, scope: Scope = FULL
) -> Iterator[Match]:
    """The matches of a query in a stable order. Raises QueryError at once, not at the first match.

    Fills in `explanation` on the way.
    """
    return (match for match in search_steps(environment, query, explanation, scope) if match is not None)


def search_steps(
    environment: Environment, query: Query, explanation: Explanation | None = None, scope: Scope = FULL
) -> Iterator[Match | None]:
    """The same with a None between two read transactions, so that the caller can do other work while nothing matches.

    Between two values it tests at most `walk.EXAMINED_MAX` candidates, for some `walk.STEP_S`, or reads
    `access.KEYS_MAX` keys.
    """
    schema = environment.schema
    private_keys = private_attributes.of(query, schema)
    if private_keys is not None:
        query = private_keys.query
    plan = Plan.of(query, schema)
    check_hierarchy(query, plan)
    walk = Walk(Reading(environment, query, plan, explanation or Explanation(), scope))
    walk.start_after(query.after)
    steps = _steps(walk)
    return steps if private_keys is None else (match and private_keys.with_query_tags(match) for match in steps)


def _steps(walk: Walk) -> Iterator[Match | None]:
    """Matches page by page; None between two pages."""
    reading = walk.reading
    query, explanation = reading.query, reading.explanation
    yield from find_in_steps(reading, walk.candidates)
    to_skip = query.offset
    remaining = query.limit if query.limit is not None else 1 << 62
    page = FIRST_PAGE
    while remaining > 0:
        matches: list[Match] = []
        with reading.transaction():
            walk.examined = 0
            is_over = True
            for place in walk.places():
                if place is None:
                    is_over = False
                    break
                if to_skip > 0:
                    to_skip -= 1
                else:
                    matches.append(place.match())
                if len(matches) >= min(page, remaining) or walk.is_step_over():
                    is_over = False
                    break
        explanation.pages += 1
        explanation.examined += walk.examined
        explanation.matches += len(matches)
        remaining -= len(matches)
        yield from matches
        if is_over:
            return
        yield None
        page = PAGE
    yield from _count_beyond(walk, to_skip)


def _count_beyond(walk: Walk, to_skip: int) -> Iterator[None]:
    """Counts the matches after the last one returned."""
    reading = walk.reading
    explanation, most = reading.explanation, reading.query.count_max
    is_over = explanation.beyond >= most
    while not is_over:
        with reading.transaction():
            walk.examined = 0
            is_over = True
            for place in walk.places():
                if place is not None and to_skip > 0:
                    to_skip -= 1
                elif place is not None:
                    explanation.beyond += 1
                if place is None or explanation.beyond == most or walk.examined >= COUNTED_AT_ONCE:
                    is_over = explanation.beyond == most
                    break
        explanation.examined += walk.examined
        yield None
