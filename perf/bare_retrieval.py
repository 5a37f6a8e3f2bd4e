"""The upper limit of a retrieval on this machine: a minimal sender in C with the receiver of the loads.

    python -m perf.bare_retrieval                                CT and MR, one association and four, on one core
    python -m perf.bare_retrieval --template mr --associations 1

The sender reads each data set from the page cache into the message, writes that with one call and waits for the answer,
one outstanding an association; it parses nothing, computes no checksum, looks nothing up. No server with one event loop
is faster with the same receiver.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from perf import corpus, harness, native, wire
from perf.association import PDU_LENGTH_MAX, Association, Target
from perf.harness import NotInstalled, PerfError, say
from perf.sink import Sink

FILE_INSTANCES = 64
"""Data sets in the file, which bare.c reads in turn."""


@dataclass(frozen=True, slots=True)
class BareResult:
    template: str
    association_count: int
    instances_per_s: float
    megabytes_per_s: float
    sender_cpu_ms: float


def run(template_name: str, association_count: int, instance_count: int) -> BareResult:
    """Raises NotInstalled without a C compiler."""
    library = native.compiled("bare")
    if library is None or not native.is_available():
        raise NotInstalled("a C compiler is not installed")
    library.send_stored.restype = ctypes.c_int64
    template = corpus.template(template_name)
    sink = Sink()
    try:
        contexts = [wire.Context(1, template.sop_class_uid, (corpus.EXPLICIT_LITTLE_ENDIAN,))]
        associations = [Association(Target(sink.port, sink.aet), contexts) for _ in range(association_count)]
        with tempfile.TemporaryFile() as file:
            messages = [wire.StoreMessage(template, 1, PDU_LENGTH_MAX).buffer for _ in associations]
            size = len(messages[0])
            file.write(bytes(size) * FILE_INSTANCES)
            file.flush()
            took_ns, cpu_ns = _send(library, associations, messages, file.fileno(), instance_count)
        for association in associations:
            association.release()
    finally:
        sink.close()
    return BareResult(
        template=template_name,
        association_count=association_count,
        instances_per_s=round(instance_count / took_ns * 1e9, 1),
        megabytes_per_s=round(instance_count * len(template.data_set) / took_ns * 1e3, 1),
        sender_cpu_ms=round(cpu_ns / instance_count / 1e6, 4),
    )


def _send(
    library: ctypes.CDLL, associations: Sequence[Association], messages: list[bytearray], file: int, count: int
) -> tuple[int, int]:
    """(nanoseconds, those of this thread's processor time)"""
    views = [(ctypes.c_uint8 * len(message)).from_buffer(message) for message in messages]
    pointers = (ctypes.POINTER(ctypes.c_uint8) * len(views))(
        *(ctypes.cast(view, ctypes.POINTER(ctypes.c_uint8)) for view in views)
    )
    sockets = (ctypes.c_int * len(associations))(*(each.sock.fileno() for each in associations))
    cpu_ns = ctypes.c_int64()
    length = ctypes.c_int64(len(messages[0]))
    took_ns = 0
    for turn_count in (min(count, 200), count):  # the first one warms up
        took_ns = library.send_stored(
            sockets, len(associations), pointers, length, file, ctypes.c_int64(turn_count), ctypes.byref(cpu_ns)
        )
        if took_ns < 0:
            raise PerfError("the bare sender failed")
    return took_ns, cpu_ns.value


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--template", default="", help="ct or mr; both unless given")
    parser.add_argument("--associations", type=int, default=0, help="one and four unless given")
    parser.add_argument("--instances", type=int, default=4000)
    options = parser.parse_args(arguments)
    if options.smoke:
        options.instances = 64
    results = [
        run(template, count, options.instances)
        for template in ([options.template] if options.template else ["ct", "mr"])
        for count in ([options.associations] if options.associations else [1, 4])
    ]
    rows = [
        [r.template, r.association_count, f"{r.instances_per_s:.0f}", f"{r.megabytes_per_s:.0f}", r.sender_cpu_ms]
        for r in results
    ]
    say(harness.table(("data set", "associations", "instances/s", "MB/s", "sender CPU ms"), rows))
    say(f"on {os.cpu_count()} cores, sender and receiver side by side")
    if options.json:
        harness.write_json(options.json, {"bare_retrieval": [asdict(r) for r in results], "smoke": options.smoke})
    return 0


if __name__ == "__main__":
    raise SystemExit(harness.guarded(main))
