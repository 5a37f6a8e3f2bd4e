"""`filmroom stats`: show what the archive holds and what a running server does, once or repeatedly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from engine.cli import backend, live, options, output, summary
from engine.cli.options import Settings, with_settings
from engine.errors import ControlUnavailable
from engine.totals import totals


@options.command("stats")
@click.option("-w", "--watch", is_flag=True, help="Repeat every --interval until Ctrl-C.")
@click.option("--interval", type=click.FloatRange(0.1, 3600), default=1.0, metavar="SECONDS", show_default=True)
@click.option("-n", "--count", type=click.IntRange(min=1), metavar="N", help="With --watch: stop after N times.")
@click.option("-a", "--all", "everything", is_flag=True, help="Show all counters, not a summary.")
@click.option("--prometheus", "as_prometheus", is_flag=True, help="Write the text format of Prometheus.")
@with_settings()
def command(
    watch: bool, interval: float, count: int | None, everything: bool, as_prometheus: bool, settings: Settings
) -> None:
    """Show what the archive holds and, if a server runs, its instances/s, MB/s, associations, queue and latencies.

    A terminal shows a summary; --all, a pipe and --json show everything. In a pipe or with --json, --watch writes one
    line of JSON per interval.
    """
    config = settings.load()
    if watch:
        live.watch(lambda: backend.control(config, "stats"), interval, count)
        return
    server: Mapping[str, Any] | None
    try:
        server = backend.control(config, "stats")
        held = backend.in_words(server["archive"])
    except ControlUnavailable:
        server = None
        held = backend.archive_stats(config)
    if as_prometheus:
        from engine import prometheus

        click.echo(prometheus.text_of(held, server), nl=False)
        return
    if output.as_json():
        output.write_json({"archive": held, "server": live.as_data(server) if server else None})
    elif everything or not output.on_terminal():
        output.write_facts(held, title="archive")
        if server:
            live.show_once(server)
    else:
        output.write_facts(summary.of_archive(held), title="archive")
        if server:
            output.write_facts(summary.of_server(server), title="server")
            live.show_peers(totals(server), summary.PEERS_SHOWN)
    if server is None and not output.as_json():
        output.complain("no server is running")
