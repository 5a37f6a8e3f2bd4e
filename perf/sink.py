"""A storage SCP that keeps nothing: the destination of C-MOVE loads, and a server to measure the generator.

    python -m perf.sink --port 11113 [--host 0.0.0.0]

It listens on 127.0.0.1 by default; set --host to an address that a server on another machine can reach. It accepts
every presentation context, drops data sets inside the kernel and answers each instance at once. It runs in threads of
the measuring program, so that arrival and request have the same clock. After the negotiation, compiled code runs if
there is a C compiler (`native`).
"""

from __future__ import annotations

import dataclasses
import socket
import threading
import time
from dataclasses import dataclass

from perf import harness, native, wire
from perf.association import PDU_LENGTH_MAX, Connection
from perf.harness import PerfError, say


@dataclass(slots=True)
class SinkCounts:
    """Counts since the last reset."""

    instance_count: int = 0
    data_set_bytes: int = 0
    association_count: int = 0
    first_command_ns: int = 0
    """perf_counter_ns of the first C-STORE-RQ; 0: none yet."""
    first_instance_ns: int = 0
    """The same for the last byte of the first data set."""

    def add(self, receiver: native.Receiver) -> None:
        """Adds the counts of a receiver."""
        self.instance_count += receiver.instance_count
        self.data_set_bytes += receiver.data_set_bytes
        self.first_command_ns = _earlier(self.first_command_ns, receiver.first_command_ns)
        self.first_instance_ns = _earlier(self.first_instance_ns, receiver.first_instance_ns)


def _earlier(one_ns: int, other_ns: int) -> int:
    """The earlier of two times; 0 is none."""
    return min(filter(None, (one_ns, other_ns)), default=0)


class Sink:
    """Listens from construction on; one thread an association."""

    def __init__(self, port: int = 0, aet: str = "SINK", host: str = "127.0.0.1") -> None:
        """Raises PerfError if it cannot listen on `host`:`port`."""
        self.aet = aet
        self._counts = SinkCounts()
        """Counts of ended associations, and of all without compiled code."""
        self._receivers: list[native.Receiver] = []
        self._lock = threading.Lock()
        try:
            self._listener = socket.create_server((host, port), backlog=128)
        except OSError as error:
            raise PerfError(f"the sink cannot listen on {host}:{port}: {error.strerror or error}") from None
        self.port: int = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def counts(self) -> SinkCounts:
        """The counts up to now."""
        with self._lock:
            counts = dataclasses.replace(self._counts)
            for receiver in self._receivers:
                counts.add(receiver)
        return counts

    def reset(self) -> None:
        """Resets the counts. Everything must have been answered."""
        with self._lock:
            self._counts = SinkCounts()
            for receiver in self._receivers:
                receiver.instance_count = receiver.data_set_bytes = 0
                receiver.first_command_ns = receiver.first_instance_ns = 0

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(timeout=5)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(Connection(sock),), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        """Serves one association from its request to its end; an error ends only its own thread."""
        try:
            kind, body = connection.read_pdu()
            if kind != wire.ASSOCIATE_RQ:
                return
            answer, peer_length_max = wire.answer_associate_rq(body, PDU_LENGTH_MAX)
            connection.sock.sendall(answer)
            with self._lock:
                self._counts.association_count += 1
            if native.is_available():
                self._receive(connection, peer_length_max)
                return
            while (message := connection.read_message()) is not None:
                if message.field == wire.C_STORE_RQ:
                    self._store(connection)
                reply = wire.frame(
                    message.context_id, wire.response(message.command), command=True, pdu_length_max=peer_length_max
                )
                connection.sock.sendall(reply)
        except (OSError, PerfError):
            pass
        finally:
            connection.close()

    def _receive(self, connection: Connection, peer_length_max: int) -> None:
        """Receives by compiled code until the peer releases. Commands other than C-STORE and C-ECHO get no answer."""
        receiver = native.Receiver(fd=connection.sock.fileno())
        with self._lock:
            self._receivers.append(receiver)
        while (outcome := receiver.receive()) == native.COMMAND:
            command = wire.parse_command(receiver.other_bytes)
            if wire.number(command, 0x0100) != wire.C_ECHO_RQ:
                break
            answer = wire.response(command)
            connection.sock.sendall(
                wire.frame(receiver.other_kind, answer, command=True, pdu_length_max=peer_length_max)
            )
        with self._lock:
            self._receivers.remove(receiver)
            self._counts.add(receiver)
        if outcome == native.OTHER_PDU and receiver.other_kind == wire.RELEASE_RQ:
            connection.sock.sendall(wire.RELEASE_RP_PDU)

    def _store(self, connection: Connection) -> None:
        counts = self._counts
        if not counts.first_command_ns:
            counts.first_command_ns = time.perf_counter_ns()
        size = connection.discard_data_set()
        if not counts.first_instance_ns:
            counts.first_instance_ns = time.perf_counter_ns()
        with self._lock:
            counts.instance_count += 1
            counts.data_set_bytes += size


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all of this machine's")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--seconds", type=float, default=3600.0, help="time after which it ends")
    options = parser.parse_args(arguments)
    sink = Sink(options.port, host=options.host)
    say(f"sink ready on port {sink.port}")
    stop = threading.Event()
    try:
        stop.wait(0.2 if options.smoke else options.seconds)
    except KeyboardInterrupt:
        pass
    sink.close()
    say(f"{sink.counts.instance_count} instances, {sink.counts.data_set_bytes} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(harness.guarded(main))
