"""The compared servers: starts each in its own folder, with the sink as a move destination, and stops it.

    filmroom, filmroom-write-behind     this engine, durable and not
    storescp                            DCMTK storescp --fork: no index, no fsync
    dcmqrscp                            DCMTK dcmqrscp: an index file, no fsync
    orthanc, orthanc-nosync             Orthanc with SQLite: with its defaults (fsync each file), and without fsync
    sink                                perf.sink in this process: the upper limit of the generator
    wlmscpfs                            DCMTK wlmscpfs, for `perf.worklist`

Each gets TCP_NODELAY=1 (without it DCMTK's library, which Orthanc uses too, leaves Nagle's algorithm on) unless `stock`
is set, 128 KiB PDUs and a free port of 127.0.0.1. A peer that is not installed raises `NotInstalled`. Measures nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from perf import wire
from perf.association import PDU_LENGTH_MAX, Association, Target
from perf.harness import ROOT, NotInstalled, PerfError, descendants
from perf.sink import Sink

NAMES = ("filmroom", "filmroom-write-behind", "storescp", "dcmqrscp", "orthanc", "orthanc-nosync", "sink")
RETRIEVING = ("filmroom", "filmroom-write-behind", "dcmqrscp", "orthanc", "orthanc-nosync")
SINK_AET = "SINK"
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 120.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def program(*names: str) -> str:
    """The path of the first of these programs that is installed."""
    for name in names:
        found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
        if found:
            return found
    raise NotInstalled(f"{names[0]} is not installed")


class Peer:
    """One server process; the folder and everything in it belong to it."""

    def __init__(self, name: str, directory: Path, *, sink_port: int = 0, workers: int = 0, config: str = "") -> None:
        self.name = name
        self.directory = directory
        self.data = directory / "data"
        """Its data folder; set it before the start to use a folder that outlives the peer's own."""
        self.sink_port = sink_port or free_port()
        self.workers = workers or (os.cpu_count() or 1)
        self.extra_config = config
        self.port = free_port()
        self.http_port = 0
        """Its HTTP port, with `http`."""
        self.aet = "ANY"
        self._process: subprocess.Popen[bytes] | None = None
        self.store_associations = 1
        """The most associations to the sink at once, if that can be configured."""
        self.stock = False
        """Whether it runs without TCP_NODELAY, with the defaults of its package."""
        self.ready_s = 0.0
        """Time from exec to ready of the last start."""

    web_root = "/dicom-web"
    extra_http = ""
    """More lines of the table [http], of Filmroom's configuration."""

    @property
    def target(self) -> Target:
        return Target(port=self.port, called_aet=self.aet)

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def command(self) -> list[str]:
        """Writes the configuration and returns what to execute."""
        raise NotImplementedError

    def version(self) -> str:
        return ""

    def start(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        command = self.command()
        environment = {name: value for name, value in os.environ.items() if name != "TCP_NODELAY"}
        if self.http_port:
            environment["FILMROOM_HTTP_ENABLED"] = "true"
        if not self.stock:
            environment["TCP_NODELAY"] = "1"
        with (self.directory / "log.txt").open("ab") as log:
            log_start = log.tell()
            started = time.perf_counter()
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        pause = threading.Event()
        while not self._is_ready(log_start):
            if self._process.poll() is not None:
                raise self._ended(self._process.returncode, self._log(log_start))
            if time.perf_counter() - started > START_TIMEOUT_S:
                self.kill()
                raise PerfError(f"{self.name} was not ready in {START_TIMEOUT_S:.0f} s: {self._log(log_start)[-1000:]}")
            pause.wait(0.002)
        self.ready_s = time.perf_counter() - started

    def _ended(self, code: int, log: str) -> PerfError:
        """Why it ended before it was ready."""
        if "No module named" in log:
            missing = log.strip().splitlines()[-1]
            return NotInstalled(f"{self.name} does not run with {sys.executable} ({missing}): use .venv/bin/python")
        return PerfError(f"{self.name} ended with {code}: {log[-1000:]}")

    def _log(self, start: int) -> str:
        return (self.directory / "log.txt").read_bytes()[start:].decode(errors="replace")

    def _is_ready(self, log_start: int) -> bool:
        """Foreign servers print nothing: they are ready when they answer a C-ECHO."""
        return self.answers_echo()

    def answers_echo(self) -> bool:
        try:
            association = Association(self.target, [wire.Context(1, wire.VERIFICATION)])
        except (OSError, PerfError):
            return False
        try:
            return association.echo(1) == 0
        except (OSError, PerfError):
            return False
        finally:
            association.release()

    def stop(self) -> None:
        """Sends SIGTERM to the first process, and kills the rest of its group."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pass
        self.kill()

    def kill(self) -> None:
        """Sends SIGKILL to every process of its group."""
        if self._process is None:
            return
        below = descendants(self._process.pid)[1:] if self._process.poll() is None else []
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        for pid in below:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self._process.wait()
        self._process = None


class Filmroom(Peer):
    durability = "durable"

    def command(self) -> list[str]:
        if not (ROOT / "engine" / "__main__.py").exists():
            raise NotInstalled("the engine has no command line yet")
        self.aet = "FILMROOM"
        config = self.directory / "filmroom.toml"
        config.write_text(
            f'{self.extra_config}\n[[peer]]\naet = "{SINK_AET}"\nhost = "127.0.0.1"\nport = {self.sink_port}\n'
            f"store_associations = {self.store_associations}\n[http]\nport = {self.http_port}\n{self.extra_http}"
        )
        return [
            sys.executable, "-m", "engine", "serve", "--data", str(self.data), "--aet", self.aet,
            "--dicom-port", str(self.port), "--host", "127.0.0.1", "--workers", str(self.workers),
            "--durability", self.durability, "--config", str(config),
        ]  # fmt: skip

    def _is_ready(self, log_start: int) -> bool:
        return "ready" in self._log(log_start)

    def version(self) -> str:
        return f"filmroom ({self.durability}, {self.workers} workers)"


class FilmroomWriteBehind(Filmroom):
    durability = "write-behind"


class Storescp(Peer):
    def command(self) -> list[str]:
        self.aet = "STORESCP"
        return [
            program("storescp"), "--fork", "-dhl", "-aet", self.aet, "-pdu", str(PDU_LENGTH_MAX),
            "-od", str(self.data), str(self.port),
        ]  # fmt: skip

    def version(self) -> str:
        return _first_line(program("storescp"), "--version")


class Dcmqrscp(Peer):
    def command(self) -> list[str]:
        self.aet = "DCMQRSCP"
        config = self.directory / "dcmqrscp.cfg"
        config.write_text(
            f"NetworkTCPPort = {self.port}\nMaxPDUSize = {PDU_LENGTH_MAX}\nMaxAssociations = 128\n"
            f"HostTable BEGIN\nsink = ({SINK_AET}, localhost, {self.sink_port})\nHostTable END\n"
            "VendorTable BEGIN\nVendorTable END\n"
            f"AETable BEGIN\n{self.aet} {self.data} RW (500, 1024mb) ANY\nAETable END\n"
        )
        return [program("dcmqrscp"), "-dhl", "--fork", "-c", str(config), "-pdu", str(PDU_LENGTH_MAX), str(self.port)]

    def version(self) -> str:
        return _first_line(program("dcmqrscp"), "--version")


class Wlmscpfs(Peer):
    """DCMTK's worklist server, which reads every file of `data`/AET for each query."""

    def command(self) -> list[str]:
        self.aet = "WLMSCPFS"
        folder = self.data / self.aet
        folder.mkdir(exist_ok=True)
        (folder / "lockfile").touch()
        return [program("wlmscpfs"), "-dfp", str(self.data), "-pdu", str(PDU_LENGTH_MAX), str(self.port)]

    def version(self) -> str:
        return _first_line(program("wlmscpfs"), "--version")


class Orthanc(Peer):
    sync_storage = True

    def command(self) -> list[str]:
        self.aet = "ORTHANC"
        config = self.directory / "orthanc.json"
        config.write_text(
            json.dumps(
                {
                    "Name": "perf",
                    "StorageDirectory": str(self.data),
                    "IndexDirectory": str(self.data),
                    "Plugins": [_dicomweb_plugin()] if self.http_port else [],
                    "DicomWeb": {"Enable": True, "Root": self.web_root},
                    "HttpPort": self.http_port or free_port(),
                    "RemoteAccessAllowed": False,
                    "DicomAet": self.aet,
                    "DicomPort": self.port,
                    "DicomCheckCalledAet": False,
                    "DicomModalities": {"sink": [SINK_AET, "127.0.0.1", self.sink_port]},
                    "DicomAlwaysAllowEcho": True,
                    "DicomAlwaysAllowStore": True,
                    "DicomAlwaysAllowFind": True,
                    "DicomAlwaysAllowGet": True,
                    "DicomAlwaysAllowMove": True,
                    "MaximumPduLength": PDU_LENGTH_MAX,
                    "SyncStorageArea": self.sync_storage,
                    "DicomThreadsCount": 8,
                }
            )
        )
        return [program("Orthanc", "orthanc"), str(config)]

    def version(self) -> str:
        return _first_line(program("Orthanc", "orthanc"), "--version")


class OrthancNoSync(Orthanc):
    sync_storage = False


class SinkPeer(Peer):
    """The sink in the measuring process, without separate server CPU."""

    _sink: Sink | None = None

    def start(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        self._sink = Sink(0)
        self.port = self._sink.port

    def stop(self) -> None:
        if self._sink is not None:
            self._sink.close()
            self._sink = None

    def version(self) -> str:
        return "perf.sink"


_KINDS: dict[str, type[Peer]] = {
    "filmroom": Filmroom,
    "filmroom-write-behind": FilmroomWriteBehind,
    "storescp": Storescp,
    "dcmqrscp": Dcmqrscp,
    "orthanc": Orthanc,
    "orthanc-nosync": OrthancNoSync,
    "sink": SinkPeer,
    "wlmscpfs": Wlmscpfs,
}


def _dicomweb_plugin() -> str:
    """Orthanc's plugin. Raises NotInstalled."""
    found = sorted(Path("/usr/lib/orthanc").glob("libOrthancDicomWeb.so*"))
    if not found:
        raise NotInstalled("Orthanc's DICOMweb plugin (orthanc-dicomweb) is not installed")
    return str(found[0])


def _first_line(path: str, option: str) -> str:
    done = subprocess.run([path, option], capture_output=True, text=True, check=False)
    return next(iter((done.stdout + done.stderr).splitlines()), "").strip("$ ")


def make(name: str, directory: Path, *, sink_port: int = 0, workers: int = 0, config: str = "") -> Peer:
    if name not in _KINDS:
        raise PerfError(f"no peer is called {name!r}; there are {', '.join(NAMES)}")
    return _KINDS[name](name, directory, sink_port=sink_port, workers=workers, config=config)


@contextmanager
def running(
    name: str,
    *,
    parent: Path | None = None,
    data: Path | None = None,
    sink_port: int = 0,
    workers: int = 0,
    config: str = "",
    stock: bool = False,
    store_associations: int = 1,
    http: bool = False,
    extra_http: str = "",
) -> Iterator[Peer]:
    """A running peer in a temporary folder, which is removed afterwards; `parent` chooses the disk, `data` is kept.

    `stock`: with the defaults of its package, without TCP_NODELAY.
    """
    directory = Path(tempfile.mkdtemp(prefix=f"perf-{name}-", dir=parent))
    peer = make(name, directory, sink_port=sink_port, workers=workers, config=config)
    peer.stock = stock
    peer.store_associations = store_associations
    peer.http_port = free_port() if http else 0
    peer.extra_http = extra_http
    if data is not None:
        peer.data = data
    try:
        peer.start()
        yield peer
    finally:
        peer.stop()
        shutil.rmtree(directory, ignore_errors=True)


def with_target(
    options: argparse.Namespace, measure: Callable[[Target, int], int], *, sink_port: int = 0, stock: bool = False
) -> int:
    """Calls `measure` with the server of the options: a running one, or a peer that it starts.

    A running one may use Nagle's algorithm, so its answers are acknowledged at once.
    """
    if not options.peer:
        target = Target(options.port, options.aet, options.host, options.calling_aet, options.nagle, quick_acks=True)
        return measure(target, options.server_pid)
    with running(options.peer, sink_port=sink_port, stock=stock) as peer:
        return measure(dataclasses.replace(peer.target, nagle=options.nagle), peer.pid)
