"""Copies of the audit log in pieces of ciphertext: they grow, notice every change, and keep what was replaced."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.archive.copies import sealed_file
from engine.archive.copies.audit_copy import copy_audit, restore_audit
from engine.archive.copies.sealed_file import PIECE_BYTES, seal, unseal
from engine.audit.chain import folder_of
from engine.errors import BackupError, KeyMissing
from engine.storage.files import Files
from engine.storage.keyring import KEYRING, DataKey
from tests.audit.recording import events, make_log

NAME = "chains/000/000000000001.events"
KEY = DataKey(b"keynumb1", bytes(range(32)), bytes(16))


@pytest.fixture(autouse=True)
def unlocked() -> Iterator[None]:
    KEYRING.clear()
    KEYRING.add([KEY])
    yield
    KEYRING.clear()


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "source", tmp_path / "copy.sealed"


def sealed(paths: tuple[Path, Path], data: bytes) -> int:
    paths[0].write_bytes(data)
    return seal(*paths, NAME, KEY, Files())


def opened(path: Path, name: str = NAME) -> bytes:
    return b"".join(unseal(path, name, Files()))


def test_a_copy_grows_with_its_file_in_pieces(paths: tuple[Path, Path]) -> None:
    data = b""
    for more in (b"", b"first", os.urandom(2 * PIECE_BYTES + 5), b"last"):
        data += more
        assert sealed(paths, data) == len(more)
        assert opened(paths[1]) == data
        assert not more or more[:200] not in paths[1].read_bytes()
    assert list(paths[1].parent.glob("*.old-*")) == []


@pytest.mark.parametrize("cut", [1, 40, 52])
def test_a_piece_that_a_killed_backup_left_is_replaced(paths: tuple[Path, Path], cut: int) -> None:
    sealed(paths, b"whole")
    sealed(paths, b"whole and more")
    os.truncate(paths[1], paths[1].stat().st_size - cut)
    assert opened(paths[1]) == b"whole"
    assert sealed(paths, b"whole and more") == len(b" and more")
    assert opened(paths[1]) == b"whole and more"


def test_a_file_that_was_changed_does_not_replace_its_copy(paths: tuple[Path, Path]) -> None:
    sealed(paths, b"what happened")
    sealed(paths, b"what never was")
    assert opened(paths[1]) == b"what never was"
    assert opened(paths[1].parent / "copy.sealed.old-1") == b"what happened"
    sealed(paths, b"short")  # rolled back
    assert opened(paths[1].parent / "copy.sealed.old-2") == b"what never was"


def test_every_change_of_a_copy_is_noticed(paths: tuple[Path, Path]) -> None:
    sealed(paths, b"one")
    sealed(paths, b"one, two")
    good = paths[1].read_bytes()
    for at in range(len(good)):
        paths[1].write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        try:
            assert opened(paths[1]) in (b"", b"one"), at  # a wrong length cuts the rest off
        except (BackupError, KeyMissing):
            continue
    half = sealed_file._HEAD.size + 3 + sealed_file._TAG_BYTES
    for pieces in (good[half:], good[half:] + good[:half], good[:half] * 2):
        paths[1].write_bytes(pieces)
        with pytest.raises(BackupError):
            opened(paths[1])
    paths[1].write_bytes(good)
    with pytest.raises(BackupError):
        opened(paths[1], "chains/001/000000000001.events")
    KEYRING.clear()
    with pytest.raises(KeyMissing):
        opened(paths[1])


def test_an_archive_that_becomes_encrypted_leaves_no_plain_copy_behind(tmp_path: Path) -> None:
    data, backup, restored = tmp_path / "data", tmp_path / "backup", tmp_path / "restored"
    make_log(data)
    for folder in (backup, restored):
        folder.mkdir()
    copy_audit(data, backup, Files())
    assert list(folder_of(backup).rglob("*.events"))
    copy_audit(data, backup, Files(), KEY)
    assert not list(folder_of(backup).rglob("*.events"))
    assert not [path for path in folder_of(backup).rglob("*") if path.is_file() and b"DOE^JANE" in path.read_bytes()]
    findings: list[str] = []
    assert restore_audit(backup, restored, Files(), findings) > 0 and not findings
    assert events(restored) == events(data)
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder_of(restored).rglob("*.events"))


def test_damage_costs_the_rest_of_its_file_and_is_reported(tmp_path: Path) -> None:
    data, backup, restored = tmp_path / "data", tmp_path / "backup", tmp_path / "restored"
    make_log(data)
    for folder in (backup, restored):
        folder.mkdir()
    copy_audit(data, backup, Files(), KEY)
    harmed = folder_of(backup) / f"{NAME}{sealed_file.SUFFIX}"
    harmed.write_bytes(harmed.read_bytes()[:-1] + b"x")
    findings: list[str] = []
    restore_audit(backup, restored, Files(), findings)
    assert len(findings) == 1 and str(harmed) in findings[0]
    assert len(events(restored)) == 4, "the other chain is whole"
