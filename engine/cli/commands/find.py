"""`filmroom find`: a query of the archive, the server running or not."""

from __future__ import annotations

import re
from dataclasses import replace

import click

from engine.cli import backend, output, query
from engine.cli.options import Settings, json_option, with_settings


def _offset(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """An offset from UTC as DICOM has it: +0130, -0800."""
    if value is not None and not re.fullmatch(r"[+-](0\d|1[0-4])[0-5]\d", value):
        raise click.BadParameter(f"{value!r} is no offset from UTC; write +0130 or -0800")
    return value


@click.command("find")
@click.argument("keys", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("-k", "--key", "more_keys", metavar="KEY[=VALUE]", multiple=True, help="The same, as findscu has it.")
@click.option("-r", "--return", "returned", metavar="KEY", multiple=True, help="Show this attribute.")
@click.option("-l", "--level", type=click.Choice(query.LEVELS), help="What is looked for.  [study]")
@click.option("-n", "--limit", type=click.IntRange(min=1), metavar="N", help="Stop after so many matches.")
@click.option("--offset", type=click.IntRange(min=0), default=0, metavar="N", help="Leave out so many matches first.")
@click.option("--fuzzy", is_flag=True, help="Names match by sound, whatever the order of their words.")
@click.option("--date-time", is_flag=True, help="A date and its time are one range.")
@click.option("--timezone", callback=_offset, metavar="OFFSET", help="Dates and times are in this zone, as +0100.")
@click.option("--explain", is_flag=True, help="Say on standard error how the matches were found.")
@with_settings("data")
@json_option
def command(
    keys: tuple[str, ...],
    more_keys: tuple[str, ...],
    returned: tuple[str, ...],
    level: str | None,
    limit: int | None,
    offset: int,
    fuzzy: bool,
    date_time: bool,
    timezone: str | None,
    explain: bool,
    settings: Settings,
    as_json: bool,
) -> None:
    """Query the archive.

    KEY is a keyword (PatientName) or a tag (0010,0010); SEQUENCE.KEY is one within a sequence. VALUE matches as PS3.4
    C.2.2.2 says: exactly, with * and ?, as a range (20260101-20261231), as a list (1.2\\1.3), or with \'""\' where
    there is no value. Keys of all levels may be combined. A KEY alone is returned.

    \b
      filmroom find PatientName=\'DOE*\' StudyDate=20260101-
      filmroom find -l series StudyInstanceUID=1.2.3 -r SeriesDescription --json
      filmroom find -l series RequestAttributesSequence.RequestedProcedureID=R7 --explain
    """
    wanted = query.parse([*keys, *more_keys], returned, level)
    options = {name for name, is_on in (("fuzzy", fuzzy), ("date_time", date_time), ("timezone", timezone)) if is_on}
    if timezone is not None:
        zone = query.tag_of("TimezoneOffsetFromUTC")
        wanted = replace(wanted, values={**wanted.values, zone: timezone})
    wanted = replace(wanted, options=frozenset(options))
    config = settings.load()
    facts: dict[str, object] = {}
    if explain:
        matches, facts = backend.explain(config, wanted, limit, offset)
        found = iter(matches)
    else:
        found = backend.find(config, wanted, limit, offset)
    if as_json:
        for match in found:
            output.write_json({query.name_of(tag): query.value_of(tag, match.get(tag, b"")) for tag in wanted.columns})
    else:
        rows = [[query.text_of(tag, match.get(tag, b"")) for tag in wanted.columns] for match in found]
        output.write_table([query.name_of(tag) for tag in wanted.columns], rows)
        if output.on_terminal():
            output.complain(f"matches: {len(rows)}")
    if explain:
        output.write_aside(facts, as_json=as_json)
    if backend.is_reindexing(config, wanted):
        output.complain("re-indexing is under way: what was stored before may not be found by all of these keys yet")
