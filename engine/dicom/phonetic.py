"""Phonetic codes of a word of a person name: spellings that sound alike share a code.

Pass words in their normal form (`values.fold`); `index.query` does the matching. The codes are keys of the index: a
change of a rule here is a change of its format.

A code is the classes of a word's consonants, and its first vowel. It serves German, English and Romance spellings at
once, so letters with two sounds give two codes: `Erich` has ERK like `Erik`, and ERS like `Eris`.

    P  b p       F  f v w ph pf     T  d t th     K  g k q c ch ck     S  s z ss sch sh sz cs cz, c before e i y
    L M N R      H  h at the start                J  j, y before a vowel at the start, g before e i y (second code)
    A  a         E  e i y ei ai ay ey ie ij       O  o u ö ü oe ue au ou eu oi ow      ae: A, and E (second code)

Equal classes side by side count once. Silent are t and d before s and z, h within a word, and all vowels except the
first. Greek and Cyrillic are transliterated first. A word of another script has a checksum as its code, which only the
same word has. The parts of a double name have codes of their own, beside those of the whole.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final
from zlib import crc32

CODE_LENGTH_MAX: Final = 8
"""Characters of a code; later sounds of a word do not count."""
_PART_LENGTH_MIN = 3
"""Letters that a part of a double name needs to have codes of its own."""

# A pattern of letters, its class, and its class in the second code.
_RULES: Final = (
    (r"^y(?=[aeiou])|j", "J", "J"),
    (r"ae", "A", "E"),
    (r"eau|[aeo]u|[aeo]w(?=[b-df-hj-np-rtvxz])|o[iy]|[ou]e?", "O", "O"),
    (r"[aei][jy](?![aeiou])|[ae][iy]e?|i?e[aei]?|[iy]", "E", "E"),
    (r"a", "A", "A"),
    (r"t?sch|tch|sh|sz|zs|c[sz]", "S", "S"),
    (r"ch(?=[lmnr])", "K", "K"),
    (r"ch|c$", "K", "S"),
    (r"c(?=[eiy])", "S", "S"),
    (r"g(?=[eiy])", "K", "J"),
    (r"qu?|ck|cq|[cgk]", "K", "K"),
    (r"p[fh]|[fvw]", "F", "F"),
    (r"[dt](?=[sz])", "", ""),
    (r"[dt]", "T", "T"),
    (r"^x", "KS", "S"),
    (r"x", "KS", "KS"),
    (r"[sz]", "S", "S"),
    (r"[bp]", "P", "P"),
    (r"^h", "H", "H"),
    (r"l", "L", "L"),
    (r"m", "M", "M"),
    (r"n", "N", "N"),
    (r"r", "R", "R"),
)
_VOWELS = frozenset("AEO")
_SOUND = re.compile("|".join(f"({pattern})" for pattern, _, _ in _RULES))

# A letter and its transliteration.
_TRANSLITERATIONS = (
    "аa бb вv гg дd еe жzh зz иi кk лl мm нn оo пp рr сs тt уu фf хch цz чch шsh щsch ыy эe юyu яya єye іi їi "
    "ґg ђdj јj љlj њnj ћc џdz ўu ь ъ "
    "αa βv γg δd εe ζz ηi θth ιi κk λl μm νn ξx οo πp ρr σs ςs τt υi φf χch ψps ωo "
    "łl øo đd ðd þth æae œoe ıi ħh"
)
_LATIN = str.maketrans({pair[0]: pair[1:] for pair in _TRANSLITERATIONS.split()})
_LETTERS = re.compile(r"[a-z]+")


@lru_cache(maxsize=16384)
def codes(word: str) -> frozenset[str]:
    """The codes of a folded word; at least one."""
    latin = word if word.isascii() else word.translate(_LATIN)
    parts = _LETTERS.findall(latin)
    if not parts or not latin.isascii():
        return frozenset((f"#{crc32(word.encode('utf-8', 'replace')):08x}",))
    result = set(_codes_of("".join(parts)))
    if len(parts) > 1:
        for part in parts:
            if len(part) >= _PART_LENGTH_MIN:
                result.update(_codes_of(part))
    return frozenset(result)


def _codes_of(letters: str) -> set[str]:
    first: list[str] = []
    second: list[str] = []
    vowel_count = 0
    previous_end = -1
    for sound in _SOUND.finditer(letters):
        _, one, other = _RULES[(sound.lastindex or 1) - 1]
        if one in _VOWELS:
            vowel_count += 1
            if vowel_count > 1:
                continue
        is_next = sound.start() == previous_end
        for code, symbol in ((first, one), (second, other)):
            if not (is_next and code and code[-1][-1:] == symbol[:1]):
                code.append(symbol)
        previous_end = sound.end()
    return {"".join(code)[:CODE_LENGTH_MAX] for code in (first, second)}
