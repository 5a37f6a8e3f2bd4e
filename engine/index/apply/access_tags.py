"""The rows of `access` that a batch adds and removes: a narrow scope finds its studies by them.

    put      a new series or study, changed facts, another sender: at the end of the batch, in order
    remove   a key that a series or study no longer gives, unless something else in the study does: at the end as well
    fill     an index that is older than the table gets its rows in the background, some studies in each transaction

A row of `meta` says how far the fill has come. When an earlier engine, which does not know the table, has written to
the index (`database.commits`), all rows are removed and the fill begins again: a scope may rely on every row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from engine.index.database import commits
from engine.index.database.environment import Environment
from engine.index.database.transactions import ReadTxn, WriteTxn
from engine.index.format import access_tags, keys
from engine.index.format.rows import read_name, scan_prefix
from engine.index.format.statements import fact_values

FILLED_STUDIES = 200
"""Studies of one transaction of the fill."""
FILLED_INSTANCES = 10_000
"""Instances after which a transaction of the fill ends."""


class AccessTags:
    """The rows of one batch."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
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

    def add_sender(self, study_id: bytes, calling_ae_title: bytes) -> None:
        """Adds who sent an instance."""
        for key in access_tags.keys_of_sender(calling_ae_title):
            self._new.add((key, study_id))

    def change_series(self, study_id: bytes, before: Mapping[int, bytes], after: Mapping[int, bytes]) -> None:
        """Updates what a series gives its study."""
        self._change(study_id, access_tags.keys_of_series(before), access_tags.keys_of_series(after))

    def change_study(self, study_id: bytes, before: Mapping[int, bytes], after: Mapping[int, bytes]) -> None:
        """Updates what a study has by itself."""
        self._change(study_id, access_tags.keys_of_study(before), access_tags.keys_of_study(after))

    def lose_sender(self, txn: ReadTxn, study_id: bytes, title_id: int) -> None:
        """Notes that the study has lost an instance of a sender."""
        left = access_tags.keys_of_sender(read_name(txn, self._environment, title_id))
        self._left.setdefault(study_id, set()).update(left)

    def _change(self, study_id: bytes, before: set[bytes], after: set[bytes]) -> None:
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
        if self._new:
            with txn.cursor(db=table) as cursor:
                cursor.putmulti(sorted(self._new))
        self.begin()


def _still_given(txn: ReadTxn, environment: Environment, study_id: bytes, wanted: set[bytes]) -> set[bytes]:
    """Which of these keys the study has."""
    found = _keys_of_rows(txn, environment, study_id) & wanted
    senders = {key for key in wanted - found if key[:1] == access_tags.SENDER_KIND}
    if senders:
        for given in _senders_of(txn, environment, study_id):
            found |= given & senders
            if senders <= found:
                break
    return found


def _keys_of_rows(txn: ReadTxn, environment: Environment, study_id: bytes) -> set[bytes]:
    """The keys from the rows of the study and its series; none if it is gone."""
    row = txn.get(study_id, db=environment.studies)
    if row is None:
        return set()
    of_patient, of_study = _facts(row)
    result = access_tags.keys_of_study({**of_patient, **of_study})
    for key, _ in scan_prefix(txn, environment.counts, study_id):
        series = txn.get(key[4:], db=environment.series)
        if series is not None:
            result |= access_tags.keys_of_series(_facts(series)[0])
    return result


def _facts(row: bytes) -> list[dict[int, bytes]]:
    return fact_values(row, keys.UID_HEAD.size + keys.UID_HEAD.unpack_from(row)[2])[0]


def _senders_of(txn: ReadTxn, environment: Environment, study_id: bytes) -> Iterator[frozenset[bytes]]:
    """The keys of the senders of a study, once for each change from one instance to the next."""
    last = 0
    for key, _ in scan_prefix(txn, environment.counts, study_id):
        for _, row in scan_prefix(txn, environment.instances, key[4:]):
            title_id = keys.INSTANCE.unpack_from(row)[12]
            if title_id != last:
                last = title_id
                yield access_tags.keys_of_sender(read_name(txn, environment, title_id))


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
    studies: list[bytes] = []
    new: set[tuple[bytes, bytes]] = set()
    instance_count = 0
    with txn.cursor(db=environment.studies) as cursor:
        has_row = cursor.set_range(keys.ID.pack(fill.filled + 1))
        while has_row and len(studies) < FILLED_STUDIES and instance_count < FILLED_INSTANCES:
            study_id = cursor.key()
            studies.append(study_id)
            new.update((key, study_id) for key in _keys_of_rows(txn, environment, study_id))
            for given in _senders_of(txn, environment, study_id):
                new.update((key, study_id) for key in given)
            instance_count += keys.instance_count(row for _, row in scan_prefix(txn, environment.counts, study_id))
            has_row = cursor.next()
    with txn.cursor(db=environment.access_table) as cursor:
        cursor.putmulti(sorted(new))
    filled = keys.ID.unpack(studies[-1])[0] if has_row else keys.ACCESS_FILLED
    txn.put(keys.META_ACCESS, keys.ACCESS_FILL.pack(keys.ACCESS_VERSION, filled), db=environment.meta)
    return has_row
