"""PS3.4 C.2.2.2 matching: turns the keys of an identifier into tests of stored values, and into key ranges if possible.

Opens nothing. `terms` makes the ranges of `search`. `access` decides which ranges to use, and `walk` applies every test
to every candidate: a range may be too wide, but never too narrow.

    universal       empty, or only `*`                                  no condition at all
    single value    the normal forms (`dicom.values`) are equal
    list of UID     any of them
    wild card       `*` and `?`, in AE CS LO LT PN SH ST UC UR UT; case counts, except in person names
    moments         DA, TM, DT: single values, ranges, both together: `date_time`
    sequence        some stored item meets every key of the one item in the query; nested sequences too
    by negotiation  `""` matches an attribute without a value; person names by sound

Person names match by group (alphabetic, ideographic, phonetic), folded. A single group matches any stored group,
several groups match one by one. Components count from the left; empty ones at the end do not count. A `?` is one
letter, also for ß. By sound (fuzzy), some stored word of one value must meet every word of the key, in any group,
component and order: by a common code (`dicom.phonetic`), as the same word, or by its wild cards.

Several values in a key: with multiple value matching, a stored value must meet each of them, if PS3.6 allows the
attribute several values. In all other cases PS3.4 leaves the meaning open (C.2.2.2.8), and a stored value may meet any
of them: a backslash cannot be part of a value there. In LT, ST, UR and UT it can, and these have one value.

An absent or empty stored element meets no key except `""`. PS3.4 C.2.2.1 would let it meet all keys, but a search for
one patient should not return every patient whose name is unknown. Of several stored values any may match. Timezone
Offset From UTC as a key gives the zone of the other keys, and is never matched itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine.dicom import charset, items, phonetic, tags, values
from engine.dicom.identifier import BINARY_VRS, Identifier
from engine.dicom.schema import Schema
from engine.errors import DataSetError, QueryError
from engine.index.format.terms import (
    Range,
    normal_values,
    pieces_of_patterns,
    ranges_of_patterns,
    ranges_of_words,
    split_wildcards,
    words_of,
)
from engine.index.format.types import KeyValue
from engine.index.query.condition import BASELINE, Condition, Rules
from engine.index.query.date_time import MOMENT_VRS, moment_condition, pair_condition, pair_of

WILDCARD_VRS = frozenset(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"))
EMPTY_VALUE = '""'
"""Matches an attribute without a value, if negotiated (PS3.4 C.2.2.2.7)."""

_NUMBER_BYTES = {"US": 2, "SS": 2, "AT": 4, "FL": 4, "SL": 4, "UL": 4, "FD": 8, "SV": 8, "UV": 8}

UIDS_MAX = 10_000
"""UIDs in one list; a retrieval of a large study by instance names some thousands."""
KEY_VALUES_MAX = 1000
"""Values of any other key: all are folded before other work continues."""
WILD_VALUES_MAX = 100
"""Values with wild cards, words of names by sound, keys in a sequence: each is tested on every candidate."""
WILD_CHARACTERS_MAX = 16_384
"""Characters of all values with wild cards: each may be compared on every candidate."""
VALUE_CHARACTERS_MAX = 1024
"""Characters of one value: composing accents takes quadratic time."""
_NESTING_MAX = 32


def conditions(keys: Mapping[int, KeyValue], character_set: bytes, rules: Rules = BASELINE) -> list[Condition]:
    """The conditions of the keys of one level or one item. Raises QueryError."""
    return _conditions(keys, character_set, rules, 1)


def condition(tag: int, value: KeyValue, character_set: bytes, rules: Rules = BASELINE) -> Condition | None:
    """The condition of a single key, or None if it matches everything. Raises QueryError."""
    return next(iter(conditions({tag: value}, character_set, rules)), None)


def _conditions(keys: Mapping[int, KeyValue], character_set: bytes, rules: Rules, depth: int) -> list[Condition]:
    conditions: list[Condition | None] = []
    tags_in_pairs: set[int] = set()
    for tag in sorted(keys):
        value = keys[tag]
        if tag in tags_in_pairs or tag == tags.TimezoneOffsetFromUTC:
            continue
        if not isinstance(value, bytes):
            conditions.append(_sequence_condition(tag, value, character_set, rules, depth))
            continue
        pair = pair_of(tag) if rules.date_time or rules.zone else None
        pair_test = _pair_condition(pair, keys, character_set, rules) if pair else None
        if pair and pair_test:
            conditions.append(pair_test)
            tags_in_pairs.update(pair)
        else:
            conditions.append(_value_condition(tag, value, character_set, rules))
    return [condition for condition in conditions if condition is not None]


def _pair_condition(
    pair: tuple[int, int], keys: Mapping[int, KeyValue], character_set: bytes, rules: Rules
) -> Condition | None:
    texts_of_both = []
    for tag in pair:
        value = keys.get(tag, b"")
        texts = _texts(tag, value, character_set, rules) if isinstance(value, bytes) else []
        if texts == [EMPTY_VALUE] and rules.empty_values:
            return None
        texts_of_both.append(texts)
    dates, times = texts_of_both
    return pair_condition(pair, dates, times, rules) if dates or times else None


def _texts(tag: int, value: bytes, character_set: bytes, rules: Rules) -> list[str]:
    """The values of a key, without empty ones; none if the key matches everything."""
    vr = rules.schema.vr_of(tag)
    text = charset.decode(value, character_set, vr)
    padding = " \0*" if rules.wildcards else " \0"
    if not text.strip(padding):
        return []
    texts = [part for part in values.split(vr, text) if part.strip(" \0")]
    _check(tag, "values", len(texts), UIDS_MAX if vr == "UI" else KEY_VALUES_MAX)
    _check(tag, "characters in a value", max(map(len, texts), default=0), VALUE_CHARACTERS_MAX)
    if vr in WILDCARD_VRS and any(not part.strip(padding) for part in texts):
        return []
    return texts


def _check(tag: int, what: str, count: int, limit: int) -> None:
    """Raises QueryError if a key exceeds a limit."""
    if count > limit:
        raise QueryError(f"{tags.keyword_of(tag)} has {count} {what}; the limit is {limit}", tag)


def _value_condition(tag: int, value: bytes, character_set: bytes, rules: Rules) -> Condition | None:
    vr = rules.schema.vr_of(tag)
    if vr == "SQ" or not value:
        return None
    if vr in BINARY_VRS:
        return _number_condition(tag, value, _NUMBER_BYTES.get(vr, len(value)))
    texts = _texts(tag, value, character_set, rules)
    if not texts:
        return None
    if rules.empty_values and len(texts) == 1 and values.strip(vr, texts[0]) == EMPTY_VALUE:
        return Condition(tag, lambda stored: not normal_values(vr, stored), meets_absent=True)
    if vr == "UI":
        return _uid_condition(tag, texts)
    if vr in MOMENT_VRS:
        return moment_condition(tag, vr, texts, rules)
    needs_all = rules.multiple_values and len(texts) > 1 and tag in tags.SEVERAL_VALUED
    if vr == "PN" and rules.fuzzy:
        return _sound_condition(tag, texts, needs_all)
    wild = [part for part in texts if "*" in part or "?" in part]
    if rules.wildcards and vr in WILDCARD_VRS:
        _check(tag, "values with wild cards", len(wild), WILD_VALUES_MAX)
        _check(tag, "characters in values with wild cards", sum(map(len, wild)), WILD_CHARACTERS_MAX)
    patterns = [_Pattern(vr, part, rules.wildcards and vr in WILDCARD_VRS) for part in texts]
    return _pattern_condition(tag, rules.schema, patterns, needs_all)


def _number_condition(tag: int, value: bytes, unit_bytes: int) -> Condition:
    """Compares encoded numbers in little endian: any number of the key must be among the stored ones."""
    numbers = {value[at : at + unit_bytes] for at in range(0, len(value), unit_bytes)}

    def matches(stored: bytes) -> bool:
        return any(stored[at : at + unit_bytes] in numbers for at in range(0, len(stored), unit_bytes))

    return Condition(tag, matches)


def _uid_condition(tag: int, texts: Sequence[str]) -> Condition:
    uids = tuple(dict.fromkeys(values.normalise("UI", text).encode("utf-8") for text in texts))
    as_set = frozenset(uids)

    def matches(stored: bytes) -> bool:
        if stored in as_set:
            return True
        return any(part.strip(b" \0") in as_set for part in stored.split(b"\\"))

    return Condition(tag, matches, uids=uids)


def _values_test(
    vr: str,
    tests: Sequence[Callable[[str], bool]],
    needs_all: bool,
    values_of: Callable[[str, bytes], Sequence[str]] = normal_values,
) -> Callable[[bytes], bool]:
    """A test of a stored element: any of its values must meet any of these tests, or, with `needs_all`, each test."""
    if len(tests) == 1:
        test = tests[0]

        def matches_one(stored: bytes) -> bool:
            return any(test(value) for value in values_of(vr, stored))

        return matches_one

    def matches(stored: bytes) -> bool:
        stored_values = values_of(vr, stored)
        results = (any(test(value) for value in stored_values) for test in tests)
        return all(results) if needs_all else any(results)

    return matches


# patterns --------------------------------------------------------------------------------------------


class _Pattern:
    """One value of a key, as a test of a normal form."""

    def __init__(self, vr: str, text: str, wildcards: bool, fold: Callable[[str], str] = values.fold) -> None:
        self._is_name = vr == "PN"
        normal = values.fold_person_name(text, fold) if self._is_name else values.normalise(vr, text)
        self.groups = normal.split("=") if self._is_name else [normal]
        self.has_wildcards = wildcards and ("*" in normal or "?" in normal)
        self.is_plain = not self.has_wildcards and len(self.groups) == 1 and bool(normal)
        """Whether only one text meets it."""
        self._tests = [self._test(group) for group in self.groups]
        self.by_letter: _Pattern | None = None
        """For a name with `?`: the same pattern in which ß is one letter."""
        if self._is_name and wildcards and "?" in normal and fold == values.fold:
            self.by_letter = _Pattern(vr, text, wildcards, values.fold_by_letter)

    def _test(self, group: str) -> Callable[[str], bool]:
        if not group or (self.has_wildcards and not group.strip("*")):
            return lambda stored: True
        return _wildcard_test(group) if self.has_wildcards else group.__eq__

    def matches(self, normal: str) -> bool:
        """Whether a stored normal form meets it."""
        if not self._is_name:
            return self._tests[0](normal)
        stored = normal.split("=")
        if len(self._tests) == 1:
            return any(self._tests[0](group) for group in stored if group)
        stored += [""] * (len(self._tests) - len(stored))
        return all(test(group) for test, group in zip(self._tests, stored, strict=False))

    def matches_name(self, text: str) -> bool:
        """The same for a person name as stored."""
        if self.matches(values.fold_person_name(text)):
            return True
        return self.by_letter is not None and self.by_letter.matches(
            values.fold_person_name(text, values.fold_by_letter)
        )

    def number(self) -> bytes:
        """The digits of an integer; empty if it is not one."""
        digits = self.groups[0].removeprefix("-")
        return digits.encode() if digits.isascii() and digits.isdigit() else b""


def _wildcard_test(pattern: str) -> Callable[[str], bool]:
    """A test of a pattern with wild cards. Matches each piece between two `*` at its first occurrence, without
    backtracking, (?>…): backtracking could take exponential time in the number of `*`."""
    first, *others = [_piece(text) for text in re.sub(r"\*+", "*", pattern).split("*")]
    middle = "".join([f"(?>.*?{piece})" for piece in others[:-1]])
    fullmatch = re.compile(f"{first}{middle}.*{others[-1]}" if others else first, re.DOTALL).fullmatch
    return lambda stored: fullmatch(stored) is not None


def _piece(text: str) -> str:
    """The part between two `*`, as a regular expression."""
    return "".join(["." if part == "?" else re.escape(part) for part in split_wildcards(text)])


def _pattern_condition(tag: int, schema: Schema, patterns: Sequence[_Pattern], needs_all: bool) -> Condition:
    vr = schema.vr_of(tag)
    tests: list[Callable[[str], bool]] = [pattern.matches for pattern in patterns]
    if any(pattern.by_letter for pattern in patterns):
        tests = [pattern.matches_name for pattern in patterns]
        matches = _values_test(vr, tests, needs_all, _names)
    else:
        if len(patterns) > 1 and not needs_all:
            tests = _without_plain(vr, patterns)
        matches = _values_test(vr, tests, needs_all)
    has_wildcards = any(pattern.has_wildcards for pattern in patterns)
    groups = [pattern.groups for pattern in patterns]
    if needs_all:
        ranges_by_value = [ranges_of_patterns(tag, [one], schema, wildcards=has_wildcards) for one in groups]
        lists = [ranges for ranges in ranges_by_value if ranges is not None]
        return Condition(tag, matches, lists[0] if lists else None, also=lists[1:], test_count=len(tests))
    ranges = ranges_of_patterns(tag, groups, schema, wildcards=has_wildcards)
    infix = pieces_of_patterns(tag, groups, schema) if has_wildcards else ()
    numbers = [pattern.number() for pattern in patterns] if vr == "IS" else [b""]
    may_meet = _integer_search(tag, numbers) if all(numbers) else None
    return Condition(tag, matches, ranges, infix=infix, may_meet=may_meet, test_count=len(tests))


def _without_plain(vr: str, patterns: Sequence[_Pattern]) -> list[Callable[[str], bool]]:
    """The tests of alternatives; all plain ones are joined to one test."""
    plain = frozenset([pattern.groups[0] for pattern in patterns if pattern.is_plain])
    tests: list[Callable[[str], bool]] = [pattern.matches for pattern in patterns if not pattern.is_plain]
    if plain and vr == "PN":
        tests.append(lambda normal: not plain.isdisjoint(normal.split("=")))
    elif plain:
        tests.append(plain.__contains__)
    return tests


def _names(vr: str, stored: bytes) -> list[str]:
    """The person names of a stored value, not folded."""
    return [text for text in stored.decode("utf-8", "replace").split("\\") if text.strip(" \0^=")]


def _integer_search(tag: int, numbers: Sequence[bytes]) -> Callable[[bytes], object]:
    """Searches a blob for the tag and, among signs, zeros and other values, one of the numbers. Excludes most rows."""
    mark = re.escape(tag.to_bytes(4, "little"))
    before = rb"....(?:[-+ 0-9.\\\0]*[-+ 0\\\0])?(?:"
    return re.compile(mark + before + b"|".join(numbers) + b")", re.DOTALL).search


# sounds ----------------------------------------------------------------------------------------------


class _Word:
    """One word of a person name in a key, to match by sound."""

    def __init__(self, text: str) -> None:
        self._text = text
        literal = re.split(r"[*?]", text, maxsplit=1)[0]
        self.is_wild = literal != text
        self.key = (literal, self.is_wild)
        """Its literal start, and whether more may follow."""
        self._test = _wildcard_test(text) if self.is_wild else None
        self._codes = frozenset[str]() if self.is_wild else phonetic.codes(text)

    def is_in(self, words: Sequence[str]) -> bool:
        """Whether one of the words meets it."""
        if self._test:
            return any(self._test(word) for word in words)
        return self._text in words or any(not self._codes.isdisjoint(phonetic.codes(word)) for word in words)


def _sound_condition(tag: int, texts: Sequence[str], needs_all: bool) -> Condition | None:
    names = [[_Word(word) for word in words_of(values.fold_person_name(text)) if word.strip("*")] for text in texts]
    if not all(names):
        return None
    word_count = sum(map(len, names))
    _check(tag, "words", word_count, WILD_VALUES_MAX)

    def test_of(name: Sequence[_Word]) -> Callable[[str], bool]:
        def test(normal: str) -> bool:
            stored_words = words_of(normal)
            return all(word.is_in(stored_words) for word in name)

        return test

    matches = _values_test("PN", [test_of(name) for name in names], needs_all)
    lists_by_name = [ranges_of_words(tag, [word.key for word in name if word.key[0]]) for name in names]
    if needs_all or len(names) == 1:
        flat = [ranges for lists in lists_by_name for ranges in lists]
        return Condition(tag, matches, flat[0] if flat else None, also=flat[1:], test_count=word_count)
    union: list[Range] | None = None
    if all(lists_by_name):
        union = [item for lists in lists_by_name for item in lists[0]]
    return Condition(tag, matches, union, test_count=word_count)


# sequences -------------------------------------------------------------------------------------------


def _sequence_condition(
    tag: int, key_items: Sequence[Any], character_set: bytes, rules: Rules, depth: int
) -> Condition | None:
    if depth > _NESTING_MAX:
        raise QueryError(f"{tags.keyword_of(tag)} nests more than {_NESTING_MAX} sequences", tag)
    alternatives = []
    for item in key_items:
        if isinstance(item, Identifier):
            conditions = _conditions(item.items, item.character_set or character_set, rules, depth + 1)
        else:
            conditions = _conditions(item, character_set, rules, depth + 1)
        if not conditions:
            return None
        alternatives.append(conditions)
    if not alternatives:
        return None

    def test(stored: bytes, zone: bytes) -> bool:
        return any(
            all(nested.met_by(item, zone) for nested in conditions)
            for item in sequence_items(stored)
            for conditions in alternatives
        )

    def together(attributes: Mapping[int, bytes], zone: bytes) -> bool:
        return test(attributes.get(tag, b""), zone)

    test_count = sum(nested.test_count for conditions in alternatives for nested in conditions)
    _check(tag, "keys and values in its items", test_count, WILD_VALUES_MAX)
    return Condition(
        tag, lambda stored: test(stored, b""), together=together if rules.zone else None, test_count=test_count
    )


def sequence_items(stored: bytes) -> list[dict[int, bytes]]:
    """The items of a stored sequence, as tag → value; empty if it cannot be read."""
    try:
        return [
            {tag: value if vr in BINARY_VRS or vr == "SQ" else value.rstrip(b" \0") for tag, vr, value in item}
            for item in items.decode_items(stored)
        ]
    except DataSetError:
        return []
