"""engine.index.database.data_file: a short, damaged or foreign data.mdb is noticed before LMDB maps it."""

from __future__ import annotations

import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import IndexDamaged
from engine.index.catalog import Catalog
from engine.index.database import data_file
from engine.index.database.tables import TABLES
from engine.index.upkeep import checkpoint_file, restoration
from engine.index.upkeep.restoration import RestoreResult
from engine.storage.files import Files
from tests.archive import kept

COUNT = 60
PAGE = 4096


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive that was closed cleanly."""
    data = tmp_path_factory.mktemp("stopped") / "data"
    kept.filled(data, COUNT, pixels=16)
    return data


def _exchanged(data: bytes) -> bytes:
    pages = [data[at : at + PAGE] for at in range(0, len(data), PAGE)]
    pages[3], pages[5] = pages[5], pages[3]
    return b"".join(pages)


def _flipped(data: bytes) -> bytes:
    turned = bytearray(data)
    turned[random.Random(7).randrange(2 * PAGE, len(data))] ^= 4
    return bytes(turned)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "half": lambda data: data[: len(data) // 2],
    "a page less": lambda data: data[:-PAGE],
    "a byte less": lambda data: data[:-1],
    "one page": lambda data: data[:PAGE],
    "empty": lambda data: b"",
    "noise": lambda data: random.Random(1).randbytes(len(data)),
    "noise in the header": lambda data: random.Random(1).randbytes(2 * PAGE) + data[2 * PAGE :],
    "zeros": lambda data: bytes(len(data)),
    "one bit": _flipped,
    "two pages exchanged": _exchanged,
}


@pytest.mark.parametrize(
    ("damage", "end"),
    [
        (damage, end)
        for damage in DAMAGES
        for end in ("clean", "not clean")
        if end == "clean" or damage not in ("one bit", "two pages exchanged")
    ],
)
def test_a_damaged_data_file_is_rebuilt_at_the_next_start(stopped: Path, tmp_path: Path, damage: str, end: str) -> None:
    data = tmp_path / "data"
    shutil.copytree(stopped, data)
    path = data / "index" / "data.mdb"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    if end == "not clean":
        # As after a kill without a checkpoint: nothing says what the bytes should be, only what LMDB needs of them.
        checkpoint_file.write_void(str(data / "index"), Files())
    with kept.opened(data) as archive:
        assert archive.stats()["instances"] == COUNT
        assert len(kept.positions(archive)) == COUNT
    with kept.opened(data) as archive:
        assert archive.stats()["instances"] == COUNT


@pytest.mark.parametrize("damage", ["half", "a page less", "one page", "noise", "zeros"])
def test_a_process_other_than_the_keeper_refuses_a_damaged_data_file(
    stopped: Path, tmp_path: Path, damage: str
) -> None:
    data = tmp_path / "data"
    shutil.copytree(stopped, data)
    path = data / "index" / "data.mdb"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    for read_only in (True, False):
        with pytest.raises(IndexDamaged, match="rebuild-index"):
            Catalog.open(str(data / "index"), read_only=read_only)
    assert not restoration.is_clean(str(data / "index"), Files())


def test_a_clean_end_is_trusted_when_its_checksum_is_missing_or_foreign(stopped: Path, tmp_path: Path) -> None:
    for number, content in enumerate((None, b"", b"x" * 32, (stopped / "index" / "checksum").read_bytes()[:-1])):
        data = tmp_path / str(number)
        shutil.copytree(stopped, data)
        if content is None:
            os.unlink(data / "index" / "checksum")
        else:
            (data / "index" / "checksum").write_bytes(content)
        assert restoration.restore(str(data / "index"), Files()) is RestoreResult.CLEAN


def test_a_large_data_file_gets_no_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_file, "CHECKSUM_BYTES_MAX", 2 * PAGE)
    kept.filled(tmp_path / "data", 3)
    assert not (tmp_path / "data" / "index" / "checksum").exists()
    assert restoration.restore(str(tmp_path / "data" / "index"), Files()) is RestoreResult.CLEAN


@pytest.mark.parametrize("name", ["lock.mdb", "checkpoint", "lifetime", "checksum"])
@pytest.mark.parametrize("content", [b"", b"\xff" * 5000, b"short"])
def test_rubbish_in_any_other_file_of_the_index_costs_no_instance(
    stopped: Path, tmp_path: Path, name: str, content: bytes
) -> None:
    data = tmp_path / "data"
    shutil.copytree(stopped, data)
    (data / "index" / name).write_bytes(content)
    with kept.opened(data) as archive:
        assert len(kept.positions(archive)) == COUNT


def test_a_list_of_tables_that_leads_elsewhere_is_found(stopped: Path) -> None:
    content = (stopped / "index" / "data.mdb").read_bytes()
    meta = data_file.newest_meta_page(content[: 2 * PAGE])
    assert meta is not None
    root, last_page = (struct.unpack_from("<Q", meta, at)[0] for at in (128, 136))
    page = content[root * PAGE : (root + 1) * PAGE]
    assert data_file.tables_fault(page, last_page) == ""
    (offsets_end,) = struct.unpack_from("<H", page, 12)
    assert (offsets_end - 16) // 2 == len(TABLES)
    for at in range(16, offsets_end, 2):
        for bit in range(12, 16):  # a page has 4096 bytes
            turned = bytearray(page)
            turned[at + 1] ^= 1 << bit - 8
            assert data_file.tables_fault(bytes(turned), last_page), (at, bit)
        (offset,) = struct.unpack_from("<H", page, at)
        turned = bytearray(page)
        struct.pack_into("<Q", turned, offset + 8 + struct.unpack_from("<H", page, offset + 6)[0] + 40, last_page + 1)
        assert data_file.tables_fault(bytes(turned), last_page) == "a table leads beyond its last page"


def test_meta_pages_that_say_different_lengths_of_pages_are_found(stopped: Path, tmp_path: Path) -> None:
    """The root of the main tree would be looked for beyond the end of the file."""
    content = bytearray((stopped / "index" / "data.mdb").read_bytes())
    transactions = [struct.unpack_from("<Q", content, at + 144)[0] for at in (0, PAGE)]
    shorter, last_page = PAGE // 4, 4 * len(content) // PAGE - 1
    struct.pack_into("<I", content, PAGE + data_file._PAGE_BYTES_AT, shorter)
    struct.pack_into("<Q", content, PAGE + 144, max(transactions) + 1)
    struct.pack_into("<QQ", content, PAGE + 128, last_page, last_page)
    path = tmp_path / "data.mdb"
    path.write_bytes(content)
    with path.open("rb") as file:
        assert data_file.fault_of(Files(), file.fileno()) == "its meta pages say different lengths of pages"


@pytest.mark.parametrize("seed", range(12))
def test_damage_in_pages_without_a_checksum_raises_only_index_errors(stopped: Path, tmp_path: Path, seed: int) -> None:
    data = tmp_path / "data"
    shutil.copytree(stopped, data)
    os.unlink(data / "index" / "checksum")
    rng = random.Random(seed)
    path = data / "index" / "data.mdb"
    turned = bytearray(path.read_bytes())
    for _ in range(40):
        turned[rng.randrange(2 * PAGE, len(turned))] ^= 1 << rng.randrange(8)
    path.write_bytes(turned)
    with kept.opened(data) as archive:
        for ask in (
            archive.stats,
            lambda: kept.positions(archive),
            archive.parts.index.segment_marks,
            archive.parts.index.damage,
        ):
            try:
                ask()
            except IndexDamaged as error:
                assert "rebuild-index" in str(error)
