"""Reasons to doubt a measurement: is it the server that was measured, or the kernel's timers, or the generator?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from perf import native
from perf.bench.recorder import Histogram
from perf.bench.result import Machine, Sample, StreamResult, Warning_
from perf.harness import median

DELAYED_ACKS_MS = ((38.5, 46.0), (78.0, 90.0))
"""One and two delayed acknowledgements of Linux (40 ms), with a little work."""
DELAYED_SHARE = 0.25
GENERATOR_CORES_MAX = 0.8
"""Python's threads share one core."""
LAG_MS_MAX = 5.0
LAG_SHARE = 0.25
SECONDS_MIN = 10.0
REQUESTS_MIN = 100
OTHERS_SHARE = 0.25


def delayed_acknowledgements(name: str, latencies: Histogram) -> Warning_ | None:
    """A warning if latencies heap up at 40 ms, and hardly any are beside the heap."""
    heap = sum(latencies.share_between(low, high) for low, high in DELAYED_ACKS_MS)
    beside = latencies.share_between(25.0, 38.5) + latencies.share_between(46.0, 60.0)
    if latencies.count < 20 or heap < DELAYED_SHARE or beside > heap / 2:
        return None
    text = (
        f"{name}: {heap:.0%} of the requests took 40 or 80 ms, and few took a little less or more. One side sends in "
        "small pieces (Nagle's algorithm) and waits for the other's delayed acknowledgement: this measures a timer of "
        "the kernel. Set TCP_NODELAY at the side that sends the pieces."
    )
    return Warning_("delayed acknowledgements", text)


def of_run(
    streams: Sequence[StreamResult], samples: Sequence[Sample], seconds: float, machine: Machine
) -> Iterator[Warning_]:
    """The warnings of a whole run."""
    measured = [sample for sample in samples if not sample.warm_up] or list(samples)
    own = median([sample.generator_cores for sample in measured])
    if own > GENERATOR_CORES_MAX:
        text = f"The generator used {own:.2f} of its one core: it may be the limit. Send from several machines."
        yield Warning_("generator", text)
    lag_ms = median([sample.generator_lag_p99_ms for sample in measured])
    fastest_ms = min((stream.latency.p99_ms for stream in streams if stream.latency.count), default=0.0)
    if lag_ms > LAG_MS_MAX and lag_ms > LAG_SHARE * fastest_ms:
        text = f"The generator began requests up to {lag_ms:.1f} ms late (p99) by itself: latencies contain that."
        yield Warning_("generator", text)
    if not native.is_available():
        text = "There is no C compiler here: the receiver of retrievals is Python and slower than a server."
        yield Warning_("generator", text)
    if machine.is_server:
        yield from _shared(measured, own, machine)
    if seconds < SECONDS_MIN:
        yield Warning_("short", f"Only {seconds:.1f} s were measured: no more than a first look.")
    if rare := [stream.name for stream in streams if stream.latency.count < REQUESTS_MIN]:
        text = f"Fewer than {REQUESTS_MIN} requests of {', '.join(rare)}: p99 is then one of the slowest two."
        yield Warning_("short", text)


def _shared(measured: Sequence[Sample], own: float, machine: Machine) -> Iterator[Warning_]:
    busy = median([sample.machine_cores for sample in measured])
    server = median([sample.server_cores for sample in measured])
    share = own / busy if busy else 0.0
    text = f"Server and generator share this machine; the generator took {share:.0%} of its busy processor time."
    yield Warning_("shared machine", text)
    others = busy - own - server
    if server and others > OTHERS_SHARE * machine.cores:
        yield Warning_("busy machine", f"Other processes, and the kernel for them, kept {others:.1f} processors busy.")
