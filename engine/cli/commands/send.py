"""`filmroom send PEER ...`: send files or stored instances to a peer by C-STORE."""

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
@click.option("--study", "studies", metavar="UID", multiple=True, help="Study Instance UID of stored instances.")
@click.option("--series", metavar="UID", multiple=True, help="Series Instance UID.")
@click.option("--instance", "instances", metavar="UID", multiple=True, help="SOP Instance UID.")
@click.option(
    "--retry", type=click.IntRange(0, 100), default=1, show_default=True, metavar="N", help="Repeat failures N times."
)
@click.option(
    "--resume",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Keep the UIDs still to be sent in FILE. If FILE exists, send only those.",
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
    """Send files and folders (PATH) or stored instances to PEER: the AE title of a [[peer]], or AET@HOST:PORT.

    Select stored instances with --study, --series, --instance or KEY=VALUE as in find. An argument is a PATH if such a
    file or folder exists; otherwise, with "=", it is a key. Stored instances are sent as a C-MOVE would send them:
    unchanged or, if the peer needs it, converted; with the corrections, [[coercion]] rules and settings of the peer;
    with or without a running server. Exit code 1: an instance was refused or is not stored. Exit code 5: the peer
    cannot be reached.
    """
    config = settings.load()
    target = backend.addressed(config, peer, Action.SEND)
    paths, keys = _paths_and_keys(what)
    queries = query.named(keys, studies, series, instances)
    if paths and queries:
        raise click.UsageError("give either paths or stored instances, not both")
    if not paths and not queries:
        raise click.UsageError("say what to send: PATH, or --study UID, --series UID, --instance UID or KEY=VALUE")
    if queries:
        return _send_stored(config, target, queries, retry, Path(resume) if resume else None)
    if resume:
        raise click.UsageError("--resume is for stored instances only")
    return _send_files(config, target, paths, follow)


def _paths_and_keys(what: tuple[str, ...]) -> tuple[list[Path], list[str]]:
    """Separates files and folders from query keys."""
    keys = [text for text in what if "=" in text.split("/")[0] and not os.path.lexists(text)]
    return existing_paths(tuple(text for text in what if text not in keys)), keys


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


def _send_stored(config: Config, target: Peer, queries: list[query.Keys], retries: int, resume: Path | None) -> int:
    missing: list[str] = []
    report = exchange.StoredReport()
    try:
        with output.progress_bar() as progress:
            exchange.send(config, target, queries, report, missing, progress, retries=retries, resume=resume)
    except output.Interrupted:
        raise output.Interrupted(
            f"sent {report.sent} of {report.total} instances to {target.aet}, {len(report.failed)} failed"
        ) from None
    for named in missing:
        output.complain(f"no {named} is stored")
    if not report.total and not missing:
        output.complain("nothing is left to send" if resume and resume.exists() else "nothing matches")
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
