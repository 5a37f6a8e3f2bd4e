"""net.connection with a scripted peer on a real socket: timers, back-pressure, ends; each end is told exactly once."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import uvloop

from engine.dimse import messages
from engine.dimse.assembly import ChunkPool, DataSet
from engine.errors import AssociationFailed
from engine.net.client import Address, open_association
from engine.net.connection import Connection, ConnectionLimits
from engine.ul.association import Role
from engine.ul.negotiation import Accepted, AcceptPolicy, negotiate
from engine.ul.pdu import AssociateAC, AssociateRJ, AssociateRQ, PresentationContextRQ
from tests import peer
from tests.peer import CT, EXPLICIT, IMPLICIT, VERIFICATION, Listener, Peer

LIMITS = ConnectionLimits(artim_timeout_s=60.0, message_timeout_s=60.0, idle_timeout_s=300.0)
"""No test waits for these, however slow the machine is: `elapse` lets a connection's time pass."""
ECHO = (1, VERIFICATION, [IMPLICIT])
STORE = (3, CT, [EXPLICIT])

POLICY = AcceptPolicy(
    is_storage=lambda uid: uid == CT,
    storage_transfer_syntaxes=frozenset({EXPLICIT}),
    services={VERIFICATION: (IMPLICIT,)},
)


class ShiftedLoop:
    """An event loop whose clock a test moves ahead."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.ahead_s = 0.0

    def __getattr__(self, name: str) -> object:
        return getattr(self._loop, name)

    def time(self) -> float:
        return self._loop.time() + self.ahead_s


@dataclass
class User:
    """Takes everything, answers C-ECHO, notes what it is told."""

    pool: ChunkPool
    answer_release: bool = True
    busy: bool = False
    answers_later: bool = False
    request: AssociateRQ | None = None
    on_command: Callable[[User], None] | None = None
    connection: Connection | None = None
    commands: list[bytes] = field(default_factory=list)
    data_sets: list[bytes] = field(default_factory=list)
    parts: list[bool] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)

    def associate_requested(self, rq: AssociateRQ) -> AssociateAC | AssociateRJ | None:
        self.request = rq
        return None if self.answers_later else self.answer()

    def answer(self) -> AssociateAC | AssociateRJ:
        assert self.request is not None
        answer = negotiate(self.request, POLICY)
        return answer.ac if isinstance(answer, Accepted) else answer

    def associate_accepted(self, ac: AssociateAC) -> None:
        raise AssertionError("an acceptor is not accepted")

    associate_rejected = associate_accepted  # type: ignore[assignment]

    def command_received(self, presentation_context_id: int, command: bytes, has_data_set: bool) -> None:
        self.commands.append(command)
        if self.on_command is not None:
            self.on_command(self)
        elif not has_data_set:
            assert self.connection is not None
            rq = messages.decode(command)
            assert isinstance(rq, messages.CEchoRQ)
            rsp = messages.CEchoRSP(rq.message_id).encode()
            self.connection.send_message(presentation_context_id, rsp, None, 16378)

    def data_set_received(self, presentation_context_id: int, data_set: DataSet, is_last: bool) -> None:
        self.data_sets.append(data_set.to_bytes())
        self.parts.append(is_last)
        data_set.release()

    def release_requested(self) -> bool:
        return self.answer_release

    def association_ended(self, reason: str) -> None:
        self.ends.append(reason)


def play(
    script: Callable[[Peer, User], None],
    *,
    limits: ConnectionLimits = LIMITS,
    timeout_s: float = 60.0,
    **options: object,
) -> User:
    """Runs `script` in a thread against one accepted connection; the user, once the connection has ended."""

    async def run() -> User:
        loop = asyncio.get_running_loop()
        pool = ChunkPool(4096, 4)
        user = User(pool, **options)  # type: ignore[arg-type]

        def factory(connection: Connection) -> User:
            connection._loop = ShiftedLoop(connection._loop)  # type: ignore[assignment]
            user.connection = connection
            return user

        server = await loop.create_server(lambda: Connection(factory, Role.ACCEPTOR, pool, limits), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]

        def act() -> None:
            with Peer(port, timeout_s=timeout_s) as scripted:
                script(scripted, user)

        await loop.run_in_executor(None, act)
        async with asyncio.timeout(timeout_s):
            while not user.ends:
                await asyncio.sleep(0.005)
        server.close()
        await server.wait_closed()
        assert len(user.ends) == 1, user.ends
        assert pool.outstanding == 0
        return user

    return uvloop.run(run())


def test_an_association_is_accepted_used_and_released() -> None:
    def script(scripted: Peer, user: User) -> None:
        scripted.associate(ECHO)
        scripted.echo()
        scripted.release()

    user = play(script)
    assert user.ends == ["released by the peer"]
    assert len(user.commands) == 1


# A later answer ----------------------------------------------------------------------------------


def call(user: User, act: Callable[[Connection], None]) -> None:
    """Calls `act` on the loop's thread, from the script's, once the request has come; waits for it."""
    assert user.connection is not None
    called = threading.Event()

    def poll() -> None:
        assert user.connection is not None
        if user.request is None and not user.ends:
            user.connection._loop.call_later(0.005, poll)
            return
        act(user.connection)
        called.set()

    user.connection._loop.call_soon_threadsafe(poll)
    assert called.wait(60)


def requested(scripted: Peer, user: User) -> None:
    scripted.send(peer.associate_rq([ECHO]))
    wait_until(lambda: user.connection is not None)


def elapse(user: User, seconds: float) -> None:
    """Lets that time pass for the connection, from the script's thread, tick by tick; stops when it has ended."""
    wait_until(lambda: user.connection is not None and user.connection._tick is not None)
    connection = user.connection
    assert connection is not None
    done = threading.Event()

    def tick() -> None:
        step_s = connection._limits.tick_s
        for _ in range(round(seconds / step_s)):
            if user.ends:
                break
            assert connection._tick is not None
            connection._tick.cancel()
            connection._loop.ahead_s += step_s  # type: ignore[attr-defined]
            connection._on_tick()
        done.set()

    connection._loop.call_soon_threadsafe(tick)
    assert done.wait(60)


