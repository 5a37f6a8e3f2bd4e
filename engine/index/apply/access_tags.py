"""The rows of `access` that a batch adds and removes: a narrow scope finds its studies by them.

    put      a new series or study, changed facts, another first sender: at the end of the batch, in order
    remove   a key that a series or study no longer gives, unless something else in the study does: at the end as well
    fill     an index that is older than the table gets its rows in the background, some studies in each transaction

The fill also stores the first sender of each series (`first_senders`). A row of `meta` says how far it has come. When
an earlier engine, which does not know the tables, has written to the index (`database.commits`), all rows are removed
and the fill begins again: a scope may rely on every row.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

from engine.index.apply import first_senders
from engine.index.apply.changed_studies import ChangedStudies
from engine.index.apply.first_senders import FirstSender
from engine.index.database import commits
from engine.index.database.environment import Environment
from engine.index.database.transactions import Cursor, ReadTxn, WriteTxn
from engine.index.format import access_tags, keys
from engine.index.format.rows import read_name, scan_prefix
from engine.index.format.statements import fact_values

FILLED_STUDIES = 200
"""Studies of one transaction of the fill."""


class AccessTags:
    """The rows of one batch."""

    def __init__(self, environment: Environment, changed_studies: ChangedStudies) -> None:
        self._environment = environment
        self._changed_studies = changed_studies
        self._new: set[tuple[bytes, bytes]] = set()
        """Keys and studies to be put."""
        self._left: dict[bytes, set[bytes]] = {}
        """Study id → keys that something in the study no longer gives."""

    def begin(self) -> None:
        """Begins a batch."""
        self._new.clear()
        self._left.clear()

    def add_series(self, study_id: bytes, items: Mapping[int, bytes]) -> None:
        """Adds what a new series gives its study."""
        for key in access_tags.keys_of_series(items):
            self._new.add((key, study_id))

    def add_study(self, study_id: bytes, items: Mapping[int, bytes]) -> None:
        """Adds what a new study has by itself."""
        for key in access_tags.keys_of_study(items):
            self._new.add((key, study_id))

    def note_instance(
        self, txn: WriteTxn, study_id: bytes, series_id: bytes, sender: FirstSender, *, is_only: bool
    ) -> None:
        """Notes an instance that may be the first of its series. `is_only`: the series had none."""
        before, after = first_senders.note(txn, self._environment, series_id, sender, is_only=is_only)
        self._change_sender(txn, study_id, before, after)

    def change_first(self, txn: WriteTxn, study_id: bytes, series_id: bytes, after: FirstSender | None) -> None:
        """Updates the first sender of a series that has lost instances; None: it has none left."""
        before = first_senders.stored(txn, self._environment, series_id)
        first_senders.replace(txn, self._environment, series_id, before, after)
        self._change_sender(txn, study_id, before, after)

    def change_series(self, study_id: bytes, before: Mapping[int, bytes], after: Mapping[int, bytes]) -> None:
        """Updates what a series gives its study."""
        self._change(study_id, access_tags.keys_of_series(before), access_tags.keys_of_series(after))

    def change_study(self, study_id: bytes, before: Mapping[int, bytes], after: Mapping[int, bytes]) -> None:
        """Updates what a study has by itself."""
        self._change(study_id, access_tags.keys_of_study(before), access_tags.keys_of_study(after))

    def _change_sender(
        self, txn: ReadTxn, study_id: bytes, before: FirstSender | None, after: FirstSender | None
    ) -> None:
        environment = self._environment
        if before is None or after is None or before.title_id != after.title_id:
            self._change(study_id, _keys_of_sender(txn, environment, before), _keys_of_sender(txn, environment, after))

    def _change(self, study_id: bytes, before: Set[bytes], after: Set[bytes]) -> None:
        if before == after:
            return
        if left := before - after:
            self._left.setdefault(study_id, set()).update(left)
        for key in after - before:
            self._new.add((key, study_id))

    def write(self, txn: WriteTxn) -> None:
        """Ends a batch, after all other rows have been written."""
        table = self._environment.access_table
        for study_id, left in self._left.items():
            for key in left - _still_given(txn, self._environment, study_id, left):
                self._new.discard((key, study_id))
                txn.delete(key, study_id, db=table)
                self._changed_studies.add(study_id)
        if self._new:
            with txn.cursor(db=table) as cursor:
                for key, study_id in self._new:
                    if not self._changed_studies.is_new(study_id) and not _has(cursor, key, study_id):
                        self._changed_studies.add(study_id)
                cursor.putmulti(sorted(self._new))
        self.begin()


def _has(cursor: Cursor, key: bytes, study_id: bytes) -> bool:
    return cursor.set_range_dup(key, study_id) and cursor.value() == study_id


def _still_given(txn: ReadTxn, environment: Environment, study_id: bytes, wanted: set[bytes]) -> set[bytes]:
    """Which of these keys the study has."""
    return _keys_of_study(txn, environment, study_id) & wanted


def _keys_of_study(txn: ReadTxn, environment: Environment, study_id: bytes) -> set[bytes]:
    """The keys of a study; none if it is gone."""
    row = txn.get(study_id, db=environment.studies)
    if row is None:
        return set()
    of_patient, of_study = _facts(row)
    result = access_tags.keys_of_study({**of_patient, **of_study})
    for key, _ in scan_prefix(txn, environment.counts, study_id):
        series = txn.get(key[4:], db=environment.series)
        if series is not None:
            result |= access_tags.keys_of_series(_facts(series)[0])
        result |= _keys_of_sender(txn, environment, first_senders.read(txn, environment, key[4:]))
    return result


def _facts(row: bytes) -> list[dict[int, bytes]]:
    return fact_values(row, keys.UID_HEAD.size + keys.UID_HEAD.unpack_from(row)[2])[0]


def _keys_of_sender(txn: ReadTxn, environment: Environment, sender: FirstSender | None) -> frozenset[bytes]:
    return frozenset() if sender is None else access_tags.keys_of_sender(read_name(txn, environment, sender.title_id))


# the fill ----------------------------------------------------------------------------------------------


class Fill:
    """How far the table has been filled."""

    __slots__ = ("filled", "is_begun")

    def __init__(self, filled: int, is_begun: bool) -> None:
        self.filled = filled
        """Studies up to this id have their rows, and every study that has come since the fill began."""
        self.is_begun = is_begun
        """Whether the rows that are there are right."""

    @property
    def is_complete(self) -> bool:
        """Whether every study has its rows, and no others."""
        return self.is_begun and self.filled == keys.ACCESS_FILLED


def read_fill(txn: ReadTxn, environment: Environment) -> Fill:
    """How far the table has been filled."""
    data = txn.get(keys.META_ACCESS, db=environment.meta)
    if data is None or len(data) != keys.ACCESS_FILL.size or not commits.is_noted(txn, environment.meta):
        return Fill(0, False)
    version, filled = keys.ACCESS_FILL.unpack(data)
    return Fill(filled, True) if version == keys.ACCESS_VERSION else Fill(0, False)


def fill_some(txn: WriteTxn, environment: Environment) -> bool:
    """Puts the rows of some studies. Returns whether there are more to fill."""
    fill = read_fill(txn, environment)
    if fill.is_complete:
        return False
    if not fill.is_begun:
        txn.drop(environment.access_table, delete=False)
        txn.drop(environment.first_senders_table, delete=False)
    studies: list[bytes] = []
    new: set[tuple[bytes, bytes]] = set()
    with txn.cursor(db=environment.studies) as cursor:
        has_row = cursor.set_range(keys.ID.pack(fill.filled + 1))
        while has_row and len(studies) < FILLED_STUDIES:
            study_id = cursor.key()
            studies.append(study_id)
            first_senders.fill(txn, environment, study_id)
            new.update((key, study_id) for key in _keys_of_study(txn, environment, study_id))
            has_row = cursor.next()
    with txn.cursor(db=environment.access_table) as cursor:
        cursor.putmulti(sorted(new))
    filled = keys.ID.unpack(studies[-1])[0] if has_row else keys.ACCESS_FILLED
    txn.put(keys.META_ACCESS, keys.ACCESS_FILL.pack(keys.ACCESS_VERSION, filled), db=environment.meta)
    return has_row
