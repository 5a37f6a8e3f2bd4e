"""Reasons to doubt a measurement: is it the server that was measured, or the kernel's timers, or the generator?"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence

from perf import native, wire
from perf.association import Association, Target
from perf.bench.recorder import Histogram
from perf.bench.result import Machine, Sample, StreamResult, Warning_
from perf.harness import median

DELAYED_ACKS_MS = (38.5, 50.0)
"""A delayed acknowledgement of Linux (40 ms), with a little work."""
DELAYED_SHARE = 0.25
EDGE_SHARE = 0.02
"""Hardly any request takes a little less: a timer has a sharp edge, work has none."""
ECHO_COUNT = 30
ECHO_DIFFERENCE_MS = 25.0
GENERATOR_CORES_MAX = 0.8
"""Python's threads share one core."""
LAG_MS_MAX = 5.0
LAG_SHARE = 0.25
SECONDS_MIN = 10.0
REQUESTS_MIN = 100
OTHERS_SHARE = 0.25


def delayed_acknowledgements(name: str, services: Histogram) -> Warning_ | None:
    """A warning if the times from sending to answer heap up above 40 ms, with a sharp edge below."""
    heap = services.share_between(*DELAYED_ACKS_MS)
    edge = services.share_between(25.0, DELAYED_ACKS_MS[0])
    if services.count < 20 or heap < DELAYED_SHARE or edge > EDGE_SHARE:
        return None
    text = (
        f"{name}: {heap:.0%} of the requests took 40 to 50 ms from sending to answer, and hardly any a little less. "
        "Probably one side sends in small pieces (Nagle's algorithm) and waits for a delayed acknowledgement; then "
        " this measures a timer of the kernel. Set TCP_NODELAY at the side that sends the pieces."
    )
    return Warning_("delayed acknowledgements", text)


def answers_in_pieces(target: Target) -> Warning_ | None:
    """A warning if the server's answers wait for our delayed acknowledgements. Raises PerfError.

    A new connection acknowledges at once by itself for a while, so the first C-ECHOs do not count.
    """
    delayed_ms = _echo_ms(dataclasses.replace(target, quick_acks=False))
    if delayed_ms < ECHO_DIFFERENCE_MS:
        return None
    prompt_ms = _echo_ms(dataclasses.replace(target, quick_acks=True))
    if delayed_ms - prompt_ms < ECHO_DIFFERENCE_MS:
        return None
    text = (
        f"A C-ECHO takes {delayed_ms:.0f} ms, and {prompt_ms:.1f} ms when this machine acknowledges at once: the "
        "server writes its answers in pieces without TCP_NODELAY, and each waits for a delayed acknowledgement. "
        "Modalities meet the same delay. To measure without it, add --quick-acks."
    )
    return Warning_("delayed acknowledgements", text)


def _echo_ms(target: Target) -> float:
    """The median time of the last third of ECHO_COUNT C-ECHOs."""
    association, times_ms = Association(target, [wire.Context(1, wire.VERIFICATION)]), []
    try:
        for _ in range(ECHO_COUNT):
            started = time.perf_counter()
            association.echo(1)
            times_ms.append((time.perf_counter() - started) * 1000)
    finally:
        association.release()
    return median(times_ms[-ECHO_COUNT // 3 :])


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
