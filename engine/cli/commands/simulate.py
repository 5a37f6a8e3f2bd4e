"""`filmroom simulate`: a hospital that does not exist. The actors are in `perf.hospital`; this is the command line."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click
import uvloop

from engine.cli import exit_codes, options, output
from engine.cli.output import whole, wrapped
from engine.errors import AssociationFailed
from engine.titles import TITLE_BYTES_MAX

if TYPE_CHECKING:
    from perf.hospital.day import Examination
    from perf.hospital.network import Server
    from perf.hospital.simulation import Result, Wish

Returned = TypeVar("Returned")

WRONG_SHOWN = 20
"""Things of one kind that are wrong, of which the command tells."""


@options.group("simulate")
def command() -> None:
    """Simulate a hospital, for tests, demonstrations and load.

    The server is a Filmroom, here or elsewhere. What is made has Patient IDs SIM-... with the assigning authority
    FILMROOM SIMULATION; `filmroom simulate clean` takes it away.
    """


_SERVER_OPTIONS = (
    click.option("--host", default="127.0.0.1", show_default=True, help="Where the server is."),
    click.option("--port", type=click.IntRange(1, 65535), default=11112, show_default=True, help="Its DICOM port."),
    click.option("--aet", default="FILMROOM", show_default=True, help="Its AE title."),
    click.option("--hl7-port", type=click.IntRange(1, 65535), default=2575, show_default=True,
                 help="Its port for HL7."),
    click.option("--http", metavar="URL", default="http://127.0.0.1:8080", show_default=True,
                 help="Its HTTP, without a path."),
    click.option("--header", "headers", metavar="'NAME: VALUE'", multiple=True, help="Sent with each HTTP request."),
    click.option("--patience", type=click.FloatRange(min=0), default=180.0, show_default=True, metavar="SECONDS",
                 help="Try so long, and wait so long for what follows later."),
)  # fmt: skip


def _server_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_SERVER_OPTIONS):
        function = option(function)
    return function


def _server(given: dict[str, Any]) -> Server:
    """The server of the command line; takes its options out of `given`. Raises UsageError."""
    from perf.hospital.network import Server

    names = ("host", "port", "aet", "hl7_port", "http", "headers", "patience")
    asked = {name: given.pop(name) for name in names}
    if not 0 < len(asked["aet"].encode()) <= TITLE_BYTES_MAX:
        raise click.UsageError(f"--aet {asked['aet']}: an AE title has up to {TITLE_BYTES_MAX} bytes")
    url = asked["http"].rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise click.UsageError(f"--http {asked['http']}: write a URL, such as http://HOST:8080")
    pairs = [line.partition(":") for line in asked["headers"]]
    if bad := [name for name, colon, _ in pairs if not colon or not name.strip()]:
        raise click.UsageError(f"--header {bad[0]}: write NAME: VALUE")
    headers = tuple((name.strip(), value.strip()) for name, _, value in pairs)
    return Server(
        asked["host"], asked["port"], asked["aet"], asked["hl7_port"], url, headers, asked["patience"]
    )  # fmt: skip


@contextmanager
def _peer() -> Iterator[None]:
    """A server that cannot be reached, or refuses."""
    from perf.hospital.network import Refused

    try:
        yield
    except Refused as error:
        raise AssociationFailed(str(error)) from None


def _run(work: Coroutine[Any, Any, Returned]) -> Returned:
    with _peer():
        return uvloop.run(work)


@command.command("hospital", short_help="Simulate a day, and balance its books.")
@_server_options
@click.option("--orders", type=click.IntRange(1, 99_999), help="Examinations.  [50; without end with --duration]")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the day: the same seed, the same day.")
@click.option("--speed", type=click.FloatRange(min=0, min_open=True), metavar="FACTOR",
              help="So many times faster than a day.  [as fast as it goes]")  # fmt: skip
@click.option("--duration", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
              help="Begin no examination after so many seconds.")  # fmt: skip
@click.option("--notices-port", type=click.IntRange(1, 65535), help="Listen there for HL7 messages of the server's "
              "rules, and count them.")  # fmt: skip
def hospital(orders: int | None, duration: float | None, **given: Any) -> int:
    """Simulate a day in a hospital: an information system, modalities, an assistant for images, a workstation.

    At its end every message, order, step, study and workitem is compared with what the server has. Exit code 1: the
    books do not balance. Exit code 5: the server cannot be reached, or refuses.
    """
    from perf.hospital.simulation import Wish

    server = _server(given)
    speed, notices_port = given.pop("speed") or 0.0, given.pop("notices_port") or 0
    wish = Wish(
        orders or (0 if duration else 50), given.pop("seed"), speed, duration or 0.0, notices_port
    )  # fmt: skip
    result = _simulated(server, wish)
    _show(result)
    return exit_codes.OK if result.is_balanced else exit_codes.FAILED


def _simulated(server: Server, wish: Wish) -> Result:
    from perf.hospital.simulation import simulate

    done = 0
    with output.progress_bar() as progress:

        def ended(one: Examination) -> None:
            nonlocal done
            done += 1
            progress("examining", done, wish.orders or done)

        return _run(simulate(server, wish, ended))


COLUMNS = (whole("what"), whole("expected"), whole("found"), whole("wrong"))


def _show(result: Result) -> None:
    """The accounts: what is wrong as sentences for programs, and on standard error for people."""
    rows = [
        {"what": each.what, "expected": each.expected, "found": each.found, "wrong": each.wrong}
        for each in result.accounts
    ]
    output.write_list(rows, COLUMNS, lambda row: {**row, "wrong": len(row["wrong"])})
    if output.as_json():
        return
    for account in result.accounts:
        for sentence in account.wrong[:WRONG_SHOWN]:
            output.complain(f"wrong: {sentence}")
        if len(account.wrong) > WRONG_SHOWN:
            output.complain(f"wrong: {len(account.wrong) - WRONG_SHOWN} more of {account.what}")
    count, seconds = len(result.examinations), result.seconds
    verdict = "the books balance" if result.is_balanced else "the books do not balance"
    rate = count / max(seconds, 0.001)
    output.complain(
        f"{count} examinations in {seconds:.1f} s ({rate:.1f}/s), compared for {result.books_s:.1f} s more: {verdict}"
    )


@command.command("clean", short_help="Take away what simulations have made.")
@_server_options
@click.option("--dry-run", is_flag=True, help="Only list it.")
def clean(dry_run: bool, **given: Any) -> int:
    """Delete the studies of simulations, and cancel their open orders and workitems.

    Patients and orders stay in the registry, without effect. Exit code 1: something is left.
    """
    server = _server(given)
    return _run(_clean(server, dry_run=dry_run))


async def _clean(server: Server, *, dry_run: bool) -> int:
    from perf.hospital import clean as cleaning
    from perf.hospital.web import Web

    async with Web(server) as web:
        left = await cleaning.found(web)
        if dry_run:
            kinds = (("study", left.studies), ("order", left.orders), ("workitem", left.workitems))
            rows = ({"kind": kind, "id": each} for kind, ids in kinds for each in ids)
            output.write_list(rows, (whole("kind"), wrapped("id")))
            return exit_codes.OK
        with output.progress_bar() as progress:
            count = 0

            def done() -> None:
                nonlocal count
                count += 1
                progress("cleaning", count, left.count)

            failed = await cleaning.remove(server, web, left, done)
    taken = {"deleted": len(left.studies), "canceled": len(left.orders) + len(left.workitems)}
    output.write_report(taken, left=failed)
    return exit_codes.FAILED if failed else exit_codes.OK
