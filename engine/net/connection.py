"""One association over one TCP connection, either role: connects `ul.Association` and `dimse.assembly` with asyncio.

It does not interpret messages: whole commands and data sets go to its user, which answers through `send`.

    kernel → Receiver (compiled) → events → Association (states) → user
    user → send / accept / release / abort → Association → transport

The receiver's own methods are the transport's callbacks, so a fragment costs no Python call of ours. A timer that ticks
at least once a second (`ConnectionLimits.tick_s`) watches ARTIM, idle peers, stalled and slow messages and stalled
writes.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

from engine import log
from engine.delivery import WINDOW_SHARE, Delivery, acknowledged_bytes, read_bytes, undelivered_bytes
from engine.dimse import assembly
from engine.errors import LocalProtocolError, RemoteProtocolError, for_log
from engine.net.trace import Trace
from engine.tls import names_of
from engine.ul import events as ul_events
from engine.ul.association import Association, Role
from engine.ul.pdu import AssociateAC, AssociateRJ, AssociateRQ

logger = log.get("net.connection")

TICK_S_MAX = 1.0
"""The longest interval of the timer: with it 1 000 idle associations cost 1 000 cheap calls a second."""

TICK_S_MIN = 0.05
TICKS_PER_TIMEOUT = 10
"""The timer ticks faster for short timeouts, so that each is precise to a tenth."""

UNREAD_BYTES_MAX = 256 << 10
"""Bytes of our responses that a peer has not read, above which we stop reading its requests."""

TLS_JUDGED_BYTES = 1 << 20
"""Of so many bytes of TLS at least a fifth must be data: key updates and records of one byte cost us far more than
their sender. Records of 16 KiB add a thousandth, a C-ECHO adds a third."""

_NO_LINGER = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing resets the connection."""

_DATA = frozenset({assembly.COMMAND, assembly.DATA_SET, assembly.DATA_SET_PART})


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of one association."""

    p_data_length_max: int = 16 << 20
    """Bytes of one received P-DATA-TF; we announce far less, but some peers ignore that."""
    control_length_max: int = 1 << 20
    """Bytes of any other received PDU: 128 contexts with dozens of syntaxes take about 200 KiB."""
    part_bytes: int = 8 << 20
    """A received data set longer than this goes to the user in parts."""
    pdv_count_max: int = 1 << 15
    """PDVs in one P-DATA-TF."""
    artim_timeout_s: float = 10.0
    message_timeout_s: float = 30.0
    """An incomplete PDU or message, or a write, without progress for so long ends the association."""
    rate_bytes_per_s_min: int = 0
    """Bytes a second that the peer must send inside a PDU or message, on average over each `message_timeout_s`; 0: one
    byte is progress."""
    delivery_rate_bytes_per_s_min: int = 0
    """Bytes a second that the peer must receive, on average over nine tenths of `message_timeout_s`; 0: one byte is
    progress."""
    idle_timeout_s: float = 300.0
    """An association without an operation is ended after so long without a byte; 0: never."""

    @property
    def tick_s(self) -> float:
        """The interval of the timer."""
        shortest_s = min(self.artim_timeout_s, self.message_timeout_s, self.idle_timeout_s or self.artim_timeout_s)
        return min(TICK_S_MAX, max(TICK_S_MIN, shortest_s / TICKS_PER_TIMEOUT))


class AssociationUser(Protocol):
    """Receives the events of a `Connection`; all calls come on the loop's thread."""

    @property
    def busy(self) -> bool:
        """Whether an operation is in progress, so that a silent association is not idle."""

    def associate_requested(self, rq: AssociateRQ) -> AssociateAC | AssociateRJ | None:
        """The answer; None: the user calls `Connection.answer` later, or aborts the association."""

    def associate_accepted(self, ac: AssociateAC) -> None: ...
    def associate_rejected(self, rj: AssociateRJ) -> None: ...
    def command_received(self, presentation_context_id: int, command: bytes, has_data_set: bool) -> None: ...
    def data_set_received(self, presentation_context_id: int, data_set: assembly.DataSet, is_last: bool) -> None:
        """Takes over `data_set`: the user releases it."""

    def release_requested(self) -> bool:
        """True: answer at once. False: the user calls `respond_release` when its operations are done."""

    def association_ended(self, reason: str) -> None:
        """Called exactly once: released, rejected, aborted or lost."""


