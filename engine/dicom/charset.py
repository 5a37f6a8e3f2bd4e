r"""Specific Character Set: bytes of a data set to text and back (PS3.3 C.12.1.1.2, PS3.5 section 6.1).

Reading never fails: bytes that do not fit the declared set are tried in others (below), then decoded with replacement
characters. The caller keeps the original bytes. Writing can fail and then returns None: answer in another set.

Three kinds of declaration:
    none or ISO_IR 6          ASCII; anything beyond is tried as UTF-8, else taken for Latin-1
    UTF-8, GB18030, GBK       the whole value in one encoding, no escapes
    ISO_IR n, ISO 2022 IR n\… the first set at the start of a value and after each delimiter, other sets after escapes

With code extensions a value has two active sets: G0 for bytes below 0x80, G1 for those above. Delimiters bring back
the first set (PS3.5 6.1.2.5.3): control characters, `\` where a VR has several values, `^` and `=` in person names.
Within a two-byte G0 set these bytes are halves of characters, not delimiters. An escape for G1 ends a two-byte G0 set:
writers that omit the escape back to ASCII do not know G0.

If bytes do not fit the declaration, the first set of this list that they fit is used: the declared set (UTF-8 if it is
declared anywhere); GB18030, GBK or a two-byte G1 set, declared but used without its escape; UTF-8; the vendors'
superset of a two-byte set; Latin-1 for bytes declared as ASCII or UTF-8.
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

_ONLY_WITH_ESCAPES = frozenset((58, 87, 149, 159))
"""Sets of two bytes, which code extensions alone can select (PS3.3 Table C.12-4)."""

DEFINED_TERMS: Final = (
    *(f"ISO_IR {number}" for number in _BY_REGISTRATION if number not in _ONLY_WITH_ESCAPES),
    *(f"ISO 2022 IR {number}" for number in _BY_REGISTRATION),
    *_WHOLE_VALUE,
)
"""The values of Specific Character Set that are read."""

# PS3.3 Tables C.12-3 and C.12-4: bytes after ESC → codec of G1.
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
_ESCAPE_OF = {codec: b"\x1b" + escape for escape, codec in _G1_ESCAPES.items()}
# The same for G0. Python's codecs for the two-byte sets need the escape in their input.
_G0_ESCAPES = {b"(B": "", b"(J": "", b"$B": "iso2022_jp", b"$@": "iso2022_jp", b"$(D": "iso2022_jp_1"}

_TWO_BYTE_G0 = {"iso2022_jp": b"\x1b$B", "iso2022_jp_1": b"\x1b$(D"}
_TWO_BYTE_G1 = frozenset(("euc_kr", "gb2312"))
_SUPERSETS = {"euc_kr": "cp949", "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932"}
_ESCAPE = re.compile(rb"\x1b(\$\)[AC]|\$\(D|\$[B@]|[()\-][A-Za-z])")
_SINGLE_VALUE_VRS = frozenset(("LT", "ST", "UT"))
_DELIMITERS = dict.fromkeys(TEXT_VRS, r"\\\r\n\f\t") | dict.fromkeys(_SINGLE_VALUE_VRS, r"\r\n\f\t")
_DELIMITERS["PN"] = r"\\^=\r\n\f\t"
_DELIMITER = {vr: re.compile(f"[{characters}]".encode()) for vr, characters in _DELIMITERS.items()}
_PIECE = {vr: re.compile(f"([{characters}])") for vr, characters in _DELIMITERS.items()}
_REGISTRATION = re.compile(r"ISO[ _-]?(?:2022)?[ _-]*(?:IR)?[ _-]*(\d+)")


@dataclass(frozen=True, slots=True)
class _Plan:
    """A parsed declaration."""

    candidates: tuple[str, ...]
    """Codecs to try for a value without escapes, in this order."""
    whole_codec: str
    """Codec of the whole value; "" with code extensions."""
    first_codec: str
    """Codec at the start of a value and after a delimiter."""
    other_codecs: tuple[str, ...]
    """Codecs after escapes, in the declared order."""


@lru_cache(maxsize=64)
def _plan(specific_character_set: bytes) -> _Plan:
    terms = [term.strip(" \0").upper() for term in specific_character_set.decode("ascii", "replace").split("\\")]
    if terms[0] in _WHOLE_VALUE:
        codec = _WHOLE_VALUE[terms[0]]
        return _Plan(_candidates(codec), codec, "", ())
    codecs = [_codec_of(term) for term in terms if term not in _WHOLE_VALUE]
    first = codecs[0] if codecs[0] not in _TWO_BYTE_G0 else "ascii"
    others = tuple(dict.fromkeys(codec for codec in codecs[first == codecs[0] :] if codec != "ascii"))
    unescaped = [_WHOLE_VALUE[term] for term in terms if term in _WHOLE_VALUE]
    unescaped += [codec for codec in others if codec in _TWO_BYTE_G1]
    return _Plan(_candidates(first, *unescaped), "", first, others)


@lru_cache(maxsize=64)
def _candidates(codec: str, *declared: str) -> tuple[str, ...]:
    """The codecs to try for bytes that should be in `codec`, in the order given at the head of this module."""
    last = "latin_1" if codec in ("ascii", "utf_8") else codec
    candidates = ["utf_8"] if "utf_8" in declared else []
    candidates += [codec, *declared, "utf_8", _SUPERSETS.get(codec, codec), last]
    return tuple(dict.fromkeys(candidate for candidate in candidates if candidate != "ascii"))


def _codec_of(term: str) -> str:
    """The codec of a defined term, also misspelt ("ISO-IR 100", "ISO2022IR87"); ASCII for an unknown term."""
    match = _REGISTRATION.fullmatch(term)
    return _BY_REGISTRATION.get(int(match[1]), "ascii") if match else "ascii"


# reading -----------------------------------------------------------------------------------------------------------


def decode(value: bytes, specific_character_set: bytes, vr: str = "LO") -> str:
    """A value as text, with its backslashes and delimiters. Never fails: see the head of this module."""
    has_escape = b"\x1b" in value
    if value.isascii() and not has_escape:
        return value.decode("ascii")
    if vr not in TEXT_VRS:
        return _decode_in_one_of(value, _candidates("ascii"))
    plan = _plan(specific_character_set)
    if plan.whole_codec or not has_escape:
        return _decode_in_one_of(value, plan.candidates)
    return _decode_escapes(value, plan.first_codec, _DELIMITER[vr])


def _decode_in_one_of(value: bytes, codecs: tuple[str, ...]) -> str:
    for codec in codecs:
        try:
            return value.decode(codec)
        except UnicodeDecodeError as error:
            # A value that was cut within a character still counts as UTF-8 if it has whole ones.
            is_cut = error.reason == "unexpected end of data" and not value[: error.start].isascii()
            if codec == "utf_8" and is_cut:
                return value.decode("utf_8", "replace")
    return value.decode(codecs[0], "replace")


def _decode_escapes(value: bytes, first_codec: str, delimiter: re.Pattern[bytes]) -> str:
    """Decodes the runs between escapes, each in its active sets."""
    text: list[str] = []
    g0, g1 = b"", first_codec
    position = 0
    for escape in _ESCAPE.finditer(value):
        run = value[position : escape.start()]
        text.append(_decode_run(run, g0, g1, first_codec, delimiter))
        if not g0 and delimiter.search(run):
            g1 = first_codec
        sequence = escape[1]
        if sequence in _G0_ESCAPES:
            g0 = escape[0] if _G0_ESCAPES[sequence] else b""
        elif sequence in _G1_ESCAPES:
            g0, g1 = b"", _G1_ESCAPES[sequence]
        position = escape.end()
    text.append(_decode_run(value[position:], g0, g1, first_codec, delimiter))
    return "".join(text)


def _decode_run(run: bytes, g0: bytes, g1: str, first_codec: str, delimiter: re.Pattern[bytes]) -> str:
    """Decodes bytes without an escape. `g0` is the escape of a two-byte set, or empty for ASCII."""
    if g0:
        codec = _G0_ESCAPES[g0[1:]]
        parts = re.split(rb"([\x80-\xff]+)", run)
        return "".join(
            _decode_in_one_of(part, _candidates(g1)) if i % 2 else (g0 + part).decode(codec, "replace")
            for i, part in enumerate(parts)
            if part
        )
    reset = delimiter.search(run)
    if reset is None:
        return _decode_in_one_of(run, _candidates(g1))
    before, after = run[: reset.start()], run[reset.start() :]
    return _decode_in_one_of(before, _candidates(g1)) + _decode_in_one_of(after, _candidates(first_codec))


# writing -----------------------------------------------------------------------------------------------------------


def encode(text: str, specific_character_set: bytes, vr: str) -> bytes | None:
    """Encodes text in a character set, with escapes. Returns None if the set lacks a character.

    UTF-8 has all characters. For a VR without a character set, characters beyond ASCII are written in UTF-8, which
    `decode` accepts.
    """
    if text.isascii() and "\x1b" not in text:
        return text.encode("ascii")
    if vr not in TEXT_VRS:
        return text.encode("utf_8", "replace")
    plan = _plan(specific_character_set)
    if plan.whole_codec == "utf_8":
        return text.encode("utf_8", "replace")
    if "\x1b" in text:
        return None  # readers would take it for an escape of ours
    try:
        if plan.whole_codec:
            return text.encode(plan.whole_codec)
        return b"".join([_encode_piece(piece, plan) for piece in _PIECE[vr].split(text)])
    except UnicodeEncodeError:
        return None


def _encode_piece(piece: str, plan: _Plan) -> bytes:
    """Encodes the text between two delimiters; it begins and ends with the first set in G0 (PS3.5 6.1.2.5.3).

    Writes an escape for each change of set, also back to the first one, for readers that apply an escape to everything
    after it.
    """
    if piece.isascii():
        return piece.encode("ascii")
    back = b"\x1b(J" if plan.first_codec == "shift_jis" else b"\x1b(B"
    active = plan.first_codec if plan.first_codec not in _TWO_BYTE_G1 else ""
    parts: list[bytes] = []
    for character in piece:
        if character.isascii():
            if active in _TWO_BYTE_G0:
                parts.append(back)
                active = ""
            parts.append(character.encode("ascii"))
            continue
        codec, code = _encode_character(character, active, plan)
        if codec != active:
            if active in _TWO_BYTE_G0:
                parts.append(back)
            parts.append(_TWO_BYTE_G0.get(codec) or _ESCAPE_OF[codec])
            active = codec
        parts.append(code)
    if active in _TWO_BYTE_G0:
        parts.append(back)
    return b"".join(parts)


def _encode_character(character: str, active: str, plan: _Plan) -> tuple[str, bytes]:
    """The codec for a character, the active one if possible, and its bytes."""
    for codec in (active, plan.first_codec, *plan.other_codecs):
        code = _code(character, codec) if codec and codec != "ascii" else b""
        if code:
            return codec, code
    raise UnicodeEncodeError("dicom", character, 0, 1, "in none of the declared character sets")


@lru_cache(maxsize=4096)
def _code(character: str, codec: str) -> bytes:
    """The bytes of a character beyond ASCII in a set; empty if the set lacks it, even where Python's codec has it.

    Of JIS X 0201 only the half-width katakana: all readers take its yen sign and overline for backslash and tilde.
    """
    try:
        code = character.encode(codec)
    except UnicodeEncodeError:
        return b""
    if codec in _TWO_BYTE_G0:
        escape = _TWO_BYTE_G0[codec]
        return code[len(escape) : len(escape) + 2] if code.startswith(escape) else b""
    if codec in _TWO_BYTE_G1:
        return code if len(code) == 2 else b""
    return code if len(code) == 1 and code[0] >= 0x80 else b""
