"""`filmroom encrypt`: encrypts what was stored before the archive had keys, or by old data keys."""

from __future__ import annotations

import click

from engine.cli import backend, exit_codes, options, output
from engine.cli.options import Settings, with_settings


@options.command("encrypt")
@click.option("--old-keys", is_flag=True, help="Also records that are encrypted by another data key than the newest.")
@with_settings()
def command(old_keys: bool, settings: Settings) -> int:
    """Encrypt the records that are not encrypted yet, by copying their segments; the server may be running.

    Storing and retrieving continue meanwhile. The old segments are removed; what is left of them on the disk's free
    blocks, in snapshots and in older backups is not. Run it again after an interruption. Exit code 1: a segment with a
    damaged record was left unchanged.
    """
    from engine.archive.admin import encryption

    config = settings.load()
    with output.progress_bar("bytes") as progress, backend.opened(config, progress=progress) as archive:
        totals = encryption.encrypt(
            archive,
            config.compaction,
            segment_bytes=config.storage.segment_bytes,
            old_keys=old_keys,
            progress=progress,
        )
    output.write_one(totals.as_dict())
    return exit_codes.FAILED if totals.left_alone else exit_codes.OK
