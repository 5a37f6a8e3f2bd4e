"""`filmroom serve`: runs the server until SIGTERM."""

from __future__ import annotations

from engine.cli import backend, options
from engine.cli.options import Settings, with_settings


@options.command("serve")
@with_settings(
    "data",
    "aet",
    "host",
    "dicom_port",
    "http.port",
    "workers",
    "durability",
    "log.format",
    "log.level",
    "log.wire_trace",
)
def command(settings: Settings) -> int:
    """Serve DICOM from an archive; create it if it does not exist.

    The server prints one line when it is ready. SIGTERM and Ctrl-C drain it: it accepts no new associations and lets
    running ones finish within limits.drain_timeout_s. SIGHUP reloads peers and limits. Every option is also a key of
    the configuration file and an environment variable. Options override the environment; it overrides the file.
    """
    return backend.serve(settings)
