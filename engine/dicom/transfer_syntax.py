"""The transfer syntaxes of PS3.5 that can be stored, with the properties that a reader of their bytes needs.

Negotiation chooses among them, `dicom.convert` converts between them.
An unlisted UID is read as Explicit VR Little Endian with encapsulated Pixel Data, like every syntax since 1993
(PS3.5 A.4); its `known` is False.
Standard: PS3.5 section 10 and Annex A, names and UIDs from PS3.6 Annex A.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

EXPLICIT_VR = 1
"""Bit of `TransferSyntax.encoding`, which the compiled modules take."""
BIG_ENDIAN = 2
"""Bit of `TransferSyntax.encoding`."""


@dataclass(frozen=True, slots=True)
class TransferSyntax:
    """The form of a data set's bytes."""

    uid: str
    name: str
    big_endian: bool = False
    explicit_vr: bool = True
    deflated: bool = False
    """The whole data set after the File Meta Information is one deflate stream (PS3.5 A.5)."""
    encapsulated: bool = True
    """Pixel Data is a sequence of fragments (PS3.5 A.4)."""
    known: bool = True
    """Whether it is listed here. Data sets of an unknown one are stored and sent unchanged."""
    encoding: int = field(init=False)
    """EXPLICIT_VR and BIG_ENDIAN as bits."""

    def __post_init__(self) -> None:
        bits = (EXPLICIT_VR if self.explicit_vr else 0) | (BIG_ENDIAN if self.big_endian else 0)
        object.__setattr__(self, "encoding", bits)

    @property
    def convertible(self) -> bool:
        """Whether `dicom.convert` can read and write it."""
        return self.known and not self.encapsulated


IMPLICIT_VR_LITTLE_ENDIAN: Final = TransferSyntax(
    "1.2.840.10008.1.2", "Implicit VR Little Endian", explicit_vr=False, encapsulated=False
)
EXPLICIT_VR_LITTLE_ENDIAN: Final = TransferSyntax(
    "1.2.840.10008.1.2.1", "Explicit VR Little Endian", encapsulated=False
)
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN: Final = TransferSyntax(
    "1.2.840.10008.1.2.1.99", "Deflated Explicit VR Little Endian", deflated=True, encapsulated=False
)
EXPLICIT_VR_BIG_ENDIAN: Final = TransferSyntax(
    "1.2.840.10008.1.2.2", "Explicit VR Big Endian", big_endian=True, encapsulated=False
)

