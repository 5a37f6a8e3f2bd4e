"""Hostile HTTP against a running server; FILMROOM_FUZZ_RUNS makes it a long run."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.fuzz import http
from tests.fuzz.http import Fuzzer, Hostile, answers_in, get
from tests.fuzz.server import Found, check_archive
from tests.system.server import Server, running

RUNS = int(os.environ.get("FILMROOM_FUZZ_RUNS", "400"))
SEED = int(os.environ.get("FILMROOM_FUZZ_SEED", "1"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("fuzz-http") / "data", config=http.CONFIG, workers=1, http=True) as server:
        yield server
        assert server.stop() == 0
        check_archive(server.data)


def test_a_server_does_not_mind_whatever_comes(server: Server) -> None:
    fuzzer = http.run(server, RUNS, SEED)
    assert fuzzer.answered > fuzzer.requests // 3, "hardly anything was answered: the fuzzer misses the server"


def test_the_fuzzer_sees_what_is_smuggled_and_a_wrong_status(server: Server) -> None:
    fuzzer = Fuzzer(server)
    good = get("/health/live")
    with pytest.raises(Found, match=r"\[200, 200\]"):
        fuzzer.send(Hostile("two requests", good + good, frozenset((200,))))
    with pytest.raises(Found, match=r"\[200\]"):
        fuzzer.send(Hostile("a good one", good))
    with pytest.raises(Found, match="neither an answer nor an end"):
        fuzzer._answer_s = 0.1
        fuzzer.send(Hostile("half of one", good[:-2]))


def test_answers_are_counted_by_their_lengths() -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    chunked = b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
    assert answers_in(whole + chunked + whole) == [200, 404, 200]
    assert answers_in(whole[:-1]) == [] and answers_in(b"HTTP/1.1 100 Continue\r\n\r\n" + whole) == [200]
