"""`filmroom retention`: the rules of the configuration, what each would delete, and deleting it now."""

from __future__ import annotations

import sys

import click

from engine.cli import backend, options, output
from engine.cli.options import Settings, with_settings
from engine.cli.output import cut, whole, wrapped

_rule_option = click.option("--rule", "names", metavar="NAME", multiple=True, help="Only this rule.  [all]")

RULE_COLUMNS = (
    whole("name"),
    whole("older_than_days", "older than days"),
    whole("age_by"),
    wrapped("modalities"),
    wrapped("aets", "AE titles"),
    whole("action"),
    whole("enabled"),
)
DUE_COLUMNS = (
    cut("rule"),
    whole("study_date", "study date"),
    whole("received"),
    whole("modalities"),
    whole("instances"),
    whole("bytes", "size"),
    whole("held"),
    whole("study_instance_uid", "study"),
)
APPLIED_COLUMNS = (whole("rule"), whole("studies"), whole("instances"), whole("bytes", "size"), whole("held"))


@options.group("retention")
def command() -> None:
    """Delete studies that are old enough, by the [[retention]] rules of the configuration."""


@command.command("list")
@with_settings()
def list_(settings: Settings) -> None:
    """Show the rules."""
    output.write_list(backend.retention_rules(settings.load()), RULE_COLUMNS)


@command.command("dry-run")
@_rule_option
@with_settings()
def dry_run(names: tuple[str, ...], settings: Settings) -> None:
    """List every study that would be deleted now, and the sums of each rule. Nothing is changed."""
    due, sums = backend.retention_due(settings.load(), names)
    output.write_list(due, DUE_COLUMNS)
    for row in () if output.as_json() else sums:
        output.complain(
            f"{row['rule']}: {row['studies']} studies, {row['instances']} instances, "
            f"{output.bytes_text(float(row['bytes']))} to delete; {row['held']} studies on legal hold stay"
        )


@command.command("apply")
@_rule_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_settings()
def apply(names: tuple[str, ...], yes: bool, settings: Settings) -> None:
    """Delete now what dry-run lists, also by rules that are not enabled."""
    config = settings.load()
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("--yes is missing: this deletes, and nobody is there to ask")
        _, sums = backend.retention_due(config, names)
        studies = sum(row["studies"] for row in sums)
        click.confirm(f"Delete {studies} studies by {len(sums)} rules?", abort=True, err=True)
    applied = backend.retention_apply(config, names)
    output.write_list(applied, APPLIED_COLUMNS)
