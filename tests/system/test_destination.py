"""C-MOVE, C-GET and C-FIND when the other side does not play along.

Destinations that hang, abort, refuse or answer wrongly; askers that cancel or vanish. Whatever happens, the counts add
up and every instance is in exactly one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests import peer, samples
from tests.peer import (
    CT,
    EXPLICIT,
    IMPLICIT,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
    VERIFICATION,
    Listener,
    Message,
    Peer,
)
from tests.system import foreign
from tests.system.server import Server, running, wait_for

pytestmark = pytest.mark.slow

COUNT = 10
CONFIG = """
[limits]
dimse_timeout_s = 60.0
connect_timeout_s = 60.0
artim_timeout_s = 60.0
"""
"""Whatever a test does in time is done before these are over, however busy the machine is."""
IMPATIENT = CONFIG.replace("60.0", "2.5")
"""For tests in which a time must be over."""
UIDS = [f"{samples.ROOT}.1.1.{number}" for number in range(1, COUNT + 1)]


@pytest.fixture(scope="module")
def running_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("destination") / "data", config=CONFIG) as started:
        stored = [foreign.Stored.of(samples.instance(1, 1, number)) for number in range(1, COUNT + 1)]
        assert foreign.store(started.port, stored) == [0] * COUNT
        yield started


@pytest.fixture(scope="module")
def sockets_at_rest(running_server: Server) -> int:
    """How many sockets the workers have when nobody is connected."""
    return socket_count(running_server)


@pytest.fixture
def server(running_server: Server, sockets_at_rest: int) -> Iterator[Server]:
    """The server; every test must leave it without associations and without a socket more."""
    yield running_server

    def at_rest() -> bool:
        workers: list[dict[str, int]] = running_server.stats()["workers"]  # type: ignore[assignment]
        return all(worker["associations"] == worker["chunks"] == 0 for worker in workers)

    wait_for(at_rest, what="every association ended")
    wait_for(lambda: socket_count(running_server) <= sockets_at_rest, what="every socket closed")


def socket_count(server: Server) -> int:
    """Open sockets of all workers."""
    count = 0
    for pid in server.worker_pids():
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                count += str(fd.readlink()).startswith("socket:")
    return count


@dataclass
class Moved:
    """How a C-MOVE ended, and its pending responses."""

    pending: list[Message]
    final: Message

    def counts(self) -> tuple[int, int, int]:
        """Completed, failed, warning."""
        command = self.final.command
        return tuple(peer.number(command, element) for element in (peer.COMPLETED, peer.FAILED, peer.WARNING))  # type: ignore[return-value]

    def failed_uids(self) -> list[str]:
        """The Failed SOP Instance UID List."""
        if self.final.data_set is None:
            return []
        assert self.final.data_set[:4] == b"\x08\0\x58\0"
        return self.final.data_set[8:].rstrip(b"\0 ").decode().split("\\")


def configure(server: Server, listener: Listener, more: str = "", config: str = CONFIG) -> None:
    """Makes the listener the destination SINK."""
    server.reload(f'{config}\n[[peer]]\naet = "SINK"\nhost = "127.0.0.1"\nport = {listener.port}\n{more}\n')


def ask(script: Peer, command_field: int, sop_class_uid: str, message_id: int = 1) -> None:
    """Requests the whole study on context 1."""
    keys = peer.identifier({0x00080052: "STUDY", 0x0020000D: f"{samples.ROOT}.1"})
    script.send(peer.message(1, peer.query_rq(command_field, message_id, sop_class_uid, "SINK"), keys))


def finish(script: Peer) -> Moved:
    """Reads responses up to the final one."""
    pending = []
    while (response := script.expect_message()).status() == 0xFF00:
        pending.append(response)
    return Moved(pending, response)


def move(
    server: Server, listener: Listener, destination: Callable[[Listener], None], more: str = "", config: str = CONFIG
) -> Moved:
    """A C-MOVE of the study while `destination` plays its part."""
    configure(server, listener, more, config)
    with ThreadPoolExecutor(1) as pool, Peer(server.port) as script:
        playing = pool.submit(destination, listener)
        script.associate((1, STUDY_ROOT_MOVE, [IMPLICIT]))
        ask(script, peer.C_MOVE_RQ, STUDY_ROOT_MOVE)
        moved = finish(script)
        script.release()
        playing.result(60)
    for response in [*moved.pending, moved.final]:
        known = [peer.REMAINING, peer.COMPLETED, peer.FAILED, peer.WARNING]
        total = sum(peer.number(response.command, element) for element in known if element in response.command)
        assert total == COUNT, "the counts do not add up"
    assert len(moved.failed_uids()) == moved.counts()[1]
    return moved


def take(destination: Peer, count: int, status: int = 0) -> list[str]:
    """Answers so many sub-operations; their UIDs."""
    uids = []
    for _ in range(count):
        received = destination.expect_message()
        uids.append(peer.text(received.command, peer.SOP_INSTANCE))
        destination.send(peer.message(received.context_id, peer.c_store_rsp(received.command, status)))
    return uids


def end(destination: Peer) -> None:
    """Answers the server's A-RELEASE-RQ."""
    destination.expect(peer.RELEASE_RQ)
    destination.send(peer.pdu(peer.RELEASE_RP, bytes(4)))
    destination.expect_closed()


