"""Determines the changes to instances that are sent to one receiver: corrections, the values of the configuration, and
what linked orders supply.

`dicom.coercion` changes the bytes, and `archive.lifecycle.correction` records corrections. Without a [[coercion]] rule
or `supply` for the receiver, or without anything to change, an instance is sent as it is stored. Only the header of a
data set, up to Pixel Data, is read into memory.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from engine.dicom import tags
from engine.dicom.coercion import Changes, coerce, values_of
from engine.dicom.sources import Concatenation, Part, Source, Whole
from engine.errors import DataSetError, TranscodeError

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.archive.supplies import Supplies
    from engine.config import Config
    from engine.dicom.transfer_syntax import TransferSyntax
    from engine.index.format.types import Instance

HEAD_BYTES_MAX: Final = 64 << 20
"""Bytes before Pixel Data; a longer header cannot be changed."""

_IDENTITY: Final = frozenset((tags.StudyInstanceUID, tags.SeriesInstanceUID, tags.SOPInstanceUID, tags.SOPClassUID))
"""Attributes that are never changed: they identify the instance."""


class Coercer:
    """The changes for one receiver, cached for each series."""

    def __init__(self, archive: Archive, config: Config, receiver: str, supplies: Supplies | None = None) -> None:
        """`receiver`: the AE title; `supplies`: what it gets of linked orders. Raises ConfigError."""
        rule = config.coercion_of(receiver)
        self._archive = archive
        self._supplies = supplies
        self._system = config.aet.encode("ascii", "replace").decode()
        self._corrects = rule is not None and rule.corrections
        self._values = values_of(rule.values, rule.remove) if rule is not None else {}
        self._moment = time.strftime("%Y%m%d%H%M%S")
        self._cache: dict[tuple[str, str], Changes | None] = {}
        """By study and series: one Series Instance UID may occur in two studies, of two patients."""

    def changes(self, instance: Instance) -> Changes | None:
        """The changes to an instance; None: it is sent as it is stored."""
        if not self._corrects and self._supplies is None:
            return self._of_values()
        key = (instance.study_instance_uid, instance.series_instance_uid)
        if key not in self._cache:
            self._cache[key] = self._of_series(instance)
        return self._cache[key]

    def _of_values(self) -> Changes | None:
        return Changes(self._values, self._system, "COERCE", self._moment) if self._values else None

    def _of_series(self, instance: Instance) -> Changes | None:
        names = instance.study_instance_uid, instance.series_instance_uid
        supplied = self._supplies.of_series(*names) if self._supplies is not None else {}
        corrections = self._archive.corrected(*names) if self._corrects else {}
        corrections = {tag: value for tag, value in corrections.items() if tag not in _IDENTITY}
        if not corrections and not supplied:
            return self._of_values()
        # A correction counts more: a person may have made it.
        values = {**supplied, **corrections, **self._values}
        reason = "CORRECT" if corrections else "COERCE"
        return Changes(values, self._system, reason, self._moment, self._archive.schema.vr_of)


def apply(source: Source, syntax: TransferSyntax, pixel_data_offset: int, changes: Changes) -> Source:
    """A data set, not deflated, with changes. `pixel_data_offset` -1: no Pixel Data. Blocks. Raises TranscodeError."""
    head_bytes = pixel_data_offset if 0 <= pixel_data_offset <= source.length else source.length
    if head_bytes > HEAD_BYTES_MAX:
        raise TranscodeError(f"attributes cannot be changed: {head_bytes} bytes before Pixel Data are too many")
    try:
        result = coerce(source.read(0, head_bytes), syntax, changes)
    except DataSetError as error:
        raise TranscodeError(f"attributes cannot be changed: {error}") from error
    return Concatenation(Whole(result.head), Part(source, result.tail_offset))
