"""File systems for a test: loop-mounted images and tmpfs, always unmounted afterwards. Needs root.

The loop devices free themselves when they are unmounted (`mount -o loop`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1"),
    "xfs": ("mkfs.xfs", "-q", "-K", "-f"),
}
"""File system → the command that makes it in an image of zeros."""


def missing_for(file_system: str, *, fuse: bool = False) -> str:
    """The reason why this machine cannot make such a mount; "" if it can."""
    if os.geteuid() != 0:
        return "mounting needs root"
    if fuse and not Path("/dev/fuse").exists():
        return "there is no /dev/fuse"
    if file_system == "tmpfs":
        return "" if _can_mount() else "mounting is not allowed here"
    if not Path("/dev/loop-control").exists():
        return "there are no loop devices"
    if shutil.which(MAKE[file_system][0]) is None:
        return f"{MAKE[file_system][0]} is not installed"
    if f"\t{file_system}\n" not in Path("/proc/filesystems").read_text():
        return f"this kernel has no {file_system}"
    return "" if _can_mount() else "mounting is not allowed here"


def _can_mount() -> bool:
    command = ("unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt")
    return subprocess.run(command, capture_output=True).returncode == 0


def make_image(image: Path, size_bytes: int, file_system: str, *options: str) -> None:
    """Makes a file with an empty file system."""
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(size_bytes)
    _run(*MAKE[file_system], *options, str(image))


def mount(kind: str, source: str, point: Path, options: str) -> None:
    """mount(8) on an existing folder; a failure has its message."""
    _run("mount", "-t", kind, "-o", options, source, str(point))


def unmount(point: Path, timeout_s: float = 20.0) -> None:
    """umount(8), after the last process has closed its files there."""
    deadline = time.monotonic() + timeout_s
    while True:
        done = subprocess.run(["umount", str(point)], capture_output=True, text=True)
        if done.returncode == 0 or "not mounted" in done.stderr:
            return
        if time.monotonic() > deadline:
            subprocess.run(["umount", "--lazy", str(point)], capture_output=True)
            raise AssertionError(f"{done.stderr.strip()}: still busy after {timeout_s} s")
        threading.Event().wait(0.05)


@contextmanager
def mounted(kind: str, source: str, point: Path, options: str = "rw") -> Iterator[Path]:
    """A mount during a `with` block."""
    point.mkdir(parents=True, exist_ok=True)
    mount(kind, source, point, options)
    try:
        yield point
    finally:
        unmount(point)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
