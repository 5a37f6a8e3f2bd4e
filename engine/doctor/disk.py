"""Checks the disk of the data directory: permissions, free space, and how fast it syncs, writes and reads.

Measures the disk as the log uses it: appends instances of half a megabyte to one preallocated file, with one fdatasync
for each group of eight; then reads them past the page cache. Compares the results with the hardware target of
`[target]`. Removes the measured file and touches nothing else in the directory. `archive_state` checks the archive.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.config import Config, Target
from engine.doctor.finding import Finding, fault, good, warning
from engine.sizes import bytes_text

INSTANCE_BYTES = 512 << 10
GROUP = 8
"""Instances for each fdatasync: as many as eight associations commit together."""
SYNC_ROUNDS = 200
"""Syncs of SYNC_BYTES each, to measure the latency."""
SYNC_BYTES = 4096

ROOM_BYTES_MIN = 16 << 20
"""Free space beside the reserve; with less, an instance of an ordinary size does not fit."""

_MEMORY_ONLY = frozenset({"tmpfs", "ramfs"})
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p"})


def examine(config: Config, *, measure_bytes: int) -> Iterator[Finding]:
    """Examines directory, room and file system; with `measure_bytes` also the speed."""
    data = config.data.absolute()
    folder = _existing(data)
    if folder != data:
        yield good("data directory", f"{data} will be created in {folder}")
    yield from _permissions(data, folder)
    yield _file_system(folder)
    yield _room(config, folder)
    yield _inodes(folder)
    if measure_bytes and os.access(folder, os.W_OK):
        try:
            yield from _speed(folder, config.target, measure_bytes)
        except OSError as error:
            yield fault("disk", f"a test file in {folder} failed: {error.strerror}", "read the kernel log (dmesg)")


def _existing(path: Path) -> Path:
    """An absolute path, or the nearest existing folder above it."""
    while not path.exists():
        path = path.parent
    return path


def _permissions(data: Path, folder: Path) -> Iterator[Finding]:
    subject = "permissions"
    who = f"user {os.geteuid()}"
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        yield fault(subject, f"{who} may not write to {folder}", f"chown it, or run as its owner ({folder.owner()})")
        return
    if os.geteuid() == 0:
        yield warning(subject, "running as root", "run as a user of its own; no port below 1024 is needed")
    status = folder.stat()
    if folder == data and status.st_mode & 0o007:
        yield warning(subject, f"{data} is open to every user (mode {status.st_mode & 0o777:o})", f"chmod o-rwx {data}")
        return
    if os.geteuid() != 0:
        yield good(subject, f"{who} owns what it needs")


def _file_system(folder: Path) -> Finding:
    subject = "file system"
    kind, options, where = _mount_of(folder)
    if kind in _MEMORY_ONLY:
        return fault(subject, f"{folder} is in memory ({kind})", "choose a folder on a disk: a restart loses all")
    if "ro" in options:
        return fault(subject, f"{where} is mounted read-only", "mount it read-write, or find out why it changed")
    if kind in _NETWORK:
        return warning(
            subject,
            f"{folder} is on a network file system ({kind})",
            "locks and syncs depend on its server: use a disk",
        )
    if "nobarrier" in options or "barrier=0" in options:
        return fault(
            subject, f"{where} is mounted without barriers", "remount with barriers: a power cut loses synced data"
        )
    return good(subject, f"{kind} at {where}")


def _mount_of(folder: Path) -> tuple[str, list[str], str]:
    """Type, options and mount point of a folder's file system (proc(5), mountinfo)."""
    device = os.stat(folder).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    best = ("unknown", list[str](), str(folder))
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            fields, kind = before.split(), after.split()
            if fields[2] == number and _is_below(folder, fields[4]):
                best = (kind[0], [*fields[5].split(","), *kind[2].split(",")], fields[4])
    return best


def _is_below(folder: Path, mount: str) -> bool:
    return folder.resolve().is_relative_to(mount.replace("\\040", " "))


def _room(config: Config, folder: Path) -> Finding:
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    reserve = config.limits.disk_reserve_bytes
    segments = config.storage.segment_bytes * (config.workers + 1)
    what = f"{bytes_text(free)} free, {bytes_text(min(free, reserve))} of them in reserve"
    if free - reserve < ROOM_BYTES_MIN:
        advice = (
            "new instances are refused (A700): delete studies and run filmroom compact, which work on a full disk,"
            " use a larger disk, or lower limits.disk_reserve_bytes"
        )
        return fault("room", what, advice, free_bytes=free)
    if free - reserve < 2 * segments:
        advice = f"free some space: the next segments of {config.workers} workers take {bytes_text(segments)}"
        return warning("room", what, advice, free_bytes=free)
    return good("room", what, free_bytes=free)


def _inodes(folder: Path) -> Finding:
    status = os.statvfs(folder)
    if status.f_files and status.f_favail < 1000:
        return fault("inodes", f"{status.f_favail} left", "remove small files: segments cannot be created")
    return good("inodes", f"{status.f_favail} left" if status.f_files else "not limited")


