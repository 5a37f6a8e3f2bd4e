"""A machine that can lose power: the whole server on a file system on a `fuse_disk`, and what lies outside of it.

    image (durable) ── FUSE disk ── loop device ── ext4 or XFS ── DATA ◄── filmroom serve ◄── senders, ledger (outside)

A boot after a cut mounts what the cut left, with the journal recovery of the real file system, under a boot id of its
own: the server runs in a mount namespace where /proc/sys/kernel/random/boot_id is another one, since the index takes a
page cache for intact that this kernel has kept.
"""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.fuse_disk import FuseDisk, State
from tests.system import mounts
from tests.system.server import ROOT, Server, wait_for

IMAGE_BYTES = 320 << 20
"""XFS wants 300 MiB at least. Sparse: an image takes what has been written."""

BOOT_ID = "/proc/sys/kernel/random/boot_id"


@dataclass
class Machine:
    """One machine over many lives; `power_off` is safe in any state."""

    folder: Path
    file_system: str
    options: str = "rw"
    disk: FuseDisk | None = None
    server: Server | None = None
    boots: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        """The archive's folder."""
        return self.folder / "mount" / "data"

    def install(self) -> None:
        """A new disk with an empty file system."""
        (self.folder / "mount").mkdir(exist_ok=True)
        mounts.make_image(self.folder / "image", IMAGE_BYTES, self.file_system)

    def boot(self) -> FuseDisk:
        """The power is on again and the file system is mounted."""
        self.boots += 1
        (self.folder / "boot_id").write_text(f"{uuid.UUID(int=self.boots)}\n")
        self.disk = FuseDisk(self.folder / "fuse", self.folder / "image")
        mounts.mount(self.file_system, str(self.disk.file), self.folder / "mount", f"loop,{self.options}")
        return self.disk

    def serve(self, config: str, *, await_ready: bool = True) -> Server:
        """Starts the server; its configuration lies outside of the disk."""
        self.server = Server(
            self.data,
            config=config,
            config_file=self.folder / "filmroom.toml",
            prefix=self._booted(),
            environment=self.environment,
            await_ready=await_ready,
        )
        return self.server

    def run(self, *words: str) -> bool:
        """Whether a command of the archive's succeeds; it ends with the power."""
        command = (*self._booted(), sys.executable, "-m", "engine", *words, "--data", str(self.data))
        with (self.folder / "command.log").open("w") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
            try:
                wait_for(lambda: process.poll() is not None or not self.state().is_on, 120, f"the end of {words[0]}")
            finally:
                process.kill()
                process.wait()
        return process.returncode == 0

    def check(self) -> None:
        """`filmroom check`, payloads included, finds nothing."""
        assert self.run("check", "--payloads"), (self.folder / "command.log").read_text()

    def state(self) -> State:
        """The disk's."""
        assert self.disk is not None
        return self.disk.state()

    def power_off(self) -> None:
        """Ends every process of the machine and takes its mounts apart."""
        if self.server is not None:
            self.server.kill_all()
            self.server = None
        disk, self.disk = self.disk, None
        if disk is None:
            return
        try:
            mounts.unmount(self.folder / "mount")
        finally:
            disk.close()

    def _booted(self) -> tuple[str, ...]:
        """Words that run a program as if this boot were the machine's own."""
        inside = f'mount --bind "$0" {BOOT_ID} && exec "$@"'
        return ("unshare", "--mount", "sh", "-c", inside, str(self.folder / "boot_id"))

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.power_off()
