"""A whole server, started as a user starts it: readiness, reload, the end, and how it says no."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from engine import control
from engine.cli import exit_codes
from engine.errors import ConfigError, ControlUnavailable, EngineError
from engine.server import listeners
from tests import template
from tests.peer import Closed, Peer, associate_rq, pdu
from tests.system.server import ROOT, Server, running, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.rotating(2)]

RELEASE_RQ, RELEASE_RP = 5, 6
ECHO = (1, "1.2.840.10008.1.1", ["1.2.840.10008.1.2"])


def serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`filmroom serve` where it is expected to end by itself."""
    return template.run("engine", "serve", "--host", "127.0.0.1", *arguments, folder=ROOT)


LONG = "drain_timeout_s = 600\ndrain_idle_s = 600\n"
"""Neither a limit nor the silence of a peer ends what the test looks at."""


def associated(server: Server, calling: str = "SCRIPT") -> Peer:
    peer = Peer(server.port)
    peer.associate(ECHO, calling=calling)
    return peer


def test_draining_accepts_no_new_association_and_ends_with_the_last_one(tmp_path: Path) -> None:
    config = f"[limits]\n{LONG}"
    with running(tmp_path / "d", config=config) as server, associated(server) as peer, Peer(server.port) as silent:
        wait_for(lambda: server.stats()["waiting"] == 1, what="the silent one accepted")
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: server.events("draining"), what="draining")
        with pytest.raises((Closed, ConnectionError)):
            # Connected before, but an association that is asked for only now is a new one.
            silent.send(associate_rq([ECHO]))
            silent.expect(2)
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", server.port), timeout=60).close()
        peer.echo()
        assert server.process.poll() is None
        peer.release()
        assert server.wait(60) == 0
    assert not (tmp_path / "d" / "control.sock").exists()


def test_a_stop_releases_idle_associations_and_aborts_those_that_do_not_answer(tmp_path: Path) -> None:
    """They have nothing to finish: a stop would else take the whole limit wherever a modality holds an association."""
    config = "[limits]\ndrain_timeout_s = 600\ndrain_idle_s = 0.1\n"
    with running(tmp_path / "d", config=config) as server, associated(server) as peer, associated(server) as deaf:
        server.process.send_signal(signal.SIGTERM)
        peer.expect(RELEASE_RQ)
        peer.send(pdu(RELEASE_RP, bytes(4)))
        deaf.expect(RELEASE_RQ)
        deaf.expect_abort()
        assert server.wait(60) == 0


def test_draining_has_a_limit(tmp_path: Path) -> None:
    with (
        running(tmp_path / "d", config="[limits]\ndrain_timeout_s = 0.2\ndrain_idle_s = 600\n") as server,
        associated(server) as peer,
    ):
        server.process.send_signal(signal.SIGTERM)
        peer.expect_abort()
        assert server.wait(60) == 0


def test_a_second_signal_aborts_what_the_first_lets_finish(tmp_path: Path) -> None:
    with running(tmp_path / "d", config=f"[limits]\n{LONG}") as server, associated(server) as peer:
        server.process.send_signal(signal.SIGINT)
        wait_for(lambda: server.events("draining"), what="draining")
        peer.echo()
        server.process.send_signal(signal.SIGINT)
        peer.expect_abort()
        assert server.wait(60) == 0


def test_sighup_reads_peers_and_limits_again_and_keeps_associations(tmp_path: Path) -> None:
    with running(tmp_path / "d") as server, associated(server) as before:
        server.config_file.write_text('accept_unknown_peers = false\naet = "LATER"\n[[peer]]\naet = "KNOWN"\n')
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: server.events("reloaded"), what="reloaded")
        assert server.events("reloaded")[0]["restart_needed"] == ["aet"]
        before.echo()
        with Peer(server.port) as stranger:
            stranger.send(associate_rq([ECHO], calling="STRANGER"))
            assert stranger.expect_reject() == (1, 1, 3)
        with associated(server, "KNOWN") as known:
            known.echo()


def test_an_invalid_configuration_is_not_applied(tmp_path: Path) -> None:
    with running(tmp_path / "d") as server:
        server.config_file.write_text("wrokers = 2\n")
        with pytest.raises(ConfigError, match="did you mean 'workers'"):
            control.request(server.data, {"command": "reload"})
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: server.events("reload refused, the current configuration stays"), what="refusal")
        with associated(server) as peer:
            peer.echo()


