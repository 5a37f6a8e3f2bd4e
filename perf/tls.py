"""DICOM over TLS: what it costs Filmroom, beside DCMTK's storescp with TLS and OpenSSL's own handshakes.

    python -m perf.tls --rounds 3

Certificates are elliptic (P-256), mutual, TLS 1.3. The generator is Python's ssl in this process. `handshakes` counts
the processor time of a server for a connection with a mutual handshake and its end, beside that of `openssl s_server`.
"""

from __future__ import annotations

import argparse
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from engine import certificates
from perf import corpus, harness, load_get, load_store, peers, wire
from perf.association import Association, Target, tls_context
from perf.harness import say
from perf.retrieval import RetrievalLoad

HANDSHAKES = 300
HALF_OPEN = 500


class SecureFilmroom(peers.Filmroom):
    """Filmroom with a TLS port beside the other one."""

    site: Path
    tls_port = 0

    def command(self) -> list[str]:
        self.tls_port = self.tls_port or peers.free_port()
        self.extra_config = (
            f"[tls]\nenabled = true\nport = {self.tls_port}\ncertificates = ['{self.site}/server.pem']\n"
            f"keys = ['{self.site}/server.key']\ntrust = ['{self.site}/ca.pem']\n"
        )
        return super().command()


class SecureWriteBehind(SecureFilmroom):
    durability = "write-behind"


class SecureStorescp(peers.Storescp):
    """DCMTK's storescp, over TLS only."""

    site: Path

    def command(self) -> list[str]:
        command = super().command()
        secure = ["+tls", f"{self.site}/server.key", f"{self.site}/server.pem", "+cf", f"{self.site}/ca.pem"]
        return [*command[:-1], *secure, command[-1]]

    def _is_ready(self, log_start: int) -> bool:
        return _is_open(self.port)


KINDS: dict[str, type[SecureFilmroom | SecureStorescp]] = {
    "filmroom": SecureFilmroom,
    "filmroom-write-behind": SecureWriteBehind,
    "storescp": SecureStorescp,
}


