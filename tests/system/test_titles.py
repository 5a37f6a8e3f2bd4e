"""AE titles beyond ASCII, in Latin-1 and in UTF-8: who has one may do what others may, and hears it as it said it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import peer, samples
from tests.peer import CT, EXPLICIT, IMPLICIT, STUDY_ROOT_MOVE, VERIFICATION, Listener, Peer
from tests.system import foreign
from tests.system.server import Server, filmroom, running, wait_for

LATIN_1, UTF_8 = b"R\xd6NTGEN", "RÖNTGEN".encode()
CYRILLIC = "РЕНТГЕН".encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("titles") / "data") as started:
        assert foreign.store(started.port, [foreign.Stored.of(samples.instance(1, 1, 1))]) == [0]
        yield started


def configure(server: Server, aet: str, listener: Listener, more: str = "") -> None:
    server.reload(f'[[peer]]\naet = "{aet}"\nhost = "127.0.0.1"\nport = {listener.port}\n{more}\n')


def receive_one(listener: Listener) -> tuple[bytes, bytes, bytes]:
    """Called title, calling title and move originator of a sub-operation, which succeeds."""
    with listener.accept() as destination:
        body = destination.expect(peer.ASSOCIATE_RQ)
        answer = body[:68] + peer.item(0x10, peer.APPLICATION_CONTEXT.encode())
        answer += peer.item(0x21, bytes([1, 0, 0, 0]) + peer.item(0x40, EXPLICIT.encode()))
        user = peer.item(0x51, bytes([0, 0, 64, 0])) + peer.item(0x52, b"1.2.3")
        destination.send(peer.pdu(peer.ASSOCIATE_AC, answer + peer.item(0x50, user)))
        store = destination.expect_message()
        destination.send(peer.message(store.context_id, peer.c_store_rsp(store.command)))
        destination.expect(peer.RELEASE_RQ)
        destination.send(peer.pdu(peer.RELEASE_RP, bytes(4)))
    return body[4:20].rstrip(), body[20:36].rstrip(), store.command[peer.ORIGINATOR_TITLE].rstrip(b" ")


@pytest.mark.parametrize("calling", [LATIN_1, UTF_8, CYRILLIC, b"\xe0\xa0\x85"])
@pytest.mark.parametrize(
    ("aet", "named", "called"),
    [
        ("SINK", b"SINK", b"SINK"),
        ("RÖNTGEN", LATIN_1, LATIN_1),
        ("RÖNTGEN", UTF_8, UTF_8),
        ("РЕНТГЕН", CYRILLIC, CYRILLIC),
    ],
)
def test_c_move_by_and_to_a_title_beyond_ascii_succeeds(
    server: Server, calling: bytes, aet: str, named: bytes, called: bytes
) -> None:
    with Listener() as listener, ThreadPoolExecutor(1) as pool, Peer(server.port) as script:
        configure(server, aet, listener)
        receiving = pool.submit(receive_one, listener)
        answer = script.associate((1, STUDY_ROOT_MOVE, [IMPLICIT]), calling=calling)
        assert answer.titles[16:32] == calling.ljust(16)
        keys = peer.identifier({0x00080052: "STUDY", 0x0020000D: f"{samples.ROOT}.1"})
        script.send(peer.message(1, peer.query_rq(peer.C_MOVE_RQ, 1, STUDY_ROOT_MOVE, named), keys))
        while (final := script.expect_message()).status() == 0xFF00:
            pass
        assert final.status() == 0
        assert peer.number(final.command, peer.COMPLETED) == 1
        assert receiving.result(60) == (called, b"FILMROOM", calling)
        script.release()


@pytest.mark.parametrize("calling", [LATIN_1, UTF_8])
def test_what_is_configured_for_a_title_beyond_ascii_holds_however_it_is_said(server: Server, calling: bytes) -> None:
    with Listener() as listener, Peer(server.port) as script, Peer(server.port) as second:
        configure(server, "RÖNTGEN", listener, 'may = ["store"]\nassociations_max = 1')
        answer = script.associate((1, STUDY_ROOT_MOVE, [IMPLICIT]), (3, CT, [EXPLICIT]), calling=calling)
        assert [answer.contexts[number][0] for number in (1, 3)] == [3, 0]
        second.send(peer.associate_rq([(1, VERIFICATION, [IMPLICIT])], calling=calling))
        second.expect_reject()
        script.release()


@pytest.mark.parametrize(("aet", "called"), [("RÖNTGEN", LATIN_1), ("РЕНТГЕН", CYRILLIC)])
def test_echo_calls_a_title_beyond_ascii(server: Server, aet: str, called: bytes) -> None:
    def answer(listener: Listener) -> bytes:
        with listener.accept() as destination:
            body = destination.expect(peer.ASSOCIATE_RQ)
            accepted = body[:68] + peer.item(0x10, peer.APPLICATION_CONTEXT.encode())
            accepted += peer.item(0x21, bytes([1, 0, 0, 0]) + peer.item(0x40, IMPLICIT.encode()))
            user = peer.item(0x51, bytes([0, 0, 64, 0])) + peer.item(0x52, b"1.2.3")
            destination.send(peer.pdu(peer.ASSOCIATE_AC, accepted + peer.item(0x50, user)))
            echo = destination.expect_message()
            message_id = peer.number(echo.command, peer.MESSAGE_ID)
            response = {peer.COMMAND_FIELD: peer.C_ECHO_RQ | peer.RESPONSE, peer.RESPONDED_TO: message_id}
            response |= {peer.DATA_SET_TYPE: peer.NO_DATA_SET, peer.STATUS: 0}
            destination.send(peer.message(1, peer.command_set(response)))
            destination.expect(peer.RELEASE_RQ)
            destination.send(peer.pdu(peer.RELEASE_RP, bytes(4)))
            return body[4:20].rstrip()

    with Listener() as listener, ThreadPoolExecutor(1) as pool:
        answering = pool.submit(answer, listener)
        filmroom(server, "echo", f"{aet}@127.0.0.1:{listener.port}")
        assert answering.result(60) == called


def test_the_log_and_the_statistics_name_it_as_it_is_meant(server: Server) -> None:
    with Peer(server.port) as script:
        script.associate((1, VERIFICATION, [IMPLICIT]), (3, CT, [EXPLICIT]), calling="ÜBERALL".encode())
        script.send(peer.message(3, peer.c_store_rq(1, CT, "1.2.3"), bytes(100)))
        assert script.expect_message().status() != 0
        script.release()
    wait_for(lambda: any(line["calling"] == "ÜBERALL" for line in server.events("association ended")), what="its line")
    assert "'ÜBERALL'" in str(server.stats())
    refused = [line for line in server.events("instance refused") if "ÜBERALL" in str(line)]
    assert refused, "and where it has done something"
