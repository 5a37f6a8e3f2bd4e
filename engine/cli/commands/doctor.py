"""`filmroom doctor`: examine disk, machine, archive and peers."""

from __future__ import annotations

import click

from engine.cli import backend, exit_codes, options, output
from engine.cli.options import Settings, with_settings
from engine.cli.output import whole, wrapped

COLUMNS = (whole("subject"), whole("verdict"), wrapped("what"), wrapped("advice", "what to do"))


@options.command("doctor")
@click.option("--quick", is_flag=True, help="Do not measure the disk (this writes and reads 256 MB).")
@click.option("--security", "only_security", is_flag=True, help="Examine only certificates, ports, peers and networks.")
@with_settings("aet", "host", "dicom_port", "workers")
def command(quick: bool, only_security: bool, settings: Settings) -> int:
    """Examine everything a server needs and give advice. Exit code 1: there is a fault."""
    config = settings.load()
    with output.progress_bar() as progress:
        findings = backend.examine(config, measure=not quick, only_security=only_security, progress=progress)
    output.write_list(findings, COLUMNS)
    return exit_codes.FAILED if any(finding["verdict"] == "fault" for finding in findings) else exit_codes.OK