def received(user: User, count: int) -> None:
    """Waits until the connection has read so many bytes."""
    wait_until(lambda: user.connection is not None and user.connection.received_bytes >= count)


def wait_until(is_true: Callable[[], bool]) -> None:
    due = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < due
        threading.Event().wait(0.005)


def test_an_association_may_be_answered_later_than_artim_lasts() -> None:
    """ARTIM watches for the request only; who answers later has a timer of its own."""

    def script(scripted: Peer, user: User) -> None:
        requested(scripted, user)
        call(user, lambda connection: None)
        elapse(user, 3 * LIMITS.artim_timeout_s)
        call(user, lambda connection: connection.answer(user.answer()))
        scripted.expect(peer.ASSOCIATE_AC)
        scripted.echo()
        scripted.release()

    assert play(script, answers_later=True).ends == ["released by the peer"]


def test_an_association_may_be_rejected_later() -> None:
    def script(scripted: Peer, user: User) -> None:
        requested(scripted, user)
        call(user, lambda connection: connection.answer(AssociateRJ(1, 2, 1)))
        assert scripted.expect(peer.ASSOCIATE_RJ)[1:4] == b"\x01\x02\x01"

    assert play(script, answers_later=True).ends[0].startswith("rejected by us")


def test_data_before_a_late_answer_is_aborted_and_the_answer_is_dropped() -> None:
    def script(scripted: Peer, user: User) -> None:
        requested(scripted, user)
        scripted.send(peer.message(1, peer.c_echo_rq(1)))
        scripted.expect_abort()
        call(user, lambda connection: connection.answer(user.answer()))
        elapse(user, LIMITS.artim_timeout_s + 3)
        scripted.expect_closed()

    user = play(script, answers_later=True)
    assert user.commands == []


@pytest.mark.parametrize("ending", ["abort", "close"])
def test_an_answer_to_a_peer_that_is_gone_is_dropped(ending: str) -> None:
    def script(scripted: Peer, user: User) -> None:
        requested(scripted, user)
        call(user, lambda connection: None)
        if ending == "abort":
            scripted.send(peer.pdu(peer.ABORT, bytes(4)))
        else:
            scripted.close()
        wait_until(lambda: bool(user.ends))
        call(user, lambda connection: connection.answer(user.answer()))

    assert len(play(script, answers_later=True).ends) == 1


