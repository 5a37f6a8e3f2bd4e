"""archive.copies.replica_link, replica_listener, replica_tls: a replica on another machine, over mutual TLS."""

from __future__ import annotations

import os
import random
import shutil
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine import certificates
from engine.archive.copies import replica_link, replica_listener, replica_tls, replication
from engine.archive.copies.replica import Destination, Shipped, read_status
from engine.archive.copies.replica_link import Frame, Line, RemoteReplica
from engine.archive.copies.replica_listener import Listener
from engine.archive.copies.replica_tls import Credentials
from engine.archive.copies.shipped_audit import NO_LINEAGE, Piece, held_file
from engine.archive.layout import Layout
from engine.audit.logs import source_root
from engine.config import Tls
from engine.errors import ReplicationFailed
from engine.storage.files import Files
from engine.storage.segment_ids import SLOT_MAX, segment_id_of
from tests.archive.filled import contents, findings, opened, segment_bytes_on_disk, store
from tests.archive.replicas import replicating, some
from tests.audit.recording import events, make_log

SEED = int(os.environ.get("FILMROOM_REPLICA_SEED", "20260102"))


@dataclass(frozen=True)
class Site:
    """A folder with an authority, and certificates of a source, a replica and a modality."""

    folder: Path

    def settings(self, name: str, *, crl: bool = True) -> Tls:
        return Tls(
            certificates=(self.folder / f"{name}.pem",),
            keys=(self.folder / f"{name}.key",),
            trust=(self.folder / "ca.pem",),
            crls=(self.folder / "ca.crl",) if crl else (),
        )

    def source(self, name: str = "source", *names: str, host: str = "127.0.0.1") -> Credentials:
        return Credentials(self.settings(name), names, is_server=False, host=host)

    def receiver(self, name: str = "replica", source: str = "san:source.hosp") -> Credentials:
        return Credentials(self.settings(name), (source,), is_server=True)

    def replica(
        self, listener: Listener, layout: Layout | None = None, credentials: Credentials | None = None
    ) -> RemoteReplica:
        """A connection of the source's."""
        archive_id, lineage = (bytes(16), "") if layout is None else (layout.archive_id, layout.lineage)
        return RemoteReplica("127.0.0.1", listener.port, credentials or self.source(), archive_id, lineage)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    certificates.make_authority(folder, "A hospital")
    certificates.issue(folder, "source", ("source.hosp",))
    certificates.issue(folder, "replica", ("127.0.0.1", "replica.hosp"))
    certificates.issue(folder, "ct1", ("ct1.hosp", "127.0.0.1"))
    return folder


@pytest.fixture
def site(hospital: Path, tmp_path: Path) -> Site:
    """A copy, which a test may change."""
    shutil.copytree(hospital, tmp_path / "tls")
    return Site(tmp_path / "tls")


@contextmanager
def listening(data: Path, site: Site, credentials: Credentials | None = None) -> Iterator[Listener]:
    listener = Listener("127.0.0.1", 0, data, credentials or site.receiver())
    stop = threading.Event()
    thread = threading.Thread(target=listener.run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield listener
    finally:
        stop.set()
        listener.close()
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication, "PIECE_BYTES", 20 << 10)
    monkeypatch.setattr(replication, "COMMIT_BYTES", 40 << 10)


@pytest.mark.usefixtures("small_pieces")
def test_a_replica_behind_a_connection_is_the_same(tmp_path: Path, site: Site) -> None:
    target = tmp_path / "replica"
    with opened(tmp_path / "data") as archive, listening(target, site) as listener:
        store(archive, *some(1, 4), segment_bytes=120_000)
        layout = archive.parts.layout

        def connect() -> Destination:
            return site.replica(listener, layout)

        one = replicating(layout, target, connect=connect)
        assert one.run_once()
        store(archive, *some(2, 2))
        (tmp_path / "data" / "segments" / f"{0:016x}.seg").rename(tmp_path / "gone")
        assert one.run_once()
        one.close()
        (tmp_path / "gone").rename(tmp_path / "data" / "segments" / f"{0:016x}.seg")
        assert not (target / "segments" / f"{0:016x}.seg").exists()
        one = replicating(layout, target, connect=connect)
        assert one.run_once()
        one.close()
        expected = contents(archive)
    status = read_status(str(target / "replica.json"))
    assert status is not None and status["lag_bytes"] == 0
    with opened(target) as reader:
        assert contents(reader) == expected
        assert findings(reader) == []
    assert segment_bytes_on_disk(target) <= segment_bytes_on_disk(tmp_path / "data")


