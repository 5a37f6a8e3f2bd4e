"""Memory of the server's processes: under many ingesting associations, and for one object larger than memory allows.

    python -m perf.memory --peer filmroom --associations 64 --instances 20
    python -m perf.memory --peer filmroom --large-bytes 8000000000
    python -m perf.memory --web-bytes 8000000000              by STOW-RS and WADO-RS, of a Filmroom that it starts

The large object is one C-STORE, or one STOW-RS request, of encapsulated fragments. The sender repeats one prebuilt
megabyte and never holds more; the receiver gets it back by C-GET or WADO-RS and keeps only a checksum.
"""

from __future__ import annotations

import argparse
import http.client
import random
import socket
import struct
import threading
import time
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

from perf import corpus, harness, load_store, peers, population, retrieval, wire
from perf.association import Association, Target
from perf.harness import Memory, PerfError, say
from perf.load_store import StoreLoad
from perf.stow import BOUNDARY, END, answer_status

JPEG_2000_LOSSLESS = b"1.2.840.10008.1.2.4.90"
LARGE_STUDY = 900_000_000
MEGABYTE = 1_000_000


class MemoryWatch:
    """Samples the processes of a tree until `stop`; keeps the largest values of each."""

    def __init__(self, root_pid: int, period_s: float = 0.1) -> None:
        self._root_pid, self._period_s = root_pid, period_s
        self._stop = threading.Event()
        self._peaks: dict[int, Memory] = {}
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while True:
            self._sample()
            if self._stop.wait(self._period_s):
                return

    def _sample(self) -> None:
        for pid in harness.descendants(self._root_pid):
            now, old = harness.memory(pid), self._peaks.get(pid)
            if now.rss_bytes:
                self._peaks[pid] = now if old is None else Memory(
                    pid=pid,
                    rss_bytes=max(now.rss_bytes, old.rss_bytes),
                    rss_peak_bytes=max(now.rss_peak_bytes, old.rss_peak_bytes),
                    anonymous_bytes=max(now.anonymous_bytes, old.anonymous_bytes),
                    pss_bytes=max(now.pss_bytes, old.pss_bytes),
                )  # fmt: skip

    def stop(self) -> list[Memory]:
        self._stop.set()
        self._thread.join()
        self._sample()
        return sorted(self._peaks.values(), key=lambda each: each.pid)


@dataclass(frozen=True, slots=True)
class MemoryResult:
    case: str
    seconds: float
    processes: list[Memory]
    note: str
    passed: bool = True


def measure_ingest(target: Target, server_pid: int, load: StoreLoad) -> MemoryResult:
    watch = MemoryWatch(server_pid)
    try:
        result = load_store.run(target, load, server_pid=server_pid)
    finally:
        processes = watch.stop()
    rate = f"{result.instances_per_s:.0f} instances/s, {result.failed_count} failed"
    note = f"{load.association_count} associations, {rate}"
    return MemoryResult("ingest", result.elapsed_s, processes, note, result.failed_count == 0)


# one large object --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LargeObject:
    """The pieces of an encapsulated data set of any size: the head, one fragment to repeat, the tail."""

    head: bytes
    item: bytes
    item_count: int
    tail: bytes

    @property
    def data_set_bytes(self) -> int:
        return len(self.head) + len(self.item) * self.item_count + len(self.tail)

    def crc32(self) -> int:
        value = zlib.crc32(self.head)
        for _ in range(self.item_count):
            value = zlib.crc32(self.item, value)
        return zlib.crc32(self.tail, value)