def test_an_association_that_waits_for_its_answer_can_be_aborted() -> None:
    def script(scripted: Peer, user: User) -> None:
        requested(scripted, user)
        call(user, lambda connection: connection.abort("the server is stopping", 2, 0))
        scripted.expect_abort()

    assert play(script, answers_later=True).ends == ["the server is stopping"]


# Ends and limits ---------------------------------------------------------------------------------


def test_a_data_set_longer_than_a_part_is_delivered_in_parts() -> None:
    data_set = bytes(range(256)) * 200

    def script(scripted: Peer, user: User) -> None:
        scripted.associate(STORE)
        scripted.send(peer.message(3, peer.c_store_rq(1, CT, "1.2.3"), data_set, fragment=5000))
        scripted.release()

    user = play(script, limits=replace(LIMITS, part_bytes=8192))
    assert b"".join(user.data_sets) == data_set
    assert len(user.parts) > 3
    assert user.parts == [False] * (len(user.parts) - 1) + [True]


def test_short_timeouts_are_checked_more_often() -> None:
    assert ConnectionLimits().tick_s == 1.0
    assert ConnectionLimits(artim_timeout_s=2.0).tick_s == pytest.approx(0.2)
    assert ConnectionLimits(message_timeout_s=4.0, idle_timeout_s=0).tick_s == pytest.approx(0.4)
    assert ConnectionLimits(idle_timeout_s=3.0).tick_s == pytest.approx(0.3)
    assert ConnectionLimits(artim_timeout_s=0.001).tick_s == pytest.approx(0.05)


def test_a_silent_connection_is_closed_by_the_artim_timer() -> None:
    def script(scripted: Peer, user: User) -> None:
        elapse(user, LIMITS.artim_timeout_s - 2)
        assert not user.ends
        elapse(user, 3)
        scripted.expect_closed()

    assert play(script).ends == ["ARTIM timer expired"]


def test_a_peer_that_stops_inside_a_pdu_is_aborted_even_during_an_operation() -> None:
    def script(scripted: Peer, user: User) -> None:
        scripted.associate(STORE)
        user.busy = True
        assert user.connection is not None
        before = user.connection.received_bytes
        stopped = peer.message(3, peer.c_store_rq(1, CT, "1.2.3"), bytes(1000))[:-1]
        scripted.send(stopped)
        received(user, before + len(stopped))
        elapse(user, LIMITS.message_timeout_s + 3)
        scripted.expect_abort()

    user = play(script)
    assert user.ends[0].startswith("the peer stopped in the middle of a message")


def test_what_came_while_the_loop_stood_still_is_read_before_the_peer_is_judged() -> None:
    """A loop that was held up runs its timers first."""
    message = peer.message(3, peer.c_store_rq(1, CT, "1.2.3"), bytes(1000))

    def script(scripted: Peer, user: User) -> None:
        scripted.associate(STORE)
        assert user.connection is not None
        connection = user.connection
        half = connection.received_bytes + 500
        scripted.send(message[:500])
        received(user, half)
        stands, goes_on = threading.Event(), threading.Event()

        def stand_still() -> None:
            stands.set()
            assert goes_on.wait(60)
            connection._loop.ahead_s += 2 * LIMITS.message_timeout_s  # type: ignore[attr-defined]
            assert connection._tick is not None
            connection._tick.cancel()
            connection._on_tick()

        connection._loop.call_soon_threadsafe(stand_still)
        assert stands.wait(60)
        scripted.send(message[500:])
        goes_on.set()
        wait_until(lambda: bool(user.data_sets or user.ends))
        scripted.release()

    user = play(script)
    assert user.ends == ["released by the peer"]
    assert len(user.data_sets) == 1


