"""Other systems that rules tell of what has happened: an IAN SCP and an HL7 receiver."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    InstanceAvailabilityNotification,
    ModalityPerformedProcedureStep,
)

from engine.hl7 import FrameReader, framed, parse


class Notified:
    """An SCP of Instance Availability Notification."""

    def __init__(self) -> None:
        self.notifications: list[tuple[str, Dataset]] = []
        """SOP Instance UID and attributes of each request that was answered Success."""
        self.statuses: list[int] = []
        """Of the next answers; then Success."""
        self.attempts = 0
        self.port = 0

    def create(self, event: evt.Event) -> tuple[int, None]:
        """Answers one N-CREATE."""
        self.attempts += 1
        status = self.statuses.pop(0) if self.statuses else 0
        if not status:
            self.notifications.append((str(event.request.AffectedSOPInstanceUID), event.attribute_list))
        return status, None


@contextmanager
def notified() -> Iterator[Notified]:
    """Runs one."""
    scp, ae = Notified(), AE("RIS")
    ae.add_supported_context(InstanceAvailabilityNotification)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_CREATE, scp.create)])
    scp.port = server.socket.getsockname()[1]
    try:
        yield scp
    finally:
        server.shutdown()


class Informed:
    """An SCP of performed steps, with the states of PS3.4 F.7."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, Dataset]] = []
        """What was accepted: N-CREATE or N-SET, UID, attributes."""
        self.statuses: list[int] = []
        """Of the next answers; then by the states."""
        self.port = 0

    def create(self, event: evt.Event) -> tuple[int, Dataset | None]:
        """Answers one N-CREATE."""
        return self._answer("N-CREATE", str(event.request.AffectedSOPInstanceUID), event.attribute_list)

    def set(self, event: evt.Event) -> tuple[int, Dataset | None]:
        """Answers one N-SET."""
        return self._answer("N-SET", str(event.request.RequestedSOPInstanceUID), event.modification_list)

    def _answer(self, operation: str, uid: str, attributes: Dataset) -> tuple[int, Dataset | None]:
        if self.statuses:
            return self.statuses.pop(0), None
        if (operation == "N-SET") != any(other == uid for _, other, _ in self.requests):
            return 0x0112 if operation == "N-SET" else 0x0111, None
        self.requests.append((operation, uid, attributes))
        return 0, attributes


@contextmanager
def informed() -> Iterator[Informed]:
    """Runs one."""
    scp, ae = Informed(), AE("MPPS")
    ae.add_supported_context(ModalityPerformedProcedureStep)
    handlers = [(evt.EVT_N_CREATE, scp.create), (evt.EVT_N_SET, scp.set)]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    scp.port = server.socket.getsockname()[1]
    try:
        yield scp
    finally:
        server.shutdown()


class Taker:
    """A receiver of HL7 messages."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        """All that came, also what was not accepted."""
        self.codes: list[str] = []
        """MSA-1 of the next answers; then AA. "" closes the connection instead."""
        self.port = 0

    def answer(self, payload: bytes) -> bytes:
        """The acknowledgement; b"" to close."""
        self.messages.append(payload)
        code = self.codes.pop(0) if self.codes else "AA"
        control_id = parse(payload).first("MSH").raw(10)  # type: ignore[union-attr]
        header = f"MSH|^~\\&|RIS||FILMROOM||20261130||ACK|1|P|2.5.1\rMSA|{code}|{control_id}|as scripted\r"
        return framed(header.encode()) if code else b""


@contextmanager
def taking() -> Iterator[Taker]:
    """Runs one."""
    taker = Taker()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            frames = FrameReader(1 << 20)
            while data := self.request.recv(65536):
                for frame in frames.feed(data):
                    answer = taker.answer(frame.payload)
                    if not answer:
                        return
                    self.request.sendall(answer)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    with Server(("127.0.0.1", 0), Handler) as server:
        taker.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield taker
        finally:
            server.shutdown()
