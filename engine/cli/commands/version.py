"""`filmroom version`: the version and what it runs on."""

from __future__ import annotations

import platform

import click

from engine import __version__
from engine.cli import options, output
from engine.cli.options import json_option


@options.command("version")
@json_option
def command(as_json: bool) -> None:
    """Show the version."""
    if as_json:
        output.write_json(
            {"filmroom": __version__, "python": platform.python_version(), "machine": platform.platform()}
        )
    else:
        click.echo(f"filmroom {__version__}")
