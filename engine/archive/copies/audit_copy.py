"""The audit log in backups: DEST/audit is a copy of DATA/audit, without the key that signs; DEST/sources likewise.

Chains and checkpoints only grow, so a backup copies what is new at the end of each file. Checkpoints come first: the
chains in the copy are then never shorter than what is signed. A file that is another one than its copy, because the log
was rolled back or pruned in between, is copied anew beside the old copy, which is renamed: it is evidence. Whoever can
write the backup must not be able to sign, so a restored archive signs with a new key; the old one's public half stays
in verify-key.pem.

The audit log names patients: in the backup of an encrypted archive its files are sealed (`sealed_file`) with the data
key of new records, and a restore opens them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from engine.archive.copies import growing_copy, sealed_file
from engine.audit.chain import CHAINS, chain_files, chain_names, folder_of, make_private
from engine.audit.checkpoint import CHECKPOINTS, VERIFY_KEY, checkpoint_files
from engine.audit.logs import SOURCES, source_root, source_roots
from engine.errors import BackupError, KeyMissing
from engine.storage.files import Files, replace_file

if TYPE_CHECKING:
    from engine.storage.keyring import DataKey

PIECE_BYTES: Final = 1 << 20
JOIN_BYTES: Final = 4096
"""How much of a copy's end is compared before it is lengthened."""


def copy_audit(source: Path, target: Path, files: Files, key: DataKey | None = None) -> int:
    """Brings the logs in TARGET up to those in SOURCE, sealed with a key if there is one; returns the bytes copied.

    Raises StorageFull, StorageFailed, OSError.
    """
    copied = _copy_log(source, target, files, key)
    for lineage, root in source_roots(source).items():
        make_private(target / SOURCES, files)
        make_private(source_root(target, lineage), files)
        copied += _copy_log(root, source_root(target, lineage), files, key)
    return copied


def _copy_log(source: Path, target: Path, files: Files, key: DataKey | None) -> int:
    if not folder_of(source).is_dir():
        return 0
    make_private(folder_of(target), files)
    verify_key = folder_of(source) / VERIFY_KEY
    if verify_key.exists():
        replace_file(files, str(folder_of(target) / VERIFY_KEY), verify_key.read_bytes())
    make_private(folder_of(target) / CHECKPOINTS, files)
    copied = sum(_copy(source, path, target, files, key) for path in checkpoint_files(source))
    make_private(folder_of(target) / CHAINS, files)
    for name in chain_names(source):
        make_private(folder_of(target) / CHAINS / name, files)
        copied += sum(_copy(source, path, target, files, key) for path in chain_files(source, name))
    return copied


def restore_audit(backup: Path, data: Path, files: Files, findings: list[str]) -> int:
    """Copies the logs of a backup to an archive, and opens what is sealed; returns the bytes.

    Damage costs the rest of its file, and is reported in `findings`. Raises StorageFull, StorageFailed, OSError.
    """
    copied = copy_audit(backup, data, files) + open_sealed(backup, data, files, findings)
    for lineage, root in source_roots(backup).items():
        copied += open_sealed(root, source_root(data, lineage), files, findings)
    return copied


def open_sealed(source: Path, target: Path, files: Files, findings: list[str]) -> int:
    """Opens what is sealed of SOURCE/audit into TARGET/audit; returns the bytes. As `restore_audit`."""
    copied, root = 0, folder_of(source)
    for sealed in sorted(root.rglob(f"*{sealed_file.SUFFIX}")):
        name = str(sealed.relative_to(root)).removesuffix(sealed_file.SUFFIX)
        place = folder_of(target) / name
        for folder in reversed(place.relative_to(folder_of(target)).parents):
            make_private(folder_of(target) / folder, files)
        try:
            copied += _open_sealed(sealed, name, place, files)
        except (BackupError, KeyMissing) as error:
            findings.append(f"the audit log is not whole: {error}")
    return copied


def _open_sealed(sealed: Path, name: str, target: Path, files: Files) -> int:
    fd, at = growing_copy.open_copy(target, files), 0
    try:
        for piece in sealed_file.unseal(sealed, name, files):
            files.pwritev(fd, [piece], at)
            at += len(piece)
        files.truncate(fd, at)
    finally:
        files.fdatasync(fd)
        files.close(fd)
    files.sync_directory(str(target.parent))
    return at


def _copy(root: Path, path: Path, target: Path, files: Files, key: DataKey | None) -> int:
    """Brings the copy of one file up to it; returns the bytes."""
    name = path.relative_to(folder_of(root))
    folder = folder_of(target) / name.parent
    if key is None:
        return _append(path, folder, files)
    copied = sealed_file.seal(path, folder / f"{path.name}{sealed_file.SUFFIX}", str(name), key, files)
    plain = folder / path.name
    if plain.exists():  # of a backup from before the archive was encrypted
        files.unlink(str(plain))
        files.sync_directory(str(folder))
    return copied


def _append(source: Path, folder: Path, files: Files) -> int:
    """Copies what a file has behind its copy in `folder`; returns the bytes."""
    target = folder / source.name
    source_fd = files.open(str(source), os.O_RDONLY)
    try:
        end = files.size(source_fd)
        fd = growing_copy.open_copy(target, files)
        try:
            start = files.size(fd)
            if not _continues(source_fd, fd, start, end, files):
                fd, start = growing_copy.begin_anew(fd, target, files), 0
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
