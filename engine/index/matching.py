"""PS3.4 C.2.2.2 matching: a key of an identifier becomes a test of stored values, and where possible key ranges.

Knows values; opens nothing. Where in `search` to look is `terms`. `access` decides which ranges to use, and `walk`
applies every test to every candidate, so that a range may be generous but never too narrow.

    universal       empty, or only `*`                                  no condition at all
    single value    the normal forms (`dicom.values`) are equal
    list            values separated by `\\`, any of them; UIDs, and leniently every other VR that has multiplicity
    wild card       `*` and `?`, in AE CS LO LT PN SH ST UC UR UT; case counts, but not in person names
    range           DA, TM, DT with a hyphen, open at either end
    sequence        some stored item meets every key of the one item asked for

Person names match by group (alphabetic, ideographic, phonetic), folded: one group given matches any stored group,
several match one by one. A stored element that is absent or empty meets no condition. Of several stored values any may
match.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.dicom import charset, elements, tags, values
from engine.dicom.identifier import Identifier
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from engine.errors import DataSetError, QueryError
from engine.index.terms import Range, normal_values, ranges_between, ranges_of_patterns, split_wildcards
from engine.index.types import KeyValue

WILDCARD_VRS = frozenset(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"))
_BINARY_VRS = frozenset(
    ("AT", "FL", "FD", "OB", "OD", "OF", "OL", "OV", "OW", "SL", "SS", "SV", "UL", "UN", "US", "UV")
)
_RANGE_VRS = frozenset(("DA", "TM", "DT"))

KEY_VALUES_MAX = 10_000
"""Values in one list; a retrieval of a large study by instance names some thousands."""
_NESTING_MAX = 32

_EXPLICIT = EXPLICIT_VR_LITTLE_ENDIAN.encoding


# conditions ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Condition:
    """What one key asks of one attribute."""

    tag: int
    matches: Callable[[bytes], bool]
    """Whether a stored value, not empty, in UTF-8, meets it."""
    ranges: Sequence[Range] | None = None
    """Where in `search` all that may meet it stand; None: look at everything."""
    uids: Sequence[bytes] = ()
    """For a VR of UI: the values asked for."""
    may_meet: Callable[[bytes], object] | None = None
    """A quick look at a level blob, in any character set: false only if the attribute surely does not meet it."""

    def met_by(self, items: Mapping[int, bytes]) -> bool:
        """Whether an entity with these attributes meets it."""
        value = items.get(self.tag)
        return bool(value) and self.matches(value)  # type: ignore[arg-type]


def condition(tag: int, value: KeyValue, character_set: bytes, *, wildcards: bool = True) -> Condition | None:
    """The condition of a key, or None if it matches everything. Raises QueryError."""
    vr = tags.vr_of(tag)
    if not isinstance(value, bytes):
        return _sequence_condition(tag, value, character_set, 1)
    if vr == "SQ" or not value:
        return None
    if vr in _BINARY_VRS:
        return Condition(tag, lambda stored: stored == value)
    text = charset.decode(value, character_set, vr)
    if not text.strip(" \0*") and (wildcards or not text.strip(" \0")):
        return None
    if vr in _RANGE_VRS and (ends := values.parse_range(vr, text)) is not None:
        return _range_condition(tag, *ends)
    wanted = [part for part in values.split(vr, text) if part.strip(" \0")]
    if not wanted:
        return None
    if len(wanted) > KEY_VALUES_MAX:
        raise QueryError(f"{tags.keyword_of(tag)} has {len(wanted)} values, the limit is {KEY_VALUES_MAX}")
    if vr == "UI":
        return _uid_condition(tag, wanted)
    if wildcards and vr in WILDCARD_VRS and any(not part.strip(" \0*") for part in wanted):
        return None
    patterns = [_Pattern(tag, vr, part, wildcards and vr in WILDCARD_VRS) for part in wanted]
    return _pattern_condition(tag, vr, patterns)


def _uid_condition(tag: int, wanted: Sequence[str]) -> Condition:
    uids = tuple(dict.fromkeys(values.normalise("UI", part).encode("utf-8") for part in wanted))
    as_set = frozenset(uids)

    def matches(stored: bytes) -> bool:
        if stored in as_set:
            return True
        return any(part.strip(b" \0") in as_set for part in stored.split(b"\\"))

    return Condition(tag, matches, uids=uids)


def _range_condition(tag: int, low: str, high: str) -> Condition:
    def matches(stored: bytes) -> bool:
        return any(low <= normal <= high for normal in normal_values(tag, stored))

    return Condition(tag, matches, ranges_between(tag, low, high))


class _Pattern:
    """One value asked for, as a test of one normal form."""

    def __init__(self, tag: int, vr: str, text: str, wildcards: bool) -> None:
        self._tag = tag
        normal = values.normalise(vr, text)
        self.groups = normal.split("=") if vr == "PN" else [normal]
        self.has_wildcards = wildcards and ("*" in normal or "?" in normal)
        self._tests = [self._test(group) for group in self.groups]
        self._is_name = vr == "PN"

    def _test(self, group: str) -> Callable[[str], bool]:
        if not group or (self.has_wildcards and not group.strip("*")):
            return lambda stored: True
        if not self.has_wildcards:
            return group.__eq__
        translated = "".join(
            ".*" if part == "*" else "." if part == "?" else re.escape(part) for part in split_wildcards(group)
        )
        fullmatch = re.compile(translated, re.DOTALL).fullmatch
        return lambda stored: fullmatch(stored) is not None

    def matches(self, normal: str) -> bool:
        """Whether a stored normal form is one of those asked for."""
        if not self._is_name:
            return self._tests[0](normal)
        stored = normal.split("=")
        if len(self._tests) == 1:
            return any(self._tests[0](group) for group in stored if group)
        stored += [""] * (len(self._tests) - len(stored))
        return all(test(group) for test, group in zip(self._tests, stored, strict=False))

    def number(self) -> bytes:
        """The digits of an integer asked for; nothing if it is none."""
        digits = self.groups[0].removeprefix("-")
        return digits.encode() if digits.isascii() and digits.isdigit() else b""


def _pattern_condition(tag: int, vr: str, patterns: Sequence[_Pattern]) -> Condition:
    tests = [pattern.matches for pattern in patterns]
    single = tests[0] if len(tests) == 1 else None

    def matches(stored: bytes) -> bool:
        for normal in normal_values(tag, stored):
            if single(normal) if single else any(test(normal) for test in tests):
                return True
        return False

    has_wildcards = any(pattern.has_wildcards for pattern in patterns)
    ranges = ranges_of_patterns(tag, [pattern.groups for pattern in patterns], wildcards=has_wildcards)
    numbers = [pattern.number() for pattern in patterns] if vr == "IS" else [b""]
    return Condition(tag, matches, ranges, may_meet=_integer_search(tag, numbers) if all(numbers) else None)


def _integer_search(tag: int, numbers: Sequence[bytes]) -> Callable[[bytes], object]:
    """Finds the tag and, among signs, zeros and other values, one of the numbers: most rows are passed over by this."""
    mark = re.escape(tag.to_bytes(4, "little"))
    before = rb"....(?:[-+ 0-9\\]*[-+ 0\\])?(?:"
    return re.compile(mark + before + b"|".join(numbers) + b")", re.DOTALL).search


# sequences -------------------------------------------------------------------------------------------


def _sequence_condition(tag: int, items: Sequence[Any], character_set: bytes, depth: int) -> Condition | None:
    if depth > _NESTING_MAX:
        raise QueryError(f"{tags.keyword_of(tag)} nests more than {_NESTING_MAX} sequences")
    alternatives = []
    for item in items:
        if isinstance(item, Identifier):
            nested_set = item.character_set or character_set
            content: Mapping[int, Any] = item.items
        else:
            nested_set = character_set
            content = item
        conditions = []
        for nested_tag, value in content.items():
            if isinstance(value, bytes):
                nested = condition(nested_tag, value, nested_set)
            else:
                nested = _sequence_condition(nested_tag, value, nested_set, depth + 1)
            if nested is not None:
                conditions.append(nested)
        if not conditions:
            return None
        alternatives.append(conditions)
    if not alternatives:
        return None

    def matches(stored: bytes) -> bool:
        return any(
            all(nested.met_by(item) for nested in conditions)
            for item in sequence_items(stored)
            for conditions in alternatives
        )

    return Condition(tag, matches)


def sequence_items(stored: bytes) -> list[dict[int, bytes]]:
    """The items of a stored sequence, as tag → value; what cannot be read is no item."""
    found = []
    try:
        for item in elements.walk(stored, _EXPLICIT):
            content = {}
            for element in elements.walk(stored, _EXPLICIT, item.value_offset, item.value_offset + item.length):
                value = stored[element.value_offset : element.value_offset + element.length]
                content[element.tag] = (
                    value if element.vr in _BINARY_VRS or element.vr == "SQ" else value.rstrip(b" \0")
                )
            found.append(content)
    except DataSetError:
        pass
    return found
