"""Checks in each write transaction that the checkpoint on disk stays valid: see `checkpoint`."""

from __future__ import annotations

import os

from engine import boot
from engine.index.database.locks import is_locked
from engine.index.upkeep import checkpoint_file
from engine.index.upkeep.checkpoint_file import Kind, read_file
from engine.storage.files import Files


class Guard:
    """Call it in every write transaction of a handle: it replaces a checkpoint that nothing pins by VOID."""

    def __init__(self, directory: str, files: Files) -> None:
        self._directory = directory
        self._files = files
        self._path = f"{directory}/checkpoint"
        self._pin_fd = -1
        self._pin_fd = os.open(f"{directory}/pin", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._void: tuple[int, int] | None = None

    def __call__(self) -> None:
        if is_locked(self._pin_fd):
            return
        identity = self._files.identity(self._path)
        if identity is not None and identity == self._void:
            return
        checkpoint = read_file(self._directory, self._files)
        if checkpoint is None or checkpoint.kind != Kind.VOID or checkpoint.boot_id != boot.boot_id():
            checkpoint_file.write_void(self._directory, self._files)
        self._void = self._files.identity(self._path)

    def __del__(self) -> None:
        if self._pin_fd >= 0:
            os.close(self._pin_fd)
