"""`filmroom tier`: which segments need no file here, by the rules of [[tier]]."""

from __future__ import annotations

from engine.cli import exit_codes, object_store, options, output
from engine.cli.options import Settings, with_settings
from engine.cli.output import whole

COLUMNS = (whole("segment"), whole("bytes"), whole("share"))


@options.group("tier")
def command() -> None:
    """Free disk space of studies that the bucket has: they are found as before, and read from there."""


@command.command("plan")
@with_settings()
def plan(settings: Settings) -> int:
    """Show what the rules of [[tier]] mean now: studies, bytes, segments that would go, and the cost of reading again.

    Exit code 1: there is nothing to do.
    """
    report = object_store.tier_plan(settings.load())
    output.write_report(report, _shown(report))
    return exit_codes.OK if report["segments"] else exit_codes.FAILED


@command.command("apply")
@with_settings()
def apply(settings: Settings) -> None:
    """Remove the files of these segments, each after a comparison with the bucket. The server may be running.

    `filmroom object-store fetch` makes files of all of them again.
    """
    config = settings.load()
    with output.progress_bar("segments") as progress:
        report = object_store.tier_apply(config, progress)
    output.write_report(report)


def _shown(report: dict[str, object]) -> dict[str, object]:
    studies = report["studies"]
    assert isinstance(studies, dict)
    rules = {f"studies of {name}": count for name, count in studies.items()}
    return {**rules, **{name: value for name, value in report.items() if name not in ("studies", "leaving")}}
