"""C-STORE load: A associations, each in its own thread, each sending N instances of a synthetic study.

    python -m perf.load_store --port 11112 --associations 8 --instances 200
    python -m perf.load_store --peer storescp --associations 1 --instances 400

An instance is a prebuilt framed message with a few bytes overwritten and one `sendall`; the answer is one `recv`.
Latency runs from before the send until the answer has been read. All associations are open and warm before the
measurement starts, and stay open until it has ended.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path

from perf import corpus, harness, peers, population, wire
from perf.association import Association, Target
from perf.harness import Latencies, PerfError, say

CONTEXT_ID = 1
REMOVAL = "to delete the stored studies: filmroom delete 'PatientID=BENCH-*' 'PatientName=Bench^*'"


@dataclass(frozen=True, slots=True)
class StoreLoad:
    """The load to send."""

    template: str = "ct"
    association_count: int = 1
    instance_count: int = 200
    """Instances of each association."""
    series_instance_count: int = 200
    """Instances of a series, which is a whole study."""
    pdu_length_max: int = 131072
    window: int = 1
    """Outstanding operations; more than 1 is negotiated."""
    warm_up_count: int = 5
    first_study: int = 1


@dataclass(frozen=True, slots=True)
class StoreResult:
    instances_per_s: float
    megabytes_per_s: float
    latency: Latencies
    server_cpu_ms: float
    """User + system time of the server's processes, an instance; 0 if no process was named."""
    generator_cpu_ms: float
    """The generator's own, an instance."""
    disk_flushes: float
    """Disk cache flushes an instance, of the whole machine."""
    sent_count: int
    failed_count: int
    failures: dict[str, int]
    window: int
    elapsed_s: float
    studies: tuple[int, ...]
    """Numbers of the studies sent, in the order of sending."""


@dataclass(slots=True)
class _Sender:
    """The counts of one association; the main thread reads them after its end."""

    latencies_ns: list[int] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    error: str = ""
    window: int = 1


