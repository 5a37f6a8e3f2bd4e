"""Finds the instances that a retrieval or a deletion names by its unique keys (PS3.4 C.4.2, C.4.3).

No read transaction is open while a caller handles an instance, and none lasts much longer than SELECT_S.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter

from engine.access.scope import FULL, Scope
from engine.dicom import tags
from engine.dicom.elements import blob_items
from engine.errors import QueryError
from engine.index.database.environment import Environment
from engine.index.database.failures import VALUE_ERRORS, read_error
from engine.index.format import keys
from engine.index.format.types import Instance, InstanceIdentifiers, Level, Query, Root
from engine.index.query.access import find_in_steps
from engine.index.query.explanation import Explanation
from engine.index.query.instances import instance_of_row
from engine.index.query.place import Place
from engine.index.query.plan import UNIQUE, Plan
from engine.index.query.reading import Reading
from engine.index.query.walk import Walk

SORTED_MAX = 100_000
"""Instances of one series that are sorted in memory."""
SELECT_S = 0.05
"""Seconds of a read transaction: some thousand instances. So most studies are read in one transaction, and a retrieval
that names a million does not keep old pages of the index alive."""


def select(environment: Environment, query: Query, scope: Scope = FULL) -> Iterator[Instance]:
    """The instances that a retrieval names by its unique keys.

    In the order of studies and series, then by Instance Number and SOP Instance UID; a series with more than SORTED_MAX
    instances is sorted in parts. Raises QueryError when the unique key of the level is missing. Those above the level
    may be missing, since UIDs need no context.
    """
    matches: list[tuple[int, bytes, Instance]] = []
    in_order: list[Instance] = []
    series_before = b""
    study_uid = series_uid = ""
    shared: dict[tuple[int, int, int, int], tuple[str, str, str, bytes]] = {}
    for place in _named_places(environment, query, scope):
        if place is None:
            yield from in_order
            in_order.clear()
            continue
        series = place.study_id + place.series_id
        if series != series_before or len(matches) >= SORTED_MAX:
            in_order += _sort(matches)
            matches.clear()
            series_before = series
            study_uid = place.values[Level.STUDY].get(tags.StudyInstanceUID, b"").decode("utf-8", "replace")
            series_uid = place.values[Level.SERIES].get(tags.SeriesInstanceUID, b"").decode("utf-8", "replace")
        # The context of the read transaction is in the generator: errors raised here do not pass through it.
        try:
            items = blob_items(place.instance_row[keys.INSTANCE.size :])
            instance = instance_of_row(place.instance_row, items, study_uid, series_uid, place.name_of, shared)
        except VALUE_ERRORS as error:
            raise read_error(error) from error
        number = _number(items.get(tags.InstanceNumber, b""))
        matches.append((number, items.get(tags.SOPInstanceUID, b""), instance))
    yield from in_order
    yield from _sort(matches)


def _sort(matches: list[tuple[int, bytes, Instance]]) -> list[Instance]:
    return [match[2] for match in sorted(matches, key=lambda match: match[:2])]


def select_identifiers(environment: Environment, query: Query, scope: Scope = FULL) -> list[InstanceIdentifiers]:
    """The identifiers of the same instances, in no order; takes a tenth of the time. Raises QueryError."""
    unpack = keys.INSTANCE.unpack_from
    blob_at = keys.INSTANCE.size
    tag = tags.SOPInstanceUID
    identifiers: list[InstanceIdentifiers] = []
    # Without a SOP Instance UID the walk ends at the series, and their instances are read without tests.
    level = Level.IMAGE if query.keys.get(tag) else Level.SERIES
    for place in _named_places(environment, query, scope, level):
        if place is None:
            continue
        study_uid = place.values[Level.STUDY].get(tags.StudyInstanceUID, b"").decode("utf-8", "replace")
        series_uid = place.values[Level.SERIES].get(tags.SeriesInstanceUID, b"").decode("utf-8", "replace")
        try:
            for row in [place.instance_row] if level == Level.IMAGE else place.instance_rows():
                fields = unpack(row)
                uid = blob_items(row[blob_at:]).get(tag, b"")
                identifiers.append(InstanceIdentifiers(uid, series_uid, study_uid, fields[0], fields[3]))
        except VALUE_ERRORS as error:
            raise read_error(error) from error
    return identifiers


def _named_places(
    environment: Environment, query: Query, scope: Scope, level: Level = Level.IMAGE
) -> Iterator[Place | None]:
    """The instances that unique keys name, or their series. Raises QueryError.

    Yields None between two read transactions, each of some SELECT_S.
    """
    own = UNIQUE[query.level]
    unique = {tag: query.keys[tag] for tag in (*UNIQUE.values(), *_also_unique(query)) if query.keys.get(tag)}
    named_query = Query(level, unique, Root.PATIENT, query.character_set, relational=True)
    plan = Plan.of(named_query, environment.schema, wildcards=False)
    if query.level not in query.root.value or own not in [condition.tag for condition in plan.conditions[query.level]]:
        raise QueryError(f"a retrieval at level {query.level.name} of this model needs {tags.keyword_of(own)}")
    reading = Reading(environment, named_query, plan, Explanation(), scope)
    walk = Walk(reading)
    yield from find_in_steps(reading, walk.candidates)
    is_over = False
    while not is_over:
        with reading.transaction():
            ends_at = perf_counter() + SELECT_S
            is_over = True
            for place in walk.places():
                if place is not None:
                    yield place
                if perf_counter() >= ends_at:
                    is_over = False
                    break
        yield None


def _also_unique(query: Query) -> tuple[int, ...]:
    """The issuer: a retrieval may use it to choose between two patients with one ID and different issuers."""
    return (tags.IssuerOfPatientID,) if query.level == Level.PATIENT else ()


def _number(text: bytes) -> int:
    try:
        return int(text)
    except ValueError:
        return 1 << 62
