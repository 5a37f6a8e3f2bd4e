"""Chooses the instance whose picture represents a series or a study."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Final

from engine.dicom.frames import is_video

if TYPE_CHECKING:
    from engine.index.format.types import Instance

_NO_PICTURES: Final = (
    "1.2.840.10008.5.1.4.1.1.11.",  # presentation states
    "1.2.840.10008.5.1.4.1.1.66",  # raw data, registrations, segmentations
    "1.2.840.10008.5.1.4.1.1.88.",  # structured reports, key objects
    "1.2.840.10008.5.1.4.1.1.104.",  # documents
    "1.2.840.10008.5.1.4.1.1.481.",  # radiotherapy
    "1.2.840.10008.5.1.4.1.1.9.",  # waveforms
)


def has_picture(instance: Instance) -> bool:
    """Whether an instance is an image of the patient."""
    is_still = instance.pixel_data_offset >= 0 and not is_video(instance.transfer_syntax_uid)
    return is_still and not instance.sop_class_uid.startswith(_NO_PICTURES)


def representative(instances: Sequence[Instance]) -> Instance:
    """From instances by series and number, at least one: the middle one of the series with most pictures.

    Without any picture, the first instance with Pixel Data, else the first one.
    """
    series = [list(group) for _, group in groupby(instances, lambda instance: instance.series_instance_uid)]
    pictures = max(([one for one in group if has_picture(one)] for group in series), key=len)
    if pictures:
        return pictures[len(pictures) // 2]
    with_pixels = (one for one in instances if one.pixel_data_offset >= 0)
    return next(with_pixels, instances[0])
