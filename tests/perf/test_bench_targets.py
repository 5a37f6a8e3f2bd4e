"""Hardware targets of a bench: what is judged, what is not measured; and bodies of HTTP as servers end them."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from perf.association import Target as Server
from perf.bench import targets, trial, verdicts, warnings
from perf.bench.http import Connection, WebTarget
from perf.bench.recorder import Percentiles
from perf.bench.result import Disk, Run
from perf.bench.runner import Pace
from perf.bench.targets import Must, Target
from perf.harness import PerfError
from tests.perf.test_bench_figures import MACHINE, stream_of

DEPARTMENT = targets.read("department")
DISK = Disk(folder="/data", device="d", file_system="ext4", free_bytes=int(20e12), sync_p50_ms=0.1, sync_p99_ms=1.0,
            write_mb_per_s=900.0, read_mb_per_s=2000.0)  # fmt: skip


def judged(target: Target = DEPARTMENT, *, disk: Disk | None = DISK, start_s: float | None = 1.0) -> dict[str, str]:
    machine = msgspec.structs.replace(MACHINE, cores=4, memory_bytes=int(15.5e9))
    return {line.text: line.judgement for line in verdicts.of_target(target, machine, disk, start_s)}


def test_hardware_that_is_enough_meets_its_target() -> None:
    assert set(judged().values()) == {"met"}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("disk: fdatasync p99", {"sync_p99_ms": 5.1}),
        ("disk: write rate", {"write_mb_per_s": 199.0}),
        ("disk: read rate", {"read_mb_per_s": 399.0}),
        ("disk: room for the growth", {"free_bytes": int(10e12)}),
    ],
)
def test_a_disk_that_is_too_small_or_too_slow_misses_one_line(text: str, values: dict[str, float]) -> None:
    lines = judged(disk=msgspec.structs.replace(DISK, **values))
    assert [name for name, judgement in lines.items() if judgement == "missed"] == [text]


def test_what_cannot_be_seen_is_not_measured_and_never_met() -> None:
    lines = judged(disk=None, start_s=None)
    assert {name for name, judgement in lines.items() if judgement == "not measured"} == {
        "disk: fdatasync p99", "disk: write rate", "disk: read rate", "disk: room for the growth", "start until ready",
    }  # fmt: skip
    elsewhere = msgspec.structs.replace(MACHINE, is_server=False)
    lines = {line.text: line.judgement for line in verdicts.of_target(DEPARTMENT, elsewhere, DISK, 1.0)}
    assert lines["processors"] == lines["memory"] == "not measured"


def test_a_slow_start_misses_its_line() -> None:
    assert judged(start_s=10.1)["start until ready"] == "missed"


def run_of(**values: object) -> Run:
    return Run(profile="p", title="P", text="", mode="open loop", factor=1.0, seconds=60.0, warm_up_s=1.0,
               interval_s=1.0, seed=7, streams=[stream_of(**values)], samples=[], warnings=[], verdicts=[],
               left_out={"frames": "needs DICOMweb"})  # fmt: skip


@pytest.mark.parametrize(
    ("must", "judgement"),
    [
        (Must(text="a", stream="scans", figure="rate", at_least=20.0), "met"),
        (Must(text="a", stream="scans", figure="rate", at_least=20.1), "missed"),
        (Must(text="a", stream="scans", figure="p99_ms", at_most=3.0), "met"),
        (Must(text="a", stream="scans", figure="p99_ms", at_most=2.9), "missed"),
        (Must(text="a", stream="scans", figure="failures", at_most=0.0), "met"),
        (Must(text="a", stream="frames", figure="p99_ms", at_most=1.0), "not measured"),
    ],
)
def test_limits_of_a_run_are_judged_by_its_figures(must: Must, judgement: str) -> None:
    assert [line.judgement for line in verdicts.of_musts(run_of(), [must])] == [judgement]


def test_a_stream_without_requests_meets_no_limit() -> None:
    must = Must(text="a", stream="scans", figure="p99_ms", at_most=3.0)
    assert [line.judgement for line in verdicts.of_musts(run_of(latency=Percentiles()), [must])] == ["missed"]


def test_a_stream_that_the_profile_lacks_is_a_mistake_in_the_target() -> None:
    with pytest.raises(PerfError, match="'nothing'"):
        list(verdicts.of_musts(run_of(), [Must(text="a", stream="nothing", figure="rate", at_least=1.0)]))


def test_each_run_of_a_target_has_its_own_factor_and_length() -> None:
    paces = [pace for _, pace in trial.plans_of(DEPARTMENT, Pace(0.0))]
    assert [(pace.factor, pace.seconds) for pace in paces] == [(each.factor, each.seconds) for each in DEPARTMENT.run]
    assert {pace.seconds for _, pace in trial.plans_of(DEPARTMENT, Pace(5.0))} == {5.0}


def test_a_limit_needs_one_bound(tmp_path: Path) -> None:
    text = (Path(targets.__file__).parents[1] / "targets" / "small-clinic.toml").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(text.replace("at_least = 28.5", "at_least = 28.5\nat_most = 30"))
    with pytest.raises(PerfError, match="at_least or at_most, and not both"):
        targets.read(str(path))


# the kernel's timer ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("delayed_ms", "prompt_ms", "is_warned"), [(44.0, 0.3, True), (44.0, 43.0, False), (0.3, 0.3, False)]
)
def test_only_a_delay_that_acknowledging_at_once_ends_is_the_servers_pieces(
    delayed_ms: float, prompt_ms: float, is_warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warnings, "_echo_ms", lambda target: prompt_ms if target.quick_acks else delayed_ms)
    assert (warnings.answers_in_pieces(Server(104, "X")) is not None) == is_warned


# bodies ------------------------------------------------------------------------------------------


@contextmanager
def answering(*answers: bytes) -> Iterator[WebTarget]:
    """A server that gives one connection each answer, and closes those that say so."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock = None
            for answer in answers:
                if sock is None:
                    sock, _ = listener.accept()
                sock.recv(65536)
                sock.sendall(answer)
                if b"close" in answer:
                    sock.close()
                    sock = None
            if sock is not None:
                sock.close()

        threading.Thread(target=serve, daemon=True).start()
        yield WebTarget(f"http://127.0.0.1:{listener.getsockname()[1]}/dicom-web")


LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n12345"
CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n12\r\n3;x=y\r\n345\r\n0\r\nTrailer: 1\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n12345"


@pytest.mark.parametrize("keep_body", [True, False])
def test_bodies_of_every_form_are_read_to_their_end(keep_body: bool) -> None:
    with answering(LENGTH, CHUNKS, UNTIL_CLOSE, LENGTH) as target:
        connection = Connection(target)
        for _ in range(4):
            answer = connection.get("/", "*/*", keep_body=keep_body)
            assert (answer.status, answer.byte_count) == (200, 5)
            assert answer.body == (b"12345" if keep_body else b"")
        connection.close()


def test_a_connection_that_the_server_ended_while_it_was_idle_is_made_anew() -> None:
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(2):
                sock, _ = listener.accept()
                sock.recv(65536)
                sock.sendall(LENGTH)
                sock.close()
                ended.set()

        threading.Thread(target=serve, daemon=True).start()
        connection = Connection(WebTarget(f"http://127.0.0.1:{listener.getsockname()[1]}/"))
        assert connection.get("/", "*/*", keep_body=True).body == b"12345"
        assert ended.wait(60) and select.select([connection._sock], [], [], 60)[0]
        assert connection.get("/", "*/*", keep_body=True).body == b"12345"
        connection.close()


class PieceByPiece:
    """A socket whose head comes before its body, and then its end."""

    def __init__(self) -> None:
        self.pieces = [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"123", b"45", b""]

    def sendall(self, request: bytes) -> None: ...

    def recv(self, length: int) -> bytes:
        return self.pieces.pop(0)


def test_a_body_that_comes_after_its_head_is_not_taken_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "_connected", lambda self: PieceByPiece())
    assert Connection(WebTarget("http://h/")).get("/", "*/*", keep_body=True).body == b"12345"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"\x15\x03\x01\x00\x02\x02\x46\r\n\r\nclose", "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\n1", "closed the connection within"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "no size"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "no length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "no length"),
    ],
)
def test_an_answer_that_is_none_is_named(answer: bytes, why: str) -> None:
    with answering(answer) as target:
        connection = Connection(target)
        with pytest.raises(PerfError, match=why):
            connection.get("/", "*/*", keep_body=False)
        connection.close()