@pytest.mark.usefixtures("small_pieces")
def test_a_connection_that_is_cut_anywhere_costs_nothing(tmp_path: Path, site: Site) -> None:
    rng = random.Random(SEED)
    target = tmp_path / "replica"
    with opened(tmp_path / "data") as archive, listening(target, site) as listener:
        store(archive, *some(1, 3), segment_bytes=120_000)
        layout = archive.parts.layout
        for _ in range(12):
            cut_after = rng.randrange(200_000)

            def connect(cut_after: int = cut_after) -> Destination:
                return _Cut(site.replica(listener, layout), cut_after)

            one = replicating(layout, target, connect=connect)
            with pytest.raises(ReplicationFailed):
                while one.run_once():
                    store(archive, *some(rng.randrange(2, 1000), 1))
            one.close()
        one = replicating(
            layout,
            target,
            connect=lambda: site.replica(listener, layout),
        )
        assert one.run_once()
        one.close()
        expected = contents(archive)
    with opened(target) as reader:
        assert contents(reader) == expected, f"FILMROOM_REPLICA_SEED={SEED}"
        assert findings(reader) == []


class _Cut:
    """A destination whose connection goes after so many bytes."""

    def __init__(self, remote: RemoteReplica, left_bytes: int) -> None:
        self._remote = remote
        self._left_bytes = left_bytes

    def write(self, segment_id: int, salt: int, offset: int, data: bytes) -> None:
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            self._remote._line._sock.shutdown(socket.SHUT_RDWR)
        self._remote.write(segment_id, salt, offset, data)

    def __getattr__(self, name: str) -> object:
        return getattr(self._remote, name)


def frame(kind: int, body: bytes) -> bytes:
    return struct.pack("<IB", len(body), kind) + body


HOSTILE = {
    "a record of 64 kB": bytes.fromhex("160301ffff"),
    "a hello that is none": bytes.fromhex("16030100a5010000a1030300000000000000000000000000"),
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "the link of before": frame(Frame.SOURCE, bytes(112)),
    "nothing": b"",
    "half a record": bytes.fromhex("1603010100") + b"half",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_rubbish_instead_of_a_handshake_ends_the_connection_and_nothing_else(
    tmp_path: Path, site: Site, name: str
) -> None:
    with listening(tmp_path / "replica", site) as listener:
        with socket.create_connection(("127.0.0.1", listener.port), 10) as sock:
            sock.sendall(HOSTILE[name])
            with suppress(OSError):  # it may be gone already
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(1000):
                    continue
        assert not (tmp_path / "replica").exists()
        site.replica(listener).close()


def test_an_honest_source_gets_in_while_others_only_connect_or_trickle(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_listener, "UNKNOWN_MAX", 8)
    with listening(tmp_path / "replica", site) as listener, ExitStack() as held:
        for number in range(40):
            sock = held.enter_context(socket.create_connection(("127.0.0.1", listener.port), 10))
            with suppress(OSError):
                sock.sendall(bytes.fromhex("1603010200")[: number % 6])
        site.replica(listener).close()
        assert sum(thread.name == "replica-guest" for thread in threading.enumerate()) <= 8 + 1 + 40


HOSTILE_GREETINGS = {
    "a long frame": struct.pack("<IB", 2049, Frame.SOURCE),
    "a frame of 4 GB": struct.pack("<IB", 0xFFFFFFFF, Frame.SOURCE),
    "a kind that is none": struct.pack("<IB", 0, 99),
    "another frame": frame(Frame.TELL, b"{}"),
    "a short one": frame(Frame.SOURCE, b"short"),
    "half a frame": struct.pack("<IB", 32, Frame.SOURCE) + b"half",
}


@pytest.mark.parametrize("name", HOSTILE_GREETINGS)
def test_a_source_that_greets_wrongly_makes_nothing(tmp_path: Path, site: Site, name: str) -> None:
    with listening(tmp_path / "replica", site) as listener:
        with socket.create_connection(("127.0.0.1", listener.port), 10) as plain:
            sock, _ = site.source().secure(plain)
            with sock:
                replica_tls.shake_hands(sock, 30)
                sock.sendall(HOSTILE_GREETINGS[name])
                with suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_WR)
                    while sock.recv(1000):
                        continue
        assert not (tmp_path / "replica").exists()
        site.replica(listener).close()


