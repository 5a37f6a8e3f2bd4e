"""`filmroom security-report`: the papers that a security review asks for, made from what runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import click

from engine.cli import backend, exit_codes, options, output
from engine.cli.options import Settings, with_settings
from engine.cli.output import whole, wrapped

COLUMNS = (whole("file"), wrapped("title"), wrapped("contents"))


@options.command("security-report")
@click.option(
    "--output",
    "directory",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("security-report"),
    show_default=True,
    help="Folder for the files; files of an earlier report are replaced.",
)
@click.option(
    "--format", "form", type=click.Choice(["md", "json"]), default="md", show_default=True, help="Of the documents."
)
@with_settings("aet", "host", "dicom_port")
def command(directory: Path, form: Literal["md", "json"], settings: Settings) -> int:
    """Write the papers that a security review asks for, from this configuration, this archive and what is installed.

    The papers: evidence for the HIPAA Security Rule, answers to MDS2, the DICOM conformance statement, the
    cryptographic inventory, and a software bill of materials (CycloneDX). A requirement that is not met is called so.
    """
    rows = backend.security_report(settings.load(), directory, form)
    output.write_list(rows, COLUMNS, _shown)
    return exit_codes.OK


def _shown(row: Mapping[str, Any]) -> Mapping[str, object]:
    return {**row, "contents": ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in row["counts"].items())}
