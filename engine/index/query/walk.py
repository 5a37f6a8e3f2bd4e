"""From the candidates to the places that match, down the levels.

Works in a transaction that the caller gives and may replace between two calls of `places`; keeps where it is as ids,
and no cursor beyond its transaction. Candidates are ids in the order of arrival, which is the order of the places too.

    candidates   what `access` has found, else every patient or study
    down         patient or study → series → instance, every condition tested at its level; keys below the query's level
                 (relational) ask whether anything below meets them

What a place says is for `place`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from time import perf_counter
from typing import TYPE_CHECKING, Any

from engine.dicom.schema import Schema
from engine.index.database.environment import Environment
from engine.index.format import keys
from engine.index.format.rows import read_name, scan_prefix
from engine.index.format.types import Level, Query
from engine.index.query.condition import Condition
from engine.index.query.explanation import Explanation
from engine.index.query.place import COMPUTE, Place, Shows, instance_count
from engine.index.query.plan import Plan

if TYPE_CHECKING:
    from engine.index.query.access import Candidates

PATIENT, STUDY, SERIES, IMAGE = LEVELS = tuple(Level)

EXAMINED_MAX = 500
"""Candidates looked at in one read transaction, matching or not: some milliseconds."""
STEP_S = 0.01
"""And this long, since a stored value may be large: the one that is being looked at is looked at to its end."""
_TESTS = 10
"""So many more tests of a value cost as much as a candidate with one."""
_TOTALS_MAX = 10_000
"""Patients whose totals are remembered."""
_ANSWERS_MAX = 256
"""Values of which is remembered whether they meet a condition."""
_REPEATING_VRS = frozenset(("CS", "DA"))
"""VRs of which the same few values come again and again."""


class Names(dict[int, bytes]):
    """The texts that name ids stand for, as far as they have been asked for; they never change."""

    def __init__(self, walk: Walk) -> None:
        super().__init__()
        self._walk = walk

    def __missing__(self, number: int) -> bytes:
        self[number] = text = read_name(self._walk.txn, self._walk.environment, number)
        return text


class Walk:
    """Goes from the candidates down to the level; can be stopped and taken up again in another transaction."""

    def __init__(self, environment: Environment, query: Query, plan: Plan) -> None:
        self.environment = environment
        self.query = query
        self.plan = plan
        self.conditions = {
            level: [_remembering(asked, environment.schema) for asked in plan.conditions[level]] for level in LEVELS
        }
        self.computed = [(_remembering(asked, environment.schema), COMPUTE[asked.tag]) for asked in plan.computed]
        self.shows = Shows(query.level, plan)
        self._reaches_below = plan.reaches_below(query.level)
        self.examined = 0
        asked = [*plan.computed, *(one for level in LEVELS for one in plan.conditions[level])]
        weight = 1 + sum(one.test_count - 1 for one in asked) // _TESTS
        self._examined_max = max(EXAMINED_MAX // weight, 1)
        """Candidates looked at in one read transaction: fewer where each has to go through many tests."""
        # Where to go on: the ids, as in keys, of the last study or patient, series and instance that are done.
        self.top = b""
        self.series = b""
        self.instance = b""
        self.is_within = False
        """Whether `top` is not done yet."""
        self.tops: Candidates | None = None
        """Patients or studies to look at; None: all."""
        self.explanation = Explanation()
        self.instances: dict[bytes, list[bytes]] | None = None
        """Series id → keys in `instances`, where SOP Instance UIDs are asked for."""
        self.series_of: dict[bytes, list[bytes]] | None = None
        """Study id → series ids, ascending, where what is asked is found in no other series; None: any."""
        self.names = Names(self)
        self.zone = b""
        """Timezone Offset From UTC of the study that was entered last."""
        self._totals: dict[bytes, tuple[int, int, int]] = {}
        self._txn: Any = None
        self._step_ends = 0.0
        self._counts: Any = None

    @property
    def txn(self) -> Any:
        """The read transaction to work in."""
        return self._txn

    @txn.setter
    def txn(self, txn: Any) -> None:
        self._txn = txn
        self._counts = None
        self._step_ends = perf_counter() + STEP_S

    def is_tired(self) -> bool:
        """Whether enough was done in this transaction."""
        return self.examined >= self._examined_max or perf_counter() >= self._step_ends

    def go_on(self, record_key: bytes) -> None:
        """Begins behind a place that another walk has told of, though it may be gone; b"": at the start."""
        self.top = record_key[:4]
        self.series = record_key[4:8]
        self.instance = record_key[4:] if len(record_key) > 8 else b""
        self.is_within = len(record_key) > 4

    # -- walking down

    def places(self) -> Iterator[Place | None]:
        """The places at the query's level that match, from where the last one ended; None: enough was looked at.

        All are one object: it is the next place as soon as that is asked for.
        """
        at_patients = self.query.level == PATIENT
        place = Place(self)
        for top, row in self._next_tops():
            if not top:
                yield None
                continue
            self.examined += 1
            self.explanation.candidates += 1
            if row is None or not (place.enter_patient(top, row) if at_patients else place.enter_study(top, row)):
                self._top_done()
            elif self.query.level <= STUDY:
                self._top_done()
                if self._exists_below(place):
                    yield place
            else:
                yield from self._series_places(place)
                self._top_done()
            if self.is_tired():
                yield None

    def _next_tops(self) -> Iterator[tuple[bytes, bytes | None]]:
        """Ids and rows of patients or studies, the one first in which the walk was stopped; b"": enough was read."""
        table = self.environment.patients if self.query.level == PATIENT else self.environment.studies
        get, pack = self.txn.get, keys.ID.pack
        if self.is_within:
            self.explanation.candidates -= 1  # it has been counted
            yield self.top, get(self.top, db=table)
        if self.tops is not None:
            for number in self.tops.after(self, keys.ID.unpack(self.top)[0] if self.top else 0):
                if number < 0:
                    self.top = pack(-number)
                    yield b"", None
                    continue
                self.top = top = pack(number)
                self.is_within = True
                yield top, get(top, db=table)
            return
        with self.txn.cursor(db=table) as cursor:
            if cursor.set_range(self.top + b"\0"):
                for top, row in cursor:
                    self.top = top
                    self.is_within = True
                    yield top, row

    def _top_done(self) -> None:
        self.is_within = False
        self.series = self.instance = b""

    def _series_places(self, place: Place) -> Iterator[Place | None]:
        for series_id, row in self._series_rows(place):
            is_next = series_id > self.series
            if is_next:
                self.series = series_id
                self.instance = b""
            elif series_id < self.series or self.query.level == SERIES:
                continue
            self.examined += 1
            if not place.enter_series(series_id, row):
                # The one in which the walk was stopped is entered again, which is no step ahead.
                if is_next and self.is_tired():
                    yield None
                continue
            if self.query.level == SERIES:
                if self._exists_below(place):
                    yield place
                elif self.is_tired():
                    yield None
                continue
            for key, instance_row in self._instance_rows(series_id, self.instance):
                self.examined += 1
                self.instance = key
                if instance_row and place.enter_instance(key, instance_row):
                    yield place
                elif self.is_tired():
                    yield None

    def _series_rows(self, place: Place) -> Iterable[tuple[bytes, bytes]]:
        """Id and row of `counts` of the study's series that may be asked for."""
        if self.series_of is None:
            return place.counts()
        get, table = self.txn.get, self.environment.counts
        wanted = self.series_of.get(place.study_id, ())
        rows = ((series_id, get(place.study_id + series_id, db=table)) for series_id in wanted)
        return ((series_id, row) for series_id, row in rows if row is not None)

    def _instance_rows(self, series_id: bytes, after: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys and rows of the instances of a series that may be asked for; b"" for one that is surely not."""
        table = self.environment.instances
        if self.instances is not None:
            for key in self.instances.get(series_id, ()):
                row = self.txn.get(key, db=table) if key > after else None
                if row is not None:
                    yield key, row
            return
        quick = next((item.may_meet for item in self.plan.conditions[IMAGE] if item.may_meet), None)
        last = series_id + b"\xff\xff\xff\xff"
        with self.txn.cursor(db=table) as cursor:
            if cursor.set_range(after + b"\0" if after else series_id):
                for key, row in cursor:
                    if key > last:
                        return
                    yield key, row if quick is None or quick(row) else b""

    def _exists_below(self, place: Place) -> bool:
        """Relational: whether something below the query's level meets what is asked there."""
        if not self._reaches_below:
            return True
        if self.query.level == PATIENT:
            studies = scan_prefix(self.txn, self.environment.patient_studies, place.patient_id)
            return any(self._study_below(key[4:]) for key, _ in studies)
        if self.query.level == STUDY:
            return self._series_below(place)
        return self._instance_below(place.series_id)

    def _study_below(self, study_id: bytes) -> bool:
        place = Place(self)
        row = self.txn.get(study_id, db=self.environment.studies)
        if row is None or not place.enter_study(study_id, row):
            return False
        if any(self.plan.conditions[level] for level in (SERIES, IMAGE)):
            return self._series_below(place)
        return True

    def _series_below(self, place: Place) -> bool:
        below = Place(self)
        for series_id, row in self._series_rows(place):
            self.examined += 1
            if below.enter_series(series_id, row) and self._instance_below(series_id):
                return True
        return False

    def _instance_below(self, series_id: bytes) -> bool:
        if not self.plan.conditions[IMAGE]:
            return True
        below = Place(self)
        for key, row in self._instance_rows(series_id, b""):
            self.examined += 1
            if row and below.enter_instance(key, row):
                return True
        return False

    # -- computed

    def counts_of(self, study_id: bytes) -> list[tuple[bytes, bytes]]:
        """Ids and rows of `counts` of all series of a study, in their order."""
        if self._counts is None:
            self._counts = self._txn.cursor(db=self.environment.counts)
        found = []
        if self._counts.set_range(study_id):
            for key, row in self._counts:
                if key[:4] != study_id:
                    break
                found.append((key[4:], row))
        return found

    def patient_totals(self, patient_id: bytes) -> tuple[int, int, int]:
        """Studies, series and instances of a patient."""
        found = self._totals.get(patient_id)
        if found is None:
            rows = [
                [row for _, row in self.counts_of(key[4:])]
                for key, _ in scan_prefix(self.txn, self.environment.patient_studies, patient_id)
            ]
            found = len(rows), sum(map(len, rows)), sum(instance_count(of_study) for of_study in rows)
            if len(self._totals) >= _TOTALS_MAX:
                self._totals.clear()
            self._totals[patient_id] = found
        return found


def _remembering(asked: Condition, schema: Schema) -> Condition:
    """The same condition, which remembers the values that repeat."""
    if schema.vr_of(asked.tag) not in _REPEATING_VRS:
        return asked
    return replace(asked, matches=lru_cache(_ANSWERS_MAX)(asked.matches))
