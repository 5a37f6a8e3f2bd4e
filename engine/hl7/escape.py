r"""Escapes in texts (HL7 v2.5.1 2.7): \F\ for a separator, \.br\ for a new line, \Xhh\ for bytes of the character set.

Reading never fails: a sequence that means nothing stays as it is, since a backslash in a text is more often a path than
a broken escape. Writing escapes the separators and control characters, and nothing else.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.hl7.separators import Separators

_FORMATTING = re.compile(r"\.(br|sp|in|ti|sk|fi|nf|ce)\s*([+-]?\d{0,3})", re.ASCII)
_HEX = re.compile(r"X((?:[0-9A-Fa-f]{2})+)", re.ASCII)
_SWITCH = re.compile(r"[CM][0-9A-Fa-f]{4,6}", re.ASCII)
_LINES = {"br": "\n", "sp": "\n", "ce": "\n", "sk": " "}


def unescape(text: str, separators: Separators, decode: Callable[[bytes], str]) -> str:
    """The text that was meant. `decode` makes text of the bytes of an X sequence."""
    mark = separators.escape
    if not mark or mark not in text:
        return text
    parts: list[str] = []
    at = 0
    while (start := text.find(mark, at)) >= 0:
        end = text.find(mark, start + 1)
        if end < 0:
            break
        meaning = _meaning(text[start + 1 : end], separators, decode)
        parts.append(text[at:start])
        if meaning is None:
            # Not an escape: the second mark may begin one.
            parts.append(text[start:end])
            at = end
        else:
            parts.append(meaning)
            at = end + 1
    parts.append(text[at:])
    return "".join(parts)


def _meaning(word: str, separators: Separators, decode: Callable[[bytes], str]) -> str | None:
    single = {
        "F": separators.field,
        "S": separators.component,
        "T": separators.subcomponent,
        "R": separators.repetition,
        "E": separators.escape,
        "P": separators.truncation or "#",
        "H": "",
        "N": "",
    }.get(word)
    if single is not None:
        return single
    if match := _HEX.fullmatch(word):
        return decode(bytes.fromhex(match[1]))
    if match := _FORMATTING.fullmatch(word):
        count = int(match[2]) if match[2].lstrip("+-") else 1
        return _LINES.get(match[1], "") * min(max(count, 1), 100)
    if _SWITCH.fullmatch(word) or (word.startswith("Z") and word.isalnum() and len(word) <= 40):
        return ""
    return None


def escape(text: str, separators: Separators) -> str:
    """A text without separators and control characters, for a component or subcomponent."""
    mark = separators.escape
    if not text or text.isalnum():
        return text
    table = {
        mark: f"{mark}E{mark}",
        separators.field: f"{mark}F{mark}",
        separators.component: f"{mark}S{mark}",
        separators.subcomponent: f"{mark}T{mark}",
        separators.repetition: f"{mark}R{mark}",
    }
    text = text.replace("\r\n", "\n")
    return "".join(
        table.get(character)
        or (f"{mark}.br{mark}" if character in "\n\r" else _control(character, mark) if character < " " else character)
        for character in text
    )


def _control(character: str, mark: str) -> str:
    return f"{mark}X{ord(character):02X}{mark}"
