"""A document as plain values, and its two forms: Markdown and JSON.

Document ─► sections ─► paragraphs, tables, sections
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from engine.log import escape

_MARKUP: Final = re.compile(r"([*<\[\]]|\\(?!`))")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under the names of their columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"the row {row!r} has not the columns {self.columns!r}")


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, and what is below it."""

    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    sections: tuple[Section, ...] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """One paper."""

    name: str
    """Of its file, without the suffix."""
    title: str
    sections: tuple[Section, ...]
    counts: dict[str, int] = field(default_factory=dict)
    """What a summary says of it, as the number of requirements that are met."""


def table(columns: str, rows: Iterator[Sequence[object]] | Sequence[Sequence[object]]) -> Table:
    """A table; `columns` are separated by "|"."""
    names = tuple(name.strip() for name in columns.split("|"))
    return Table(names, tuple(tuple(map(str, row)) for row in rows))


def to_markdown(document: Document, subtitle: str) -> str:
    """The document as Markdown; `subtitle` says of which server and time it is."""
    lines = [f"# {_inline(document.title)}", "", _inline(subtitle), ""]
    for number, section in enumerate(document.sections, 1):
        lines += _markdown(section, 2, str(number))
    return "\n".join(lines).rstrip() + "\n"


def _markdown(section: Section, level: int, number: str) -> Iterator[str]:
    yield f"{'#' * min(level, 6)} {number} {_inline(section.title)}"
    yield ""
    for paragraph in section.paragraphs:
        yield _inline(paragraph)
        yield ""
    for each in section.tables:
        if not each.rows:
            yield f"None ({each.columns[0]})."
            yield ""
            continue
        yield _row(each.columns)
        yield "|" + "---|" * len(each.columns)
        yield from map(_row, each.rows)
        yield ""
    for index, inner in enumerate(section.sections, 1):
        yield from _markdown(inner, level + 1, f"{number}.{index}")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_inline(cell).replace('|', '&#124;') for cell in cells)} |"


def _inline(text: str) -> str:
    """Text in one line in which names from the configuration and from files start no mark-up.

    Code in backticks stays code: what is between two has no mark-up.
    """
    pieces = escape(text).split("`")
    if len(pieces) % 2 == 0:
        pieces = ["\\`".join(pieces)]
    marked = (piece if number % 2 else _MARKUP.sub(r"\\\1", piece) for number, piece in enumerate(pieces))
    return "`".join(marked)


def to_plain(document: Document) -> dict[str, Any]:
    """The document as JSON values; the rows of tables are objects."""
    return {"name": document.name, "title": document.title, "sections": [_plain(each) for each in document.sections]}


def _plain(section: Section) -> dict[str, Any]:
    return {
        "title": section.title,
        "paragraphs": list(section.paragraphs),
        "tables": [[dict(zip(each.columns, row, strict=True)) for row in each.rows] for each in section.tables],
        "sections": [_plain(inner) for inner in section.sections],
    }
