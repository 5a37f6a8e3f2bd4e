"""Whether some of the current instances of a study, series or instance lie in certain segments. Reads only."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from engine.index.database.environment import Environment
from engine.index.database.transactions import ReadTxn
from engine.index.format import keys
from engine.index.format.rows import scan_prefix
from engine.index.query.arrivals import edges

READ_MAX = 2000
"""Instances of one study or series that are looked at one by one, some milliseconds; of further series, the first and
the last: what arrived together lies together."""
_SEGMENT_AT = 8
"""Where the segment's id is in an INSTANCE row."""


def has_study_in(environment: Environment, study_uid: bytes, segment_ids: Collection[int]) -> bool:
    """Whether a study has instances there; False if it is not stored."""
    with environment.reading() as txn:
        study_id = txn.get(keys.bounded(study_uid), db=environment.study_uids)
        if study_id is None:
            return False
        series = [(key[4:], counts) for key, counts in scan_prefix(txn, environment.counts, study_id)]
        return _any_in(txn, environment, series, segment_ids)


def has_series_in(environment: Environment, series_uid: bytes, segment_ids: Collection[int]) -> bool:
    """Whether a series has instances there, in whichever study."""
    with environment.reading() as txn:
        series = []
        prefix = keys.bounded(series_uid) + b"\0"
        for key, series_id in list(scan_prefix(txn, environment.series_uids, prefix)):
            counts = txn.get(key[len(prefix) :] + series_id, db=environment.counts)
            if counts is not None:
                series.append((series_id, counts))
        return _any_in(txn, environment, series, segment_ids)


def _any_in(
    txn: ReadTxn, environment: Environment, series: list[tuple[bytes, bytes]], segment_ids: Collection[int]
) -> bool:
    left = READ_MAX
    for series_id, counts in series:
        count = keys.COUNTS.unpack_from(counts)[0]
        left -= count
        rows: Iterator[bytes]
        if left >= 0:
            rows = (row for _, row in scan_prefix(txn, environment.instances, series_id))
        else:
            rows = iter(edges(txn, environment, series_id, count))
        if any(keys.U64.unpack_from(row, _SEGMENT_AT)[0] in segment_ids for row in rows):
            return True
    return False
