"""The report as one HTML file: no script, no request to anywhere, readable on paper and in the dark.

`style.css` lies beside this module and is put into the file.
"""

from __future__ import annotations

import html as markup
from collections.abc import Sequence
from pathlib import Path

from perf.bench import chart
from perf.bench.chart import Line, number
from perf.bench.result import Report, Run, Sample, StreamResult, Verdict

_STYLE = Path(__file__).with_name("style.css")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The browser refuses whatever is not in the file."""

text = markup.escape


def html(report: Report, before: Report | None = None) -> bytes:
    """The page; with `before`, the figures of an earlier report stand beside its own."""
    title = f"Load test: {report.server}"
    body = [
        _head(report),
        *(_target(report) if report.target else ()),
        *(part for run in report.runs for part in _run(run, before)),
        *_facts(report),
        *_about(report),
    ]
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{text(title)}</title>\n'
        f"<style>\n{_STYLE.read_text()}</style>\n<main>\n{''.join(body)}</main>\n</html>\n"
    ).encode()


# parts -------------------------------------------------------------------------------------------


def _head(report: Report) -> str:
    lines = report.all_verdicts
    missed = sum(verdict.judgement == "missed" for verdict in lines)
    unknown = sum(verdict.judgement == "not measured" for verdict in lines)
    words = f"{missed} of {len(lines)} limits missed" if missed else f"No limit missed, {len(lines) - unknown} met"
    words += f", {unknown} not measured" if unknown else ""
    product = f" ({text(report.server_product)})" if report.server_product else ""
    return (
        f"<h1>Load test</h1>\n<p class=lead>{text(report.server)}{product}<br>{text(report.started_at)}</p>\n"
        f'<p class="verdict {"missed" if missed else "met"}">{_mark(not missed)} {words}.</p>\n'
    )


def _target(report: Report) -> list[str]:
    assert report.target is not None
    return [
        f"<h2>Hardware target: {text(report.target.title)}</h2>\n<p>{text(report.target.text)}</p>\n",
        _verdicts(report.verdicts),
    ]


def _run(run: Run, before: Report | None) -> list[str]:
    minutes = f"{run.seconds / 60:.1f} minutes" if run.seconds >= 120 else f"{run.seconds:g} seconds"
    how = {
        "open loop": "Open loop: each request has a due time, and its latency counts from there.",
        "closed loop": "Closed loop: each connection sends when it has its answer, so a slow server gets less load.",
        "ramp": "Ramp: the load rises step by step until the server falls behind.",
    }[run.mode]
    parts = [
        f"<h2>{text(run.title)}{f', factor {run.factor:g}' if run.factor != 1 else ''}</h2>\n<p>{text(run.text)}</p>\n",
        f"<p>{how} Measured for {minutes} after {run.warm_up_s:g} seconds of warm-up, which count for nothing below "
        f"and are grey in the charts. Random arrivals with seed {run.seed}.</p>\n",
    ]
    if run.stopped:
        parts.append(f"<p class=warning><b>Ended early:</b> {text(run.stopped)}.</p>\n")
    parts += [
        f"<p class=warning><b>{text(each.kind.capitalize())}:</b> {text(each.text)}</p>\n" for each in run.warnings
    ]
    parts += [
        f"<p class=warning><b>Left out:</b> {text(name)}: {text(why)}.</p>\n" for name, why in run.left_out.items()
    ]
    parts += [_verdicts(run.verdicts), _streams(run), _failures(run.streams)]
    if earlier := _same_run(run, before):
        parts.append(_comparison(run, earlier))
    if run.steps:
        parts.append(_ramp(run))
    warm_s = next((sample.at_s for sample in reversed(run.samples) if sample.warm_up), None)
    for stream in run.streams:
        parts.append(_stream_charts(stream, warm_s))
    parts.append(_server_charts(run.samples, warm_s))
    return parts


def _mark(is_good: bool) -> str:
    return "<span aria-hidden=true>✓</span>" if is_good else "<span aria-hidden=true>✗</span>"


def _verdicts(verdicts: Sequence[Verdict]) -> str:
    marks = {"met": "✓ met", "missed": "✗ missed", "not measured": "– not measured"}
    rows = [
        f'<tr><td class="{verdict.judgement.replace(" ", "-")}">{marks[verdict.judgement]}</td>'
        f"<td>{text(verdict.text)}</td><td>{text(verdict.limit)}</td><td>{text(verdict.measured)}</td></tr>\n"
        for verdict in verdicts
    ]
    return _table("Limits", ("", "What", "Limit", "Measured"), rows)


def _table(caption: str, header: Sequence[str], rows: Sequence[str], *, first: int = 0, numbers: int = 0) -> str:
    """A table; of its columns, those from `first` on are numbers, `numbers` of them."""
    if not rows:
        return ""
    cells = "".join(
        f"<th scope=col{' class=n' if first <= place < first + numbers else ''}>{cell}</th>"
        for place, cell in enumerate(header)
    )
    return (
        f"<div class=scroll tabindex=0 role=region aria-label='{caption}'><table><caption>{caption}</caption>"
        f"<thead><tr>{cells}</tr></thead>\n<tbody>{''.join(rows)}</tbody></table></div>\n"
    )


def _streams(run: Run) -> str:
    rows = []
    for stream in run.streams:
        latency = stream.latency
        offered = f"{number(stream.offered_rate)}" if stream.offered_rate else "as fast as answered"
        cells = (
            number(stream.rate), offered, number(stream.instances_per_s), number(stream.megabytes_per_s),
            *(number(value) for value in (latency.p50_ms, latency.p95_ms, latency.p99_ms, latency.p999_ms,
                                          latency.max_ms)),
            str(sum(stream.failures.values())), str(stream.unsent_count),
        )  # fmt: skip
        numbers = "".join(f"<td class=n>{cell}</td>" for cell in cells)
        about = f"{text(stream.service)}, connections: {stream.connections}; {text(stream.text)}"
        rows.append(f"<tr><th scope=row>{text(stream.name)}<small>{about}</small></th>{numbers}</tr>\n")
    header = ("Stream", "Answered /s", "Due /s", "Instances /s", "MB/s", "p50 ms", "p95", "p99", "p99.9", "max",
              "Failed", "Not sent")  # fmt: skip
    return _table("Streams", header, rows, first=1, numbers=len(header) - 1)


def _failures(streams: Sequence[StreamResult]) -> str:
    rows = [
        f"<tr><td>{text(stream.name)}</td><td class=n>{count}</td><td>{text(reason)}</td></tr>\n"
        for stream in streams
        for reason, count in stream.failures.items()
    ]
    return _table("Failures", ("Stream", "Number", "Reason"), rows, first=1, numbers=1)


def _same_run(run: Run, before: Report | None) -> Run | None:
    candidates = before.runs if before else []
    return next((each for each in candidates if (each.profile, each.mode) == (run.profile, run.mode)), None)


def _comparison(run: Run, before: Run) -> str:
    rows = []
    for stream in run.streams:
        if (old := before.stream(stream.name)) is None:
            continue
        for name, was, now in (
            ("answered /s", old.rate, stream.rate),
            ("p50 ms", old.latency.p50_ms, stream.latency.p50_ms),
            ("p99 ms", old.latency.p99_ms, stream.latency.p99_ms),
        ):
            change = f"{now / was:.2f}" if was else ""
            rows.append(
                f"<tr><td>{text(stream.name)}</td><td>{name}</td><td class=n>{number(was)}</td>"
                f"<td class=n>{number(now)}</td><td class=n>{change}</td></tr>\n"
            )
    return _table(
        "Against the earlier result", ("Stream", "Figure", "Before", "Now", "Ratio"), rows, first=2, numbers=3
    )


# charts ------------------------------------------------------------------------------------------


def _ramp(run: Run) -> str:
    names = list(run.steps[0].rates)
    rows, factors = [], [step.factor for step in run.steps]
    for step in run.steps:
        cells = "".join(
            f"<td class=n>{number(step.offered_rates[name])}</td><td class=n>{number(step.rates[name])}</td>"
            f"<td class=n>{number(step.p99_ms[name])}</td>"
            for name in names
        )
        kept = "<td class=met>✓ yes</td>" if step.kept_up else f"<td class=missed>✗ {text(step.why)}</td>"
        rows.append(f"<tr><th scope=row class=n>{step.factor:g}</th>{cells}{kept}</tr>\n")
    header = [
        "Factor",
        *(f"{text(name)}: {figure}" for name in names for figure in ("due /s", "answered /s", "p99 ms")),
    ]
    lines = [
        Line(f"{name} p99", [(step.factor, step.p99_ms[name]) for step in run.steps], place)
        for place, name in enumerate(names)
    ]
    values = [value for step in run.steps for value in step.p99_ms.values()]
    x = chart.Axis(min(factors), max(factors), "factor")
    drawn = chart.svg("Latency p99 by load", x, chart.logarithmic(values, "ms"), lines)
    return _table("Steps", [*header, "Kept up"], rows, numbers=len(header)) + f"<div class=charts>{drawn}</div>\n"


def _stream_charts(stream: StreamResult, warm_s: float | None) -> str:
    intervals = stream.intervals
    if len(intervals) < 2:
        return ""
    x = chart.linear([interval.at_s for interval in intervals], "seconds from the start")
    answered = [interval for interval in intervals if interval.latency.count]
    latencies = [
        Line(name, [(interval.at_s, float(getattr(interval.latency, field))) for interval in answered], place)
        for place, (name, field) in enumerate((("p50", "p50_ms"), ("p95", "p95_ms"), ("p99", "p99_ms"),
                                               ("max", "max_ms")))
    ]  # fmt: skip
    values = [value for line in latencies for _, value in line.points]
    rates = [Line("answered", [(interval.at_s, interval.rate) for interval in intervals], 0)]
    if stream.offered_rate:
        rates.append(Line("due", [(0.0, stream.offered_rate), (intervals[-1].at_s, stream.offered_rate)], 4))
    highest = [value for line in rates for _, value in line.points]
    parts = [
        f"<h3>{text(stream.name)}: {text(stream.service)}</h3>\n<div class=charts>",
        chart.svg(f"{stream.name}: latency", x, chart.logarithmic(values, "latency, ms"), latencies,
                  shaded_until=warm_s),
        chart.svg(f"{stream.name}: rate", x, chart.linear(highest, f"{stream.unit} a second"), rates,
                  shaded_until=warm_s),
    ]  # fmt: skip
    if stream.distribution:
        parts.append(_distribution(stream))
    return "".join([*parts, "</div>\n"])


def _distribution(stream: StreamResult) -> str:
    """Latency by the share of requests that were slower: one in ten, in a hundred, and so on to the right."""
    points = [(100 / (100 - share), value) for share, value in stream.distribution if share < 100]
    x = chart.logarithmic([across for across, _ in points], "one request in so many is slower")
    y = chart.logarithmic([value for _, value in points], "latency, ms")
    return chart.svg(f"{stream.name}: distribution of latencies", x, y, [Line(stream.name, points, 0)])


def _server_charts(samples: Sequence[Sample], warm_s: float | None) -> str:
    if len(samples) < 2:
        return ""
    x = chart.linear([sample.at_s for sample in samples], "seconds from the start")

    def drawn(title: str, label: str, scale: float, *fields: tuple[str, str]) -> str:
        lines = [
            Line(name, [(sample.at_s, float(getattr(sample, field)) / scale) for sample in samples], place)
            for place, (name, field) in enumerate(fields)
            if any(getattr(sample, field) for sample in samples)
        ]
        if not lines:
            return ""
        y = chart.linear([value for line in lines for _, value in line.points], label)
        return chart.svg(title, x, y, lines, shaded_until=warm_s)

    return (
        "<h3>Server, generator and machine</h3>\n<div class=charts>"
        + drawn("Processors", "busy processors", 1, ("server", "server_cores"), ("generator", "generator_cores"),
                ("whole machine", "machine_cores"))
        + drawn("Memory", "memory, MB", 1e6, ("server", "server_memory_bytes"), ("generator", "generator_memory_bytes"))
        + drawn("Open files of the server", "open files of the server", 1, ("server", "server_descriptor_count"))
        + drawn("Delay by the generator itself", "delay by the generator itself, ms (p99)", 1,
                ("generator", "generator_lag_p99_ms"))
        + "</div>\n"
    )  # fmt: skip


# facts -------------------------------------------------------------------------------------------


def _facts(report: Report) -> list[str]:
    machine, disk = report.machine, report.disk
    where = "which runs the server too" if machine.is_server else "not the server's, which cannot be seen from here"
    facts = [
        ("processors", f"{machine.cores} × {machine.cpu_model or 'unknown'}"),
        ("memory", f"{machine.memory_bytes / 1e9:.1f} GB"),
        ("kernel", machine.kernel),
        ("generator", f"Filmroom {machine.filmroom}, Python {machine.python}"),
    ]
    parts = [f"<h2>The generator's machine</h2>\n<p>Its machine, {where}.</p>\n", _pairs("Machine", facts)]
    if disk is None:
        return [*parts, "<p>The disk was not measured: name the server's data folder with <code>--disk</code>.</p>\n"]
    rows = [
        ("folder", f"{disk.folder} ({disk.device}, {disk.file_system})"),
        ("free", f"{disk.free_bytes / 1e9:.1f} GB"),
        ("fdatasync of 4 KiB", f"{disk.sync_p50_ms:g} ms (p50), {disk.sync_p99_ms:g} ms (p99)"),
        ("appended, one fdatasync every 8 instances", f"{disk.write_mb_per_s:g} MB/s"),
        ("read past the page cache", f"{disk.read_mb_per_s:g} MB/s" if disk.read_mb_per_s else "not possible here"),
    ]
    return [*parts, "<h2>The disk</h2>\n<p>Measured before the load.</p>\n", _pairs("Disk", rows)]


def _pairs(caption: str, pairs: Sequence[tuple[str, str]]) -> str:
    rows = [f"<tr><th scope=row>{text(name)}</th><td>{text(value)}</td></tr>\n" for name, value in pairs]
    return _table(caption, ("Fact", "Value"), rows)


def _about(report: Report) -> list[str]:
    synthetic = report.synthetic
    left = ""
    if synthetic.study_uids:
        left = (
            f"<p>This run stored studies with Patient IDs <code>{text(synthetic.patient_ids)}</code>, issuer "
            f"<code>{text(synthetic.issuer)}</code> and UIDs from <code>{synthetic.study_uids[0]}</code> to "
            f"<code>{synthetic.study_uids[1]}</code>. <code>filmroom bench clean</code> deletes them.</p>\n"
        )
    return [
        "<h2>How to read this</h2>\n"
        "<p>A percentile such as p99 is the latency that 99 of 100 requests did not exceed; percentiles are right to "
        "one per cent. Requests that were due and not sent before the end count with their age. Failed requests count "
        "in the latencies and not in the rates. Retrieved studies are counted by their instances.</p>\n" + left
    ]
