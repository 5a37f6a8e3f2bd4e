"""Progress bars on a terminal, and the progress reached when Ctrl-C ends a command."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from engine.log import escape
from engine.sizes import bytes_text

Progress = Callable[[str, int, int], None]
"""(what, done, total); a total of 0 means unknown."""

REDRAW_S = 0.1


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with a sentence on the progress reached."""


@contextmanager
def progress_bar(unit: str = "") -> Iterator[Progress]:
    """Shows a bar with rate and remaining time on a terminal, otherwise nothing. `unit`: "bytes", or empty for items.

    Raises Interrupted at Ctrl-C, with the counts reached.
    """
    reached = ("", 0, 0)
    form = bytes_text if unit == "bytes" else str

    def count(what: str, done: int, total: int) -> None:
        nonlocal reached
        reached = (what, done, total)

    try:
        if sys.stderr.isatty():
            with _bars(form) as draw:

                def count_and_draw(what: str, done: int, total: int) -> None:
                    count(what, done, total)
                    draw(what, done, total)

                yield count_and_draw
        else:
            yield count
    except KeyboardInterrupt:
        what, done, total = reached
        raise Interrupted(f"{what}: {_figures(done, total, 0, form)}" if what else "") from None


@contextmanager
def _bars(form: Callable[[int], str]) -> Iterator[Progress]:
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
        if what in tasks and done != total and now - shown < REDRAW_S:
            return
        shown = now
        if what not in tasks:
            tasks[what] = bars.add_task(escape(what), total=None, figures="")
        figures = _figures(done, total, now - began, form)
        bars.update(tasks[what], completed=done, total=total or None, figures=figures)

    with bars:
        yield report


def _figures(done: int, total: int, seconds: float, form: Callable[[int], str]) -> str:
    rate = f", {form(round(done / seconds))}/s" if seconds > 0.5 else ""
    return f"{form(done)} of {form(total)}{rate}" if total else f"{form(done)}{rate}"
