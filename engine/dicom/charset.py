r"""Specific Character Set: bytes of a data set to text and back (PS3.3 C.12.1.1.2, PS3.5 section 6.1).

Does not know which VRs hold text beyond one set of names, and never fails on reading: what cannot be decoded in the
declared set is tried as UTF-8, then decoded with replacement characters. The original bytes stay with the caller.

Three kinds of declaration:
    none or ISO_IR 6          ASCII; anything beyond is tried as UTF-8, else taken for Latin-1
    UTF-8, GB18030, GBK       the whole value in one encoding, no escapes
    ISO_IR n, ISO 2022 IR n\… the first set where a value begins and after each delimiter, others behind escapes

With code extensions a value has two active sets: G0 for bytes below 0x80, G1 for those above. `^ = \` and control
characters bring back the first set; within a two-byte G0 set they are halves of characters and do not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

TEXT_VRS: Final = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
"""The VRs that Specific Character Set governs (PS3.5 6.1.2.2); all others are ASCII."""

UTF_8: Final = b"ISO_IR 192"

_WHOLE_VALUE = {"ISO_IR 192": "utf_8", "GB18030": "gb18030", "GBK": "gbk", "ISO 2022 GBK": "gbk"}

# Number after "IR" → codec. shift_jis holds both halves of JIS X 0201, euc_kr and gb2312 have ASCII below 0x80.
_BY_REGISTRATION = {
    6: "ascii",
    13: "shift_jis",
    58: "gb2312",
    87: "iso2022_jp",
    100: "latin_1",
    101: "iso8859_2",
    109: "iso8859_3",
    110: "iso8859_4",
    126: "iso8859_7",
    127: "iso8859_6",
    138: "iso8859_8",
    144: "iso8859_5",
    148: "iso8859_9",
    149: "euc_kr",
    159: "iso2022_jp_1",
    166: "tis_620",
    203: "iso8859_15",
}

# PS3.3 Tables C.12-3 and C.12-4: what follows ESC → codec of G1.
_G1_ESCAPES = {
    b"-A": "latin_1",
    b"-B": "iso8859_2",
    b"-C": "iso8859_3",
    b"-D": "iso8859_4",
    b"-F": "iso8859_7",
    b"-G": "iso8859_6",
    b"-H": "iso8859_8",
    b"-L": "iso8859_5",
    b"-M": "iso8859_9",
    b"-T": "tis_620",
    b"-b": "iso8859_15",
    b")I": "shift_jis",
    b"$)C": "euc_kr",
    b"$)A": "gb2312",
}
# And of G0; the two-byte ones are Python codecs that want to see their escape.
_G0_ESCAPES = {b"(B": "", b"(J": "", b"$B": "iso2022_jp", b"$@": "iso2022_jp", b"$(D": "iso2022_jp_1"}

_TWO_BYTE_G0 = frozenset(("iso2022_jp", "iso2022_jp_1"))
_ESCAPE = re.compile(rb"\x1b(\$\)[AC]|\$\(D|\$[B@]|[()\-][A-Za-z])")
_DELIMITER = re.compile(rb"[\\^=\r\n\f\t]")
_TEXT_DELIMITER = re.compile(rb"[\\\r\n\f\t]")
_PIECE = re.compile(r"([\\^=\r\n\f\t])")
_REGISTRATION = re.compile(r"ISO[ _-]?(?:2022)?[ _-]*(?:IR)?[ _-]*(\d+)")


@dataclass(frozen=True, slots=True)
class _Plan:
    """A parsed declaration."""

    whole_codec: str
    """Of the whole value; "" with code extensions."""
    first_codec: str
    """Where a value begins and after a delimiter."""
    other_codecs: tuple[str, ...]
    """Behind escapes, in the declared order."""


@lru_cache(maxsize=64)
def _plan(specific_character_set: bytes) -> _Plan:
    terms = [term.strip(" \0").upper() for term in specific_character_set.decode("ascii", "replace").split("\\")]
    for term in terms:
        if term in _WHOLE_VALUE:
            return _Plan(_WHOLE_VALUE[term], "", ())
    codecs = [_codec_of(term) for term in terms]
    first = codecs[0] if codecs[0] not in _TWO_BYTE_G0 else "ascii"
    return _Plan("", first, tuple(codecs[1:] if first == codecs[0] else codecs))


def _codec_of(term: str) -> str:
    """A defined term, misspelt ones ("ISO-IR 100", "ISO2022IR87") included; ASCII for what is unknown."""
    found = _REGISTRATION.fullmatch(term)
    return _BY_REGISTRATION.get(int(found[1]), "ascii") if found else "ascii"


def decode(value: bytes, specific_character_set: bytes, vr: str = "LO") -> str:
    """A value as text, its backslashes and delimiters kept. Never fails; see the module's head."""
    has_escape = b"\x1b" in value
    if value.isascii() and not has_escape:
        return value.decode("ascii")
    plan = _plan(specific_character_set)
    if vr not in TEXT_VRS or (plan.first_codec == "ascii" and not has_escape):
        return _guess(value)
    if plan.whole_codec or not has_escape:
        return _decode_or_guess(value, plan.whole_codec or plan.first_codec)
    return _decode_escapes(value, plan, _DELIMITER if vr == "PN" else _TEXT_DELIMITER)


