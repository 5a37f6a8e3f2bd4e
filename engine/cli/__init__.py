"""The command line: `filmroom COMMAND`. One file a command in `commands`; nothing is decided here but what runs.

A command's module is imported when that command is asked for, so that `filmroom version` need not load the engine.
A command returns its exit code (`exit_codes`); errors of the engine and of the system become a sentence.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from engine import __version__
from engine.cli import exit_codes, options, output
from engine.errors import EngineError

COMMANDS = {
    "serve": "Serve DICOM from an archive.",
    "import": "Store files, folders, zip and tar archives, and DICOMDIR media.",
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
    "changes": "Show what happened, event by event.",
    "stats": "Show what the archive holds and what the server does.",
    "echo": "Verify the connection to a peer (C-ECHO).",
    "send": "Send files, or what is stored, to a peer (C-STORE).",
    "pull": "Bring studies from another archive (C-FIND, C-GET or C-MOVE).",
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
    "webhooks": "List where the change feed is delivered to; resume one.",
    "doctor": "Examine disk, machine, archive and peers, and say what to do.",
    "config": "Look at the configuration.",
    "reload": "Have the running server read peers and limits again.",
    "version": "Show the version.",
    "help": "Show the help of a command.",
}
"""Name → one line of help: the modules themselves are loaded only to run."""


class _LazyGroup(options.Group):
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

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            # Here, since click would write an empty line to standard error, which is no JSON.
            raise click.Abort from interrupt

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="filmroom", message="%(prog)s %(version)s")
def group() -> None:
    """Filmroom, a PACS storage engine: stores, finds and sends DICOM instances."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    in_json = "--json" in (given[: given.index("--")] if "--" in given else given)
    try:
        return _run(given, in_json)
    except output.ReaderGone:
        # As a program that SIGPIPE ends: what was asked for is done, or as far as it was read.
        return exit_codes.READER_GONE


def _run(arguments: list[str], in_json: bool) -> int:
    try:
        code = group.main(arguments, prog_name="filmroom", standalone_mode=False)
    except click.ClickException as error:
        if in_json:
            output.fail(error.format_message(), error.exit_code, json=True)
        else:
            error.show()
        return error.exit_code
    except click.Abort as abort:
        return _interrupted(abort, in_json)
    except EngineError as error:
        code = exit_codes.of(error)
        output.fail(str(error) if in_json else f"filmroom: {error}", code, json=in_json)
        return code
    except OSError as error:
        # A file or folder that the commands reach for themselves: no permission, a read-only or a full disk.
        where = f"{error.filename}: " if error.filename else ""
        sentence = f"{where}{error.strerror or error}"
        output.fail(sentence if in_json else f"filmroom: {sentence}", exit_codes.UNAVAILABLE, json=in_json)
        return exit_codes.UNAVAILABLE
    return code if isinstance(code, int) else exit_codes.OK


def _interrupted(abort: click.Abort, in_json: bool) -> int:
    cause = abort.__cause__
    done = str(cause) if isinstance(cause, output.Interrupted) else ""
    if in_json:
        output.fail("interrupted", exit_codes.INTERRUPTED, json=True, done=done)
    else:
        output.fail(f"interrupted; {done}" if done else "interrupted", exit_codes.INTERRUPTED, json=False)
    return exit_codes.INTERRUPTED


def main() -> NoReturn:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name in letters that the terminal's encoding has not got is shown as escapes.
            stream.reconfigure(errors="backslashreplace")
    code = run()
    if code == exit_codes.READER_GONE:
        # What is still buffered would be written once more at the end, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
