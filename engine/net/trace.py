"""Opt-in wire trace: a file of JSON lines an association, with its PDUs and messages decoded.

Does not write data sets or identifiers: commands hold UIDs and AE titles, not patients. It is made for reading
beside a peer's log (`[log] wire_trace = "trace"`); it costs tens of microseconds a PDU and is off by default.
"""

from __future__ import annotations

import itertools
import os
import time
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import IO, Any

import orjson

from engine.dimse import messages
from engine.errors import EngineError
from engine.ul import pdu


class TraceFolder:
    """The folder that gets one file an association; file names are made of our own numbers only."""

    def __init__(self, folder: Path, worker: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._prefix = folder / f"{time.strftime('%Y%m%dT%H%M%S')}-{worker}-{os.getpid()}"
        self._numbers = itertools.count(1)

    def association(self, peer: str) -> Trace:
        """A trace for one association with the host `peer`."""
        return Trace(open(f"{self._prefix}-{next(self._numbers)}.jsonl", "ab", buffering=0), peer)


class Trace:
    """One association's lines."""

    def __init__(self, file: IO[bytes], peer: str) -> None:
        self._file = file
        self._peer = peer

    def pdu(self, direction: str, pdu_type: int, body: bytes) -> None:
        """A PDU other than P-DATA-TF."""
        fields: dict[str, object] = {"direction": direction, "bytes": len(body) + 6}
        try:
            content = pdu.decode(pdu_type, body)
            fields["pdu"] = type(content).__name__
            if is_dataclass(content) and not isinstance(content, type):
                fields.update(_without_secrets(asdict(content)))
        except EngineError as error:
            fields.update(pdu_type=pdu_type, error=str(error))
        self._line(fields)

    def sent(self, data: bytes) -> None:
        """One or more whole PDUs that the association sends of itself."""
        at = 0
        while at + 6 <= len(data):
            length = int.from_bytes(data[at + 2 : at + 6], "big")
            self.pdu("out", data[at], data[at + 6 : at + 6 + length])
            at += 6 + length

    def command(self, direction: str, presentation_context_id: int, command: bytes) -> None:
        """A whole command set."""
        fields: dict[str, object] = {"direction": direction, "presentation_context_id": presentation_context_id}
        try:
            message = messages.decode(command)
            fields["message"] = type(message).__name__
            fields.update(asdict(message))
        except EngineError as error:
            fields.update(command=command.hex(), error=str(error))
        self._line(fields)

    def data_set(self, direction: str, presentation_context_id: int, length: int, is_last: bool) -> None:
        """A whole data set, or a part of a large one: its length in bytes."""
        self._line(
            {
                "direction": direction,
                "presentation_context_id": presentation_context_id,
                "data_set_bytes": length,
                "is_last": is_last,
            }
        )

    def close(self, reason: str) -> None:
        """The association's end."""
        self._line({"ended": reason})
        self._file.close()

    def _line(self, fields: dict[str, object]) -> None:
        line = {"time": time.time(), "peer": self._peer, **fields}
        self._file.write(
            orjson.dumps(line, default=_plain, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)
        )


def _without_secrets(fields: dict[str, Any]) -> dict[str, Any]:
    """Passcodes and tokens of a user identity (PS3.7 D.3.3.7) stay out of the trace."""
    identity = (fields.get("user_information") or {}).get("user_identity_rq")
    if identity:
        identity.update(primary_field="***", secondary_field="***")
    return fields


def _plain(value: object) -> object:
    return value.hex() if isinstance(value, bytes | bytearray) else repr(value)
