"""A power cut before every flush of a short life, on ext4: dm-log-writes in a user-mode Linux kernel.

The kernel logs each write of the device, its flushes, and the acknowledgements as marks. For every flush the disk is
put together as a cut right before it could leave it: all that was flushed earlier, every forced write, and a seeded
half of the rest, page by page. It is mounted, with the recovery of ext4, and the archive is opened: what was
acknowledged by then is there, what was deleted by then is not, `check` finds nothing.

Runs where `user-mode-linux` and `dmsetup` are installed (see `uml`). FILMROOM_LOG_WRITES_STRIDE: every n-th flush (CI:
some; 1: all). The control leaves the flushed writes to chance too, and must lose.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.errors import EngineError
from tests import effort
from tests.faults import uml
from tests.system import mounts
from tests.system.server import ROOT
from tests.system.test_injection import LifeReport, verify

# test_every_call and test_histories cut the power of simulated disks in each run.
pytestmark = [pytest.mark.slow, pytest.mark.rotating(3)]

STRIDE = effort.amount("LOG_WRITES_STRIDE", 12, 1)
SEED = int(os.environ.get("FILMROOM_LOG_WRITES_SEED", "20260601"))

DISK_BYTES = 48 << 20
TORN_BYTES = 4096


@dataclass(frozen=True)
class Recorded:
    """One life as the disk saw it."""

    before: Path
    """The disk at its start."""
    entries: list[uml.Entry]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    missing = uml.missing() or mounts.missing_for("ext4")
    if missing:
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("uml")
    disk, log, before = folder / "disk", folder / "log", folder / "before"
    (folder / "mount").mkdir()
    mounts.make_image(disk, DISK_BYTES, "ext4")
    shutil.copyfile(disk, before)
    with log.open("wb") as file:
        file.truncate(1 << 30)
    script = f"""
dmsetup create log --table "0 {DISK_BYTES // 512} log-writes /dev/ubda /dev/ubdb" || exit
dmsetup mknodes
mount -t ext4 /dev/mapper/log {folder}/mount || exit
cd {ROOT}
PYTHONDONTWRITEBYTECODE=1 {sys.executable} -m tests.faults.uml_guest {folder}/mount/data log 2>&1
umount {folder}/mount
dmsetup remove log
"""
    console = uml.run(folder, script, {"ubd0": disk, "ubd1": log})
    assert "\nover" in console, console
    return Recorded(before, list(uml.read_log(log)))


def states(recorded: Recorded, folder: Path, *, keeps_its_word: bool = True) -> Iterator[tuple[int, Path, LifeReport]]:
    """One state of the disk after the other, as an image: before each flush, with what was told by then.

    Each image has a name of its own: mount(8) takes the loop device of an image that is still in use somewhere.
    """
    rng = random.Random(SEED)
    durable = bytearray(recorded.before.read_bytes())
    pending: list[uml.Entry] = []
    told = LifeReport()
    flushes = 0
    for entry in recorded.entries:
        if entry.flags & uml.MARK:
            told.note(entry.data.decode().replace("-", " "))
            continue
        if entry.flags & uml.FLUSH and told.sent:
            flushes += 1
            if flushes % STRIDE == 0:
                image = folder / f"image-{flushes}"
                image.write_bytes(torn(durable, pending, rng))
                yield flushes, image, told
                image.unlink()
        if entry.flags & uml.FLUSH and keeps_its_word:
            for earlier in pending:
                durable[earlier.offset : earlier.offset + len(earlier.data)] = earlier.data
            pending.clear()
        if entry.flags & uml.FUA and keeps_its_word:
            durable[entry.offset : entry.offset + len(entry.data)] = entry.data
        elif entry.data:
            pending.append(entry)


def torn(durable: bytearray, pending: list[uml.Entry], rng: random.Random) -> bytes:
    """Half of what was not flushed is there."""
    left = bytearray(durable)
    for entry in pending:
        for at in range(0, len(entry.data), TORN_BYTES):
            if rng.getrandbits(1):
                piece = entry.data[at : at + TORN_BYTES]
                left[entry.offset + at : entry.offset + at + len(piece)] = piece
    return bytes(left)


def judge(image: Path, told: LifeReport) -> None:
    """Boots from it, so to speak."""
    point = image.with_name(f"{image.name}.mount")
    with mounts.mounted("ext4", str(image), point, "loop"):
        verify(point / "data", LifeReport(), told)


def test_nothing_acknowledged_is_lost_by_a_cut_before_any_flush(recorded: Recorded, tmp_path: Path) -> None:
    tried = 0
    for flush, image, told in states(recorded, tmp_path):
        try:
            judge(image, told)
        except BaseException as error:
            error.add_note(f"flush {flush}, FILMROOM_LOG_WRITES_SEED={SEED}: " + ", ".join(told.words[-8:]))
            raise
        tried += 1
    assert tried, "the life has no flushes"


def test_a_disk_that_does_not_keep_its_word_loses(recorded: Recorded, tmp_path: Path) -> None:
    for _, image, told in states(recorded, tmp_path, keeps_its_word=False):
        try:
            judge(image, told)
        except (AssertionError, EngineError, OSError):
            return
    raise AssertionError("nothing was lost: the log of writes proves nothing")
