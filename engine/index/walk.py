"""From the candidates to the places that match, down the levels.

Works in a transaction that the caller gives and may replace between two places; keeps where it is as ids, and no cursor
beyond a place. Candidates are ids in the order of arrival, which is the order of the places too.

    candidates   what `access` has found, else every patient or study
    down         patient or study → series → instance, every condition tested at its level; keys below the query's level
                 (relational) ask whether anything below meets them
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from engine.dicom import tags
from engine.dicom.elements import blob_items
from engine.index import keys
from engine.index.environment import Environment
from engine.index.plan import COUNTS_OF_PATIENT, Plan
from engine.index.rows import read_name, scan_prefix, unpack_tail
from engine.index.statements import canonical, fact_values
from engine.index.types import Level, Match, Query

EXAMINED_MAX = 2000
"""Candidates looked at in one read transaction, matching or not."""


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
        self.txn: Any = None
        self.examined = 0
        # Where to go on: the ids, as in keys, of the last study or patient, series and instance that are done.
        self.top = b""
        self.series = b""
        self.instance = b""
        self.is_within = False
        """Whether `top` is not done yet."""
        self.tops: array[int] | None = None
        """Ids of patients or studies to look at, ascending; None: all."""
        self.instances: dict[bytes, list[bytes]] | None = None
        """Series id → keys in `instances`, where SOP Instance UIDs are asked for."""
        self.totals: dict[int, tuple[int, int, int]] = {}
        self.names = Names(self)

    # -- walking down

    def places(self) -> Iterator[Place | None]:
        """The places at the query's level that match, from where the last one ended; None: enough was looked at."""
        at_patients = self.query.level == Level.PATIENT
        for top in self._next_tops():
            self.examined += 1
            place = Place(self)
            if not (place.enter_patient(top) if at_patients else place.enter_study(top)):
                self._top_done()
            elif self.query.level <= Level.STUDY:
                self._top_done()
                if self._exists_below(place):
                    yield place
            else:
                yield from self._series_places(place)
                self._top_done()
            if self.examined >= EXAMINED_MAX:
                yield None

    def _next_tops(self) -> Iterator[bytes]:
        """Ids of patients or studies, the one first in which the walk was stopped."""
        if self.is_within:
            yield self.top
        if self.tops is not None:
            first = keys.ID.unpack(self.top)[0] + 1 if self.top else 0
            for number in islice(self.tops, bisect_left(self.tops, first), None):
                self._enter_top(keys.ID.pack(number))
                yield self.top
            return
        table = self.environment.patients if self.query.level == Level.PATIENT else self.environment.studies
        with self.txn.cursor(db=table) as cursor:
            if cursor.set_range(self.top + b"\0"):
                for key in cursor.iternext(keys=True, values=False):
                    self._enter_top(key)
                    yield key

    def _enter_top(self, top: bytes) -> None:
        self.top = top
        self.is_within = True

    def _top_done(self) -> None:
        self.is_within = False
        self.series = self.instance = b""

    def _series_places(self, place: Place) -> Iterator[Place | None]:
        for series_id, row in self._series_rows(place.study_id):
            if series_id < self.series:
                continue
            if series_id > self.series:
                self.series = series_id
                self.instance = b""
            elif self.query.level == Level.SERIES:
                continue
            self.examined += 1
            if not place.enter_series(series_id, row):
                continue
            if self.query.level == Level.SERIES:
                if self._exists_below(place):
                    yield place
                continue
            for key, instance_row in self._instance_rows(series_id, self.instance):
                self.examined += 1
                self.instance = key
                if place.enter_instance(key, instance_row):
                    yield place
                elif self.examined >= EXAMINED_MAX:
                    yield None

    def _series_rows(self, study_id: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Id and row of `counts` of a study's series that may be asked for."""
        table = self.environment.counts
        wanted: Iterable[bytes] | None = None
        if self.instances is not None:
            wanted = self.instances
        elif Level.SERIES in self.plan.uids:
            uids = self.plan.uids[Level.SERIES]
            found = (
                self.txn.get(keys.bounded(uid) + b"\0" + study_id, db=self.environment.series_uids) for uid in uids
            )
            wanted = [series_id for series_id in found if series_id is not None]
        if wanted is None:
            for key, row in scan_prefix(self.txn, table, study_id):
                yield key[4:], row
            return
        for series_id in sorted(wanted):
            row = self.txn.get(study_id + series_id, db=table)
            if row is not None:
                yield series_id, row

    def _instance_rows(self, series_id: bytes, after: bytes) -> Iterator[tuple[bytes, bytes]]:
        table = self.environment.instances
        if self.instances is not None:
            for key in self.instances.get(series_id, ()):
                row = self.txn.get(key, db=table) if key > after else None
                if row is not None:
                    yield key, row
            return
        quick = next((item.may_meet for item in self.plan.conditions[Level.IMAGE] if item.may_meet), None)
        last = series_id + b"\xff\xff\xff\xff"
        with self.txn.cursor(db=table) as cursor:
            if cursor.set_range(after + b"\0" if after else series_id):
                for key, row in cursor:
                    if key > last:
                        return
                    if quick is None or quick(row):
                        yield key, row

    def _exists_below(self, place: Place) -> bool:
        """Relational: whether something below the query's level meets what is asked there."""
        if not self.plan.reaches_below(self.query.level):
            return True
        if self.query.level == Level.PATIENT:
            studies = scan_prefix(self.txn, self.environment.patient_studies, place.patient_id)
            return any(self._study_below(key[4:]) for key, _ in studies)
        if self.query.level == Level.STUDY:
            return self._series_below(place)
        return self._instance_below(place, place.series_id)

    def _study_below(self, study_id: bytes) -> bool:
        place = Place(self)
        if not place.enter_study(study_id):
            return False
        if any(self.plan.conditions[level] for level in (Level.SERIES, Level.IMAGE)):
            return self._series_below(place)
        return True

    def _series_below(self, place: Place) -> bool:
        below = Place(self)
        below.study_id = place.study_id
        for series_id, row in self._series_rows(place.study_id):
            self.examined += 1
            if below.enter_series(series_id, row) and self._instance_below(below, series_id):
                return True
        return False

    def _instance_below(self, place: Place, series_id: bytes) -> bool:
        if not self.plan.conditions[Level.IMAGE]:
            return True
        below = Place(self)
        for key, row in self._instance_rows(series_id, b""):
            self.examined += 1
            if below.enter_instance(key, row):
                return True
        return False

    # -- computed

    def patient_totals(self, patient_id: bytes) -> tuple[int, int, int]:
        """Studies, series and instances of a patient."""
        number = keys.ID.unpack(patient_id)[0]
        if number not in self.totals:
            study_count = series_count = instance_count = 0
            for key, _ in scan_prefix(self.txn, self.environment.patient_studies, patient_id):
                study_count += 1
                for _, row in scan_prefix(self.txn, self.environment.counts, key[4:]):
                    series_count += 1
                    instance_count += keys.COUNTS.unpack_from(row)[0]
            self.totals[number] = (study_count, series_count, instance_count)
        return self.totals[number]


class Place:
    """One place of a walk: one patient, study, series or instance, and what is above it."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self.patient_id = self.study_id = self.series_id = self.instance_key = b""
        self.instance_row = b""
        self.values: list[dict[int, bytes]] = [{}, {}, {}, {}]
        self._counts_row = b""

    def name_of(self, number: int) -> bytes:
        """The text that a name id stands for."""
        return self._walk.names[number]

    def instance_rows(self) -> Iterator[bytes]:
        """The row of every instance of the series, whatever is asked of instances."""
        with self._walk.txn.cursor(db=self._walk.environment.instances) as cursor:
            if cursor.set_range(self.series_id):
                last = self.series_id + b"\xff\xff\xff\xff"
                for key, row in cursor:
                    if key > last:
                        return
                    yield row

    def enter_patient(self, patient_id: bytes) -> bool:
        """Whether the patient is there and matches."""
        row = self._walk.txn.get(patient_id, db=self._walk.environment.patients)
        if row is None:
            return False
        self.patient_id = patient_id
        at = keys.KEY_HEAD.size + keys.KEY_HEAD.unpack_from(row)[0]
        self.values[Level.PATIENT] = fact_values(row, at)[0][0]
        return self._meets(Level.PATIENT)

    def enter_study(self, study_id: bytes) -> bool:
        """Whether the study is there and matches, its patient attributes included."""
        walk = self._walk
        row = walk.txn.get(study_id, db=walk.environment.studies)
        if row is None:
            return False
        self.study_id = study_id
        owner, _, uid_length = keys.UID_HEAD.unpack_from(row)
        self.patient_id = keys.ID.pack(owner)
        parts = fact_values(row, keys.UID_HEAD.size + uid_length)[0]
        self.values[Level.PATIENT], self.values[Level.STUDY] = parts
        at_study = walk.query.level >= Level.STUDY
        if (at_study and not self._meets(Level.PATIENT)) or not self._meets(Level.STUDY):
            return False
        return all(asked.met_by({asked.tag: self._computed(asked.tag)}) for asked in walk.plan.computed)

    def enter_series(self, series_id: bytes, counts_row: bytes) -> bool:
        """Whether the series matches."""
        walk = self._walk
        row = walk.txn.get(series_id, db=walk.environment.series)
        if row is None:
            return False
        self.series_id = series_id
        self._counts_row = counts_row
        _, _, uid_length = keys.UID_HEAD.unpack_from(row)
        self.values[Level.SERIES] = fact_values(row, keys.UID_HEAD.size + uid_length)[0][0]
        return self._meets(Level.SERIES)

    def enter_instance(self, key: bytes, row: bytes) -> bool:
        """Whether the instance matches."""
        self.instance_key = key
        self.instance_row = row
        if not self._walk.plan.conditions[Level.IMAGE]:
            self.values[Level.IMAGE] = {}
            return True
        self.values[Level.IMAGE] = blob_items(self._in_utf_8(row))
        return self._meets(Level.IMAGE)

    def _in_utf_8(self, row: bytes) -> bytes:
        blob = row[keys.INSTANCE.size :]
        return canonical(blob, self._walk.names[keys.INSTANCE.unpack_from(row)[13]])

    def _meets(self, level: Level) -> bool:
        items = self.values[level]
        for asked in self._walk.plan.conditions[level]:
            value = items.get(asked.tag)
            if not value or not asked.matches(value):
                return False
        return True

    def match(self) -> Match:
        """What the query wants to know about where we stand."""
        walk = self._walk
        if walk.query.level == Level.IMAGE and not self.values[Level.IMAGE]:
            self.values[Level.IMAGE] = blob_items(self._in_utf_8(self.instance_row))
        values_ = self.values
        attributes = {
            tag: self._computed(tag) if is_computed else values_[level].get(tag, b"")
            for tag, level, is_computed in walk.plan.returned
        }
        return Match(walk.query.level, attributes, walk.plan.unsupported)

    def _computed(self, tag: int) -> bytes:
        walk = self._walk
        if tag in COUNTS_OF_PATIENT:
            study_count, series_count, instance_count = walk.patient_totals(self.patient_id)
            if tag == tags.NumberOfPatientRelatedStudies:
                return b"%d" % study_count
            return b"%d" % (series_count if tag == tags.NumberOfPatientRelatedSeries else instance_count)
        if tag == tags.NumberOfSeriesRelatedInstances:
            return b"%d" % keys.COUNTS.unpack_from(self._counts_row)[0]
        rows = [row for _, row in scan_prefix(walk.txn, walk.environment.counts, self.study_id)]
        if tag == tags.NumberOfStudyRelatedSeries:
            return b"%d" % len(rows)
        if tag == tags.NumberOfStudyRelatedInstances:
            return b"%d" % sum(keys.COUNTS.unpack_from(row)[0] for row in rows)
        tails = [unpack_tail(row, keys.COUNTS.size) for row in rows]
        if tag == tags.ModalitiesInStudy:
            return b"\\".join(sorted({modality for modality, _ in tails if modality}))
        class_ids = {class_id for _, class_ids in tails for class_id in class_ids}
        return b"\\".join(sorted(walk.names[class_id] for class_id in class_ids))
