"""`filmroom find`: query the archive, with or without a running server."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import click

from engine.cli import backend, options, output, query
from engine.cli.options import Settings, with_settings
from engine.dicom import plain_values, tags

if TYPE_CHECKING:
    from engine.dicom.schema import Schema

SHOWN_MAX = 200
"""Matches that a terminal shows without --all."""

COUNTED_S = 1.0
"""How long further matches are counted."""

NAME_WIDTH_MIN = 24
"""The narrowest column for a person's name, in cells."""

HEADS = {
    "ModalitiesInStudy": "Modalities",
    "NumberOfPatientRelatedStudies": "studies",
    "NumberOfPatientRelatedSeries": "series",
    "NumberOfPatientRelatedInstances": "instances",
    "NumberOfStudyRelatedSeries": "series",
    "NumberOfStudyRelatedInstances": "instances",
    "NumberOfSeriesRelatedInstances": "instances",
}
"""Column titles on a terminal where the keyword is much wider than its values."""


def _offset(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """An offset from UTC as DICOM has it: +0130, -0800."""
    if value is not None and not re.fullmatch(r"[+-](0\d|1[0-4])[0-5]\d", value):
        raise click.BadParameter(f"{value!r} is no offset from UTC; write +0130 or -0800")
    return value


@options.command("find")
@click.argument("keys", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("-k", "--key", "more_keys", metavar="KEY[=VALUE]", multiple=True, help="The same, as in findscu.")
@click.option("-r", "--return", "returned", metavar="KEY", multiple=True, help="Show this attribute.")
@click.option("-l", "--level", type=click.Choice(query.LEVELS), help="Level of the matches.  [study]")
@click.option("-n", "--limit", type=click.IntRange(min=1), metavar="N", help="Stop after N matches.")
@click.option("--all", "everything", is_flag=True, help=f"Show more than {SHOWN_MAX} matches on a terminal.")
@click.option("--offset", type=click.IntRange(min=0), default=0, metavar="N", help="Skip the first N matches.")
@click.option("--fuzzy", is_flag=True, help="Names match by sound, whatever the order of their words.")
@click.option("--date-time", is_flag=True, help="Match a date and its time as one range.")
@click.option("--timezone", callback=_offset, metavar="OFFSET", help="Time zone of dates and times, such as +0100.")
@click.option("--explain", is_flag=True, help="Explain on standard error how the query ran.")
@with_settings()
def command(
    keys: tuple[str, ...],
    more_keys: tuple[str, ...],
    returned: tuple[str, ...],
    level: str | None,
    limit: int | None,
    everything: bool,
    offset: int,
    fuzzy: bool,
    date_time: bool,
    timezone: str | None,
    explain: bool,
    settings: Settings,
) -> None:
    """Query the archive.

    KEY is a keyword (PatientName) or a tag (0010,0010); SEQUENCE.KEY is an attribute within a sequence. VALUE matches
    as in PS3.4 C.2.2.2: exactly, with * and ?, as a range (20260101-20261231), as a list (1.2\\1.3), or with \'""\' for
    an empty value. You may combine keys of all levels. A KEY without VALUE is only shown.

    A terminal shows the first 200 matches and their total; a pipe and --json get all matches.

    \b
      filmroom find PatientName=\'DOE*\' StudyDate=20260101-
      filmroom find -l series StudyInstanceUID=1.2.3 -r SeriesDescription --json
      filmroom find -l series RequestAttributesSequence.RequestedProcedureID=R7 --explain
    """
    request = query.parse([*keys, *more_keys], returned, level)
    options_on = {name for name, is_on in (("fuzzy", fuzzy), ("date_time", date_time), ("timezone", timezone)) if is_on}
    if timezone is not None:
        zone = query.tag_of("TimezoneOffsetFromUTC")
        request = replace(request, values={**request.values, zone: timezone})
    request = replace(request, options=frozenset(options_on))
    config = settings.load()
    schema = backend.schema(config)
    facts: dict[str, object] = {}
    if explain:
        matches, facts = backend.explain(config, request, limit, offset)
        found = iter(matches)
    else:
        found = backend.find(config, request, limit, offset)
    is_cut = output.on_terminal() and not (output.as_json() or limit or everything)
    shown = _rows(request, schema, islice(found, SHOWN_MAX) if is_cut else found)
    count = output.write_list(shown, [_column(tag, schema) for tag in request.columns], shown=_text)
    if is_cut and count == SHOWN_MAX:
        _tell_more(found, offset)
    elif output.on_terminal() and not output.as_json():
        output.complain(f"matches: {count}")
    if explain:
        output.write_aside(facts)
    for tag in backend.not_kept(request, schema):
        output.complain(f"{tags.keyword_of(tag)} is not indexed: no match shows its value")
    if backend.is_reindexing(config, request):
        output.complain("re-indexing is under way: these keys may not find all older instances yet")


def _rows(request: query.Keys, schema: Schema, found: Iterable[Mapping[int, bytes]]) -> Iterator[dict[str, object]]:
    vr_of = schema.vr_of
    for match in found:
        yield {tags.keyword_of(tag): plain_values.value_of(tag, match.get(tag, b""), vr_of) for tag in request.columns}


def _text(row: Mapping[str, object]) -> Mapping[str, object]:
    """Values as DICOM writes them, with backslashes between several."""
    return {name: value if isinstance(value, int) else plain_values.as_text(value) for name, value in row.items()}


def _column(tag: int, schema: Schema) -> output.Column:
    name, vr = tags.keyword_of(tag), schema.vr_of(tag)
    form = query.form_of(tag, vr)
    return output.Column(name, HEADS.get(name, name), form, NAME_WIDTH_MIN if vr == "PN" else 0)


def _tell_more(found: Iterator[object], offset: int) -> None:
    """Reports how many more matches there are; stops counting after COUNTED_S."""
    more, until = 0, time.monotonic() + COUNTED_S
    for _ in found:
        more += 1
        if time.monotonic() > until:
            break
    else:
        if not more:
            output.complain(f"matches: {SHOWN_MAX}")
            return
        until = math.inf
    total = f"{SHOWN_MAX + more}" if until == math.inf else f"more than {SHOWN_MAX + more}"
    following = f"--limit {SHOWN_MAX} --offset {offset + SHOWN_MAX}"
    output.complain(f"the first {SHOWN_MAX} of {total} matches: narrow the query, or use --all, or {following}")
