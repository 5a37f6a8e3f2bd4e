"""What `search` keeps of a value, and where in it all that meets a pattern must stand.

Both sides of one bargain: a stored value has keys (`search_keys`), a pattern has ranges of keys, and every value that
meets the pattern has a key in one of them. Does not decide what matches (`matching`) nor which ranges to use
(`access`); opens nothing.

    tag, normal form            for every value of an attribute of SEARCHED; of a person name for each of its groups
    tag | WORD, word            of a person name for each of its words, so that `*^JOHN*` needs no look at every name
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from engine.dicom import tags, values
from engine.index import keys

SEARCHED: tuple[int, ...] = (
    tags.PatientID,
    tags.AccessionNumber,
    tags.StudyID,
    tags.PatientName,
    tags.OtherPatientIDs,
    tags.PatientBirthDate,
    tags.StudyDate,
    tags.ReferringPhysicianName,
    tags.StudyTime,
    tags.PerformedProcedureStepStartDate,
    tags.StudyDescription,
    tags.Modality,
)
"""The attributes that have keys in `search`, the most selective ones first."""
WORD = 1 << 31
"""Added to the tag of a person name: the keys of its words."""

_searched = frozenset(SEARCHED)
_WORD_BREAK = re.compile(r"[\^= ]+")
_CACHED_BYTES_MAX = 128
"""Longer values are rare, and seldom the same."""

Range = tuple[bytes, bytes]
"""Keys of `search` from the first, without the second."""


@lru_cache(maxsize=4096)
def _vr_of(tag: int) -> str:
    return tags.vr_of(tag)


def normal_values(tag: int, value: bytes) -> list[str]:
    """The normal forms of a stored value, in UTF-8, without empty ones."""
    vr = _vr_of(tag)
    texts = values.split(vr, value.decode("utf-8", "replace"))
    return [normal for normal in (values.normalise(vr, text) for text in texts) if normal]


def search_keys(items: Mapping[int, bytes], owner: bytes) -> set[bytes]:
    """The keys of `search` for an entity with these attributes."""
    found = set()
    for tag in _searched & items.keys():
        value = items[tag]
        starts = _key_starts(tag, value) if len(value) <= _CACHED_BYTES_MAX else _key_starts.__wrapped__(tag, value)
        found.update([start + owner for start in starts])
    return found


@lru_cache(maxsize=8192)
def _key_starts(tag: int, value: bytes) -> frozenset[bytes]:
    """The keys of `search` for an attribute, without their owner."""
    found = set()
    is_name = _vr_of(tag) == "PN"
    for normal in normal_values(tag, value):
        if not is_name:
            found.add(keys.search_key(tag, normal.encode("utf-8", "replace"), b""))
            continue
        for group in filter(None, normal.split("=")):
            found.add(keys.search_key(tag, group.encode("utf-8", "replace"), b""))
        for word in filter(None, _WORD_BREAK.split(normal)):
            found.add(keys.search_key(tag | WORD, word.encode("utf-8", "replace"), b""))
    return frozenset(found)


# ranges ----------------------------------------------------------------------------------------------


def ranges_between(tag: int, low: str, high: str) -> list[Range] | None:
    """Where all normal forms from `low` to `high` stand; None if the attribute is not in `search`."""
    if tag not in _searched:
        return None
    start = keys.search_prefix(tag, low.encode())
    if high == "\uffff":
        end = keys.search_prefix(tag, b"") + b"\xff"
    else:
        end = keys.search_prefix(tag, high.encode()) + b"\x01"
    return [(start, end)] if start < end else []


def ranges_of_patterns(tag: int, patterns: Sequence[Sequence[str]], *, wildcards: bool) -> list[Range] | None:
    """Where everything stands that meets one of these patterns, each the groups of a normal form; None: anywhere."""
    if tag not in _searched:
        return None
    found = [_range_of_pattern(tag, groups, wildcards) for groups in patterns]
    return None if None in found else [item for item in found if item is not None]


def _range_of_pattern(tag: int, groups: Sequence[str], wildcards: bool) -> Range | None:
    group = next((group for group in groups if group.strip("*")), "")
    if not wildcards or not ("*" in group or "?" in group):
        return _exact(tag, group) if group else None
    pieces = split_wildcards(group)
    if pieces[0] not in ("*", "?"):
        return _beginning(tag, pieces[0])
    return _word_range(tag, pieces) if _vr_of(tag) == "PN" else None


def _word_range(tag: int, pieces: Sequence[str]) -> Range | None:
    """A name pattern without a beginning may still begin a word: *^JOHN*."""
    best = ""
    for piece in pieces:
        words = _WORD_BREAK.split(piece)
        best = max(best, *words[1:], key=len) if len(words) > 1 else best
    return _beginning(tag | WORD, best) if best else None


def split_wildcards(text: str) -> list[str]:
    """A pattern as its literal pieces and its `*` and `?`."""
    return [part for part in re.split(r"(\*|\?)", text) if part]


def _exact(tag: int, normal: str) -> Range:
    start = keys.search_prefix(tag, normal.encode("utf-8", "replace"))
    return (start + b"\0", start + b"\x01")


def _beginning(tag: int, normal: str) -> Range:
    start = keys.search_prefix(tag, normal.encode("utf-8", "replace"))
    return (start, start + b"\xff")