# All others are Explicit VR Little Endian and encapsulated, except the deflated JPIP ones (PS3.5 A.6-A.8).
_ENCAPSULATED: Final = {
    "1.2.840.10008.1.2.1.98": "Encapsulated Uncompressed Explicit VR Little Endian",
    "1.2.840.10008.1.2.4.50": "JPEG Baseline (Process 1)",
    "1.2.840.10008.1.2.4.51": "JPEG Extended (Process 2 and 4)",
    "1.2.840.10008.1.2.4.52": "JPEG Extended (Process 3 and 5)",
    "1.2.840.10008.1.2.4.53": "JPEG Spectral Selection, Non-Hierarchical (Process 6 and 8)",
    "1.2.840.10008.1.2.4.54": "JPEG Spectral Selection, Non-Hierarchical (Process 7 and 9)",
    "1.2.840.10008.1.2.4.55": "JPEG Full Progression, Non-Hierarchical (Process 10 and 12)",
    "1.2.840.10008.1.2.4.56": "JPEG Full Progression, Non-Hierarchical (Process 11 and 13)",
    "1.2.840.10008.1.2.4.57": "JPEG Lossless, Non-Hierarchical (Process 14)",
    "1.2.840.10008.1.2.4.58": "JPEG Lossless, Non-Hierarchical (Process 15)",
    "1.2.840.10008.1.2.4.59": "JPEG Extended, Hierarchical (Process 16 and 18)",
    "1.2.840.10008.1.2.4.60": "JPEG Extended, Hierarchical (Process 17 and 19)",
    "1.2.840.10008.1.2.4.61": "JPEG Spectral Selection, Hierarchical (Process 20 and 22)",
    "1.2.840.10008.1.2.4.62": "JPEG Spectral Selection, Hierarchical (Process 21 and 23)",
    "1.2.840.10008.1.2.4.63": "JPEG Full Progression, Hierarchical (Process 24 and 26)",
    "1.2.840.10008.1.2.4.64": "JPEG Full Progression, Hierarchical (Process 25 and 27)",
    "1.2.840.10008.1.2.4.65": "JPEG Lossless, Hierarchical (Process 28)",
    "1.2.840.10008.1.2.4.66": "JPEG Lossless, Hierarchical (Process 29)",
    "1.2.840.10008.1.2.4.70": "JPEG Lossless, Non-Hierarchical, First-Order Prediction",
    "1.2.840.10008.1.2.4.80": "JPEG-LS Lossless Image Compression",
    "1.2.840.10008.1.2.4.81": "JPEG-LS Lossy (Near-Lossless) Image Compression",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 Image Compression (Lossless Only)",
    "1.2.840.10008.1.2.4.91": "JPEG 2000 Image Compression",
    "1.2.840.10008.1.2.4.92": "JPEG 2000 Part 2 Multi-component Image Compression (Lossless Only)",
    "1.2.840.10008.1.2.4.93": "JPEG 2000 Part 2 Multi-component Image Compression",
    "1.2.840.10008.1.2.4.100": "MPEG2 Main Profile / Main Level",
    "1.2.840.10008.1.2.4.100.1": "Fragmentable MPEG2 Main Profile / Main Level",
    "1.2.840.10008.1.2.4.101": "MPEG2 Main Profile / High Level",
    "1.2.840.10008.1.2.4.101.1": "Fragmentable MPEG2 Main Profile / High Level",
    "1.2.840.10008.1.2.4.102": "MPEG-4 AVC/H.264 High Profile / Level 4.1",
    "1.2.840.10008.1.2.4.102.1": "Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.1",
    "1.2.840.10008.1.2.4.103": "MPEG-4 AVC/H.264 BD-compatible High Profile / Level 4.1",
    "1.2.840.10008.1.2.4.103.1": "Fragmentable MPEG-4 AVC/H.264 BD-compatible High Profile / Level 4.1",
    "1.2.840.10008.1.2.4.104": "MPEG-4 AVC/H.264 High Profile / Level 4.2 For 2D Video",
    "1.2.840.10008.1.2.4.104.1": "Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.2 For 2D Video",
    "1.2.840.10008.1.2.4.105": "MPEG-4 AVC/H.264 High Profile / Level 4.2 For 3D Video",
    "1.2.840.10008.1.2.4.105.1": "Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.2 For 3D Video",
    "1.2.840.10008.1.2.4.106": "MPEG-4 AVC/H.264 Stereo High Profile / Level 4.2",
    "1.2.840.10008.1.2.4.106.1": "Fragmentable MPEG-4 AVC/H.264 Stereo High Profile / Level 4.2",
    "1.2.840.10008.1.2.4.107": "HEVC/H.265 Main Profile / Level 5.1",
    "1.2.840.10008.1.2.4.108": "HEVC/H.265 Main 10 Profile / Level 5.1",
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.4.201": "High-Throughput JPEG 2000 Image Compression (Lossless Only)",
    "1.2.840.10008.1.2.4.202": "High-Throughput JPEG 2000 with RPCL Options Image Compression (Lossless Only)",
    "1.2.840.10008.1.2.4.203": "High-Throughput JPEG 2000 Image Compression",
    "1.2.840.10008.1.2.5": "RLE Lossless",
    "1.2.840.10008.1.2.7.1": "SMPTE ST 2110-20 Uncompressed Progressive Active Video",
    "1.2.840.10008.1.2.7.2": "SMPTE ST 2110-20 Uncompressed Interlaced Active Video",
    "1.2.840.10008.1.2.7.3": "SMPTE ST 2110-30 PCM Digital Audio",
    "1.2.840.10008.1.2.8.1": "Deflated Image Frame Compression",
}

# A URL replaces Pixel Data (PS3.5 A.6, A.7).
_REFERENCED: Final = {
    "1.2.840.10008.1.2.4.94": ("JPIP Referenced", False),
    "1.2.840.10008.1.2.4.95": ("JPIP Referenced Deflate", True),
    "1.2.840.10008.1.2.4.204": ("JPIP HTJ2K Referenced", False),
    "1.2.840.10008.1.2.4.205": ("JPIP HTJ2K Referenced Deflate", True),
}

UNCOMPRESSED: Final = (
    IMPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
)
"""The ones that `dicom.convert` can convert to each other."""

ALL: Final[tuple[TransferSyntax, ...]] = (
    *UNCOMPRESSED,
    *(TransferSyntax(uid, name) for uid, name in _ENCAPSULATED.items()),
    *(TransferSyntax(uid, name, deflated=deflated) for uid, (name, deflated) in _REFERENCED.items()),
)
"""Every known one; a Storage SCP accepts these."""

_BY_UID: Final = {syntax.uid: syntax for syntax in ALL}


@lru_cache(maxsize=256)
def _unknown(uid: str) -> TransferSyntax:
    return TransferSyntax(uid, uid, known=False)


def of(uid: str) -> TransferSyntax:
    """The transfer syntax of a UID, which may be unknown: see above."""
    return _BY_UID.get(uid) or _unknown(uid)
