"""Pass or fail, line by line: of a run by its profile's limits, and of a hardware target by all it asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.doctor.hardware import MEMORY_SHARE
from perf.bench import trend
from perf.bench.result import Disk, Interval, Machine, Run, Sample, Step, StreamResult, Verdict
from perf.bench.runner import Pace
from perf.bench.targets import Must, Target
from perf.bench.trend import Trend
from perf.harness import PerfError

LATE_S_MAX = 1.0
"""A server keeps up if at the end no request has waited longer than this for its turn."""
TREND_S_MIN = 600.0
"""In a shorter run caches still fill, and a slope is chance."""
TB, GB = 1e12, 1e9


def verdict(text: str, limit: str, measured: str, is_met: bool) -> Verdict:
    return Verdict(text=text, limit=limit, measured=measured, judgement="met" if is_met else "missed")


def not_measured(text: str, limit: str, why: str) -> Verdict:
    return Verdict(text=text, limit=limit, measured=why, judgement="not measured")


def why_behind(streams: Sequence[StreamResult]) -> str:
    """Why a server did not keep up with an open loop; "" if it did."""
    for stream in streams:
        if stream.failures:
            reason, count = next(iter(stream.failures.items()))
            return f"{stream.name}: {count} × {reason}"
        if stream.late_s > LATE_S_MAX:
            return f"{stream.name}: {stream.late_s:.1f} s behind at the end, {stream.unsent_count} requests not sent"
        if stream.p99_ms_max and stream.latency.p99_ms > stream.p99_ms_max:
            return f"{stream.name}: p99 {stream.latency.p99_ms:.0f} ms, the limit is {stream.p99_ms_max:g}"
        if not stream.latency.count and stream.offered_rate:
            return f"{stream.name}: no request was due; measure longer"
    return ""


def of_streams(streams: Sequence[StreamResult], pace: Pace) -> Iterator[Verdict]:
    """Whether nothing failed, the server kept up, and latencies are within the profile's limits."""
    for stream in streams:
        failed = sum(stream.failures.values())
        yield verdict(f"{stream.name}: no failures", "0", str(failed), not failed and stream.latency.count > 0)
        if pace.closed_loop:
            continue
        limit = f"{stream.offered_rate:g}/s, no more than {LATE_S_MAX:g} s behind"
        kept_up = stream.late_s <= LATE_S_MAX
        measured = f"{stream.rate:g}/s, {stream.late_s:.2f} s behind, {stream.unsent_count} not sent"
        yield verdict(f"{stream.name}: keeps up", limit, measured, kept_up)
        if stream.p99_ms_max is not None:
            is_met = stream.latency.p99_ms <= stream.p99_ms_max
            limit, measured = f"at most {stream.p99_ms_max:g} ms", f"{stream.latency.p99_ms:g} ms"
            yield verdict(f"{stream.name}: latency p99", limit, measured, is_met)


def of_ramp(steps: Sequence[Step]) -> Verdict:
    """The knee of a ramp: a fact rather than a limit, unless no step at all was kept up with."""
    kept = [step.factor for step in steps if step.kept_up]
    behind = next((step for step in steps if not step.kept_up), None)
    measured = f"up to factor {kept[-1]:g}" if kept else "no step"
    if behind is not None:
        measured += f"; at {behind.factor:g} not: {behind.why}"
    return verdict("the server keeps up", f"with factor {steps[0].factor:g} at least", measured, bool(kept))


# leaks -------------------------------------------------------------------------------------------


def of_trends(streams: Sequence[StreamResult], samples: Sequence[Sample]) -> Iterator[Verdict]:
    """Leaks and drift, where the run was long enough to tell."""
    samples = [sample for sample in samples if not sample.warm_up]
    if not samples or samples[-1].at_s - samples[0].at_s < TREND_S_MIN:
        return
    samples = [samples[place] for place in trend.thinned(len(samples))]
    times_s = [sample.at_s for sample in samples]
    for text, unit, scale, growth_min, values in (
        ("server's memory", "MB", 1e6, 16e6, [float(sample.server_memory_bytes) for sample in samples]),
        ("server's open files", "", 1, 20, [float(sample.server_descriptor_count) for sample in samples]),
        ("generator's memory", "MB", 1e6, 32e6, [float(sample.generator_memory_bytes) for sample in samples]),
    ):
        if any(values) and (found := trend.of(times_s, values, share_min=0.1, growth_min=growth_min)):
            yield _trend(f"no leak: {text}", unit, scale, found)
    for stream in streams:
        intervals = [interval for interval in stream.intervals if not interval.warm_up and interval.latency.count]
        if found := _latency_trend(intervals):
            yield _trend(f"{stream.name}: latency does not drift (p95)", "ms", 1, found)


