"""The names of attributes: keywords of PS3.6 and tags as people type them, and suggestions for wrong ones.

PatientName    0010,0010    (0010,0010)    00100010    0019,xxA3 (private; means the first block)
"""

from __future__ import annotations

import difflib
import re
from functools import cache

from engine.dicom import tags


def tag_of(name: str) -> int | None:
    """The tag of a keyword or of gggg,eeee; None if there is none."""
    name = name.strip()
    number = tag_of_number(name)
    return tags.tag_of(name) if number is None else number


def nearest(name: str) -> str | None:
    """The keyword most similar to a name; None if none is similar."""
    return next(iter(difflib.get_close_matches(name.strip(), _keywords(), n=1, cutoff=0.6)), None)


def tag_of_number(name: str) -> int | None:
    """The tag of gggg,eeee; None if the name is not a number."""
    match = re.fullmatch(r"\(?([0-9a-fA-F]{4}),?\s*((?:[0-9a-fA-F]{2}|[xX]{2})[0-9a-fA-F]{2})\)?", name.strip())
    # xx: a private attribute in any block; the index has it in the first one.
    return int(match[1] + re.sub("[xX]{2}", "10", match[2]), 16) if match else None


def is_creator(tag: int) -> bool:
    """Whether this is a private creator element, which is not a matching key by itself (PS3.5 7.8.1)."""
    return tags.is_private(tag) and 0x10 <= tag & 0xFFFF <= 0xFF


def creator_of(tag: int) -> int:
    """The tag of the private creator element that reserves the block of a private tag (PS3.5 7.8.1)."""
    return tag & 0xFFFF0000 | tag >> 8 & 0xFF


@cache
def _keywords() -> list[str]:
    return [name for name, value in vars(tags).items() if isinstance(value, int) and name[:1].isupper()]
