"""Assembles messages from PDUs and splits them into PDUs: re-exports `_ext.receive` and `_ext.transmit`.

These know PDU and PDV framing (PS3.8 9.3.1, 9.3.5) and which command announces a data set, but neither the meaning of
messages nor the association's state: the user sets `Receiver.data_allowed` according to PS3.8 Table 9-10.
"""

from __future__ import annotations

from engine._ext.receive import (
    COMMAND,
    DATA_SET,
    DATA_SET_PART,
    ERROR,
    P_DATA_EARLY,
    PDU,
    ChunkPool,
    DataSet,
    Receiver,
)
from engine._ext.transmit import (
    ANSWERED_EARLY,
    BATCH_SLOTS,
    BROKEN,
    DAMAGED,
    HALTED,
    NOT_CACHED,
    RUNNING,
    UNWANTED,
    Frame,
    Outlet,
    StoreBatch,
    fragment_bytes,
    p_data_tf,
    store_response,
)

__all__ = [
    "ANSWERED_EARLY",
    "BATCH_SLOTS",
    "BROKEN",
    "COMMAND",
    "DAMAGED",
    "DATA_SET",
    "DATA_SET_PART",
    "ERROR",
    "HALTED",
    "NOT_CACHED",
    "PDU",
    "P_DATA_EARLY",
    "RUNNING",
    "UNWANTED",
    "ChunkPool",
    "DataSet",
    "Frame",
    "Outlet",
    "Receiver",
    "StoreBatch",
    "fragment_bytes",
    "p_data_tf",
    "store_response",
]
