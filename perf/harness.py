"""Shared by all programs here: percentiles, CPU accounting of a process tree, machine facts, JSON, plain tables.

It neither speaks DICOM nor starts peers. CPU time of a live process is that of its CPU clock, in nanoseconds and with
its finished threads; ended children count by the 10 ms ticks of /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")

Json = Mapping[str, object]


class PerfError(Exception):
    """A measurement cannot be taken; the message has the reason."""


class NotInstalled(PerfError):
    """A program is not installed, or the engine cannot be started."""


def say(text: str = "") -> None:
    """Prints one line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


# numbers -----------------------------------------------------------------------------------------


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that `share` (0 to 1) of the ascending values do not exceed; nearest rank, 0.0 without values."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, max(0, int(share * len(ordered) + 0.999999) - 1))]


def median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    if not ordered:
        return 0.0
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


@dataclass(frozen=True, slots=True)
class Latencies:
    """Percentiles of one kind of request, in milliseconds."""

    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float

    @classmethod
    def of(cls, latencies_ns: Sequence[int]) -> Latencies:
        ordered = [value / 1e6 for value in sorted(latencies_ns)]
        return cls(
            count=len(ordered),
            p50_ms=round(percentile(ordered, 0.50), 3),
            p95_ms=round(percentile(ordered, 0.95), 3),
            p99_ms=round(percentile(ordered, 0.99), 3),
            max_ms=round(ordered[-1], 3) if ordered else 0.0,
        )

    def __str__(self) -> str:
        return f"p50 {self.p50_ms:.2f}  p95 {self.p95_ms:.2f}  p99 {self.p99_ms:.2f}  max {self.max_ms:.1f} ms"


def delayed_by_acknowledgements(latencies: Latencies) -> str:
    """A warning if half of the requests took as long as a delayed acknowledgement of Linux; "" otherwise."""
    if not latencies.count or not 39.0 <= latencies.p50_ms <= 46.0:
        return ""
    return (
        f"p50 is {latencies.p50_ms:.1f} ms: one side sends in small pieces and waits for a delayed acknowledgement "
        "(40 ms) in between, so this measures the kernel's timer. Set TCP_NODELAY at the sender of the pieces."
    )


# processes ---------------------------------------------------------------------------------------


def descendants(root_pid: int) -> list[int]:
    """`root_pid` and its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = _stat_fields(int(entry))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(entry))
    found, waiting = [], [root_pid]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting.extend(children.get(pid, ()))
    return found


def parent_of(pid: int) -> int:
    """The parent of a process; 0 if it is gone."""
    fields = _stat_fields(pid)
    return int(fields[1]) if fields else 0


def _stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command's name (field 0 is the state), none if the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()


def cpu_s(root_pid: int) -> float:
    """User + system time of a process tree, with its reaped children."""
    total = 0.0
    for pid in descendants(root_pid):
        fields = _stat_fields(pid)
        if not fields:
            continue
        total += (int(fields[13]) + int(fields[14])) * TICK_S  # cutime, cstime
        try:
            total += time.clock_gettime_ns((~pid << 3) | 2) / 1e9  # the clock of clock_getcpuclockid(3)
        except OSError:
            total += (int(fields[11]) + int(fields[12])) * TICK_S  # utime, stime
    return total


@dataclass(frozen=True, slots=True)
class Memory:
    """One process's memory, in bytes."""

    pid: int
    rss_bytes: int
    rss_peak_bytes: int
    anonymous_bytes: int
    pss_bytes: int


def memory(pid: int) -> Memory:
    status = _colon_fields(Path(f"/proc/{pid}/status"))
    rollup = _colon_fields(Path(f"/proc/{pid}/smaps_rollup"))
    return Memory(
        pid=pid,
        rss_bytes=status.get("VmRSS", 0),
        rss_peak_bytes=status.get("VmHWM", 0),
        anonymous_bytes=status.get("RssAnon", 0),
        pss_bytes=rollup.get("Pss", 0),
    )


def _colon_fields(path: Path) -> dict[str, int]:
    """The `Name:  123 kB` lines of a /proc file, in bytes."""
    fields = {}
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    for line in lines:
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB":
            fields[name] = int(words[0]) * 1024
    return fields


# disk --------------------------------------------------------------------------------------------


def mount_of(path: Path) -> tuple[str, str]:
    """(device, file system type) that holds `path`."""
    wanted = str(path.resolve())
    best = ("", "unknown", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        device, point, kind = line.split()[:3]
        inside = wanted == point or wanted.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best[0]):
            best = (point, device, kind)
    return best[1], best[2]


def disk_flush_count(path: Path) -> int:
    """Finished cache flushes of the disk with `path`, which fdatasync and journal commits cause. -1: unknown."""
    device, _ = mount_of(path)
    try:
        fields = (Path("/sys/class/block") / Path(device).name / "stat").read_text().split()
    except OSError:
        return -1
    return int(fields[15]) if len(fields) > 16 else -1


# facts and results -------------------------------------------------------------------------------


def machine_facts(data: Path) -> dict[str, object]:
    """The facts that are needed to compare two results."""
    cpu_model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu_model = line.partition(":")[2].strip()
            break
    device, file_system = mount_of(data)
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "core_count": os.cpu_count(),
        "cpu_model": cpu_model,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "disk": f"{device} {file_system}",
        "load_before": round(os.getloadavg()[0], 2),
    }


def _commit() -> str:
    """The checked-out commit, with a plus if files differ from it."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if changed else "")


def write_json(path: Path, document: Json) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, sort_keys=True, default=str) + "\n")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table with aligned columns; numbers to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max([len(name), *(len(row[column]) for row in cells)]) for column, name in enumerate(header)]
    lines = [" | ".join(name.ljust(width) for name, width in zip(header, widths, strict=True))]
    lines.append("-|-".join("-" * width for width in widths))
    for row in cells:
        padded = [
            cell.rjust(width) if cell[:1].isdigit() else cell.ljust(width)
            for cell, width in zip(row, widths, strict=True)
        ]
        lines.append(" | ".join(padded))
    return "\n".join(f"| {line} |" if index != 1 else f"|-{line}-|" for index, line in enumerate(lines))


# command lines -----------------------------------------------------------------------------------


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every program has."""
    made = argparse.ArgumentParser(
        description=(description or "").split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    made.add_argument("--smoke", action="store_true", help="tiny parameters: shows in a second or two that it runs")
    made.add_argument("--json", type=Path, metavar="FILE", help="also write the result there")
    return made


def guarded(main: Callable[[], int]) -> int:
    """Runs a program. A PerfError becomes one line on standard error: exit code 3 if not installed, else 2."""
    try:
        return main()
    except NotInstalled as error:
        sys.stderr.write(f"not installed: {error}\n")
        return 3
    except PerfError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


def target_options(made: argparse.ArgumentParser) -> None:
    """The options of a program that loads a running server."""
    made.add_argument("--host", default="127.0.0.1")
    made.add_argument("--port", type=int, default=11112)
    made.add_argument("--aet", default="FILMROOM", help="called AE title")
    made.add_argument("--calling-aet", default="PERF")
    made.add_argument("--server-pid", type=int, default=0, help="measure the CPU of this process tree")
    made.add_argument("--nagle", action="store_true", help="send as modalities do: no TCP_NODELAY, a write a PDU")
    made.add_argument("--peer", default="", help="start and stop this peer first, see perf.peers (instead of --port)")
