"""Finds the candidates of a query, patients or studies, by the most selective access that its keys allow.

    unique keys      the UIDs in the query, the lowest level last
    scope            the studies that the requester may see, where the scope has keys (`in_scope`): as candidates, or to
                     look up those of another access
    search           the shortest ranges of keys, intersected with further ranges as long as reading these costs less
                     than testing the candidates that they exclude
    texts            bytes that a value must contain, searched block by block in the order of arrival
    every            no key excludes many: tests all patients or studies one by one, in the order of arrival

The candidates may include too many, never too few: `walk` tests each. Works in the transaction of the reading, and
yields now and then; after a yield the reading may be in another transaction. A wide access (texts, every) finds its
candidates during the walk, so that the first answers do not wait for all of them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

from engine.dicom import tags
from engine.index.apply.texts import TEXTS
from engine.index.database.transactions import Table
from engine.index.format import keys, terms
from engine.index.format.rows import scan_prefix
from engine.index.format.terms import Range
from engine.index.format.types import Level
from engine.index.query.candidates import Admitted, Candidates, IdList, Ids, ascending
from engine.index.query.condition import Condition
from engine.index.query.in_scope import InScope, find_in_scope
from engine.index.query.kept_places import narrowed
from engine.index.query.ranges import count_ids, read_ids
from engine.index.query.reading import Reading
from engine.index.query.text_scan import Scan, Sieve

ROWS_MAX = 5000
"""Rows of series or studies read in one read transaction."""
_COUNT_LIMITS = (32, 4096)
"""Keys of a condition to count: at first, and again if no condition is short."""
_FEW = 32
"""A condition with no more ids is used at once: the search for a better one costs more."""
_SHORT = 1024
"""If a condition has no more ids, longer ones are not counted to their end."""
_WIDE_SHARE = 8
"""A condition that more than one in eight studies meets is too wide: testing all studies soon finds the next match."""
_TEST_IDS = 40
"""Testing one study costs as much as reading this many ids of `search`."""
_ASKED_IDS = 8
"""Looking one study up in a scope costs as much as reading this many of its ids."""
_SERIES_IDS = 8
"""Finding the study of one series costs as much as reading this many ids."""
_TEST_ROWS = 5
"""Testing one patient costs as much as reading this many rows of `texts`."""
_SIEVE_MIN = 128
"""For this many studies or more, scan their texts before testing them."""


def find_candidates(reading: Reading, candidates: Candidates) -> Iterator[None]:
    """Chooses the access and fills `candidates`. Yields every KEYS_MAX keys; the reading may then be in another
    transaction."""
    studies = yield from _studies_by_uid(reading, candidates)
    if studies is not None:
        candidates.tops = IdList(ascending((yield from _tops(reading, studies))))
        return
    tops = yield from _tops_by_range(reading, candidates)
    in_scope: InScope | None = None
    if reading.admission is not None and (tops is None or len(tops) > _FEW):
        in_scope = yield from find_in_scope(reading, reading.admission, _wide(reading))
        if in_scope is not None:
            in_scope = yield from narrowed(reading, reading.admission.scope, in_scope)
        if in_scope is not None and _is_read_at_once(reading, in_scope, tops):
            _explain(reading, "scope", tops)
            of_scope = yield from _tops(reading, in_scope.all(reading))
            tops = of_scope if tops is None else tops & of_scope
            in_scope = None
    text = _text_condition(reading)
    if text is not None and (tops is None or _is_scan_cheaper(reading, tops)):
        _explain(reading, f"texts: {tags.keyword_of(text.tag)}", tops)
        if reading.query.level != Level.PATIENT:
            candidates.tops = _ids_by_text(reading, text, tops)
            return
        of_text = yield from _scan_all(reading, Scan(text.tag, text.infix))
        patients = yield from _tops(reading, of_text)
        tops = patients if tops is None else patients & tops
    if in_scope is not None and reading.query.level != Level.PATIENT and (tops is None or in_scope.is_asked):
        _explain(reading, "scope", tops)
        candidates.tops = in_scope if tops is None else Admitted(ascending(tops), in_scope)
        candidates.among = in_scope
    elif tops is not None:
        candidates.tops = IdList(ascending(tops))
    else:
        _explain(reading, f"every {'patient' if reading.query.level == Level.PATIENT else 'study'}", None)


def _wide(reading: Reading) -> int:
    """With more ids a condition is too wide."""
    return max(reading.txn.stat(reading.environment.studies)["entries"] // _WIDE_SHARE, _SHORT)


def _is_read_at_once(reading: Reading, in_scope: InScope, tops: set[int] | None) -> bool:
    """Whether to read all ids of a scope, rather than while the walk needs them."""
    if tops is not None:
        return in_scope.count <= _ASKED_IDS * len(tops)
    if reading.query.level == Level.PATIENT:
        return in_scope.count <= _wide(reading)
    return _text_condition(reading) is not None and in_scope.count < _row_count(reading)


def find_in_steps(reading: Reading, candidates: Candidates) -> Iterator[None]:
    """The same, in as many read transactions as necessary; yields after each."""
    steps = find_candidates(reading, candidates)
    is_over = False
    while not is_over:
        with reading.transaction():
            is_over = next(steps, True) is not None
        yield None


def _explain(reading: Reading, words: str, tops: set[int] | None) -> None:
    reading.explanation.access = words if tops is None else f"{reading.explanation.access} and {words}"


def _tops(reading: Reading, studies: set[int]) -> Generator[None, None, set[int]]:
    """The patients of these studies at the patient level, else the studies themselves."""
    if reading.query.level != Level.PATIENT:
        return studies
    above = yield from _above(reading, reading.environment.studies, studies)
    return set(above.values())


def _above(reading: Reading, table: Table, ids: Iterable[int]) -> Generator[None, None, dict[int, int]]:
    """The patient of each study, or the study of each series; yields every ROWS_MAX rows."""
    pack, unpack = keys.ID.pack, keys.U32.unpack_from
    above = {}
    for count, number in enumerate(ids, 1):
        row = reading.txn.get(pack(number), db=table)
        if row is not None:
            above[number] = unpack(row)[0]
        if not count % ROWS_MAX:
            yield
    return above


# unique keys -----------------------------------------------------------------------------------------


def _studies_by_uid(reading: Reading, candidates: Candidates) -> Generator[None, None, set[int] | None]:
    """Candidates by the unique keys; the lowest level comes last, since it leaves the fewest."""
    plan, environment = reading.plan, reading.environment
    study_ids: set[int] | None = None
    names = []
    if Level.IMAGE in plan.uids:
        names.append("SOP Instance UID")
        candidates.instances = _instances_by_uid(reading, plan.uids[Level.IMAGE])
        study_ids = yield from _narrow(reading, candidates, map(_number_of, candidates.instances))
    elif Level.SERIES in plan.uids:
        names.append("Series Instance UID")
        prefixes = [keys.bounded(uid) + b"\0" for uid in plan.uids[Level.SERIES]]
        rows = (scan_prefix(reading.txn, environment.series_uids, prefix) for prefix in prefixes)
        study_ids = yield from _narrow(
            reading, candidates, [_number_of(series_id) for of_uid in rows for _, series_id in of_uid]
        )
    if Level.STUDY in plan.uids:
        names.append("Study Instance UID")
        ids = (reading.txn.get(keys.bounded(uid), db=environment.study_uids) for uid in plan.uids[Level.STUDY])
        by_study = {_number_of(study_id) for study_id in ids if study_id is not None}
        study_ids = by_study if study_ids is None else study_ids & by_study
    reading.explanation.access = " and ".join(names)
    return study_ids


def _number_of(row_id: bytes) -> int:
    return int(keys.ID.unpack(row_id)[0])


def _narrow(reading: Reading, candidates: Candidates, series: Iterable[int]) -> Generator[None, None, set[int]]:
    """Limits the query to these series. Returns their studies."""
    above = yield from _above(reading, reading.environment.series, sorted(series))
    candidates.series_of = {}
    for number, study in above.items():
        candidates.series_of.setdefault(keys.ID.pack(study), []).append(keys.ID.pack(number))
    return set(above.values())


def _instances_by_uid(reading: Reading, uids: Iterable[bytes]) -> dict[bytes, list[bytes]]:
    keys_of_series: dict[bytes, list[bytes]] = {}
    for uid in uids:
        where = reading.txn.get(keys.bounded(uid), db=reading.environment.sop_uids)
        if where:
            keys_of_series.setdefault(where[:4], []).append(where)
    for where_list in keys_of_series.values():
        where_list.sort()
    return keys_of_series


# search ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Term:
    """The ranges of one condition."""

    ranges: Sequence[Range]
    is_owned_by_series: bool
    """Whether the ids are those of series, not of studies."""
    is_of_series: bool = False
    """Whether every matching series is among the owners of the ids."""
    count: int = 0
    """The number of ids, as far as counted."""
    is_whole: bool = False
    """Whether all ids have been counted."""

    @property
    def weight(self) -> int:
        """The cost of one id. For a series, its study must be looked up."""
        return _SERIES_IDS if self.is_owned_by_series else 1


def _tops_by_range(reading: Reading, candidates: Candidates) -> Generator[None, None, set[int] | None]:
    """The intersection of the shortest ranges; None: all are too wide."""
    study_count = reading.txn.stat(reading.environment.studies)["entries"]
    wide = _wide(reading)
    top_ids: set[int] | None = None
    names = []
    by_count = _by_count(reading)
    if _is_near(reading, by_count, study_count):
        return None
    for term in by_count:
        if term.count > wide:
            break
        if top_ids is not None and (len(top_ids) <= _FEW or term.count * term.weight > _TEST_IDS * len(top_ids)):
            break
        owners = yield from read_ids(reading, term.ranges, wide if top_ids is None else _TEST_IDS * len(top_ids))
        if owners is None:
            continue
        studies = yield from _studies_of(reading, candidates, term, owners)
        tops = yield from _tops(reading, studies)
        top_ids = tops if top_ids is None else top_ids & tops
        names.append(terms.describe(term.ranges))
    if top_ids is not None:
        words = " and ".join(dict.fromkeys(names))
        reading.explanation.access = f"search: {words}"
    return top_ids


def _is_near(reading: Reading, by_count: Sequence[_Term], study_count: int) -> bool:
    """Whether testing all studies in turn finds the few requested matches sooner than reading the ids."""
    query = reading.query
    if query.limit is None or len(by_count) != 1 or by_count[0].count <= _SHORT or len(list(_conditions(reading))) != 1:
        return False
    (term,) = by_count
    return (query.offset + query.limit) * study_count // term.count * _TEST_IDS < term.count * term.weight


def _by_count(reading: Reading) -> list[_Term]:
    """A term for each condition with ranges, the shortest first; or just one that is short enough."""
    counted = []
    level_of = reading.environment.schema.level_of
    for item in _conditions(reading):
        if item.ranges is not None:
            is_of_series = item.tag == _tag_of(item.ranges) and level_of.get(item.tag) == Level.SERIES
            for ranges in (item.ranges, *item.also):
                is_owned_by_series = level_of.get(_tag_of(ranges), Level.STUDY) >= Level.SERIES
                counted.append(_Term(ranges, is_owned_by_series, is_of_series))
    counted.sort(key=lambda term: terms.rank(_tag_of(term.ranges)))
    for keys_max in _COUNT_LIMITS if len(counted) > 1 or reading.query.limit is not None else _COUNT_LIMITS[:1]:
        for term in counted:
            if not term.is_whole:
                term.count, term.is_whole = count_ids(reading, term.ranges, keys_max)
            if term.is_whole and term.count <= _FEW:
                return [term]
        if any(term.is_whole and term.count <= _SHORT for term in counted):
            break
    return sorted(counted, key=lambda term: term.count)


def _tag_of(ranges: Sequence[Range]) -> int:
    return int.from_bytes(ranges[0][0][:4], "big") if ranges else 0


def _conditions(reading: Reading) -> Iterator[Condition]:
    for level in Level:
        yield from reading.plan.conditions[level]
    yield from reading.plan.computed


def _studies_of(
    reading: Reading, candidates: Candidates, term: _Term, owners: set[int]
) -> Generator[None, None, set[int]]:
    """The studies of the owners of a term's ids."""
    if not term.is_owned_by_series:
        return owners
    if term.is_of_series and candidates.series_of is None:
        return (yield from _narrow(reading, candidates, owners))
    above = yield from _above(reading, reading.environment.series, owners)
    return set(above.values())


