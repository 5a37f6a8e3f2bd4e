"""`filmroom retention`: list the retention rules, preview what they delete, apply them."""

from __future__ import annotations

import click

from engine.cli import deletion, exit_codes, options, output
from engine.cli.options import Settings, with_settings
from engine.cli.output import cut, whole, wrapped
from engine.errors import ConfigError

_rule_option = click.option("--rule", "names", metavar="NAME", multiple=True, help="Only this rule.  [all]")

NO_RULES = "there are no [[retention]] rules in the configuration"

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
    """Delete old studies by the [[retention]] rules of the configuration."""


@command.command("list", short_help="Show the rules.")
@with_settings()
def list_(settings: Settings) -> None:
    """Show the rules."""
    output.write_list(deletion.retention_rules(settings.load()), RULE_COLUMNS, empty=NO_RULES)


@command.command("dry-run", short_help="List the studies due for deletion.")
@_rule_option
@with_settings()
def dry_run(names: tuple[str, ...], settings: Settings) -> None:
    """List every study that would be deleted now, and the totals of each rule. Changes nothing."""
    due, sums = deletion.retention_due(settings.load(), names)
    output.write_list(due, DUE_COLUMNS, empty="nothing is due" if sums else NO_RULES)
    for row in () if output.as_json() else sums:
        output.complain(
            f"{row['rule']}: {row['studies']} studies, {row['instances']} instances, "
            f"{output.bytes_text(float(row['bytes']))} to delete; {row['held']} studies on legal hold stay"
        )


@command.command("apply", short_help="Delete the studies that are due.")
@_rule_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--anyway", is_flag=True, help="Even if the clock or the number of studies looks wrong.")
@with_settings()
def apply(names: tuple[str, ...], yes: bool, anyway: bool, settings: Settings) -> int:
    """Delete the studies that dry-run lists, also by rules that are not enabled.

    A rule is refused (exit code 1) if it would delete a large part of all studies or if the clock has jumped. Check
    both, then confirm with --anyway.
    """
    config = settings.load()
    if not config.retention:
        raise ConfigError(NO_RULES)
    if not yes:
        _, sums = deletion.retention_due(config, names)
        studies, size = (sum(row[name] for row in sums) for name in ("studies", "bytes"))
        if not options.confirmed(f"Delete {studies} studies ({output.bytes_text(size)}) by {len(sums)} rules?"):
            output.complain("nothing was deleted")
            return exit_codes.FAILED
    applied = deletion.retention_apply(config, names, anyway=anyway)
    output.write_list(applied, APPLIED_COLUMNS)
    return exit_codes.OK
