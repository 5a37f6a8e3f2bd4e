"""Admission: which studies a scope lets a query see, judged by what the index holds of each.

    patient, referrer, Study Date    the study's row, corrections included
    institution, department          the rows of its series
    modality                         its rows of `counts`
    sender                           who sent the first instance of each series (`first_senders`)
    de-identification                every statement of the study: one that does not say YES is enough against it

Rules come from `access.scope`, which knows nothing of the index; a study is judged anew in each reading, so a change of
a rule, a correction or a new series acts at once. `FULL` has no admission: queries of those who may see everything pay
one test for None.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from functools import lru_cache

from engine.access.scope import (
    FULL,
    AccessFacts,
    Attribute,
    Deidentified,
    Matching,
    OfPatients,
    Patient,
    Recent,
    Requirement,
    Scope,
)
from engine.dicom import tags
from engine.index.apply import first_senders
from engine.index.apply.access_tags import read_fill
from engine.index.database.environment import Environment
from engine.index.database.transactions import ReadTxn
from engine.index.format import keys
from engine.index.format.access_tags import decoded, names_of, says_identity_removed, texts_of
from engine.index.format.rows import read_name, scan_prefix, unpack_tail
from engine.index.format.statements import Facts, fact_values, unpack_content
from engine.index.format.terms import normal_values
from engine.index.format.types import Level

ANSWERS_MAX = 100_000
"""Studies whose answer one reading keeps: some 8 MB."""

_SERIES_TAGS = {
    Attribute.INSTITUTION: tags.InstitutionName,
    Attribute.DEPARTMENT: tags.InstitutionalDepartmentName,
}


class Admission:
    """One scope at one time, with the answers for the studies that a query has met."""

    def __init__(self, environment: Environment, scope: Scope, today: date) -> None:
        self._environment = environment
        self.scope = scope
        self.today = today
        self._requirements: frozenset[Requirement] = frozenset().union(*scope.alternatives)
        self._attributes = {item.attribute for item in self._requirements if isinstance(item, Matching)}
        self._of_series = [(each, _SERIES_TAGS[each]) for each in _SERIES_TAGS if each in self._attributes]
        self._asks_for_series = bool(self._attributes - {Attribute.REFERRER})
        self._asks_for_identity = any(isinstance(item, Deidentified) for item in self._requirements)
        self._asks_for_study = Attribute.REFERRER in self._attributes or any(
            isinstance(item, Deidentified | OfPatients | Recent) for item in self._requirements
        )
        self._answers: dict[bytes, bool] = {}
        self._senders_kept_in = -1
        """The last state of the index in which the rows of `first_senders` were right."""

    def admits(self, txn: ReadTxn, study_id: bytes, row: bytes) -> bool:
        """Whether the study of this row is in scope."""
        answer = self._answers.get(study_id)
        if answer is None:
            if len(self._answers) >= ANSWERS_MAX:
                self._answers.clear()
            answer = self._answers[study_id] = self.scope.admits(self.facts_of(txn, study_id, row), self.today)
        return answer

    def facts_of(self, txn: ReadTxn, study_id: bytes, row: bytes) -> AccessFacts:
        """What the scope asks of a study."""
        _, statement_count, uid_length = keys.UID_HEAD.unpack_from(row)
        at = keys.UID_HEAD.size + uid_length
        of_patient, of_study = fact_values(row, at)[0] if self._asks_for_study else ({}, {})
        texts = self._texts_of_series(txn, study_id) if self._asks_for_series else {}
        if Attribute.REFERRER in self._attributes:
            texts[Attribute.REFERRER] = frozenset(names_of(of_study.get(tags.ReferringPhysicianName, b"")))
        is_deidentified = self._asks_for_identity and self._is_deidentified(
            txn, study_id, statement_count, {**of_patient, **of_study}
        )
        return AccessFacts(
            row[keys.UID_HEAD.size : at].decode("utf-8", "replace"),
            Patient(decoded(of_patient.get(tags.PatientID, b"")), decoded(of_patient.get(tags.IssuerOfPatientID, b""))),
            texts,
            _date(of_study.get(tags.StudyDate, b"")),
            is_deidentified,
        )

    def _texts_of_series(self, txn: ReadTxn, study_id: bytes) -> dict[Attribute, frozenset[str]]:
        asked = self._attributes
        nothing: frozenset[str] = frozenset()
        texts = dict.fromkeys(asked, nothing)
        environment = self._environment
        of_rows = self._of_series
        for key, counts in scan_prefix(txn, environment.counts, study_id):
            series_id = key[4:]
            if Attribute.MODALITY in asked:
                texts[Attribute.MODALITY] |= texts_of(unpack_tail(counts, keys.COUNTS.size)[0])
            if of_rows and (row := txn.get(series_id, db=environment.series)) is not None:
                _, _, uid_length = keys.UID_HEAD.unpack_from(row)
                facts = fact_values(row, keys.UID_HEAD.size + uid_length)[0][0]
                for attribute, tag in of_rows:
                    texts[attribute] |= texts_of(facts.get(tag, b""))
            if Attribute.SENDER in asked:
                texts[Attribute.SENDER] |= self._first_sender(txn, series_id)
        return texts

    def _first_sender(self, txn: ReadTxn, series_id: bytes) -> frozenset[str]:
        environment = self._environment
        if self._senders_kept_in != txn.id() and read_fill(txn, environment).is_begun:
            self._senders_kept_in = txn.id()
        is_kept = self._senders_kept_in == txn.id()
        first = (first_senders.read if is_kept else first_senders.found)(txn, environment, series_id)
        return frozenset() if first is None else texts_of(read_name(txn, environment, first.title_id))

    def _is_deidentified(self, txn: ReadTxn, study_id: bytes, statement_count: int, values: dict[int, bytes]) -> bool:
        if not says_identity_removed(values):
            return False
        if statement_count <= 1:
            return True
        environment = self._environment
        for _, value in scan_prefix(txn, environment.study_statements, study_id):
            content = value[keys.ORDER_BYTES :]
            if content:
                facts = Facts.empty(2)
                facts.observe(value[: keys.ORDER_BYTES], unpack_content(content))
                if not says_identity_removed({**facts.values(0), **facts.values(1)}):
                    return False
        return True


def admission_of(environment: Environment, scope: Scope) -> Admission | None:
    """The admission of a scope today; None: it admits everything."""
    return None if scope is FULL else Admission(environment, scope, datetime.now().date())


def facts_for(txn: ReadTxn, environment: Environment, study_instance_uid: bytes) -> AccessFacts | None:
    """Everything that a scope may ask of a study, to explain an answer; None: it is not stored."""
    study_id = txn.get(keys.bounded(study_instance_uid), db=environment.study_uids)
    row = txn.get(study_id, db=environment.studies) if study_id is not None else None
    if study_id is None or row is None:
        return None
    everything: list[Requirement] = [Matching(attribute) for attribute in Attribute]
    everything += [Deidentified(True), Recent(1)]
    scope = Scope(frozenset({frozenset(everything)}))
    return Admission(environment, scope, datetime.now().date()).facts_of(txn, study_id, row)


def is_admitted(txn: ReadTxn, environment: Environment, scope: Scope, study_instance_uid: bytes) -> bool:
    """Whether a study is stored and in scope."""
    study_id = txn.get(keys.bounded(study_instance_uid), db=environment.study_uids)
    if study_id is None:
        return False
    admission = admission_of(environment, scope)
    if admission is None:
        return True
    row = txn.get(study_id, db=environment.studies)
    return row is not None and admission.admits(txn, study_id, row)


def level_of_identity(level_of: Callable[[int], int | None]) -> Level | None:
    """The level at which the index keeps Patient Identity Removed; None: no study counts as de-identified."""
    level = level_of(tags.PatientIdentityRemoved)
    return Level(level) if level is not None and level <= Level.STUDY else None


@lru_cache(4096)
def _date(value: bytes) -> date | None:
    """A Study Date; None for what is none, as for range matching."""
    normal = next(iter(normal_values("DA", value)), "")
    try:
        return datetime.strptime(normal, "%Y%m%d").date() if len(normal) == 8 and normal.isdecimal() else None
    except ValueError:
        return None
