"""Chooses the transfer syntax and the media type of sent instances and frames (PS3.18 8.7.3).

    no transfer syntax requested    Explicit VR Little Endian, decoded if necessary; if it cannot be decoded, as stored;
                                    for the clients of http.as_stored_clients everything as stored
    `*`                             as stored; Implicit VR and Big Endian as Explicit VR Little Endian
    one transfer syntax             that one, or this form is not possible

Implicit VR and Big Endian are never sent.
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
    """The offers that the request accepts, best first. Raises NotAcceptable, RequestError."""
    accept = request.headers.getall("Accept", [])
    query = request.query.getall("accept", []) if "?" in request.raw_path else []
    choices = _negotiate(tuple(offers), ",".join(accept) if accept else None, tuple(query))
    words = request.config.http.as_stored_clients
    if words and any(word in request.headers.get("User-Agent", "") for word in words):
        return [choice._replace(transfer_syntax=choice.transfer_syntax or ANY) for choice in choices]
    return choices


@lru_cache(maxsize=256)
def _negotiate(offers: tuple[Offer, ...], header: str | None, query: tuple[str, ...]) -> list[Choice]:
    """Cached, since a viewer requests a thousand frames with the same header."""
    return negotiate(offers, header, query)


def instance_syntax(stored_uid: str, request: str) -> str | None:
    """The transfer syntax of a sent instance, `request` as in `Choice`; None: this form is not possible."""
    if request == ANY:
        return EXPLICIT if stored_uid in _NEVER_SENT else stored_uid
    if not request:
        return EXPLICIT if _can_become(stored_uid, EXPLICIT) else stored_uid
    if request in _NEVER_SENT:
        return None
    return request if _can_become(stored_uid, request) else None


def frame_syntax(stored_uid: str, media_type: str, request: str) -> str | None:
    """The same for frames, whose native form is that of Explicit VR Little Endian."""
    stored = transfer_syntax.of(stored_uid)
    own_uid = EXPLICIT if stored.convertible else stored_uid
    if media_type == OCTET_STREAM:
        if request == ANY:
            return own_uid
        if not request:
            return EXPLICIT if own_uid == EXPLICIT or stored_uid in DECODABLE else own_uid
        target_uid = request
    else:
        syntaxes = IMAGE_TYPES.get(media_type, ())
        if request in ("", ANY):
            target_uid = own_uid if own_uid in syntaxes else syntaxes[0] if syntaxes else ""
        else:
            target_uid = request if request in syntaxes else ""
    if target_uid == own_uid:
        return own_uid
    is_readable = own_uid == EXPLICIT or stored_uid in DECODABLE
    return target_uid if is_readable and target_uid in (EXPLICIT, *ENCODABLE, *LOSSY_ENCODABLE) else None


def image_type(syntax_uid: str) -> str:
    """The media type of frames in a transfer syntax."""
    return _IMAGE_TYPE_OF.get(syntax_uid, OCTET_STREAM)


def with_syntax(media_type: str, syntax_uid: str) -> str:
    """A media type with its transfer syntax as a parameter."""
    return f"{media_type}; transfer-syntax={syntax_uid}"


def _can_become(stored_uid: str, target_uid: str) -> bool:
    if stored_uid == target_uid:
        return True
    stored = transfer_syntax.of(stored_uid)
    is_readable = stored.convertible or stored_uid in DECODABLE
    if target_uid in (EXPLICIT, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN.uid):
        return is_readable
    return is_readable and target_uid in (*ENCODABLE, *LOSSY_ENCODABLE)
