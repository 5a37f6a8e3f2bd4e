"""Lists studies and series whose instances disagree on an attribute, with the values that they state.

`format.statements` has the rule that chooses one value. An attribute that a correction sets is not a conflict. Reads
only, page by page; reads every study and series.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from engine.dicom.elements import blob_items
from engine.index.database.environment import Environment
from engine.index.database.transactions import ReadTxn, Table, present
from engine.index.format import keys
from engine.index.format.rows import UidRow, scan_prefix
from engine.index.format.statements import PART_COUNT_STUDY, unpack_content
from engine.index.query.listing import read_rows


@dataclass(frozen=True, slots=True)
class Conflict:
    """The conflicts of a study or of a series."""

    study_instance_uid: bytes
    series_instance_uid: bytes
    """b"" for a study."""
    values: dict[int, list[bytes]]
    """Tag → the stated values, in UTF-8; the first one counts."""


def read_conflicts(environment: Environment) -> Iterator[Conflict]:
    """Studies in the order of arrival, then series."""

    def read_study(txn: ReadTxn, key: bytes, value: bytes) -> Conflict | None:
        return _of_study(txn, environment, key, value)

    def read_series(txn: ReadTxn, key: bytes, value: bytes) -> Conflict | None:
        return _of_series(txn, environment, key, value)

    yield from read_rows(environment, environment.studies, read_study)
    yield from read_rows(environment, environment.series, read_series)


def read_conflicts_of(environment: Environment, study_instance_uid: bytes) -> list[Conflict]:
    """Those of one study and of its series."""
    with environment.reading() as txn:
        study_id = txn.get(keys.bounded(study_instance_uid), db=environment.study_uids)
        if study_id is None:
            return []
        row = present(txn.get(study_id, db=environment.studies))
        conflicts = [_of_study(txn, environment, study_id, row)]
        for key, _ in scan_prefix(txn, environment.counts, study_id):
            series_row = present(txn.get(key[4:], db=environment.series))
            conflicts.append(_of_series(txn, environment, key[4:], series_row))
        return [conflict for conflict in conflicts if conflict is not None]


def _of_study(txn: ReadTxn, environment: Environment, key: bytes, value: bytes) -> Conflict | None:
    row = UidRow.decode(value, PART_COUNT_STUDY)
    if not row.facts.conflicts:
        return None
    return Conflict(row.uid, b"", _values(txn, environment.study_statements, key, row, 0))


def _of_series(txn: ReadTxn, environment: Environment, key: bytes, value: bytes) -> Conflict | None:
    row = UidRow.decode(value)
    if not row.facts.conflicts:
        return None
    study = UidRow.decode(present(txn.get(keys.ID.pack(row.owner), db=environment.studies)), PART_COUNT_STUDY)
    values = _values(txn, environment.series_statements, key, row, keys.DIGEST_BYTES)
    return Conflict(study.uid, row.uid, values)


def _values(txn: ReadTxn, table: Table, owner: bytes, row: UidRow, above_bytes: int) -> dict[int, list[bytes]]:
    by_tag: dict[int, list[bytes]] = {tag: [] for tag in sorted(row.facts.conflicts)}
    head_bytes = keys.ORDER_BYTES + above_bytes
    statements = sorted((value[: keys.ORDER_BYTES], value[head_bytes:]) for _, value in scan_prefix(txn, table, owner))
    for _, content in statements:
        for part in unpack_content(content):
            items = blob_items(part)
            for tag, values in by_tag.items():
                value = items.get(tag, b"")
                if value and value not in values:
                    values.append(value)
    return by_tag
