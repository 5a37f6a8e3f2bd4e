"""What no well-behaved peer does: silence, garbage, wrong lengths, deep nesting, aborts at every point, tiny fragments.

After each of these the server must be as before: a fresh C-ECHO is answered at once, both workers live, no memory of a
data set is still held and nothing half-received is to be found.
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import peer, samples
from tests.peer import CT, EXPLICIT, IMPLICIT, STUDY_ROOT_FIND, STUDY_ROOT_GET, STUDY_ROOT_MOVE, VERIFICATION, Peer
from tests.system.server import Server, running, wait_for

pytestmark = pytest.mark.slow

CONFIG = """
[limits]
artim_timeout_s = 60.0
dimse_timeout_s = 60.0
[log]
lines_per_peer_per_s_max = 100000
"""
"""Whatever a test does in time is done before these are over, however busy the machine is."""
IMPATIENT = CONFIG.replace("artim_timeout_s = 60.0", "artim_timeout_s = 2.5").replace(
    "dimse_timeout_s = 60.0", "dimse_timeout_s = 2.5"
)
"""For tests in which a time must be over."""

STORE = (1, CT, [EXPLICIT])
FIND = (3, STUDY_ROOT_FIND, [IMPLICIT])
ECHO = (5, VERIFICATION, [IMPLICIT])


@pytest.fixture(scope="module")
def running_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("hostile") / "data", config=CONFIG) as started:
        yield started


@pytest.fixture(scope="module")
def running_impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("impatient") / "data", config=IMPATIENT) as started:
        yield started


def healthy_afterwards(server: Server) -> Iterator[Server]:
    pids = server.worker_pids()
    yield server
    assert_healthy(server)
    assert server.worker_pids() == pids, "a worker died"


@pytest.fixture
def server(running_server: Server) -> Iterator[Server]:
    """The server; every test must leave it healthy."""
    yield from healthy_afterwards(running_server)


@pytest.fixture
def impatient(running_impatient: Server) -> Iterator[Server]:
    """A server with short timers."""
    yield from healthy_afterwards(running_impatient)


def assert_healthy(server: Server) -> None:
    """A fresh C-ECHO is answered, and nothing is held for associations that are gone."""
    echo(server)

    def held() -> list[tuple[int, int, int]]:
        workers: list[dict[str, int]] = server.stats()["workers"]  # type: ignore[assignment]
        return [(worker["associations"], worker["chunks"], worker["queue_depth"]) for worker in workers]

    wait_for(lambda: not any(map(any, held())), what="every association and data set let go")


def echo(server: Server, calling: str = "FRESH") -> None:
    """A C-ECHO on a fresh association. It is answered, whoever else is connected, long before any timer is over."""
    with Peer(server.port, timeout_s=40) as script:
        script.associate(ECHO, calling=calling)
        script.echo(5)
        script.release()


def resident_bytes(pids: list[int], *, peak: bool = False) -> int:
    """The memory of these processes; `peak`: the most that it was since `forget_peak`."""
    name = "VmHWM:" if peak else "VmRSS:"
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def forget_peak(pids: list[int]) -> None:
    """The most memory that these processes had is what they have now."""
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def instance(number: int, **options: object) -> tuple[str, bytes]:
    """SOP Instance UID and data set of an instance in study 1."""
    ds = samples.instance(1, 1, number, **options)  # type: ignore[arg-type]
    return str(ds.SOPInstanceUID), samples.encoded(ds)


def stored_count(server: Server, uid: str) -> int:
    """How many instances of that UID the archive finds."""
    with Peer(server.port) as script:
        script.associate(FIND)
        keys = peer.identifier({0x00080052: "IMAGE", 0x00080018: uid})
        script.send(peer.message(3, peer.query_rq(peer.C_FIND_RQ, 1, STUDY_ROOT_FIND), keys))
        count = 0
        while script.expect_message().status() in (0xFF00, 0xFF01):
            count += 1
        script.release()
    return count


def store(script: Peer, uid: str, data_set: bytes, message_id: int = 1) -> int:
    """Stores on context 1; the status."""
    script.send(peer.message(1, peer.c_store_rq(message_id, CT, uid), data_set))
    answer = script.expect_message()
    assert answer.responded_to() == message_id
    return answer.status()


# Before there is an association ------------------------------------------------------------------


def test_silent_connections_keep_nobody_waiting(server: Server) -> None:
    silent = [Peer(server.port) for _ in range(80)]
    echo(server)
    for script in silent:
        script.close()


def test_silent_connections_are_closed(impatient: Server) -> None:
    silent = [Peer(impatient.port) for _ in range(80)]
    for script in silent:
        script.expect_closed()
        script.close()


def test_an_associate_rq_that_drips_in_does_not_stretch_the_artim_timer(impatient: Server) -> None:
    with Peer(impatient.port) as script:
        for byte in peer.associate_rq([ECHO]):
            script.send_until_closed(bytes([byte]))
            if select.select([script.socket], [], [], 0.1)[0]:
                break
        else:
            raise AssertionError("all of it was taken, over many times the timer")
        script.wait_closed()


@pytest.mark.parametrize(
    "hello",
    [
        b"GET / HTTP/1.1\r\nHost: pacs\r\n\r\n",
        bytes.fromhex("16030100c8010000c40303") + bytes(197),  # TLS ClientHello
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\0" * 4096,
        b"\xff" * 4096,
        b"\r\n",
    ],
    ids=["http", "tls", "ssh", "zeros", "ones", "line-end"],
)
def test_other_protocols_are_turned_away(server: Server, hello: bytes) -> None:
    with Peer(server.port) as script:
        script.send_until_closed(hello)
        assert script.last_word() in (None, peer.ABORT)


@pytest.mark.parametrize("pdu_type", [0x00, 0x08, 0x47, 0xFF])
def test_an_unknown_pdu_is_aborted_with_its_reason(server: Server, pdu_type: int) -> None:
    with Peer(server.port) as script:
        script.send(peer.pdu(pdu_type, b"what is this"))
        assert script.expect_abort() == (2, 1)
    with Peer(server.port) as script:
        script.associate(ECHO)
        script.send(peer.pdu(pdu_type, b"what is this"))
        assert script.expect_abort() == (2, 1)


@pytest.mark.parametrize("pdu_type", range(1, 8))
@pytest.mark.parametrize("associated", [False, True], ids=["at-first", "associated"])
@pytest.mark.parametrize("length", [0, 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_pdu_of_an_absurd_length_takes_no_memory(
    server: Server, pdu_type: int, associated: bool, length: int
) -> None:
    with Peer(server.port) as script:
        if associated:
            script.associate(ECHO)
        script.send_until_closed(peer.pdu(pdu_type, b"x" * min(length, 64), length=length))
        if length < 2 or (associated and pdu_type == peer.P_DATA):
            # May be short and valid, or long and legal, and the rest never comes. Whether it is answered depends on the
            # type; what is asserted is the fixture's: the server is healthy, and holds nothing of it.
            script.cut()
        else:
            assert script.last_word() in (None, peer.ABORT, peer.ASSOCIATE_RJ)


def at_first(script: Peer) -> None:
    """Sta2."""


def associated_(script: Peer) -> None:
    """Sta6."""
    script.associate(STORE, ECHO)


def inside_a_data_set(script: Peer) -> None:
    """Sta6, with a message under way."""
    script.associate(STORE, ECHO)
    script.send(peer.message(1, peer.c_store_rq(1, CT, "1.2.3")))
    script.send(peer.p_data(peer.pdv(1, bytes(100), command=False, last=False)))


def rejected(script: Peer) -> None:
    """Sta13."""
    script.send(peer.associate_rq([ECHO], application_context="1.2.3"))
    script.expect_reject()


def released(script: Peer) -> None:
    """Sta13 too, after an orderly end."""
    script.associate(ECHO)
    script.send(peer.pdu(peer.RELEASE_RQ, bytes(4)))
    script.expect(peer.RELEASE_RP)


@pytest.mark.parametrize("state", [at_first, associated_, inside_a_data_set, rejected, released])
def test_lengths_that_peers_claim_take_no_memory_in_any_state(server: Server, state: Callable[[Peer], None]) -> None:
    pids = [server.process.pid, *server.worker_pids()]

    def claim_all() -> None:
        scripts = []
        for pdu_type in range(1, 8):
            for length in (0, 1, 0x7FFFFFFF, 0xFFFFFFFF):
                script = Peer(server.port)
                scripts.append(script)
                state(script)
                script.send_until_closed(peer.pdu(pdu_type, b"x" * min(length, 4096), length=length))
        with Peer(server.port) as script:
            script.associate(ECHO)
            script.echo(5)
            script.release()
        for script in scripts:
            script.close()

    claim_all()  # what is done for the first time takes memory that stays: code, pools
    forget_peak(pids)
    before = resident_bytes(pids)
    claim_all()
    assert resident_bytes(pids, peak=True) - before < 1 << 20


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: pacs\r\n\r\n", "HTTP request"),
        (bytes.fromhex("16030100c8010000c40303") + bytes(197), "TLS hello"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH banner"),
        (b"\xde\xad", "unknown bytes"),
    ],
    ids=["http", "tls", "ssh", "garbage"],
)
def test_another_protocol_is_logged_once_and_counted_once(server: Server, hello: bytes, reason: str) -> None:
    def lines() -> int:
        return sum(line["reason"] == reason for line in server.events("closed, not a DICOM peer"))

    def counted() -> int:
        return sum(server.stats()["counters"].values())  # type: ignore[attr-defined]

    before, counted_before = lines(), counted()
    with Peer(server.port) as script:
        script.send(hello)
        script.wait_closed()
    wait_for(lambda: lines() > before, what="the line")
    assert lines() == before + 1
    assert counted() == counted_before + 1


def test_a_thousand_silent_dripping_and_hostile_connections_keep_nobody_waiting(server: Server) -> None:
    request = peer.associate_rq([STORE])
    stop = threading.Event()
    held: list[Peer] = []

    def hostile(hellos: tuple[bytes, ...]) -> None:
        number = 0
        while not stop.wait(0.001):
            try:
                with Peer(server.port, timeout_s=2.0) as script:
                    script.send_until_closed(hellos[number % len(hellos)])
                    script.receive()
            except (OSError, AssertionError):
                pass  # what becomes of it is no matter here
            number += 1

    hellos = (b"GET / HTTP/1.0\r\n\r\n", b"\xff" * 3000, peer.pdu(peer.ASSOCIATE_RQ, b"?" * 80), request[:50])
    threads = [threading.Thread(target=hostile, args=(hellos,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(1000):
            script = Peer(server.port)
            held.append(script)
            if number % 5 == 1:
                script.send_until_closed(request[: 1 + number % 70])
            elif number % 5 == 2:
                # The messages of the crowd drip in: they have associations, and give nothing.
                script.associate(STORE, calling=f"DRIP{number % 7}")
                script.send(peer.message(1, peer.c_store_rq(1, CT, "1.2.3"))[: 20 + number % 50])
            if number % 50 == 49:
                echo(server)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for script in held:
            script.cut()


def test_lines_that_one_address_causes_are_bounded_and_every_one_is_counted(tmp_path: Path) -> None:
    count = 300
    with running(tmp_path / "d", workers=1, config="[log]\nlines_per_peer_per_s_max = 5\n") as server:
        for _ in range(count):
            with Peer(server.port) as script:
                script.send_until_closed(b"\xff\xff")
                script.receive()

        def logged_or_suppressed() -> int:
            suppressed = sum(int(str(line["count"])) for line in server.events("lines about a peer were suppressed"))
            return len(server.events("closed, not a DICOM peer")) + suppressed

        wait_for(lambda: logged_or_suppressed() == count, what="every connection logged or counted")
        per_second: dict[str, int] = {}
        for line in server.events("closed, not a DICOM peer"):
            second = str(line["time"])[:19]
            per_second[second] = per_second.get(second, 0) + 1
        assert max(per_second.values()) <= 5


def test_nothing_that_a_peer_says_forges_a_line_of_the_log(server: Server) -> None:
    evil = 'A\n{"a":1}\x1b[2J'
    uid, data_set = instance(220_001)
    with Peer(server.port) as script:
        script.associate(STORE, ECHO, calling=evil, called="B\r\x1b]0;x\x07")
        for claimed in ("1.2\n{}", "1.2\x1b[31m", uid + "\u202e"):
            script.send(peer.message(1, peer.c_store_rq(1, CT, claimed), data_set))
            assert script.expect_message().status() != 0
        script.release()
    wait_for(lambda: any(line["calling"] == evil for line in server.events("association ended")), what="its lines")
    for line in list(server.log):
        assert line.rstrip("\n").isprintable(), ascii(line)
        assert json.loads(line)["event"]


@pytest.mark.parametrize("pdu_type", [t for t in range(1, 8) if t != peer.ASSOCIATE_RQ])
def test_a_pdu_out_of_turn_is_no_association(server: Server, pdu_type: int) -> None:
    with Peer(server.port) as script:
        script.send(peer.pdu(pdu_type, b"\0\0\0\0"))
        assert script.last_word() in (None, peer.ABORT)


# Negotiation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("context_id", [0, 2, 254])
def test_an_even_presentation_context_id_is_not_accepted(server: Server, context_id: int) -> None:
    with Peer(server.port) as script:
        script.send(peer.associate_rq([(context_id, VERIFICATION, [IMPLICIT])]))
        assert script.last_word() in (peer.ABORT, peer.ASSOCIATE_RJ)


def test_wrong_application_context_and_protocol_version_are_rejected(server: Server) -> None:
    with Peer(server.port) as script:
        script.send(peer.associate_rq([ECHO], application_context="1.2.3"))
        assert script.expect_reject() == (1, 1, 2)
    with Peer(server.port) as script:
        script.send(peer.associate_rq([ECHO], protocol_version=2))
        assert script.expect_reject() == (1, 2, 2)
    with Peer(server.port) as script:
        script.send(peer.associate_rq([ECHO], protocol_version=0xFFFF))
        script.expect(peer.ASSOCIATE_AC)
        script.cut()


def test_a_rejected_peer_that_does_not_close_is_closed_by_artim(impatient: Server) -> None:
    with Peer(impatient.port) as script:
        script.send(peer.associate_rq([ECHO], application_context="1.2.3"))
        script.expect_reject()
        script.expect_closed()


def test_titles_come_back_as_they_were_sent(server: Server) -> None:
    with Peer(server.port) as script:
        answer = script.associate(ECHO, called=" FILMROOM", calling="SIXTEEN_LETTERS_")
        assert answer.titles[:32] == b" FILMROOM".ljust(16) + b"SIXTEEN_LETTERS_"


@pytest.mark.parametrize("seed", range(4))
def test_damaged_associate_rqs_are_answered_or_aborted(server: Server, seed: int) -> None:
    rng = random.Random(seed)
    good = peer.associate_rq(
        [STORE, FIND, ECHO], user_items=peer.asynchronous_window(8, 8) + peer.role(CT, scu=True, scp=True)
    )
    for _ in range(40):
        damaged = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(6, len(damaged))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        with Peer(server.port) as script:
            script.send_until_closed(bytes(damaged))
            received = script.receive()
            assert received is None or received[0] in (peer.ASSOCIATE_AC, peer.ASSOCIATE_RJ, peer.ABORT), f"seed {seed}"
            script.cut()


def test_the_window_that_is_granted_is_never_more_than_was_asked(server: Server) -> None:
    for asked, granted in ((1, 1), (3, 3), (1000, 16), (0, 16)):
        with Peer(server.port) as script:
            answer = script.associate(STORE, user_items=peer.asynchronous_window(asked, 1))
            item = answer.user_item(0x53)
            assert item is not None
            assert struct.unpack(">HH", item)[0] == granted
            script.release()
    with Peer(server.port) as script:
        assert script.associate(STORE).user_item(0x53) is None
        script.release()


# Messages ----------------------------------------------------------------------------------------


def test_a_data_set_without_its_command_is_aborted(impatient: Server) -> None:
    with Peer(impatient.port) as script:
        script.associate(STORE)
        script.send(peer.p_data(peer.pdv(1, b"\x08\0\x16\0", command=False, last=False)))
        assert script.expect_abort()[0] in (0, 2)
        script.expect_closed()  # by ARTIM, since this side does not close


def test_p_data_before_the_association_is_aborted(server: Server) -> None:
    with Peer(server.port) as script:
        script.send(peer.message(1, peer.c_echo_rq()))
        assert script.last_word() in (None, peer.ABORT)


def test_p_data_that_does_not_wait_for_the_association_is_aborted(server: Server) -> None:
    with Peer(server.port) as script:
        script.send(peer.associate_rq([ECHO]) + peer.message(5, peer.c_echo_rq()))
        script.expect(peer.ASSOCIATE_AC)
        assert script.expect_abort() == (2, 2)


def test_a_message_on_a_context_that_was_not_accepted_is_aborted(impatient: Server) -> None:
    uid, data_set = instance(1)
    for context_id in (9, 2):
        with Peer(impatient.port) as script:
            script.associate(ECHO)
            script.send_until_closed(peer.message(context_id, peer.c_store_rq(1, CT, uid), data_set))
            assert script.expect_abort()[0] in (0, 2)
            script.expect_closed()


def test_a_data_set_on_another_context_than_its_command_is_aborted(impatient: Server) -> None:
    uid, data_set = instance(2)
    with Peer(impatient.port) as script:
        script.associate(STORE, (7, CT, [EXPLICIT]))
        script.send(peer.message(1, peer.c_store_rq(1, CT, uid)))
        script.send_until_closed(b"".join(peer.fragments(7, data_set, command=False)))
        script.expect_abort()
        script.expect_closed()
    assert stored_count(impatient, uid) == 0


def test_a_command_in_the_middle_of_a_data_set_is_no_harm(server: Server) -> None:
    uid, data_set = instance(3)
    with Peer(server.port) as script:
        script.associate(STORE, ECHO)
        script.send(peer.message(1, peer.c_store_rq(1, CT, uid)))
        script.send(peer.p_data(peer.pdv(1, data_set[:100], command=False, last=False)))
        script.send_until_closed(peer.message(5, peer.c_echo_rq(2)))
        script.send_until_closed(peer.p_data(peer.pdv(1, data_set[100:], command=False, last=True)))
        types = {peer.ABORT}
        received = script.receive()
        assert received is not None
        assert received[0] in (peer.ABORT, peer.P_DATA), types
        script.cut()


@pytest.mark.parametrize(
    ("elements", "status"),
    [
        ({peer.COMMAND_FIELD: 0x0042, peer.MESSAGE_ID: 9, peer.DATA_SET_TYPE: 0x0101}, 0x0211),
        ({peer.COMMAND_FIELD: 0x0030, peer.MESSAGE_ID: b"\1\0\0\0", peer.DATA_SET_TYPE: 0x0101}, None),
        ({peer.COMMAND_FIELD: 0x0001, peer.MESSAGE_ID: 9, peer.DATA_SET_TYPE: 0x0101}, 0x0212),
        ({peer.COMMAND_FIELD: 0x0150, peer.MESSAGE_ID: 9, peer.DATA_SET_TYPE: 0x0101}, 0x0211),  # N-DELETE
        ({peer.COMMAND_FIELD: 0x0120, peer.MESSAGE_ID: 9, peer.DATA_SET_TYPE: 0x0101}, 0x0212),  # N-SET
        ({peer.MESSAGE_ID: 9}, None),
        ({}, None),
    ],
    ids=["unknown", "long-message-id", "store-without-uids", "n-delete", "n-set-without-data", "no-field", "empty"],
)
def test_commands_that_are_none_are_answered_or_aborted(
    server: Server, elements: dict[int, int | str | bytes], status: int | None
) -> None:
    with Peer(server.port) as script:
        script.associate(STORE, ECHO)
        script.send(peer.message(1, peer.command_set(elements)))
        if status is None:
            assert script.expect_abort()[0] in (0, 2)
        else:
            answer = script.expect_message()
            assert answer.status() == status
            assert answer.responded_to() == 9
            script.echo(5)
            script.release()


@pytest.mark.parametrize("place", [1, 3, 5, 9], ids=["storage", "query", "verification", "private"])
@pytest.mark.parametrize("kind", ["echo", "store", "find", "move", "get"])
def test_a_request_that_its_presentation_context_is_not_for_is_answered_0122(
    server: Server, place: int, kind: str
) -> None:
    """By kind, and by SOP class where the kind is right."""
    classes = {1: CT, 3: peer.STUDY_ROOT_FIND, 5: peer.VERIFICATION, 9: "2.25.1"}
    field, ours = {
        "echo": (peer.C_ECHO_RQ, 5),
        "store": (peer.C_STORE_RQ, 1),
        "find": (peer.C_FIND_RQ, 3),
        "move": (peer.C_MOVE_RQ, 0),
        "get": (peer.C_GET_RQ, 0),
    }[kind]
    elements: dict[int, int | str | bytes] = {
        peer.SOP_CLASS: "1.2.840.10008.5.1.4.1.1.4" if place == ours else classes[place],
        peer.COMMAND_FIELD: field,
        peer.MESSAGE_ID: 7,
        peer.DATA_SET_TYPE: peer.NO_DATA_SET if kind == "echo" else 1,
    }
    if kind == "store":
        elements |= {peer.SOP_INSTANCE: "1.2.3", peer.PRIORITY: 0}
        if place == 9:
            elements[peer.SOP_CLASS] = CT
    if kind == "move":
        elements[peer.MOVE_DESTINATION] = "DEST"
    data_set = None if kind == "echo" else bytes(20_000)
    with Peer(server.port) as script:
        script.associate(STORE, FIND, ECHO, (9, "2.25.1", [IMPLICIT]))
        script.send(peer.message(place, peer.command_set(elements), data_set))
        answer = script.expect_message()
        assert (answer.status(), answer.responded_to(), answer.context_id) == (0x0122, 7, place)
        script.echo(5)
        script.release()
    assert_healthy(server)


def test_a_response_on_a_context_of_another_service_ends_its_association(impatient: Server) -> None:
    answer = peer.command_set(
        {
            peer.SOP_CLASS: CT,
            peer.COMMAND_FIELD: peer.C_STORE_RQ | peer.RESPONSE,
            peer.RESPONDED_TO: 1,
            peer.DATA_SET_TYPE: peer.NO_DATA_SET,
            peer.STATUS: 0,
        }
    )
    with Peer(impatient.port) as script:
        script.associate(STORE, FIND)
        script.send(peer.message(3, answer))
        script.expect_abort()
        script.expect_closed()


def test_a_wrong_group_length_is_ignored(server: Server) -> None:
    command = bytearray(peer.c_echo_rq(3))
    command[8:12] = b"\1\2\3\4"
    with Peer(server.port) as script:
        script.associate(ECHO)
        script.send(peer.message(5, bytes(command)))
        assert script.expect_message().status() == 0
        script.release()


def test_a_response_that_nobody_asked_for_ends_at_most_its_association(server: Server) -> None:
    answer = peer.command_set(
        {
            peer.SOP_CLASS: CT,
            peer.COMMAND_FIELD: peer.C_STORE_RQ | peer.RESPONSE,
            peer.RESPONDED_TO: 77,
            peer.DATA_SET_TYPE: peer.NO_DATA_SET,
            peer.STATUS: 0,
            peer.SOP_INSTANCE: "1.2.3",
        }
    )
    with Peer(server.port) as script:
        script.associate(STORE, ECHO)
        script.send(peer.message(1, answer))
        script.echo(5)
        script.release()


def test_a_late_cancel_is_ignored(server: Server) -> None:
    with Peer(server.port) as script:
        script.associate(ECHO, FIND)
        script.send(peer.message(3, peer.c_cancel_rq(55)))
        script.echo(5)
        script.release()


def nested(depth: int, *, explicit: bool) -> bytes:
    """A sequence of undefined length in a sequence in a sequence …"""
    head = b"\x40\0\x30\xa7" + (b"SQ\0\0" if explicit else b"") + b"\xff\xff\xff\xff"
    opening = head + b"\xfe\xff\0\xe0\xff\xff\xff\xff"
    closing = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    return opening * depth + closing * depth


@pytest.mark.parametrize("depth", [100, 10_000])
def test_deep_sequences_in_a_data_set_are_kept_or_refused(server: Server, depth: int) -> None:
    uid, data_set = instance(200_000 + depth)
    at = data_set.index(b"\xe0\x7f\x10\x00")
    with Peer(server.port) as script:
        script.associate(STORE)
        status = store(script, uid, data_set[:at] + nested(depth, explicit=True) + data_set[at:])
        assert status == 0 or status & 0xF000 in (0xA000, 0xC000)
        script.release()
    assert stored_count(server, uid) == (status == 0)


def test_deep_sequences_before_the_wanted_attributes_are_kept_or_refused(server: Server) -> None:
    uid, data_set = instance(210_001)
    at = data_set.index(b"\x10\0\x10\0PN")
    deep = nested(10_000, explicit=True).replace(b"\x40\0\x30\xa7", b"\x08\0\x40\x11")
    with Peer(server.port) as script:
        script.associate(STORE)
        status = store(script, uid, data_set[:at] + deep + data_set[at:])
        assert status == 0 or status & 0xF000 in (0xA000, 0xC000)
        script.release()


@pytest.mark.parametrize("depth", [100, 10_000])
def test_deep_sequences_in_an_identifier_are_answered(server: Server, depth: int) -> None:
    keys = peer.identifier({0x00080052: "STUDY", 0x0020000D: ""}) + nested(depth, explicit=False)
    with Peer(server.port) as script:
        script.associate(FIND, ECHO)
        script.send(peer.message(3, peer.query_rq(peer.C_FIND_RQ, 1, STUDY_ROOT_FIND), keys))
        while (status := script.expect_message().status()) in (0xFF00, 0xFF01):
            pass
        assert status == 0 or status & 0xF000 in (0xA000, 0xC000)
        script.echo(5)
        script.release()


@pytest.mark.parametrize(
    "keys",
    [
        b"\x08\0\x52\0\xff\xff\xff\x7fSTUDY ",
        b"\x08\0",
        b"",
        peer.identifier({0x00080052: "STUDY", 0x0020000D: "*" * 4000 + "?" * 4000}),
        peer.identifier({0x00080052: "STUDY", 0x00100010: "*a" * 500 + "*"}),
        peer.identifier({0x00080052: "STUDY", 0x00080020: "not-a-date-at-all"}),
        peer.identifier({0x00080052: "STUDY", 0x00080030: "9" * 64}),
        peer.identifier({0x00080052: "STUDY", 0x0020000D: "\\".join(["1.2"] * 5000)}),
        peer.identifier({0x00080052: "STUDY", 0x00100010: b"\xff\xfe\x1b$B\x80"}),
    ],
    ids=["length", "cut", "empty", "wildcards", "stars", "date", "time", "list", "character-set"],
)
def test_odd_identifiers_are_answered(server: Server, keys: bytes) -> None:
    with Peer(server.port) as script:
        script.associate(FIND, ECHO)
        script.send(peer.message(3, peer.query_rq(peer.C_FIND_RQ, 1, STUDY_ROOT_FIND), keys))
        while (status := script.expect_message().status()) in (0xFF00, 0xFF01):
            pass
        assert status == 0 or status & 0xF000 in (0xA000, 0xC000)
        script.echo(5)
        script.release()


def test_an_identifier_without_end_is_stopped(impatient: Server) -> None:
    with Peer(impatient.port) as script:
        script.associate(FIND)
        script.send(peer.message(3, peer.query_rq(peer.C_FIND_RQ, 1, STUDY_ROOT_FIND)))
        more = peer.p_data(peer.pdv(3, bytes(16000), command=False, last=False))
        for _ in range(6000):  # 96 MB, if nobody stops it
            script.send_until_closed(more)
            if select.select([script.socket], [], [], 0)[0]:
                break
        else:
            raise AssertionError("an identifier of 96 MB was taken")
        assert peer.P_DATA not in script.wait_closed()


def test_a_message_of_an_unserved_kind_with_a_data_set_is_answered_or_aborted(server: Server) -> None:
    action = peer.command_set(
        {
            0x0003: "1.2.840.10008.1.20.1",
            peer.COMMAND_FIELD: 0x0130,
            peer.MESSAGE_ID: 4,
            peer.DATA_SET_TYPE: 1,
            0x1001: "1.2.840.10008.1.20.1.1",
            0x1008: 1,
        }
    )
    with Peer(server.port) as script:
        script.associate(STORE)
        script.send_until_closed(peer.message(1, action, b"\x08\0\x16\0UI\0\0"))
        received = script.receive()
        assert received is not None
        assert received[0] in (peer.P_DATA, peer.ABORT)
        script.cut()


@pytest.mark.parametrize("seed", range(3))
def test_damaged_data_sets_are_stored_or_refused_and_the_association_goes_on(server: Server, seed: int) -> None:
    rng = random.Random(seed)
    with Peer(server.port) as script:
        script.associate(STORE, ECHO)
        for number in range(150):
            uid, data_set = instance(20_000 + 1000 * seed + number)
            damaged = bytearray(data_set)
            for _ in range(rng.randint(1, 6)):
                where = rng.randrange(len(damaged))
                damaged[where] = rng.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, rng.randrange(256)))
            if rng.random() < 0.2:
                del damaged[rng.randrange(len(damaged)) :]
            status = store(script, uid, bytes(damaged), number + 1)
            assert status in (0, 0xB000) or status & 0xF000 in (0xA000, 0xC000), f"seed {seed}, number {number}"
        script.echo(5)
        script.release()


# Fragments ---------------------------------------------------------------------------------------


def test_single_bytes_on_the_wire_are_put_together(server: Server) -> None:
    uid, data_set = instance(30)
    with Peer(server.port) as script:
        script.send(peer.associate_rq([STORE]), pieces=1)
        script.expect(peer.ASSOCIATE_AC)
        script.send(peer.message(1, peer.c_store_rq(1, CT, uid), data_set), pieces=1)
        assert script.expect_message().status() == 0
        script.send(peer.pdu(peer.RELEASE_RQ, bytes(4)), pieces=1)
        script.expect(peer.RELEASE_RP)
    assert stored_count(server, uid) == 1


@pytest.mark.parametrize("fragment", [1, 2, 7, 333])
def test_pdvs_of_any_length_are_put_together(server: Server, fragment: int) -> None:
    uid, data_set = instance(31 + fragment)
    command = peer.c_store_rq(1, CT, uid)
    with Peer(server.port) as script:
        script.associate(STORE)
        script.send(peer.message(1, command, data_set, fragment=fragment))
        assert script.expect_message().status() == 0
        script.release()
    assert stored_count(server, uid) == 1


def test_many_pdvs_in_one_pdu_and_empty_ones_are_put_together(server: Server) -> None:
    uid, data_set = instance(40)
    command = peer.c_store_rq(1, CT, uid)
    values = [
        peer.pdv(1, command[at : at + 1], command=True, last=at == len(command) - 1) for at in range(len(command))
    ]
    for at in range(len(data_set)):
        values.append(peer.pdv(1, b"", command=False, last=False))
        values.append(peer.pdv(1, data_set[at : at + 1], command=False, last=False))
    values.append(peer.pdv(1, b"", command=False, last=True))
    with Peer(server.port) as script:
        script.associate(STORE)
        script.send(peer.p_data(*values))
        assert script.expect_message().status() == 0
        script.release()
    assert stored_count(server, uid) == 1


def test_a_p_data_of_no_pdv_is_no_harm(server: Server) -> None:
    with Peer(server.port) as script:
        script.associate(ECHO)
        script.send(peer.p_data())
        script.send_until_closed(peer.message(5, peer.c_echo_rq()))
        received = script.receive()
        assert received is not None
        assert received[0] in (peer.P_DATA, peer.ABORT)
        script.cut()


@pytest.mark.parametrize("length", [0, 1, 3, 0x00FFFFFF, 0xFFFFFFFF])
def test_a_pdv_that_does_not_fit_its_pdu_is_aborted(server: Server, length: int) -> None:
    with Peer(server.port) as script:
        script.associate(STORE)
        script.send_until_closed(peer.pdu(peer.P_DATA, struct.pack(">IBB", length, 1, 3) + b"\0\0"))
        assert script.last_word() == peer.ABORT


@pytest.mark.parametrize("maximum_length", [0, 1, 7, 8, 128, 16384])
def test_the_peers_maximum_length_is_honoured(server: Server, maximum_length: int) -> None:
    uid, data_set = instance(50)
    with Peer(server.port) as script:
        script.associate(STORE)
        assert store(script, uid, data_set) == 0
        script.release()
    with Peer(server.port) as script:
        script.send(
            peer.associate_rq(
                [STORE, (9, STUDY_ROOT_GET, [IMPLICIT])],
                maximum_length=maximum_length,
                user_items=peer.role(CT, scu=False, scp=True),
            )
        )
        received = script.receive()
        assert received is not None
        if maximum_length and maximum_length < 8:
            # Not one even-sized fragment fits: an association may be turned down, or the limit stretched to the least.
            assert received[0] in (peer.ASSOCIATE_AC, peer.ASSOCIATE_RJ, peer.ABORT)
            if received[0] != peer.ASSOCIATE_AC:
                return
        keys = peer.identifier({0x00080052: "IMAGE", 0x00080018: uid})
        script.send(peer.message(9, peer.query_rq(peer.C_GET_RQ, 1, STUDY_ROOT_GET), keys))
        sub_operation = script.expect_message()
        assert sub_operation.data_set == data_set
        script.send(peer.message(sub_operation.context_id, peer.c_store_rsp(sub_operation.command)))
        while (answer := script.expect_message()).status() == 0xFF00:
            pass
        assert answer.status() == 0
        if maximum_length:
            assert script.longest_p_data <= max(maximum_length, 8)
        script.release()


# Ends --------------------------------------------------------------------------------------------


def store_in_steps(uid: str, data_set: bytes) -> list[bytes]:
    """A store as PDUs: association, command in three, data set in four, release."""
    steps = [peer.associate_rq([STORE])]
    steps += peer.message_pdus(1, peer.c_store_rq(1, CT, uid), None, fragment=60)
    steps += peer.fragments(1, data_set, command=False, fragment=len(data_set) // 4 + 1)
    return [*steps, peer.pdu(peer.RELEASE_RQ, bytes(4))]


@pytest.mark.parametrize("ending", ["abort", "cut", "cut-inside", "close"])
def test_a_sender_that_ends_anywhere_leaves_nothing_half(server: Server, ending: str) -> None:
    uid, data_set = instance(60 + ["abort", "cut", "cut-inside", "close"].index(ending))
    steps = store_in_steps(uid, data_set)
    for count in range(len(steps) - 1):  # all but the last fragment
        with Peer(server.port) as script:
            for step in steps[:count]:
                script.send(step)
                if step is steps[0]:
                    script.expect(peer.ASSOCIATE_AC)
            if ending == "abort":
                script.send_until_closed(peer.pdu(peer.ABORT, bytes(4)))
                script.wait_closed()
            elif ending == "cut-inside":
                script.send(steps[count][: len(steps[count]) // 2])
                script.cut()
            elif ending == "cut":
                script.cut()
            else:
                script.close()
        if count < len(steps) - 2:
            assert stored_count(server, uid) == 0
    assert_healthy(server)
    with Peer(server.port) as script:
        script.send(steps[0])
        script.expect(peer.ASSOCIATE_AC)
        script.send(b"".join(steps[1:]))
        assert script.expect_message().status() == 0
        script.expect(peer.RELEASE_RP)
    assert stored_count(server, uid) == 1


def test_a_sender_that_stops_inside_a_data_set_is_aborted(impatient: Server) -> None:
    uid, data_set = instance(70)
    with Peer(impatient.port) as script:
        script.associate(STORE)
        script.send(peer.message(1, peer.c_store_rq(1, CT, uid)))
        script.send(peer.p_data(peer.pdv(1, data_set[:300], command=False, last=False)))
        script.expect_abort()
        script.expect_closed()
    assert stored_count(impatient, uid) == 0


def test_a_large_object_that_stops_half_way_leaves_no_space_taken(server: Server, tmp_path: Path) -> None:
    uid, data_set = instance(71, pixels=bytes(12 << 20))
    segments = server.data / "segments"
    before = {path.name for path in segments.iterdir()}
    with Peer(server.port) as script:
        script.associate(STORE)
        script.send(peer.message(1, peer.c_store_rq(1, CT, uid)))
        script.send(b"".join(peer.fragments(1, data_set, command=False, fragment=100_000)[:-1]))
        script.cut()

    def given_up() -> bool:
        return not [path for path in segments.iterdir() if path.name not in before and path.stat().st_size > 8 << 20]

    wait_for(given_up, what="the half-written segment removed")
    with Peer(server.port) as script:
        script.associate(STORE)
        assert store(script, uid, data_set) == 0
        script.release()
    assert stored_count(server, uid) == 1


def test_a_release_while_stores_are_outstanding_waits_for_their_answers(server: Server) -> None:
    made = [instance(80 + number) for number in range(6)]
    with Peer(server.port) as script:
        script.associate(STORE, user_items=peer.asynchronous_window(6, 1))
        script.send(
            b"".join(
                peer.message(1, peer.c_store_rq(number, CT, uid), data_set)
                for number, (uid, data_set) in enumerate(made, 1)
            )
            + peer.pdu(peer.RELEASE_RQ, bytes(4))
        )
        answers = [script.expect_message() for _ in made]
        assert sorted(answer.responded_to() for answer in answers) == [1, 2, 3, 4, 5, 6]
        assert {answer.status() for answer in answers} == {0}
        script.expect(peer.RELEASE_RP)
        script.close()
    assert [stored_count(server, uid) for uid, _ in made] == [1] * 6


@pytest.mark.parametrize("window", [2, 16, 64])
def test_every_outstanding_store_is_answered_once(server: Server, window: int) -> None:
    count = 100
    made = [instance(1000 * window + number) for number in range(count)]
    with Peer(server.port) as script:
        script.associate(STORE, user_items=peer.asynchronous_window(window, 1))
        unanswered: set[int] = set()
        for number, (uid, data_set) in enumerate(made, 1):
            script.send(peer.message(1, peer.c_store_rq(number, CT, uid), data_set))
            unanswered.add(number)
            if len(unanswered) == window:
                answer = script.expect_message()
                assert answer.status() == 0
                unanswered.remove(answer.responded_to())
        while unanswered:
            answer = script.expect_message()
            assert answer.status() == 0
            assert answer.command[peer.SOP_INSTANCE].rstrip(b"\0").decode() == made[answer.responded_to() - 1][0]
            unanswered.remove(answer.responded_to())
        script.release()


def test_a_sender_that_overruns_its_window_is_held_back_and_answered(server: Server) -> None:
    made = [instance(90_000 + number) for number in range(60)]
    with Peer(server.port) as script:
        script.associate(STORE)  # no window: 1
        script.send(
            b"".join(
                peer.message(1, peer.c_store_rq(number, CT, uid), data_set)
                for number, (uid, data_set) in enumerate(made, 1)
            )
        )
        answered = sorted(script.expect_message().responded_to() for _ in made)
        assert answered == list(range(1, 61))
        script.release()


def test_copies_of_an_instance_that_race_are_all_a_success_and_leave_one(server: Server) -> None:
    """Eight senders on both workers: whichever record comes first in the order of the stamps, nobody hears B000."""
    made = [instance(300_000 + number) for number in range(60)]
    versions = server.stats()["archive"]["versions"]  # type: ignore[index]
    together = threading.Barrier(8)

    def send_all(_: int) -> set[int]:
        statuses = set()
        with Peer(server.port) as script:
            script.associate(STORE)
            for number, (uid, data_set) in enumerate(made, 1):
                together.wait(60)
                statuses.add(store(script, uid, data_set, number))
            script.release()
        return statuses

    with ThreadPoolExecutor(8) as pool:
        assert set().union(*pool.map(send_all, range(8))) == {0}
    assert {stored_count(server, uid) for uid, _ in made} == {1}
    assert server.stats()["archive"]["versions"] == versions  # type: ignore[index]


def test_a_release_in_answer_to_a_release_is_no_deadlock(server: Server) -> None:
    """The destination of a C-MOVE asks for release at the moment when the server does (PS3.8 9.2.2, Sta9 to Sta12)."""
    uid, data_set = instance(100)
    with Peer(server.port) as script:
        script.associate(STORE)
        assert store(script, uid, data_set) == 0
        script.release()
    with peer.Listener() as listener, Peer(server.port) as mover:
        server.reload(f'{CONFIG}\n[[peer]]\naet = "SINK"\nhost = "127.0.0.1"\nport = {listener.port}\n')
        mover.close()
        mover = Peer(server.port)
        mover.associate((9, STUDY_ROOT_MOVE, [IMPLICIT]))
        keys = peer.identifier({0x00080052: "IMAGE", 0x00080018: uid})
        mover.send(peer.message(9, peer.query_rq(peer.C_MOVE_RQ, 1, STUDY_ROOT_MOVE, "SINK"), keys))
        with listener.accept() as destination:
            destination.accept()
            sub_operation = destination.expect_message()
            assert sub_operation.data_set == data_set
            destination.send(peer.message(sub_operation.context_id, peer.c_store_rsp(sub_operation.command)))
            destination.expect(peer.RELEASE_RQ)
            destination.send(peer.pdu(peer.RELEASE_RQ, bytes(4)))  # instead of A-RELEASE-RP
            destination.expect(peer.RELEASE_RP)
            destination.send(peer.pdu(peer.RELEASE_RP, bytes(4)))
            destination.expect_closed()
        while (answer := mover.expect_message()).status() == 0xFF00:
            pass
        assert answer.status() == 0
        mover.release()
    server.reload(CONFIG)


def test_hundreds_of_idle_associations_do_not_slow_a_fresh_one(server: Server) -> None:
    idle = []
    try:
        for _ in range(250):
            script = Peer(server.port)
            script.associate(ECHO)
            idle.append(script)
        echo(server)
        for script in idle:
            script.echo(5)
    finally:
        for script in idle:
            script.cut()


# Workers and descriptors -------------------------------------------------------------------------


def echoed(server: Server, calling: str = "SCRIPT") -> None:
    with Peer(server.port) as script:
        script.associate(ECHO, calling=calling)
        script.echo(5)
        script.release()


def test_a_stopped_worker_keeps_nobody_waiting_and_goes_on_when_it_runs_again(tmp_path: Path) -> None:
    with running(tmp_path / "d", workers=2) as server:
        stopped, other = server.worker_pids()
        os.kill(stopped, signal.SIGSTOP)
        try:
            # Also those that are given to it before anybody knows.
            for _ in range(6):
                echoed(server)
            wait_for(lambda: server.events("worker does not answer, new connections go to others"), what="noticed")
            for _ in range(6):
                echoed(server)
        finally:
            os.kill(stopped, signal.SIGCONT)
        wait_for(lambda: server.events("worker runs again"), what="noticed again")
        held = [Peer(server.port) for _ in range(2)]
        for script in held:
            script.associate(ECHO)
        wait_for(
            lambda: [worker["associations"] for worker in server.stats()["workers"]] == [1, 1],  # type: ignore[attr-defined]
            what="both used",
        )
        for script in held:
            script.echo(5)
            script.release()
        assert server.worker_pids() == [stopped, other]


def test_a_worker_that_stays_stopped_is_replaced(tmp_path: Path) -> None:
    with running(tmp_path / "d", workers=1, config="[limits]\nworker_silence_s_max = 3.0\n") as server:
        (stopped,) = server.worker_pids()
        os.kill(stopped, signal.SIGSTOP)
        # Nobody else is there: the connection waits for the successor.
        with Peer(server.port) as script:
            script.associate(ECHO)
            script.echo(5)
            script.release()
        wait_for(
            lambda: server.events("worker did not answer for too long and is replaced"), what="the line in the log"
        )
        assert server.worker_pids() != [stopped]


def test_out_of_descriptors_it_turns_some_away_and_serves_again(tmp_path: Path) -> None:
    if shutil.which("prlimit") is None:
        pytest.skip("there is no prlimit")
    with running(tmp_path / "d", workers=1, prefix=("prlimit", "--nofile=64:64")) as server:
        held: list[Peer] = []
        try:
            for number in range(200):
                script = Peer(server.port)
                held.append(script)
                if number % 2:
                    script.send_until_closed(peer.associate_rq([ECHO]))
            wait_for(
                lambda: any(
                    map(server.events, ("accept failed", "out of file descriptors, a connection was not taken"))
                )
            )
        finally:
            for script in held:
                script.cut()

        def serves() -> bool:
            try:
                echoed(server)
            except (OSError, AssertionError):
                return False
            return True

        wait_for(serves, what="it serves again")
        assert len(server.log) < 400, "it filled the log"


def test_an_idle_association_takes_little_memory(server: Server) -> None:
    """At most 100 KiB; some 6 KiB were measured with 1 000 of them and three contexts each."""
    count = 300
    pids = [server.process.pid, *server.worker_pids()]
    for _ in range(4):
        echoed(server)
    before = resident_bytes(pids)
    held = []
    try:
        for number in range(count):
            script = Peer(server.port)
            held.append(script)
            script.associate(STORE, FIND, ECHO, calling=f"IDLE{number % 3}")
            script.echo(5)
        assert (resident_bytes(pids) - before) / count < 100 << 10
    finally:
        for script in held:
            script.cut()
