"""STOW-RS load: C connections, each in its own thread, each sending N instances, one a request.

As in `load_store`, the request is built once, patched in place and sent with one call; only the status of the answer is
checked. `perf.web` runs it.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from perf import corpus, harness, population
from perf.harness import Latencies, PerfError
from perf.load_store import StoreResult
from perf.population import StudyFacts

LOOK_EVERY = 1000
BOUNDARY = b"perf-boundary-0123456789abcdef"
LINE_END = b"\r\n"
END = b"--%s--\r\n" % BOUNDARY
STUDY_VALUES = (
    "study_date", "study_time", "accession_number", "referring_physician", "description", "patient_name", "patient_id",
    "birth_date", "sex", "study_id", "study_uid",
)  # fmt: skip
"""Fields of `population.StudyFacts`, by the names of a template's patchable values."""


@dataclass(frozen=True, slots=True)
class StowLoad:
    """The load to send."""

    connection_count: int
    instance_count: int
    """Instances of each connection: one series."""
    first_study: int
    web_root: str
    template: str = "ct"


class StowMessage:
    """A POST with one instance, which is patched in place; or one part of a POST of many."""

    def __init__(
        self, authority: str, web_root: str, template: corpus.Template, *, headers: str = "", part_count: int = 1
    ) -> None:
        """`headers`: more header lines, each with its line end."""
        meta = _file_meta(template.sop_class_uid)
        part = b"--%s\r\nContent-Type: application/dicom\r\n\r\n" % BOUNDARY + bytes(128) + b"DICM"
        part_bytes = len(part) + len(meta) + len(template.data_set) + len(LINE_END)
        self.head = (
            b"POST %s/studies HTTP/1.1\r\nHost: %s\r\nAccept: application/dicom+json\r\n%s"
            b'Content-Type: multipart/related; type="application/dicom"; boundary=%s\r\nContent-Length: %d\r\n\r\n'
            % (web_root.encode(), authority.encode(), headers.encode(), BOUNDARY, part_bytes * part_count + len(END))
        )
        is_alone = part_count == 1
        before = self.head + part if is_alone else part
        self.buffer = bytearray(before + meta + template.data_set + LINE_END + (END if is_alone else b""))
        self._meta_uid = len(before) + meta.index(b"0" * corpus.INSTANCE_UID_BYTES)
        self._data_set = len(before) + len(meta)
        self._offsets = template.offsets
        self._study = 0

    def set_study(self, facts: StudyFacts) -> None:
        self._study = facts.number
        for name in STUDY_VALUES:
            self._put(name, getattr(facts, name))
        self._put("series_uid", corpus.series_uid(facts.number, 1))
        self._put("series_number", b"1".ljust(6))

    def set_instance(self, number: int) -> None:
        uid = corpus.instance_uid(self._study, 1, number)
        self.buffer[self._meta_uid : self._meta_uid + len(uid)] = uid
        self._put("sop_instance_uid", uid)
        self._put("instance_number", b"%d" % number)

    def _put(self, name: str, value: bytes) -> None:
        offset, length = self._offsets[name]
        start = self._data_set + offset
        self.buffer[start : start + length] = value.ljust(length)[:length]


def _file_meta(sop_class_uid: bytes) -> bytes:
    elements = [
        (0x00020001, b"OB", b"\0\1"),
        (0x00020002, b"UI", sop_class_uid),
        (0x00020003, b"UI", b"0" * corpus.INSTANCE_UID_BYTES),
        (0x00020010, b"UI", corpus.EXPLICIT_LITTLE_ENDIAN),
        (0x00020012, b"UI", corpus.UID_ROOT + b".1"),
    ]
    body = b"".join(corpus.element_bytes(*element) for element in elements)
    return corpus.element_bytes(0x00020000, b"UL", len(body).to_bytes(4, "little")) + body


def _message(port: int, load: StowLoad, study: int, part_count: int = 1) -> StowMessage:
    message = StowMessage(f"127.0.0.1:{port}", load.web_root, corpus.template(load.template), part_count=part_count)
    message.set_study(population.plain_study(study, "CT", (load.instance_count,)))
    return message


def run(port: int, load: StowLoad, *, server_pid: int = 0) -> StoreResult:
    """Sends the load; connections are opened before the measurement. Raises PerfError if one cannot be opened."""
    latencies: list[int] = []
    failures: Counter[str] = Counter()
    ready, lock = threading.Barrier(load.connection_count + 1), threading.Lock()

    def work(index: int) -> None:
        request = _message(port, load, load.first_study + index)
        own: list[int] = []
        own_failures: Counter[str] = Counter()
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ready.wait()
            for number in range(1, load.instance_count + 1):
                request.set_instance(number)
                started_ns = time.perf_counter_ns()
                try:
                    sock.sendall(request.buffer)
                    status = answer_status(sock)
                except (OSError, PerfError) as error:
                    own_failures[str(error)] += 1
                    break
                own.append(time.perf_counter_ns() - started_ns)
                if status != "200":
                    own_failures[status] += 1
                    break
        with lock:
            latencies.extend(own)
            failures.update(own_failures)

    threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(load.connection_count)]
    for thread in threads:
        thread.start()
    try:
        ready.wait(timeout=180)
    except threading.BrokenBarrierError:
        raise PerfError("the connections did not open") from None
    cpu_before = harness.cpu_s(server_pid) if server_pid else 0.0
    own_before, started = time.process_time(), time.perf_counter()
    for thread in threads:
        thread.join()
    elapsed_s, own_s = time.perf_counter() - started, time.process_time() - own_before
    cpu_s = harness.cpu_s(server_pid) - cpu_before if server_pid else 0.0
    sent = len(latencies)
    stored = sent - sum(failures.values())
    return StoreResult(
        instances_per_s=round(stored / elapsed_s, 1),
        megabytes_per_s=round(stored * len(corpus.template(load.template).data_set) / elapsed_s / 1e6, 1),
        latency=Latencies.of(latencies),
        server_cpu_ms=round(cpu_s * 1000 / max(1, sent), 4),
        generator_cpu_ms=round(own_s * 1000 / max(1, sent), 4),
        disk_flushes=0.0,
        sent_count=sent,
        failed_count=load.connection_count * load.instance_count - stored,
        failures=dict(failures),
        window=1,
        elapsed_s=round(elapsed_s, 4),
        studies=tuple(range(load.first_study, load.first_study + load.connection_count)),
    )


def run_parts(port: int, load: StowLoad, look: Callable[[], None]) -> float:
    """Sends all instances as parts of one request. Returns the seconds. Calls `look` now and then.

    Raises PerfError unless all were stored.
    """
    request = _message(port, load, load.first_study, load.instance_count)
    started = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(request.head)
        for number in range(1, load.instance_count + 1):
            request.set_instance(number)
            sock.sendall(request.buffer)
            if number % LOOK_EVERY == 0:
                look()
        sock.sendall(END)
        status = answer_status(sock)
        look()
    if status != "200":
        raise PerfError(f"a request of {load.instance_count} parts was answered with {status}")
    return time.perf_counter() - started


def answer_status(sock: socket.socket) -> str:
    """Reads a whole answer. Returns its status. Raises PerfError."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = sock.recv(65536)
        if not piece:
            raise PerfError("the server closed the connection")
        answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head[9:12].decode()
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            length = int(value)
            while len(body) < length and (piece := sock.recv(65536)):
                body += piece
            return status
        if name == b"transfer-encoding":
            while not body.endswith(b"0\r\n\r\n") and (piece := sock.recv(65536)):
                body += piece
            return status
    return status
