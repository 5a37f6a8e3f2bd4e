"""`filmroom echo PEER`: C-ECHO to a peer."""

from __future__ import annotations

import time

import click

from engine import config as configuration
from engine.cli import backend, output
from engine.cli.options import Settings, json_option, with_settings


@click.command("echo")
@click.argument("peer")
@with_settings("aet")
@json_option
def command(peer: str, settings: Settings, as_json: bool) -> None:
    """Verify the connection to PEER: the AE title of a [[peer]], or AET@HOST:PORT."""
    config = settings.load()
    target = configuration.parse_peer(config, peer)
    began = time.monotonic()
    backend.echo(target, config)
    took_ms = (time.monotonic() - began) * 1000
    if as_json:
        output.write_json({"peer": target.aet, "host": target.host, "port": target.port, "took_ms": round(took_ms, 3)})
    else:
        click.echo(f"{target.aet} at {target.host}:{target.port} answered in {took_ms:.1f} ms")
