"""Character sets: MSH-18 (table 0211) to text and back.

    declared, and the bytes fit       the declared set
    else, and the bytes are UTF-8     UTF-8: the commonest lie is a wrong declaration
    else                              the set of the source's configuration; bytes without a meaning become U+FFFD

The message is decoded as a whole before it is split: in GB 18030, Shift-JIS and ISO 2022 the bytes of separators are
halves of characters. A repeated MSH-18 declares escapes of ISO 2022; each segment begins in the first set.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

_CODECS = {
    "ASCII": "ascii",
    "ISO IR6": "ascii",
    "UNICODE": "utf_8",
    "UNICODE UTF-8": "utf_8",
    "UTF-8": "utf_8",
    "ISO IR192": "utf_8",
    "GB 18030-2000": "gb18030",
    "GB18030": "gb18030",
    "GBK": "gbk",
    "KS X 1001": "euc_kr",
    "BIG-5": "big5",
    "CNS 11643-1992": "euc_tw",
    "ISO IR14": "shift_jis",
    "ISO IR13": "shift_jis",
    "ISO IR87": "iso2022_jp_ext",
    "ISO IR159": "iso2022_jp_ext",
    "ISO IR100": "iso8859_1",
    "ISO IR166": "tis_620",
    "WINDOWS-1252": "cp1252",
    "CP1252": "cp1252",
}
_PART_OF_8859 = re.compile(r"(?:ISO[ -]?)?8859[/-](\d{1,2})")
_UNKNOWN_CODECS = frozenset({"euc_tw"})
"""Sets that Python does not have: known by name, so that nobody takes them for another one."""

TERMS = {
    "ascii": "",
    "utf_8": "UNICODE UTF-8",
    "iso8859_1": "8859/1",
    "gb18030": "GB 18030-2000",
    "euc_kr": "KS X 1001",
    "big5": "BIG-5",
    "iso2022_jp_ext": "ISO IR87",
    **{f"iso8859_{number}": f"8859/{number}" for number in (2, 3, 4, 5, 6, 7, 8, 9, 15)},
}
"""Codec → its term in MSH-18, for messages that we write."""

_JAPANESE = "iso2022_jp_ext"
_ESCAPE = re.compile(rb"\x1b(\(B|\(J|-[A-Z]|\$\)[AC])")
_DESIGNATIONS = {
    b"-A": "iso8859_1",
    b"-B": "iso8859_2",
    b"-C": "iso8859_3",
    b"-D": "iso8859_4",
    b"-L": "iso8859_5",
    b"-G": "iso8859_6",
    b"-F": "iso8859_7",
    b"-H": "iso8859_8",
    b"-M": "iso8859_9",
    b"-T": "tis_620",
    b"$)C": "euc_kr",
    b"$)A": "gb2312",
}


class Decoded(NamedTuple):
    """A message as text."""

    text: str
    codec: str
    """That made the text."""
    oddity: str = ""
    """Why it is not the declared one."""


@lru_cache(256)
def codec_of(term: str) -> str | None:
    """Python's codec of one term of MSH-18; None for a set that is unknown here."""
    name = " ".join(term.strip().upper().replace("_", " ").split())
    if not name:
        return "ascii"
    if match := _PART_OF_8859.fullmatch(name):
        number = int(match[1])
        return f"iso8859_{number}" if number in (*range(1, 12), *range(13, 17)) else None
    codec = _CODECS.get(name) or _CODECS.get(name.replace("ISO IR ", "ISO IR"))
    return None if codec in _UNKNOWN_CODECS else codec


def decode(data: bytes, declared: str, default: str = "iso8859_1", *, override: str = "") -> Decoded:
    """Makes text of a message; `declared`: MSH-18 with its repetitions, separated by ~.

    `default` and `override` are codecs of the source's configuration; `override` comes before the declared set.
    """
    if data.isascii() and b"\x1b" not in data:
        return Decoded(data.decode("ascii"), "ascii" if not declared else _first_codec(declared) or "ascii")
    terms = declared.split("~")
    reason = ""
    if override:
        text = _try(data, override)
        if text is not None:
            return Decoded(text, override)
        reason = f"not in the configured character set {override}"
    else:
        codecs = [codec_of(term) for term in terms]
        if None in codecs:
            reason = f"unknown character set {terms[codecs.index(None)]!r} in MSH-18"
        else:
            text = _try_all(data, [codec for codec in codecs if codec])
            if text is not None:
                return Decoded(text, next((codec for codec in codecs if codec and codec != "ascii"), "ascii"))
            reason = f"not in the declared character set {declared!r}" if declared else "no character set in MSH-18"
    text = _try(data, "utf_8")
    if text is not None:
        return Decoded(text, "utf_8", reason)
    return Decoded(data.decode(default, "replace"), default, reason)


def _first_codec(declared: str) -> str | None:
    return next((codec for codec in map(codec_of, declared.split("~")) if codec and codec != "ascii"), None)


def _try_all(data: bytes, codecs: list[str]) -> str | None:
    if _JAPANESE in codecs:
        return _by_line(data, lambda line: _try(line, _JAPANESE))
    if len(codecs) > 1:
        return _by_line(data, lambda line: _switching(line, codecs[0]))
    return _try(data, codecs[0])


def _by_line(data: bytes, decode_line: Callable[[bytes], str | None]) -> str | None:
    lines: list[str] = []
    for line in data.split(b"\r"):
        text = decode_line(line)
        if text is None:
            return None
        lines.append(text)
    return "\r".join(lines)


def _switching(line: bytes, first: str) -> str | None:
    """A segment with escapes of ISO 2022 that designate sets for the bytes above 7F."""
    parts: list[str] = []
    codec = first
    at = 0
    for match in _ESCAPE.finditer(line):
        text = _try(line[at : match.start()], codec)
        if text is None:
            return None
        parts.append(text)
        at = match.end()
        codec = _DESIGNATIONS.get(match[1], codec)
    text = _try(line[at:], codec)
    return None if text is None else "".join((*parts, text))


def _try(data: bytes, codec: str) -> str | None:
    try:
        return data.decode(codec)
    except (UnicodeDecodeError, LookupError):
        return None
