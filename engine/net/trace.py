"""The optional wire trace: a file of JSON lines for each association, with its decoded PDUs and messages.

It leaves out data sets and identifiers: commands have UIDs and AE titles, but no patient data. Compare it with a peer's
log (`[log] wire_trace = "trace"`). It costs tens of microseconds a PDU and is off by default.
"""

from __future__ import annotations

import itertools
import os
import time
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import IO, Any

import orjson

from engine import log
from engine.dimse import messages
from engine.errors import ConfigError, EngineError
from engine.ul import pdu

logger = log.get("net.trace")


def make_folder(folder: Path) -> None:
    """Makes the folder unless it exists. Raises ConfigError when it is not writable."""
    try:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"log.wire_trace: the folder {folder} cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"log.wire_trace: the folder {folder} is not writable")


class TraceFolder:
    """The folder with one file for each association; file names have only our own numbers."""

    def __init__(self, folder: Path, worker: int) -> None:
        make_folder(folder)
        self._prefix = folder / f"{time.strftime('%Y%m%dT%H%M%S')}-{worker}-{os.getpid()}"
        self._numbers = itertools.count(1)

    def association(self, peer: str) -> Trace | None:
        """A trace for one association with the host `peer`; None, and a logged error, if its file cannot be made."""
        path = f"{self._prefix}-{next(self._numbers)}.jsonl"
        try:
            return Trace(open(path, "ab", buffering=0, opener=_private), peer)
        except OSError as error:
            logger.error("association is not traced", path=path, error=error.strerror)
            return None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o640)


class Trace:
    """One association's lines."""

    def __init__(self, file: IO[bytes], peer: str) -> None:
        self._file = file
        self._peer = peer
        self._failed = False

    def pdu(self, direction: str, pdu_type: int, body: bytes) -> None:
        """A PDU other than P-DATA-TF."""
        fields: dict[str, object] = {"direction": direction, "bytes": len(body) + 6}
        try:
            content = pdu.decode(pdu_type, body)
            fields["pdu"] = type(content).__name__
            if is_dataclass(content) and not isinstance(content, type):
                fields.update(_readable(_without_secrets(asdict(content))))
        except EngineError as error:
            fields.update(pdu_type=pdu_type, error=str(error))
        self._line(fields)

    def sent(self, data: bytes) -> None:
        """One or more whole PDUs that the association sends by itself."""
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
        if self._failed:
            return
        line = {"time": time.time(), "peer": self._peer, **fields}
        try:
            self._file.write(
                orjson.dumps(line, default=_plain, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)
            )
        except OSError as error:
            # Most likely the disk is full. The association continues without a trace.
            self._failed = True
            logger.error("trace ends early", peer=self._peer, error=error.strerror)


def _without_secrets(fields: dict[str, Any]) -> dict[str, Any]:
    """Hides the passcode and token of a user identity (PS3.7 D.3.3.7)."""
    identity = (fields.get("user_information") or {}).get("user_identity_rq")
    if identity:
        identity.update(primary_field="***", secondary_field="***")
    return fields


def _readable(fields: dict[str, Any]) -> dict[str, Any]:
    """Shows the titles that an A-ASSOCIATE-AC returns (PS3.8 9.3.3) as those of an A-ASSOCIATE-RQ."""
    titles = fields.pop("titles", None)
    if titles is None:
        return fields
    called, calling = (titles[at : at + 16].decode("latin-1").strip(" \0") for at in (0, 16))
    return {"called_ae_title": called, "calling_ae_title": calling, **fields}


def _plain(value: object) -> object:
    return value.hex() if isinstance(value, bytes | bytearray) else repr(value)
