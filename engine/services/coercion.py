"""What is changed in instances on their way to one receiver: corrections and what the configuration says.

Does not change the bytes (`dicom.coercion` does) and does not record corrections (`archive.care.correction` does).
Without a [[coercion]] rule for the receiver, or without anything to change, an instance is sent as it is stored.

    stored up to WHOLE_BYTES_MAX, or deflated      read whole, its checksum compared, sent from memory
    larger                                         read once for its checksum; its head is sent from memory and the
                                                   rest as it is stored
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from engine.dicom import tags, transfer_syntax
from engine.dicom.coercion import Changes, coerce, values_of
from engine.dicom.convert import convert
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from engine.errors import DataSetError, SegmentGone, TranscodeError

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.config import Config
    from engine.index.types import Instance

WHOLE_BYTES_MAX: Final = 8 << 20
"""Longer data sets are not joined in memory: their head is, up to Pixel Data."""
HEAD_BYTES_MAX: Final = 64 << 20
"""Of a head; one that is longer cannot be changed."""

_KEPT: Final = frozenset((tags.StudyInstanceUID, tags.SeriesInstanceUID, tags.SOPInstanceUID, tags.SOPClassUID))
"""Never changed: what these say is what the instance is."""


@dataclass(frozen=True, slots=True)
class Replaced:
    """What is sent instead of the stored bytes up to `rest_offset`; -1: of all of them."""

    data: bytes
    rest_offset: int


class Coercer:
    """The changes for one receiver, remembered series by series."""

    def __init__(self, archive: Archive, config: Config, receiver: str) -> None:
        """`receiver`: the AE title. Raises ConfigError."""
        rule = config.coercion_of(receiver)
        self._archive = archive
        self._system = config.aet.encode("ascii", "replace").decode()
        self._corrects = rule is not None and rule.corrections
        self._values = values_of(rule.values, rule.remove) if rule is not None else {}
        self._moment = time.strftime("%Y%m%d%H%M%S")
        self._known: dict[tuple[str, str], Changes | None] = {}
        """By study and series: one Series Instance UID may occur in two studies, of two patients."""

    def changes(self, instance: Instance) -> Changes | None:
        """What is to be changed in an instance; None: nothing."""
        if not self._corrects:
            return self._of_values()
        key = (instance.study_instance_uid, instance.series_instance_uid)
        if key not in self._known:
            self._known[key] = self._of_series(instance)
        return self._known[key]

    def _of_values(self) -> Changes | None:
        return Changes(self._values, self._system, "COERCE", self._moment) if self._values else None

    def _of_series(self, instance: Instance) -> Changes | None:
        corrected = self._archive.corrected(instance.study_instance_uid, instance.series_instance_uid)
        corrected = {tag: value for tag, value in corrected.items() if tag not in _KEPT}
        if not corrected:
            return self._of_values()
        return Changes({**corrected, **self._values}, self._system, "CORRECT", self._moment)

    async def replaced(
        self, instance: Instance, changes: Changes, converted: bytes | None, syntax_uid: str
    ) -> Replaced:
        """The bytes that carry the changes. `converted`: the data set in the transfer syntax `syntax_uid` if it is not
        the stored one. Raises CorruptRecord, TranscodeError."""
        work: Callable[[], Replaced]
        if converted is not None:
            work = functools.partial(self._whole, converted, changes, syntax_uid)
        else:
            work = functools.partial(self._stored, instance, changes)
        return await asyncio.get_running_loop().run_in_executor(None, work)

    def _stored(self, instance: Instance, changes: Changes) -> Replaced:
        length, head_bytes = instance.position.payload_length, instance.pixel_data_offset
        syntax = transfer_syntax.of(instance.transfer_syntax_uid)
        if length <= WHOLE_BYTES_MAX or syntax.deflated:
            return self._whole(self._archive.read(instance), changes, syntax.uid)
        if head_bytes < 0:
            head_bytes = length
        if head_bytes > HEAD_BYTES_MAX:
            raise TranscodeError(f"{head_bytes} bytes before Pixel Data: too many to change an attribute in")
        head = bytearray(head_bytes)
        try:
            self._read_head(instance, head)
        except SegmentGone:  # not pinned, and moved by a compaction since the retrieval began
            self._archive.follow(instance)
            self._read_head(instance, head)
        return Replaced(*_coerced(head, syntax.uid, changes))

    def _read_head(self, instance: Instance, head: bytearray) -> None:
        """Fills `head`, after the checksum of the whole has been found right."""
        reader = self._archive.reader
        reader.verify_payload(instance.position)
        reader.read_scattered(instance.position, [memoryview(head)], 0)

    def _whole(self, data: bytes, changes: Changes, syntax_uid: str) -> Replaced:
        syntax = transfer_syntax.of(syntax_uid)
        if syntax.deflated:
            native = convert(data, syntax, EXPLICIT_VR_LITTLE_ENDIAN)
            changed = self._whole(native, changes, EXPLICIT_VR_LITTLE_ENDIAN.uid)
            return Replaced(convert(changed.data, EXPLICIT_VR_LITTLE_ENDIAN, syntax), -1)
        head, rest_offset = _coerced(data, syntax_uid, changes)
        return Replaced(b"".join((head, memoryview(data)[rest_offset:])), -1)


def _coerced(data: Any, syntax_uid: str, changes: Changes) -> tuple[bytes, int]:
    try:
        found = coerce(data, transfer_syntax.of(syntax_uid), changes)
    except DataSetError as error:
        raise TranscodeError(f"attributes cannot be changed: {error}") from error
    return found.head, found.rest_offset
