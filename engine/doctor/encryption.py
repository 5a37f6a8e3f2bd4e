"""Examines encryption at rest: the archive's keys, the disk of its index, and swap.

A disk counts as encrypted if it is a dm-crypt device (LUKS), lies on one, or if the folder has an fscrypt policy.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.archive.admin import encryption
from engine.config import Config
from engine.doctor.finding import Finding, fault, good, warning
from engine.errors import StorageError

_SUBJECT = "encryption"
_GET_POLICY = 0xC0096616
"""FS_IOC_GET_ENCRYPTION_POLICY_EX, linux/fscrypt.h."""
_POLICY_BYTES = 8 + 24
_DEPTH_MAX = 8
"""Block devices below one another: a volume of LVM on RAID on LUKS has three."""


def examine(config: Config, *, system: Path = Path("/")) -> Iterator[Finding]:
    """The findings; `system`: the root of /proc and /sys."""
    data = config.data.absolute()
    if not (data / "archive.json").exists():
        return
    try:
        status = encryption.status(data)
    except StorageError as error:
        yield fault(_SUBJECT, str(error), "restore keys.json from a backup; without it the archive is lost")
        return
    index = data / "index"
    is_protected = is_encrypted(index if index.exists() else data, system)
    if not status["is_encrypted"]:
        if is_protected:
            yield good(_SUBJECT, "the archive is not encrypted, and lies on an encrypted disk")
        else:
            advice = "run `filmroom encryption init`, or put the archive on LUKS; backups need protection too"
            yield warning(_SUBJECT, "whoever has the disk of this archive reads it", advice)
        return
    yield from _keys(data, status)
    if is_protected:
        yield good(_SUBJECT, "the index, which is not encrypted, lies on an encrypted disk")
    else:
        advice = "put it on LUKS, or on a folder with fscrypt; it can be rebuilt there"
        yield warning(_SUBJECT, "whoever has the disk of the index reads names in it", advice)
    yield from _swap(system)


def _keys(data: Path, status: Mapping[str, Any]) -> Iterator[Finding]:
    wrappings = status["wrappings"]
    names = ", ".join(f"{each['name']} ({each['kind']})" for each in wrappings)
    if len(wrappings) < 2:
        advice = (
            "add a second one with `filmroom encryption add-wrapping`, keep it elsewhere, and try a restore with it"
        )
        yield warning(_SUBJECT, f"if the key of the only wrapping, {names}, is lost, the archive is lost", advice)
    else:
        yield good(_SUBJECT, f"each of these keys opens the archive: {names}")
    for each in wrappings:
        path = each["settings"].get("path", "")
        if each["kind"] == "file" and os.path.exists(path) and os.stat(path).st_dev == os.stat(data).st_dev:
            advice = "move it to another disk, else whoever has this one has both"
            yield warning(_SUBJECT, f"the key file {path} lies on the disk of the archive", advice)
    studies = status["study_keys"]
    if studies is not None:
        what = f"{studies['keys']} studies have keys of their own; {studies['destroyed_keys']} were shredded"
        yield good(_SUBJECT, f"{what}; copies of study.keys elsewhere keep what was shredded since")
    if status["plain_records"]:
        what = f"{status['plain_records']} records are not encrypted"
        yield warning(_SUBJECT, what, "run `filmroom encrypt`", plain_records=status["plain_records"])
    if status["records_without_key"]:
        what = f"keys.json lacks the keys of {status['records_without_key']} records: it is too old"
        yield fault(_SUBJECT, what, "restore it from the newest backup")


def _swap(system: Path) -> Iterator[Finding]:
    try:
        lines = (system / "proc/swaps").read_text().splitlines()[1:]
    except OSError:
        return
    plain = [line.split()[0] for line in lines if line and not _is_swap_encrypted(line.split()[0], system)]
    if plain:
        advice = "encrypt it (crypttab: swap), use zram, or switch it off"
        yield warning(_SUBJECT, f"keys and names may be written to the swap {', '.join(plain)}", advice)
    else:
        yield good(_SUBJECT, "no memory is written to a disk that is not encrypted")


def _is_swap_encrypted(path: str, system: Path) -> bool:
    if os.path.basename(path).startswith("zram"):
        return True
    try:
        status = os.stat(path)
    except OSError:
        return False
    return _is_crypt(status.st_rdev or status.st_dev, system)


def is_encrypted(folder: Path, system: Path = Path("/")) -> bool:
    """Whether what is in a folder is written to an encrypted disk only."""
    if _has_policy(folder):
        return True
    return _is_crypt(os.stat(folder).st_dev, system)


def _has_policy(folder: Path) -> bool:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        request = bytearray(_POLICY_BYTES)
        request[:8] = (_POLICY_BYTES - 8).to_bytes(8, "little")
        fcntl.ioctl(fd, _GET_POLICY, request)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _is_crypt(device: int, system: Path) -> bool:
    return _lies_on_crypt(system / f"sys/dev/block/{os.major(device)}:{os.minor(device)}", 0)


def _lies_on_crypt(block: Path, depth: int) -> bool:
    """Whether a block device is a dm-crypt device, or each device below it is or lies on one."""
    try:
        if (block / "dm/uuid").read_text().startswith("CRYPT-"):
            return True
    except OSError:
        pass
    if depth > _DEPTH_MAX:
        return False
    try:
        below = list((block / "slaves").iterdir())
    except OSError:
        return False
    return bool(below) and all(_lies_on_crypt(each, depth + 1) for each in below)
