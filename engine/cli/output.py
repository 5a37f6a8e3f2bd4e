"""Writes results: tables on a terminal, tab-separated lines in a pipe, JSON with --json.

Results go to standard output, progress and warnings to standard error. Escape all text from data sets and peers first:
a patient's name must not move the cursor. Characters that the stream's encoding lacks are escaped too. If the reader
closes the pipe, the command ends quietly (`ReaderGone`).

With --json, on every command:

    one result    one object in one line                                 write_one
    a list        one object per line, nothing for an empty list         write_list
    names         snake_case; DICOM attributes by keyword
    values        numbers are numbers, times ISO 8601 with an offset, bytes counted in bytes
    attributes    lists if PS3.6 allows several values, also with one value or none
    errors        on standard error: {"error": "a sentence", "exit_code": 4}; warnings: {"warning": "a sentence"}

Tables never break a UID, an id, a date or a time (`tables`). A column or fact whose name ends in "bytes" is shown as a
readable size on a terminal and in bytes elsewhere.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Any, TextIO

import click
import orjson

from engine.cli import tables
from engine.cli.progress import Interrupted, Progress, progress_bar
from engine.cli.tables import Column, cut, whole, wrapped
from engine.log import escape
from engine.sizes import bytes_text

__all__ = [
    "Column",
    "Interrupted",
    "Progress",
    "ReaderGone",
    "as_json",
    "bytes_text",
    "complain",
    "cut",
    "in_words",
    "on_terminal",
    "progress_bar",
    "to_text",
    "whole",
    "wrapped",
    "write_aside",
    "write_facts",
    "write_json",
    "write_line",
    "write_list",
    "write_one",
    "write_report",
    "write_table",
]

JSON_FLAG = "filmroom.json"
"""The key of the command's context under which `options` stores --json."""

ROWS_AT_ONCE = 200
"""Rows laid out together on a terminal; longer lists appear in parts while they are being read."""


class ReaderGone(Exception):
    """The reader of standard output has closed the pipe, as `| head` does."""


def on_terminal() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout.isatty()


