"""One place of a walk: a patient, study, series or instance, the entities above it, and the attributes of its match.

`walk` chooses the places, and enters them from above, one after the other, with one object. The attributes of the
levels above the query's are put together once for everything below, so that a match costs a copy of these and its own
values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

from engine.dicom import tags
from engine.dicom.elements import blob_items
from engine.dicom.schema import Schema
from engine.index.format import keys
from engine.index.format.rows import unpack_tail
from engine.index.format.statements import fact_values, utf_8
from engine.index.format.types import Level, Match
from engine.index.query.condition import Condition
from engine.index.query.plan import Plan
from engine.index.query.reading import Reading
from engine.index.query.sequences import Pick

PATIENT, STUDY, SERIES, IMAGE = LEVELS = tuple(Level)

_ANSWERS_MAX = 256
"""Values whose test results a condition caches."""
_REPEATING_VRS = frozenset(("CS", "DA"))
"""VRs with few values that repeat often."""


class ReturnedAttributes:
    """The attributes that a match returns, by level."""

    def __init__(self, level: Level, plan: Plan) -> None:
        self.empty = dict.fromkeys([tag for tag, _, _ in plan.returned], b"")
        """All of them in order, without values."""
        self.stored: list[list[int]] = [[], [], [], []]
        self.picked: list[list[tuple[int, Pick]]] = [[], [], [], []]
        self.computed: list[list[tuple[int, Callable[[Place], bytes]]]] = [[], [], [], []]
        for tag, of, is_computed in plan.returned:
            if is_computed:
                self.computed[of].append((tag, COMPUTE[tag]))
            elif tag in plan.picks:
                self.picked[of].append((tag, plan.picks[tag]))
            else:
                self.stored[of].append(tag)
        # The row of each study has the attributes of its patient.
        self.own: Sequence[Level] = (PATIENT, STUDY) if level == STUDY else (level,)
        """The levels that change with each match."""
        self.above = LEVELS[: self.own[0]]


class WalkRequest:
    """The tests for every place of one walk, and the attributes of its matches."""

    def __init__(self, level: Level, plan: Plan, schema: Schema) -> None:
        self.level = level
        self.conditions = [[_cached(condition, schema) for condition in plan.conditions[of]] for of in LEVELS]
        self.computed = [(_cached(condition, schema), COMPUTE[condition.tag]) for condition in plan.computed]
        self.returned = ReturnedAttributes(level, plan)
        self.zone = b""
        """Timezone Offset From UTC of the last study entered."""


def _cached(condition: Condition, schema: Schema) -> Condition:
    """The same condition, with a cache if its values repeat."""
    if schema.vr_of(condition.tag) not in _REPEATING_VRS:
        return condition
    return replace(condition, matches=lru_cache(_ANSWERS_MAX)(condition.matches))


class Place:
    """One place of a walk: one patient, study, series or instance, and the entities above it."""

    def __init__(self, reading: Reading, request: WalkRequest) -> None:
        self._reading = reading
        self._request = request
        self.patient_id = self.study_id = self.series_id = self.instance_key = b""
        self.instance_row = b""
        self.values: list[dict[int, bytes]] = [{}, {}, {}, {}]
        self._counts_row = b""
        self._counts: list[tuple[bytes, bytes]] | None = None
        self._above: dict[int, bytes] | None = None

    def name_of(self, number: int) -> bytes:
        """The text that a name id stands for."""
        return self._reading.names[number]

    def instance_rows(self) -> Iterator[bytes]:
        """The row of every instance of the series, without any test."""
        with self._reading.txn.cursor(db=self._reading.environment.instances) as cursor:
            if cursor.set_range(self.series_id):
                last = self.series_id + b"\xff\xff\xff\xff"
                for key, row in cursor:
                    if key > last:
                        return
                    yield row

    def counts(self) -> list[tuple[bytes, bytes]]:
        """Ids and rows of `counts` of the study's series."""
        if self._counts is None:
            self._counts = self._reading.counts_of(self.study_id)
        return self._counts

    # -- entering

    def enter_patient(self, patient_id: bytes, row: bytes) -> bool:
        """Whether the patient of this row matches."""
        self.patient_id = patient_id
        if self._reading.admission is None:
            at = keys.KEY_HEAD.size + keys.KEY_HEAD.unpack_from(row)[0]
            self.values[PATIENT] = fact_values(row, at)[0][0]
        else:
            values = self._reading.patient_values(patient_id)
            if values is None:
                return False
            self.values[PATIENT] = values
        return self._meets(PATIENT)

    def enter_study(self, study_id: bytes, row: bytes, *, is_admitted: bool = False) -> bool:
        """Whether the study of this row matches, its patient attributes included. `is_admitted`: it is in scope."""
        request = self._request
        self.study_id = study_id
        self._counts = None
        if request.returned.above:
            self._above = None
        owner, _, uid_length = keys.UID_HEAD.unpack_from(row)
        self.patient_id = keys.ID.pack(owner)
        self.values[:2] = fact_values(row, keys.UID_HEAD.size + uid_length)[0]
        request.zone = self.values[STUDY].get(tags.TimezoneOffsetFromUTC, b"")
        at_study = request.level >= STUDY
        if (at_study and not self._meets(PATIENT)) or not self._meets(STUDY):
            return False
        if not is_admitted and not self._reading.admits(study_id, row):
            return False
        for condition, compute in request.computed:
            value = compute(self)
            if not condition.met_by({condition.tag: value}):
                return False
        return True

    def enter_series(self, series_id: bytes, counts_row: bytes) -> bool:
        """Whether the series matches."""
        reading = self._reading
        row = reading.txn.get(series_id, db=reading.environment.series)
        if row is None:
            return False
        self.series_id = series_id
        self._counts_row = counts_row
        if self._request.level == IMAGE:
            self._above = None
        _, _, uid_length = keys.UID_HEAD.unpack_from(row)
        self.values[SERIES] = fact_values(row, keys.UID_HEAD.size + uid_length)[0][0]
        return self._meets(SERIES)

    def enter_instance(self, key: bytes, row: bytes) -> bool:
        """Whether the instance matches."""
        self.instance_key = key
        self.instance_row = row
        if not self._request.conditions[IMAGE]:
            self.values[IMAGE] = {}
            return True
        self.values[IMAGE] = self._instance_values()
        return self._meets(IMAGE)

    def _instance_values(self) -> dict[int, bytes]:
        """The attributes of the instance, with texts in UTF-8."""
        blob = self.instance_row[keys.INSTANCE.size :]
        items = blob_items(blob)
        if not blob.isascii() or b"\x1b" in blob:
            declared = self._reading.names[keys.INSTANCE.unpack_from(self.instance_row)[13]]
            for tag, value in items.items():
                items[tag] = utf_8(tag, value, declared, self._reading.environment.schema)
        return items

    def _meets(self, level: Level) -> bool:
        conditions = self._request.conditions[level]
        if not conditions:
            return True
        items, zone = self.values[level], self._request.zone
        return all(condition.met_by(items, zone) for condition in conditions)

    # -- the match

    def match(self) -> Match:
        """The match at this place."""
        query, returned = self._reading.query, self._request.returned
        if query.level == IMAGE and not self.values[IMAGE]:
            self.values[IMAGE] = self._instance_values()
        if self._above is None:
            self._above = returned.empty.copy()
            self._fill(self._above, returned.above)
        attributes = self._above.copy()
        self._fill(attributes, returned.own)
        if query.is_keyed:
            attributes[tags.RecordKey] = self._record_key()
        return Match(query.level, attributes, self._reading.plan.unsupported, self._reading.environment.schema)

    def _record_key(self) -> bytes:
        """The ids down to the query's level, of fixed length; they order as the matches do."""
        level = self._request.level
        if level == Level.PATIENT:
            return self.patient_id
        if level == Level.STUDY:
            return self.study_id
        return self.study_id + (self.series_id if level == Level.SERIES else self.instance_key)

    def _fill(self, attributes: dict[int, bytes], levels: Sequence[Level]) -> None:
        returned = self._request.returned
        for level in levels:
            values = self.values[level]
            for tag in returned.stored[level]:
                attributes[tag] = values.get(tag, b"")
            for tag, pick in returned.picked[level]:
                attributes[tag] = pick(values.get(tag, b""), self._request.zone)
            for tag, compute in returned.computed[level]:
                attributes[tag] = compute(self)

    # -- computed attributes

    def _patient_total(self, which: int) -> bytes:
        return b"%d" % self._reading.patient_totals(self.patient_id)[which]

    def _instances_of_series(self) -> bytes:
        return b"%d" % keys.COUNTS.unpack_from(self._counts_row)[0]

    def _series_of_study(self) -> bytes:
        return b"%d" % len(self.counts())

    def _instances_of_study(self) -> bytes:
        return b"%d" % keys.instance_count([row for _, row in self.counts()])

    def _modalities_of_study(self) -> bytes:
        return self._tails()[0]

    def _classes_of_study(self) -> bytes:
        names = self._reading.names
        return b"\\".join(sorted(names[class_id] for class_id in self._tails()[1]))

    def _stored_syntax(self) -> bytes:
        return self._reading.names[keys.INSTANCE.unpack_from(self.instance_row)[11]]

    def _tails(self) -> tuple[bytes, frozenset[int]]:
        """Modalities and name ids of the SOP classes of the study."""
        return _union_of_tails(frozenset([row[keys.COUNTS.size :] for _, row in self.counts()]))