# Destinations ------------------------------------------------------------------------------------


def test_a_well_behaved_destination_gets_everything(server: Server) -> None:
    def play(listener: Listener) -> None:
        with listener.accept() as destination:
            destination.accept()
            assert take(destination, COUNT) == UIDS
            end(destination)

    with Listener() as listener:
        moved = move(server, listener, play)
    assert moved.final.status() == 0
    assert moved.counts() == (COUNT, 0, 0)


def test_a_destination_that_rejects_the_association_fails_everything(server: Server) -> None:
    def play(listener: Listener) -> None:
        with listener.accept() as destination:
            destination.expect(peer.ASSOCIATE_RQ)
            destination.send(peer.pdu(peer.ASSOCIATE_RJ, b"\0\1\1\7"))
            destination.expect_closed()

    with Listener() as listener:
        moved = move(server, listener, play)
    assert moved.final.status() == 0xA702
    assert moved.failed_uids() == UIDS


def test_a_destination_that_never_answers_the_association_fails_everything(server: Server) -> None:
    def play(listener: Listener) -> None:
        with listener.accept() as destination:
            destination.expect(peer.ASSOCIATE_RQ)
            destination.wait_closed()

    with Listener() as listener:
        moved = move(server, listener, play, config=IMPATIENT)
    assert moved.final.status() == 0xA702
    assert moved.counts() == (0, COUNT, 0)


def test_a_destination_that_accepts_no_context_fails_everything(server: Server) -> None:
    def play(listener: Listener) -> None:
        with listener.accept() as destination:
            destination.accept(transfer_syntaxes=["1.2.3"])
            end(destination)

    with Listener() as listener:
        moved = move(server, listener, play)
    assert moved.final.status() == 0xA702
    assert moved.failed_uids() == UIDS


@pytest.mark.parametrize("ending", ["abort", "cut", "garbage"])
def test_a_lost_association_is_opened_again_and_the_one_under_way_counts_as_failed(server: Server, ending: str) -> None:
    lost: list[str] = []

    def play(listener: Listener) -> None:
        with listener.accept() as destination:
            destination.accept()
            take(destination, 4)
            lost.append(peer.text(destination.expect_message().command, peer.SOP_INSTANCE))
            if ending == "abort":
                destination.send(peer.pdu(peer.ABORT, bytes(4)))
            elif ending == "garbage":
                destination.send(b"\xff" * 100)
            else:
                destination.cut()
        with listener.accept() as destination:
            destination.accept()
            rest = take(destination, COUNT - 5)
            assert rest == UIDS[5:]
            end(destination)

    with Listener() as listener:
        moved = move(server, listener, play)
    assert moved.final.status() == 0xB000
    assert moved.counts() == (COUNT - 1, 1, 0)
    assert moved.failed_uids() == lost == [UIDS[4]]


def test_a_destination_that_hangs_is_given_up_within_the_timeout(server: Server) -> None:
    def play(listener: Listener) -> None:
        with listener.accept() as destination:
            destination.accept()
            take(destination, 4)
            destination.wait_closed()

    with Listener() as listener:
        moved = move(server, listener, play, config=IMPATIENT)
    assert moved.final.status() == 0xB000
    assert moved.counts() == (4, COUNT - 4, 0)
    assert moved.failed_uids() == UIDS[4:]


