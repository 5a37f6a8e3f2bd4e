"""Walks from the candidates down the levels to the places that match.

Works in the transaction of its reading, which the caller may replace between two calls of `places`. Stores its position
as ids, and keeps no cursor beyond a transaction. Candidates, and so places, come in the order of arrival.

    candidates   from `access`, else every patient or study
    down         patient or study → series → instance; tests every condition at its level. Keys below the query's level
                 (relational) test whether anything below meets them

`place` reads the attributes of a place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from time import perf_counter

from engine.index.format import keys
from engine.index.format.rows import scan_prefix
from engine.index.format.types import Level
from engine.index.query.candidates import Candidates
from engine.index.query.place import Place, WalkRequest
from engine.index.query.reading import Reading

PATIENT, STUDY, SERIES, IMAGE = LEVELS = tuple(Level)

EXAMINED_MAX = 500
"""Candidates tested in one read transaction, matching or not: some milliseconds."""
STEP_S = 0.01
"""Time limit for a read transaction, since a stored value may be large. The present candidate is tested to its end."""
_TESTS = 10
"""This many additional tests of a value cost as much as one more candidate."""


class Walk:
    """Walks from the candidates down to the query's level. It can pause and continue in another transaction."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        plan = reading.plan
        self.candidates = Candidates()
        """The candidates; `access` fills them in."""
        self.examined = 0
        """Places tested; a caller that begins another transaction sets it to 0."""
        self._request = WalkRequest(reading.query.level, plan, reading.environment.schema)
        self._reaches_below = plan.reaches_below(reading.query.level)
        conditions = [*plan.computed, *(condition for level in LEVELS for condition in plan.conditions[level])]
        weight = 1 + sum(condition.test_count - 1 for condition in conditions) // _TESTS
        self._examined_max = max(EXAMINED_MAX // weight, 1)
        """Places to test in one read transaction: fewer if each needs many tests."""
        # The position: the ids, as in keys, of the last patient or study, series and instance that are done.
        self._top = b""
        self._series = b""
        self._instance = b""
        self._is_within = False
        """Whether `_top` is not done yet."""
        self._is_admitted = False
        """Whether the present top is known to be in scope."""

    def is_step_over(self) -> bool:
        """Whether this transaction has done enough."""
        return self.examined >= self._examined_max or perf_counter() - self.reading.entered >= STEP_S

    def start_after(self, record_key: bytes) -> None:
        """Starts after a place of an earlier walk, which may have been deleted; b"": at the start."""
        self._top = record_key[:4]
        self._series = record_key[4:8]
        self._instance = record_key[4:] if len(record_key) > 8 else b""
        self._is_within = len(record_key) > 4

    # -- walking down

    def places(self) -> Iterator[Place | None]:
        """The matching places at the query's level, from the position of the last call on; None: the step is over.

        All places are one object, which changes when the next place is requested.
        """
        at_patients = self.reading.query.level == PATIENT
        place = Place(self.reading, self._request)
        for top, row in self._next_tops():
            if not top:
                yield None
                continue
            self.examined += 1
            self.reading.explanation.candidates += 1
            is_admitted = self._is_admitted
            if row is None or not (
                place.enter_patient(top, row) if at_patients else place.enter_study(top, row, is_admitted=is_admitted)
            ):
                self._finish_top()
            elif self.reading.query.level <= STUDY:
                self._finish_top()
                if self._exists_below(place):
                    yield place
            else:
                yield from self._series_places(place)
                self._finish_top()
            if self.is_step_over():
                yield None

    def _next_tops(self) -> Iterator[tuple[bytes, bytes | None]]:
        """Ids and rows of patients or studies, first of the one within which the walk paused; b"": pause here."""
        table = (
            self.reading.environment.patients
            if self.reading.query.level == PATIENT
            else self.reading.environment.studies
        )
        get, pack = self.reading.txn.get, keys.ID.pack
        self._is_admitted = False
        if self._is_within:
            self.reading.explanation.candidates -= 1  # it has been counted
            yield self._top, get(self._top, db=table)
        if self.candidates.tops is not None:
            among = self.candidates.among
            self._is_admitted = among is not None and among.are_admitted(self.reading)
            after = keys.ID.unpack(self._top)[0] if self._top else 0
            # A cursor that stays finds a row in half the time of a `get`, or less when the last row is near.
            with self.reading.txn.cursor(db=table) as cursor:
                find, value = cursor.set_key, cursor.value
                for number in self.candidates.tops.after(self.reading, after):
                    if number < 0:
                        self._top = pack(-number)
                        yield b"", None
                        continue
                    self._top = top = pack(number)
                    self._is_within = True
                    yield top, value() if find(top) else None
            return
        with self.reading.txn.cursor(db=table) as cursor:
            if cursor.set_range(self._top + b"\0"):
                for top, row in cursor:
                    self._top = top
                    self._is_within = True
                    yield top, row

    def _finish_top(self) -> None:
        self._is_within = False
        self._series = self._instance = b""

    def _series_places(self, place: Place) -> Iterator[Place | None]:
        for series_id, row in self._series_rows(place):
            is_next = series_id > self._series
            if is_next:
                self._series = series_id
                self._instance = b""
            elif series_id < self._series or self.reading.query.level == SERIES:
                continue
            self.examined += 1
            if not place.enter_series(series_id, row):
                # The series within which the walk paused is entered again: do not pause there again.
                if is_next and self.is_step_over():
                    yield None
                continue
            if self.reading.query.level == SERIES:
                if self._exists_below(place):
                    yield place
                elif self.is_step_over():
                    yield None
                continue
            for key, instance_row in self._instance_rows(series_id, self._instance):
                self.examined += 1
                self._instance = key
                if instance_row and place.enter_instance(key, instance_row):
                    yield place
                elif self.is_step_over():
                    yield None

    def _series_rows(self, place: Place) -> Iterable[tuple[bytes, bytes]]:
        """Id and row of `counts` of the study's series that may match."""
        if self.candidates.series_of is None:
            return place.counts()
        get, table = self.reading.txn.get, self.reading.environment.counts
        series_numbers = self.candidates.series_of.get(place.study_id, ())
        rows = ((series_id, get(place.study_id + series_id, db=table)) for series_id in series_numbers)
        return ((series_id, row) for series_id, row in rows if row is not None)

    def _instance_rows(self, series_id: bytes, after: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys and rows of the instances of a series that may match; b"" for one that certainly does not."""
        table = self.reading.environment.instances
        if self.candidates.instances is not None:
            for key in self.candidates.instances.get(series_id, ()):
                row = self.reading.txn.get(key, db=table) if key > after else None
                if row is not None:
                    yield key, row
            return
        quick = next((item.may_meet for item in self.reading.plan.conditions[IMAGE] if item.may_meet), None)
        last = series_id + b"\xff\xff\xff\xff"
        with self.reading.txn.cursor(db=table) as cursor:
            if cursor.set_range(after + b"\0" if after else series_id):
                for key, row in cursor:
                    if key > last:
                        return
                    yield key, row if quick is None or quick(row) else b""

    def _exists_below(self, place: Place) -> bool:
        """For relational queries: whether an entity below the query's level meets the conditions there."""
        if not self._reaches_below:
            return True
        if self.reading.query.level == PATIENT:
            studies = scan_prefix(self.reading.txn, self.reading.environment.patient_studies, place.patient_id)
            return any(self._study_below(key[4:]) for key, _ in studies)
        if self.reading.query.level == STUDY:
            return self._series_below(place)
        return self._instance_below(place.series_id)

    def _study_below(self, study_id: bytes) -> bool:
        place = Place(self.reading, self._request)
        row = self.reading.txn.get(study_id, db=self.reading.environment.studies)
        if row is None or not place.enter_study(study_id, row):
            return False
        if any(self.reading.plan.conditions[level] for level in (SERIES, IMAGE)):
            return self._series_below(place)
        return True

    def _series_below(self, place: Place) -> bool:
        below = Place(self.reading, self._request)
        for series_id, row in self._series_rows(place):
            self.examined += 1
            if below.enter_series(series_id, row) and self._instance_below(series_id):
                return True
        return False

    def _instance_below(self, series_id: bytes) -> bool:
        if not self.reading.plan.conditions[IMAGE]:
            return True
        below = Place(self.reading, self._request)
        for key, row in self._instance_rows(series_id, b""):
            self.examined += 1
            if row and below.enter_instance(key, row):
                return True
        return False
