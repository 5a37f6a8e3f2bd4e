"""`filmroom export`: write instances to a folder, a zip archive or DICOMDIR media."""

from __future__ import annotations

from pathlib import Path

import click

from engine.cli import backend, exit_codes, options, output, query
from engine.cli.options import Settings, with_settings


@options.command("export")
@click.argument("target", metavar="TARGET", type=click.Path())
@click.argument("keys", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--study", "studies", metavar="UID", multiple=True, help="Study Instance UID.")
@click.option("--series", metavar="UID", multiple=True, help="Series Instance UID.")
@click.option(
    "--form", type=click.Choice(["folder", "zip", "dicomdir"]), help="[zip for a TARGET in .zip, else folder]"
)
@click.option("--force", is_flag=True, help="Replace an existing zip archive or existing files.")
@with_settings()
def command(
    target: str,
    keys: tuple[str, ...],
    studies: tuple[str, ...],
    series: tuple[str, ...],
    form: str | None,
    force: bool,
    settings: Settings,
) -> int:
    """Write the named studies or series, or those that match KEY=VALUE as in find, to TARGET.

    Data sets are written as they were received, after Part 10 file meta information. Named UIDs that are not stored
    are reported; the rest is written. In an existing folder, files with the same bytes are kept; others are replaced
    only with --force. Exit code 1: something could not be read or written, or is not stored.
    """
    queries = query.named(keys, studies, series)
    if not queries:
        raise click.UsageError("say what to export: --study UID, --series UID or KEY=VALUE")
    missing: list[str] = []
    form = form or ("zip" if target.lower().endswith(".zip") else "folder")
    config = settings.load()
    with output.progress_bar() as progress:
        summary, is_done = backend.export(config, queries, Path(target), form, progress, missing, force)
    for named in missing:
        output.complain(f"no {named} is stored")
    if summary is None:
        if not missing:
            output.complain("nothing matches")
        return exit_codes.FAILED
    facts = {
        "written": summary.written,
        "already_there": summary.already_there,
        "bytes": summary.bytes,
        "seconds": round(summary.seconds, 3),
    }
    failed = [{"sop_instance_uid": uid, "reason": reason} for uid, reason in summary.failed]
    output.write_report(facts, failed=failed)
    if not is_done:
        raise output.Interrupted("run it again for the rest")
    return exit_codes.FAILED if summary.failed or missing else exit_codes.OK
