"""How a list is laid out for a terminal of any width, so that nothing that a person copies is ever broken.

A column is of one of three forms:

    WHOLE     UIDs, ids, dates, times, titles, figures: never broken, never cut
    CUT       descriptions: cut with … where there is no room, names last of all
    WRAPPED   sentences: wrapped between words, never cut

Where even the least widths do not fit into one line, each entry becomes a block: its columns go on in a second and a
third line, indented, and stand below each other all the same:

    date      patient ID  name      modalities
        study
    20260102  P1          Doe^Jane  CT
        1.2.826.0.1.3680043.10.1599.99.1.1123456789.123456789.123456789

Writes nothing and colours nothing: lines of text come out.
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
    """What may be done to a cell that is too wide."""

    WHOLE = "whole"
    CUT = "cut"
    WRAPPED = "wrapped"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a list."""

    name: str
    """The key of its value in a row, and in JSON."""
    title: str = ""
    """The head on a terminal; the name in words if there is none."""
    form: Form = Form.WHOLE
    least_width: int = 0
    """Cells that it keeps in any case; 0: as its form has it."""

    @property
    def head(self) -> str:
        """What stands above it on a terminal."""
        return self.title or self.name.replace("_", " ")


def whole(name: str, title: str = "") -> Column:
    """A column that is never broken."""
    return Column(name, title)


def cut(name: str, title: str = "") -> Column:
    """A column that gives way: descriptions."""
    return Column(name, title, Form.CUT)


def wrapped(name: str, title: str = "") -> Column:
    """A column of sentences."""
    return Column(name, title, Form.WRAPPED)


def cell_width(text: str) -> int:
    """Cells of a terminal that a text takes: two for an ideograph, none for a combining accent."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


@dataclass(slots=True)
class _Cell:
    """A column as it is laid out."""

    column: Column
    natural: int
    is_figure: bool
    width: int = 0

    @property
    def least(self) -> int:
        """The least width that it can do with."""
        least = {Form.WHOLE: self.natural, Form.CUT: CUT_WIDTH_MIN, Form.WRAPPED: WRAPPED_WIDTH_MIN}
        wanted = self.column.least_width or least[self.column.form]
        return min(self.natural, max(wanted, cell_width(self.column.head)))


def lines(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int, figures: frozenset[int] = frozenset()
) -> tuple[list[str], list[str]]:
    """The lines of the head, and those of the rows. `figures`: the numbers of columns that stand to the right."""
    cells = [
        _Cell(
            column,
            max([cell_width(column.head), *(cell_width(row[number]) for row in rows)]),
            number in figures,
        )
        for number, column in enumerate(columns)
    ]
    groups = _groups(cells, width)
    for number, group in enumerate(groups):
        _give_room(group, width - (INDENT if number else 0))
    head = _entry(groups, [column.head for column in columns])
    return head, [line for row in rows for line in _entry(groups, row)]


def _groups(cells: list[_Cell], width: int) -> list[list[_Cell]]:
    """The columns that share a line: as many as fit by their least widths, in their order."""
    groups: list[list[_Cell]] = [[]]
    for cell in cells:
        used = sum(other.least + GAP for other in groups[-1]) + (INDENT if len(groups) > 1 else 0)
        if groups[-1] and used + cell.least > width:
            groups.append([])
        groups[-1].append(cell)
    return groups


def _give_room(group: list[_Cell], width: int) -> None:
    """Widens each column of a line from its least to its natural width, as far as there is room."""
    room = width - GAP * (len(group) - 1) - sum(cell.least for cell in group)
    for cell in sorted(group, key=lambda cell: cell.natural - cell.least):
        wanting = [other for other in group if not other.width]
        share = max(0, room) // len(wanting)
        cell.width = min(cell.natural, cell.least + share)
        room -= cell.width - cell.least


def _entry(groups: list[list[_Cell]], texts: Sequence[str]) -> list[str]:
    """One row, or the head: a line for each group, more where a sentence is wrapped."""
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
    """A cell's text in its width: one line, or more of a sentence."""
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
