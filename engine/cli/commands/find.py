"""`filmroom find`: a query of the archive, the server running or not."""

from __future__ import annotations

import click

from engine.cli import backend, output, query
from engine.cli.options import Settings, json_option, with_settings


@click.command("find")
@click.argument("keys", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("-k", "--key", "more_keys", metavar="KEY[=VALUE]", multiple=True, help="The same, as findscu has it.")
@click.option("-r", "--return", "returned", metavar="KEY", multiple=True, help="Show this attribute.")
@click.option("-l", "--level", type=click.Choice(query.LEVELS), help="What is looked for.  [study]")
@click.option("-n", "--limit", type=click.IntRange(min=1), metavar="N", help="Stop after so many matches.")
@with_settings("data")
@json_option
def command(
    keys: tuple[str, ...],
    more_keys: tuple[str, ...],
    returned: tuple[str, ...],
    level: str | None,
    limit: int | None,
    settings: Settings,
    as_json: bool,
) -> None:
    """Query the archive.

    KEY is a keyword (PatientName) or a tag (0010,0010). VALUE matches as PS3.4 C.2.2.2 says: exactly, with * and ?,
    as a range (20260101-20261231), or as a list of UIDs (1.2\\1.3). A KEY alone is returned.

    \b
      filmroom find PatientName='DOE*' StudyDate=20260101-
      filmroom find -l series StudyInstanceUID=1.2.3 -r SeriesDescription --json
    """
    wanted = query.parse([*keys, *more_keys], returned, level)
    matches = backend.find(settings.load(), wanted, limit)
    if as_json:
        for match in matches:
            output.write_json({query.name_of(tag): query.value_of(tag, match.get(tag, b"")) for tag in wanted.columns})
        return
    rows = [[query.text_of(tag, match.get(tag, b"")) for tag in wanted.columns] for match in matches]
    output.write_table([query.name_of(tag) for tag in wanted.columns], rows)
    if output.on_terminal():
        output.complain(f"matches: {len(rows)}")