class Trickling:
    """A socket that gives one byte at a time, with a pause before each."""

    def __init__(self, sock: socket.socket, now: list[float], step_s: float) -> None:
        self._sock, self._now, self._step_s = sock, now, step_s

    def settimeout(self, seconds: float) -> None:
        self._sock.settimeout(seconds)

    def recv(self, count: int) -> bytes:
        self._now[0] += self._step_s
        return self._sock.recv(1)


def test_a_handshake_has_one_deadline_however_its_bytes_come(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(replica_link.time, "monotonic", lambda: now[0])
    ours, theirs = socket.socketpair()
    with ours, theirs:
        line = Line.__new__(Line)
        line._sock = Trickling(ours, now, step_s=3)  # type: ignore[assignment]
        line._until_s, line._body_bytes_max = 110.0, 2048
        theirs.sendall(frame(Frame.SOURCE, bytes(100)))
        with pytest.raises(ReplicationFailed, match="timed out"):
            line.receive()
        assert now[0] <= 113


def test_a_frame_after_the_greeting_needs_a_least_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(replica_link.time, "monotonic", lambda: now[0])
    ours, theirs = socket.socketpair()
    with ours, theirs:
        line = Line.__new__(Line)
        line._sock = Trickling(ours, now, step_s=9)  # type: ignore[assignment]
        line._until_s, line._body_bytes_max = None, 1 << 20
        theirs.sendall(frame(Frame.DATA, bytes(1000)))
        with pytest.raises(ReplicationFailed, match="timed out"):
            line.receive()


def test_a_source_takes_the_place_of_itself_before_an_outage_and_of_nobody_else(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_listener, "TURN_S", 0.5)
    with listening(tmp_path / "replica", site) as listener:
        first = site.replica(listener)
        assert first.held() == {}
        second = site.replica(listener)
        with pytest.raises(ReplicationFailed, match="another replication to here is running"):
            second.held()
        second.close()
        monkeypatch.setattr(replica_listener, "SILENT_S", -1.0)  # as if it had been silent
        third = site.replica(listener)
        assert third.held() == {}
        with pytest.raises(ReplicationFailed):
            first.tell({"state": "x"})
            first.commit([])
        for one in (first, third):
            one.close()


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Frame.DATA, b"short"),
        (Frame.DATA, struct.pack("<QQQ", 1, 1, 1 << 40) + b"x"),
        (Frame.COMMIT, struct.pack("<QQQB", 9, 9, 1 << 60, 1)),
        (Frame.COMMIT, b"odd"),
        (Frame.REMOVE, b"odd"),
        (Frame.TELL, b"{no json"),
        (Frame.HELLO, b""),
    ],
)
def test_a_bad_frame_of_an_admitted_source_harms_nothing(tmp_path: Path, site: Site, kind: int, body: bytes) -> None:
    target = tmp_path / "replica"
    with listening(target, site) as listener:
        one = site.replica(listener)
        assert one.held() == {}
        one.write(5, 1, 0, b"whole")
        one.commit([Shipped(5, 1, 5, True)])
        one._line._sock.sendall(frame(kind, body))
        with pytest.raises(ReplicationFailed):
            one._line.expect(Frame.DONE)
        one.close()
        again = site.replica(listener)
        assert again.held().keys() - {1} == {5}
        again.close()
    assert (target / "segments" / f"{5:016x}.seg").read_bytes() == b"whole"


def test_the_logs_of_the_hospital_go_to_folders_of_their_own(tmp_path: Path, site: Site) -> None:
    target = tmp_path / "replica"
    number = segment_id_of(SLOT_MAX + 1, 5)
    path = target / "hospital" / "state" / f"{5:016x}.seg"
    with listening(target, site) as listener:
        one = site.replica(listener)
        assert one.held() == {} and one.takes_all_logs
        one.write(number, 1, 0, b"orders")
        one.write(5, 1, 0, b"images")
        one.commit([Shipped(number, 1, 6, True), Shipped(5, 1, 6, True)])
        one.remove([number])  # as a source of an older version does, which does not know it
        assert (path.read_bytes(), len(list((target / "segments").iterdir()))) == (b"orders", 1)
        one.tell({"state": "x", "ships": "all logs"})
        one.remove([number])
        assert not path.exists()
        one.close()


