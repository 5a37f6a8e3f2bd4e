"""The separators of a message: MSH-1 and MSH-2."""

from __future__ import annotations

from typing import NamedTuple


class Separators(NamedTuple):
    """MSH-1 and the characters of MSH-2."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"
    truncation: str = ""


STANDARD = Separators()
