"""`filmroom import`: store files, folders, archives and DICOMDIR media, with or without a running server."""

from __future__ import annotations

import click

from engine.cli import backend, exit_codes, options, output
from engine.cli.options import Settings, existing_paths, with_settings


@options.command("import")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("-j", "--jobs", type=click.IntRange(1, 64), metavar="N", help="Files read in parallel.  [cores]")
@click.option("--follow", is_flag=True, help="Follow symbolic links in folders.")
@with_settings()
def command(paths: tuple[str, ...], jobs: int | None, follow: bool, settings: Settings) -> int:
    """Store files, folders, zip and tar archives, and DICOMDIR media.

    Nothing is stored twice, so run an interrupted import again. Every refused file is listed with the reason. Exit
    code 0: every DICOM file is in the archive. Exit code 1: a DICOM file could not be stored, or a PATH contained no
    instance. Files that are not DICOM are listed but do not change the exit code. A DICOMDIR counts as a directory.
    """
    config = settings.load()
    with output.progress_bar() as progress:
        summary, is_done = backend.import_paths(config, existing_paths(paths), jobs, progress, follow=follow)
    facts = {
        "stored": summary.stored,
        "already_there": summary.duplicates,
        "versions": summary.kept_aside,
        "replaced": summary.replaced,
        "directories": summary.directories,
        "bytes": summary.bytes,
        "seconds": round(summary.seconds, 3),
    }
    refused = [{"path": str(path), "reason": reason} for path, reason in summary.refused]
    for path in summary.empty_paths:
        output.complain(f"{path}: contains no instance")
    output.write_report(facts, refused=refused)
    if not is_done:
        raise output.Interrupted("run it again for the rest")
    return exit_codes.FAILED if backend.import_failed(summary) else exit_codes.OK
