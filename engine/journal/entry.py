"""What the journal keeps of a message beside its bytes, and of what it did.

Both are arrays in MessagePack: a later version may add fields at the end, and changes none.
"""

from __future__ import annotations

from enum import StrEnum
from hashlib import blake2b

import msgspec
from msgspec import Struct


class Fault(Struct, frozen=True, array_like=True):
    """Why a message was not taken or not applied. Names no value of a patient."""

    code: int
    """HL7 table 0357."""
    text: str
    segment: str = ""
    sequence: int = 0
    field: int = 0


class Received(Struct, frozen=True, array_like=True, kw_only=True):
    """A message as it came."""

    time: float
    source: str
    """Name of the [[hl7.source]]; "" for an unknown sender."""
    host: str
    """Address of the sender."""
    kind: str = ""
    """TYPE^EVENT."""
    control_id: str = ""
    application: str = ""
    facility: str = ""
    patient_id: str = ""
    oddities: tuple[str, ...] = ()
    """What was not as the standard has it."""
    fault: Fault | None = None
    """Why it was refused; a refused message is never applied."""

    @property
    def key(self) -> int:
        """64 bits of what identifies the message: application, facility and control id (MSH-3, MSH-4, MSH-10)."""
        parts = "\0".join((self.application, self.facility, self.control_id))
        return int.from_bytes(blake2b(parts.encode("utf-8", "replace"), digest_size=8).digest(), "little")


class Result(StrEnum):
    """What became of a message."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    """It said what was known already."""
    REFUSED = "refused"
    FAILED = "failed"
    """A defect of ours; the message can be replayed."""


class Outcome(Struct, frozen=True, array_like=True, kw_only=True):
    """What applying a message did."""

    number: int
    time: float
    result: Result
    changes: tuple[str, ...] = ()
    """What is another now; names no value of a patient."""
    warnings: tuple[str, ...] = ()
    fault: Fault | None = None
    is_replay: bool = False
    """Whether somebody asked for it: a replay does not move the cursor."""


_RECEIVED = msgspec.msgpack.Decoder(Received)
_OUTCOME = msgspec.msgpack.Decoder(Outcome)
_ENCODER = msgspec.msgpack.Encoder()


def encode(value: Received | Outcome) -> bytes:
    """For the meta area of a record."""
    return _ENCODER.encode(value)


def decode_received(meta: bytes) -> Received:
    """Raises msgspec.MsgspecError."""
    return _RECEIVED.decode(meta)


def decode_outcome(meta: bytes) -> Outcome:
    """Raises msgspec.MsgspecError."""
    return _OUTCOME.decode(meta)
