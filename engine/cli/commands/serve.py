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
    """Serve DICOM from an archive, which is made when it is not there.

    One line says when the server is ready. SIGTERM and Ctrl-C drain: no new associations, running ones may finish
    within limits.drain_timeout_s. SIGHUP reads peers and limits again. Every option is also a key of the
    configuration file and an environment variable; options win over the environment, that over the file.
    """
    return backend.serve(settings)
