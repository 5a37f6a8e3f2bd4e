"""The command line: `filmroom COMMAND`. One file a command in `commands`; nothing is decided here but what runs.

A command's module is imported when that command is asked for, so that `filmroom version` need not load the engine.
A command returns its exit code (`exit_codes`); errors of the engine and of the system become a sentence.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from engine.cli import exit_codes, output
from engine.errors import EngineError

COMMANDS = {
    "serve": "Serve DICOM from an archive.",
    "import": "Store files, folders, zip archives and DICOMDIR media.",
    "export": "Write instances to a folder, a zip archive or DICOMDIR media.",
    "find": "Query the archive, with keywords as on findscu.",
    "delete": "Delete studies, series or instances.",
    "hold": "Keep studies from being deleted: legal holds.",
    "patient": "Say which studies are one patient's: merge, split.",
    "study": "Say whose a study is: move.",
    "correct": "Set attributes of a patient, a study or a series.",
    "corrections": "List what was merged, moved, corrected and undone.",
    "undo": "Take back a merge, a move or a correction.",
    "conflicts": "List studies whose instances disagree.",
    "retention": "Delete old studies by rules; dry run first.",
    "compact": "Rewrite segments to win back what was deleted.",
    "stats": "Show what the archive holds and what the server does.",
    "echo": "Verify the connection to a peer (C-ECHO).",
    "send": "Send files to a peer (C-STORE).",
    "check": "Compare the log with the index, both ways.",
    "rebuild-index": "Make the index anew from the log.",
    "reindex": "Look through everything for the extra attributes configured.",
    "backup": "Bring a backup up to now, the server running or not.",
    "verify-backup": "Read a backup again and compare every byte.",
    "restore": "Make an archive from a backup.",
    "replicate": "Keep a replica up to date; --listen on its side.",
    "promote": "Make a replica an archive of its own.",
    "scrub": "Verify all stored bytes; say what is damaged.",
    "quarantine": "Look at what stands apart; export it, take it in, drop it.",
    "commitments": "List storage commitment reports that wait; retry or drop them.",
    "doctor": "Examine disk, machine, archive and peers, and say what to do.",
    "config": "Look at the configuration.",
    "reload": "Have the running server read peers and limits again.",
    "version": "Show the version.",
}
"""Name → one line of help: the modules themselves are loaded only to run."""


class _LazyGroup(click.Group):
    """A group whose commands are modules of `engine.cli.commands`, imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        module = importlib.import_module(f"engine.cli.commands.{'import_' if name == 'import' else name}")
        command = module.command
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
def group() -> None:
    """Filmroom, a PACS storage engine: stores, finds and sends DICOM instances."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    try:
        code = group.main(arguments, prog_name="filmroom", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        click.echo("interrupted", err=True)
        return exit_codes.INTERRUPTED
    except EngineError as error:
        output.complain(f"filmroom: {error}")
        return exit_codes.of(error)
    except OSError as error:
        # A file or folder that the commands reach for themselves: no permission, a read-only or a full disk.
        where = f"{error.filename}: " if error.filename else ""
        output.complain(f"filmroom: {where}{error.strerror or error}")
        return exit_codes.UNAVAILABLE
    return code if isinstance(code, int) else exit_codes.OK


def main() -> NoReturn:
    """The console script."""
    sys.exit(run())
