"""Brings DATA/study.keys into the bucket, piece by piece, and what was destroyed out of it; and back.

    a key is made       its piece is written before any record that needs it
    a key is destroyed  its piece is overwritten, and then the store's old versions of it are removed

Each lineage has a folder of its own: a machine that was restored writes the whole file, its first piece last, and then
removes the folders of others, of which the one that it was restored from is one. So a machine that was taken over, and
does not know it yet, cannot overwrite the keys of its successor. A lineage with a first piece is whole.
"""

from __future__ import annotations

import os
import time
from hashlib import blake2b

from engine.archive.copies import study_key_file
from engine.archive.copies.study_key_file import COARSE_NS, PIECE_BYTES, pieces
from engine.archive.layout import Layout
from engine.errors import BackupError, ObjectWrong
from engine.keys.study_keys import FILE
from engine.objects.bucket import NO_LINEAGE, Bucket
from engine.objects.versions import Versions
from engine.storage.files import Files


class StudyKeyShipping:
    """For one thread at a time."""

    def __init__(self, layout: Layout, files: Files, bucket: Bucket, versions: Versions) -> None:
        """Makes no request."""
        self._path = layout.data / FILE
        self._lineage = layout.lineage or NO_LINEAGE
        self._files = files
        self._bucket = bucket
        self._versions = versions
        self._there: dict[int, bytes] | None = None
        """Number → digest of each piece in the bucket; None: not known yet."""
        self._is_whole = False
        """Whether the whole file has been there since this process began."""
        self._overwritten: set[str] = set()
        """Keys and folders of objects of which the store may have old versions."""
        self._identity: tuple[int, int] | None = None
        """Of the file when all of it was in the bucket."""

    @property
    def is_waiting(self) -> bool:
        """Whether the bucket may lack a change."""
        return self._files.identity(str(self._path)) != self._identity or bool(self._overwritten)

    def ship(self) -> None:
        """Brings all changes into the bucket. Raises StoreUnreachable; StoreRefused if it keeps old versions."""
        identity = self._files.identity(str(self._path))
        if identity is None or (identity == self._identity and not self._overwritten):
            return
        if self._there is None:
            self._versions.prove(self._bucket.objects, f"{self._bucket.root}/probe")
            self._there = self._digests()
            self._overwritten.add(self._bucket.study_keys_folder())
        changed = {}
        for at, piece in pieces(self._path, self._files):
            digest = blake2b(piece, digest_size=16).digest()
            if self._there.get(at // PIECE_BYTES) != digest:
                changed[at // PIECE_BYTES] = digest, piece
        for number in sorted(changed, reverse=not self._is_whole):
            digest, piece = changed[number]
            key = self._bucket.study_keys_key(self._lineage, number)
            self._overwritten.add(key)
            self._bucket.objects.put(key, piece)
            self._there[number] = digest
        if not self._is_whole:
            self._remove_others()
            self._is_whole = True
        for prefix in sorted(self._overwritten):
            self._versions.forget(prefix)
            self._overwritten.discard(prefix)
        # Times of files are coarse: one that has just been changed may change again and look the same.
        self._identity = identity if abs(time.time_ns() - identity[1]) > COARSE_NS else None

    def _digests(self) -> dict[int, bytes]:
        there = self._bucket.study_key_pieces().get(self._lineage, {})
        digests = {}
        for number, key in there.items():
            piece = self._bucket.objects.get(key, PIECE_BYTES)
            digests[number] = blake2b(piece, digest_size=16).digest()
        return digests if 0 in digests else {}

    def _remove_others(self) -> None:
        for lineage, others in self._bucket.study_key_pieces().items():
            if lineage != self._lineage:
                self._bucket.objects.delete(list(others.values()))


def restore(bucket: Bucket, layout: Layout, files: Files) -> bool:
    """Makes study.keys in a new archive; False if the bucket has none. Raises BackupError, StoreUnreachable."""
    lineages = {lineage: each for lineage, each in bucket.study_key_pieces().items() if 0 in each}
    if not lineages:
        return False
    lineage = bucket.read_lineage()
    chosen = lineage or NO_LINEAGE
    if lineage is None or chosen not in lineages:
        if len(lineages) > 1:
            raise BackupError(f"the bucket has study keys of several machines: {', '.join(sorted(lineages))}")
        chosen = next(iter(lineages))
    numbers = lineages[chosen]
    path = str(layout.data / FILE)
    fd = files.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        for number in range(max(numbers) + 1):
            if number not in numbers:
                raise BackupError(f"piece {number} of {FILE} is not in the bucket")
            piece = bucket.objects.get(numbers[number], PIECE_BYTES)
            if len(piece) != PIECE_BYTES and number != max(numbers):
                raise ObjectWrong(f"{numbers[number]} is too short")
            files.pwritev(fd, [piece], number * PIECE_BYTES)
        files.fdatasync(fd)
    finally:
        files.close(fd)
    files.sync_directory(str(layout.data))
    study_key_file.check(layout.data, layout.archive_id, files)
    return True
