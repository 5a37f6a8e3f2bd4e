"""`filmroom send PEER ...`: C-STORE of files, or of what is in the archive, to a peer."""

from __future__ import annotations

import os
from pathlib import Path

import click

from engine.access import Action
from engine.cli import backend, exchange, exit_codes, options, output, query
from engine.cli.options import Settings, existing_paths, with_settings
from engine.config import Config, Peer


@options.command("send")
@click.argument("peer")
@click.argument("what", metavar="[PATH|KEY=VALUE]...", nargs=-1)
@click.option("--study", "studies", metavar="UID", multiple=True, help="Study Instance UID of what is stored.")
@click.option("--series", metavar="UID", multiple=True, help="Series Instance UID.")
@click.option("--instance", "instances", metavar="UID", multiple=True, help="SOP Instance UID.")
@click.option(
    "--retry", type=click.IntRange(0, 100), default=1, show_default=True, metavar="N", help="Send what failed again."
)
@click.option(
    "--resume",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Keep in FILE the UIDs that are still to be sent; with FILE there, send those only.",
)
@click.option("--follow", is_flag=True, help="Follow symbolic links in folders.")
@with_settings("aet")
def command(
    peer: str,
    what: tuple[str, ...],
    studies: tuple[str, ...],
    series: tuple[str, ...],
    instances: tuple[str, ...],
    retry: int,
    resume: str | None,
    follow: bool,
    settings: Settings,
) -> int:
    """Send files and the files in folders (PATH), or what is stored (--study, --series, --instance, KEY=VALUE as on
    find), to PEER: the AE title of a [[peer]], or AET@HOST:PORT.

    An argument that names a file or folder is one; any other with "=" is a key. What is stored is sent as a C-MOVE
    would send it: in the transfer syntax in which it is stored, or else converted, with corrections and [[coercion]]
    rules and the settings of the peer; beside a running server or without one. Exit code 1: something was not taken,
    or is not stored; 5: the peer cannot be reached.
    """
    config = settings.load()
    target = backend.addressed(config, peer, Action.SEND)
    paths, keys = _taken_apart(what)
    wanted = query.named(keys, studies, series, instances)
    if paths and wanted:
        raise click.UsageError("files, or what is stored: one of the two")
    if not paths and not wanted:
        raise click.UsageError("say what to send: PATH, or --study UID, --series UID, --instance UID or KEY=VALUE")
    if wanted:
        return _send_stored(config, target, wanted, retry, Path(resume) if resume else None)
    if resume:
        raise click.UsageError("--resume is for what is stored")
    return _send_files(config, target, paths, follow)


def _taken_apart(what: tuple[str, ...]) -> tuple[list[Path], list[str]]:
    """Files and folders, and keys of a query."""
    keys = [each for each in what if "=" in each.split("/")[0] and not os.path.lexists(each)]
    return existing_paths(tuple(each for each in what if each not in keys)), keys


def _send_files(config: Config, target: Peer, paths: list[Path], follow: bool) -> int:
    with output.progress_bar() as progress:
        summary = backend.send(target, config, paths, progress, follow)
    failed = [{"path": str(path), "reason": reason} for path, reason in summary.failed]
    if output.as_json():
        output.write_one({"peer": target.aet, "sent": summary.sent, "failed": failed})
    else:
        for row in failed:
            output.complain(f"{row['path']}: {row['reason']}")
        output.write_line(f"sent {summary.sent} instances to {target.aet}, {len(failed)} failed")
    return exit_codes.FAILED if summary.failed else exit_codes.OK


def _send_stored(config: Config, target: Peer, wanted: list[query.Keys], retries: int, resume: Path | None) -> int:
    missing: list[str] = []
    report = exchange.StoredReport()
    try:
        with output.progress_bar() as progress:
            exchange.send(config, target, wanted, report, missing, progress, retries=retries, resume=resume)
    except output.Interrupted:
        raise output.Interrupted(
            f"sent {report.sent} of {report.total} instances to {target.aet}, {len(report.failed)} failed"
        ) from None
    for named in missing:
        output.complain(f"no {named} is stored")
    if not report.total and not missing:
        output.complain("nothing is left to be sent" if resume and resume.exists() else "nothing matches")
    facts = {
        "peer": target.aet,
        "sent": report.sent,
        "warnings": report.warned,
        "bytes": report.bytes,
        "seconds": round(report.seconds, 3),
    }
    failed = [{"sop_instance_uid": uid, "reason": reason} for uid, reason in report.failed.items()]
    output.write_report(facts, failed=failed)
    return exit_codes.FAILED if failed or missing or not report.total else exit_codes.OK
