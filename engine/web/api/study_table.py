"""/api/studies.csv: the studies that the filters of /api/studies match, as a table for a spreadsheet, streamed.

    columns=A,B     keywords of patient and study, and those of ARRIVAL_COLUMNS; default: DEFAULT_COLUMNS
    order, filters  as of /api/studies

UTF-8 with a byte order mark, commas, CRLF (RFC 4180). Dates are ISO 8601, names and other values DICOM text. A
spreadsheet would run a cell that begins with = + - @ as a formula: such a cell gets an apostrophe in front, and so does
one that begins with a tab or a line break. After ROWS_MAX rows the last line says that there are more.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from engine.access import Action
from engine.archive.admin import studies as facts_of_studies
from engine.archive.questions import Bookmark, Explanation, Level, Match, PlacedMatch, level_of, path_of
from engine.dicom import plain_values, tags
from engine.errors import QueryError, RequestError
from engine.web.api.studies import order_of, search_of
from engine.web.route import Parameter
from engine.web.window import SLICE_S

if TYPE_CHECKING:
    from engine.archive.view import View
    from engine.web.request import Request

CSV: Final = "text/csv"
ROWS_MAX: Final = 100_000
"""A spreadsheet takes a million; this many take some ten seconds and 20 MB."""
COLUMNS_MAX: Final = 64
ARRIVAL_COLUMNS: Final = ("Bytes", "Senders", "Institutions", "FirstReceived", "LastReceived")
DEFAULT_COLUMNS: Final = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ModalitiesInStudy",
    "StudyDescription", "AccessionNumber", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances",
    "StudyInstanceUID",
)  # fmt: skip

PARAMETERS: Final = (
    Parameter("columns", "Keywords of patient and study, separated by commas"),
    Parameter("order", "As of /api/studies"),
    Parameter("{attribute}", "A value that an attribute must have, as in QIDO-RS"),
)

_FORMULA: Final = re.compile(r"[\t\r\n]|\s*[=+\-@＝＋－＠]")
_DATE: Final = re.compile(r"(\d{4})(\d{2})(\d{2})", re.ASCII)


@dataclass(slots=True)
class _Table:
    """The table while it is made, for one thread at a time."""

    view: View
    steps: Iterator[PlacedMatch | Bookmark | None]
    columns: Sequence[str]
    tags: Sequence[int | None]
    """Of each column; None: of its arrival."""
    count: int = 0
    is_over: bool = False

    def slice(self) -> bytes:
        """The rows of SLICE_S of work."""
        start_s, text = perf_counter(), io.StringIO()
        writer = csv.writer(text)
        for step in self.steps:
            if isinstance(step, PlacedMatch):
                if self.count == ROWS_MAX:
                    writer.writerow([f"There are more than {ROWS_MAX} studies: narrow the search"])
                    self.is_over = True
                    break
                self.count += 1
                writer.writerow(self._cells(step.match))
            if perf_counter() - start_s >= SLICE_S:
                break
        else:
            self.is_over = True
        return text.getvalue().encode("utf-8", "replace")

    def _cells(self, match: Match) -> list[str]:
        has_arrival = None in self.tags
        uid = match.attributes[tags.StudyInstanceUID].decode("utf-8", "replace")
        arrival = facts_of_studies.summary(self.view, uid) if has_arrival else {}
        return [
            safe_cell(self._value(match, tag) if tag is not None else _arrival_value(arrival, column))
            for column, tag in zip(self.columns, self.tags, strict=True)
        ]

    def _value(self, match: Match, tag: int) -> str:
        vr_of = self.view.schema.vr_of
        text = plain_values.text_of(tag, match.attributes.get(tag, b""), vr_of)
        return _DATE.sub(r"\1-\2-\3", text) if vr_of(tag) == "DA" else text


async def table(request: Request) -> web.StreamResponse:
    """Sends the table. Raises RequestError, QueryError."""
    search_query = search_of(request, ("order", "columns"))
    order, search_query = order_of(request, search_query)
    columns, column_tags = _columns(request)
    keys = {tag: b"" for tag in column_tags if tag is not None}
    query = replace(search_query.query, keys={tags.StudyInstanceUID: b"", **keys, **search_query.query.keys})
    view, pools = request.view(Action.QUERY), request.engine.pools
    made = _Table(view, view.ordered_steps(query, order, None, Explanation()), columns, column_tags)
    # The first rows before the head of the answer: a search that is refused gets its status.
    rows = b"" if request.is_head else await pools.index.run(made.slice)
    response = web.StreamResponse(
        headers={
            "Content-Type": f"{CSV}; charset=utf-8",
            "Content-Disposition": 'attachment; filename="studies.csv"',
            "Cache-Control": "no-store",
        }
    )
    response.enable_chunked_encoding()
    await response.prepare(request)
    if not request.is_head:
        await response.write(b"\xef\xbb\xbf" + ",".join(columns).encode() + b"\r\n" + rows)
        while not made.is_over:
            if rows := await pools.index.run(made.slice):
                await response.write(rows)
    await response.write_eof()
    return response


def _columns(request: Request) -> tuple[list[str], list[int | None]]:
    """Names and tags. Raises RequestError."""
    text = request.query.get("columns")
    names = [name.strip() for name in text.split(",")] if text is not None else list(DEFAULT_COLUMNS)
    if not 0 < len(names) <= COLUMNS_MAX:
        raise RequestError(f"columns: at most {COLUMNS_MAX}")
    return names, [None if name in ARRIVAL_COLUMNS else _tag(request, name) for name in names]


def _tag(request: Request, name: str) -> int:
    schema = request.engine.archive.schema
    try:
        (tag,) = path_of(name, schema)
    except (QueryError, ValueError):
        raise RequestError(f"columns: {name[:64]!r} is not an attribute of patient or study") from None
    level = level_of(tag, schema)
    if level is None or level > Level.STUDY:
        raise RequestError(f"columns: {name[:64]!r} is not an attribute of patient or study")
    return tag


def _arrival_value(arrival: dict[str, Any], column: str) -> str:
    value = {
        "Bytes": arrival["bytes"],
        "Senders": arrival["senders"],
        "Institutions": arrival["institutions"],
        "FirstReceived": arrival["first_received"],
        "LastReceived": arrival["last_received"],
    }[column]
    return "\\".join(value) if isinstance(value, list) else "" if value is None else str(value)


def safe_cell(text: str) -> str:
    """The text as a cell that no spreadsheet takes for a formula."""
    return f"'{text}" if _FORMULA.match(text) else text
