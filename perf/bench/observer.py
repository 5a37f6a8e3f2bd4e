"""Watches, once an interval: the server's processes if they are visible, the generator, and the whole machine."""

from __future__ import annotations

import os
import platform
import socket
import time
from pathlib import Path

from engine import __version__
from engine.doctor import disk
from perf import harness
from perf.bench.recorder import Histogram
from perf.bench.result import Disk, Machine, Sample
from perf.harness import PerfError

_LISTEN = "0A"
_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


class Observer:
    """Figures since the last sample. `server_pid` 0: the server is not visible."""

    def __init__(self, server_pid: int = 0) -> None:
        self.server_pid = server_pid
        self._at = time.perf_counter()
        self._server_s, self._own_s, self._machine_s = self._clocks()

    def _clocks(self) -> tuple[float, float, float]:
        server_s = harness.cpu_s(self.server_pid) if self.server_pid else 0.0
        return server_s, time.process_time(), _machine_cpu_s()

    def sample(self, at_s: float, lags: Histogram, *, warm_up: bool) -> Sample:
        before, before_clocks = self._at, (self._server_s, self._own_s, self._machine_s)
        self._at = time.perf_counter()
        self._server_s, self._own_s, self._machine_s = self._clocks()
        elapsed_s = max(self._at - before, 1e-6)
        server, own, machine = (
            max(0.0, now - then) / elapsed_s
            for now, then in zip((self._server_s, self._own_s, self._machine_s), before_clocks, strict=True)
        )
        pids = harness.descendants(self.server_pid) if self.server_pid else []
        return Sample(
            at_s=round(at_s, 2),
            warm_up=warm_up,
            server_cores=round(server, 3),
            server_memory_bytes=sum(harness.memory(pid).pss_bytes for pid in pids),
            server_descriptor_count=sum(_descriptor_count(pid) for pid in pids),
            generator_cores=round(own, 3),
            generator_memory_bytes=harness.memory(os.getpid()).rss_bytes,
            generator_lag_p99_ms=round(lags.percentile_ms(0.99), 3),
            machine_cores=round(machine, 3),
        )


def _machine_cpu_s() -> float:
    """Busy time of all processors of this machine (proc(5): all but idle, iowait and the guests in user)."""
    fields = [int(value) for value in Path("/proc/stat").read_text().partition("\n")[0].split()[1:]]
    return (sum(fields[:3]) + sum(fields[5:8])) * _TICK_S


def _descriptor_count(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def is_this_machine(host: str, port: int) -> bool:
    """Whether a server that can be reached runs here. Raises PerfError."""
    try:
        with socket.create_connection((host, port), timeout=10) as sock:
            return bool(sock.getsockname()[0] == sock.getpeername()[0])
    except OSError as error:
        raise PerfError(f"{host}:{port} cannot be reached: {error.strerror or error}") from None


def listening_pid(port: int) -> int:
    """The process that listens on a port of this machine, the uppermost if there are several; 0: not visible."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    holders = [int(name) for name in os.listdir("/proc") if name.isdigit() and _holds(int(name), inodes)]
    return next((pid for pid in sorted(holders) if harness.parent_of(pid) not in holders), 0)


def _holds(pid: int, inodes: set[str]) -> bool:
    try:
        return any(os.readlink(f"/proc/{pid}/fd/{name}") in inodes for name in os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return False


def machine(*, is_server: bool) -> Machine:
    facts = harness.machine_facts(Path("/"))
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        cpu_model=str(facts["cpu_model"]),
        memory_bytes=int(str(facts["memory_bytes"])),
        kernel=platform.release(),
        python=platform.python_version(),
        filmroom=__version__,
        is_server=is_server,
    )


def disk_facts(folder: Path, measure_bytes: int) -> Disk:
    """Measures the disk of a folder as Filmroom writes to it. Raises PerfError."""
    try:
        speed = disk.measure(folder, measure_bytes)
        status = os.statvfs(folder)
    except OSError as error:
        raise PerfError(f"{folder}: the disk could not be measured: {error.strerror}") from None
    device, file_system = harness.mount_of(folder)
    return Disk(
        folder=str(folder),
        device=device,
        file_system=file_system,
        free_bytes=status.f_bavail * status.f_frsize,
        sync_p50_ms=round(speed.sync_p50_ms, 3),
        sync_p99_ms=round(speed.sync_p99_ms, 3),
        write_mb_per_s=round(speed.write_mb_per_s, 1),
        read_mb_per_s=round(speed.read_mb_per_s or 0.0, 1),
    )
