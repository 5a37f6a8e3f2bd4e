"""filmroom doctor --security on encryption at rest: keys, the disk of the index, swap."""

from __future__ import annotations

import os
from pathlib import Path

from engine.archive.admin import encryption
from engine.archive.archive import Archive
from engine.config import Config
from engine.doctor import encryption as examination
from engine.doctor.finding import Finding, Verdict
from engine.keys import key_file


def findings(data: Path, system: Path) -> list[Finding]:
    return list(examination.examine(Config(data=data), system=system))


def problems(data: Path, system: Path) -> list[str]:
    return [finding.what for finding in findings(data, system) if finding.verdict is not Verdict.GOOD]


def machine(folder: Path, data: Path, *, uuid: str = "", below: str = "", swaps: tuple[str, ...] = ()) -> Path:
    """A /proc and /sys with the block device that `data` lies on."""
    device = os.stat(data).st_dev
    block = folder / f"sys/dev/block/{os.major(device)}:{os.minor(device)}"
    (block / "dm").mkdir(parents=True)
    if uuid:
        (block / "dm/uuid").write_text(uuid)
    if below:
        (block / "slaves/dm-0/dm").mkdir(parents=True)
        (block / "slaves/dm-0/dm/uuid").write_text(below)
    (folder / "proc").mkdir()
    (folder / "proc/swaps").write_text("Filename Type Size Used Priority\n" + "".join(f"{swap} x\n" for swap in swaps))
    return folder


def archive(data: Path, *, wrappings: int) -> Path:
    """An encrypted archive whose master key has so many wrappings, by key0, key1 …, beside it."""
    data.parent.mkdir(exist_ok=True)
    for number in range(wrappings):
        path = data.parent / f"key{number}"
        key_file.make(path)
        if number:
            encryption.open_keys(data).add_wrapping(path.name, "file", {"path": str(path)})
        else:
            encryption.begin(data, path.name, "file", {"path": str(path)}, data_key_days=30)
    return data


def test_an_archive_that_anybody_with_the_disk_can_read_is_named(tmp_path: Path) -> None:
    data = tmp_path / "data"
    Archive.open(data, create=True).close()
    assert problems(data, machine(tmp_path / "a", data)) == ["whoever has the disk of this archive reads it"]
    assert problems(data, machine(tmp_path / "b", data, uuid="CRYPT-LUKS2-0-x")) == []
    assert problems(data, machine(tmp_path / "c", data, uuid="LVM-x", below="CRYPT-LUKS2-0-x")) == []
    assert problems(data, machine(tmp_path / "d", data, uuid="LVM-x", below="LVM-y")) != []


def test_an_encrypted_archive_needs_two_wrappings_an_encrypted_index_and_no_open_swap(tmp_path: Path) -> None:
    data = archive(tmp_path / "one" / "data", wrappings=1)
    os.unlink(data.parent / "key0")  # it is on another disk
    whats = problems(data, machine(tmp_path / "a", data, swaps=("/dev/nothing",)))
    assert [what.split(",")[0] for what in whats] == [
        "if the key of the only wrapping",
        "whoever has the disk of the index reads names in it",
        "keys and names may be written to the swap /dev/nothing",
    ]
    data = archive(tmp_path / "two" / "data", wrappings=2)
    for name in ("key0", "key1"):
        os.unlink(data.parent / name)
    assert problems(data, machine(tmp_path / "b", data, uuid="CRYPT-LUKS2-0-x", swaps=("/dev/zram0",))) == []


def test_a_key_file_on_the_disk_of_the_archive_and_lost_keys_are_named(tmp_path: Path) -> None:
    data = archive(tmp_path / "data", wrappings=1)
    encryption.open_keys(data).add_wrapping("elsewhere", "file", {"path": str(tmp_path / "key0")})
    whats = problems(data, machine(tmp_path / "a", data, uuid="CRYPT-LUKS2-0-x"))
    assert set(whats) == {f"the key file {tmp_path / 'key0'} lies on the disk of the archive"}
    os.unlink(data / "keys.json")
    (finding,) = findings(data, tmp_path / "a")
    assert (finding.verdict, "keys.json is missing" in finding.what) == (Verdict.FAULT, True)
