"""The values that a front end passes to ingest, and those that it gets back. Nothing here reads or writes.

A front end computes the checksum (crc32c) of a data set while it receives it, so the bytes are read only once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from engine.access.scope import FULL, Scope
from engine.archive.settings import Durable as Durable
from engine.dicom.elements import SCAN_LIMITS, ScanLimits
from engine.errors import EngineError
from engine.index.format.entry import POLICY_KEEP_BOTH, POLICY_KEEP_FIRST, POLICY_REPLACE
from engine.index.format.types import Outcome as Outcome
from engine.storage.record import crc32c as crc32c

if TYPE_CHECKING:
    from typing_extensions import Buffer

POLICIES = {"keep-first": POLICY_KEEP_FIRST, "replace": POLICY_REPLACE, "keep-both-versions": POLICY_KEEP_BOTH}
"""Value of the setting → flag in the record."""

Done: TypeAlias = Callable[[Outcome | EngineError], None]
"""Takes the answer: the outcome for an instance, or why it was refused."""


class ReceivedDataSet(Protocol):
    """A data set, or a part of one, in borrowed memory. The receiver must call `release` once."""

    @property
    def buffers(self) -> Sequence[Buffer]: ...
    @property
    def length(self) -> int: ...
    @property
    def crc(self) -> int:
        """crc32c of the data set from its first byte to the end of this part."""

    def release(self) -> None: ...


class Payload:
    """A data set, or a part of one, in the front end's own memory."""

    __slots__ = ("_on_release", "buffers", "crc", "length")

    def __init__(
        self, buffers: Sequence[Buffer], length: int, crc: int, on_release: Callable[[], None] | None = None
    ) -> None:
        """`crc`: of the data set from its first byte to the end of this part. `on_release` is called once."""
        self.buffers = buffers
        self.length = length
        self.crc = crc
        self._on_release = on_release

    def release(self) -> None:
        """Returns the memory."""
        self.buffers = ()
        on_release, self._on_release = self._on_release, None
        if on_release is not None:
            on_release()


@dataclass(slots=True)
class StoreRequest:
    """The front end's parameters for storing an instance."""

    transfer_syntax_uid: str
    calling_ae_title: str
    sop_class_uid: str | None
    """From the C-STORE command; None: not compared."""
    sop_instance_uid: str | None
    durable: bool
    policy: int
    """One of POLICIES."""
    limits: ScanLimits = SCAN_LIMITS
    accept_truncated: bool = False
    """Whether to store a data set that ends early, with a warning."""
    study_instance_uid: str | None = None
    """The study that it must belong to; None: any."""
    scope: Scope = FULL
    """The stored studies that the sender may add to; new ones it may always begin."""
    durable_at: Durable = "local"
    """Where it must be on a disk, beside here, before the answer."""
    study: bytes = b""
    """Filled by ingest: the Study Instance UID of the data set."""


@dataclass(slots=True)
class ReceivedInstance:
    """A whole data set in memory, for a batch."""

    payload: Sequence[Buffer]
    payload_length: int
    """Bytes."""
    payload_crc: int
    """crc32c of the payload."""
    transfer_syntax_uid: str
    calling_ae_title: str = ""
    sop_class_uid: str | None = None
    """From the file meta information; None: not compared."""
    sop_instance_uid: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome for an instance, and the UIDs of its data set: empty if they cannot be read."""

    outcome: Outcome | EngineError
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
