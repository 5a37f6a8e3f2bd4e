"""How the series of a study arrived: how many instances and bytes, from whom, and when. Reads only.

    counts      instances and bytes of a series: one row
    edges       its first and its last instance: their senders and times, for lists of studies
    whole       every instance: exact figures of each sender, for the view of one study (up to WHOLE_MAX)

Instances of a series have ids in the order of arrival, so the last row is the latest one. A replaced instance keeps its
id; its time may be later than that of the last row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from engine.dicom import tags
from engine.index.database.environment import Environment
from engine.index.database.transactions import ReadTxn
from engine.index.format import keys
from engine.index.format.rows import read_name, scan_prefix
from engine.index.format.statements import fact_values
from engine.index.format.types import ArrivalFact

SERIES_MAX = 200
"""Series of one study whose first and last instances are read for a list."""
WHOLE_MAX = 50_000
"""Instances of one study that are all read: some 0.1 s."""

KEY_MAX = 200
"""Bytes of a text that studies are ordered by. A cursor of `web.api.studies` holds it."""

_LAST = b"\xff\xff\xff\xff"


@dataclass(slots=True)
class Sender:
    """What one sender has sent of a series."""

    instances: int = 0
    bytes: int = 0
    first_ns: int = 0
    last_ns: int = 0

    def add(self, payload_bytes: int, received_ns: int) -> None:
        """Adds one instance."""
        self.first_ns = min(self.first_ns, received_ns) if self.instances else received_ns
        self.last_ns = max(self.last_ns, received_ns)
        self.instances += 1
        self.bytes += payload_bytes


@dataclass(slots=True)
class SeriesArrival:
    """The arrival of one series."""

    series_instance_uid: str
    institution: str
    instances: int
    bytes: int
    """Of data sets."""
    senders: dict[str, Sender] = field(default_factory=dict)
    """By calling AE title. Of edges they cover the first and the last instance only."""


def read_sizes(environment: Environment, study_uids: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Instances and bytes of each study; none for one that is not stored."""
    with environment.reading() as txn:
        for uid in study_uids:
            study_id = txn.get(keys.bounded(uid), db=environment.study_uids)
            if study_id is not None:
                rows = [keys.COUNTS.unpack_from(row) for _, row in scan_prefix(txn, environment.counts, study_id)]
                yield sum(row[0] for row in rows), sum(row[2] for row in rows)


def arrival_key(txn: ReadTxn, environment: Environment, study_id: bytes, fact: ArrivalFact) -> bytes:
    """What studies are ordered by for a fact of their arrival; b"": it is not known."""
    if fact is ArrivalFact.SIZE:
        counts = (keys.COUNTS.unpack_from(row) for _, row in scan_prefix(txn, environment.counts, study_id))
        size: int = sum(row[2] for row in counts)
        return size.to_bytes(8, "big")
    for key, _ in scan_prefix(txn, environment.counts, study_id):
        value = _text_of(txn, environment, key[4:], fact).strip().lower()
        if value:
            return value.encode()[:KEY_MAX]
    return b""


def _text_of(txn: ReadTxn, environment: Environment, series_id: bytes, fact: ArrivalFact) -> str:
    """The institution of a series, or who sent its first instance."""
    if fact is ArrivalFact.INSTITUTION:
        row = txn.get(series_id, db=environment.series)
        return _of_series(row, 0, 0).institution if row is not None else ""
    for row in edges(txn, environment, series_id, 1):
        return read_name(txn, environment, keys.INSTANCE.unpack_from(row)[12]).decode("utf-8", "replace")
    return ""


def read_arrivals(environment: Environment, study_uid: bytes, *, whole: bool = False) -> list[SeriesArrival]:
    """The series of a study in the order of arrival; empty if it is not stored."""
    with environment.reading() as txn:
        study_id = txn.get(keys.bounded(study_uid), db=environment.study_uids)
        if study_id is None:
            return []
        names: dict[int, str] = {}
        arrivals = []
        series = list(scan_prefix(txn, environment.counts, study_id))
        is_whole = whole and keys.instance_count(row for _, row in series) <= WHOLE_MAX
        for number, (key, counts) in enumerate(series):
            series_id = key[4:]
            row = txn.get(series_id, db=environment.series)
            if row is None:
                continue
            count, _, payload_bytes = keys.COUNTS.unpack_from(counts)
            arrival = _of_series(row, count, payload_bytes)
            if is_whole:
                rows: list[bytes] = [row for _, row in scan_prefix(txn, environment.instances, series_id)]
            else:
                rows = edges(txn, environment, series_id, count) if number < SERIES_MAX else []
            for instance_row in rows:
                _add(txn, environment, arrival, instance_row, names)
            arrivals.append(arrival)
        return arrivals


def _of_series(row: bytes, count: int, payload_bytes: int) -> SeriesArrival:
    _, _, uid_length = keys.UID_HEAD.unpack_from(row)
    end = keys.UID_HEAD.size + uid_length
    institution = fact_values(row, end)[0][0].get(tags.InstitutionName, b"")
    uid = row[keys.UID_HEAD.size : end]
    return SeriesArrival(uid.decode("utf-8", "replace"), institution.decode("utf-8", "replace"), count, payload_bytes)


def edges(txn: ReadTxn, environment: Environment, series_id: bytes, count: int) -> list[bytes]:
    """The rows of the first and the last instance of a series."""
    rows: list[bytes] = []
    with txn.cursor(db=environment.instances) as cursor:
        if cursor.set_range(series_id) and cursor.key().startswith(series_id):
            rows.append(cursor.value())
        if count > 1:
            is_beyond = cursor.set_range(series_id + _LAST)
            has_row = cursor.prev() if is_beyond else cursor.last()
            if has_row and cursor.key().startswith(series_id):
                rows.append(cursor.value())
    return rows


def _add(txn: ReadTxn, environment: Environment, arrival: SeriesArrival, row: bytes, names: dict[int, str]) -> None:
    values = keys.INSTANCE.unpack_from(row)
    payload_bytes, received_ns, title_id = values[3], values[5], values[12]
    title = names.get(title_id)
    if title is None:
        title = names[title_id] = read_name(txn, environment, title_id).decode("utf-8", "replace")
    arrival.senders.setdefault(title, Sender()).add(payload_bytes, received_ns)
