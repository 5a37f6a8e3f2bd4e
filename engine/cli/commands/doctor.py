"""`filmroom doctor`: disk, machine, archive and peers; what is wrong and what to do."""

from __future__ import annotations

import click

from engine.cli import backend, exit_codes, output
from engine.cli.options import Settings, json_option, with_settings


@click.command("doctor")
@click.option("--quick", is_flag=True, help="Do not measure the disk (writes and reads 256 MB otherwise).")
@with_settings("data", "aet", "host", "dicom_port", "workers")
@json_option
def command(quick: bool, settings: Settings, as_json: bool) -> int:
    """Examine everything a server needs and say what to do. Exit code 1: there is a fault."""
    config = settings.load()
    with output.progress_bar() as progress:
        findings = backend.examine(config, measure=not quick, progress=progress)
    if as_json:
        for finding in findings:
            output.write_json(finding)
    else:
        rows = [[each["subject"], each["verdict"], each["what"], each["advice"]] for each in findings]
        output.write_table(["subject", "verdict", "what", "what to do"], rows)
    return exit_codes.FAILED if any(each["verdict"] == "fault" for each in findings) else exit_codes.OK
