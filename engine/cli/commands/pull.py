"""`filmroom pull PEER ...`: fetch studies from another archive."""

from __future__ import annotations

import click
import msgspec

from engine import log
from engine.access import Action
from engine.cli import backend, exchange, exit_codes, options, output
from engine.cli.options import Settings, with_settings
from engine.cli.output import cut, whole
from engine.config import Peer

COLUMNS = (
    whole("StudyDate"),
    whole("PatientID"),
    cut("PatientName"),
    whole("ModalitiesInStudy"),
    cut("StudyDescription"),
    whole("instances"),
    whole("here"),
    whole("missing"),
    whole("StudyInstanceUID"),
)


@options.command("pull")
@click.argument("peer")
@click.argument("keys", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--study", "studies", metavar="UID", multiple=True, help="Study Instance UID.")
@click.option("--since", metavar="DATE", help="Studies of this Study Date and later.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most N studies.")
@click.option("--dry-run", is_flag=True, help="Only list the studies and how many instances are missing.")
@click.option("--again", is_flag=True, help="Request all instances, also those already here.")
@click.option("--move", is_flag=True, help="Use C-MOVE to the running server (PEER must know it), not C-GET.")
@click.option("--associations", type=click.IntRange(1, 64), default=1, metavar="N", help="Parallel associations.")
@options.rate_option
@with_settings("aet")
def command(
    peer: str,
    keys: tuple[str, ...],
    studies: tuple[str, ...],
    since: str | None,
    limit: int | None,
    dry_run: bool,
    again: bool,
    move: bool,
    associations: int,
    rate: int,
    settings: Settings,
) -> int:
    """Fetch the named studies, or those that match KEY=VALUE, from PEER (AE title of a [[peer]], or AET@HOST:PORT).

    Keys of series and instances select within the studies (Modality=CT). Instances already here are not requested
    again, so run an interrupted pull again. A study with as many instances here as there counts as complete.
    Instances are accepted by the same rules as those sent to the server. Missing instances are requested once more,
    then listed. Exit code 1: an instance is missing. Exit code 5: the peer cannot be reached, or nothing arrived.
    """
    config = settings.load()
    target = backend.addressed(config, peer, Action.RETRIEVE)
    pull_query = exchange.pull_query_of(studies, keys, since, limit, again=again)
    if not pull_query.studies and not pull_query.keys:
        raise click.UsageError("say what to pull: --study UID, KEY=VALUE or --since DATE")
    # The report at the end lists refused instances.
    log.configure(msgspec.structs.replace(config.log, level="error"))
    report = exchange.PullReport()
    if dry_run:
        with output.progress_bar() as progress:
            rows = exchange.planned(config, target, pull_query, report, progress)
        output.write_list(rows, COLUMNS, empty="nothing matches")
        _remark(report, target)
        return exit_codes.FAILED if report.not_found else exit_codes.OK
    try:
        with output.progress_bar() as progress:
            exchange.pull(
                config,
                target,
                pull_query,
                report,
                progress,
                is_move=move,
                associations=associations,
                rate_bytes_per_s=rate,
            )
    except output.Interrupted:
        counts = f"{report.arrived} instances arrived, {report.here} were already here, {report.failed_count} failed"
        raise output.Interrupted(f"{counts}; run the same command again to continue") from None
    return _tell(report, target)


def _remark(report: exchange.PullReport, target: Peer) -> None:
    for named in report.not_found:
        output.complain(f"{target.aet} has no {named}")
    for remark in report.remarks:
        output.complain(remark)


def _tell(report: exchange.PullReport, target: Peer) -> int:
    _remark(report, target)
    if not report.studies and not report.not_found:
        output.complain("nothing matches")
    facts = {
        "peer": target.aet,
        "studies": report.studies,
        "studies_already_here": report.studies_here,
        "already_here": report.here,
        "stored": report.stored,
        "sent_again": report.duplicates,
        "versions": report.versions,
        "not_asked_for": report.unwanted,
        "bytes": report.bytes,
        "seconds": round(report.seconds, 3),
    }
    if report.failed_count > len(report.failed):
        output.complain(f"{report.failed_count} failed; the first {len(report.failed)} are listed")
    failed = [{"sop_instance_uid": uid, "reason": reason} for uid, reason in report.failed.items()]
    output.write_report(facts, failed=failed)
    return exit_codes.FAILED if report.failed_count or report.not_found or report.remarks else exit_codes.OK
