"""`filmroom send PEER PATH...`: C-STORE of files to a peer."""

from __future__ import annotations

import click

from engine import config as configuration
from engine.cli import backend, exit_codes, options, output
from engine.cli.options import Settings, existing_paths, with_settings


@options.command("send")
@click.argument("peer")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@with_settings("aet")
def command(peer: str, paths: tuple[str, ...], settings: Settings) -> int:
    """Send files, and the files in folders, to PEER: the AE title of a [[peer]], or AET@HOST:PORT."""
    config = settings.load()
    target = configuration.parse_peer(config, peer)
    with output.progress_bar() as progress:
        summary = backend.send(target, config, existing_paths(paths), progress)
    failed = [{"path": str(path), "reason": reason} for path, reason in summary.failed]
    if output.as_json():
        output.write_one({"peer": target.aet, "sent": summary.sent, "failed": failed})
    else:
        for row in failed:
            output.complain(f"{row['path']}: {row['reason']}")
        output.write_line(f"sent {summary.sent} instances to {target.aet}, {len(failed)} failed")
    return exit_codes.FAILED if summary.failed else exit_codes.OK