@lru_cache(1024)
def _union_of_tails(tails: frozenset[bytes]) -> tuple[bytes, frozenset[int]]:
    """The modalities and SOP classes of these ends of rows of `counts`. Cached, since few combinations occur."""
    unpacked = [unpack_tail(tail, 0) for tail in tails]
    modalities = {modality.strip(b" \0") for modality, _ in unpacked}  # with and without padding are the same
    class_ids = frozenset(class_id for _, of_series in unpacked for class_id in of_series)
    return b"\\".join(sorted(filter(None, modalities))), class_ids


COMPUTE: dict[int, Callable[[Place], bytes]] = {
    tags.NumberOfPatientRelatedStudies: lambda place: place._patient_total(0),
    tags.NumberOfPatientRelatedSeries: lambda place: place._patient_total(1),
    tags.NumberOfPatientRelatedInstances: lambda place: place._patient_total(2),
    tags.NumberOfStudyRelatedSeries: Place._series_of_study,
    tags.NumberOfStudyRelatedInstances: Place._instances_of_study,
    tags.ModalitiesInStudy: Place._modalities_of_study,
    tags.SOPClassesInStudy: Place._classes_of_study,
    tags.NumberOfSeriesRelatedInstances: Place._instances_of_series,
    tags.AvailableTransferSyntaxUID: Place._stored_syntax,
}
