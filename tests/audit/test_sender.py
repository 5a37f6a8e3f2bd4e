"""Every event reaches the collector, whatever happens to it meanwhile, and nobody waits for it."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import audit
from engine.audit.checkpoint import Notary
from engine.audit.keeper import AuditKeeper
from engine.audit.sender import Sender, _wait_until_acknowledged
from engine.audit.verify import verify
from engine.audit_settings import Audit
from tests.audit.collector import Certificates, TlsCollector
from tests.audit.recording import events, make_log, recording, stored, wait_until
from tests.system.server import free_port

STUDY = re.compile(rb'ParticipantObjectID="(1\.2\.[0-9.]+)"')


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def settings(certificates: Certificates, port: int, **more: Any) -> Audit:
    return Audit(
        collector="127.0.0.1",
        collector_port=port,
        ca_file=certificates.authority,
        certificate=certificates.certificate,
        key=certificates.key,
        **more,
    )


def send_until(sender: Sender, holds: Callable[[], object]) -> None:
    def step() -> bool:
        while sender.step():
            pass
        return bool(holds())

    wait_until(step)


def studies(messages: list[bytes]) -> list[str]:
    return [match[1].decode() for text in messages if (match := STUDY.search(text))]


@pytest.fixture
def collector(certificates: Certificates) -> Iterator[TlsCollector]:
    running = TlsCollector(certificates)
    yield running
    running.close()


def test_messages_come_as_rfc_5425_has_them(
    tmp_path: Path, certificates: Certificates, collector: TlsCollector
) -> None:
    make_log(tmp_path)
    sender = Sender(tmp_path, settings(certificates, collector.port), "FILMROOM")
    send_until(sender, lambda: len(collector.messages) == 11)
    sender.close()
    head = re.compile(
        rb"<85>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z \S+ filmroom \S+ (DICOM\+RFC3881|FILMROOM\+CHECKPOINT) - "
    )
    assert all(head.match(text) for text in collector.messages)
    assert sorted(studies(collector.messages)) == sorted(event["study"] for event in events(tmp_path))
    assert verify(tmp_path, anchor=collector.messages).anchors == 2


def test_a_collector_that_was_down_gets_everything_later_and_after_a_restart_only_the_last_again(
    tmp_path: Path, certificates: Certificates
) -> None:
    port = free_port()
    make_log(tmp_path, (30,))
    options = settings(certificates, port, resend_count=3, late_alert_s=0.001)
    with recording(tmp_path):
        sender = Sender(tmp_path, options, "FILMROOM")
        assert sender.step() is False and sender.error and sender.late_s > 0
        assert not sender.snapshot()["connected"]
        sender.step()
        wait_until(lambda: any(event["kind"] == "alert" for event in events(tmp_path)))
    collector = TlsCollector(certificates, port)
    send_until(sender, lambda: len(set(studies(collector.messages))) == 30)
    assert sender.late_s == 0 and not sender.error
    sender.close()
    collector.close()
    again = TlsCollector(certificates, port)
    recorder = audit.Recorder(tmp_path)
    recorder.begin_now(stored("1.2.99"))
    recorder.close()
    sender = Sender(tmp_path, options, "FILMROOM")
    send_until(sender, lambda: "1.2.99" in studies(again.messages))
    assert 1 <= len(studies(again.messages)) <= 4, "the last three, and the new one"
    sender.close()
    again.close()


def test_what_a_broken_connection_swallowed_is_sent_again(tmp_path: Path, certificates: Certificates) -> None:
    make_log(tmp_path, (300,))
    collector = TlsCollector(certificates, ends_after=100)
    sender = Sender(tmp_path, settings(certificates, collector.port, resend_count=300), "FILMROOM")
    for _ in range(3):
        send_until(sender, lambda: True)
    first = len(set(studies(collector.messages)))
    port = collector.port
    collector.close()
    whole = TlsCollector(certificates, port)
    send_until(sender, lambda: len(set(studies(collector.messages)) | set(studies(whole.messages))) == 300)
    assert first < 300
    sender.close()
    whole.close()


def test_nobody_waits_for_bytes_that_a_reset_connection_never_delivers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as sender:
        collector, _ = listener.accept()
        sender.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                sender.send(bytes(1 << 16))
        collector.close()
        with pytest.raises(ConnectionResetError):
            _wait_until_acknowledged(sender)


def test_a_collector_of_another_authority_gets_nothing(tmp_path: Path, certificates: Certificates) -> None:
    make_log(tmp_path)
    other = TlsCollector(Certificates(tmp_path / "other"))
    sender = Sender(tmp_path, settings(certificates, other.port), "FILMROOM")
    sender.step()
    assert "certificate verify failed" in sender.error and not other.messages
    sender.close()
    other.close()


def test_messages_come_over_udp(tmp_path: Path) -> None:
    make_log(tmp_path)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(60)
        options = Audit(collector="127.0.0.1", collector_port=sock.getsockname()[1], transport="udp")
        sender = Sender(tmp_path, options, "FILMROOM")
        assert sender.step() is False
        found = [sock.recv(65536) for _ in range(11)]
    assert len(studies(found)) == 9
    sender.close()


def test_the_keeper_sends_signs_and_follows_a_new_configuration(
    tmp_path: Path, certificates: Certificates, collector: TlsCollector
) -> None:
    current = [Audit()]
    make_log(tmp_path, (4,), signed=False)
    keeper = AuditKeeper(tmp_path, lambda: current[0], "FILMROOM", is_replica=False)
    current[0] = settings(certificates, collector.port)
    wait_until(lambda: len(studies(collector.messages)) == 4)
    keeper.close()
    assert any(b"FILMROOM+CHECKPOINT" in text for text in collector.messages), "the last checkpoint too"
    report = verify(tmp_path, anchor=collector.messages)
    assert report.is_whole and report.anchors == 1 and report.unsigned == 0


RSYSLOG = """
global(maxMessageSize="64k" workDirectory="{folder}"
  defaultNetstreamDriverCAFile="{ca}" defaultNetstreamDriverCertFile="{cert}" defaultNetstreamDriverKeyFile="{key}")
