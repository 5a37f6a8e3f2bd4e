"""Runs a query at its level: which entities to look at, which of them match, in pages.

    1  candidates   the most selective access: unique keys, else the shortest ranges of `search`, else everything; ids
                    only, in their order, which is the order of arrival and the order of the answers
    2  walk         patient or study → series → instance down to the level, every condition tested at its level; keys
                    below the level (relational) ask whether anything below meets them
    3  page         some matches are made in one read transaction, some milliseconds long; none is open while a caller
                    has one of them, and between two of them a caller who has others to serve may do so

What is stored or deleted between two pages may or may not be seen; what was there all the time is seen once.
Not here: what a key means (`matching`), Query/Retrieve Level, Retrieve AE Title and the like (the service adds them).
Standard: PS3.4 C.4.1 (find), C.4.2 and C.4.3 (which instances a retrieval names).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter
from typing import TYPE_CHECKING, Any

from engine.dicom import tags
from engine.dicom.elements import blob_items
from engine.errors import QueryError
from engine.index.database.environment import Environment
from engine.index.format import keys
from engine.index.format.rows import read_name
from engine.index.format.types import Instance, Level, Match, Named, Query, Root
from engine.index.query import private_attributes
from engine.index.query.access import find_candidates
from engine.index.query.explanation import Explanation
from engine.index.query.place import Place
from engine.index.query.plan import UNIQUE, Plan, check_hierarchy, level_of
from engine.index.query.walk import Walk
from engine.storage.record import Position

if TYPE_CHECKING:
    from engine.index.catalog import Catalog

FIRST_PAGE = 32
"""Matches in the first page: an early first answer."""
SORTED_MAX = 100_000
"""Instances of one series that are held to be put in order."""
PAGE = 200
"""In the others: some milliseconds."""
SELECT_S = 0.05
"""Seconds of a read transaction for what a retrieval names: some thousand instances, so that a study is seen as it is
at one time, and no page of the index is kept for one that names a million."""


def search(index: Catalog, query: Query, explanation: Explanation | None = None) -> Iterator[Match]:
    """The matches of a query in a stable order. Raises QueryError, at once and not at the first match.

    `explanation` is filled in on the way.
    """
    return (match for match in search_steps(index, query, explanation) if match is not None)


def search_steps(index: Catalog, query: Query, explanation: Explanation | None = None) -> Iterator[Match | None]:
    """The same with a None between two read transactions, so that whoever asks can look around while nothing matches.

    At most `walk.EXAMINED_MAX` candidates are looked at, for some `walk.STEP_S`, or `access.KEYS_MAX` keys read,
    between two values.
    """
    schema = index.environment.schema
    asked = private_attributes.of(query, schema)
    if asked is not None:
        query = asked.query
    plan = Plan.of(query, schema)
    check_hierarchy(query, plan)
    walk = Walk(index.environment, query, plan)
    walk.go_on(query.after)
    walk.explanation = explanation or walk.explanation
    steps = _steps(walk)
    return steps if asked is None else (match and asked.restored(match) for match in steps)


def select(environment: Environment, query: Query) -> Iterator[Instance]:
    """The instances that a retrieval names by its unique keys; no read transaction is open while a caller has one.

    By study and series in their order, by Instance Number, by SOP Instance UID; of a series with more than SORTED_MAX
    instances so many at a time. Raises QueryError when the unique key of the level is missing; those above the level
    may be, since UIDs need no context.
    """
    found: list[tuple[int, bytes, Instance]] = []
    in_order: list[Instance] = []
    series_before = study_uid = series_uid = b""
    texts: dict[bytes, str] = {}
    for place in _named_places(environment, query):
        if place is None:
            yield from in_order
            in_order.clear()
            continue
        series = place.study_id + place.series_id
        if series != series_before or len(found) >= SORTED_MAX:
            in_order += _sorted(found)
            found.clear()
            series_before = series
            study_uid = place.values[Level.STUDY].get(tags.StudyInstanceUID, b"")
            series_uid = place.values[Level.SERIES].get(tags.SeriesInstanceUID, b"")
        items = blob_items(place.instance_row[keys.INSTANCE.size :])
        instance = _instance(place.instance_row, items, study_uid, series_uid, place.name_of, texts)
        number = _number(items.get(tags.InstanceNumber, b""))
        found.append((number, items.get(tags.SOPInstanceUID, b""), instance))
    yield from in_order
    yield from _sorted(found)


def _sorted(found: list[tuple[int, bytes, Instance]]) -> list[Instance]:
    return [row[2] for row in sorted(found, key=lambda row: row[:2])]


def select_names(environment: Environment, query: Query) -> list[Named]:
    """The same instances by their UIDs alone, in no order: a tenth of the time. Raises QueryError."""
    unpack = keys.INSTANCE.unpack_from
    blob_at = keys.INSTANCE.size
    wanted = tags.SOPInstanceUID
    found: list[Named] = []
    # Without a SOP Instance UID the walk ends at the series, whose instances lie one after the other.
    level = Level.IMAGE if query.keys.get(wanted) else Level.SERIES
    for place in _named_places(environment, query, level):
        if place is None:
            continue
        study_uid = place.values[Level.STUDY].get(tags.StudyInstanceUID, b"").decode("utf-8", "replace")
        series_uid = place.values[Level.SERIES].get(tags.SeriesInstanceUID, b"").decode("utf-8", "replace")
        for row in [place.instance_row] if level == Level.IMAGE else place.instance_rows():
            fields = unpack(row)
            uid = blob_items(row[blob_at:]).get(wanted, b"")
            found.append(Named(uid, series_uid, study_uid, fields[0], fields[3]))
    return found


def _named_places(environment: Environment, query: Query, level: Level = Level.IMAGE) -> Iterator[Place | None]:
    """The instances that unique keys name, or their series. Raises QueryError.

    None: a read transaction has ended after some SELECT_S, and the next one has not begun.
    """
    own = UNIQUE[query.level]
    unique = {tag: query.keys[tag] for tag in (*UNIQUE.values(), *_also_unique(query)) if query.keys.get(tag)}
    wanted = Query(level, unique, Root.PATIENT, query.character_set, relational=True)
    plan = Plan.of(wanted, environment.schema, wildcards=False)
    if query.level not in query.root.value or not any(asked.tag == own for asked in plan.conditions[query.level]):
        raise QueryError(f"a retrieval at level {query.level.name} of this model needs {tags.keyword_of(own)}")
    walk = Walk(environment, wanted, plan)
    yield from _found_candidates(walk)
    is_over = False
    while not is_over:
        with environment.reading() as walk.txn:
            ends_at = perf_counter() + SELECT_S
            is_over = True
            for place in walk.places():
                if place is not None:
                    yield place
                if perf_counter() >= ends_at:
                    is_over = False
                    break
        walk.txn = None  # a finished transaction keeps its reader slot until the last reference to it is gone
        yield None


def _also_unique(query: Query) -> tuple[int, ...]:
    """Of two patients of one ID, whose issuers differ, a retrieval may name the one that it means."""
    return (tags.IssuerOfPatientID,) if query.level == Level.PATIENT else ()


def _number(text: bytes) -> int:
    try:
        return int(text)
    except ValueError:
        return 1 << 62


def read_instance(txn: Any, environment: Environment, instance_key: bytes, row: bytes) -> Instance:
    """The instance of a row of `instances`."""
    owner, series_uid = _owner_and_uid(txn.get(instance_key[:4], db=environment.series))
    _, study_uid = _owner_and_uid(txn.get(keys.ID.pack(owner), db=environment.studies))
    items = blob_items(row[keys.INSTANCE.size :])
    return _instance(row, items, study_uid, series_uid, lambda number: read_name(txn, environment, number), {})


def _instance(
    row: bytes,
    items: dict[int, bytes],
    study_uid: bytes,
    series_uid: bytes,
    name: Callable[[int], bytes],
    texts: dict[bytes, str],
) -> Instance:
    """`items` of its blob; `texts`: what has been decoded for others, since instances of a series say the same."""

    def text(value: bytes) -> str:
        if value not in texts:
            texts[value] = value.decode("utf-8", "replace")
        return texts[value]

    (stamp, segment_id, offset, payload_length, pixel_data_offset, received_ns, payload_crc, meta_length,
     key_length, _, class_id, syntax_id, title_id, set_id, _) = keys.INSTANCE.unpack_from(row)  # fmt: skip
    return Instance(
        Position(segment_id, offset, key_length, meta_length, payload_length, payload_crc),
        stamp,
        text(name(class_id)),
        items.get(tags.SOPInstanceUID, b"").decode("utf-8", "replace"),
        text(name(syntax_id)),
        text(study_uid),
        text(series_uid),
        pixel_data_offset,
        text(name(title_id)),
        received_ns,
        row[keys.INSTANCE.size :],
        name(set_id),
    )


def _owner_and_uid(row: bytes) -> tuple[int, bytes]:
    owner, _, uid_length = keys.UID_HEAD.unpack_from(row)
    return owner, row[keys.UID_HEAD.size : keys.UID_HEAD.size + uid_length]


def _steps(walk: Walk) -> Iterator[Match | None]:
    """Matches page by page; see the module's head."""
    environment, query, explanation = walk.environment, walk.query, walk.explanation
    yield from _found_candidates(walk)
    to_skip = query.offset
    left = query.limit if query.limit is not None else 1 << 62
    page = FIRST_PAGE
    while left > 0:
        matches: list[Match] = []
        with environment.reading() as walk.txn:
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
                if len(matches) >= min(page, left) or walk.is_tired():
                    is_over = False
                    break
        walk.txn = None
        explanation.pages += 1
        explanation.examined += walk.examined
        explanation.matches += len(matches)
        left -= len(matches)
        yield from matches
        if is_over:
            return
        yield None
        page = PAGE


def _found_candidates(walk: Walk) -> Iterator[None]:
    """Finds them, in as many read transactions as it takes; None after each."""
    finding = find_candidates(walk)
    is_found = False
    while not is_found:
        with walk.environment.reading() as walk.txn:
            is_found = next(finding, True) is not None
        walk.txn = None  # a finished transaction keeps its reader slot until the last reference to it is gone
        yield None


__all__ = ["Level", "Match", "Query", "Root", "level_of", "search", "search_steps", "select"]