# texts -----------------------------------------------------------------------------------------------


def _text_condition(reading: Reading) -> Condition | None:
    """The most selective condition that `texts` can answer."""
    by_text = [item for item in _conditions(reading) if item.infix and item.tag in TEXTS]
    return max(by_text, key=lambda item: min(map(len, item.infix)), default=None)


def _is_scan_cheaper(reading: Reading, tops: set[int]) -> bool:
    """Whether a scan of texts costs less than testing these candidates."""
    if reading.query.level != Level.PATIENT:
        return len(tops) >= _SIEVE_MIN
    return len(tops) * _TEST_ROWS > _row_count(reading)


def _row_count(reading: Reading) -> int:
    """Rows of one attribute in `texts`."""
    entries: int = reading.txn.stat(reading.environment.texts)["entries"]
    return entries // len(TEXTS)


def _ids_by_text(reading: Reading, text: Condition, tops: set[int] | None) -> Ids:
    """A scan of all texts, or of those of some studies, whichever is less work."""
    if tops is not None and len(tops) < _row_count(reading):
        return Sieve(text.tag, text.infix, ascending(tops))
    return Scan(text.tag, text.infix, tops)


def _scan_all(reading: Reading, scan: Scan) -> Generator[None, None, set[int]]:
    """All ids of a scan."""
    owner_ids: set[int] = set()
    at: int | None = 0
    while at is not None:
        start, at = at, None
        for number in scan.after(reading, start):
            if number < 0:
                at = -number
                break
            owner_ids.add(number)
        if at is not None:
            yield
    return owner_ids
