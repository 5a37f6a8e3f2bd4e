"""Mutated PDUs and messages against a running server; FILMROOM_FUZZ_RUNS makes it a long run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fuzz import server as fuzzer
from tests.peer import Peer
from tests.system.server import running

RUNS = int(os.environ.get("FILMROOM_FUZZ_RUNS", "1500"))
SEED = int(os.environ.get("FILMROOM_FUZZ_SEED", "1"))


def test_a_server_does_not_mind_whatever_comes(tmp_path: Path) -> None:
    with running(tmp_path / "data", config=fuzzer.CONFIG, workers=1) as server:
        run = fuzzer.fuzz(server, RUNS, SEED, 0)
        assert run.answered > run.connections // 5, "hardly anything was answered: the fuzzer misses the server"
        assert server.stop() == 0
        fuzzer.check_archive(server.data)


def test_the_fuzzer_sees_a_worker_that_died_and_an_instance_that_changed(tmp_path: Path) -> None:
    with running(tmp_path / "data", config=fuzzer.CONFIG, workers=1) as server:
        run = fuzzer.Run(SEED)
        stored = fuzzer.store_some(server)
        pids = [server.process.pid, *server.worker_pids()]
        fuzzer.check(server, pids, run)
        fuzzer.compare(server, stored)
        uid = next(iter(stored))
        with pytest.raises(fuzzer.Found, match="not all as they were"):
            fuzzer.compare(server, stored | {uid: stored[uid][:-2] + b"\0\1"})
        with pytest.raises(fuzzer.Found, match="a worker died"):
            fuzzer.check(server, [pids[0], 1], run)


def test_silence_where_an_answer_is_due_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzzer, "ANSWER_S", 0.3)
    with running(tmp_path / "data", config=fuzzer.CONFIG, workers=1) as server:
        with Peer(server.port, timeout_s=fuzzer.ANSWER_S) as script:
            script.associate(*fuzzer.CONTEXTS)
            with pytest.raises(fuzzer.Found, match="neither an answer nor an end"):
                fuzzer._is_answered(script, 0)
