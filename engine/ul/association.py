"""One association, either role, sans-IO: PDUs and the clock in, events and bytes out (PS3.8 chapter 9).

It does not read sockets, frame PDUs, read messages or decide what to accept. The table in `ul.states` has the allowed
transitions; this module performs their actions. Its user owns the transport:

    transport  ──► transport_connected, pdu_received, data_received,   ──► list of events
                   protocol_error, transport_closed, timer_expired
    user       ──► request, accept, reject, request_release, respond_release, abort
    transport  ◄── data_to_send(), then close it once wants_close

After each call, send the bytes of `data_to_send`, close the transport if `wants_close`, and set a timer for `deadline`.

Messages do not pass through here. The receiver reads one attribute, `data_transfer_allowed`, and calls
`data_received` only for a P-DATA-TF that comes while it is False. The ARTIM timer is a time, `deadline`, of the clock
that `now` comes from. The methods for received PDUs never raise, whatever a peer sends.
"""

from __future__ import annotations

from typing import Final, assert_never

from engine.errors import LocalProtocolError, RemoteProtocolError

from . import pdu
from .events import (
    Aborted,
    AssociateAccepted,
    AssociateRejected,
    AssociateRequested,
    ConnectionClosed,
    Event,
    ReleaseConfirmed,
    ReleaseRequested,
)
from .fields import UNEXPECTED_PDU
from .states import Action, Role, State, transitions
from .states import Event as Trigger

__all__ = ["Association", "Role", "State"]

_TRIGGERS: Final[dict[int, Trigger]] = {
    pdu.PduType.ASSOCIATE_AC: Trigger.ASSOCIATE_AC_RECEIVED,
    pdu.PduType.ASSOCIATE_RJ: Trigger.ASSOCIATE_RJ_RECEIVED,
    pdu.PduType.ASSOCIATE_RQ: Trigger.ASSOCIATE_RQ_RECEIVED,
    pdu.PduType.P_DATA_TF: Trigger.DATA_RECEIVED,
    pdu.PduType.RELEASE_RQ: Trigger.RELEASE_RQ_RECEIVED,
    pdu.PduType.RELEASE_RP: Trigger.RELEASE_RP_RECEIVED,
    pdu.PduType.ABORT: Trigger.ABORT_RECEIVED,
}

_RECEIVING: Final = frozenset({State.ESTABLISHED, State.AWAITING_RELEASE_RP})
_RELEASE_INDICATED: Final = frozenset(
    {
        State.RELEASE_INDICATED,
        State.COLLISION_REQUESTOR_INDICATED,
        State.COLLISION_ACCEPTOR_AWAITING_RP,
        State.COLLISION_ACCEPTOR_INDICATED,
    }
)
_SENDING: Final = frozenset({State.ESTABLISHED, State.RELEASE_INDICATED})

_UNEXPECTED: Final = pdu.Abort(2, UNEXPECTED_PDU)


