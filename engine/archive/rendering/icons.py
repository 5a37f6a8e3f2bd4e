"""Icons: a tile with the modality replaces a thumbnail that must not, or cannot, be drawn.

Thumbnails go to places where no patient may be named (PS3.18 10.4.1.1.4): lists, caches, logs of proxies. Text in the
pixels of screenshots and ultrasound often names the patient, so these get a tile unless Burned In Annotation is NO.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from PIL import Image, ImageDraw, ImageFont

from engine.dicom import tags

if TYPE_CHECKING:
    from engine.archive.rendering.options import Viewport
    from engine.archive.transcoding.head import Head

SIDE: Final = 256
BURNED_IN_CLASSES: Final = (
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture, multi-frame ones too
    "1.2.840.10008.5.1.4.1.1.6.1",  # Ultrasound
    "1.2.840.10008.5.1.4.1.1.6.2",
    "1.2.840.10008.5.1.4.1.1.3.1",  # Ultrasound Multi-frame
    "1.2.840.10008.5.1.4.1.1.104",  # Encapsulated documents
)
_INK: Final = 190
_GROUND: Final = 38


def reason(head: Head, *, has_pixels: bool) -> str:
    """The text of the tile; "" if the picture may be shown."""
    if not has_pixels:
        return text(head)
    burned_in = head.text(tags.BurnedInAnnotation)
    sop_class_uid = head.text(tags.SOPClassUID)
    may_name = any(sop_class_uid == uid or sop_class_uid.startswith(uid + ".") for uid in BURNED_IN_CLASSES)
    if burned_in == "YES" or (may_name and burned_in != "NO"):
        return text(head)
    return ""


def text(head: Head) -> str:
    """What a tile says of an instance."""
    return head.text(tags.Modality) or "?"


def icon(words: str, viewport: Viewport | None) -> Image.Image:
    """The tile: a square as large as the viewport allows."""
    side = min(viewport.width, viewport.height) if viewport is not None else SIDE
    tile = Image.new("L", (side, side), _GROUND)
    pen = ImageDraw.Draw(tile)
    font = ImageFont.load_default(max(side // 4, 8))
    pen.text((side / 2, side / 2), words[:8], _INK, font, anchor="mm")
    return tile