def test_the_audit_log_goes_over_the_connection(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    data, target = tmp_path / "data", tmp_path / "replica"
    monkeypatch.setattr(replica_link, "ENTRIES_MAX", 2)
    with opened(data) as archive, listening(target, site) as listener:
        make_log(data)
        layout = archive.parts.layout
        replication = replicating(layout, target, connect=lambda: site.replica(listener, layout))
        assert replication.run_once()
        replication.close()
        again = site.replica(listener, layout)
        again.held()
        assert again.audit is not None
        held = again.audit.held()
        assert held == {file: held_file(file.path_below(data), file, Files(), is_sealed=False) for file in held}
        assert len(held) == 4  # a key, checkpoints, two chains
        file = max(held)
        again.audit.write(Piece(file, False, False, 0, b"other\n"))
        with pytest.raises(ReplicationFailed, match="audit log"):
            again.audit.commit()
        again.close()
    assert events(source_root(target, NO_LINEAGE)) == events(data)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Frame.AUDIT_DATA, b""),
        (Frame.AUDIT_DATA, bytes(replica_link.AUDIT_PIECE.size - 1)),
        (Frame.AUDIT_DATA, b"\xff" * 100),
        (Frame.AUDIT_DATA, bytes(replica_link.AUDIT_PIECE.size)),
        (Frame.HELD_AUDIT, b""),
    ],
)
def test_frames_of_audit_logs_that_are_none_are_refused(tmp_path: Path, site: Site, kind: Frame, body: bytes) -> None:
    target = tmp_path / "replica"
    with listening(target, site) as listener:
        one = site.replica(listener)
        one.held()
        one._line._sock.sendall(frame(kind, body))
        with pytest.raises(ReplicationFailed):
            one._line.expect(Frame.DONE)
        one.close()
    assert not (target / "sources").exists()


def test_what_a_replica_says_of_audit_logs_is_checked_too() -> None:
    for body in (bytes(7), b"\xff" * replica_link.HELD_AUDIT.size):
        with pytest.raises(ReplicationFailed):
            replica_link.held_audit(body)


# Who may ------------------------------------------------------------------------------------------


def is_admitted(replica: RemoteReplica) -> None:
    with closing(replica):
        assert replica.held().keys() <= {1}


def refused(listener: Listener, site: Site, credentials: Credentials) -> str:
    with pytest.raises(ReplicationFailed) as caught:
        is_admitted(site.replica(listener, credentials=credentials))
    assert not caught.value.is_final  # a renewed certificate helps without a restart
    return str(caught.value)


def test_a_certificate_of_the_same_authority_may_not_write_unless_it_is_named(tmp_path: Path, site: Site) -> None:
    with listening(tmp_path / "replica", site) as listener:
        assert "may not write the replica" in refused(listener, site, site.source("ct1"))
        assert not (tmp_path / "replica").exists()
        site.replica(listener).close()


def test_a_fingerprint_names_the_source(tmp_path: Path, site: Site) -> None:
    (description,) = certificates.describe(site.folder / "source.pem")
    assert isinstance(description, certificates.Certificate)
    with listening(tmp_path / "replica", site, site.receiver(source=description.fingerprint)) as listener:
        is_admitted(site.replica(listener))
        assert "may not write" in refused(listener, site, site.source("ct1"))


def test_a_revoked_or_foreign_certificate_is_refused(tmp_path: Path, site: Site) -> None:
    certificates.make_authority(site.folder / "other", "Another authority")
    certificates.issue(site.folder / "other", "foreigner", ("source.hosp",))
    for suffix in ("pem", "key"):
        shutil.copy(site.folder / "other" / f"foreigner.{suffix}", site.folder)
    certificates.issue(site.folder, "stolen", ("source.hosp",))
    certificates.revoke(site.folder, site.folder / "stolen.pem")
    with listening(tmp_path / "replica", site) as listener:
        assert "unknown ca" in refused(listener, site, site.source("foreigner"))
        assert "revoked" in refused(listener, site, site.source("stolen"))
        assert not (tmp_path / "replica").exists()