def large_object(size: int, fragment_bytes: int, study: int = LARGE_STUDY) -> LargeObject:
    """About `size` bytes; an item fills eight whole PDV fragments, so its framing repeats too."""
    template = corpus.template("tiny-ot")
    head = bytearray(template.data_set[: template.pixel_data_offset])
    facts = population.plain_study(study, "OT", (1,))
    values = {
        "sop_instance_uid": corpus.instance_uid(study, 1, 1), "study_uid": facts.study_uid,
        "series_uid": corpus.series_uid(study, 1), "patient_name": facts.patient_name, "patient_id": facts.patient_id,
        "series_number": b"1", "instance_number": b"1", "study_date": facts.study_date, "study_time": facts.study_time,
        "birth_date": facts.birth_date, "accession_number": facts.accession_number,
    }  # fmt: skip
    for key, value in values.items():
        offset, length = template.offsets[key]
        head[offset : offset + length] = value.ljust(length)
    head += struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
    head += struct.pack("<HHI", 0xFFFE, 0xE000, 0)  # an empty Basic Offset Table
    content = random.Random(corpus.SEED).randbytes(8 * fragment_bytes - 8)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content
    return LargeObject(bytes(head), item, max(1, size // len(item)), struct.pack("<HHI", 0xFFFE, 0xE0DD, 0))


def _not_last(framed: bytes) -> bytes:
    """A single framed PDU without its last-fragment bit."""
    return framed[:11] + bytes((framed[11] & ~2,)) + framed[12:]


def store_large(target: Target, size: int) -> LargeObject:
    sop_class_uid = corpus.SOP_CLASS_OF_MODALITY["OT"]
    association = Association(target, [wire.Context(1, sop_class_uid, (JPEG_2000_LOSSLESS,))])
    length_max = association.pdu_length_max
    room = wire.fragment_bytes(length_max)
    large = large_object(size, room)
    command = wire.store_rq(sop_class_uid, corpus.instance_uid(LARGE_STUDY, 1, 1), 1)

    def data_pdu(piece: bytes) -> bytes:
        return _not_last(wire.frame(1, piece, command=False, pdu_length_max=length_max))

    block = b"".join(data_pdu(large.item[at : at + room]) for at in range(0, len(large.item), room))
    sendall = association.sock.sendall
    sendall(wire.frame(1, command, command=True, pdu_length_max=length_max) + data_pdu(large.head))
    for _ in range(large.item_count):
        sendall(block)
    sendall(wire.frame(1, large.tail, command=False, pdu_length_max=length_max))
    status = association.read_status()
    association.release()
    if status:
        raise PerfError(f"the large object was refused: status {status:04X}")
    return large


def get_large(target: Target) -> tuple[int, int]:
    """(bytes, crc32) of the data set from a C-GET."""
    context = wire.Context(3, corpus.SOP_CLASS_OF_MODALITY["OT"], (JPEG_2000_LOSSLESS,), scp_role=True)
    association = Association(target, [wire.Context(1, wire.STUDY_ROOT_GET), context])
    syntax = association.accepted.transfer_syntaxes[1]
    identifier = retrieval.study_identifier(corpus.study_uid(LARGE_STUDY), syntax)
    association.send_message(1, wire.get_rq(1), identifier)
    size = check = 0
    while True:
        message = association.read_message()
        if message is None:
            raise PerfError("the peer released the association instead of answering")
        if message.field == wire.C_STORE_RQ:
            last = False
            while not last:
                length, _, control = association.next_pdv()
                if control < 0:
                    raise PerfError("the data set was broken off")
                check = zlib.crc32(association.receive_exactly(length), check)
                size, last = size + length, bool(control & 2)
            association.send_message(message.context_id, wire.response(message.command))
        else:
            if message.has_data_set:
                association.discard_data_set()
            if message.status not in retrieval.PENDING:
                association.release()
                if message.status:
                    raise PerfError(f"the large object did not come back: status {message.status:04X}")
                return size, check


def measure_large(target: Target, server_pid: int, size: int) -> list[MemoryResult]:
    watch, started = MemoryWatch(server_pid), time.perf_counter()
    try:
        large = store_large(target, size)
    finally:
        seconds, processes = time.perf_counter() - started, watch.stop()
    note = f"{large.data_set_bytes} bytes sent"
    results = [MemoryResult("large store", round(seconds, 2), processes, note)]
    watch, started = MemoryWatch(server_pid), time.perf_counter()
    try:
        received, check = get_large(target)
    finally:
        seconds, processes = time.perf_counter() - started, watch.stop()
    same = (received, check) == (large.data_set_bytes, large.crc32())
    note = f"{received} bytes came back, {'the same' if same else 'NOT the same'} (crc32 {check:08x})"
    results.append(MemoryResult("large retrieve", round(seconds, 2), processes, note, same))
    return results


# the same over HTTP ------------------------------------------------------------------------------


def stow_large(port: int, web_root: str, size: int) -> LargeObject:
    """One request of one part, sent as `store_large` sends it."""
    large = large_object(size, 1 << 17)
    uid = corpus.instance_uid(LARGE_STUDY, 1, 1)
    elements = [
        (0x00020001, b"OB", b"\0\1"),
        (0x00020002, b"UI", corpus.SOP_CLASS_OF_MODALITY["OT"]),
        (0x00020003, b"UI", uid),
        (0x00020010, b"UI", JPEG_2000_LOSSLESS),
        (0x00020012, b"UI", corpus.UID_ROOT + b".1"),
    ]
    meta = b"".join(corpus.element_bytes(*element) for element in elements)
    meta = corpus.element_bytes(0x00020000, b"UL", len(meta).to_bytes(4, "little")) + meta
    first = b"--%s\r\nContent-Type: application/dicom\r\n\r\n" % BOUNDARY + bytes(128) + b"DICM" + meta + large.head
    last = large.tail + b"\r\n" + END
    length = len(first) + len(large.item) * large.item_count + len(last)
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(
            b"POST %s/studies HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/dicom+json\r\nContent-Type: "
            b'multipart/related; type="application/dicom"; boundary=%s\r\nContent-Length: %d\r\n\r\n'
            % (web_root.encode(), BOUNDARY, length)
            + first
        )
        for _ in range(large.item_count):
            sock.sendall(large.item)
        sock.sendall(last)
        status = answer_status(sock)
    if status != "200":
        raise PerfError(f"the large object was answered with {status}")
    return large


def wado_large(port: int, web_root: str, data_set_bytes: int) -> tuple[int, int]:
    """(bytes, crc32) of the data set at the end of the file that comes back."""
    study, series = corpus.study_uid(LARGE_STUDY).decode(), corpus.series_uid(LARGE_STUDY, 1).decode()
    uid = corpus.instance_uid(LARGE_STUDY, 1, 1).decode()
    connection = http.client.HTTPConnection("127.0.0.1", port)
    path = f"{web_root}/studies/{study}/series/{series}/instances/{uid}"
    connection.request("GET", path, headers={"Accept": "application/dicom; transfer-syntax=*"})
    response = connection.getresponse()
    if response.status != 200 or response.length is None:
        raise PerfError(f"the large object was answered with {response.status}")
    response.read(response.length - data_set_bytes)
    size = check = 0
    while piece := response.read(MEGABYTE):
        size, check = size + len(piece), zlib.crc32(piece, check)
    connection.close()
    return size, check


def measure_web(size: int) -> list[MemoryResult]:
    """8 GB in by STOW-RS and out by WADO-RS."""
    with peers.running("filmroom", workers=1, http=True) as peer:
        watch, started = MemoryWatch(peer.pid), time.perf_counter()
        try:
            large = stow_large(peer.http_port, peer.web_root, size)
        finally:
            seconds, processes = time.perf_counter() - started, watch.stop()
        results = [MemoryResult("STOW-RS", round(seconds, 2), processes, f"{large.data_set_bytes} bytes sent")]
        watch, started = MemoryWatch(peer.pid), time.perf_counter()
        try:
            received, check = wado_large(peer.http_port, peer.web_root, large.data_set_bytes)
        finally:
            seconds, processes = time.perf_counter() - started, watch.stop()
    same = (received, check) == (large.data_set_bytes, large.crc32())
    note = f"{received} bytes came back, {'the same' if same else 'NOT the same'} (crc32 {check:08x})"
    return [*results, MemoryResult("WADO-RS", round(seconds, 2), processes, note, same)]


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    harness.target_options(parser)
    parser.add_argument("--associations", type=int, default=64)
    parser.add_argument("--instances", type=int, default=20, help="of each association")
    parser.add_argument("--template", default="ct")
    parser.add_argument("--large-bytes", type=int, default=0, help="the large object instead of the associations")
    parser.add_argument("--web-bytes", type=int, default=0, help="the large object over HTTP, and nothing else")
    options = parser.parse_args(arguments)
    if options.web_bytes:
        web_bytes = min(options.web_bytes, 20 * MEGABYTE) if options.smoke else options.web_bytes
        return _report(options, measure_web(web_bytes))
    if options.smoke:
        options.associations, options.instances = 8, 5
        options.large_bytes = min(options.large_bytes, 20 * MEGABYTE)

    def measure(target: Target, server_pid: int) -> int:
        if not server_pid:
            raise PerfError("name the server's process with --server-pid, or let --peer start one")
        if options.large_bytes:
            return _report(options, measure_large(target, server_pid, options.large_bytes))
        load = StoreLoad(
            template=options.template,
            association_count=options.associations,
            instance_count=options.instances,
            warm_up_count=1,
        )
        return _report(options, [measure_ingest(target, server_pid, load)])

    return peers.with_target(options, measure)


def _report(options: argparse.Namespace, results: list[MemoryResult]) -> int:
    rows = []
    for result in results:
        say(f"{result.case}: {result.note}, {result.seconds:.1f} s")
        rows += [
            [result.case, each.pid, *(f"{value / MEGABYTE:.1f}" for value in (
                each.rss_bytes, each.rss_peak_bytes, each.anonymous_bytes, each.pss_bytes))]
            for each in result.processes
        ]  # fmt: skip
    say(harness.table(("case", "process", "RSS MB", "RSS peak MB", "anonymous MB", "PSS MB"), rows))
    if options.json:
        document = {"memory": [asdict(result) for result in results], "smoke": options.smoke}
        harness.write_json(Path(options.json), document)
    return 0 if all(result.passed for result in results) else 1


if __name__ == "__main__":
    raise SystemExit(harness.guarded(main))
