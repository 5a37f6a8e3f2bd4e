"""viewer.tarball: what is not the package is not unpacked."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from engine.errors import ViewerError
from engine.viewer import tarball
from tests.viewer import packages


def test_every_member_comes_with_its_content(tmp_path: Path) -> None:
    tarball.check(tmp_path / "p.tgz", packages.tarball(tmp_path / "p.tgz"))
    assert dict(tarball.members(tmp_path / "p.tgz")) == packages.FILES


def test_one_changed_byte_is_another_package(tmp_path: Path) -> None:
    path = tmp_path / "p.tgz"
    integrity = packages.tarball(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ViewerError, match="not the expected package"):
        tarball.check(path, integrity)


@pytest.mark.parametrize(
    "name", ["package/../../x", "/package/x", "package/a/../../../x", "other/x", "package/.npmrc", "package/a\\b"]
)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    packages.tarball(tmp_path / "p.tgz", {name: b"x"})
    with pytest.raises(ViewerError, match="no plain file"):
        list(tarball.members(tmp_path / "p.tgz"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "p.tgz", "w:gz") as tar:
        member = tarfile.TarInfo("package/dist/x.js")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(ViewerError, match="no plain file"):
        list(tarball.members(tmp_path / "p.tgz"))


def test_what_is_larger_than_the_package_can_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages.tarball(tmp_path / "p.tgz")
    monkeypatch.setattr(tarball, "BYTES_MAX", 100)
    with pytest.raises(ViewerError, match="larger"):
        list(tarball.members(tmp_path / "p.tgz"))


@pytest.mark.parametrize("content", [b"", b"no gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\3cut"])
def test_a_file_that_is_no_tarball_is_an_error_of_the_viewer(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.tgz").write_bytes(content)
    with pytest.raises(ViewerError, match="cannot be read"):
        list(tarball.members(tmp_path / "p.tgz"))
