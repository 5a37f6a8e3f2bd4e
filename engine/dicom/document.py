"""A document of another system, as it came: a PDF, a CDA, a text."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Document(NamedTuple):
    """A document as it came."""

    kind: Literal["pdf", "cda", "text"]
    data: bytes
    """Text is UTF-8."""
    title: str = ""
    date: str = ""
    time: str = ""