def study_count(load: StoreLoad) -> int:
    """The number of study numbers that a load uses, with warm-up studies."""
    return load.association_count * (1 + -(-load.instance_count // load.series_instance_count))


def run(target: Target, load: StoreLoad, *, server_pid: int = 0, data: Path | None = None) -> StoreResult:
    """Sends the load; raises PerfError if an association cannot be opened."""
    template = corpus.template(load.template)
    ready = threading.Barrier(load.association_count + 1)
    go, done = threading.Event(), threading.Barrier(load.association_count + 1)
    leave = threading.Event()
    senders = [_Sender() for _ in range(load.association_count)]
    per_association = study_count(load) // load.association_count

    def work(index: int) -> None:
        sender = senders[index]
        first_study = load.first_study + index * per_association
        association = None
        try:
            context = wire.Context(CONTEXT_ID, template.sop_class_uid, (corpus.EXPLICIT_LITTLE_ENDIAN,))
            association = Association(target, [context], pdu_length_max=load.pdu_length_max, window=load.window)
            sender.window = association.window
            message = wire.StoreMessage(template, CONTEXT_ID, association.pdu_length_max)
            _send(association, message, first_study, load.warm_up_count, load, _Sender())
            ready.wait()
            go.wait()
            _send(association, message, first_study + 1, load.instance_count, load, sender)
        except (OSError, PerfError) as error:
            sender.error = str(error)
            if not go.is_set():
                ready.abort()
        except threading.BrokenBarrierError:
            pass
        finally:
            if go.is_set():
                done.wait()
                leave.wait()
            if association is not None:
                association.release()

    threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(load.association_count)]
    for thread in threads:
        thread.start()
    try:
        ready.wait(timeout=180)
    except threading.BrokenBarrierError:
        raise PerfError(next((s.error for s in senders if s.error), "the associations did not open")) from None
    cpu_before = harness.cpu_s(server_pid) if server_pid else 0.0
    flushes_before = harness.disk_flush_count(data) if data else 0
    own_before, started = time.process_time(), time.perf_counter()
    go.set()
    done.wait()
    elapsed_s, own_s = time.perf_counter() - started, time.process_time() - own_before
    cpu_s = harness.cpu_s(server_pid) - cpu_before if server_pid else 0.0
    flushes = harness.disk_flush_count(data) - flushes_before if data else 0
    leave.set()
    for thread in threads:
        thread.join()
    errors = [sender.error for sender in senders if sender.error]
    failures: dict[str, int] = {}
    for sender in senders:
        for name, count in sender.failures.items():
            failures[name] = failures.get(name, 0) + count
    for error in errors:
        failures[error] = failures.get(error, 0) + 1
    latencies = [value for sender in senders for value in sender.latencies_ns]
    sent = len(latencies)
    stored = sent - sum(failures.values()) + len(errors)
    return StoreResult(
        instances_per_s=round(stored / elapsed_s, 1),
        megabytes_per_s=round(stored * len(template.data_set) / elapsed_s / 1e6, 1),
        latency=Latencies.of(latencies),
        server_cpu_ms=round(cpu_s * 1000 / max(1, sent), 4),
        generator_cpu_ms=round(own_s * 1000 / max(1, sent), 4),
        disk_flushes=round(flushes / max(1, sent), 3),
        sent_count=sent,
        failed_count=load.association_count * load.instance_count - stored,
        failures=failures,
        window=senders[0].window,
        elapsed_s=round(elapsed_s, 4),
        studies=tuple(
            load.first_study + index * per_association + 1 + place
            for index in range(load.association_count)
            for place in range(per_association - 1)
        ),
    )


def _send(
    association: Association, message: wire.StoreMessage, study: int, count: int, load: StoreLoad, sender: _Sender
) -> None:
    """`count` instances from study number `study` on, one series of `series_instance_count` instances a study."""
    clock, send = time.perf_counter_ns, association.send_pdus
    pdus = message.pdus() if association.nagle else [memoryview(message.buffer)]
    outstanding: deque[int] = deque()
    place = load.series_instance_count
    study -= 1
    for sent in range(count):
        if place == load.series_instance_count:
            study, place = study + 1, 0
            facts = population.plain_study(study, "CT", (load.series_instance_count,))
            message.set_study(facts)
            message.set_series(corpus.series_uid(study, 1), 1)
        place += 1
        message.set_instance(place, sent & 0x7FFF)
        outstanding.append(clock())
        send(*pdus)
        if len(outstanding) >= association.window:
            _answer(association, outstanding.popleft(), sender)
    while outstanding:
        _answer(association, outstanding.popleft(), sender)


def _answer(association: Association, started_ns: int, sender: _Sender) -> None:
    if association.window == 1:
        status = association.read_status()
    else:
        reply = association.read_message()
        if reply is None:
            raise PerfError("the peer released the association instead of answering")
        status = reply.status
    sender.latencies_ns.append(time.perf_counter_ns() - started_ns)
    if status != 0:
        name = f"status {status:04X}"
        sender.failures[name] = sender.failures.get(name, 0) + 1


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    harness.target_options(parser)
    parser.add_argument("--associations", type=int, default=1)
    parser.add_argument("--instances", type=int, default=400, help="of each association")
    parser.add_argument("--template", default="ct", help="ct, mr, tiny or tiny-<modality>")
    parser.add_argument("--series-instances", type=int, default=200)
    parser.add_argument("--pdu", type=int, default=131072)
    parser.add_argument("--window", type=int, default=1, help="operations outstanding, where the peer grants it")
    parser.add_argument("--first-study", type=int, default=1, help="so that a second load has other UIDs")
    parser.add_argument("--warm-up", type=int, default=5)
    options = parser.parse_args(arguments)
    if options.smoke:
        options.instances, options.associations, options.warm_up = 20, min(options.associations, 2), 2
    load = StoreLoad(
        template=options.template,
        association_count=options.associations,
        instance_count=options.instances,
        series_instance_count=options.series_instances,
        pdu_length_max=options.pdu,
        window=options.window,
        warm_up_count=options.warm_up,
        first_study=options.first_study,
    )
    return peers.with_target(options, lambda target, pid: _report(options, run(target, load, server_pid=pid)))


def _report(options: argparse.Namespace, result: StoreResult) -> int:
    say(f"{result.instances_per_s:.0f} instances/s  {result.megabytes_per_s:.0f} MB/s  {result.latency}")
    say(
        f"server CPU {result.server_cpu_ms:.3f} ms an instance, generator {result.generator_cpu_ms:.3f} ms; "
        f"{result.sent_count} sent, {result.failed_count} failed {result.failures or ''}"
    )
    if warning := harness.delayed_by_acknowledgements(result.latency):
        say(warning)
    if not options.peer:
        say(REMOVAL)
    if options.json:
        harness.write_json(options.json, {"load_store": asdict(result), "smoke": options.smoke})
    return 1 if result.failed_count else 0


if __name__ == "__main__":
    raise SystemExit(harness.guarded(main))