def as_json() -> bool:
    """Whether --json was given, anywhere on the command line."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(JSON_FLAG))


# results -----------------------------------------------------------------------------------------


def write_one(facts: Mapping[str, object], shown: Mapping[str, object] | None = None, *, title: str = "") -> None:
    """Writes one result: a JSON object, or names and values. `shown`: the facts for people, if they differ."""
    if as_json():
        write_json(facts)
    else:
        write_facts({name.replace("_", " "): value for name, value in (shown or facts).items()}, title=title)


def write_report(
    facts: Mapping[str, object],
    shown: Mapping[str, object] | None = None,
    **troubles: Sequence[str | Mapping[str, object]],
) -> None:
    """Writes results and lists of problems: within the JSON object, or one line per problem and their number."""
    if not as_json():
        for trouble in chain.from_iterable(troubles.values()):
            complain(": ".join(map(to_text, trouble.values())) if isinstance(trouble, Mapping) else trouble)
        shown = {**(facts if shown is None else shown), **{name: len(found) for name, found in troubles.items()}}
    write_one({**facts, **troubles}, shown)


def write_list(
    rows: Iterable[Mapping[str, object]],
    columns: Sequence[Column],
    shown: Callable[[Mapping[str, Any]], Mapping[str, object]] = lambda row: row,
    empty: str = "",
) -> int:
    """Writes a list: a JSON object per line, or a table with these columns. Returns the number of rows.

    `shown` converts a row for people; `empty` is the message on a terminal if there are no rows.
    """
    count = 0
    if as_json():
        for row in rows:
            count += 1
            write_json(row)
        return count
    remaining = map(shown, rows)
    if not on_terminal():
        # The heading comes with the first row, so that an earlier failure leaves no output.
        head = "\t".join(column.name for column in columns)
        for count, row in enumerate(remaining, 1):
            if count == 1:
                write_line(head)
            write_line("\t".join(to_text(row.get(column.name)) for column in columns))
        if not count:
            write_line(head)
        return count
    while some := list(islice(remaining, ROWS_AT_ONCE)):
        count += len(some)
        _draw(columns, [[row.get(column.name) for column in columns] for row in some])
    if empty and not count:
        complain(empty)
    return count


def write_table(columns: Sequence[str | Column], rows: Iterable[Sequence[object]]) -> None:
    """Writes a table; never JSON."""
    heads = [column if isinstance(column, Column) else Column(column) for column in columns]
    if on_terminal():
        _draw(heads, list(rows))
        return
    for row in chain([[column.name for column in heads]], rows):
        write_line("\t".join(to_text(value) for value in row))


def write_facts(facts: Mapping[str, object], *, title: str | None = None) -> None:
    """Writes names and values, one per line; never JSON."""
    if on_terminal() and title:
        _write(sys.stdout, _bold(title))
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        write_line(f"{name:<{width}}  {_human(name, value)}" if on_terminal() else f"{name}\t{to_text(value)}")


def in_words(facts: Mapping[str, object]) -> dict[str, object]:
    """Facts for people: names in words, and nothing that is empty."""
    return {name.replace("_", " "): value for name, value in facts.items() if value not in ("", None, [], ())}


def write_json(value: object) -> None:
    """Writes one line of JSON."""
    _write(sys.stdout, _json(value, sys.stdout))


def write_line(text: str) -> None:
    """Writes one line. Escape text from outside first."""
    _write(sys.stdout, text)


# beside the results ------------------------------------------------------------------------------


def complain(sentence: str) -> None:
    """Writes a warning or remark to standard error."""
    if as_json():
        _write(sys.stderr, _json({"warning": sentence}, sys.stderr))
    else:
        _write(sys.stderr, escape(sentence))


def fail(sentence: str, exit_code: int, *, json: bool, lines: Sequence[str] = (), **more: object) -> None:
    """Writes to standard error why the command failed. `lines`: more of the sentence, not for JSON."""
    if json:
        _write(sys.stderr, _json({"error": sentence, "exit_code": exit_code, **more}, sys.stderr))
    else:
        _write(sys.stderr, "\n".join(map(escape, (sentence, *lines))))


def write_aside(facts: Mapping[str, object]) -> None:
    """Writes names and values about a result to standard error."""
    if as_json():
        _write(sys.stderr, _json(facts, sys.stderr))
        return
    for name, value in facts.items():
        complain(f"{name.replace('_', ' ')}: {to_text(value)}")


# text --------------------------------------------------------------------------------------------


def to_text(value: object) -> str:
    """A value as escaped text."""
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


def _human(name: str, value: object) -> str:
    is_size = name.endswith("bytes") and isinstance(value, int | float) and not isinstance(value, bool)
    return bytes_text(float(str(value))) if is_size else to_text(value)


def _draw(columns: Sequence[Column], rows: Sequence[Sequence[object]]) -> None:
    if not rows:
        return
    texts = [[_human(column.name, value) for column, value in zip(columns, row, strict=True)] for row in rows]
    figures = frozenset(
        number for number in range(len(columns)) if all(isinstance(row[number], int | float) for row in rows)
    )
    head, body = tables.lines(columns, texts, shutil.get_terminal_size().columns, figures)
    for line in head:
        _write(sys.stdout, _bold(line))
    for line in body:
        _write(sys.stdout, line)


def _bold(line: str) -> str:
    return line if "NO_COLOR" in os.environ else click.style(line, bold=True)


def _json(value: object, stream: TextIO) -> str:
    text = escape(orjson.dumps(_clean(value), default=_plain, option=orjson.OPT_NON_STR_KEYS).decode())
    if (stream.encoding or "").lower().replace("-", "") == "utf8":
        return text
    # In other encodings write ASCII only, which every JSON reader accepts.
    return re.sub(r"[^\x00-\x7f]", lambda match: _escaped(match[0]), text)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[place]:02x}{units[place + 1]:02x}" for place in range(0, len(units), 2))


def _clean(value: object) -> object:
    """Replaces lone surrogates, which file names and arguments that are not UTF-8 contain and JSON cannot hold."""
    if isinstance(value, str):
        return value if value.isascii() else re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", value)
    if isinstance(value, Mapping):
        return {_clean(key): _clean(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(inner) for inner in value]
    return value


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return _clean(str(value))


def _write(stream: TextIO, text: str) -> None:
    """Writes text and ends its line, escaping what the stream's encoding lacks. Raises ReaderGone."""
    encoding = stream.encoding or "utf-8"
    try:
        click.echo(text.encode(encoding, "backslashreplace").decode(encoding), file=stream)
    except BrokenPipeError as error:
        raise ReaderGone from error
