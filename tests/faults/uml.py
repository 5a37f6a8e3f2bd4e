"""A user-mode Linux kernel for tests: device-mapper targets that the host's kernel may lack, and their log read back.

The kernel is an ordinary process; its root is the host's file system (hostfs), its disks are files. `apt-get install
user-mode-linux dmsetup` brings it; nothing here installs anything. dm-log-writes keeps every write of a device, in the
order in which they became sure:

    log     super block, then entries   entry   sector (8) | sectors (8) | flags (8) | length (8), then the data
    flags   1 FLUSH: all before is durable   2 FUA: this one is   4 DISCARD: no data follows   8 MARK: a name instead
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KERNEL = "linux.uml"
MODULES = Path("/usr/lib/uml/modules")

FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
MAGIC = 0x6A736677736872
SECTOR_BYTES = 512

FEWER_REGISTERS = "ptrace set fp regs failed"
"""What the kernel says when it panics at its first process: the state of a processor of the host is too long for it."""

_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")


INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
for name in dm-mod dm-bufio dm-log-writes; do
    insmod {modules}/$(uname -r)/kernel/drivers/md/$name.ko
done
{script}
echo o > /proc/sysrq-trigger
while :; do :; done
"""


def missing() -> str:
    """Why no such kernel can be started here; "" if one can."""
    if os.geteuid() != 0:
        return "user-mode Linux is tried as root only"
    for program in (KERNEL, "dmsetup", "mkfs.ext4"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    if not list(MODULES.glob("*/kernel/drivers/md/dm-log-writes.ko")):
        return "its kernel has no dm-log-writes"
    with tempfile.TemporaryDirectory() as folder:
        if FEWER_REGISTERS in run(Path(folder), "", {}):
            return "the processor has more registers than user-mode Linux knows"
    return ""


def run(folder: Path, script: str, disks: dict[str, Path], *, timeout_s: float = 300.0) -> str:
    """Boots, runs a shell script with the disks as /dev/NAME, and halts; what was written to the console."""
    init = folder / "init.sh"
    init.write_text(INIT.format(modules=MODULES, script=script))
    init.chmod(0o755)
    # Its memory is a file, which must not lie on a disk.
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        done = subprocess.run(
            [
                *(KERNEL, "mem=512M", "root=/dev/root", "rootfstype=hostfs", "hostfs=/", "rw", f"init={init}"),
                *(f"{name}={image}" for name, image in disks.items()),
                *("con=null", "con0=null,fd:1", "quiet"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env={**os.environ, "TMPDIR": memory},
        )
    return done.stdout


@dataclass(frozen=True)
class Entry:
    """One entry of a log of writes."""

    offset: int
    flags: int
    data: bytes
    """What was written, or a mark's name."""


def read_log(path: Path) -> Iterator[Entry]:
    """The entries in their order; discarded ranges are left out, as a disk may do."""
    with path.open("rb") as file:
        magic, _, count, sector_bytes = _SUPER.unpack(file.read(_SUPER.size))
        assert magic == MAGIC, f"{path} is no log of dm-log-writes"
        at = sector_bytes
        for _ in range(count):
            file.seek(at)
            sector, sectors, flags, length = _ENTRY.unpack(file.read(_ENTRY.size))
            at += sector_bytes
            if flags & MARK:
                yield Entry(0, flags, file.read(length))
                continue
            if flags & DISCARD:
                continue
            file.seek(at)
            yield Entry(sector * SECTOR_BYTES, flags, file.read(sectors * SECTOR_BYTES))
            at += sectors * SECTOR_BYTES