def test_the_control_socket_refuses_with_a_reason(tmp_path: Path) -> None:
    with running(tmp_path / "d") as server:
        with pytest.raises(EngineError, match="there is no command 'dance'"):
            control.request(server.data, {"command": "dance"})
        with pytest.raises(EngineError, match="a command is a JSON object"):
            control.request(server.data, {"order": "stats"})
        assert control.request(server.data, {"command": "ping"})["pid"] == server.process.pid
        assert server.data.joinpath("control.sock").stat().st_mode & 0o777 == 0o600
    with pytest.raises(ControlUnavailable):
        control.request(tmp_path / "d", {"command": "ping"})


def test_a_data_directory_path_may_be_longer_than_a_socket_address(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["a folder with a long name"] * 6)
    with running(deep / "d", workers=1) as server:
        assert server.stats()["ok"]


@pytest.mark.parametrize("workers", [1, 3])
def test_it_serves_with_any_number_of_workers(tmp_path: Path, workers: int) -> None:
    with running(tmp_path / "d", workers=workers) as server:
        peers = [associated(server) for _ in range(workers)]
        for peer in peers:
            peer.echo()
        stats = server.stats()["workers"]
        assert [worker["associations"] for worker in stats] == [1] * workers  # type: ignore[attr-defined]
        for peer in peers:
            peer.release()


def test_systemd_is_told_of_start_readiness_and_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with running(tmp_path / "d", workers=1) as server:
            messages = [systemd.recv(200)]
            while messages[-1] != b"READY=1":
                messages.append(systemd.recv(200))
            assert messages[0].startswith(b"STATUS=opening the archive: ")
            assert systemd.recv(200) == f"STATUS=serving FILMROOM on port {server.port}".encode()
            assert server.stop() == 0
            assert systemd.recv(200) == b"STOPPING=1"


def test_a_start_does_not_wait_for_whoever_reads_nothing_of_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("")
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + systemd.getsockname()[1:].decode())
        for number in range(5000):
            listeners.show_in_systemd(f"step {number}")
        systemd.setblocking(False)
        assert systemd.recv(100) == b"STATUS=step 0"


def test_a_port_in_use_and_an_archive_in_use_are_readable_errors(tmp_path: Path) -> None:
    with running(tmp_path / "d", workers=1) as server:
        taken = serve("--data", str(tmp_path / "e"), "--dicom-port", str(server.port))
        assert taken.returncode == exit_codes.CONFIGURATION
        why = f"127.0.0.1:{server.port} cannot be listened on for DICOM: Address already in use"
        assert taken.stderr == f"filmroom: {why}\n"
        in_use = serve("--data", str(server.data), "--dicom-port", "0")
        assert in_use.returncode == exit_codes.UNAVAILABLE
        assert f"kept by another process (pid {server.process.pid})" in in_use.stderr
        with associated(server) as peer:
            peer.echo()


@pytest.mark.parametrize(
    ("description", "told"),
    [({"format": 99, "archive_id": "0" * 32}, "format 99"), ({"format": 1}, "archive_id"), ([], "cannot be used")],
)
def test_a_data_directory_of_another_format_is_not_touched(tmp_path: Path, description: object, told: str) -> None:
    (tmp_path / "archive.json").write_text(json.dumps(description))
    done = serve("--data", str(tmp_path), "--dicom-port", "0")
    assert done.returncode == exit_codes.UNAVAILABLE
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["archive.json"]


def test_a_trace_folder_that_cannot_be_created_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    done = serve("--data", str(tmp_path / "d"), "--dicom-port", "0", "--log-wire-trace", str(tmp_path / "file"))
    assert done.returncode == exit_codes.CONFIGURATION
    assert done.stderr.startswith("filmroom: log.wire_trace: the folder")
    assert not (tmp_path / "d").exists()


def test_a_reload_finds_a_configuration_file_that_was_missing_at_the_start(tmp_path: Path) -> None:
    data = tmp_path / "srv" / "data"
    with running(data, "--config", "") as server:
        assert "configuration: no configuration file (looked for " in server.ready_line
        beside = tmp_path / "srv" / "filmroom.toml"
        beside.write_text('accept_unknown_peers = false\n[[peer]]\naet = "CT1"\n')
        answer = control.request(data, {"command": "reload"})
        assert (answer["file"], answer["workers_late"]) == (str(beside), [])
        assert answer["changed"] == ["accept_unknown_peers", "peer.CT1"]
        associated(server, "CT1").close()
        with Peer(server.port) as stranger:
            stranger.send(associate_rq([ECHO], calling="STRANGER"))
            stranger.expect_reject()
