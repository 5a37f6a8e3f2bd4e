"""The [log] table: the server's own messages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

LogFormat = Literal["auto", "json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]


class Log(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The server's own messages."""

    format: LogFormat = "auto"
    """json: a line of JSON an event. console: for people. auto: console on a terminal, else json."""

    level: LogLevel = "info"
    """The least severe level that is written. At info there are a few lines an association, none an instance."""

    lines_per_peer_per_s_max: Annotated[int, Meta(ge=1, le=100_000)] = 50
    """Lines a second that one network address can cause in one process; one further line gives the number of lines
    left out. Enough for a busy modality, too few to fill a disk."""

    kept_bytes: Annotated[int, Meta(ge=0, le=1 << 32)] = 16 << 20
    """Bytes of the newest events (some 80,000) that DATA/log keeps for searches on the page, always without patient
    data; 0: none. The whole log goes to standard error."""

    patient_data: bool = False
    """Whether names, identifiers and dates of patients are written as they are; otherwise as ***."""

    wire_trace: Path | None = None
    """A folder for traces: a file for each association with its decoded PDUs and messages, a line of JSON each; unset:
    off. It costs tens of microseconds a PDU. Data sets and identifiers are left out."""
