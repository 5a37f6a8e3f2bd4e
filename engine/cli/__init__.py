"""The command line: `filmroom COMMAND`. Each command is a module in `commands`; this module only selects and runs it.

A command's module is imported when the command runs, so that `filmroom version` does not load the engine. A command
returns its exit code (`exit_codes`). Errors of the engine and of the system become one sentence on standard error.
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
from engine.errors import ConfigError, EngineError

COMMANDS = {
    "serve": "Serve DICOM from an archive.",
    "import": "Store files, folders, zip and tar archives, and DICOMDIR media.",
    "export": "Write instances to a folder, a zip archive or DICOMDIR media.",
    "find": "Query the archive, with keys as in findscu.",
    "delete": "Delete studies, series or instances.",
    "trash": "List deletions that can be taken back; restore or empty.",
    "hold": "Protect studies from deletion (legal holds).",
    "patient": "Merge two patients, or split one.",
    "study": "Move studies to another patient.",
    "correct": "Set attributes of a patient, a study or a series.",
    "corrections": "List merges, moves, corrections and undos.",
    "undo": "Undo a merge, a move or a correction.",
    "conflicts": "List studies whose instances disagree.",
    "worklist": "Show and change the modality worklist; say why one is empty.",
    "workitem": "Show and cancel workitems (UPS).",
    "retention": "Delete old studies by the configured rules.",
    "tier": "Free disk space of studies that the bucket has.",
    "compact": "Free the space of deleted instances.",
    "audit": "Search, follow, export and verify the audit log.",
    "hl7": "Explain and send HL7 messages; search the journal, replay.",
    "fhir": "Bring a FHIR server up to date.",
    "changes": "Show the change feed: every change, event by event.",
    "stats": "Show the contents of the archive and the server's activity.",
    "echo": "Verify the connection to a peer (C-ECHO).",
    "send": "Send files or stored instances to a peer (C-STORE).",
    "pull": "Fetch studies from another archive (C-FIND, C-GET or C-MOVE).",
    "check": "Compare the log with the index, in both directions.",
    "rebuild-index": "Rebuild the index from the log.",
    "reindex": "Index the configured extra attributes of stored instances.",
    "backup": "Update a backup; the server may be running.",
    "verify-backup": "Read a backup and verify every byte.",
    "restore": "Restore an archive from a backup or a bucket.",
    "replicate": "Keep a replica up to date; with --listen, receive one.",
    "promote": "Turn a replica into an archive of its own.",
    "object-store": "Check the bucket with a copy of the archive; publish, fetch.",
    "cluster": "Show the nodes of an archive on several servers.",
    "scrub": "Verify all stored bytes and list damage.",
    "quarantine": "List quarantined instances; compare, export, readmit or drop them.",
    "commitments": "List undelivered storage commitment reports; retry or drop them.",
    "webhooks": "List the webhooks of the change feed; resume a parked one.",
    "rules": "List what rules and routes do; try them on past events.",
    "viewer": "Install the viewer (OHIF) that the page opens studies with.",
    "bench": "Test a server under load, and write a report.",
    "simulate": "Simulate a hospital: orders, images, workitems, books.",
    "size": "Compute the cores, memory, disk and network that a server needs.",
    "doctor": "Examine disk, machine, archive and peers, and give advice.",
    "user": "Manage the users who log in over HTTP.",
    "key": "Make, list and revoke API keys.",
    "share": "Make, list and revoke links for people outside.",
    "grant": "Grant single studies or patients to users and roles.",
    "security-report": "Write HIPAA, MDS2, conformance and SBOM papers for a review.",
    "access": "Show who may see what, and why or why not.",
    "cert": "Make certificates for TLS, revoke and show them.",
    "encryption": "Encrypt an archive at rest, and manage its keys.",
    "encrypt": "Encrypt the records that are not encrypted yet.",
    "config": "Check and explain the configuration.",
    "reload": "Make the running server reload peers and limits.",
    "completion": "Write the completion script of a shell.",
    "man": "Write the manual pages of all commands.",
    "version": "Show the version.",
    "help": "Show the help of a command.",
}
"""Name → one line of help, so that listing the commands loads none of their modules."""


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
            # Handled here: click would write an empty line to standard error, which is not JSON.
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
    words = sys.argv[1:] if arguments is None else list(arguments)
    in_json = "--json" in (words[: words.index("--")] if "--" in words else words)
    try:
        return _run(words, in_json)
    except output.ReaderGone:
        # Like a program that SIGPIPE ends: the work is done, or done as far as it was read.
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
        mistakes = error.mistakes if isinstance(error, ConfigError) and not in_json else ()
        sentence = f"{len(mistakes)} mistakes:" if mistakes else str(error)
        output.fail(sentence if in_json else f"filmroom: {sentence}", code, json=in_json, lines=mistakes)
        return code
    except OSError as error:
        # From a file that a command opens itself: no permission, a read-only or a full disk.
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
            # Letters that the terminal's encoding lacks are shown as escapes.
            stream.reconfigure(errors="backslashreplace")
    code = run()
    if code == exit_codes.READER_GONE:
        # Buffered output would be written at exit and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
