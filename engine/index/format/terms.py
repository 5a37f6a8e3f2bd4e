"""The keys of a value in `search`, and the ranges of keys for a pattern.

The two must agree: every value that meets a pattern has a key (`search_keys`) in one of the pattern's ranges.
`matching` decides what matches, `access` which ranges to use. Opens nothing.

    WHOLE   normal form     for every value of an attribute of SEARCHED; for a person name one for each group
    WORD    word            for each word of a person name, so that `*^JOHN*` need not test every name
    SOUND   code            for each code of each word (`dicom.phonetic`) of the names in SOUNDED, for fuzzy matching

For a pattern without ranges, `pieces_of_patterns` returns bytes that every matching value contains: see `texts`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from engine.dicom import phonetic, tags, values
from engine.dicom.attributes import SEARCHED
from engine.dicom.schema import Schema
from engine.index.format import keys

SOUNDED = frozenset((tags.PatientName, tags.ReferringPhysicianName))
"""Person names that have keys by sound: some four keys for each name."""

WHOLE = b"\0"
WORD = b"\1"
SOUND = b"\2"

_SOURCES = {tags.ModalitiesInStudy: tags.Modality}
"""Computed attributes, which use the keys of another one."""
_WORD_BREAK = re.compile(r"[\^= ]+")
_PLAIN_VRS = frozenset(("LO", "SH"))
"""VRs in which the normal form of an ASCII value is the value without its padding."""
_CACHED_BYTES_MAX = 128
"""Longer values are rare and seldom repeat: do not cache them."""

Range = tuple[bytes, bytes]
"""A range of keys of `search`: from the first up to the second, without it."""


def normal_values(vr: str, value: bytes) -> tuple[str, ...]:
    """The normal forms of a stored value, in UTF-8, without empty ones."""
    return _normal_values(vr, value) if len(value) <= _CACHED_BYTES_MAX else _normal_values.__wrapped__(vr, value)


@lru_cache(maxsize=1024)
def _normal_values(vr: str, value: bytes) -> tuple[str, ...]:
    texts = values.split(vr, value.decode("utf-8", "replace"))
    return tuple([normal for normal in [values.normalise(vr, text) for text in texts] if normal])


def plain_text(vr: str, value: bytes) -> bytes | None:
    """The normal form of a value that is its only one: the value without padding. None for any other value.

    Most values are like this and rarely repeat, so a cache would not help.
    """
    if vr in _PLAIN_VRS and value.isascii() and b"\\" not in value:
        return value.strip(b" \0")
    return None


def words_of(normal: str) -> list[str]:
    """The words of all groups and components of a person name in normal form."""
    return [word for word in _WORD_BREAK.split(normal) if word]


def search_keys(items: Mapping[int, bytes], schema: Schema) -> set[bytes]:
    """The keys of `search` for an entity with these attributes."""
    result: set[bytes] = set()
    searched, vr_of = schema.searched, schema.vr_of
    for tag, value in items.items():
        if not value or tag not in searched:
            continue
        vr = vr_of(tag)
        plain = plain_text(vr, value)
        if plain is not None:
            if plain:
                result.add(keys.search_key(tag, plain, WHOLE))
            continue
        result |= _keys_of(tag, vr, value) if len(value) <= _CACHED_BYTES_MAX else _keys_of.__wrapped__(tag, vr, value)
    return result


@lru_cache(maxsize=8192)
def _keys_of(tag: int, vr: str, value: bytes) -> frozenset[bytes]:
    """The keys of `search` for an attribute."""
    search_keys = set()
    is_name = vr == "PN"
    for normal in normal_values(vr, value):
        if not is_name:
            search_keys.add(_key(tag, WHOLE, normal))
            continue
        for group in filter(None, normal.split("=")):
            search_keys.add(_key(tag, WHOLE, group))
        for word in words_of(normal):
            search_keys.add(_key(tag, WORD, word))
            if tag in SOUNDED:
                search_keys.update([_key(tag, SOUND, code) for code in _sounds(word)])
    return frozenset(search_keys)


def rank(tag: int) -> int:
    """The rank of a searched attribute: its place in SEARCHED; extra ones come last."""
    return SEARCHED.index(tag) if tag in SEARCHED else len(SEARCHED)


@lru_cache(maxsize=4096)
def _sounds(word: str) -> frozenset[str]:
    return phonetic.codes(word)


def _key(tag: int, kind: bytes, text: str) -> bytes:
    return keys.search_key(tag, text.encode("utf-8", "replace"), kind)


# ranges ----------------------------------------------------------------------------------------------


def ranges_between(tag: int, low: str, high: str, schema: Schema) -> list[Range] | None:
    """The ranges of all normal forms from `low` to `high`; None if the attribute is not in `search`."""
    tag = _SOURCES.get(tag, tag)
    if tag not in schema.searched:
        return None
    start = _key(tag, WHOLE, low)
    end = _key(tag, WHOLE, "") + b"\xff" if high == "\uffff" else _key(tag, WHOLE, high) + b"\0"
    return [(start, end)] if start < end else []


def ranges_of_patterns(
    tag: int, patterns: Sequence[Sequence[str]], schema: Schema, *, wildcards: bool
) -> list[Range] | None:
    """The ranges of all values that meet one of these patterns, each a list of groups; None: no range covers them."""
    tag = _SOURCES.get(tag, tag)
    if tag not in schema.searched:
        return None
    is_name = schema.vr_of(tag) == "PN"
    ranges = [_range_of_pattern(tag, groups, wildcards, is_name) for groups in patterns]
    return None if None in ranges else [item for item in ranges if item is not None]


def ranges_of_words(tag: int, words: Iterable[tuple[str, bool]]) -> list[list[Range]]:
    """For fuzzy matching: one list of ranges for each word, with all names that meet it. The flag of a word says
    whether it is only the start of one.

    A matching name has a key in one range of each list. Empty if the names have no keys by sound.
    """
    if tag not in SOUNDED:
        return []
    ranges = []
    for word, is_prefix in words:
        if is_prefix:
            ranges.append([_beginning(tag, WORD, word)])
        else:
            ranges.append([_exact(tag, SOUND, code) for code in sorted(_sounds(word))] + [_exact(tag, WORD, word)])
    return ranges


def pieces_of_patterns(tag: int, patterns: Sequence[Sequence[str]], schema: Schema) -> tuple[bytes, ...]:
    """For each pattern a piece that every matching value contains in one of its texts; empty if a pattern has none.

    If the attribute is in `search`, the start of a pattern is not used: ranges cover it.
    """
    result = []
    for groups in patterns:
        split = [split_wildcards(group) for group in groups]
        if tag in schema.searched:
            split = [pieces[1:] if pieces and pieces[0] not in ("*", "?") else pieces for pieces in split]
        piece = max([piece for pieces in split for piece in pieces if piece not in ("*", "?")], key=len, default="")
        if not piece:
            return ()
        result.append(piece.encode("utf-8", "replace"))
    return tuple(dict.fromkeys(result))


def describe(ranges: Sequence[Range]) -> str:
    """Describes ranges without their values: `PatientName prefix`."""
    if not ranges:
        return "nothing"
    start, end = ranges[0]
    name = tags.keyword_of(int.from_bytes(start[:4], "big"))
    if start[4:5] == SOUND:
        return f"{name} sound"
    if end == start + b"\0":
        kind = "exact" if len(ranges) == 1 else "list"
    else:
        kind = "prefix" if end == start + b"\xff" else "range"
    return f"{name} word {kind}" if start[4:5] == WORD else f"{name} {kind}"


def _range_of_pattern(tag: int, groups: Sequence[str], wildcards: bool, is_name: bool) -> Range | None:
    group = next((group for group in groups if group.strip("*")), "")
    if not wildcards or not ("*" in group or "?" in group):
        return _exact(tag, WHOLE, group) if group else None
    pieces = split_wildcards(group)
    if pieces[0] not in ("*", "?"):
        return _beginning(tag, WHOLE, pieces[0])
    return _word_range(tag, pieces) if is_name else None


def _word_range(tag: int, pieces: Sequence[str]) -> Range | None:
    """The range of a name pattern without a literal start that contains the start of a word: *^JOHN*."""
    best = ""
    for piece in pieces:
        words = _WORD_BREAK.split(piece)
        best = max(best, *words[1:], key=len) if len(words) > 1 else best
    return _beginning(tag, WORD, best) if best else None


def split_wildcards(text: str) -> list[str]:
    """A pattern as its literal pieces and its `*` and `?`."""
    return [part for part in re.split(r"(\*|\?)", text) if part]


def _exact(tag: int, kind: bytes, normal: str) -> Range:
    start = _key(tag, kind, normal)
    return (start, start + b"\0")


def _beginning(tag: int, kind: bytes, normal: str) -> Range:
    start = _key(tag, kind, normal)
    return (start, start + b"\xff")