@pytest.mark.parametrize("names", [(), ("san:replica.hosp",)])
def test_a_replica_with_another_certificate_gets_not_even_the_name_of_the_archive(
    tmp_path: Path, site: Site, names: tuple[str, ...]
) -> None:
    """Somebody in between, who has a certificate of the same authority."""
    certificates.issue(site.folder, "mitm", ("elsewhere.hosp",))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(site.folder / "mitm.pem", site.folder / "mitm.key")
    received: list[bytes] = []

    def pretend(server: socket.socket) -> None:
        plain, _ = server.accept()
        with plain, suppress(OSError), context.wrap_socket(plain, server_side=True) as sock:
            sock.sendall(frame(Frame.HELLO, replica_link.HELLO.pack(replica_link.FORMAT)))
            received.append(sock.recv(1000))

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=pretend, args=(server,), daemon=True)
        thread.start()
        words = "peer-certificate" if names else "not trusted: IP address mismatch"
        with pytest.raises(ReplicationFailed, match=words):
            RemoteReplica("127.0.0.1", server.getsockname()[1], site.source("source", *names), bytes(16), "")
        thread.join(60)
        assert not thread.is_alive() and b"".join(received) == b""


def test_where_nobody_listens_or_speaks_tls_is_said(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def speak() -> None:
            sock, _ = server.accept()
            with sock:
                sock.sendall(b"220 welcome to some other server\r\n")
                with suppress(OSError):
                    while sock.recv(1000):
                        continue

        thread = threading.Thread(target=speak, daemon=True)
        thread.start()
        with pytest.raises(ReplicationFailed, match="speaks no TLS"):
            RemoteReplica("127.0.0.1", port, site.source(), bytes(16), "")
        thread.join(60)
    with pytest.raises(ReplicationFailed, match="cannot be reached"):
        RemoteReplica("127.0.0.1", port, site.source(), bytes(16), "")


def test_without_certificates_there_is_no_replication_over_the_network() -> None:
    with pytest.raises(ReplicationFailed, match="filmroom cert") as caught:
        Credentials(Tls(), is_server=False, host="replica.hosp")
    assert caught.value.is_final


# Changes of the files -----------------------------------------------------------------------------


def test_a_revocation_ends_the_open_connection_of_a_source(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_tls, "LOOK_EVERY_S", 0.0)
    certificates.issue(site.folder, "leaver", ("source.hosp",))
    # The source itself does not look: the other end must.
    leaver = Credentials(site.settings("leaver", crl=False), is_server=False, host="127.0.0.1")
    with listening(tmp_path / "replica", site) as listener:
        one = site.replica(listener, credentials=leaver)
        assert one.held() == {}
        certificates.revoke(site.folder, site.folder / "leaver.pem")
        with pytest.raises(ReplicationFailed):
            one.tell({"state": "x"})
            one.commit([])
        one.close()
        assert "revoked" in refused(listener, site, leaver)
        is_admitted(site.replica(listener))


def test_a_source_connects_anew_when_its_own_files_change_and_goes_on(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_tls, "LOOK_EVERY_S", 0.0)
    credentials = site.source()
    with listening(tmp_path / "replica", site) as listener:
        one = site.replica(listener, credentials=credentials)
        assert one.held() == {}
        for suffix in ("pem", "key"):
            (site.folder / f"source.{suffix}").unlink()
        certificates.issue(site.folder, "source", ("source.hosp",))
        with pytest.raises(ReplicationFailed, match="files have changed"):
            one.commit([])
        one.close()
        is_admitted(site.replica(listener, credentials=credentials))


def test_a_broken_file_keeps_the_old_ones_and_the_connection(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_tls, "LOOK_EVERY_S", 0.0)
    credentials = site.source()
    with listening(tmp_path / "replica", site) as listener:
        one = site.replica(listener, credentials=credentials)
        assert one.held() == {}
        for name in ("source.key", "replica.pem", "ca.crl"):
            (site.folder / name).write_text("-----BEGIN NOTHING-----\n")
        one.commit([])
        one.close()
        is_admitted(site.replica(listener, credentials=credentials))
