"""The package as npm delivers it: its integrity is checked, and its members are read one by one."""

from __future__ import annotations

import base64
import hashlib
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from engine.errors import ViewerError

MEMBERS_MAX: Final = 5000
BYTES_MAX: Final = 512 << 20
"""Of all members: those of OHIF have 204 MB."""

_PATH: Final = re.compile(r"package(/[A-Za-z0-9_@-][A-Za-z0-9._@-]*)+")


def check(path: Path, integrity: str) -> None:
    """Raises ViewerError unless the file has this integrity ("sha512-…")."""
    kind, _, expected = integrity.partition("-")
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, kind).digest()
    except OSError as error:
        raise ViewerError(f"{path} cannot be read: {error.strerror}") from error
    if base64.b64encode(digest).decode() != expected:
        raise ViewerError(f"{path} is not the expected package: its {kind} differs from the one in engine/viewer")


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    """The regular files, with their content. Raises ViewerError for anything but plain files with plain names."""
    count = total = 0
    try:
        with tarfile.open(path, "r:gz") as tar:
            for member in tar:
                if member.isdir():
                    continue
                count, total = count + 1, total + member.size
                if not member.isreg() or not _PATH.fullmatch(member.name):
                    raise ViewerError(f"{path} has a member that is no plain file: {member.name[:200]!r}")
                if count > MEMBERS_MAX or total > BYTES_MAX:
                    raise ViewerError(f"{path} is larger than the package can be")
                file = tar.extractfile(member)
                assert file is not None
                yield member.name, file.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ViewerError(f"{path} cannot be read: {error}") from error