class Connection(asyncio.BufferedProtocol):
    """One association over one TCP connection."""

    def __init__(
        self,
        user_factory: Callable[[Connection], AssociationUser],
        role: Role,
        pool: assembly.ChunkPool,
        limits: ConnectionLimits,
        trace: Trace | None = None,
        request: AssociateRQ | None = None,
        trusts: Callable[[frozenset[str]], bool] | None = None,
    ) -> None:
        """`request`: the proposal that a requestor sends as soon as it is connected.

        `trusts`: the connection is over TLS; judges the names in the peer's certificate before anything is sent.
        """
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._association = Association(role, artim_timeout_s=limits.artim_timeout_s)
        self._request = request
        self.receiver = assembly.Receiver(
            pool,
            self._on_events,
            p_data_length_max=limits.p_data_length_max,
            control_length_max=limits.control_length_max,
            part_bytes=limits.part_bytes,
            pdv_count_max=limits.pdv_count_max,
        )
        # The event loop looks these up on the protocol once, when the transport is made.
        self.get_buffer = self.receiver.get_buffer  # type: ignore[method-assign]
        self.buffer_updated = self.receiver.buffer_updated  # type: ignore[assignment, method-assign]
        self._trusts = trusts
        if trusts is not None:
            self.get_buffer = self._get_view  # type: ignore[method-assign]
        self._read_bytes = self._data_bytes = 0
        """Bytes read from a TLS connection, and bytes of data in them, when these were last judged."""
        self._made_at = self._loop.time()
        self._transport: asyncio.Transport | None = None
        self._trace = trace
        self._pauses = 0
        self._resumed: asyncio.Future[None] | None = None
        self._write_stalled_at: float | None = None
        self._delivered_before = 0
        self._delivery = self._new_delivery()
        self._message_turn = asyncio.Lock()
        self._is_in_message = False
        """Whether a message is being sent in several parts."""
        self._behind: list[Any] = []
        """Data to send after that message."""
        self._outlet: assembly.Outlet | None = None
        self._unread_bytes = 0
        self._is_choked = False
        """Whether reading is paused until the peer reads."""
        self._closing_since: float | None = None
        self.gave_up = False
        """Whether we aborted the association because the peer was too slow."""
        self._progress_bytes = -1
        self._progress_at = self._loop.time()
        self._measured_at: float | None = None
        """Start of the present rate measurement; None: no message is incomplete."""
        self._measured_from = 0
        self._log = logger
        self._busy_at = 0.0
        self._has_stopped_receiving = False
        self._end_reason: str | None = None
        self._ended = False
        self._tick: asyncio.TimerHandle | None = None
        self._tick_due = 0.0
        self._is_late = False
        """Whether the last tick came much too late, so that it judged nothing."""
        self.peer_host = ""
        self.peer_port = 0
        self.certificate_names: frozenset[str] | None = None
        """The names in the peer's verified certificate (`tls.names_of`); None without TLS."""
        self.user = user_factory(self)

    # -- asyncio's side -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The TCP connection is open."""
        self._transport = cast(asyncio.Transport, transport)
        peername = transport.get_extra_info("peername")
        if peername:
            self.peer_host, self.peer_port = str(peername[0]), int(peername[1])
            self._log = logger.about(self.peer_host)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            # With the Nagle algorithm a single sender would wait 40 ms for each response.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self.receiver.quick_ack_fd = sock.fileno()
        # With a high-water mark of 0, writes go out at once and `drained` means that the kernel has everything.
        high_bytes = 0
        ssl_object = transport.get_extra_info("ssl_object")
        if ssl_object is not None:
            self.certificate_names = names_of(ssl_object)
            # A TLS transport pauses at `size >= high` and resumes at `size <= low`: with 0 it would do both at 0 bytes.
            high_bytes = 1
            if self._trusts is not None and not self._trusts(self.certificate_names):
                self._end_reason = "its certificate is not the one of this peer"
                self._transport.abort()
                return
        transport.set_write_buffer_limits(high=high_bytes)  # type: ignore[attr-defined]
        if self._request is not None:
            self._association.request(self._request)
        # ARTIM counts a TLS handshake too.
        self._dispatch(self._association.transport_connected(self._made_at))
        self._schedule_tick()

    def _get_view(self, sizehint: int) -> memoryview:
        """`get_buffer` for a TLS transport, which slices its buffers."""
        return memoryview(self.receiver.get_buffer(sizehint))

    def _write(self, data: Any) -> None:
        if self.certificate_names is not None and not isinstance(data, bytes):
            data = memoryview(data)  # a TLS transport takes no other buffers
        self._transport.write(data)  # type: ignore[union-attr]

    def connection_lost(self, exc: Exception | None) -> None:
        """The TCP connection was closed by either side."""
        if self._tick is not None:
            self._tick.cancel()
        self._stop_receiving()
        self.close_outlet()
        self._dispatch(self._association.transport_closed(self._loop.time()))
        self._transport = None
        if self._resumed is not None and not self._resumed.done():
            self._resumed.set_exception(ConnectionResetError("the connection is closed"))
            self._resumed.exception()  # nobody may be waiting
        if exc is None and self.receiver.read_errno:
            exc = OSError(self.receiver.read_errno, os.strerror(self.receiver.read_errno))
        self._end(self._end_reason or (f"connection lost: {exc}" if exc else "connection closed by the peer"))

    def drop(self, reason: str) -> None:
        """Ends a connection that was never open, such as one whose TLS handshake failed."""
        self._stop_receiving()
        self._end(reason)

    def eof_received(self) -> bool:
        """The peer closed its side: closes ours too, since DICOM has no half-closed associations."""
        return False

    def pause_writing(self) -> None:
        """The peer reads more slowly than we write."""
        if self._resumed is None:
            self._resumed = self._loop.create_future()
            self._write_stalled_at = self._loop.time()
            self._delivered_before = 0
            self._set_outlet()

    def resume_writing(self) -> None:
        """The peer has caught up."""
        if self._resumed is not None and not self._resumed.done():
            self._resumed.set_result(None)
        self._resumed = None
        self._write_stalled_at = None
        self._set_outlet()
        self._unread_bytes = 0
        if self._is_choked:
            self._is_choked = False
            self.resume_reading()

    # -- the user's side ------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether messages may be sent."""
        return self._transport is not None and self._association.sending_allowed

    @property
    def silent_s(self) -> float:
        """Seconds without a byte of the peer and without an operation; 0 while a message is incomplete.

        Up to the interval of the timer less than it is.
        """
        if self.receiver.mid_message or self._progress_bytes != self.receiver.bytes_received or self._pauses:
            return 0.0
        return self._loop.time() - max(self._progress_at, self._busy_at)

    @property
    def awaits_answer(self) -> bool:
        """Whether the peer's A-ASSOCIATE-RQ waits for `answer`."""
        return self._transport is not None and self._association.awaits_answer

    @property
    def held_bytes(self) -> int:
        """Bytes in memory of incomplete PDUs and messages."""
        return self.receiver.held_bytes

    @property
    def end_reason(self) -> str:
        """Why the association ends; "": nothing has ended it. It is known before the connection has ended."""
        return self._end_reason or ""

    @property
    def received_bytes(self) -> int:
        """All bytes that the peer has sent."""
        return self.receiver.bytes_received

    @property
    def is_reading(self) -> bool:
        """Whether we read from the peer."""
        return not self._pauses

    @property
    def unsent_bytes(self) -> int:
        """Bytes that the kernel has not taken yet. While it is not 0, do not change any `Frame` that was sent.

        A response does not mean that it is 0: a peer may refuse a data set before it has read all of it.
        """
        if self._behind:
            behind = sum(memoryview(data).nbytes for data in self._behind)
            return behind + (self._transport.get_write_buffer_size() if self._transport else 0)
        return 0 if self._resumed is None or self._transport is None else self._transport.get_write_buffer_size()

    @property
    def delivered_bytes(self) -> int:
        """Bytes that the peer's system has acknowledged since the connection was made: grows while a slow peer reads.

        How much our kernel takes from us says little about the peer: the kernel buffers megabytes for a slow line.
        """
        sock = self._socket()
        acknowledged = acknowledged_bytes(sock) if sock is not None else None
        return -self.unsent_bytes if acknowledged is None else acknowledged

    def send(self, data: Any) -> None:
        """Sends whole P-DATA-TF of whole messages; drops them when the association has ended or is ending.

        While a message is sent in parts, others wait behind it: fragments of two never mix (PS3.8 Annex E.2).
        """
        if self.is_open:
            if self._is_in_message:
                self._behind.append(data)
            else:
                self._write(data)

    @asynccontextmanager
    async def message(self) -> AsyncIterator[Callable[[Any], None]]:
        """Sends a message in several parts, with waits between them: yields the function that sends a part."""
        async with self._message_turn:
            self._is_in_message = True
            self._set_outlet()
            try:
                yield self._send_part
            except BaseException:
                self._behind.clear()  # an incomplete message ends the association
                raise
            finally:
                self._is_in_message = False
                behind, self._behind = self._behind, []
                for data in behind:
                    self.send(data)
                self._set_outlet()

    def open_outlet(self) -> assembly.Outlet | None:
        """A direct way to the socket for a caller that sends many whole messages; None where that is impossible.

        It is free exactly while `send` would write at once. There is one at a time: the caller must close it.
        """
        sock = self._socket()
        if (
            self._outlet is None
            and self._transport is not None
            and sock is not None
            and self._transport.get_extra_info("sslcontext") is None
        ):
            try:
                self._outlet = assembly.Outlet(sock.fileno())
            except OSError:
                return None  # no descriptor is free
            self._set_outlet()
            return self._outlet
        return None

    def close_outlet(self) -> None:
        """Closes the outlet, if it is open."""
        if self._outlet is not None:
            self.receiver.eager_fd = -1
            self._outlet.close()
            self._outlet = None

    def _set_outlet(self) -> None:
        if self._outlet is not None:
            is_free = self.is_open and self._resumed is None and not self._is_in_message
            self._outlet.is_free = is_free
            # Answers to what leaves there are read as eagerly.
            may_read = is_free and not self._pauses and not self._has_stopped_receiving
            self.receiver.eager_fd = self._outlet.fd if may_read else -1

    def _send_part(self, data: Any) -> None:
        if self.is_open:
            self._write(data)

    def send_message(self, presentation_context_id: int, command: bytes, data_set: bytes | None, fragment: int) -> None:
        """Sends a small message: its command, and its data set if there is one, in fragments of `fragment` bytes."""
        data = self.encode_message(presentation_context_id, command, data_set, fragment)
        self.send(data)
        if self._resumed is not None:
            self._unread_bytes += len(data)
            if self._unread_bytes > UNREAD_BYTES_MAX and not self._is_choked:
                self._is_choked = True
                self.pause_reading()

    def encode_message(
        self, presentation_context_id: int, command: bytes, data_set: bytes | None, fragment: int
    ) -> bytes:
        """A small message as P-DATA-TF, for a caller that sends several at once."""
        self.trace_command(presentation_context_id, command)
        data = assembly.p_data_tf(presentation_context_id, True, command, fragment)
        if data_set is not None:
            data += assembly.p_data_tf(presentation_context_id, False, data_set, fragment)
        return data

    def trace_command(self, presentation_context_id: int, command: bytes) -> None:
        """Writes a sent command to the wire trace, if that is on."""
        if self._trace is not None:
            self._trace.command("out", presentation_context_id, command)

    def filter_commands(self, handle: Callable[[int, bytes], bool] | None) -> bool:
        """Passes commands without a data set to `handle` as they are read, before the user; None: to the user only.

        `handle` gets presentation context id and command, returns whether it has handled it, and must not raise.
        Returns False when there is a filter already, or a wire trace, which must see all commands.
        """
        if handle is not None and (self._trace is not None or self.receiver.on_command is not None):
            return False
        self.receiver.on_command = handle
        return True

    async def drained(self) -> None:
        """Waits until the kernel has everything that was sent. Raises ConnectionResetError when the connection ends."""
        while self._behind and self.is_open:
            async with self._message_turn:
                pass
        await self.part_drained()

    async def part_drained(self) -> None:
        """The same within a message: does not wait for messages behind it."""
        if self._transport is None:
            raise ConnectionResetError("the connection is closed")
        if self._resumed is not None:
            await asyncio.shield(self._resumed)

    def pause_reading(self) -> None:
        """Stops reading from the peer; calls nest."""
        self._pauses += 1
        self._set_outlet()
        if self._pauses == 1 and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Undoes one `pause_reading`."""
        self._pauses -= 1
        self._set_outlet()
        if self._pauses == 0 and self._transport is not None and not self._transport.is_closing():
            self._progress_at = self._loop.time()
            self._transport.resume_reading()

    def answer(self, answer: AssociateAC | AssociateRJ) -> None:
        """Answers an A-ASSOCIATE-RQ after `associate_requested` returned None; does nothing when the peer is gone."""
        if self.awaits_answer:
            self._answer(answer)
            self._flush()

    def respond_release(self) -> None:
        """Answers A-RELEASE-RQ after `release_requested` returned False; does nothing when the association has ended.

        It must not raise: operations end in the answers of a group commit, which one peer's fault must not break.
        """
        if self._transport is not None and self._association.release_indicated:
            self._association.respond_release(now=self._loop.time())
            self._end_reason = self._end_reason or "released by the peer"
            self._flush()

    def request_release(self) -> None:
        """Requests the release, unless the peer has requested it already."""
        if self._transport is not None and self._association.release_request_allowed:
            self._association.request_release()
            self._flush()

    def abort(self, why: str, source: int = 0, reason: int = 0) -> None:
        """Sends A-ABORT, then closes the connection."""
        if self._transport is None:
            return
        self._end_reason = self._end_reason or why
        try:
            self._association.abort(source, reason, now=self._loop.time())
        except LocalProtocolError:
            self._transport.abort()  # there is no association yet, or its abort is already in progress
            return
        self._stop_receiving()
        self._flush()

    def give_up(self, why: str) -> None:
        """Aborts the association with a peer that is too slow, and drops data that it has not received."""
        self.gave_up = True
        is_stuck = self._is_stuck()
        self.abort(why)
        if is_stuck:
            self._reset()

    def adjust(self, **limits: Any) -> None:
        """Changes limits, by their names in `ConnectionLimits`: the A-ASSOCIATE-RQ shows who the peer is."""
        self._limits = replace(self._limits, **limits)
        self._delivery = self._new_delivery()

    # -- inside ---------------------------------------------------------------------------------

    def _new_delivery(self) -> Delivery:
        limits = self._limits
        return Delivery(limits.delivery_rate_bytes_per_s_min, WINDOW_SHARE * limits.message_timeout_s)

    def _socket(self) -> socket.socket | None:
        return None if self._transport is None else self._transport.get_extra_info("socket")

    def _reset(self) -> None:
        """Resets the connection, and so drops undelivered data: otherwise the closed transport and the kernel would
        keep it for as long as the peer does not read."""
        sock = self._socket()
        if self._transport is not None and sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            self._transport.abort()

    def _is_stuck(self) -> bool:
        """Whether some sent bytes have not reached the peer."""
        sock = self._socket()
        return self.unsent_bytes > 0 or (sock is not None and undelivered_bytes(sock) > 0)

    def _on_events(self, events: list[tuple[Any, ...]]) -> None:
        for event in events:
            kind = event[0]
            if self._has_stopped_receiving:
                # This event came in one read with the one that ended the association.
                if kind in (assembly.DATA_SET, assembly.DATA_SET_PART):
                    event[2].release()
            elif kind in _DATA and not self._association.data_transfer_allowed:
                # This event came in one read with a PDU that ends data transfer, A-RELEASE-RQ for example.
                if kind != assembly.COMMAND:
                    event[2].release()
                self._stop_receiving()
                self._dispatch(self._association.data_received(self._loop.time()))
            elif kind == assembly.COMMAND:
                if self._trace is not None:
                    self._trace.command("in", event[1], event[2])
                self.user.command_received(event[1], event[2], event[3])
            elif kind == assembly.DATA_SET:
                if self._trace is not None:
                    self._trace.data_set("in", event[1], event[2].length, True)
                self.user.data_set_received(event[1], event[2], True)
            elif kind == assembly.DATA_SET_PART:
                self.user.data_set_received(event[1], event[2], False)
            elif kind == assembly.PDU:
                if self._trace is not None:
                    self._trace.pdu("in", event[1], event[2])
                self._dispatch(self._association.pdu_received(event[1], event[2], self._loop.time()))
            elif kind == assembly.ERROR:
                self._protocol_error(RemoteProtocolError(event[2], 2, event[1]))
            elif self._association.data_transfer_allowed:
                # Data is allowed now, but this came before we sent our A-ASSOCIATE-AC (PS3.8 9.2.3, Sta3).
                self._protocol_error(RemoteProtocolError("P-DATA-TF before A-ASSOCIATE-AC", 2, 2))
            else:
                self._dispatch(self._association.data_received(self._loop.time()))

    def _protocol_error(self, error: RemoteProtocolError) -> None:
        self._log.warning("protocol error", peer=self.peer_host, error=for_log(error), reason=error.reason)
        self._end_reason = self._end_reason or f"protocol error: {error}"
        self._dispatch(self._association.protocol_error(error, self._loop.time()))

    def _dispatch(self, events: list[ul_events.Event]) -> None:
        """Passes the association's events to the user, then sends its PDUs."""
        for event in events:
            match event:
                case ul_events.AssociateRequested(rq):
                    answer = self.user.associate_requested(rq)
                    if answer is not None:
                        self._answer(answer)
                case ul_events.AssociateAccepted(ac):
                    self.user.associate_accepted(ac)
                case ul_events.AssociateRejected(rj):
                    self._end_reason = f"rejected by the peer: {rj}"
                    self.user.associate_rejected(rj)
                case ul_events.ReleaseRequested() if self.receiver.mid_message:
                    self.abort("released in the middle of a message")
                case ul_events.ReleaseRequested():
                    if self.user.release_requested():
                        self.respond_release()
                case ul_events.ReleaseConfirmed():
                    self._end_reason = "released"
                case ul_events.Aborted():
                    self._stop_receiving()
                    by = "the peer" if event.by_peer else "us"
                    self._end_reason = self._end_reason or (
                        f"aborted by {by} (source {event.source}, reason {event.reason})"
                    )
                case _:
                    pass
        self._flush()

    def _answer(self, answer: AssociateAC | AssociateRJ) -> None:
        if isinstance(answer, AssociateAC):
            self._association.accept(answer)
        else:
            self._end_reason = f"rejected by us: {answer}"
            self._association.reject(answer, now=self._loop.time())

    def _flush(self) -> None:
        self.receiver.data_allowed = self._association.data_transfer_allowed
        data = self._association.data_to_send()
        self._set_outlet()
        if data and self._transport is not None:
            if self._trace is not None:
                self._trace.sent(data)
            self._transport.write(data)
        if self._association.wants_close:
            self._stop_receiving()
            if self._transport is not None:
                self._transport.close()

    def _stop_receiving(self) -> None:
        self._has_stopped_receiving = True
        self.receiver.stop()

    def _schedule_tick(self) -> None:
        self._tick_due = self._loop.time() + self._limits.tick_s
        self._tick = self._loop.call_later(self._limits.tick_s, self._on_tick)

    def _on_tick(self) -> None:
        now = self._loop.time()
        # A loop that was held up runs its timers before it reads: what the peer has sent meanwhile must count. A loop
        # that is late again and again still judges at each second tick.
        self._is_late = not self._is_late and now >= self._tick_due + self._limits.tick_s
        self._schedule_tick()
        if self._is_late:
            return
        if self._is_closing_too_long(now):
            self._reset()
            return
        if self._association.deadline is not None and now >= self._association.deadline:
            self._end_reason = self._end_reason or "ARTIM timer expired"
            is_stuck = self._is_stuck()
            self._dispatch(self._association.timer_expired(now))
            if is_stuck:
                self._reset()
            return
        if self._is_slow(now) or self._is_flooding():
            return
        if self._is_sending_slowly(now):
            self.abort(
                f"the peer sent less than {self._limits.rate_bytes_per_s_min} bytes a second in the middle of a message"
            )
            return
        if self._progress_bytes != self.receiver.bytes_received or self._pauses:
            self._progress_bytes = self.receiver.bytes_received
            self._progress_at = now
            return
        silent_s = now - self._progress_at
        if self.receiver.mid_message and silent_s > self._limits.message_timeout_s:
            self.abort(f"the peer stopped in the middle of a message for {silent_s:.0f} s")
        elif self.user.busy:
            self._busy_at = now
        elif self.is_open and 0 < self._limits.idle_timeout_s < now - max(self._progress_at, self._busy_at):
            self.abort(f"idle for {silent_s:.0f} s")

    def _is_closing_too_long(self, now: float) -> bool:
        if self._transport is None or not self._transport.is_closing():
            return False
        if self._closing_since is None:
            self._closing_since = now
        return now - self._closing_since > self._limits.artim_timeout_s

    def _is_flooding(self) -> bool:
        """Aborts if the peer sends much TLS and little data; returns whether it did."""
        sock = self._socket() if self.certificate_names is not None else None
        if sock is None:
            return False
        read, data = read_bytes(sock), self.receiver.bytes_received
        fresh, carried = read - self._read_bytes, data - self._data_bytes
        if fresh < TLS_JUDGED_BYTES:
            return False
        self._read_bytes, self._data_bytes = read, data
        if fresh <= 5 * carried:
            return False
        self._log.warning("a flood of TLS records without data", peer=self.peer_host, bytes=fresh, data_bytes=carried)
        self.abort(f"{fresh} bytes of TLS carried {carried} bytes of data")
        self._reset()
        return True

    def _is_slow(self, now: float) -> bool:
        """Aborts if the peer stopped reading or reads too slowly; returns whether it did."""
        limits, is_stalled = self._limits, self._write_stalled_at is not None
        if not (is_stalled or self.user.busy) or not self.is_open:
            return False
        delivered = self.delivered_bytes
        if self._delivery.is_too_slow(now, delivered, pending=is_stalled or self._is_stuck()):
            self.give_up(f"the peer received less than {limits.delivery_rate_bytes_per_s_min} bytes a second")
            return True
        if self._write_stalled_at is None:
            return False
        if delivered > self._delivered_before:
            self._write_stalled_at = now
        self._delivered_before = delivered
        if now - self._write_stalled_at > limits.message_timeout_s:
            self.give_up(f"the peer received nothing for {limits.message_timeout_s:g} s")
            return True
        return False

    def _is_sending_slowly(self, now: float) -> bool:
        """Whether the peer sent its incomplete message too slowly in the last `message_timeout_s`."""
        received = self.receiver.bytes_received
        if (
            not self._limits.rate_bytes_per_s_min
            or self._pauses
            or self._has_stopped_receiving
            or not self.receiver.mid_message
        ):
            self._measured_at = None
        elif self._measured_at is None:
            self._measured_at, self._measured_from = now, received
        elif (measured_s := now - self._measured_at) >= self._limits.message_timeout_s:
            if received - self._measured_from < self._limits.rate_bytes_per_s_min * measured_s:
                return True
            self._measured_at, self._measured_from = now, received
        return False

    def _end(self, reason: str) -> None:
        if not self._ended:
            self._ended = True
            if self._trace is not None:
                self._trace.close(reason)
                self._trace = None
            self.user.association_ended(reason)