module(load="imtcp" streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="x509/certvalid")
input(type="imtcp" port="{port}" address="127.0.0.1")
template(name="raw" type="string" string="%rawmsg%\\n")
action(type="omfile" file="{folder}/messages" template="raw")
"""


def test_rsyslog_takes_every_message_with_a_client_certificate(tmp_path: Path, certificates: Certificates) -> None:
    rsyslogd = shutil.which("rsyslogd", path="/usr/sbin:/usr/bin:/sbin")
    if rsyslogd is None or not list(Path("/usr/lib").rglob("rsyslog/lmnsd_ossl.so")):
        pytest.skip("rsyslog with rsyslog-openssl is not installed")
    folder, data = tmp_path / "rsyslog", tmp_path / "data"
    folder.mkdir()
    port = free_port()
    configuration = RSYSLOG.format(
        folder=folder, ca=certificates.authority, cert=certificates.certificate, key=certificates.key, port=port
    )
    (folder / "rsyslog.conf").write_text(configuration)
    make_log(data, (20,))
    recorder = audit.Recorder(data)
    recorder.begin_now(stored("1.2.77", detail="ä" * 3000))  # longer than what it takes by default
    recorder.close()
    Notary(data).sign()
    command = [rsyslogd, "-n", "-f", str(folder / "rsyslog.conf"), "-i", str(folder / "pid")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            sender = Sender(data, settings(certificates, port), "FILMROOM")
            path = folder / "messages"

            def lines() -> list[bytes]:
                return path.read_bytes().split(b"\n") if path.exists() else []

            def are_all_there() -> bool:
                assert process.poll() is None, process.stderr and process.stderr.read()
                return len(set(studies(lines()))) == 21 and sum(b"CHECKPOINT" in line for line in lines()) >= 3

            send_until(sender, are_all_there)
            sender.close()
        finally:
            process.kill()
    assert verify(data, anchor=lines()).is_whole
    whole = [line for line in lines() if b"1.2.77" in line]
    assert whole and whole[0].rstrip().endswith(b"</AuditMessage>")
