"""filmroom bench: loads, what they say of servers that are wrong, and the files that they write."""

from __future__ import annotations

import json
import select
import socket
import ssl
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from engine.cli import exit_codes
from perf import wire
from perf.association import Connection
from perf.bench import result, runner, trial
from perf.bench.recorder import Percentiles
from perf.sink import Sink
from tests import certificates
from tests.cli.commands import run
from tests.perf.peers_that_fail import TLS_ALERT, UNKNOWN_CALLING_TITLE, bytes_only, serving, status_only
from tests.perf.stepped_clock import SteppedClock
from tests.perf.test_bench_figures import sample_of, stream_of

TINY = """
title = "Tiny"
text = "One sender of tiny instances."
[[stream]]
name = "scans"
text = "tiny instances"
does = "store"
rate = 100.0
connections = 2
template = "tiny"
series_instances = 5
p99_ms_max = 10000.0
"""
READING = (
    TINY
    + """
[stock]
studies = 1
instances = 2
template = "tiny"
[[stream]]
name = "studies"
text = "studies"
does = "retrieve"
rate = 1.0
connections = 1
"""
)
QUICK = ("--minutes", "0.02", "--warm-up", "0.1", "--interval", "0.4")


@pytest.fixture
def sink() -> Iterator[Sink]:
    made = Sink(0)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "WallClock", SteppedClock)
    (tmp_path / "tiny.toml").write_text(TINY)
    (tmp_path / "reading.toml").write_text(READING)


def test_a_load_is_sent_judged_and_reported(
    sink: Sink, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "MEASURE_BYTES", 4 << 20)
    files = ("--report", "r.html", "--save", "r.json", "--junit", "r.xml")
    server = ("--dicom", f"SINK@127.0.0.1:{sink.port}", "--disk", str(tmp_path))
    code, out, err = run(capsys, "bench", "run", "tiny.toml", *server, *QUICK, *files)
    assert code == exit_codes.OK, err
    assert "scans: keeps up" in out and "were measured: no more than a first look" in err
    report = result.read(tmp_path / "r.json")
    stream = report.runs[0].streams[0]
    assert stream.service == "C-STORE" and stream.failures == {} and stream.latency.count > 0
    assert report.disk is not None and report.disk.sync_p99_ms > 0
    assert sink.counts.instance_count >= stream.latency.count
    assert "<!doctype html>" in (tmp_path / "r.html").read_text()
    assert ElementTree.parse(tmp_path / "r.xml").getroot().tag == "testsuites"
    code, out, _ = run(capsys, "bench", "report", "r.json", "again.html", "--before", "r.json", "--json")
    assert code == exit_codes.OK and json.loads(out)["passed"] and (tmp_path / "again.html").exists()


def test_json_goes_to_standard_output_and_is_what_the_schema_says(
    sink: Sink, capsys: pytest.CaptureFixture[str]
) -> None:
    server = ("--dicom", f"SINK@127.0.0.1:{sink.port}", "--closed")
    code, out, _ = run(capsys, "bench", "run", "tiny.toml", *server, *QUICK, "--json")
    assert code == exit_codes.OK
    assert msgspec.json.decode(out, type=result.Report).runs[0].mode == "closed loop"
    code, out, _ = run(capsys, "bench", "schema")
    assert code == exit_codes.OK and "filmroom-bench-1" in out


