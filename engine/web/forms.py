"""In which transfer syntax something leaves, and under which media type (PS3.18 8.7.3).

    nothing asked for        Explicit VR Little Endian, decoded if need be; what cannot be decoded goes as it is stored,
                             and so does everything for the clients of http.as_stored_clients
    `*`                      as it is stored; what is Implicit VR or Big Endian as Explicit VR Little Endian
    one transfer syntax      that one, or this form does not do

Implicit VR and Big Endian never leave.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from engine.archive.transcoding.transcode import DECODABLE, ENCODABLE, LOSSY_ENCODABLE
from engine.dicom import transfer_syntax
from engine.dicom.transfer_syntax import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)
from engine.web.accept import ANY, Choice, Offer, negotiate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.web.request import Request

EXPLICIT: Final = EXPLICIT_VR_LITTLE_ENDIAN.uid
OCTET_STREAM: Final = "application/octet-stream"
DICOM: Final = "application/dicom"

_NEVER_SENT: Final = (IMPLICIT_VR_LITTLE_ENDIAN.uid, EXPLICIT_VR_BIG_ENDIAN.uid)
_JPEG: Final = "1.2.840.10008.1.2.4."

IMAGE_TYPES: Final = {
    "image/jpeg": tuple(_JPEG + number for number in ("70", "50", "51", "53", "55", "57")),
    "image/dicom-rle": ("1.2.840.10008.1.2.5",),
    "image/jls": (_JPEG + "80", _JPEG + "81"),
    "image/jp2": (_JPEG + "90", _JPEG + "91"),
    "image/jpx": (_JPEG + "92", _JPEG + "93"),
    "image/jphc": (_JPEG + "201", _JPEG + "202", _JPEG + "203"),
    "image/jxl": (_JPEG + "110", _JPEG + "111", _JPEG + "112"),
}
"""Media type of frames → its transfer syntaxes, the default one first (PS3.18 Table 8.7.3-4)."""

_IMAGE_TYPE_OF: Final = {uid: name for name, uids in IMAGE_TYPES.items() for uid in uids}


def choices_of(request: Request, offers: Sequence[Offer]) -> list[Choice]:
    """What the request accepts of these, best first. Raises NotAcceptable, RequestError."""
    accept = request.headers.getall("Accept", [])
    query = request.query.getall("accept", []) if "?" in request.raw_path else []
    choices = _negotiated(tuple(offers), ",".join(accept) if accept else None, tuple(query))
    words = request.config.http.as_stored_clients
    if words and any(word in request.headers.get("User-Agent", "") for word in words):
        return [choice._replace(transfer_syntax=choice.transfer_syntax or ANY) for choice in choices]
    return choices


@lru_cache(maxsize=256)
def _negotiated(offers: tuple[Offer, ...], header: str | None, query: tuple[str, ...]) -> list[Choice]:
    """Kept, since a viewer asks for a thousand frames with one header."""
    return negotiate(offers, header, query)


def instance_syntax(stored_uid: str, asked: str) -> str | None:
    """The transfer syntax in which an instance leaves; None: this form does not do."""
    if asked == ANY:
        return EXPLICIT if stored_uid in _NEVER_SENT else stored_uid
    if not asked:
        return EXPLICIT if _can_become(stored_uid, EXPLICIT) else stored_uid
    if asked in _NEVER_SENT:
        return None
    return asked if _can_become(stored_uid, asked) else None


def frame_syntax(stored_uid: str, media_type: str, asked: str) -> str | None:
    """The same of frames, whose native form is that of Explicit VR Little Endian."""
    stored = transfer_syntax.of(stored_uid)
    own = EXPLICIT if stored.convertible else stored_uid
    if media_type == OCTET_STREAM:
        if asked == ANY:
            return own
        if not asked:
            return EXPLICIT if own == EXPLICIT or stored_uid in DECODABLE else own
        wanted = asked
    else:
        of_type = IMAGE_TYPES.get(media_type, ())
        if asked in ("", ANY):
            wanted = own if own in of_type else of_type[0] if of_type else ""
        else:
            wanted = asked if asked in of_type else ""
    if wanted == own:
        return own
    is_readable = own == EXPLICIT or stored_uid in DECODABLE
    return wanted if is_readable and wanted in (EXPLICIT, *ENCODABLE, *LOSSY_ENCODABLE) else None


def image_type(syntax_uid: str) -> str:
    """The media type of frames in a transfer syntax."""
    return _IMAGE_TYPE_OF.get(syntax_uid, OCTET_STREAM)


def with_syntax(media_type: str, syntax_uid: str) -> str:
    """A media type that says its transfer syntax."""
    return f"{media_type}; transfer-syntax={syntax_uid}"


def _can_become(stored_uid: str, target_uid: str) -> bool:
    if stored_uid == target_uid:
        return True
    stored = transfer_syntax.of(stored_uid)
    is_readable = stored.convertible or stored_uid in DECODABLE
    if target_uid in (EXPLICIT, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN.uid):
        return is_readable
    return is_readable and target_uid in (*ENCODABLE, *LOSSY_ENCODABLE)
