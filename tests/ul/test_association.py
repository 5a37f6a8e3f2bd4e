"""engine.ul.association: both roles, from the first byte to the last, against a clock that only the test moves."""

from __future__ import annotations

import itertools
import random

import pytest

from engine.errors import LocalProtocolError, RemoteProtocolError
from engine.ul import pdu
from engine.ul.association import Association, Role, State
from engine.ul.events import (
    Aborted,
    AssociateAccepted,
    AssociateRejected,
    AssociateRequested,
    ConnectionClosed,
    Event,
    ReleaseConfirmed,
    ReleaseRequested,
)
from engine.ul.pdu import Abort, AssociateAC, AssociateRJ, AssociateRQ, PresentationContextAC, PresentationContextRQ

RQ = AssociateRQ("FILMROOM", "STORESCU", (PresentationContextRQ(1, "1.2.840.10008.1.1", ("1.2.840.10008.1.2",)),))
AC = AssociateAC(bytes(64), (PresentationContextAC(1, 0, "1.2.840.10008.1.2"),))
RJ = AssociateRJ(1, 1, 7)
ARTIM_S = 10.0


def receive(association: Association, unit: pdu.PDU, now: float = 0.0) -> list[Event]:
    data = pdu.encode(unit)
    return association.pdu_received(data[0], data[6:], now)


def sent(association: Association) -> list[pdu.PDU]:
    """What the association has to send, decoded."""
    data, units = association.data_to_send(), []
    while data:
        length = 6 + int.from_bytes(data[2:6], "big")
        units.append(pdu.decode(data[0], data[6:length]))
        data = data[length:]
    return units


def acceptor() -> Association:
    association = Association(Role.ACCEPTOR, artim_timeout_s=ARTIM_S)
    assert association.transport_connected(0.0) == []
    return association


def requestor() -> Association:
    association = Association(Role.REQUESTOR, artim_timeout_s=ARTIM_S)
    association.request(RQ)
    assert association.transport_connected(0.0) == []
    return association


def established(role: Role) -> Association:
    if role is Role.ACCEPTOR:
        association = acceptor()
        receive(association, RQ)
        association.accept(AC)
    else:
        association = requestor()
        receive(association, AC)
    association.data_to_send()
    assert association.state is State.ESTABLISHED
    return association


both_roles = pytest.mark.parametrize("role", Role)


# The ordinary life -----------------------------------------------------------------------------


def test_an_acceptor_answers_a_request_and_its_release() -> None:
    association = acceptor()
    (event,) = receive(association, RQ)
    assert isinstance(event, AssociateRequested)
    assert event.rq.calling_ae_title == "STORESCU"
    assert not association.data_transfer_allowed
    association.accept(AC)
    assert sent(association) == [AC]
    assert association.data_transfer_allowed
    assert association.sending_allowed
    assert receive(association, pdu.ReleaseRQ()) == [ReleaseRequested()]
    assert not association.data_transfer_allowed
    assert association.sending_allowed, "answers still owed may be sent (AR-7)"
    association.respond_release(now=5.0)
    assert sent(association) == [pdu.ReleaseRP()]
    assert not association.wants_close, "the requestor closes the transport"
    assert association.deadline == 15.0
    assert association.transport_closed(6.0) == []
    assert association.deadline is None
    assert association.state is State.IDLE


def test_a_requestor_proposes_and_releases() -> None:
    association = Association(Role.REQUESTOR)
    association.request(RQ)
    assert association.data_to_send() == b"", "nothing before the transport is there"
    assert association.transport_connected(0.0) == []
    assert association.data_to_send() == pdu.encode(RQ)
    assert association.deadline is None, "how long to wait for the answer is the user's to say"
    assert receive(association, AC) == [AssociateAccepted(AC)]
    association.request_release()
    assert sent(association) == [pdu.ReleaseRQ()]
    assert association.data_transfer_allowed, "messages may come until the release is confirmed (AR-6)"
    assert not association.sending_allowed
    assert receive(association, pdu.ReleaseRP()) == [ReleaseConfirmed()]
    assert association.wants_close


def test_output_is_returned_once() -> None:
    association = requestor()
    assert association.data_to_send() != b""
    assert association.data_to_send() == b""


def test_a_rejected_requestor_closes() -> None:
    association = requestor()
    assert receive(association, RJ) == [AssociateRejected(RJ)]
    assert association.wants_close
    assert association.state is State.IDLE


def test_a_rejecting_acceptor_leaves_closing_to_the_peer_until_artim() -> None:
    association = acceptor()
    receive(association, RQ, 1.0)
    association.reject(RJ, now=2.0)
    assert sent(association) == [RJ]
    assert not association.wants_close
    assert association.deadline == 12.0
    assert association.timer_expired(11.9) == []
    assert not association.wants_close
    assert association.timer_expired(12.0) == []
    assert association.wants_close
    assert association.deadline is None