def test_a_shipped_profile_can_be_copied(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("ct-scanner", "department"):
        code, out, _ = run(capsys, "bench", "show", name)
        assert code == exit_codes.OK and tomllib.loads(out)["title"]
    code, _, err = run(capsys, "bench", "show", "nothing")
    assert code == exit_codes.USAGE and "there is no 'nothing'" in err


@pytest.mark.parametrize(
    ("p99_ms", "step_count", "judgement", "text"),
    [
        ({1.0: 3.0, 2.0: 4.0, 3.0: 5.0}, 3, "met", "up to factor 3"),
        ({1.0: 3.0, 2.0: 10.1}, 2, "met", "up to factor 1; at 2 not: scans: p99 10 ms, the limit is 10"),
        ({1.0: 10.1}, 1, "missed", "no step; at 1 not: scans: p99 10 ms, the limit is 10"),
    ],
)
def test_a_ramp_ends_where_the_server_falls_behind(
    p99_ms: dict[float, float],
    step_count: int,
    judgement: str,
    text: str,
    sink: Sink,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With latencies that are given: which step a real server no longer meets is chance."""

    def send(lanes: object, pace: runner.Pace, *others: object) -> runner.Measured:
        measured = stream_of(latency=Percentiles(1000, 1.0, 2.0, p99_ms[pace.factor], 12.0, 13.0))
        return runner.Measured([measured], [sample_of(1.0)], 60.0, [], "")

    monkeypatch.setattr(runner, "send", send)
    server = ("--dicom", f"SINK@127.0.0.1:{sink.port}", "--ramp", "1:3:1")
    code, out, _ = run(capsys, "bench", "run", "tiny.toml", *server, "--json")
    (ramp,) = json.loads(out)["runs"]
    assert (code == exit_codes.OK) == (judgement == "met") and ramp["mode"] == "ramp"
    assert [step["factor"] for step in ramp["steps"]] == [1.0, 2.0, 3.0][:step_count]
    assert (ramp["verdicts"][0]["judgement"], ramp["verdicts"][0]["measured"]) == (judgement, text)


def test_each_step_of_a_ramp_is_sent_with_its_factor(sink: Sink, capsys: pytest.CaptureFixture[str]) -> None:
    server = ("--dicom", f"SINK@127.0.0.1:{sink.port}", "--ramp", "1:3:1")
    code, out, err = run(capsys, "bench", "run", "tiny.toml", *server, *QUICK, "--json")
    assert code == exit_codes.OK, err
    (ramp,) = json.loads(out)["runs"]
    assert [step["offered_rates"]["scans"] for step in ramp["steps"]] == [100.0, 200.0, 300.0]


def test_a_server_that_is_full_fails_the_run_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(status_only(0xA700)) as port:
        code, out, err = run(capsys, "bench", "run", "tiny.toml", "--dicom", f"X@127.0.0.1:{port}", *QUICK)
    assert code == exit_codes.FAILED and "missed" in out
    assert "C-STORE A700: out of resources: its disk is full" in err


def test_a_run_in_which_everything_fails_ends_early(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(status_only(0xA700)) as port:
        server = ("--dicom", f"X@127.0.0.1:{port}", "--closed", "--minutes", "10", "--warm-up", "0")
        code, _, err = run(capsys, "bench", "run", "tiny.toml", *server)
    assert code == exit_codes.FAILED and "ended early: every request failed" in err


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@pytest.mark.parametrize(
    ("serve", "why"),
    [
        (bytes_only(TLS_ALERT), "it speaks TLS"),
        (bytes_only(UNKNOWN_CALLING_TITLE), "it does not know our AE title BENCH: register it there"),
        (bytes_only(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "it does not speak DICOM"),
        (bytes_only(wire.pdu(wire.ABORT, bytes(4))), "it aborted the association request"),
        (bytes_only(b""), "the peer closed the connection"),
    ],
    ids=["tls", "title", "http", "abort", "closes"],
)
def test_a_server_that_cannot_be_tested_is_said_to_be_so(
    serve: Callable[[Connection, bytes], None], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(serve) as port:
        code, _, err = run(capsys, "bench", "run", "tiny.toml", "--dicom", f"X@127.0.0.1:{port}", *QUICK)
    assert code == exit_codes.PEER and why in err and f"127.0.0.1:{port}" in err


def test_a_closed_port_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    port = closed_port()
    for server in (("--dicom", f"X@127.0.0.1:{port}"), ("--web", f"http://127.0.0.1:{port}/dicom-web")):
        code, _, err = run(capsys, "bench", "run", "tiny.toml", *server, *QUICK)
        assert code == exit_codes.PEER and "Connection refused" in err and str(port) in err


def test_a_sink_that_the_server_does_not_know_ends_the_run_before_it_begins(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def serve(connection: Connection, request: bytes) -> None:
        """Stores everything, and knows no move destination."""
        connection.sock.sendall(wire.answer_associate_rq(request, 131072)[0])
        while (message := connection.read_message()) is not None:
            if message.has_data_set:
                connection.discard_data_set()
            answer = wire.response(message.command, 0xA801 if message.field == wire.C_MOVE_RQ else 0)
            connection.send_pdus(*wire.frames(message.context_id, answer, command=True, pdu_length_max=131072))

    sink_port = closed_port()
    with serving(serve) as port:
        server = ("--dicom", f"X@127.0.0.1:{port}", "--sink", f"SINK@127.0.0.1:{sink_port}")
        code, _, err = run(capsys, "bench", "run", "reading.toml", *server, *QUICK)
    assert code == exit_codes.PEER and "register the sink there" in err and str(sink_port) in err


def test_a_sink_that_cannot_listen_is_named(sink: Sink, capsys: pytest.CaptureFixture[str]) -> None:
    address = f"SINK@127.0.0.1:{sink.port}"
    code, _, err = run(capsys, "bench", "run", "reading.toml", "--dicom", address, "--sink", address, *QUICK)
    assert code == exit_codes.PEER and "the sink cannot listen on" in err


@contextmanager
def behind_tls(sink: Sink, context: ssl.SSLContext) -> Iterator[int]:
    """The port of a TLS server that hands everything to the sink."""

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=relay, args=(sock,), daemon=True).start()

    def relay(sock: socket.socket) -> None:
        try:
            with (
                context.wrap_socket(sock, server_side=True) as near,
                socket.create_connection(("127.0.0.1", sink.port)) as far,
            ):
                while ready := select.select([near, far], [], [], 60)[0]:
                    for source in ready:
                        piece = source.recv(65536)
                        if not piece:
                            return
                        (far if source is near else near).sendall(piece)
                        while source is near and near.pending():
                            far.sendall(near.recv(65536))
        except OSError:
            pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def test_a_server_with_tls_is_tested_through_it(sink: Sink, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    authority, certificate, key = certificates.signed(tmp_path, "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with behind_tls(sink, context) as port:
        server = ("--dicom", f"SINK@127.0.0.1:{port}", "--tls")
        code, out, err = run(capsys, "bench", "run", "tiny.toml", *server, "--ca", str(authority), *QUICK, "--json")
        assert code == exit_codes.OK, err
        report = json.loads(out)
        assert report["server"] == f"SINK@127.0.0.1:{port} (TLS)" and sink.counts.instance_count
        code, _, err = run(capsys, "bench", "run", "tiny.toml", *server, *QUICK)
        assert code == exit_codes.PEER and "certificate verify failed" in err
    code, _, err = run(capsys, "bench", "run", "tiny.toml", "--dicom", f"SINK@127.0.0.1:{sink.port}", "--tls", *QUICK)
    assert code == exit_codes.PEER and "no TLS connection" in err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "name a profile or --target"),
        (("tiny.toml",), "name the server"),
        (("tiny.toml", "--target", "department", "--dicom", "A@h:1"), "not both"),
        (("nothing", "--dicom", "A@h:1"), "there is no 'nothing' in profiles"),
        (("tiny.toml", "--dicom", "h:1"), "write AET@HOST:PORT"),
        (("tiny.toml", "--dicom", "A@h:port"), "write AET@HOST:PORT"),
        (("tiny.toml", "--dicom", "ATITLEOFSEVENTEEN@h:1"), "write AET@HOST:PORT"),
        (("tiny.toml", "--web", "h:1"), "is no URL of DICOMweb services"),
        (("tiny.toml", "--dicom", "A@h:1", "--header", "x"), "write NAME: VALUE"),
        (("tiny.toml", "--web", "http://h:1/x", "--tls"), "--tls goes with --dicom"),
        (("tiny.toml", "--dicom", "A@h:1", "--tls", "--ca", "no.pem"), "the certificates cannot be read"),
        (("tiny.toml", "--dicom", "A@h:1", "--ramp", "3:1:1"), "0 < FROM <= TO"),
        (("tiny.toml", "--dicom", "A@h:1", "--ramp", "a"), "write FROM:TO:STEP"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(
    arguments: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "bench", "run", *arguments)
    assert code == exit_codes.USAGE and why in err
