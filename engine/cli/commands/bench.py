"""`filmroom bench`: load tests of any server. The loads are in the package `perf`; this only reads the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.cli import exit_codes, options, output
from engine.cli.output import whole, wrapped
from engine.errors import AssociationFailed
from engine.titles import TITLE_BYTES_MAX

if TYPE_CHECKING:
    from perf.bench.endpoints import Endpoints, RetrieveBy
    from perf.bench.result import Interval, Report
    from perf.bench.runner import Pace

_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, exists=True, path_type=Path)


@options.group("bench")
def command() -> None:
    """Test a server under load, and write a report.

    The server is any DIMSE or DICOMweb server, here or elsewhere. What is stored there has the issuer FILMROOM BENCH
    and Patient IDs BENCH-...; `filmroom bench clean` deletes it.
    """


# what several commands share ---------------------------------------------------------------------


@contextmanager
def _usage() -> Iterator[None]:
    """Mistakes on the command line and in files that it names."""
    from perf.harness import PerfError

    try:
        yield
    except PerfError as error:
        raise click.UsageError(str(error)) from None


@contextmanager
def _peer() -> Iterator[None]:
    """A server that cannot be tested."""
    from perf.harness import PerfError

    try:
        yield
    except PerfError as error:
        raise AssociationFailed(str(error)) from None


def _address(text: str, what: str) -> tuple[str, str, int]:
    """AET@HOST:PORT in its parts. Raises UsageError."""
    aet, at, where = text.rpartition("@")
    host, colon, port = where.rpartition(":")
    is_complete = at and colon and host and port.isdigit() and 0 < int(port) < 65536
    if not is_complete or not 0 < len(aet.encode()) <= TITLE_BYTES_MAX:
        raise click.UsageError(f"{what} {text}: write AET@HOST:PORT, such as FILMROOM@127.0.0.1:11112")
    return aet, host.strip("[]"), int(port)


def _headers(lines: tuple[str, ...]) -> dict[str, str]:
    pairs = [line.partition(":") for line in lines]
    if bad := [name for name, colon, _ in pairs if not colon or not name.strip()]:
        raise click.UsageError(f"--header {bad[0]}: write NAME: VALUE")
    return {name.strip(): value.strip() for name, _, value in pairs}


_SERVER_OPTIONS = (
    click.option("--dicom", metavar="AET@HOST:PORT", help="Test this DIMSE server."),
    click.option("--web", metavar="URL", help="Test these DICOMweb services, such as http://HOST:8080/dicom-web."),
    click.option("--calling", metavar="AET", default="BENCH", show_default=True, help="Our AE title."),
    click.option("--header", "headers", metavar="'NAME: VALUE'", multiple=True, help="Sent with each HTTP request."),
    click.option("--tls", is_flag=True, help="The DIMSE server speaks TLS."),
    click.option("--ca", metavar="FILE", type=_FILE, help="Trust the certificates in FILE."),
    click.option("--certificate", metavar="FILE", type=_FILE, help="Our certificate, for a DIMSE server that asks."),
    click.option("--key", metavar="FILE", type=_FILE, help="Its private key, if it is in another file."),
    click.option("--quick-acks", is_flag=True, help="Acknowledge answers at once, for servers without TCP_NODELAY."),
    click.option("--nagle", is_flag=True, help="Send as many modalities do: no TCP_NODELAY, one write a PDU."),
)


def _server_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_SERVER_OPTIONS):
        function = option(function)
    return function


@contextmanager
def _endpoints(given: dict[str, Any]) -> Iterator[Endpoints]:
    """The server of the command line; takes its options out of `given`. Raises UsageError, AssociationFailed."""
    from perf.association import Target, tls_context
    from perf.bench.endpoints import Endpoints
    from perf.bench.http import web_target

    names = ("dicom", "web", "tls", "ca", "certificate", "key", "calling", "headers", "nagle", "quick_acks")
    asked = {name: given.pop(name) for name in names}
    if not asked["dicom"] and not asked["web"]:
        raise click.UsageError("name the server: --dicom AET@HOST:PORT, --web URL, or both")
    if not 0 < len(asked["calling"].encode()) <= TITLE_BYTES_MAX:
        raise click.UsageError(f"--calling {asked['calling']}: an AE title has up to {TITLE_BYTES_MAX} bytes")
    if asked["tls"] and not asked["dicom"]:
        raise click.UsageError("--tls goes with --dicom")
    files = [str(asked[name] or "") for name in ("ca", "certificate", "key")]
    headers = _headers(asked["headers"])
    with _usage():
        web = web_target(asked["web"], headers, files[0]) if asked["web"] else None
        context = tls_context(*files) if asked["tls"] else None
    if not asked["dicom"]:
        yield Endpoints(web=web)
        return
    aet, host, port = _address(asked["dicom"], "--dicom")
    target = Target(
        port, aet, host, asked["calling"], nagle=asked["nagle"], quick_acks=asked["quick_acks"], tls=context
    )
    yield Endpoints(target, web)


# run ---------------------------------------------------------------------------------------------


@command.command("run", short_help="Send a load, and write a report.")
@click.argument("profile", required=False)
@_server_options
@click.option("--target", metavar="NAME", help="Send the loads of this hardware target, and judge them by it.")
@click.option("--sink", metavar="AET@HOST:PORT", help="Listen there for C-MOVE; the server must know this address.")
@click.option("--retrieve", type=click.Choice(["c-move", "c-get", "wado"]), help="How to fetch studies.  [c-move with "
              "--sink, else c-get; wado without --dicom]")  # fmt: skip
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Measure so long; hours for a soak.  [1]")
@click.option("--warm-up", type=click.FloatRange(min=0), default=5.0, show_default=True, metavar="SECONDS",
              help="Send so long before the clock starts.")  # fmt: skip
@click.option("--interval", type=click.FloatRange(min=0.1), metavar="SECONDS", help="Length of an interval.  [1 to 60]")
@click.option("--factor", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True,
              help="Multiply the rates and connections of the profile.")  # fmt: skip
@click.option("--closed", is_flag=True, help="Closed loop: each connection sends when it has its answer.")
@click.option("--ramp", metavar="A:B:STEP", help="Raise the factor from A to B until the server falls behind.")
@click.option("--disk", metavar="DIR", type=_FOLDER, help="Measure the disk of DIR, the server's data folder here.")
@click.option("--server-pid", type=int, default=0, help="Watch this process and its children.  [who listens here]")
@click.option("--restart", metavar="COMMAND", default="", help="Restart the server with COMMAND, and time it.")
@click.option("--seed", type=int, default=7, show_default=True, help="Of the random arrivals.")
@click.option("--report", metavar="FILE", type=_FILE, help="Write the report as one HTML file.")
@click.option("--save", metavar="FILE", type=_FILE, help="Write the result as JSON.")
@click.option("--junit", metavar="FILE", type=_FILE, help="Write the verdicts as JUnit XML.")
def run(profile: str | None, target: str | None, **given: Any) -> int:
    """Send PROFILE, or the loads of a hardware target, to a server. `filmroom bench list` describes both.

    Open loop: each request has a due time, and its latency counts from there, however slow the server is. Exit code 1:
    a limit was missed. Exit code 5: the server cannot be reached, or refuses.
    """
    from perf.bench import profiles, targets, trial

    if bool(profile) == bool(target):
        raise click.UsageError("name a profile or --target, and not both; filmroom bench list shows them")
    files = {name: given.pop(name) for name in ("report", "save", "junit")}
    with _usage():
        factors = _factors(given["ramp"]) if given["ramp"] else ()
        if target and factors:
            raise click.UsageError("--ramp goes with a profile: a target has factors of its own")
        pace = _pace(given, is_target=bool(target))
        goal = targets.read(target) if target else None
        plans = trial.plans_of(goal, pace) if goal else [(profiles.read(str(profile)), pace)]
    with _endpoints(given) as endpoints, _peer(), _with_sink(endpoints, given["sink"], given["retrieve"]) as complete:
        request = trial.Request(
            complete, plans, goal, factors, given["disk"], given["server_pid"], given["restart"]
        )  # fmt: skip
        report = trial.run(request, trial.Console(output.complain, _show_interval))
    _write_files(report, files)
    _show(report)
    return exit_codes.OK if report.is_passed else exit_codes.FAILED


def _pace(given: dict[str, Any], *, is_target: bool) -> Pace:
    from perf.bench.runner import Pace

    seconds = given["minutes"] * 60 if given["minutes"] else 0.0 if is_target else 60.0
    interval_s = given["interval"] or min(60.0, max(1.0, (seconds or 60.0) / 30))
    return Pace(seconds, given["warm_up"], interval_s, given["factor"], given["closed"], given["seed"])


def _factors(text: str) -> tuple[float, ...]:
    """The factors of --ramp A:B:STEP. Raises UsageError."""
    try:
        first, last, step = (float(part) for part in text.split(":"))
    except ValueError:
        raise click.UsageError(f"--ramp {text}: write FROM:TO:STEP in factors of the profile, such as 1:8:1") from None
    if not (0 < first <= last and step > 0 and (last - first) / step <= 1000):
        raise click.UsageError(f"--ramp {text}: 0 < FROM <= TO, STEP > 0, and 1000 steps at most")
    return tuple(first + step * number for number in range(int((last - first) / step + 1e-9) + 1))


@contextmanager
def _with_sink(endpoints: Endpoints, address: str | None, retrieve: Any) -> Iterator[Endpoints]:
    """The endpoints with a destination for C-MOVE, if one is asked for."""
    from perf.sink import Sink

    by: RetrieveBy = retrieve or ("c-move" if address else "c-get" if endpoints.dicom else "wado")
    if not address:
        yield dataclasses.replace(endpoints, retrieve_by=by)
        return
    aet, host, port = _address(address, "--sink")
    sink = Sink(port, aet, host)
    try:
        yield dataclasses.replace(endpoints, retrieve_by=by, sink=sink)
    finally:
        sink.close()


def _show_interval(rows: Sequence[tuple[str, Interval]]) -> None:
    """Progress on standard error; results go to standard output."""
    at_s, is_warm_up = rows[0][1].at_s, rows[0][1].warm_up
    streams = "  ".join(_figures(name, interval) for name, interval in rows)
    output.complain(f"{at_s:7.1f} s  {streams}{'  (warm-up)' if is_warm_up else ''}")


def _figures(name: str, interval: Interval) -> str:
    """A stream in one interval: its rate and p99, and what is wrong."""
    latency = f" p99 {interval.latency.p99_ms:.1f} ms" if interval.latency.count else ""
    late = f", {interval.late_s:.1f} s behind" if interval.late_s > 1 else ""
    failed = f", {interval.failure_count} failed" if interval.failure_count else ""
    return f"{name} {interval.rate:.1f}/s{latency}{late}{failed};"


def _write_files(report: Report, files: dict[str, Path | None]) -> None:
    from perf.bench import junit, page, result

    makers = {"report": page.html, "save": result.encode, "junit": junit.xml}
    for name, path in files.items():
        if path is not None:
            path.write_bytes(makers[name](report))
            output.complain(f"written to {path}")


VERDICT_COLUMNS = (whole("judgement", ""), wrapped("text", "what"), wrapped("limit"), wrapped("measured"))


def _show(report: Report) -> None:
    """The whole result as JSON; or warnings, failures and verdicts for a person."""
    import msgspec

    if output.as_json():
        output.write_json(msgspec.to_builtins(report))
        return
    for each in report.runs:
        for warning in each.warnings:
            output.complain(f"warning: {warning.text}")
        for name, why in each.left_out.items():
            output.complain(f"left out: {name}: {why}")
        for stream in each.streams:
            for reason, count in stream.failures.items():
                output.complain(f"failed: {stream.name}: {count} × {reason}")
        if each.stopped:
            output.complain(f"ended early: {each.stopped}")
    output.write_list([msgspec.to_builtins(verdict) for verdict in report.all_verdicts], VERDICT_COLUMNS)


# list, show, report, schema ----------------------------------------------------------------------


@command.command("show", short_help="Write a profile or a hardware target as TOML, to make one's own of it.")
@click.argument("name")
def show(name: str) -> None:
    """Write the profile or hardware target NAME as TOML, to change it and give its path to `bench run`."""
    from perf.bench import toml

    for folder in ("profiles", "targets"):
        if name in toml.names(folder):
            output.write_line((toml.ROOT / folder / f"{name}.toml").read_text().rstrip())
            return
    known = ", ".join([*toml.names("profiles"), *toml.names("targets")])
    raise click.UsageError(f"there is no {name!r}; there are {known}")


@command.command("list", short_help="Describe the profiles and the hardware targets.")
def list_() -> None:
    """Describe the profiles and the hardware targets that are shipped."""
    from perf.bench import profiles, targets, toml

    rows: list[dict[str, object]] = []
    for name in toml.names("profiles"):
        profile = profiles.read(name)
        rows.append({"kind": "profile", "name": name, "text": " ".join(profile.text.split())})
    for name, target in targets.shipped().items():
        rows.append({"kind": "target", "name": name, "text": " ".join(target.text.split())})
    output.write_list(rows, (whole("kind"), whole("name"), wrapped("text", "what it stands for")))


@command.command("report", short_help="Make the HTML report of a saved result.")
@click.argument("result_file", metavar="RESULT", type=_FILE)
@click.argument("page_file", metavar="HTML", type=_FILE)
@click.option("--before", metavar="RESULT", type=_FILE, help="Compare with this earlier result.")
def report(result_file: Path, page_file: Path, before: Path | None) -> int:
    """Make the report HTML of RESULT, which `bench run --save` has written. Exit code 1: a limit was missed."""
    from perf.bench import page, result

    with _usage():
        found = result.read(result_file)
        page_file.write_bytes(page.html(found, result.read(before) if before else None))
    output.write_one({"report": str(page_file), "passed": found.is_passed})
    return exit_codes.OK if found.is_passed else exit_codes.FAILED


@command.command("schema", short_help="Show the JSON Schema of a result.")
def schema() -> None:
    """Show the JSON Schema of what `bench run --save` and `--json` write."""
    from perf.bench import result

    output.write_json(result.schema())


# clean -------------------------------------------------------------------------------------------


@command.command("clean", short_help="Delete what benches have stored.")
@_server_options
@click.option("--dry-run", is_flag=True, help="Only list the studies.")
def clean(dry_run: bool, **given: Any) -> int:
    """Find the studies that benches have stored, and delete them.

    Deletes by DICOMweb's DELETE, which Filmroom has, or by Orthanc's own API. A server with DIMSE only cannot delete:
    its studies are listed, one UID a line. Exit code 1: something is left.
    """
    from perf.bench import clean as cleaning

    with _endpoints(given) as endpoints, _peer():
        web, dicom = endpoints.web, endpoints.dicom
        uids = cleaning.found_by_web(web) if web else cleaning.found_by_dimse(dicom) if dicom else []
        if dry_run or web is None:
            output.write_list(({"study_instance_uid": uid} for uid in uids), (whole("study_instance_uid"),))
            if uids and not dry_run:
                output.complain(f"{len(uids)} studies are left: this server deletes them only by its own means")
            return exit_codes.FAILED if uids and not dry_run else exit_codes.OK
        with output.progress_bar() as progress:
            left = cleaning.delete(web, uids, lambda done: progress("deleting", done, len(uids)))
    output.write_report({"deleted": len(uids) - len(left)}, left=left)
    return exit_codes.FAILED if left else exit_codes.OK