def test_a_destination_that_answers_another_message_id_is_given_up(server: Server) -> None:
    def play(listener: Listener) -> None:
        with listener.accept() as destination:
            destination.accept()
            take(destination, 2)
            received = destination.expect_message()
            wrong = {**received.command, peer.MESSAGE_ID: b"\xe7\x03"}
            destination.send(peer.message(received.context_id, peer.c_store_rsp(wrong)))
            destination.wait_closed()

    with Listener() as listener:
        moved = move(server, listener, play, config=IMPATIENT)
    assert moved.counts() == (2, COUNT - 2, 0)


def test_a_destination_that_releases_by_itself_gets_the_rest_on_another_association(server: Server) -> None:
    def play(listener: Listener) -> None:
        with listener.accept() as destination:
            destination.accept()
            take(destination, 3)
            destination.expect_message()
            destination.send(peer.pdu(peer.RELEASE_RQ, bytes(4)))
            destination.expect(peer.RELEASE_RP)
        with listener.accept() as destination:
            destination.accept()
            take(destination, COUNT - 4)
            end(destination)

    with Listener() as listener:
        moved = move(server, listener, play)
    assert moved.counts() == (COUNT - 1, 1, 0)


@dataclass
class Saboteur:
    """A destination that takes two instances on each association and fails at a given point of the third."""

    point: str
    ending: str
    answered: list[str] = field(default_factory=list)
    """Whose Success has been sent whole."""

    def play(self, listener: Listener) -> None:
        """Every association until the listener is closed."""
        while True:
            try:
                destination = listener.accept()
            except OSError:
                return
            with destination:
                try:
                    self._play(destination)
                except (AssertionError, OSError):
                    pass  # the server has given it up before it came so far

    def _play(self, destination: Peer) -> None:
        if self.point == "connected":
            self._end(destination)
            return
        if self.point == "requested":
            destination.expect(peer.ASSOCIATE_RQ)
            self._end(destination)
            return
        destination.accept()
        if self.point == "accepted":
            self._end(destination)
            return
        for _ in range(2):
            self._answer(destination, destination.expect_message())
        if self.point == "command":
            destination.expect_command()
        elif self.point == "data":
            destination.expect_command()
            destination.read_ahead(300)
        elif self.point in ("stored", "answer"):
            received = destination.expect_message()
            if self.point == "answer":
                answer = peer.message(received.context_id, peer.c_store_rsp(received.command))
                destination.send(answer[: len(answer) // 2])
        else:
            while destination.next_type() == peer.P_DATA:
                self._answer(destination, destination.expect_message())
            destination.expect(peer.RELEASE_RQ)
        self._end(destination)

    def _answer(self, destination: Peer, received: Message) -> None:
        destination.send(peer.message(received.context_id, peer.c_store_rsp(received.command)))
        self.answered.append(peer.text(received.command, peer.SOP_INSTANCE))

    def _end(self, destination: Peer) -> None:
        if self.ending == "abort":
            destination.send(peer.pdu(peer.ABORT, bytes(4)))
        elif self.ending == "reset":
            destination.cut()
        elif self.ending == "stall":
            while destination.socket.recv(1 << 16):
                pass
        elif self.ending == "drip":
            for byte in peer.pdu(peer.P_DATA, bytes(1000)):
                destination.send(bytes([byte]))
                if destination.socket_has_more(0.2):
                    return  # it has been given up


POINTS = ("connected", "requested", "accepted", "command", "data", "stored", "answer", "released")
SLOW = [(point, "stall") for point in ("requested", "data", "released")] + [("requested", "drip"), ("answer", "drip")]
"""Each costs a timeout."""


@pytest.mark.parametrize(
    ("point", "ending"), [*((point, ending) for point in POINTS for ending in ("abort", "reset", "close")), *SLOW]
)
def test_wherever_a_destination_fails_the_counts_say_what_it_has_got(server: Server, point: str, ending: str) -> None:
    with Listener() as listener:
        saboteur = Saboteur(point, ending)
        configure(server, listener, config=IMPATIENT)
        with ThreadPoolExecutor(1) as pool, Peer(server.port) as script:
            playing = pool.submit(saboteur.play, listener)
            script.associate((1, STUDY_ROOT_MOVE, [IMPLICIT]))
            ask(script, peer.C_MOVE_RQ, STUDY_ROOT_MOVE)
            moved = finish(script)
            script.release()
            listener.close()
            playing.result(60)
    completed, failed, warned = moved.counts()
    assert completed + failed == COUNT
    assert warned == 0
    assert completed == len(saboteur.answered)
    assert sorted(moved.failed_uids()) == sorted(set(UIDS) - set(saboteur.answered))
    assert moved.final.status() == (0 if not failed else 0xB000 if completed else 0xA702)


@pytest.mark.parametrize("maximum_length", [0, 8, 500, 1 << 20])
def test_the_destinations_maximum_length_is_honoured(server: Server, maximum_length: int) -> None:
    longest: list[int] = []

    def play(listener: Listener) -> None:
        with listener.accept() as destination:
            destination.accept(maximum_length=maximum_length)
            take(destination, COUNT)
            end(destination)
            longest.append(destination.longest_p_data)

    with Listener() as listener:
        assert move(server, listener, play).counts() == (COUNT, 0, 0)
    assert not maximum_length or longest[0] <= maximum_length


def test_a_window_that_the_destination_grants_is_used_and_not_exceeded(server: Server) -> None:
    def play(listener: Listener) -> None:
        with listener.accept() as destination:
            destination.accept(user_items=peer.asynchronous_window(3, 1))
            held = [destination.expect_message() for _ in range(3)]
            assert not destination.socket_has_more(0.2), "a fourth one came while three were outstanding"
            for received in reversed(held):  # in any order (PS3.7 D.3.3.3)
                destination.send(peer.message(received.context_id, peer.c_store_rsp(received.command)))
            take(destination, COUNT - 3)
            end(destination)

    with Listener() as listener:
        moved = move(server, listener, play, more="asynchronous_window = 5")
    assert moved.final.status() == 0
    assert moved.counts() == (COUNT, 0, 0)


# Askers ------------------------------------------------------------------------------------------


def test_a_cancelled_c_move_stops_between_two_sub_operations(server: Server) -> None:
    with Listener() as listener:
        configure(server, listener)
        with Peer(server.port) as script:
            script.associate((1, STUDY_ROOT_MOVE, [IMPLICIT]), (3, VERIFICATION, [IMPLICIT]))
            ask(script, peer.C_MOVE_RQ, STUDY_ROOT_MOVE)
            with listener.accept() as destination:
                destination.accept()
                received = destination.expect_message()
                script.send(peer.message(1, peer.c_cancel_rq(1)) + peer.message(3, peer.c_echo_rq(2)))
                echo = script.expect_message()
                assert echo.context_id == 3, "the cancel has been read once the echo is answered"
                destination.send(peer.message(received.context_id, peer.c_store_rsp(received.command)))
                if destination.next_type() == peer.P_DATA:  # one that had been read ahead
                    take(destination, 1)
                end(destination)
            moved = finish(script)
            script.release()
    assert moved.final.status() == 0xFE00
    completed, failed, warned = moved.counts()
    assert (failed, warned) == (0, 0)
    assert completed < COUNT
    assert peer.number(moved.final.command, peer.REMAINING) == COUNT - completed


def test_a_cancelled_c_get_stops_between_two_sub_operations(server: Server) -> None:
    with Peer(server.port) as script:
        script.associate(
            (1, STUDY_ROOT_GET, [IMPLICIT]), (3, CT, [EXPLICIT]), user_items=peer.role(CT, scu=False, scp=True)
        )
        ask(script, peer.C_GET_RQ, STUDY_ROOT_GET)
        received = script.expect_message()
        script.send(peer.message(1, peer.c_cancel_rq(1)) + peer.message(3, peer.c_store_rsp(received.command)))
        completed = 1
        while peer.number((received := script.expect_message()).command, peer.COMMAND_FIELD) == peer.C_STORE_RQ or (
            received.status() == 0xFF00
        ):
            if peer.number(received.command, peer.COMMAND_FIELD) == peer.C_STORE_RQ:
                completed += 1
                script.send(peer.message(3, peer.c_store_rsp(received.command)))
        assert received.status() == 0xFE00
        assert completed < COUNT
        assert peer.number(received.command, peer.COMPLETED) == completed
        assert peer.number(received.command, peer.REMAINING) == COUNT - completed
        script.release()


def test_a_cancelled_c_find_ends_with_fe00(server: Server) -> None:
    with Peer(server.port) as script:
        script.associate((1, STUDY_ROOT_FIND, [IMPLICIT]))
        keys = peer.identifier({0x00080052: "IMAGE", 0x00080018: ""})
        rq = peer.message(1, peer.query_rq(peer.C_FIND_RQ, 4, STUDY_ROOT_FIND), keys)
        script.send(rq + peer.message(1, peer.c_cancel_rq(4)))
        found = 0
        while (response := script.expect_message()).status() in (0xFF00, 0xFF01):
            found += 1
        assert response.status() == 0xFE00
        assert response.data_set is None
        assert found < COUNT
        script.release()


def test_an_asker_that_vanishes_during_a_c_get_is_forgotten(server: Server) -> None:
    for ending in ("cut", "close", "abort"):
        with Peer(server.port) as script:
            script.associate(
                (1, STUDY_ROOT_GET, [IMPLICIT]), (3, CT, [EXPLICIT]), user_items=peer.role(CT, scu=False, scp=True)
            )
            ask(script, peer.C_GET_RQ, STUDY_ROOT_GET)
            script.expect_message()
            if ending == "abort":
                script.send(peer.pdu(peer.ABORT, bytes(4)))
                script.expect_closed()
            elif ending == "cut":
                script.cut()


def test_an_asker_that_vanishes_during_a_c_move_stops_it(server: Server) -> None:
    with Listener() as listener:
        configure(server, listener)
        with Peer(server.port) as script:
            script.associate((1, STUDY_ROOT_MOVE, [IMPLICIT]))
            ask(script, peer.C_MOVE_RQ, STUDY_ROOT_MOVE)
            with listener.accept() as destination:
                destination.accept()
                destination.expect_message()
                script.cut()
                types = destination.wait_closed()
                assert types.count(peer.P_DATA) < 2 * COUNT


def test_an_asker_that_does_not_answer_a_c_get_is_given_up_within_the_timeout(server: Server) -> None:
    server.reload(IMPATIENT)
    with Peer(server.port) as script:
        script.associate(
            (1, STUDY_ROOT_GET, [IMPLICIT]), (3, CT, [EXPLICIT]), user_items=peer.role(CT, scu=False, scp=True)
        )
        ask(script, peer.C_GET_RQ, STUDY_ROOT_GET)
        script.expect_message()
        assert peer.ABORT in script.wait_closed()


def test_a_c_get_without_role_selection_is_served(server: Server) -> None:
    with Peer(server.port) as script:
        script.associate((1, STUDY_ROOT_GET, [IMPLICIT]), (3, CT, [EXPLICIT]))
        ask(script, peer.C_GET_RQ, STUDY_ROOT_GET)
        count = 0
        while (received := script.expect_message()).command[peer.COMMAND_FIELD] == b"\x01\0" or (
            received.status() == 0xFF00
        ):
            if received.command[peer.COMMAND_FIELD] == b"\x01\0":
                count += 1
                script.send(peer.message(3, peer.c_store_rsp(received.command)))
        assert received.status() == 0
        assert count == COUNT
        script.release()


def test_two_retrievals_on_one_association_are_both_answered(server: Server) -> None:
    def play(listener: Listener) -> None:
        for _ in range(2):
            with listener.accept() as destination:
                destination.accept()
                take(destination, COUNT)
                end(destination)

    with Listener() as listener, ThreadPoolExecutor(1) as pool, Peer(server.port) as script:
        configure(server, listener)
        playing = pool.submit(play, listener)
        script.associate((1, STUDY_ROOT_MOVE, [IMPLICIT]), user_items=peer.asynchronous_window(4, 1))
        for message_id in (1, 2):
            ask(script, peer.C_MOVE_RQ, STUDY_ROOT_MOVE, message_id)
            moved = finish(script)
            assert moved.final.responded_to() == message_id
            assert moved.final.status() == 0
        script.release()
        playing.result(60)
