"""`filmroom replicate`: the log shipped to a replica as it grows; both ends, and how far it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from engine.cli import copies, exit_codes, options, output
from engine.cli.options import Settings, rate_option, with_settings
from engine.cli.output import whole, wrapped
from engine.errors import ReplicationFailed

COLUMNS = (
    whole("destination"),
    whole("state"),
    whole("running"),
    whole("lag_bytes", "behind"),
    whole("lag_s", "behind s"),
    whole("segments"),
    wrapped("error"),
)


@options.command("replicate")
@click.argument("dest", metavar="[DEST]", required=False)
@click.option("--listen", metavar="HOST:PORT", help="Be the other end: take a replication into --data.")
@click.option("--secret", metavar="FILE", type=click.Path(dir_okay=False), help="Shared with the other end.")
@click.option("--interval", type=click.FloatRange(0.05, 10), default=1.0, metavar="SECONDS", show_default=True)
@click.option("--once", is_flag=True, help="Ship what there is now and end.")
@click.option("--new", "anew", is_flag=True, help="Begin a new replica where there was one before.")
@click.option("--status", is_flag=True, help="Show how far the replications are, and end.")
@rate_option
@with_settings()
def command(
    dest: str | None,
    listen: str | None,
    secret: str | None,
    interval: float,
    once: bool,
    anew: bool,
    status: bool,
    rate: int,
    settings: Settings,
) -> int:
    """Keep a replica of the archive in DEST: a folder, or tcp://HOST:PORT where `replicate --listen` runs.

    Runs until SIGTERM or Ctrl-C, beside a server or not. After an outage it catches up. The replica can be read by
    find, export, stats, check and serve all the time; `promote` makes it an archive. It follows deletions and
    compactions, so it is no backup.

    --status says how far behind each one is now, running or not; exit code 1: one is behind and does not run, waits for
    its destination, or cannot read something.

    Over tcp nothing is encrypted; the ends prove to each other that they know the secret, no more. Use a private
    network or a tunnel.
    """
    config = settings.load()
    if status:
        rows = copies.replication_status(config, dest)
        _show_status(rows)
        return exit_codes.FAILED if any(map(copies.is_troubled, rows)) else exit_codes.OK
    secret_path = Path(secret) if secret is not None else None
    if listen is not None:
        if dest is not None or secret_path is None:
            raise click.UsageError("--listen takes --secret FILE and no DEST")
        host, _, port = listen.rpartition(":")
        if not port.isdecimal() or not host:
            raise click.UsageError(f"--listen {listen!r} is not HOST:PORT")
        copies.listen(config, host.strip("[]"), int(port), secret_path, output.complain)
        return exit_codes.OK
    if dest is None:
        raise click.UsageError("say where to: DEST, or --listen HOST:PORT, or --status")
    copies.replicate(
        config,
        dest,
        secret=secret_path,
        bytes_per_s=rate,
        interval_s=interval,
        once=once,
        anew=anew,
        show=output.write_json if output.as_json() else _show_changes(),
    )
    return exit_codes.OK


def _show_changes() -> Callable[[dict[str, Any]], None]:
    """For people: a line when the state changes."""
    last = ""

    def show(status: dict[str, Any]) -> None:
        nonlocal last
        state = f"{status['state']}: {status['error']}" if status["error"] else str(status["state"])
        if state != last:
            lag = output.bytes_text(status["lag_bytes"])
            output.complain(f"{status['destination']}: {state}, {lag} behind, {status['segments']} segments")
        last = state

    return show


def _show_status(rows: list[dict[str, Any]]) -> None:
    if not rows and not output.as_json():
        raise ReplicationFailed("nothing is replicated from here, or has been")
    output.write_list(rows, COLUMNS)