def _latency_trend(intervals: Sequence[Interval]) -> Trend | None:
    places = trend.thinned(len(intervals))
    times_s, values = [intervals[place].at_s for place in places], [intervals[place].latency.p95_ms for place in places]
    return trend.of(times_s, values, share_min=0.3, growth_min=2.0)


def _trend(text: str, unit: str, scale: float, found: Trend) -> Verdict:
    measured = f"{found.first / scale:.3g} → {found.last / scale:.3g} {unit}, {found.per_hour / scale:+.3g} an hour"
    return verdict(text, "no steady growth", measured, not found.grows)


# targets -----------------------------------------------------------------------------------------


def figure_of(run: Run, must: Must) -> float:
    """The figure that a target judges. Raises PerfError for a stream that the run does not have."""
    stream = run.stream(must.stream)
    if stream is None:
        raise PerfError(f"the target asks for stream {must.stream!r}, which profile {run.profile} does not have")
    if must.figure == "rate":
        return stream.rate
    if must.figure == "instances_per_s":
        return stream.instances_per_s
    if must.figure == "failures":
        return float(sum(stream.failures.values()))
    return float(getattr(stream.latency, must.figure))


def of_musts(run: Run, musts: Sequence[Must]) -> Iterator[Verdict]:
    """What a target asks of one run."""
    for must in musts:
        if must.stream in run.left_out:
            yield not_measured(must.text, must.limit, run.left_out[must.stream])
            continue
        value = figure_of(run, must)
        is_met = value >= must.at_least if must.at_least is not None else value <= (must.at_most or 0.0)
        has_count = bool((stream := run.stream(must.stream)) and stream.latency.count)
        yield verdict(must.text, must.limit, f"{value:.4g}{must.unit}", is_met and has_count)


def of_target(target: Target, machine: Machine, disk: Disk | None, start_s: float | None) -> Iterator[Verdict]:
    """The hardware, as far as it can be seen from here, and the start time."""
    hardware = target.hardware
    cores, memory = f"at least {hardware.cores}", f"at least {hardware.memory_gb:g} GB"
    if machine.is_server:
        yield verdict("processors", cores, str(machine.cores), machine.cores >= hardware.cores)
        memory_gb = machine.memory_bytes / GB
        yield verdict("memory", memory, f"{memory_gb:.1f} GB", memory_gb >= hardware.memory_gb * MEMORY_SHARE)
    else:
        why = "the server is on another machine: run filmroom doctor --target there"
        yield not_measured("processors", cores, why)
        yield not_measured("memory", memory, why)
    yield from _disk_lines(target, disk)
    limit = f"at most {target.start_s_max:g} s"
    if start_s is None:
        yield not_measured("start until ready", limit, "give the command that restarts the server with --restart")
    else:
        yield verdict("start until ready", limit, f"{start_s:.1f} s", start_s <= target.start_s_max)


def _disk_lines(target: Target, disk: Disk | None) -> Iterator[Verdict]:
    hardware = target.hardware
    years = f"{target.growth_tb_a_year:g} TB a year: one year at least"
    limits = (
        ("disk: fdatasync p99", f"at most {hardware.sync_p99_ms_max:g} ms"),
        ("disk: write rate", f"at least {hardware.write_mb_per_s_min:g} MB/s"),
        ("disk: read rate", f"at least {hardware.read_mb_per_s_min:g} MB/s"),
        ("disk: room for the growth", years),
    )
    if disk is None:
        for text, limit in limits:
            yield not_measured(text, limit, "name the server's data folder with --disk")
        return
    room_years = disk.free_bytes / TB / target.growth_tb_a_year
    measured = (
        (f"{disk.sync_p99_ms:g} ms", disk.sync_p99_ms <= hardware.sync_p99_ms_max),
        (f"{disk.write_mb_per_s:g} MB/s", disk.write_mb_per_s >= hardware.write_mb_per_s_min),
        (f"{disk.read_mb_per_s:g} MB/s", disk.read_mb_per_s >= hardware.read_mb_per_s_min),
        (f"{disk.free_bytes / TB:.2f} TB free, {room_years:.1f} years", room_years >= 1),
    )
    for (text, limit), (value, is_met) in zip(limits, measured, strict=True):
        yield verdict(text, limit, value, is_met)
