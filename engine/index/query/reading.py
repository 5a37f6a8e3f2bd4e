"""Reading: what one query reads with: its read transaction, and caches of rows that several modules need.

A caller may replace the transaction between two steps; ids, names and totals outlive it, cursors do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from engine.access.scope import FULL, Scope
from engine.index.database.environment import Environment
from engine.index.database.transactions import Cursor, ReadTxn
from engine.index.format import keys
from engine.index.format.rows import UidRow, read_name, scan_prefix
from engine.index.format.statements import PART_COUNT_PATIENT, PART_COUNT_STUDY, Facts
from engine.index.format.types import Query
from engine.index.query.admission import admission_of
from engine.index.query.explanation import Explanation
from engine.index.query.plan import Plan

_TOTALS_MAX = 10_000
"""Patients whose totals are cached."""


class Names(dict[int, bytes]):
    """A cache of the texts of name ids, which never change."""

    def __init__(self, reading: Reading) -> None:
        super().__init__()
        self._reading = reading

    def __missing__(self, number: int) -> bytes:
        self[number] = text = read_name(self._reading.txn, self._reading.environment, number)
        return text


class Reading:
    """One query and its read transaction."""

    def __init__(
        self, environment: Environment, query: Query, plan: Plan, explanation: Explanation, scope: Scope = FULL
    ) -> None:
        self.environment = environment
        self.query = query
        self.plan = plan
        self.explanation = explanation
        self.admission = admission_of(environment, scope)
        """Which studies exist for the one who asks; None: all."""
        self.txn: ReadTxn
        """The present read transaction: see `transaction`."""
        self.entered = 0.0
        """Its start, by `perf_counter`."""
        self.names = Names(self)
        self._totals: dict[bytes, tuple[int, int, int]] = {}
        self._counts: Cursor | None = None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A context with a read transaction."""
        with self.environment.reading() as self.txn:
            self._counts = None
            self.entered = perf_counter()
            try:
                yield
            finally:
                # A transaction keeps its reader slot until the last reference to it is gone.
                del self.txn
                self._counts = None

    def counts_of(self, study_id: bytes) -> list[tuple[bytes, bytes]]:
        """Ids and rows of `counts` of all series of a study, in their order."""
        cursor = self._counts
        if cursor is None:
            cursor = self._counts = self.txn.cursor(db=self.environment.counts)
        rows = []
        if cursor.set_range(study_id):
            for key, row in cursor:
                if key[:4] != study_id:
                    break
                rows.append((key[4:], row))
        return rows

    def patient_totals(self, patient_id: bytes) -> tuple[int, int, int]:
        """Studies, series and instances of a patient."""
        totals = self._totals.get(patient_id)
        if totals is None:
            rows = [[row for _, row in self.counts_of(study_id)] for study_id in self._studies_of(patient_id)]
            totals = len(rows), sum(map(len, rows)), sum(keys.instance_count(of_study) for of_study in rows)
            if len(self._totals) >= _TOTALS_MAX:
                self._totals.clear()
            self._totals[patient_id] = totals
        return totals

    def patient_values(self, patient_id: bytes) -> dict[int, bytes] | None:
        """The attributes of a patient as the studies in scope state them; None: there is no such study."""
        facts: Facts | None = None
        for study_id in self._studies_of(patient_id):
            row = self.txn.get(study_id, db=self.environment.studies)
            if row is not None:
                facts = facts or Facts.empty(PART_COUNT_PATIENT)
                facts.observe_facts(UidRow.decode(row, PART_COUNT_STUDY).facts)
        return None if facts is None else facts.values(0)

    def _studies_of(self, patient_id: bytes) -> list[bytes]:
        """The studies of a patient that are in scope."""
        study_ids = [key[4:] for key, _ in scan_prefix(self.txn, self.environment.patient_studies, patient_id)]
        if self.admission is None:
            return study_ids
        return [study_id for study_id in study_ids if self.admits(study_id)]

    def admits(self, study_id: bytes, row: bytes | None = None) -> bool:
        """Whether a study exists for the one who asks."""
        if self.admission is None:
            return True
        row = row or self.txn.get(study_id, db=self.environment.studies)
        return row is not None and self.admission.admits(self.txn, study_id, row)
