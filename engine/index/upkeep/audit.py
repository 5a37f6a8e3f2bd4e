"""Compares the index with the log, record by record and row by row: for `archive.verify` and the scrub.

    log → index    the index has each record at its position. The row of a current instance agrees with its record:
                   place, stamp, UIDs, transfer syntax, sender. Its series, study and patient can be read and lead to
                   each other. If the study has one statement, its facts agree with the record
    index → log    the SOP Instance UID of each row of `instances` leads to that row. Together with log → index, each
                   row has exactly one record

Reads only, page by page, and keeps no read transaction between pages. Reports differences, and does not judge them.
Damaged rows raise IndexDamaged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.dicom.elements import blob_items
from engine.index.apply.relocation import rows_in, rows_of
from engine.index.database.environment import Environment
from engine.index.database.transactions import ReadTxn, present
from engine.index.format import keys
from engine.index.format.entry import Entry
from engine.index.format.rows import Counts, PatientRow, UidRow
from engine.index.format.statements import PART_COUNT_SERIES, PART_COUNT_STUDY
from engine.index.format.types import Instance
from engine.index.query.instances import instance_of, read_instance
from engine.storage.record import SHREDDED, Kind, Record

PAGE = 500

UNKNOWN = "the index does not know this record"
HELP = "run `filmroom rebuild-index` to make the index again"

_COMPARED_FIELDS = (
    "position",
    "stamp",
    "sop_class_uid",
    "sop_instance_uid",
    "transfer_syntax_uid",
    "study_instance_uid",
    "series_instance_uid",
    "pixel_data_offset",
    "calling_ae_title",
    "received_ns",
)
"""Fields in which the row of an instance must agree with its record; attributes may have been extracted again."""


def current_instances(environment: Environment) -> Iterator[Instance]:
    """Every current instance, by series."""
    for page in _pages(environment):
        yield from (instance for instance, _ in page)


def unreferenced_rows(environment: Environment) -> Iterator[list[tuple[Instance, str]]]:
    """The rows of instances that no UID leads to, and the fault. A list for each PAGE rows, often empty."""
    fault = f"the index has a row for it that its UID does not lead to; {HELP}"
    for page in _pages(environment):
        yield [(instance, fault) for instance, is_referenced in page if not is_referenced]


def _pages(environment: Environment) -> Iterator[list[tuple[Instance, bool]]]:
    """Instances, and whether the UID of each leads to its row."""
    after = b""
    while True:
        with environment.reading() as txn, txn.cursor(db=environment.instances) as cursor:
            page: list[tuple[Instance, bool]] = []
            has_row = cursor.set_range(after + b"\0") if after else cursor.first()
            while has_row and len(page) < PAGE:
                after = bytes(cursor.key())
                instance = read_instance(txn, environment, after, cursor.value())
                where = txn.get(keys.bounded(instance.sop_instance_uid.encode()), db=environment.sop_uids)
                page.append((instance, where == after))
                has_row = cursor.next()
        yield page
        if len(page) < PAGE:
            return


def wrong_records(environment: Environment, records: Sequence[Record]) -> list[tuple[Record, str]]:
    """The records that the index does not know at their positions, or that differ from it; and the fault."""
    with environment.reading() as txn:
        levels = _Levels(txn, environment)
        return [(record, fault) for record in records if (fault := _fault(txn, environment, record, levels))]


def tables_by_offset(environment: Environment, segment_id: int) -> dict[int, str]:
    """The offsets of a segment's records that are not current instances, and the table of each; reads all rows."""
    places = ((key[-keys.PLACE.size :], table) for table, key in rows_in(environment, segment_id))
    return {keys.PLACE.unpack(place)[1]: table for place, table in places}


def _fault(txn: ReadTxn, environment: Environment, record: Record, levels: _Levels) -> str:
    if record.kind == SHREDDED:
        return ""  # the index may know it as deleted, or not know it since a rebuild
    if record.kind == Kind.INSTANCE:
        where = txn.get(keys.bounded(record.key), db=environment.sop_uids)
        row = txn.get(where, db=environment.instances) if where else None
        if where and row is not None and keys.INSTANCE.unpack_from(row)[1:3] == record.position[:2]:
            entry = Entry.unpack(record)
            stored, indexed = instance_of(entry), read_instance(txn, environment, where, row)
            names = [name for name in _COMPARED_FIELDS if getattr(stored, name) != getattr(indexed, name)]
            if names:
                return f"the index differs from it in {', '.join(names)}; {HELP}"
            return levels.fault(where[:4], entry)
    rows = rows_of([record])
    if not rows:
        return UNKNOWN
    table, key = rows[0]
    return "" if txn.get(key, db=getattr(environment, table)) is not None else UNKNOWN


class _Levels:
    """Checks the series, study and patient above instances; each series once in a read transaction."""

    def __init__(self, txn: ReadTxn, environment: Environment) -> None:
        self._txn = txn
        self._environment = environment
        self._faults: dict[bytes, str] = {}

    def fault(self, series_key: bytes, entry: Entry) -> str:
        """The fault of these levels; empty if there is none."""
        if series_key not in self._faults:
            fault = self._check(series_key, entry)
            self._faults[series_key] = f"the index: {fault}; {HELP}" if fault else ""
        return self._faults[series_key]

    def _check(self, series_key: bytes, entry: Entry) -> str:
        txn, environment = self._txn, self._environment
        series = UidRow.decode(present(txn.get(series_key, db=environment.series)), PART_COUNT_SERIES)
        study_key = keys.ID.pack(series.owner)
        study = UidRow.decode(present(txn.get(study_key, db=environment.studies)), PART_COUNT_STUDY)
        patient_key = keys.ID.pack(study.owner)
        patient = PatientRow.decode(present(txn.get(patient_key, db=environment.patients)))
        references = (
            (keys.bounded(series.uid) + b"\0" + study_key, environment.series_uids, series_key, "series"),
            (keys.bounded(study.uid), environment.study_uids, study_key, "study"),
            (patient.key, environment.patient_keys, patient_key, "patient"),
        )
        for key, table, expected, level in references:
            if txn.get(key, db=table) != expected:
                return f"the UID or key of its {level} leads to another {level}"
        if txn.get(patient_key + study_key, db=environment.patient_studies) is None:
            return "its study is not among the studies of its patient"
        if Counts.decode(present(txn.get(study_key + series_key, db=environment.counts))).count < 1:
            return "its series has a count of no instances"
        if study.statements == 1 and not study.facts.is_corrected and not entry.mark:
            for part, blob in zip(study.facts.parts, (entry.patient, entry.study), strict=True):
                values = {tag: value for tag, value in blob_items(blob).items() if value.isascii()}
                if any(tag in values and value.isascii() and value != values[tag] for tag, (_, value) in part.items()):
                    return "the attributes of its study differ from those of the instance"
        return ""