class Association:
    """One association as a state machine without I/O."""

    __slots__ = (
        "_artim_timeout_s",
        "_output",
        "_release_response_due",
        "_request",
        "_transitions",
        "data_transfer_allowed",
        "deadline",
        "role",
        "sending_allowed",
        "state",
        "wants_close",
    )

    def __init__(self, role: Role, *, artim_timeout_s: float = 10.0) -> None:
        self.role = role
        self.state = State.IDLE
        self.data_transfer_allowed = False
        """Whether the peer may send P-DATA-TF now (Sta6, Sta7)."""
        self.sending_allowed = False
        """Whether we may send P-DATA-TF now (Sta6, and Sta8: outstanding responses after a release request)."""
        self.deadline: float | None = None
        """When to call `timer_expired`; None while the ARTIM timer is stopped."""
        self.wants_close = False
        """Whether to close the transport after `data_to_send` was sent."""
        self._artim_timeout_s = artim_timeout_s
        self._transitions = transitions(role)
        self._output = bytearray()
        self._request: pdu.AssociateRQ | None = None
        self._release_response_due = False

    @property
    def release_indicated(self) -> bool:
        """Whether the peer's A-RELEASE-RQ waits for `respond_release`; no longer once either side has aborted."""
        return self.state in _RELEASE_INDICATED

    @property
    def awaits_answer(self) -> bool:
        """Whether the peer's A-ASSOCIATE-RQ waits for `accept` or `reject` (Sta3)."""
        return self.state is State.ASSOCIATE_INDICATED

    @property
    def release_request_allowed(self) -> bool:
        """Whether `request_release` may be called now."""
        return self.state is State.ESTABLISHED

    # Called by the transport -------------------------------------------------------------------

    def transport_connected(self, now: float) -> list[Event]:
        """The connection is open: one that we opened for `request`, or one that we accepted."""
        if self.role is Role.ACCEPTOR:
            self._step(Trigger.TRANSPORT_ACCEPTED)
            self._start_artim(now)
            return []
        self._step(Trigger.TRANSPORT_CONNECTED)
        if self._request is not None:
            self._send(self._request)
        return []

    def pdu_received(self, pdu_type: int, body: bytes | bytearray | memoryview, now: float) -> list[Event]:
        """Handles a whole PDU; `body` follows its six header bytes."""
        if pdu_type == pdu.PduType.P_DATA_TF:
            return self.data_received(now)
        if self.state is State.IDLE:
            return []  # the association has ended, and the transport will close
        if self.state is State.AWAITING_CLOSE:
            return self._received_while_closing(pdu_type)
        try:
            unit = pdu.decode(pdu_type, body)
        except RemoteProtocolError as error:
            return self.protocol_error(error, now)
        action = self._step(_TRIGGERS[pdu_type])
        return self._act(action, unit, now)

    def data_received(self, now: float) -> list[Event]:
        """Handles a P-DATA-TF; only needed while `data_transfer_allowed` is False."""
        if self.state is State.IDLE:
            return []
        action = self._step(Trigger.DATA_RECEIVED)
        if action in (Action.SEND_ABORT, Action.SEND_PROVIDER_ABORT):
            return self._abort_peer(_UNEXPECTED, now)
        return []

    def protocol_error(self, error: RemoteProtocolError, now: float) -> list[Event]:
        """Answers bytes that are not a valid PDU by A-ABORT, with the reason."""
        if self.state is State.IDLE:
            return []
        abort = pdu.Abort(error.source, error.reason)
        if self._step(Trigger.INVALID_PDU_RECEIVED) is Action.SEND_ABORT_AGAIN:
            self._send(abort)
            return []
        return self._abort_peer(abort, now)

    def transport_closed(self, now: float) -> list[Event]:
        """The connection was closed by either side. `now` is unused; it is there because the other methods have it."""
        self.deadline = None
        self.wants_close = True
        if self.state is State.IDLE:
            return []
        if self._step(Trigger.TRANSPORT_CLOSED) is Action.INDICATE_TRANSPORT_LOSS:
            return [ConnectionClosed()]
        return []

    def timer_expired(self, now: float) -> list[Event]:
        """Call this at `deadline`; an earlier call does nothing."""
        if self.deadline is not None and now >= self.deadline:
            self._step(Trigger.ARTIM_EXPIRED)
            self._close()
        return []

    # Called by the local user ------------------------------------------------------------------

    def request(self, rq: pdu.AssociateRQ) -> None:
        """Proposes an association: open the transport, then call `transport_connected`."""
        if self.role is not Role.REQUESTOR:
            raise LocalProtocolError("an acceptor does not request associations")
        pdu.encode(rq)  # raises for our own mistakes now, before the transport is open
        self._step(Trigger.REQUEST_ASSOCIATE)
        self._request = rq

    def accept(self, ac: pdu.AssociateAC) -> None:
        """Answers `AssociateRequested`."""
        encoded = pdu.encode(ac)
        self._step(Trigger.ACCEPT_ASSOCIATE)
        self._output += encoded

    def reject(self, rj: pdu.AssociateRJ, *, now: float) -> None:
        """Answers `AssociateRequested`; the peer then closes the transport, or ARTIM does."""
        encoded = pdu.encode(rj)
        self._step(Trigger.REJECT_ASSOCIATE)
        self._output += encoded
        self._start_artim(now)

    def request_release(self) -> None:
        """Requests the release; messages of the peer may still come until `ReleaseConfirmed`."""
        self._step(Trigger.REQUEST_RELEASE)
        self._send(pdu.ReleaseRQ())

    def respond_release(self, *, now: float) -> None:
        """Answers `ReleaseRequested`; the requestor of the association then closes the transport.

        When both sides requested release at once, the acceptor's answer is delayed until its turn (Sta12).
        """
        if self.state is State.COLLISION_ACCEPTOR_AWAITING_RP:
            self._release_response_due = True
            return
        action = self._step(Trigger.RESPOND_RELEASE)
        self._send(pdu.ReleaseRP())
        if action is Action.SEND_LAST_RELEASE_RP:
            self._start_artim(now)

    def abort(self, source: int = 0, reason: int = 0, *, now: float) -> None:
        """Aborts the association. Raises LocalProtocolError where there is none (Sta1, Sta2, Sta13)."""
        encoded = pdu.encode(pdu.Abort(source, reason))
        if self._step(Trigger.REQUEST_ABORT) is Action.STOP_ARTIM_AND_CLOSE:
            self._close()
            return
        self._output += encoded
        self._start_artim(now)

    def data_to_send(self) -> bytes:
        """Takes the whole PDUs that are to be sent now."""
        if not self._output:
            return b""
        data = bytes(self._output)
        self._output.clear()
        return data

    # Actions -----------------------------------------------------------------------------------

    def _step(self, trigger: Trigger) -> Action:
        """Moves to the next state; returns the action for it."""
        step = self._transitions.get((self.state, trigger))
        if step is None:
            raise LocalProtocolError(f"{trigger.name} (Evt{trigger}) is not possible in {self.state.name}")
        action, self.state = step
        self.data_transfer_allowed = self.state in _RECEIVING
        self.sending_allowed = self.state in _SENDING
        return action

    def _act(self, action: Action, unit: pdu.PDU, now: float) -> list[Event]:
        """Performs the action for a received, valid PDU."""
        match unit:
            case pdu.AssociateRQ() if action is Action.INDICATE_ASSOCIATE:
                self.deadline = None
                return [AssociateRequested(unit)]
            case pdu.AssociateAC() if action is Action.CONFIRM_ACCEPT:
                return [AssociateAccepted(unit)]
            case pdu.AssociateRJ() if action is Action.CONFIRM_REJECT_AND_CLOSE:
                self._close()
                return [AssociateRejected(unit)]
            case pdu.ReleaseRQ() if action in (Action.INDICATE_RELEASE, Action.INDICATE_RELEASE_COLLISION):
                return [ReleaseRequested()]
            case pdu.ReleaseRP() if action is Action.CONFIRM_RELEASE_AND_CLOSE:
                self._close()
                return [ReleaseConfirmed()]
            case pdu.ReleaseRP() if action is Action.CONFIRM_RELEASE:
                if self._release_response_due:
                    self.respond_release(now=now)
                return [ReleaseConfirmed()]
            case pdu.Abort() if action is Action.INDICATE_ABORT_AND_CLOSE:
                self._close()
                return [Aborted(unit.source, unit.reason, by_peer=True)]
            case pdu.Abort():
                self._close()  # AA-2: the user does not know of this association yet
                return []
            case (
                pdu.AssociateRQ()
                | pdu.AssociateAC()
                | pdu.AssociateRJ()
                | pdu.PDataTF()
                | pdu.ReleaseRQ()
                | pdu.ReleaseRP()
            ):
                return self._abort_peer(_UNEXPECTED, now)
            case _:
                assert_never(unit)

    def _received_while_closing(self, pdu_type: int) -> list[Event]:
        """Sta13: does not decode PDUs any more."""
        action = self._step(_TRIGGERS.get(pdu_type, Trigger.INVALID_PDU_RECEIVED))
        if action is Action.SEND_ABORT_AGAIN:
            self._send(_UNEXPECTED)
        elif action is Action.STOP_ARTIM_AND_CLOSE:
            self._close()
        return []

    def _abort_peer(self, abort: pdu.Abort, now: float) -> list[Event]:
        """AA-1 and AA-8 for a received PDU. Both send the reason, though Table 9-9 leaves the source of AA-1 at 0."""
        self._send(abort)
        self._start_artim(now)
        return [Aborted(abort.source, abort.reason, by_peer=False)]

    def _send(self, unit: pdu.PDU) -> None:
        self._output += pdu.encode(unit)

    def _start_artim(self, now: float) -> None:
        self.deadline = now + self._artim_timeout_s

    def _close(self) -> None:
        self.deadline = None
        self.wants_close = True
