"""How results reach the reader: rich tables and bars on a terminal, tab-separated text in a pipe, JSON when asked.

Results go to standard output, progress and complaints to standard error. Whatever comes from a data set or a
peer is escaped first: a patient's name must not move the cursor. rich is imported only for a terminal.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import click
import orjson

from engine.log import escape

Progress = Callable[[str, int, int], None]
"""(what, done, total); a total of 0 is not known yet."""


def on_terminal() -> bool:
    """Whether standard output is read by a person."""
    return sys.stdout.isatty()


def write_json(value: object) -> None:
    """One line of JSON."""
    text = orjson.dumps(value, default=_plain, option=orjson.OPT_NON_STR_KEYS).decode()
    click.echo(escape(text))


def write_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None) -> None:
    """Rows under column heads; in a pipe a head line and tabs."""
    if not on_terminal():
        click.echo("\t".join(columns))
        for row in rows:
            click.echo("\t".join(to_text(value) for value in row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", header_style="bold")
    for number, column in enumerate(columns):
        figures = bool(rows) and all(isinstance(row[number], int | float) for row in rows)
        table.add_column(column, justify="right" if figures else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(to_text(value)) for value in row))
    Console().print(table)


def write_facts(facts: Mapping[str, object], *, title: str | None = None) -> None:
    """Names and their values, one a line."""
    if on_terminal() and title:
        click.secho(title, bold=True)
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        click.echo(f"{name:<{width}}  {to_text(value)}" if on_terminal() else f"{name}\t{to_text(value)}")


def write_aside(facts: Mapping[str, object], *, as_json: bool) -> None:
    """What there is to say about a result beside it: names and their values on standard error."""
    if as_json:
        click.echo(escape(orjson.dumps(facts, default=_plain).decode()), err=True)
        return
    for name, value in facts.items():
        complain(f"{name.replace('_', ' ')}: {to_text(value)}")


def complain(sentence: str) -> None:
    """One line on standard error."""
    click.echo(escape(sentence), err=True)


def to_text(value: object) -> str:
    """A value as a person or a script reads it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, float):
        value = f"{value:.3f}".rstrip("0").rstrip(".")
    if isinstance(value, list | tuple):
        value = ", ".join(to_text(item) for item in value)
    return escape(str(value))


def bytes_text(count: float) -> str:
    """1536 → "1.5 KB", in steps of 1000 as disks and networks are counted."""
    for unit in ("B", "KB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


@contextmanager
def progress_bar(unit: str = "") -> Iterator[Progress]:
    """A bar with rate and time left while a terminal watches, nothing otherwise. `unit`: "bytes", else things."""
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    bars = Bars(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    tasks: dict[str, TaskID] = {}
    began = time.monotonic()
    shown = 0.0

    def report(what: str, done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if what in tasks and done != total and now - shown < 0.1:
            return
        shown = now
        if what not in tasks:
            tasks[what] = bars.add_task(escape(what), total=None, figures="")
        figures = _figures(done, total, now - began, bytes_text if unit == "bytes" else str)
        bars.update(tasks[what], completed=done, total=total or None, figures=figures)

    with bars:
        yield report


def _figures(done: int, total: int, seconds: float, form: Callable[[int], str]) -> str:
    rate = f", {form(round(done / seconds))}/s" if seconds > 0.5 else ""
    return f"{form(done)} of {form(total)}{rate}" if total else f"{form(done)}{rate}"


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)
