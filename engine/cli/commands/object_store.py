"""`filmroom object-store`: check the bucket that keeps a copy of the archive."""

from __future__ import annotations

from engine.cli import exit_codes, object_store, options, output
from engine.cli.options import Settings, with_settings
from engine.cli.output import whole, wrapped

CHECK_COLUMNS = (whole("check"), whole("result"), wrapped("text"))


@options.group("object-store")
def command() -> None:
    """Check the bucket of [object_store], which keeps a copy of the archive."""


@command.command("check")
@with_settings()
def check(settings: Settings) -> int:
    """Check that the store keeps what the archive relies on.

    Writes some megabytes, and removes them: a second writer of one object must be refused, ranges and parts must be
    read back as they were written. Then it asks the store for lifecycle rules, versioning and uploads that never
    ended. Exit code 1: a check has failed, and the store must not be used.
    """
    rows, has_failed = object_store.check(settings.load())
    output.write_list(rows, CHECK_COLUMNS, empty="")
    return exit_codes.FAILED if has_failed else exit_codes.OK