def test_a_silent_connection_is_closed_by_artim_without_a_pdu() -> None:
    association = acceptor()
    assert association.deadline == ARTIM_S
    assert association.timer_expired(ARTIM_S) == []
    assert association.wants_close
    assert association.data_to_send() == b""


def test_a_port_scan_is_not_reported_to_the_user() -> None:
    association = acceptor()
    assert association.transport_closed(0.1) == []
    assert association.deadline is None


def test_artim_stops_when_the_request_has_come() -> None:
    association = acceptor()
    receive(association, RQ, 1.0)
    assert association.deadline is None


# Release collision (PS3.8 7.2.2) -----------------------------------------------------------------


def test_release_collision_at_the_requestor() -> None:
    association = established(Role.REQUESTOR)
    association.request_release()
    assert receive(association, pdu.ReleaseRQ()) == [ReleaseRequested()]
    assert association.state is State.COLLISION_REQUESTOR_INDICATED
    association.respond_release(now=0.0)
    assert sent(association) == [pdu.ReleaseRQ(), pdu.ReleaseRP()]
    assert association.deadline is None, "the acceptor's answer is still to come"
    assert receive(association, pdu.ReleaseRP()) == [ReleaseConfirmed()]
    assert association.wants_close


def test_release_collision_at_the_acceptor() -> None:
    association = established(Role.ACCEPTOR)
    association.request_release()
    assert receive(association, pdu.ReleaseRQ()) == [ReleaseRequested()]
    assert association.state is State.COLLISION_ACCEPTOR_AWAITING_RP
    assert receive(association, pdu.ReleaseRP()) == [ReleaseConfirmed()]
    association.respond_release(now=3.0)
    assert sent(association) == [pdu.ReleaseRQ(), pdu.ReleaseRP()]
    assert association.state is State.AWAITING_CLOSE
    assert association.deadline == 13.0


def test_an_early_answer_to_a_release_collision_is_processed_in_order() -> None:
    association = established(Role.ACCEPTOR)
    association.request_release()
    receive(association, pdu.ReleaseRQ())
    association.respond_release(now=1.0)
    assert sent(association) == [pdu.ReleaseRQ()]
    assert receive(association, pdu.ReleaseRP(), 2.0) == [ReleaseConfirmed()]
    assert sent(association) == [pdu.ReleaseRP()]
    assert association.deadline == 12.0


def test_two_of_ours_survive_a_release_collision_with_each_other() -> None:
    ours, theirs = established(Role.REQUESTOR), established(Role.ACCEPTOR)
    ours.request_release()
    theirs.request_release()
    confirmed = 0
    for _ in range(4):
        for source, target in ((ours, theirs), (theirs, ours)):
            for unit in sent(source):
                for event in receive(target, unit):
                    if isinstance(event, ReleaseRequested):
                        target.respond_release(now=0.0)
                    confirmed += isinstance(event, ReleaseConfirmed)
    assert confirmed == 2
    assert ours.wants_close
    assert theirs.state is State.AWAITING_CLOSE


# Aborts ------------------------------------------------------------------------------------------


@both_roles
def test_our_abort_is_sent_and_not_reported_back(role: Role) -> None:
    association = established(role)
    association.abort(now=2.0)
    assert sent(association) == [Abort(0, 0)]
    assert association.deadline == 12.0
    assert not association.data_transfer_allowed
    assert association.transport_closed(3.0) == []


def test_an_abort_can_name_source_and_reason() -> None:
    association = established(Role.ACCEPTOR)
    association.abort(2, 6, now=0.0)
    assert sent(association) == [Abort(2, 6)]


@both_roles
def test_the_peers_abort_ends_everything_at_once(role: Role) -> None:
    association = established(role)
    assert receive(association, Abort(2, 1)) == [Aborted(2, 1, by_peer=True)]
    assert association.wants_close
    assert association.data_to_send() == b""
    assert receive(association, RQ) == [], "and nothing that follows counts"


@both_roles
def test_a_lost_connection_is_reported(role: Role) -> None:
    assert established(role).transport_closed(0.0) == [ConnectionClosed()]


def test_a_connection_that_never_comes_is_reported() -> None:
    association = Association(Role.REQUESTOR)
    association.request(RQ)
    assert association.transport_closed(0.0) == [ConnectionClosed()]


def test_a_requestor_can_give_up_while_connecting() -> None:
    association = Association(Role.REQUESTOR)
    association.request(RQ)
    association.abort(now=0.0)
    assert association.wants_close
    assert association.data_to_send() == b""


# What a peer may get wrong -----------------------------------------------------------------------


@both_roles
@pytest.mark.parametrize("unit", [RQ, AC, RJ, pdu.ReleaseRP()], ids=lambda unit: type(unit).__name__)
def test_an_unexpected_pdu_is_answered_with_a_provider_abort(role: Role, unit: pdu.PDU) -> None:
    association = established(role)
    assert receive(association, unit, 1.0) == [Aborted(2, 2, by_peer=False)]
    assert sent(association) == [Abort(2, 2)]
    assert association.deadline == 11.0
    assert association.state is State.AWAITING_CLOSE


