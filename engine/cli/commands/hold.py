"""`filmroom hold`: legal holds on studies. No command and no rule deletes a study on hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from engine.cli import deletion, exit_codes, options, output, query
from engine.cli.options import Settings, with_settings
from engine.cli.output import whole, wrapped

COLUMNS = (
    whole("study_instance_uid", "study"),
    whole("since"),
    whole("by"),
    whole("instances"),
    wrapped("reason"),
)


@options.group("hold")
def command() -> None:
    """Protect studies from deletion by any command or rule (legal holds)."""


def _which(function: Callable[..., Any]) -> Callable[..., Any]:
    """The arguments that name studies."""
    function = click.argument("keys", metavar="[KEY=VALUE]...", nargs=-1)(function)
    function = click.option("--study", "studies", metavar="UID", multiple=True, help="Study Instance UID.")(function)
    return click.option("--reason", metavar="TEXT", required=True, help="Why; recorded with your user name.")(function)


@command.command("set", short_help="Put studies on hold.")
@_which
@click.option("--in-advance", is_flag=True, help="Also studies that are not stored yet.")
@with_settings()
def set_(keys: tuple[str, ...], studies: tuple[str, ...], in_advance: bool, reason: str, settings: Settings) -> int:
    """Put the named studies, or those that match KEY=VALUE as in find, on hold.

    If a named study is not stored, no study is put on hold, unless you give --in-advance.
    """
    return _change(keys, studies, reason, settings, is_set=True, in_advance=in_advance)


@command.command("release", short_help="End the holds of studies.")
@_which
@with_settings()
def release(keys: tuple[str, ...], studies: tuple[str, ...], reason: str, settings: Settings) -> int:
    """End the hold of the named or matching studies."""
    return _change(keys, studies, reason, settings, is_set=False)


def _change(
    keys: tuple[str, ...],
    studies: tuple[str, ...],
    reason: str,
    settings: Settings,
    *,
    is_set: bool,
    in_advance: bool = False,
) -> int:
    if not (keys or studies):
        raise click.UsageError("say which studies: --study UID or KEY=VALUE")
    request = query.parse(keys, level="study") if keys else None
    named, changed = deletion.change_holds(
        settings.load(), list(studies), request, is_set=is_set, in_advance=in_advance, reason=reason
    )
    facts = {"studies": len(named), "changed": len(changed)}
    output.write_one({**facts, "study_instance_uids": named}, facts)
    if not named:
        output.complain("nothing matches")
    return exit_codes.OK if named else exit_codes.FAILED


@command.command("list", short_help="List studies on hold.")
@with_settings()
def list_(settings: Settings) -> None:
    """List the studies on hold: since when, by whom and why."""
    output.write_list(deletion.holds(settings.load()), COLUMNS, empty="nothing is on hold")
