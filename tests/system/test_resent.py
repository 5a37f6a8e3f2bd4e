"""The same instances again, as DCMTK and pynetdicom write them, against a whole server: nothing stays in quarantine.

DCMTK writes lengths, padding and VRs its own way, brings files into other native syntaxes, and packs them with RLE;
what is small is compared before the answer, the rest by the caretaker. Skipped where DCMTK is not installed.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from pydicom import dcmread
from pynetdicom import AE

from tests import samples
from tests.system.server import Server, filmroom, running, wait_for

TOOLS = ("storescu", "dcmcrle", "dcmconv")

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in TOOLS), reason="DCMTK's tools are not installed (Debian package dcmtk)"
)

SMALL = 3
LARGE_SIDE = 900
"""Columns of an image of 1.6 MB: it is compared after the answer."""


def run(*command: str | Path) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def made(folder: Path) -> list[Path]:
    large = bytes(range(256)) * (2 * LARGE_SIDE * LARGE_SIDE // 256) + bytes(2 * LARGE_SIDE * LARGE_SIDE % 256)
    return samples.write(
        folder,
        *(samples.instance(1, 1, number) for number in range(1, SMALL + 1)),
        samples.instance(1, 2, 1, pixels=large, Rows=LARGE_SIDE, Columns=LARGE_SIDE),
    )


def counts(server: Server) -> dict[str, int]:
    return server.stats()["archive"]  # type: ignore[return-value]


def settled(server: Server) -> bool:
    return counts(server)["versions"] == 0


def test_what_is_sent_again_in_other_forms_is_no_conflict(tmp_path: Path) -> None:
    files = made(tmp_path / "files")
    with running(tmp_path / "data", workers=1) as server:
        filmroom(server, "import", str(tmp_path / "files"))

        def send(*options: str | Path) -> None:
            run("storescu", "-aec", "FILMROOM", "127.0.0.1", str(server.port), *options)

        for round_ in range(2):
            send("-xi", *files)
            send("-xb", *files)
            for option in ("-e", "+g", "+e", "-p"):
                written = [path.with_suffix(f".{option[1:]}{round_}") for path in files]
                for path, target in zip(files, written, strict=True):
                    run("dcmconv", option, "+te", path, target)
                send(*written)
            packed = [path.with_suffix(".rle") for path in files]
            for path, target in zip(files, packed, strict=True):
                run("dcmcrle", path, target)
            send("-xr", *packed)
            by_pynetdicom(server, files)
            try:
                wait_for(lambda: settled(server), 300, "nothing kept aside")
            except AssertionError as error:
                raise AssertionError(f"{error}: {server.stats()['caretaker']}\n" + "".join(server.log[-60:])) from error
        after = counts(server)
        assert (after["instances"], after["conflicts"], after["versions"]) == (SMALL + 1, 0, 0)
        stats = server.stats()
        assert "resent" in str(stats)
        assert other_content(stats) == 0
        run("dcmconv", "+te", files[0], tmp_path / "other")
        changed = dcmread(tmp_path / "other")
        changed.PatientName = "Roe^Richard"
        changed.save_as(tmp_path / "other")
        send(tmp_path / "other")
        wait_for(lambda: other_content(server.stats()) == 1, 300, "it has been compared")
        assert counts(server)["versions"] == 1


def by_pynetdicom(server: Server, files: list[Path]) -> None:
    entity = AE(ae_title="PYNETDICOM")
    entity.add_requested_context(samples.CT, "1.2.840.10008.1.2")
    association = entity.associate("127.0.0.1", server.port, ae_title="FILMROOM")
    assert association.is_established
    try:
        for path in files:
            run("dcmconv", "+ti", path, path.with_suffix(".implicit"))
            data_set = dcmread(path.with_suffix(".implicit"))
            data_set.decode()
            assert association.send_c_store(data_set).Status in (0x0000, 0xB000)
    finally:
        association.release()


def other_content(value: object) -> int:
    """The counter of that name, wherever it stands."""
    if isinstance(value, dict):
        return sum(each if name == "other_content_since_start" else other_content(each) for name, each in value.items())
    return 0
