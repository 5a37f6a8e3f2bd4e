"""The audit log in backups: DEST/audit is a copy of DATA/audit, without the key that signs.

Chains and checkpoints only grow, so a backup copies what is new at the end of each file. Checkpoints come first: the
chains in the copy are then never shorter than what is signed. A file that is another one than its copy, because the log
was rolled back or pruned in between, is copied anew beside the old copy, which is renamed: it is evidence. Whoever can
write the backup must not be able to sign, so a restored archive signs with a new key; the old one's public half stays
in verify-key.pem.

The audit log is not encrypted, and names patients. A backup of an encrypted archive leaves it out, and says so.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from engine.audit.chain import CHAINS, chain_files, chain_names, folder_of, make_private
from engine.audit.checkpoint import CHECKPOINTS, VERIFY_KEY, checkpoint_files
from engine.storage.files import Files, raise_write_error, replace_file

PIECE_BYTES: Final = 1 << 20
JOIN_BYTES: Final = 4096
"""How much of a copy's end is compared before it is lengthened."""


def copy_audit(source: Path, target: Path, files: Files) -> int:
    """Brings TARGET/audit up to SOURCE/audit; returns the number of bytes copied.

    Raises StorageFull, StorageFailed, OSError.
    """
    if not folder_of(source).is_dir():
        return 0
    make_private(folder_of(target), files)
    key = folder_of(source) / VERIFY_KEY
    if key.exists():
        replace_file(files, str(folder_of(target) / VERIFY_KEY), key.read_bytes())
    make_private(folder_of(target) / CHECKPOINTS, files)
    copied = sum(_append(path, folder_of(target) / CHECKPOINTS, files) for path in checkpoint_files(source))
    make_private(folder_of(target) / CHAINS, files)
    for name in chain_names(source):
        make_private(folder_of(target) / CHAINS / name, files)
        copied += sum(_append(path, folder_of(target) / CHAINS / name, files) for path in chain_files(source, name))
    return copied


def _append(source: Path, folder: Path, files: Files) -> int:
    """Copies what a file has behind its copy in `folder`; returns the bytes."""
    target = folder / source.name
    source_fd = files.open(str(source), os.O_RDONLY)
    try:
        end = files.size(source_fd)
        fd = _open(target, files)
        try:
            start = files.size(fd)
            if not _continues(source_fd, fd, start, end, files):
                files.close(fd)
                number = sum(1 for _ in folder.glob(f"{source.name}.old-*")) + 1
                files.rename(str(target), f"{target}.old-{number}")
                fd, start = _open(target, files), 0
            for at in range(start, end, PIECE_BYTES):
                files.pwritev(fd, [files.pread(source_fd, min(PIECE_BYTES, end - at), at)], at)
            if end > start:
                files.fdatasync(fd)
        finally:
            files.close(fd)
    finally:
        files.close(source_fd)
    files.sync_directory(str(folder))
    return max(0, end - start)


def _continues(source_fd: int, fd: int, start: int, end: int, files: Files) -> bool:
    """Whether the copy is a beginning of the source."""
    if start > end:
        return False
    at = max(0, start - JOIN_BYTES)
    return files.pread(source_fd, start - at, at) == files.pread(fd, start - at, at)


def _open(path: Path, files: Files) -> int:
    try:
        return files.open(str(path), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise_write_error(error, f"open {path}")
