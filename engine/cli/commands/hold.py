"""`filmroom hold`: legal holds on studies. What is held is not deleted, by no command and no rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from engine.cli import backend, exit_codes, output, query
from engine.cli.options import Settings, json_option, with_settings


@click.group("hold")
def command() -> None:
    """Keep studies from being deleted, whatever else is asked for."""


def _which(function: Callable[..., Any]) -> Callable[..., Any]:
    """The arguments that name studies."""
    function = click.argument("keys", metavar="[KEY=VALUE]...", nargs=-1)(function)
    function = click.option("--study", "studies", metavar="UID", multiple=True, help="Study Instance UID.")(function)
    return click.option("--reason", metavar="TEXT", required=True, help="Why; recorded, with who you are.")(function)


@command.command("set")
@_which
@with_settings("data")
@json_option
def set_(keys: tuple[str, ...], studies: tuple[str, ...], reason: str, settings: Settings, as_json: bool) -> int:
    """Put the studies that are named, or that match KEY=VALUE as on find, on hold.

    A study named by its UID may be put on hold before anything of it has arrived.
    """
    return _change(keys, studies, reason, settings, as_json, is_set=True)


@command.command("release")
@_which
@with_settings("data")
@json_option
def release(keys: tuple[str, ...], studies: tuple[str, ...], reason: str, settings: Settings, as_json: bool) -> int:
    """End the hold of the studies that are named or match."""
    return _change(keys, studies, reason, settings, as_json, is_set=False)


def _change(
    keys: tuple[str, ...], studies: tuple[str, ...], reason: str, settings: Settings, as_json: bool, *, is_set: bool
) -> int:
    if not (keys or studies):
        raise click.UsageError("say which studies: --study UID or KEY=VALUE")
    wanted = query.parse(keys, level="study") if keys else None
    named, changed = backend.change_holds(settings.load(), list(studies), wanted, is_set=is_set, reason=reason)
    facts = {"studies": len(named), "changed": len(changed)}
    if as_json:
        output.write_json({**facts, "study_instance_uids": named})
    else:
        output.write_facts(facts)
    if not named:
        output.complain("nothing matches")
    return exit_codes.OK if named else exit_codes.FAILED


@command.command("list")
@with_settings("data")
@json_option
def list_(settings: Settings, as_json: bool) -> None:
    """Show every study that is on hold, since when, by whom and why."""
    holds = backend.holds(settings.load())
    if as_json:
        for hold in holds:
            output.write_json(hold)
        return
    columns = ("study_instance_uid", "since", "by", "reason", "instances")
    output.write_table(columns, [[hold[column] for column in columns] for hold in holds])
