"""From the candidates to the places that match, down the levels.

Works in the transaction of its scope, which the caller may replace between two calls of `places`; keeps where it is as
ids, and no cursor beyond its transaction. Candidates are ids in the order of arrival, which is the order of the places
too.

    candidates   what `access` has found, else every patient or study
    down         patient or study → series → instance, every condition tested at its level; keys below the query's level
                 (relational) ask whether anything below meets them

`place` reads the attributes of a place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from time import perf_counter

from engine.index.format import keys
from engine.index.format.rows import scan_prefix
from engine.index.format.types import Level
from engine.index.query.candidates import Candidates
from engine.index.query.place import Place, Question
from engine.index.query.scope import Scope

PATIENT, STUDY, SERIES, IMAGE = LEVELS = tuple(Level)

EXAMINED_MAX = 500
"""Candidates looked at in one read transaction, matching or not: some milliseconds."""
STEP_S = 0.01
"""And this long, since a stored value may be large: the one that is being looked at is looked at to its end."""
_TESTS = 10
"""So many more tests of a value cost as much as a candidate with one."""


class Walk:
    """Walks from the candidates down to the query's level. It can pause and go on in another transaction."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        plan = scope.plan
        self.candidates = Candidates()
        """Where to go: `access` fills it."""
        self.examined = 0
        """Places looked at; whoever goes on in another transaction may begin at 0 again."""
        self._question = Question(scope.query.level, plan, scope.environment.schema)
        self._reaches_below = plan.reaches_below(scope.query.level)
        conditions = [*plan.computed, *(one for level in LEVELS for one in plan.conditions[level])]
        weight = 1 + sum(one.test_count - 1 for one in conditions) // _TESTS
        self._examined_max = max(EXAMINED_MAX // weight, 1)
        """Places looked at in one read transaction: fewer where each has to go through many tests."""
        # Where to go on: the ids, as in keys, of the last study or patient, series and instance that are done.
        self._top = b""
        self._series = b""
        self._instance = b""
        self._is_within = False
        """Whether `_top` is not done yet."""

    def is_tired(self) -> bool:
        """Whether enough was done in this transaction."""
        return self.examined >= self._examined_max or perf_counter() - self.scope.entered >= STEP_S

    def go_on(self, record_key: bytes) -> None:
        """Begins behind a place of an earlier walk, which may be gone; b"": at the start."""
        self._top = record_key[:4]
        self._series = record_key[4:8]
        self._instance = record_key[4:] if len(record_key) > 8 else b""
        self._is_within = len(record_key) > 4

    # -- walking down

    def places(self) -> Iterator[Place | None]:
        """The places at the query's level that match, from where the last one ended; None: enough was looked at.

        All are one object: it is the next place as soon as that is asked for.
        """
        at_patients = self.scope.query.level == PATIENT
        place = Place(self.scope, self._question)
        for top, row in self._next_tops():
            if not top:
                yield None
                continue
            self.examined += 1
            self.scope.explanation.candidates += 1
            if row is None or not (place.enter_patient(top, row) if at_patients else place.enter_study(top, row)):
                self._top_done()
            elif self.scope.query.level <= STUDY:
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
        table = self.scope.environment.patients if self.scope.query.level == PATIENT else self.scope.environment.studies
        get, pack = self.scope.txn.get, keys.ID.pack
        if self._is_within:
            self.scope.explanation.candidates -= 1  # it has been counted
            yield self._top, get(self._top, db=table)
        if self.candidates.tops is not None:
            for number in self.candidates.tops.after(self.scope, keys.ID.unpack(self._top)[0] if self._top else 0):
                if number < 0:
                    self._top = pack(-number)
                    yield b"", None
                    continue
                self._top = top = pack(number)
                self._is_within = True
                yield top, get(top, db=table)
            return
        with self.scope.txn.cursor(db=table) as cursor:
            if cursor.set_range(self._top + b"\0"):
                for top, row in cursor:
                    self._top = top
                    self._is_within = True
                    yield top, row

    def _top_done(self) -> None:
        self._is_within = False
        self._series = self._instance = b""

    def _series_places(self, place: Place) -> Iterator[Place | None]:
        for series_id, row in self._series_rows(place):
            is_next = series_id > self._series
            if is_next:
                self._series = series_id
                self._instance = b""
            elif series_id < self._series or self.scope.query.level == SERIES:
                continue
            self.examined += 1
            if not place.enter_series(series_id, row):
                # The one in which the walk was stopped is entered again, which is no step ahead.
                if is_next and self.is_tired():
                    yield None
                continue
            if self.scope.query.level == SERIES:
                if self._exists_below(place):
                    yield place
                elif self.is_tired():
                    yield None
                continue
            for key, instance_row in self._instance_rows(series_id, self._instance):
                self.examined += 1
                self._instance = key
                if instance_row and place.enter_instance(key, instance_row):
                    yield place
                elif self.is_tired():
                    yield None

    def _series_rows(self, place: Place) -> Iterable[tuple[bytes, bytes]]:
        """Id and row of `counts` of the study's series that may be asked for."""
        if self.candidates.series_of is None:
            return place.counts()
        get, table = self.scope.txn.get, self.scope.environment.counts
        series_numbers = self.candidates.series_of.get(place.study_id, ())
        rows = ((series_id, get(place.study_id + series_id, db=table)) for series_id in series_numbers)
        return ((series_id, row) for series_id, row in rows if row is not None)

    def _instance_rows(self, series_id: bytes, after: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys and rows of the instances of a series that may be asked for; b"" for one that is surely not."""
        table = self.scope.environment.instances
        if self.candidates.instances is not None:
            for key in self.candidates.instances.get(series_id, ()):
                row = self.scope.txn.get(key, db=table) if key > after else None
                if row is not None:
                    yield key, row
            return
        quick = next((item.may_meet for item in self.scope.plan.conditions[IMAGE] if item.may_meet), None)
        last = series_id + b"\xff\xff\xff\xff"
        with self.scope.txn.cursor(db=table) as cursor:
            if cursor.set_range(after + b"\0" if after else series_id):
                for key, row in cursor:
                    if key > last:
                        return
                    yield key, row if quick is None or quick(row) else b""

    def _exists_below(self, place: Place) -> bool:
        """Relational: whether something below the query's level meets what is asked there."""
        if not self._reaches_below:
            return True
        if self.scope.query.level == PATIENT:
            studies = scan_prefix(self.scope.txn, self.scope.environment.patient_studies, place.patient_id)
            return any(self._study_below(key[4:]) for key, _ in studies)
        if self.scope.query.level == STUDY:
            return self._series_below(place)
        return self._instance_below(place.series_id)

    def _study_below(self, study_id: bytes) -> bool:
        place = Place(self.scope, self._question)
        row = self.scope.txn.get(study_id, db=self.scope.environment.studies)
        if row is None or not place.enter_study(study_id, row):
            return False
        if any(self.scope.plan.conditions[level] for level in (SERIES, IMAGE)):
            return self._series_below(place)
        return True

    def _series_below(self, place: Place) -> bool:
        below = Place(self.scope, self._question)
        for series_id, row in self._series_rows(place):
            self.examined += 1
            if below.enter_series(series_id, row) and self._instance_below(series_id):
                return True
        return False

    def _instance_below(self, series_id: bytes) -> bool:
        if not self.scope.plan.conditions[IMAGE]:
            return True
        below = Place(self.scope, self._question)
        for key, row in self._instance_rows(series_id, b""):
            self.examined += 1
            if row and below.enter_instance(key, row):
                return True
        return False
