"""`filmroom cluster`: the servers that are one archive."""

from __future__ import annotations

import click

from engine.cli import cluster, exit_codes, options, output
from engine.cli.options import Settings, with_settings
from engine.cli.output import cut, whole

COLUMNS = (
    whole("node"),
    whole("slot"),
    whole("state"),
    whole("lease_s", "lease s"),
    whole("epoch"),
    whole("last_number", "last"),
    whole("behind"),
    whole("clock_offset_s", "clock s"),
    cut("address"),
)


@options.group("cluster")
def command() -> None:
    """Show the nodes of an archive on several servers, which agree in PostgreSQL ([cluster])."""


@command.command("init")
@with_settings()
def init(settings: Settings) -> None:
    """Make the tables in the database of [cluster].

    The user of the database must own it, or be allowed to create a schema (filmroom). Again, it changes nothing.
    """
    done = cluster.init(settings.load())
    output.write_report({"tables": done["tables"]}, warnings=done["warnings"])


@command.command("status")
@with_settings()
def status(settings: Settings) -> int:
    """Show the nodes: state, seconds until the lease is over, slot, epoch, last group of the chain, groups of other
    nodes that are not applied yet, and how far the clock is from PostgreSQL's.

    A node is silent when it has given no sign of life in the term of its lease: another may take over what it has
    begun.

    Exit code 1: a node is silent, or a server of the database does not answer or may lose what it has acknowledged.
    """
    rows, troubles = cluster.status(settings.load())
    output.write_list(rows, COLUMNS, empty="no node has joined")
    for trouble in troubles:
        output.complain(trouble)
    is_wrong = bool(troubles) or any(row["state"] == "silent" for row in rows)
    return exit_codes.FAILED if is_wrong else exit_codes.OK


@command.command("join")
@with_settings()
@click.option("--new", "is_new", is_flag=True, help="A new archive, whose first node this is: of an empty bucket.")
@click.option("--archive", "archive_id", metavar="ID", default="", help="Which archive, where the bucket has several.")
def join(settings: Settings, is_new: bool, archive_id: str) -> None:
    """Make the data folder a node of the cluster that [cluster] names. Then start `filmroom serve`.

    A folder with an archive joins with all that it has. A missing or empty one becomes a new node of the archive in the
    bucket of [object_store]. Again, it changes nothing, so that it may be the first step of a container.
    """
    output.write_report(cluster.join(settings.load(), archive_id, is_new=is_new))


@command.command("leave")
@with_settings()
def leave(settings: Settings) -> None:
    """End this node: bring all that it has into the bucket, and seal its chain. Stop its server first.

    The other nodes find and send what it has stored. Its data folder cannot be used again, and may be removed.
    """
    output.write_report(cluster.leave(settings.load()))


@command.command("remove")
@with_settings()
@click.argument("node")
def remove(settings: Settings, node: str) -> None:
    """Remove a node that is lost: on another node, when the term of its lease is over.

    Whatever it still announces or ships is refused from then on. All that it acknowledged is in the bucket, and stays.
    Should its machine come back, it joins with an empty folder.
    """
    output.write_report(cluster.remove(settings.load(), node))
