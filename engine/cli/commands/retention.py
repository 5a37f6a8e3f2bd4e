"""`filmroom retention`: the rules of the configuration, what each would delete, and deleting it now."""

from __future__ import annotations

import sys

import click

from engine.cli import backend, output
from engine.cli.options import Settings, json_option, with_settings

_rule_option = click.option("--rule", "names", metavar="NAME", multiple=True, help="Only this rule.  [all]")


@click.group("retention")
def command() -> None:
    """Delete studies that are old enough, by the [[retention]] rules of the configuration."""


@command.command("list")
@with_settings("data")
@json_option
def list_(settings: Settings, as_json: bool) -> None:
    """Show the rules."""
    rules = backend.retention_rules(settings.load())
    if as_json:
        for rule in rules:
            output.write_json(rule)
        return
    columns = ("name", "older_than_days", "age_by", "modalities", "aets", "action", "enabled")
    output.write_table(columns, [[rule[column] for column in columns] for rule in rules])


@command.command("dry-run")
@_rule_option
@with_settings("data")
@json_option
def dry_run(names: tuple[str, ...], settings: Settings, as_json: bool) -> None:
    """List every study that would be deleted now, and the sums of each rule. Nothing is changed."""
    due, sums = backend.retention_due(settings.load(), names)
    if as_json:
        for study in due:
            output.write_json(study)
        output.write_json({"rules": sums})
        return
    columns = ("rule", "study_instance_uid", "study_date", "modalities", "received", "instances", "bytes", "held")
    output.write_table(columns, [[study[column] for column in columns] for study in due])
    for row in sums:
        output.complain(
            f"{row['rule']}: {row['studies']} studies, {row['instances']} instances, "
            f"{output.bytes_text(float(row['bytes']))} to delete; {row['held']} studies on legal hold stay"
        )


@command.command("apply")
@_rule_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_settings("data")
@json_option
def apply(names: tuple[str, ...], yes: bool, settings: Settings, as_json: bool) -> None:
    """Delete now what dry-run lists, also by rules that are not enabled."""
    config = settings.load()
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("--yes is missing: this deletes, and nobody is there to ask")
        _, sums = backend.retention_due(config, names)
        studies = sum(row["studies"] for row in sums)
        click.confirm(f"Delete {studies} studies by {len(sums)} rules?", abort=True, err=True)
    applied = backend.retention_apply(config, names)
    if as_json:
        output.write_json({"rules": applied})
        return
    columns = ("rule", "studies", "instances", "bytes", "held")
    output.write_table(columns, [[row[column] for column in columns] for row in applied])
