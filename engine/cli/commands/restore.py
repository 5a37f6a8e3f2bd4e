"""`filmroom restore`: restore an archive from a backup, or from its bucket."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from engine.cli import copies, exit_codes, object_store, options, output
from engine.cli.options import Settings, at_option, lineage_option, rate_option, with_settings
from engine.config import Config


@options.command("restore")
@click.argument("source", metavar="[BACKUP]", required=False, type=click.Path(file_okay=False))
@click.option("--from-bucket", "url", metavar="URL", help="Restore from an object store instead of a BACKUP.")
@click.option("--archive", "archive_id", metavar="ID", help="The archive, if the bucket has several.")
@at_option
@lineage_option
@click.option("--salvage", is_flag=True, help="Restore what is readable in a damaged backup.")
@click.option(
    "--destroyed-keys",
    type=click.Path(exists=True, path_type=Path),
    help="A later study.keys, or a folder with it: what was shredded there stays unreadable.",
)
@rate_option
@with_settings()
def command(
    source: str | None,
    url: str | None,
    archive_id: str | None,
    at: datetime | None,
    lineage: str | None,
    salvage: bool,
    destroyed_keys: Path | None,
    rate: int,
    settings: Settings,
) -> int:
    """Restore an archive into --data from a BACKUP: its newest state, or the newest up to --at.

    `filmroom backup BACKUP --list` lists the states. If there are several histories, select one with --lineage. --data
    must not exist or be empty. Every byte is verified against its hash; then the archive is recovered, indexed and
    checked. After an interruption, run it again. Exit code 1: the archive was restored, with the findings listed.

    Studies that were shredded before the last run of `filmroom backup` into this folder stay unreadable. For those
    that were shredded since, name the archive's study.keys, or its data directory, with --destroyed-keys.

    With --from-bucket (s3://BUCKET/FOLDER; endpoint and credentials as in [object_store]) the archive can be queried
    and read at once: images are read from the bucket as they are needed, and `filmroom object-store fetch` brings all
    of them. The bucket is only read.
    """
    config = settings.load()
    if url is not None:
        is_plain = not (source or at or lineage or salvage or destroyed_keys)
        return _from_bucket(config, url, archive_id, is_plain=is_plain)
    if source is None:
        raise click.UsageError("name a BACKUP, or give --from-bucket URL")
    with output.progress_bar("bytes") as progress:
        report = copies.restore(
            Path(source),
            config.data,
            at,
            lineage,
            salvage=salvage,
            destroyed_keys=destroyed_keys,
            bytes_per_s=rate,
            progress=progress,
        )
    findings = report["findings"]
    output.write_report(report, findings=findings)
    return exit_codes.FAILED if findings else exit_codes.OK


def _from_bucket(config: Config, url: str, archive_id: str | None, *, is_plain: bool) -> int:
    if not is_plain:
        raise click.UsageError(
            "--from-bucket restores the newest state: it takes no BACKUP, --at, --lineage, --salvage"
        )
    with output.progress_bar("segments") as progress:
        report = object_store.restore(config, url, archive_id, progress)
    findings = report["findings"]
    output.write_report(report, findings=findings)
    return exit_codes.FAILED if findings else exit_codes.OK
