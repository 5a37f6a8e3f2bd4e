"""`filmroom size`: from studies a day to cores, memory, disk and network. The sums are in `perf.sizing`."""

from __future__ import annotations

from pathlib import Path

import click

from engine.cli import options, output
from engine.cli.output import whole, wrapped

COLUMNS = (whole("part"), whole("text", "need"), wrapped("rule"), wrapped("measured"))


@options.command("size")
@click.option("--studies-per-day", type=float, required=True, metavar="N", help="Studies that arrive on a day.")
@click.option(
    "--modality-mix", metavar="LIST", help="Shares of the studies, such as ct=40,mr=30,dx=30.  [a hospital's]"
)
@click.option("--instances-per-study", type=float, metavar="N", help="Instead of a mix; needs --megabytes too.")
@click.option("--megabytes", type=float, metavar="MB", help="Size of an instance.")
@click.option("--years", type=float, default=10.0, show_default=True, help="How long studies are kept.")
@click.option("--copies", type=int, default=1, show_default=True, help="Copies: this archive, replicas and backups.")
@click.option(
    "--senders", type=click.IntRange(min=1), help="Scanners at the busiest moment.  [1 for 150 studies a day]"
)
@click.option("--workstations", type=click.IntRange(min=1), help="That fetch at once.  [1 for 120 studies a day]")
@click.option("--cloud", is_flag=True, help="Add what a bucket costs a month, in each class of storage.")
@click.option("--prices", type=click.Path(path_type=Path), metavar="FILE", help="Prices for --cloud instead of ours.")
def command(
    studies_per_day: float,
    modality_mix: str | None,
    instances_per_study: float | None,
    megabytes: float | None,
    years: float,
    copies: int,
    senders: int | None,
    workstations: int | None,
    cloud: bool,
    prices: Path | None,
) -> None:
    """Compute the cores, memory, disk and network that a server needs, with the measured figure behind each number.

    Then test the machine: `filmroom doctor --target NAME` and `filmroom bench run --target NAME`.
    """
    from perf import cloud_costs, sizing
    from perf.harness import PerfError

    try:
        if (instances_per_study is None) != (megabytes is None) or (megabytes and modality_mix):
            raise PerfError("give --modality-mix, or both --instances-per-study and --megabytes")
        if instances_per_study is None or megabytes is None:
            mix = sizing.parse_mix(modality_mix) if modality_mix else sizing.USUAL_MIX
            instances_per_study, megabytes = sizing.mixed(mix)
        demand = sizing.Demand(
            studies_per_day, instances_per_study, megabytes, years, copies, senders or 0, workstations or 0
        )
        needs = sizing.needs(demand)
        if cloud or prices is not None:
            needs += cloud_costs.costs(demand, cloud_costs.prices(prices or cloud_costs.PRICES_FILE))
    except PerfError as error:
        raise click.UsageError(str(error)) from None
    figures = sizing.figures()
    rows = [
        {
            "part": need.part,
            "text": need.text,
            "value": round(need.value, 3),
            "rule": need.rule,
            "measured": figures[need.figure].measured if need.figure else "",
        }
        for need in needs
    ]
    output.write_list(rows, COLUMNS)
