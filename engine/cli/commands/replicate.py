"""`filmroom replicate`: ship the log to a replica as it grows; both ends, and their status."""

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
@click.option("--listen", metavar="HOST:PORT", help="Receive a replication into --data.")
@click.option("--secret", metavar="FILE", type=click.Path(dir_okay=False), help="File with the shared secret.")
@click.option("--interval", type=click.FloatRange(0.05, 10), default=1.0, metavar="SECONDS", show_default=True)
@click.option("--once", is_flag=True, help="Ship what is there now, then exit.")
@click.option("--new", "anew", is_flag=True, help="Start a new replica in place of an earlier one.")
@click.option("--status", is_flag=True, help="Show the status of the replications.")
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

    Runs until SIGTERM or Ctrl-C, with or without a server. After an outage it catches up. find, export, stats, check
    and serve can read the replica at any time; `promote` turns it into an archive. A replica follows deletions and
    compactions, so it is not a backup.

    --status shows how far behind each replica is. Exit code 1: a replication is behind and not running, waits for its
    destination, or cannot read something.

    tcp is not encrypted; the two ends only prove that they know the secret. Use a private network or a tunnel.
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
        raise click.UsageError("give DEST, --listen HOST:PORT or --status")
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
    """Writes a line when the state changes."""
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
        raise ReplicationFailed("there is no replication here and never was")
    output.write_list(rows, COLUMNS)