def main(arguments: list[str] | None = None) -> int:
    """Measures and prints medians over the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--instances", type=int, default=600, help="of a store, over all associations")
    parser.add_argument("--smoke", action="store_true", help="tiny parameters: shows in some seconds that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result there")
    options = parser.parse_args(arguments)
    if options.smoke:
        options.rounds, options.instances = 1, 16
    with tempfile.TemporaryDirectory() as folder:
        site = make_site(Path(folder) / "site")
        measurement = Measurement(site, options.instances, is_smoke=options.smoke)
        for number in range(options.rounds):
            measurement.round(Path(folder), number)
        rows = measurement.rows()
    say(harness.table(["case", "server", "rate/s", "server CPU ms"], rows))
    if options.json:
        harness.write_json(options.json, {"tls": rows, "smoke": options.smoke})
    return 0


def make_site(folder: Path) -> Path:
    """An authority with the certificates of a server and a client."""
    certificates.make_authority(folder, "perf")
    certificates.issue(folder, "server", ("127.0.0.1",))
    certificates.issue(folder, "client", ())
    return folder


def client_context(site: Path) -> ssl.SSLContext:
    """Our side."""
    return tls_context(f"{site}/ca.pem", f"{site}/client.pem", f"{site}/client.key")


class Measurement:
    """The samples of all rounds."""

    def __init__(self, site: Path, instances: int, *, is_smoke: bool) -> None:
        self._site = site
        self._context = client_context(site)
        self._instances = instances
        self._is_smoke = is_smoke
        self._samples: dict[tuple[str, str], list[tuple[float, float]]] = {}

    def round(self, folder: Path, number: int) -> None:
        """One round: each server once, every second time its TLS port first."""
        for name, kind in KINDS.items():
            kind.site = self._site
            with tempfile.TemporaryDirectory(dir=folder) as own:
                peer = kind(name, Path(own))
                peer.start()
                try:
                    self._server(peer, is_tls_first=bool(number % 2))
                finally:
                    peer.stop()
        self._note("handshakes", "openssl s_server", *self._openssl_handshakes())

    def rows(self) -> list[list[object]]:
        """Case, server, median rate, median CPU."""
        return [
            [case, server, *(round(harness.median(column), 3) for column in zip(*values, strict=True))]
            for (case, server), values in sorted(self._samples.items())
        ]

    def _note(self, case: str, server: str, rate: float, cpu_ms: float) -> None:
        self._samples.setdefault((case, server), []).append((rate, cpu_ms))

    def _server(self, peer: peers.Peer, *, is_tls_first: bool) -> None:
        secure = Target(getattr(peer, "tls_port", 0) or peer.port, peer.aet, tls=self._context)
        targets = [(f"{peer.name}, TLS", secure)]
        if isinstance(peer, SecureFilmroom):
            targets.insert(1 if is_tls_first else 0, (peer.name, peer.target))
        first_study = 1
        for label, target in targets:
            for count in (1, 8):
                load = load_store.StoreLoad(
                    association_count=count,
                    instance_count=max(1, self._instances // count),
                    first_study=first_study,
                )
                result = load_store.run(target, load, server_pid=peer.pid)
                if result.failed_count:
                    raise harness.PerfError(f"{label}: {result.failures}")
                self._note(f"store-{count}", label, result.instances_per_s, result.server_cpu_ms)
                first_study += load_store.study_count(load)
            if isinstance(peer, SecureFilmroom):
                uids = [corpus.study_uid(number) for number in result.studies]
                got = load_get.run(target, uids, RetrievalLoad(), server_pid=peer.pid)
                self._note("get", label, got.instances_per_s, got.server_cpu_ms)
        if peer.name == "filmroom":
            self._note("handshakes", f"{peer.name}, TLS", *self._handshakes(secure, peer.pid))
            self._note("echo beside half-open handshakes, ms", f"{peer.name}, TLS", self._echo_ms(secure), 0.0)

    def _handshakes(self, target: Target, pid: int) -> tuple[float, float]:
        """Mutual handshakes a second, one after the other, and the server's processor time for each, in ms."""
        count = 5 if self._is_smoke else HANDSHAKES
        before, started = harness.cpu_s(pid), time.perf_counter()
        for _ in range(count):
            with (
                socket.create_connection((target.host, target.port), 10) as sock,
                self._context.wrap_socket(sock, server_hostname=target.host),
            ):
                pass
        elapsed_s = time.perf_counter() - started
        return count / elapsed_s, (harness.cpu_s(pid) - before) * 1000 / count

    def _openssl_handshakes(self) -> tuple[float, float]:
        """The same of `openssl s_server`."""
        port = peers.free_port()
        own = ("-cert", f"{self._site}/server.pem", "-key", f"{self._site}/server.key")
        asked = ("-CAfile", f"{self._site}/ca.pem", "-Verify", "1", "-num_tickets", "0")
        command = ("openssl", "s_server", "-quiet", "-accept", f"127.0.0.1:{port}", *own, *asked)
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _wait_until_open(port)
            return self._handshakes(Target(port, ""), process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()

    def _echo_ms(self, target: Target) -> float:
        """A fresh association with a C-ECHO, the worst of ten, while many handshakes are left half open."""
        outgoing = ssl.MemoryBIO()
        try:
            self._context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=target.host).do_handshake()
        except ssl.SSLWantReadError:
            pass  # its hello is in `outgoing`
        hello = outgoing.read()
        halves: list[socket.socket] = []
        try:
            for _ in range(10 if self._is_smoke else HALF_OPEN):
                sock = socket.create_connection((target.host, target.port), 10)
                sock.sendall(hello)
                halves.append(sock)
            threading.Event().wait(1.0)
            durations_ms = []
            for _ in range(2 if self._is_smoke else 10):
                started = time.perf_counter()
                association = Association(target, [wire.Context(1, wire.VERIFICATION)])
                association.echo(1)
                durations_ms.append((time.perf_counter() - started) * 1000)
                association.release()
            return max(durations_ms)
        finally:
            for sock in halves:
                sock.close()


def _is_open(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def _wait_until_open(port: int) -> None:
    pause = threading.Event()
    for _ in range(500):
        if _is_open(port):
            return
        pause.wait(0.02)
    raise harness.PerfError("a server did not start within 10 s")


if __name__ == "__main__":
    sys.exit(harness.guarded(main))
