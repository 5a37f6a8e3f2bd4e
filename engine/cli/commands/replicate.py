"""`filmroom replicate`: ship the log to a replica as it grows; both ends, and their status."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import msgspec

from engine.access.settings import CertificateName, certificate_name
from engine.cli import copies, exit_codes, options, output
from engine.cli.options import Settings, rate_option, with_settings
from engine.cli.output import whole, wrapped
from engine.errors import ReplicationFailed

_NO_SECRETS = (
    "tcp:// with --secret was not encrypted and is gone. Give both machines certificates (`filmroom cert authority`,"
    " `filmroom cert issue`) and a [tls] table, then use `replicate --listen HOST:PORT --peer-certificate san:SOURCE`"
    " there and `replicate tls://HOST:PORT` here. What the replica has stays: it goes on from there."
)

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
@click.option(
    "--peer-certificate",
    "peer_certificates",
    metavar="NAME",
    multiple=True,
    help="The other end's certificate: san:HOST, sha256:FINGERPRINT or cn:NAME. May be repeated.",
)
@click.option("--secret", metavar="FILE", hidden=True)
@click.option("--interval", type=click.FloatRange(0.05, 10), default=1.0, metavar="SECONDS", show_default=True)
@click.option("--once", is_flag=True, help="Ship what is there now, then exit.")
@click.option("--new", "anew", is_flag=True, help="Start a new replica in place of an earlier one.")
@click.option("--status", is_flag=True, help="Show the status of the replications.")
@rate_option
@with_settings()
def command(
    dest: str | None,
    listen: str | None,
    peer_certificates: tuple[str, ...],
    secret: str | None,
    interval: float,
    once: bool,
    anew: bool,
    status: bool,
    rate: int,
    settings: Settings,
) -> int:
    """Keep a replica of the archive in DEST: a folder, or tls://HOST:PORT where `replicate --listen` runs.

    Without DEST, where second_copy.replica says. Runs until SIGTERM or Ctrl-C, with or without a server. After an
    outage it catches up. find, export, stats, check and serve can read the replica at any time; `promote` turns it
    into an archive. A replica follows deletions and compactions, so it is not a backup.

    --status shows how far behind each replica is. Exit code 1: a replication is behind and not running, waits for its
    destination, or cannot read something.

    tls needs certificates, keys and trust in [tls] at both ends (`filmroom cert` makes them). The replica's certificate
    must have the name HOST, or be one of --peer-certificate. --listen needs --peer-certificate: the source's.
    """
    if secret is not None or (dest is not None and dest.startswith("tcp://")):
        raise click.UsageError(_NO_SECRETS)
    names = tuple(map(_certificate_name, peer_certificates))
    config = settings.load()
    if status:
        rows = copies.replication_status(config, dest)
        _show_status(rows)
        return exit_codes.FAILED if any(map(copies.is_troubled, rows)) else exit_codes.OK
    if listen is not None:
        if dest is not None or not names:
            raise click.UsageError("--listen takes --peer-certificate NAME, which says who may write, and no DEST")
        host, _, port = listen.rpartition(":")
        if not port.isdecimal() or not host:
            raise click.UsageError(f"--listen {listen!r} is not HOST:PORT")
        copies.listen(config, host.strip("[]"), int(port), names, output.complain)
        return exit_codes.OK
    dest = dest or config.second_copy.replica
    if not dest:
        raise click.UsageError("give DEST, --listen HOST:PORT or --status, or set second_copy.replica")
    copies.replicate(
        config,
        dest,
        peer_certificates=names,
        bytes_per_s=rate,
        interval_s=interval,
        once=once,
        anew=anew,
        show=output.write_json if output.as_json() else _show_changes(),
    )
    return exit_codes.OK


def _certificate_name(text: str) -> str:
    try:
        return certificate_name(msgspec.convert(text, CertificateName))
    except msgspec.ValidationError:
        what = "is not san:HOST, sha256:FINGERPRINT or cn:NAME"
        raise click.BadParameter(f"{text!r} {what}", param_hint="--peer-certificate") from None


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
