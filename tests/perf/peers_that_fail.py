"""DIMSE servers for the loads that answer in one way only, in a thread of the test."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from perf import wire
from perf.association import PDU_LENGTH_MAX, Connection
from perf.harness import PerfError

TLS_ALERT = b"\x15\x03\x01\x00\x02\x02\x46"
UNKNOWN_CALLING_TITLE = wire.pdu(wire.ASSOCIATE_RJ, bytes((0, 1, 1, 3)))


@contextmanager
def serving(serve: Callable[[Connection, bytes], None]) -> Iterator[int]:
    """The port of a server; `serve` gets each connection with the body of its association request."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=handle, args=(Connection(sock),), daemon=True).start()

        def handle(connection: Connection) -> None:
            try:
                serve(connection, connection.read_pdu()[1])
            except (OSError, PerfError):
                pass
            finally:
                connection.close()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def bytes_only(answer: bytes) -> Callable[[Connection, bytes], None]:
    """Answers each association request with these bytes."""

    def serve(connection: Connection, request: bytes) -> None:
        connection.sock.sendall(answer)

    return serve


def status_only(status: int) -> Callable[[Connection, bytes], None]:
    """Answers each C-ECHO with success, and each other request with this status."""

    def serve(connection: Connection, request: bytes) -> None:
        connection.sock.sendall(wire.answer_associate_rq(request, PDU_LENGTH_MAX)[0])
        while (message := connection.read_message()) is not None:
            if message.has_data_set:
                connection.discard_data_set()
            answer = wire.response(message.command, 0 if message.field == wire.C_ECHO_RQ else status)
            frames = wire.frames(message.context_id, answer, command=True, pdu_length_max=PDU_LENGTH_MAX)
            connection.send_pdus(*frames)

    return serve