def test_a_loop_that_is_always_late_judges_its_peers_all_the_same() -> None:
    def late(connection: Connection) -> None:
        for _ in range(4):
            assert connection._tick is not None
            connection._tick.cancel()
            connection._loop.ahead_s += LIMITS.artim_timeout_s  # type: ignore[attr-defined]
            connection._on_tick()

    def script(scripted: Peer, user: User) -> None:
        wait_until(lambda: user.connection is not None and user.connection._tick is not None)
        assert user.connection is not None
        user.connection._loop.call_soon_threadsafe(late, user.connection)
        scripted.expect_closed()

    assert play(script).ends == ["ARTIM timer expired"]


def test_a_peer_that_sends_a_message_too_slowly_is_aborted() -> None:
    """Each byte is progress, but all together are not enough."""
    message = peer.message(3, peer.c_store_rq(1, CT, "1.2.3"), bytes(100_000))

    def script(scripted: Peer, user: User) -> None:
        scripted.associate(STORE)
        assert user.connection is not None
        connection = user.connection
        whole = connection.received_bytes + 2000
        scripted.send(message[:2000])
        for at in range(3 * int(LIMITS.message_timeout_s)):
            wait_until(lambda: connection.received_bytes == whole + at or scripted.socket_has_more(0))  # noqa: B023
            if scripted.socket_has_more(0):
                break
            elapse(user, 1)
            scripted.send_until_closed(message[whole + at : whole + at + 1])
        scripted.expect_abort()

    user = play(script, limits=replace(LIMITS, rate_bytes_per_s_min=256))
    assert user.ends[0].startswith("the peer sent less than 256 bytes a second")


def test_a_peer_on_a_slow_line_is_not_aborted() -> None:
    message = peer.message(3, peer.c_store_rq(1, CT, "1.2.3"), bytes(100_000))
    step = 400

    def script(scripted: Peer, user: User) -> None:
        scripted.associate(STORE)
        assert user.connection is not None
        before = user.connection.received_bytes
        for at in range(0, len(message), step):
            scripted.send(message[at : at + step])
            received(user, before + min(at + step, len(message)))
            elapse(user, 1)
        scripted.release()

    assert len(message) / step > 3 * LIMITS.message_timeout_s
    user = play(script, limits=replace(LIMITS, rate_bytes_per_s_min=256))
    assert user.ends == ["released by the peer"]
    assert len(user.data_sets) == 1


def test_time_without_reading_does_not_count_against_a_peer() -> None:
    def pause(user: User) -> None:
        assert user.connection is not None
        user.connection.pause_reading()

    def script(scripted: Peer, user: User) -> None:
        scripted.associate(STORE)
        scripted.send(peer.message(3, peer.c_store_rq(1, CT, "1.2.3"), bytes(100)))
        wait_until(lambda: bool(user.commands))
        elapse(user, 3 * LIMITS.message_timeout_s)
        assert not user.ends
        assert user.connection is not None
        user.connection._loop.call_soon_threadsafe(user.connection.resume_reading)
        scripted.release()

    user = play(script, limits=replace(LIMITS, rate_bytes_per_s_min=256), on_command=pause)
    assert len(user.data_sets) == 1


def test_a_pdu_of_more_presentation_data_values_than_allowed_is_aborted() -> None:
    command = peer.c_echo_rq()
    values = [
        peer.pdv(1, command[at : at + 1], command=True, last=at + 1 == len(command)) for at in range(len(command))
    ]

    def too_many(scripted: Peer, user: User) -> None:
        scripted.associate(ECHO)
        scripted.send(peer.p_data(*values))
        assert scripted.expect_abort() == (2, 6)

    def just_as_many(scripted: Peer, user: User) -> None:
        scripted.associate(ECHO)
        for _ in range(2):
            scripted.send(peer.p_data(*values))
            scripted.expect_message()
        scripted.release()

    play(too_many, limits=replace(LIMITS, pdv_count_max=len(values) - 1))
    assert len(play(just_as_many, limits=replace(LIMITS, pdv_count_max=len(values))).commands) == 2


def test_an_idle_association_is_aborted_but_not_during_an_operation() -> None:
    def script(scripted: Peer, user: User) -> None:
        scripted.associate(ECHO)
        user.busy = True
        elapse(user, 3 * LIMITS.idle_timeout_s)
        assert not user.ends
        user.busy = False
        elapse(user, LIMITS.idle_timeout_s + 3)
        scripted.expect_abort()

    user = play(script)
    assert user.ends[0].startswith("idle for")


