"""Tells whether a stored data set is complete. Walks its element headers and reads no value.

Some stored data sets are truncated: those from before ingest checked for it, and those of a peer that may send them
(`accept_truncated`). Check here before you vouch for an instance, as storage commitment, `filmroom check` and the
duplicate rule do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from engine.dicom import elements, transfer_syntax
from engine.errors import CorruptRecord, DataSetError

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from engine.index.format.types import Instance
    from engine.storage.reader import LogReader

LIMITS: Final = elements.ScanLimits(nesting_depth_max=512, element_count_max=100_000_000)
"""No limits: a stored data set was within the limits of the version that stored it."""


def head_of(reader: LogReader, instance: Instance) -> elements.Head:
    """The head of a stored data set; `cut` says where it ends early. Blocks. Raises CorruptRecord, DataSetError."""
    position = instance.position
    syntax = transfer_syntax.of(instance.transfer_syntax_uid)

    def read(offset: int, count: int) -> Buffer:
        target = memoryview(bytearray(count))
        reader.read_into(position, target, offset)
        return target

    return elements.scan_at(read, position.payload_length, syntax, limits=LIMITS)


def cut_of(reader: LogReader, instance: Instance) -> str:
    """Where a stored data set ends early. "": it is complete, or it cannot be read, which counts as damage instead."""
    try:
        return head_of(reader, instance).cut
    except (CorruptRecord, DataSetError):
        return ""


def pixel_difference(head: elements.Head) -> str:
    """How native Pixel Data disagrees with the attributes that describe it; "" if it does not.

    YBR_FULL_422 has two samples a pixel where Samples per Pixel says three.
    """
    expected, length = head.image_bytes, head.pixel_data_length
    if expected <= 0 or length < 0 or length in (expected, expected + expected % 2):
        return ""
    if 3 * length == 2 * expected:
        return ""
    return f"Pixel Data has {length} bytes, its attributes describe {expected}"
