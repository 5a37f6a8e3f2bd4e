"""What is changed in instances on their way to one receiver: corrections and what the configuration says.

Does not change the bytes (`dicom.coercion` does) and does not record corrections (`archive.lifecycle.correction` does).
Without a [[coercion]] rule for the receiver, or without anything to change, an instance is sent as it is stored. Only
the head of a data set, up to Pixel Data, is taken into memory.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from engine.dicom import tags
from engine.dicom.coercion import Changes, coerce, values_of
from engine.dicom.sources import Joined, Part, Source, Whole
from engine.errors import DataSetError, TranscodeError

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.config import Config
    from engine.dicom.transfer_syntax import TransferSyntax
    from engine.index.format.types import Instance

HEAD_BYTES_MAX: Final = 64 << 20
"""Of a head; one that is longer cannot be changed."""

_KEPT: Final = frozenset((tags.StudyInstanceUID, tags.SeriesInstanceUID, tags.SOPInstanceUID, tags.SOPClassUID))
"""Never changed: what these say is what the instance is."""


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
        return Changes({**corrected, **self._values}, self._system, "CORRECT", self._moment, self._archive.schema.vr_of)


def coerced(source: Source, syntax: TransferSyntax, pixel_data_offset: int, changes: Changes) -> Source:
    """A data set that is not deflated with changes in it; -1: it has no Pixel Data. Blocks. Raises TranscodeError."""
    head_bytes = pixel_data_offset if 0 <= pixel_data_offset <= source.length else source.length
    if head_bytes > HEAD_BYTES_MAX:
        raise TranscodeError(f"{head_bytes} bytes before Pixel Data: too many to change an attribute in")
    try:
        found = coerce(source.read(0, head_bytes), syntax, changes)
    except DataSetError as error:
        raise TranscodeError(f"attributes cannot be changed: {error}") from error
    return Joined(Whole(found.head), Part(source, found.rest_offset))