def _guess(value: bytes) -> str:
    try:
        return value.decode("utf_8")
    except UnicodeDecodeError:
        return value.decode("latin_1")


def _decode_or_guess(value: bytes, codec: str) -> str:
    try:
        return value.decode(codec)
    except UnicodeDecodeError:
        try:
            return value.decode("utf_8")
        except UnicodeDecodeError:
            return value.decode(codec, "replace")


def _decode_escapes(value: bytes, plan: _Plan, delimiter: re.Pattern[bytes]) -> str:
    """Runs between escapes, each in the sets that are active there."""
    text: list[str] = []
    g0, g1 = b"", plan.first_codec
    position = 0
    for escape in _ESCAPE.finditer(value):
        run = value[position : escape.start()]
        text.append(_decode_run(run, g0, g1, plan.first_codec, delimiter))
        if not g0 and delimiter.search(run):
            g1 = plan.first_codec
        sequence = escape[1]
        if sequence in _G0_ESCAPES:
            g0 = escape[0] if _G0_ESCAPES[sequence] else b""
        else:
            g1 = _G1_ESCAPES.get(sequence, g1)
        position = escape.end()
    text.append(_decode_run(value[position:], g0, g1, plan.first_codec, delimiter))
    return "".join(text)


def _decode_run(run: bytes, g0: bytes, g1: str, first_codec: str, delimiter: re.Pattern[bytes]) -> str:
    """Bytes without an escape among them. `g0` is the escape of a two-byte set, or nothing for ASCII."""
    if g0:
        codec = _G0_ESCAPES[g0[1:]]
        parts = re.split(rb"([\x80-\xff]+)", run)
        return "".join(
            part.decode(g1, "replace") if i % 2 else (g0 + part).decode(codec, "replace")
            for i, part in enumerate(parts)
            if part
        )
    reset = delimiter.search(run)
    if reset is None:
        return run.decode(g1, "replace")
    return run[: reset.start()].decode(g1, "replace") + run[reset.start() :].decode(first_codec, "replace")


def encode(text: str, specific_character_set: bytes) -> bytes | None:
    """Text in a character set, escapes and all; None if the set has not every character of it."""
    if text.isascii():
        return text.encode("ascii")
    plan = _plan(specific_character_set)
    try:
        if plan.whole_codec:
            return text.encode(plan.whole_codec)
        return b"".join(_encode_piece(piece, plan) for piece in _PIECE.split(text))
    except UnicodeEncodeError:
        return None


def _encode_piece(piece: str, plan: _Plan) -> bytes:
    """What stands between two delimiters, in the first of the declared sets that holds all of it."""
    if piece.isascii():
        return piece.encode("ascii")
    for codec in (plan.first_codec, *plan.other_codecs):
        try:
            encoded = _encode_single_bytes(piece) if codec == "shift_jis" else piece.encode(codec)
        except UnicodeEncodeError:
            continue
        if b"\x1b(J" in encoded:
            continue  # the yen sign and overline of JIS X 0201, which everybody reads as backslash and tilde
        if codec == plan.first_codec or codec in _TWO_BYTE_G0:
            return encoded
        return b"\x1b" + next(escape for escape, name in _G1_ESCAPES.items() if name == codec) + encoded
    raise UnicodeEncodeError("dicom", piece, 0, len(piece), "in none of the declared character sets")


def _encode_single_bytes(piece: str) -> bytes:
    """JIS X 0201, which is that part of Shift JIS that takes one byte."""
    encoded = piece.encode("shift_jis")
    if len(encoded) != len(piece):
        raise UnicodeEncodeError("jis_x_0201", piece, 0, len(piece), "not a half-width character")
    return encoded