def test_a_peer_that_reads_nothing_is_aborted_and_reset() -> None:
    def flood(user: User) -> None:
        assert user.connection is not None
        user.connection.send(bytes(32 << 20))

    def script(scripted: Peer, user: User) -> None:
        scripted.associate(ECHO)
        scripted.send(peer.message(1, peer.c_echo_rq()))
        assert user.connection is not None
        connection = user.connection
        wait_until(lambda: connection._write_stalled_at is not None)
        wait_until(lambda: elapse(user, 5) or bool(user.ends))  # type: ignore[func-returns-value]

    user = play(script, on_command=flood)
    assert user.ends[0].startswith("the peer received nothing")


def test_nothing_is_delivered_after_our_abort() -> None:
    def refuse(user: User) -> None:
        assert user.connection is not None
        user.connection.abort("not today", 2, 0)

    def script(scripted: Peer, user: User) -> None:
        scripted.associate(ECHO, STORE)
        scripted.send(
            peer.message(1, peer.c_echo_rq()) + peer.message(3, peer.c_store_rq(1, CT, "1.2.3"), bytes(100)) * 3
        )
        assert scripted.expect_abort() == (2, 0)

    user = play(script, on_command=refuse)
    assert user.ends == ["not today"]
    assert len(user.commands) == 1
    assert user.data_sets == []


def test_one_protocol_error_is_answered_by_one_abort() -> None:
    def script(scripted: Peer, user: User) -> None:
        scripted.associate(ECHO)
        scripted.send(peer.pdu(0x42, b"") + b"\xff" * 5000 + peer.pdu(0x43, b""))
        scripted.expect_abort()
        elapse(user, LIMITS.artim_timeout_s + 3)
        scripted.expect_closed()

    user = play(script)
    assert user.ends[0].startswith("protocol error")


def test_data_after_a_release_request_in_one_piece_is_not_delivered() -> None:
    def script(scripted: Peer, user: User) -> None:
        scripted.associate(ECHO)
        scripted.send(peer.pdu(peer.RELEASE_RQ, bytes(4)) + peer.message(1, peer.c_echo_rq()))
        scripted.expect(peer.RELEASE_RP)
        elapse(user, LIMITS.artim_timeout_s + 3)
        assert scripted.last_word() is None

    user = play(script)
    assert user.commands == []


def test_data_after_an_unexpected_pdu_in_one_piece_is_not_delivered() -> None:
    def script(scripted: Peer, user: User) -> None:
        scripted.associate(STORE)
        again = peer.associate_rq([STORE])
        scripted.send(again + peer.message(3, peer.c_store_rq(1, CT, "1.2.3"), bytes(10_000)))
        assert scripted.expect_abort() == (2, 2)

    user = play(script)
    assert user.commands == []
    assert user.data_sets == []


def test_a_peer_that_reads_slowly_is_not_aborted() -> None:
    flood_bytes = 24 << 20

    def flood(user: User) -> None:
        assert user.connection is not None
        user.connection.send(peer.p_data(peer.pdv(1, bytes(flood_bytes), command=False, last=True)))
        assert user.connection.unsent_bytes > 0

    def script(scripted: Peer, user: User) -> None:
        scripted.associate(ECHO)
        scripted.send(peer.message(1, peer.c_echo_rq()))
        left, pause_s = flood_bytes + 12, 8
        assert left / (1 << 20) * pause_s > 3 * LIMITS.message_timeout_s
        while left:
            left -= len(scripted.socket.recv(min(left, 1 << 20), socket.MSG_WAITALL))
            elapse(user, pause_s)
        scripted.release()
        assert user.connection is not None
        assert user.connection.unsent_bytes == 0

    user = play(script, on_command=flood)
    assert user.ends == ["released by the peer"]


