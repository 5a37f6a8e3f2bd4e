"""One stored instance as a DICOM JSON object: all its attributes, with large values as BulkDataURIs.

Reads the elements before and after the pixels. A BulkDataURI is the URL of the instance, "/bulkdata", and the path of
the element as `dicom.json_model` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from engine.archive.retrieve import HEAD_BYTES_MAX
from engine.dicom import json_model, tags
from engine.dicom.coercion import Changes, coerce
from engine.dicom.sources import Inflated
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from engine.errors import DataSetError, FramesUnreadable, TranscodeError

if TYPE_CHECKING:
    from engine.archive.retrieve import StoredInstance
    from engine.index.format.types import Instance

_IDENTIFYING: Final = frozenset((tags.StudyInstanceUID, tags.SeriesInstanceUID, tags.SOPInstanceUID, tags.SOPClassUID))
"""Attributes that identify the instance: no correction changes them."""


def changes_of(corrected: Mapping[int, bytes]) -> Changes | None:
    """The changes that corrections make in the JSON object. None: no changes."""
    values: dict[int, bytes | None] = {tag: value for tag, value in corrected.items() if tag not in _IDENTIFYING}
    return Changes(values, reason="CORRECT") if values else None


def bulk_data_url(root: str, instance: Instance) -> str:
    """The beginning of an instance's BulkDataURIs."""
    uids = (instance.study_instance_uid, instance.series_instance_uid, instance.sop_instance_uid)
    study, series, sop_instance = [quote(uid, safe="") for uid in uids]
    return f"{root}/studies/{study}/series/{series}/instances/{sop_instance}/bulkdata"


def instance_json(stored: StoredInstance, root: str, changes: Changes | None) -> bytes:
    """The JSON object. Raises CorruptRecord, and DataSetError if this is no data set."""
    data, syntax = stored.head(), stored.syntax
    try:
        tail = stored.tail()
    except FramesUnreadable:
        tail = memoryview(b"")
    if changes is not None:
        at = stored.instance.pixel_data_offset
        try:
            if syntax.deflated:
                inflated = Inflated(stored)
                data, syntax = inflated.read(0, min(inflated.length, HEAD_BYTES_MAX)), EXPLICIT_VR_LITTLE_ENDIAN
            head = data[:at] if at >= 0 else data
            coerced = coerce(head, syntax, changes)
        except TranscodeError as error:
            raise DataSetError(str(error)) from error
        data = memoryview(coerced.head + data[coerced.tail_offset :])
    return json_model.encode(data, syntax, bulk_data_url(root, stored.instance), tail=tail, may_be_cut=True)