def test_an_unknown_pdu_type_is_answered_with_unrecognized_pdu() -> None:
    association = acceptor()
    assert association.pdu_received(0x47, b"ET / HTTP/1.1", 0.0) == [Aborted(2, 1, by_peer=False)]
    assert sent(association) == [Abort(2, 1)]


def test_an_invalid_request_is_answered_with_invalid_parameter() -> None:
    association = acceptor()
    assert association.pdu_received(1, b"\0\1", 0.0) == [Aborted(2, 6, by_peer=False)]
    assert sent(association) == [Abort(2, 6)]


def test_an_error_of_the_receiver_is_answered_with_its_reason() -> None:
    association = established(Role.ACCEPTOR)
    error = RemoteProtocolError("byte 3: a PDU of 4 GiB", 2, 6)
    assert association.protocol_error(error, 0.0) == [Aborted(2, 6, by_peer=False)]
    assert sent(association) == [Abort(2, 6)]


def test_data_before_the_association_is_refused() -> None:
    association = acceptor()
    assert association.data_received(0.0) == [Aborted(2, 2, by_peer=False)]
    assert sent(association) == [Abort(2, 2)]


def test_data_after_the_release_request_is_refused() -> None:
    association = established(Role.ACCEPTOR)
    receive(association, pdu.ReleaseRQ())
    assert association.data_received(0.0) == [Aborted(2, 2, by_peer=False)]


def test_data_while_releasing_is_accepted() -> None:
    association = established(Role.REQUESTOR)
    association.request_release()
    assert association.data_received(0.0) == []
    assert association.data_transfer_allowed


def test_pdus_while_closing_are_ignored_except_requests_and_invalid_ones() -> None:
    association = established(Role.ACCEPTOR)
    association.abort(now=0.0)
    association.data_to_send()
    assert association.data_received(1.0) == []
    for unit in (AC, RJ, pdu.ReleaseRQ(), pdu.ReleaseRP()):
        assert receive(association, unit, 1.0) == []
    assert association.data_to_send() == b""
    assert receive(association, RQ, 2.0) == []
    assert association.pdu_received(0x99, b"", 2.0) == []
    assert association.protocol_error(RemoteProtocolError("?", 2, 6), 2.0) == []
    assert sent(association) == [Abort(2, 2), Abort(2, 2), Abort(2, 6)]
    assert association.deadline == ARTIM_S, "and ARTIM is not started again"
    assert receive(association, Abort(), 3.0) == []
    assert association.wants_close


def test_an_abort_before_the_request_closes_silently() -> None:
    association = acceptor()
    assert receive(association, Abort()) == []
    assert association.wants_close


# What we may get wrong ---------------------------------------------------------------------------


def test_an_action_that_the_state_does_not_allow_raises() -> None:
    association = acceptor()
    for misuse in (
        lambda: association.accept(AC),
        lambda: association.reject(RJ, now=0.0),
        lambda: association.request(RQ),
        association.request_release,
        lambda: association.respond_release(now=0.0),
        lambda: association.abort(now=0.0),
    ):
        with pytest.raises(LocalProtocolError):
            misuse()
    assert association.state is State.AWAITING_ASSOCIATE_RQ, "and changes nothing"
    assert association.data_to_send() == b""


def test_an_answer_that_cannot_be_encoded_changes_nothing() -> None:
    association = acceptor()
    receive(association, RQ)
    with pytest.raises(LocalProtocolError):
        association.accept(AssociateAC(b"", ()))
    association.accept(AC)
    assert sent(association) == [AC]


def test_a_requestor_without_a_request_cannot_be_connected() -> None:
    with pytest.raises(LocalProtocolError):
        Association(Role.REQUESTOR).transport_connected(0.0)


# Every order of things ---------------------------------------------------------------------------

UNITS = [RQ, AC, RJ, pdu.ReleaseRQ(), pdu.ReleaseRP(), Abort()]


@both_roles
def test_no_three_pdus_in_any_order_raise_or_leave_the_table(role: Role) -> None:
    for order in itertools.product(UNITS, repeat=3):
        association = acceptor() if role is Role.ACCEPTOR else requestor()
        for unit in order:
            for event in receive(association, unit):
                if isinstance(event, AssociateRequested):
                    association.accept(AC)
                elif isinstance(event, ReleaseRequested):
                    association.respond_release(now=0.0)
        assert association.data_transfer_allowed == (
            association.state in (State.ESTABLISHED, State.AWAITING_RELEASE_RP)
        )
        association.transport_closed(0.0)
        assert association.state is State.IDLE


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_as_pdus_end_in_an_abort_and_never_raise(seed: int) -> None:
    rng = random.Random(seed)
    association = established(rng.choice(list(Role)))
    for now in range(20):
        association.pdu_received(rng.randrange(256), rng.randbytes(rng.randrange(80)), float(now))
    assert association.state in (State.AWAITING_CLOSE, State.IDLE, State.ESTABLISHED, State.RELEASE_INDICATED)
