"""Licences: texts of package metadata as SPDX identifiers, and the licences of C libraries and scripts by their name.

Wheels name the licence of their own code; those of the libraries within are texts for people. A library that is not
here has no licence in the SBOM, and `tests/reports/test_components.py` asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_TEXTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "apache 2.0": "Apache-2.0",
        "apache license 2.0": "Apache-2.0",
        "apache software license": "Apache-2.0",
        "bsd license": "BSD-3-Clause",
        "isc license": "ISC",
        "isc license (iscl)": "ISC",
        "mit license": "MIT",
        "mit licence": "MIT",
        "the mit license": "MIT",
        "the mit license (mit)": "MIT",
        "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
        "python software foundation license": "PSF-2.0",
    }
)
_IDENTIFIER: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9.+-]*[0-9+][A-Za-z0-9.+-]*$|^(MIT|ISC|Zlib|0BSD|MIT-CMU)$")
_WORD: Final = re.compile(r"\(|\)|[^\s()]+")

_BY_LICENSE: Final = {
    "Apache-2.0": "openssl Lerc uhdr cpcodec opencore-amrnb opencore-amrwb zopfli",
    "MIT": "Xau deflate gif lzokay lzokay-c lzhamcomp lzhamdecomp lzhamdll brotlicommon brotlidec brotlienc xcb"
    " xcb-shape xcb-shm xcb-xfixes lcms2 harfbuzz htm preact uplot libuv meshoptimizer vpl drm",
    "BSD-2-Clause": "aec sz SZ3c lz4 openjp2 openjph jpegxr jxrglue SPERR aom avif dav1d",
    "BSD-3-Clause": "jpeg jxl jxl_cms jxl_threads snappy sharpyuv webp webpdemux webpmux charls blosc blosc2 lzfse zfp"
    " zstd scipy_openblas64_ opus vpx SvtAv1Enc",
    "0BSD": "lzma",
    "FTL OR GPL-2.0-or-later": "freetype",
    "libtiff": "tiff",
    "libpng-2.0": "png16",
    "Zlib": "zlib",
    "OLDAP-2.8": "lmdb-c",
    "GPL-3.0-or-later WITH GCC-exception-3.1": "gomp gfortran quadmath",
    "GPL-2.0-or-later": "x264 x265",
    "LGPL-2.1-or-later": "avcodec avdevice avfilter avformat avutil swresample swscale gnutls asound mp3lame",
    "LGPL-3.0-or-later OR GPL-2.0-or-later": "gmp hogweed nettle unistring",
}
_LIBRARIES: Final[Mapping[str, str]] = MappingProxyType(
    {name: expression for expression, names in _BY_LICENSE.items() for name in names.split()}
)
"""Name of a library, without "lib" → SPDX expression."""


def spdx(text: str) -> str:
    """The text as an SPDX expression; "" if it is none."""
    text = text.strip().rstrip(".")
    if known := _TEXTS.get(text.lower()):
        return known
    words = [_TEXTS.get(word.lower(), word) for word in re.split(r" (?=OR |AND )|(?<=OR) |(?<=AND) ", text)]
    joined = " ".join(words)
    operators = {"AND", "OR", "WITH", "(", ")"}
    is_expression = all(word in operators or _IDENTIFIER.match(word) for word in _WORD.findall(joined))
    return joined if is_expression and joined else ""


def license_of_library(name: str) -> str:
    """The licence of a C library or a script of the page; "" if it is not known here."""
    return _LIBRARIES.get(name, "")
