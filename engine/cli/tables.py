"""Lays out a list for a terminal of any width, without breaking anything that a user might copy.

A column has one of three forms:

    WHOLE     UIDs, ids, dates, times, titles, figures: never broken, never cut
    CUT       descriptions: cut with … if there is no room, names last
    WRAPPED   sentences: wrapped between words, never cut

If even the minimum widths do not fit in one line, columns without any value are left out. If that is not enough, each
entry becomes a block: its columns continue in indented lines, still aligned with the other entries:

    date      patient ID  name      modalities
        study
    20260102  P1          Doe^Jane  CT
        1.2.826.0.1.3680043.10.1599.99.1.1123456789.123456789.123456789

This module returns lines of text; it writes nothing and adds no colour.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

GAP = 2
INDENT = 4
CUT_WIDTH_MIN = 12
WRAPPED_WIDTH_MIN = 30


class Form(Enum):
    """How a cell that is too wide is shortened."""

    WHOLE = "whole"
    CUT = "cut"
    WRAPPED = "wrapped"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a list."""

    name: str
    """The key of its value in a row, and in JSON."""
    title: str = ""
    """The heading on a terminal; by default the name in words."""
    form: Form = Form.WHOLE
    least_width: int = 0
    """Minimum width in cells; 0: that of its form."""

    @property
    def head(self) -> str:
        """Its heading on a terminal."""
        return self.title or self.name.replace("_", " ")


def whole(name: str, title: str = "") -> Column:
    """A column that is never broken."""
    return Column(name, title)


def cut(name: str, title: str = "") -> Column:
    """A column of descriptions, cut if there is no room."""
    return Column(name, title, Form.CUT)


def wrapped(name: str, title: str = "") -> Column:
    """A column of sentences."""
    return Column(name, title, Form.WRAPPED)


def cell_width(text: str) -> int:
    """The width of a text in terminal cells: two for an ideograph, none for a combining accent."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


@dataclass(slots=True)
class _Cell:
    """A column during layout."""

    column: Column
    natural: int
    is_figure: bool
    width: int = 0

    @property
    def least(self) -> int:
        """Its minimum width."""
        least = {Form.WHOLE: self.natural, Form.CUT: CUT_WIDTH_MIN, Form.WRAPPED: WRAPPED_WIDTH_MIN}
        width = self.column.least_width or least[self.column.form]
        return min(self.natural, max(width, cell_width(self.column.head)))


def lines(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int, figures: frozenset[int] = frozenset()
) -> tuple[list[str], list[str]]:
    """The lines of the headings and those of the rows. `figures`: indices of right-aligned columns."""
    cells = [
        _Cell(
            column,
            max([cell_width(column.head), *(cell_width(row[number]) for row in rows)]),
            number in figures,
        )
        for number, column in enumerate(columns)
    ]
    groups = _groups(cells, width)
    filled = [number for number in range(len(columns)) if any(row[number] for row in rows)]
    if len(groups) > 1 and 0 < len(filled) < len(columns):
        return lines(
            [columns[number] for number in filled],
            [[row[number] for number in filled] for row in rows],
            width,
            frozenset(place for place, number in enumerate(filled) if number in figures),
        )
    for number, group in enumerate(groups):
        _give_room(group, width - (INDENT if number else 0))
    head = _entry(groups, [column.head for column in columns])
    return head, [line for row in rows for line in _entry(groups, row)]


def _groups(cells: list[_Cell], width: int) -> list[list[_Cell]]:
    """Groups of columns that share a line: as many as fit by their minimum widths, in order."""
    groups: list[list[_Cell]] = [[]]
    for cell in cells:
        used = sum(other.least + GAP for other in groups[-1]) + (INDENT if len(groups) > 1 else 0)
        if groups[-1] and used + cell.least > width:
            groups.append([])
        groups[-1].append(cell)
    return groups


def _give_room(group: list[_Cell], width: int) -> None:
    """Widens each column of a line from its minimum towards its natural width, as room allows."""
    room = width - GAP * (len(group) - 1) - sum(cell.least for cell in group)
    for cell in sorted(group, key=lambda cell: cell.natural - cell.least):
        unsized = [other for other in group if not other.width]
        share = max(0, room) // len(unsized)
        cell.width = min(cell.natural, cell.least + share)
        room -= cell.width - cell.least


def _entry(groups: list[list[_Cell]], texts: Sequence[str]) -> list[str]:
    """One row, or the headings: a line per group, more if a sentence wraps."""
    out: list[str] = []
    number = 0
    for place, group in enumerate(groups):
        pieces = [_fitted(cell, texts[number + offset]) for offset, cell in enumerate(group)]
        number += len(group)
        if place and not any(any(piece) for piece in pieces):
            continue
        for height in range(max(map(len, pieces))):
            line = (" " * GAP).join(
                _padded(piece[height] if height < len(piece) else "", cell)
                for piece, cell in zip(pieces, group, strict=True)
            )
            out.append((" " * INDENT if place else "") + line.rstrip())
    return out


def _fitted(cell: _Cell, text: str) -> list[str]:
    """A cell's text within its width: one line, or several for a wrapped sentence."""
    if cell_width(text) <= cell.width or cell.column.form is Form.WHOLE:
        return [text]
    if cell.column.form is Form.CUT:
        return [_cut(text, cell.width)]
    return textwrap.wrap(text, cell.width, break_long_words=False, break_on_hyphens=False) or [""]


def _cut(text: str, width: int) -> str:
    while cell_width(text) > width - 1:
        text = text[:-1]
    return text.rstrip() + "…"


def _padded(text: str, cell: _Cell) -> str:
    space = " " * max(0, cell.width - cell_width(text))
    return space + text if cell.is_figure else text + space