def test_a_lost_connection_without_a_waiter_causes_no_error(caplog: pytest.LogCaptureFixture) -> None:
    def flood(user: User) -> None:
        assert user.connection is not None
        user.connection.send(bytes(24 << 20))

    def script(scripted: Peer, user: User) -> None:
        scripted.associate(ECHO)
        scripted.send(peer.message(1, peer.c_echo_rq()))
        scripted.receive()
        scripted.cut()

    play(script, on_command=flood)
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_nothing_is_sent_after_the_abort() -> None:
    def refuse(user: User) -> None:
        assert user.connection is not None
        user.connection.abort("enough")
        user.connection.send_message(1, messages.CEchoRSP(1).encode(), None, 16378)

    def script(scripted: Peer, user: User) -> None:
        scripted.associate(ECHO)
        scripted.send(peer.message(1, peer.c_echo_rq()))
        scripted.expect_abort()
        elapse(user, LIMITS.artim_timeout_s + 3)
        scripted.expect_closed()

    assert play(script, on_command=refuse).ends == ["enough"]


def test_a_deferred_release_is_answered_on_request() -> None:
    def script(scripted: Peer, user: User) -> None:
        scripted.associate(ECHO)
        scripted.send(peer.pdu(peer.RELEASE_RQ, bytes(4)))
        assert not scripted.socket_has_more(0.2)
        assert user.connection is not None
        user.connection._loop.call_soon_threadsafe(user.connection.respond_release)
        scripted.expect(peer.RELEASE_RP)

    user = play(script, answer_release=False)
    assert user.ends == ["released by the peer"]


@pytest.mark.parametrize("came", ["the command", "half the data set"])
def test_a_release_in_the_middle_of_a_message_aborts_at_once(came: str) -> None:
    whole = peer.message_pdus(3, peer.c_store_rq(1, CT, "1.2.3"), bytes(3000), fragment=1000)

    def script(scripted: Peer, user: User) -> None:
        scripted.associate(STORE)
        scripted.send(b"".join(whole[: 1 if came == "the command" else 3]) + peer.pdu(peer.RELEASE_RQ, bytes(4)))
        scripted.expect(peer.ABORT)

    user = play(script)
    assert user.ends == ["released in the middle of a message"]


@pytest.mark.parametrize("end", ["an unknown PDU", "A-RELEASE-RQ again", "A-ABORT", "our own abort"])
def test_a_release_that_is_answered_when_the_association_is_over_does_nothing(end: str) -> None:
    """The answer comes from the group commit, which serves other associations too."""
    raised: list[BaseException] = []

    def respond(user: User) -> None:
        assert user.connection is not None
        try:
            if end == "our own abort":
                user.connection.abort("stopping")
            user.connection.respond_release()
            user.connection.request_release()
        except BaseException as error:
            raised.append(error)

    def script(scripted: Peer, user: User) -> None:
        scripted.associate(ECHO)
        release = peer.pdu(peer.RELEASE_RQ, bytes(4))
        more = {"an unknown PDU": b"\x09\0\0\0\0\0", "A-RELEASE-RQ again": release, "A-ABORT": peer.pdu(7, bytes(4))}
        scripted.send(release + more.get(end, b""))
        assert user.connection is not None
        if end in ("an unknown PDU", "A-RELEASE-RQ again"):
            scripted.expect_abort()
        elif end == "A-ABORT":
            scripted.expect_closed()
        else:
            assert not scripted.socket_has_more(0.2)
        answered = threading.Event()
        user.connection._loop.call_soon_threadsafe(lambda: (respond(user), answered.set()))
        assert answered.wait(60)

    user = play(script, answer_release=False)
    assert not raised
    assert len(user.ends) == 1


def test_incomplete_messages_are_acknowledged_at_once_and_complete_ones_are_not() -> None:
    """Nagle's algorithm at the peer holds the data set back until its command is acknowledged."""
    counts: list[int] = []

    def script(scripted: Peer, user: User) -> None:
        def send(data: bytes) -> None:
            assert user.connection is not None
            before = user.connection.received_bytes
            scripted.send(data)
            while user.connection.received_bytes < before + len(data):
                threading.Event().wait(0.001)
            counts.append(user.connection.receiver.quick_acks)

        scripted.associate(ECHO, STORE)
        assert user.connection is not None
        counts.append(user.connection.receiver.quick_acks)
        command, data_set = peer.message_pdus(3, peer.c_store_rq(1, CT, "1.2.3"), bytes(1000))
        send(command[:12])
        send(command[12:])
        send(data_set[:12])
        send(data_set[12:])
        scripted.echo()
        counts.append(user.connection.receiver.quick_acks)
        scripted.release()

    play(script)
    assert counts == [0, 1, 2, 3, 3, 3]


