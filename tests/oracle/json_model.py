"""pydicom's DICOM JSON Model, and where ours is another on purpose.

pydicom raises on an element that it cannot read; that element has no model here. Bulk data is set aside: where we give
a BulkDataURI nothing but the VR is compared.
"""

from __future__ import annotations

import warnings
from typing import Any

from pydicom.dataset import Dataset

from engine.dicom import tags
from engine.dicom.json_model import TEXT_INLINE_BYTES_MAX

Model = dict[str, Any]


def foreign_model(dataset: Dataset) -> Model:
    """pydicom's model of a data set, every value inline."""
    model: Model = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for tag in sorted(dataset.keys()):
            try:
                element = dataset[tag]
                is_pixel_data = tag.group == 0x7FE0 and tag.element >= 8
                found = {"vr": element.VR} if is_pixel_data else element.to_json_dict(None, 1 << 40)
            except Exception:  # pydicom raises what it likes on damaged values
                found = None
            model[f"{int(tag):08X}"] = found
    return model


def differences(ours: Model, theirs: Model, path: str = "") -> list[str]:
    """What differs for no reason that is known here."""
    found = []
    for key in sorted({*ours, *theirs}):
        mine, other = ours.get(key), theirs.get(key)
        if mine == other or _is_explained(int(key, 16), mine, other, key in theirs):
            continue
        if mine and other and mine["vr"] == other["vr"] == "SQ":
            items, other_items = mine.get("Value", []), other.get("Value", [])
            if len(items) == len(other_items):
                for i, (item, other_item) in enumerate(zip(items, other_items, strict=True)):
                    found += differences(item, other_item, f"{path}{key}[{i}].")
                continue
        found.append(f"{path}{key}: {str(mine)[:80]} is not {str(other)[:80]}")
    return found


def _is_explained(tag: int, mine: Model | None, other: Model | None, is_there: bool) -> bool:
    if mine is None:
        # Group lengths and delimiters are left out; of what it cannot read nobody knows.
        return not tag & 0xFFFF or tag >> 16 == 0xFFFE or (is_there and other is None)
    if other is None:
        # Text that is no number is the text; pydicom raises. We say UTF-8 where there is text beyond ASCII.
        return is_there or mine == {"vr": "CS", "Value": ["ISO_IR 192"]}
    if "BulkDataURI" in mine:
        return tag >> 16 == 0x7FE0 or (mine["vr"] in (other["vr"], "UN") and _length(other) > 1024)
    if mine["vr"] == "UN" and tags.is_private(tag):
        return True  # pydicom has lists of vendors' private attributes
    if mine["vr"] != other["vr"]:
        return other["vr"] == "OB or OW"  # which is no VR
    if tag == tags.SpecificCharacterSet:
        return mine["Value"] == ["ISO_IR 192"]
    return [_plain(value) for value in mine.get("Value", ())] == [_plain(value) for value in other.get("Value", ())]


def _length(model: Model) -> int:
    if "Value" in model:
        return TEXT_INLINE_BYTES_MAX + len(str(model["Value"]))
    return len(model.get("InlineBinary", ""))


def _plain(value: Any) -> Any:
    """Leading spaces do not count; an empty value among others is null; large numbers may be text."""
    if isinstance(value, str):
        value = value.strip(" \0")
        try:
            return int(value) if value.lstrip("+-").isdigit() else value or None
        except ValueError:
            return value
    return value
