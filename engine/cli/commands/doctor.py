"""`filmroom doctor`: examine disk, machine, archive and peers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from engine.cli import backend, exit_codes, options, output
from engine.cli.options import Settings, with_settings
from engine.cli.output import whole, wrapped

if TYPE_CHECKING:
    from engine.doctor.hardware import Hardware


def _targets(name: str) -> dict[str, Hardware]:
    """The shipped targets and the one of this name or path. Raises UsageError."""
    from perf.bench import targets
    from perf.harness import PerfError

    try:
        chosen = targets.read(name)
    except PerfError as error:
        raise click.UsageError(str(error)) from None
    return {each.name: each.hardware for each in [*targets.shipped().values(), chosen]}


COLUMNS = (whole("subject"), whole("verdict"), wrapped("what"), wrapped("advice", "what to do"))


@options.command("doctor")
@click.option("--quick", is_flag=True, help="Do not measure the disk (this writes and reads 256 MB).")
@click.option("--security", "only_security", is_flag=True, help="Examine only certificates, ports, peers and networks.")
@click.option("--target", metavar="NAME", help="Compare with this hardware target; `filmroom bench list` shows them.")
@with_settings("aet", "host", "dicom_port", "workers")
def command(quick: bool, only_security: bool, target: str | None, settings: Settings) -> int:
    """Examine everything a server needs and give advice. Exit code 1: there is a fault.

    With --target, also compare the machine with a hardware target, and say which targets it is good for.
    """
    if only_security and target:
        raise click.UsageError("--security examines no hardware: leave out --target")
    targets = _targets(target) if target else None
    config = settings.load()
    with output.progress_bar() as progress:
        findings = backend.examine(
            config,
            measure=not quick,
            only_security=only_security,
            progress=lambda subject, done, total: progress("examinations", done, total),
            target=target or "",
            targets=targets,
        )
    output.write_list(findings, COLUMNS)
    return exit_codes.FAILED if any(finding["verdict"] == "fault" for finding in findings) else exit_codes.OK
