"""`filmroom send PEER PATH...`: C-STORE of files to a peer."""

from __future__ import annotations

import click

from engine import config as configuration
from engine.cli import backend, exit_codes, output
from engine.cli.options import Settings, existing_paths, json_option, with_settings


@click.command("send")
@click.argument("peer")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@with_settings("aet")
@json_option
def command(peer: str, paths: tuple[str, ...], settings: Settings, as_json: bool) -> int:
    """Send files, and the files in folders, to PEER: the AE title of a [[peer]], or AET@HOST:PORT."""
    config = settings.load()
    target = configuration.parse_peer(config, peer)
    with output.progress_bar() as progress:
        summary = backend.send(target, config, existing_paths(paths), progress)
    if as_json:
        output.write_json(summary)
    else:
        for path, reason in summary.failed:
            output.complain(f"{path}: {reason}")
        click.echo(f"sent {summary.sent} instances to {target.aet}, {len(summary.failed)} failed")
    return exit_codes.FAILED if summary.failed else exit_codes.OK
