"""Lists corrections and undos, each with its state. Reads only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from engine.index.apply.corrections import RECORD, UNDO, correction_of_row
from engine.index.database.environment import Environment
from engine.index.database.transactions import ReadTxn
from engine.index.format import keys
from engine.index.format.entry import Correction
from engine.index.format.rows import scan_prefix
from engine.index.query.listing import read_rows


@dataclass(frozen=True, slots=True)
class CorrectionStatus:
    """A correction and its state."""

    correction: Correction
    undone_by: int
    """The stamp of the first undo; 0: it is in force."""


def read_corrections(environment: Environment) -> Iterator[CorrectionStatus]:
    """Every correction and every undo, the earliest first; page by page."""

    def read(txn: ReadTxn, key: bytes, value: bytes) -> CorrectionStatus | None:
        return _status(txn, environment, key, value) if value[0] else None

    return read_rows(environment, environment.corrections, read, RECORD)


def find_correction(txn: ReadTxn, environment: Environment, stamp: int) -> CorrectionStatus | None:
    """The correction with this stamp."""
    for key, value in scan_prefix(txn, environment.corrections, RECORD + keys.U64_KEY.pack(stamp)):
        if value[0]:
            return _status(txn, environment, key, value)
    return None


def _status(txn: ReadTxn, environment: Environment, key: bytes, value: bytes) -> CorrectionStatus:
    correction = correction_of_row(key, value)
    undos = scan_prefix(txn, environment.corrections, UNDO + keys.U64_KEY.pack(correction.stamp))
    first = next((keys.U64_KEY.unpack_from(undo, 1 + keys.U64_KEY.size)[0] for undo, _ in undos), 0)
    return CorrectionStatus(correction, first)
