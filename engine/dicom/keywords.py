"""The names of attributes: keywords of PS3.6 and tags as people write them, and what they may have meant.

PatientName    0010,0010    (0010,0010)    00100010    0019,xxA3 (private, in whichever block: the first one)
"""

from __future__ import annotations

import difflib
import re
from functools import cache

from engine.dicom import tags


def tag_of(name: str) -> int | None:
    """The tag that a keyword or gggg,eeee names; None: none does."""
    name = name.strip()
    number = by_number(name)
    return tags.tag_of(name) if number is None else number


def nearest(name: str) -> str | None:
    """The keyword that was most likely meant; None: nothing comes near."""
    return next(iter(difflib.get_close_matches(name.strip(), _keywords(), n=1, cutoff=0.6)), None)


def by_number(name: str) -> int | None:
    """The tag that is written as a number; None: it is not written as one."""
    match = re.fullmatch(r"\(?([0-9a-fA-F]{4}),?\s*((?:[0-9a-fA-F]{2}|[xX]{2})[0-9a-fA-F]{2})\)?", name.strip())
    # xx: a private attribute in whichever block; the index has it in the first one.
    return int(match[1] + re.sub("[xX]{2}", "10", match[2]), 16) if match else None


def is_creator(tag: int) -> bool:
    """Whether it is a private creator element, which matches nothing by itself (PS3.5 7.8.1)."""
    return tags.is_private(tag) and 0x10 <= tag & 0xFFFF <= 0xFF


def creator_of(tag: int) -> int:
    """The element that names the creator of a private one's block (PS3.5 7.8.1)."""
    return tag & 0xFFFF0000 | tag >> 8 & 0xFF


@cache
def _keywords() -> list[str]:
    return [name for name, value in vars(tags).items() if isinstance(value, int) and name[:1].isupper()]
