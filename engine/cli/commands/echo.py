"""`filmroom echo PEER`: verify the connection to a peer."""

from __future__ import annotations

import click

from engine.access import Action
from engine.cli import backend, options, output
from engine.cli.options import Settings, with_settings


@options.command("echo")
@click.argument("peer")
@with_settings("aet")
def command(peer: str, settings: Settings) -> None:
    """Verify the connection to PEER: the AE title of a [[peer]], or AET@HOST:PORT.

    Shows how long the peer took to accept the association and to answer the C-ECHO; for a DICOMweb server, how long a
    search took.
    """
    config = settings.load()
    target = backend.addressed(config, peer, Action.ASSOCIATE)
    took = backend.echo(target, config)
    facts = {"peer": target.aet, "host": target.host, "port": target.port, **took}
    if output.as_json():
        output.write_one(facts)
        return
    if "echo_ms" not in took:
        output.write_line(
            output.to_text(f"{target.aet} at {target.url} answered a search in {took['search_ms']:.1f} ms")
        )
        return
    sentence = (
        f"{target.aet} at {target.host}:{target.port} answered in {took['echo_ms']:.1f} ms"
        f" (association accepted in {took['association_ms']:.1f} ms)"
    )
    output.write_line(output.to_text(sentence))
