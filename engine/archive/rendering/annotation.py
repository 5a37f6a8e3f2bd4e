"""Annotations in the corners of a picture: patient and technique (PS3.18 8.3.5.1.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from PIL import ImageDraw, ImageFont

from engine.dicom import charset, tags

if TYPE_CHECKING:
    from PIL import Image

    from engine.archive.transcoding.head import Head

PATIENT: Final = (
    (tags.PatientName, "PN"),
    (tags.PatientID, "LO"),
    (tags.PatientBirthDate, "DA"),
    (tags.PatientSex, "CS"),
)
TECHNIQUE: Final = (
    (tags.Modality, "CS"),
    (tags.StudyDate, "DA"),
    (tags.StudyDescription, "LO"),
    (tags.SeriesDescription, "LO"),
    (tags.KVP, "DS"),
    (tags.SliceThickness, "DS"),
    (tags.InstanceNumber, "IS"),
)
_LINE_MAX: Final = 48


def draw(picture: Image.Image, head: Head, groups: tuple[str, ...], corrections: Mapping[int, str]) -> None:
    """Writes into the picture itself; `corrections`: values that replace the stored ones."""
    size = max(min(picture.size) // 40, 10)
    font = ImageFont.load_default(size)
    pen = ImageDraw.Draw(picture)
    is_grey = picture.mode == "L"
    ink, edge = (255, 0) if is_grey else ((255, 255, 255), (0, 0, 0))
    margin = size // 2
    if "patient" in groups:
        text = "\n".join(_lines(head, PATIENT, corrections))
        pen.multiline_text((margin, margin), text, ink, font, stroke_width=1, stroke_fill=edge)
    if "technique" in groups:
        text = "\n".join(_lines(head, TECHNIQUE, corrections))
        at = (picture.size[0] - margin, margin)
        pen.multiline_text(at, text, ink, font, anchor="ra", align="right", stroke_width=1, stroke_fill=edge)


def _lines(head: Head, attributes: tuple[tuple[int, str], ...], corrections: Mapping[int, str]) -> list[str]:
    lines = []
    for tag, vr in attributes:
        text = shown(corrections[tag], vr) if tag in corrections else value(head, tag, vr)
        if text:
            lines.append(text[:_LINE_MAX])
    return lines


def value(head: Head, tag: int, vr: str) -> str:
    """A value as text for people: the alphabetic group of a name, a date with dashes."""
    return value_in(head, head, tag, vr)


def value_in(item: Head, root: Head, tag: int, vr: str) -> str:
    """The same for a sequence item, which has the data set's character set unless it has its own."""
    sets = item.raw(tags.SpecificCharacterSet) or root.raw(tags.SpecificCharacterSet)
    return shown(charset.decode(item.raw(tag), sets, vr), vr)


def shown(text: str, vr: str) -> str:
    """A value formatted for people."""
    text = text.strip(" \0")
    if vr == "PN":
        family, _, given = text.split("=")[0].partition("^")
        return ", ".join(part for part in (family, given.replace("^", " ").strip()) if part)
    if vr == "DA" and len(text) == 8:
        return f"{text[:4]}-{text[4:6]}-{text[6:]}"
    return "".join(character for character in text if character.isprintable())