def test_reading_resumes_after_as_many_resumes_as_pauses() -> None:
    def pause(user: User) -> None:
        if len(user.commands) == 1:
            assert user.connection is not None
            user.connection.pause_reading()
            user.connection.pause_reading()
            user.connection._loop.call_later(0.05, user.connection.resume_reading)

    def script(scripted: Peer, user: User) -> None:
        scripted.associate(ECHO)
        scripted.send(peer.message(1, peer.c_echo_rq()))
        wait_until(lambda: bool(user.commands))
        scripted.send(peer.message(1, peer.c_echo_rq()))
        scripted.socket_has_more(0.2)
        assert len(user.commands) == 1, "read while one pause was still due"
        assert user.connection is not None
        user.connection._loop.call_soon_threadsafe(user.connection.resume_reading)
        scripted.send(peer.pdu(peer.RELEASE_RQ, bytes(4)))
        scripted.expect(peer.RELEASE_RP)
        assert len(user.commands) == 2

    play(script, on_command=pause)


# The requestor -----------------------------------------------------------------------------------


def request(script: Callable[[Peer], None], *, connect_timeout_s: float = 60.0, timeout_s: float = 60.0) -> str:
    """Requests an association and echoes, while a listener plays `script`; how it failed, or ""."""

    async def run(listener: Listener) -> str:
        address = Address(
            "127.0.0.1",
            listener.port,
            "THEM",
            "US",
            connect_timeout_s=connect_timeout_s,
            message_timeout_s=timeout_s,
        )

        def act() -> None:
            with listener.accept() as scripted:
                script(scripted)

        playing = asyncio.get_running_loop().run_in_executor(None, act)
        failed = ""
        try:
            requestor = await open_association(address, [PresentationContextRQ(1, VERIFICATION, (IMPLICIT,))])
            await requestor.request_message(1, lambda message_id: messages.CEchoRQ(message_id))
            await requestor.release()
        except AssociationFailed as error:
            failed = str(error)
        await playing
        return failed

    with Listener() as listener:
        return uvloop.run(run(listener))


def answer_echo(scripted: Peer) -> None:
    received = scripted.expect_message()
    rsp = {
        peer.SOP_CLASS: VERIFICATION,
        peer.COMMAND_FIELD: peer.C_ECHO_RQ | peer.RESPONSE,
        peer.RESPONDED_TO: peer.number(received.command, peer.MESSAGE_ID),
        peer.DATA_SET_TYPE: peer.NO_DATA_SET,
        peer.STATUS: 0,
    }
    scripted.send(peer.message(1, peer.command_set(rsp)))


def test_a_requestor_does_not_mistake_a_request_for_its_response() -> None:
    def script(scripted: Peer) -> None:
        scripted.accept()
        received = scripted.expect_message()
        message_id = peer.number(received.command, peer.MESSAGE_ID)
        scripted.send(peer.message(1, peer.c_cancel_rq(message_id)))
        scripted.send(peer.message(1, peer.c_echo_rq(message_id)))
        declined = scripted.expect_message()
        assert (declined.status(), declined.responded_to()) == (0x0122, message_id)
        rsp = {peer.COMMAND_FIELD: peer.C_ECHO_RQ | peer.RESPONSE, peer.RESPONDED_TO: message_id}
        rsp |= {peer.DATA_SET_TYPE: peer.NO_DATA_SET, peer.STATUS: 0}
        scripted.send(peer.message(1, peer.command_set(rsp)))
        scripted.expect(peer.RELEASE_RQ)
        scripted.send(peer.pdu(peer.RELEASE_RP, bytes(4)))

    assert request(script) == ""


