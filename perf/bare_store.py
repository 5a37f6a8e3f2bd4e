"""What durable ingest could reach on this machine: a bare server that copies, writes, syncs and answers.

    python -m perf.bare_store                          one connection and eight, beside the disk's own loops
    python -m perf.bare_store --connections 1

Each message is one data set; its answer goes out when a prewritten file has it, synced. Whatever has come while the
server synced shares the next sync. It parses nothing, sums nothing and keeps no index: a server of one process that
writes a data set when it is whole is no faster with this sender.
"""

from __future__ import annotations

import argparse
import os
import selectors
import socket
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from perf import corpus, disk_loop, harness
from perf.harness import Latencies, PerfError, say

ANSWER = bytes(160)
"""As long as a C-STORE-RSP."""
READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class BareResult:
    connection_count: int
    instances_per_s: float
    latency: Latencies
    server_cpu_ms: float
    sender_cpu_ms: float
    of_disk: float
    """The rate over that of the disk's own loop, which writes the same into a prewritten file, as many to a sync."""


class _Connection:
    """What one sender has sent of its message."""

    def __init__(self, sock: socket.socket, size: int) -> None:
        self.sock = sock
        self.memory = memoryview(bytearray(size))
        self.received = 0

    def read(self) -> bool:
        """Reads what is there; whether the message is whole. Raises EOFError at the end."""
        while self.received < len(self.memory):
            try:
                count = self.sock.recv_into(self.memory[self.received : self.received + READ_BYTES])
            except BlockingIOError:
                return False
            if count == 0:
                raise EOFError
            self.received += count
        self.received = 0
        return True


def _serve(listener: socket.socket, fd: int, size: int, slots: int, connection_count: int) -> None:
    selector = selectors.DefaultSelector()
    for _ in range(connection_count):
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ, _Connection(sock, size))
    slot = 0
    while selector.get_map():
        whole = []
        for key, _ in selector.select():
            try:
                if key.data.read():
                    os.pwrite(fd, key.data.memory, slot % slots * size)
                    slot += 1
                    whole.append(key.data.sock)
            except EOFError:
                selector.unregister(key.data.sock)
        if whole:
            os.fdatasync(fd)
            for sock in whole:
                sock.send(ANSWER)


def _send(sock: socket.socket, data: bytes, count: int, ready: threading.Barrier, latencies_ns: list[int]) -> None:
    ready.wait()
    for _ in range(count):
        started_ns = time.perf_counter_ns()
        sock.sendall(data)
        if len(sock.recv(4096)) != len(ANSWER):
            raise PerfError("the bare server has ended")
        latencies_ns.append(time.perf_counter_ns() - started_ns)


def run(directory: Path, connection_count: int, instance_count: int) -> BareResult:
    """`instance_count` instances over all connections, after a loop of the disk alone."""
    data = corpus.template("ct").data_set
    slots = min(instance_count, 400)
    disk = disk_loop.run(directory, "prewritten", instance_count=slots, group=connection_count)
    with tempfile.TemporaryFile(dir=directory) as file, socket.create_server(("127.0.0.1", 0)) as listener:
        for slot in range(slots):
            os.pwrite(file.fileno(), data, slot * len(data))
        os.fsync(file.fileno())
        child = os.fork()
        if child == 0:
            try:
                _serve(listener, file.fileno(), len(data), slots, connection_count)
            finally:
                os._exit(0)
        ready = threading.Barrier(connection_count + 1)
        latencies_ns: list[int] = []
        each = instance_count // connection_count
        sockets = [socket.create_connection(listener.getsockname()) for _ in range(connection_count)]
        for sock in sockets:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        senders = [
            threading.Thread(target=_send, args=(sock, data, each, ready, latencies_ns), daemon=True)
            for sock in sockets
        ]
        for sender in senders:
            sender.start()
        ready.wait(60)
        cpu_s, own_s, started = harness.cpu_s(child), time.process_time(), time.perf_counter()
        for sender in senders:
            sender.join()
        elapsed_s, own_s = time.perf_counter() - started, time.process_time() - own_s
        cpu_s = harness.cpu_s(child) - cpu_s
        for sock in sockets:
            sock.close()
        os.waitpid(child, 0)
    rate = len(latencies_ns) / elapsed_s
    return BareResult(
        connection_count=connection_count,
        instances_per_s=round(rate, 1),
        latency=Latencies.of(latencies_ns),
        server_cpu_ms=round(cpu_s * 1000 / len(latencies_ns), 4),
        sender_cpu_ms=round(own_s * 1000 / len(latencies_ns), 4),
        of_disk=round(rate / disk.instances_per_s, 3),
    )


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()), help="on the disk meant")
    parser.add_argument("--connections", type=int, default=0, help="one and eight unless given")
    parser.add_argument("--instances", type=int, default=1600)
    options = parser.parse_args(arguments)
    return _report(options)


def _report(options: argparse.Namespace) -> int:
    counts = [options.connections] if options.connections else [1, 8]
    results = [run(options.directory, count, 16 if options.smoke else options.instances) for count in counts]
    rows = [
        [r.connection_count, f"{r.instances_per_s:.0f}", str(r.latency), r.server_cpu_ms, r.sender_cpu_ms, r.of_disk]
        for r in results
    ]
    header = ("connections", "instances/s", "latency", "server CPU ms", "sender CPU ms", "of the disk's loop")
    say(harness.table(header, rows))
    if options.json:
        harness.write_json(options.json, {"bare_store": [asdict(r) for r in results], "smoke": options.smoke})
    return 0


if __name__ == "__main__":
    raise SystemExit(harness.guarded(main))