@dataclass(frozen=True, slots=True)
class Speed:
    """The measured speed of a disk."""

    sync_p50_ms: float
    sync_p99_ms: float
    write_mb_per_s: float
    read_mb_per_s: float | None
    """None where the file system has no direct reads."""


def measure(folder: Path, measure_bytes: int) -> Speed:
    """Writes and reads `measure_bytes` in a file of its own, which it removes. Raises OSError."""
    descriptor, path = tempfile.mkstemp(prefix=".filmroom-doctor-", dir=folder)
    try:
        latencies_s = _sync_latencies_s(descriptor)
        return Speed(
            sync_p50_ms=latencies_s[len(latencies_s) // 2] * 1e3,
            sync_p99_ms=latencies_s[len(latencies_s) * 99 // 100] * 1e3,
            write_mb_per_s=_write_mb_per_s(descriptor, measure_bytes),
            read_mb_per_s=_read_mb_per_s(path, measure_bytes),
        )
    finally:
        os.close(descriptor)
        os.unlink(path)


def _speed(folder: Path, target: Target, measure_bytes: int) -> Iterator[Finding]:
    speed = measure(folder, measure_bytes)
    p50, p99, rate = speed.sync_p50_ms, speed.sync_p99_ms, speed.write_mb_per_s
    yield _compare(
        "sync latency",
        f"fdatasync of {SYNC_BYTES} bytes takes {p50:.2f} ms (p50), {p99:.2f} ms (p99)",
        p99 <= target.sync_p99_ms_max,
        f"the target is {target.sync_p99_ms_max:g} ms at p99: use a disk with power-loss protection, or "
        "write-behind for senders that may send again",
        sync_p50_ms=p50,
        sync_p99_ms=p99,
    )
    if p50 < 0.01:
        yield warning(
            "sync latency",
            "fdatasync returns faster than any disk can write",
            "check whether the file system or the virtual disk ignores flushes: a power cut would lose data",
        )
    yield _compare(
        "write rate",
        f"{rate:.0f} MB/s appended with one fdatasync every {GROUP} instances of {INSTANCE_BYTES >> 10} KiB",
        rate >= target.write_mb_per_s_min,
        f"the target is {target.write_mb_per_s_min:g} MB/s: no archive stores faster than its disk",
        write_mb_per_s=rate,
    )
    together, alone = _instances_per_s(rate, p50 / 1e3)
    yield good(
        "capacity",
        f"this disk is good for about {together:.0f} CT instances/s from eight senders at once, "
        f"{alone:.0f}/s from one (durable, {INSTANCE_BYTES >> 10} KiB each)",
        instances_per_s=together,
        instances_per_s_of_one_sender=alone,
    )
    if speed.read_mb_per_s is not None:
        yield _compare(
            "read rate",
            f"{speed.read_mb_per_s:.0f} MB/s read past the page cache",
            speed.read_mb_per_s >= target.read_mb_per_s_min,
            f"the target is {target.read_mb_per_s_min:g} MB/s: retrievals of older studies will be slower",
            read_mb_per_s=speed.read_mb_per_s,
        )


def _instances_per_s(write_mb_per_s: float, sync_s: float) -> tuple[float, float]:
    """The disk's rates for groups of GROUP instances, and for one instance a sync. Processors may allow less."""
    write_s = INSTANCE_BYTES / 1e6 / write_mb_per_s
    return 1 / write_s, 1 / (write_s + sync_s)


def _compare(subject: str, what: str, meets_target: bool, advice: str, **figures: float) -> Finding:
    return good(subject, what, **figures) if meets_target else warning(subject, what, advice, **figures)


def _sync_latencies_s(descriptor: int) -> list[float]:
    latencies = []
    os.posix_fallocate(descriptor, 0, SYNC_BYTES * SYNC_ROUNDS)
    os.fsync(descriptor)
    block = os.urandom(SYNC_BYTES)
    for number in range(SYNC_ROUNDS):
        os.pwrite(descriptor, block, number * SYNC_BYTES)
        began = time.perf_counter()
        os.fdatasync(descriptor)
        latencies.append(time.perf_counter() - began)
    return sorted(latencies)


def _write_mb_per_s(descriptor: int, measure_bytes: int) -> float:
    group = os.urandom(INSTANCE_BYTES) * GROUP
    rounds = max(measure_bytes // len(group), 1)
    os.posix_fallocate(descriptor, 0, rounds * len(group))
    os.fsync(descriptor)
    began = time.perf_counter()
    for number in range(rounds):
        os.pwrite(descriptor, group, number * len(group))
        os.fdatasync(descriptor)
    return rounds * len(group) / 1e6 / (time.perf_counter() - began)


def _read_mb_per_s(path: str, measure_bytes: int) -> float | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        with mmap.mmap(-1, 4 << 20) as buffer:
            began, done = time.perf_counter(), 0
            while done < measure_bytes:
                count = os.preadv(descriptor, [buffer], done)
                if not count:
                    break
                done += count
            return done / 1e6 / (time.perf_counter() - began) if done else None
    except OSError:
        return None
    finally:
        os.close(descriptor)