def test_a_requestor_aborts_if_an_unaccepted_context_is_used() -> None:
    def script(scripted: Peer) -> None:
        scripted.accept()
        received = scripted.expect_message()
        message_id = peer.number(received.command, peer.MESSAGE_ID)
        rsp = {peer.COMMAND_FIELD: peer.C_ECHO_RQ | peer.RESPONSE, peer.RESPONDED_TO: message_id}
        rsp |= {peer.DATA_SET_TYPE: peer.NO_DATA_SET, peer.STATUS: 0}
        scripted.send(peer.message(9, peer.command_set(rsp)))
        scripted.expect_abort()

    assert "presentation context 9, which was not accepted" in request(script)


def test_a_requestor_acknowledges_incomplete_responses_at_once() -> None:
    """A destination of a C-MOVE may leave Nagle's algorithm on too."""
    rsp = {peer.COMMAND_FIELD: peer.C_ECHO_RQ | peer.RESPONSE, peer.RESPONDED_TO: 1}
    rsp |= {peer.DATA_SET_TYPE: peer.NO_DATA_SET, peer.STATUS: 0}
    answer = peer.message(1, peer.command_set(rsp))
    cut = threading.Event()

    def act(listener: Listener) -> None:
        with listener.accept() as scripted:
            scripted.accept()
            scripted.expect_message()
            scripted.send(answer[:12])
            assert cut.wait(60)
            scripted.send(answer[12:])
            scripted.expect(peer.RELEASE_RQ)
            scripted.send(peer.pdu(peer.RELEASE_RP, bytes(4)))

    async def run(listener: Listener) -> int:
        address = Address("127.0.0.1", listener.port, "THEM", "US", connect_timeout_s=60, message_timeout_s=60)
        playing = asyncio.get_running_loop().run_in_executor(None, act, listener)
        requestor = await open_association(address, [PresentationContextRQ(1, VERIFICATION, (IMPLICIT,))])
        receiver = requestor.connection.receiver
        before = receiver.bytes_received
        asked = asyncio.ensure_future(requestor.request_message(1, lambda number: messages.CEchoRQ(number)))
        while receiver.bytes_received < before + 12:
            await asyncio.sleep(0.005)
        count = receiver.quick_acks
        cut.set()
        assert (await asked).status == 0
        await requestor.release()
        await playing
        return count

    with Listener() as listener:
        assert uvloop.run(run(listener)) == 1


def test_a_requestor_echoes_and_releases() -> None:
    def script(scripted: Peer) -> None:
        scripted.accept()
        answer_echo(scripted)
        scripted.expect(peer.RELEASE_RQ)
        scripted.send(peer.pdu(peer.RELEASE_RP, bytes(4)))
        scripted.expect_closed()

    assert request(script) == ""


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (peer.pdu(peer.ASSOCIATE_RJ, b"\0\1\1\7"), "rejected by the peer"),
        (peer.pdu(peer.ABORT, b"\0\0\0\0"), "aborted by the peer"),
        (peer.pdu(peer.RELEASE_RP, b"\0\0\0\0"), "aborted by us"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "protocol error"),
        (b"", "closed by the peer"),
    ],
    ids=["reject", "abort", "release-rp", "http", "close"],
)
def test_a_requestor_reports_why_it_has_no_association(answer: bytes, words: str) -> None:
    def script(scripted: Peer) -> None:
        scripted.expect(peer.ASSOCIATE_RQ)
        scripted.send(answer)

    failed = request(script)
    assert words in failed
    assert "THEM at 127.0.0.1" in failed


def test_a_requestor_does_not_wait_for_ever() -> None:
    def no_association(scripted: Peer) -> None:
        scripted.expect(peer.ASSOCIATE_RQ)
        scripted.expect_abort()

    def no_response(scripted: Peer) -> None:
        scripted.accept()
        scripted.expect_message()
        scripted.expect_abort()

    assert "did not answer within 0.3 s" in request(no_association, connect_timeout_s=0.3)
    assert "did not answer within 0.3 s" in request(no_response, timeout_s=0.3)


def test_a_release_by_the_peer_ends_the_wait_for_its_response() -> None:
    def script(scripted: Peer) -> None:
        scripted.accept()
        scripted.expect_message()
        scripted.send(peer.pdu(peer.RELEASE_RQ, bytes(4)))
        scripted.expect(peer.RELEASE_RP)

    assert "released by the peer" in request(script)
