"""engine.archive.interchange.media: what is found where, and that nothing on a medium leads anywhere else."""

from __future__ import annotations

import gzip
import io
import os
import random
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from engine.archive.interchange import dicomdir, formats, media, tar_archives, zip_archives
from engine.archive.interchange.media import Refused, SourceItem
from engine.dicom import tags, uids
from engine.dicom.part10 import write_file_meta
from tests import samples
from tests.corpus import corpus_root, needs_corpus

SEED = 20261124


def found(*paths: Path) -> dict[str, str | bytes]:
    """Name → content, or why it was refused."""
    answers: dict[str, str | bytes] = {}
    for source in media.sources(paths):
        assert source.name not in answers
        if isinstance(source, SourceItem):
            with source.open() as stream:
                answers[source.name] = stream.read()
            assert len(answers[source.name]) == source.size_bytes
        else:
            answers[source.name] = source.reason
    return answers


def under(root: Path, answers: dict[str, str | bytes]) -> dict[str, str | bytes]:
    return {name.removeprefix(f"{root}/"): answer for name, answer in answers.items()}


# Folders -----------------------------------------------------------------------------------------


def test_a_folder_gives_all_its_files_in_a_fixed_order(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a/.hidden", ".also/x", "z", "a/deep/er/file"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    answers = under(tmp_path, found(tmp_path))
    assert list(answers) == ["z", ".also/x", "a/.hidden", "a/deep/er/file", "b/1", "b/2"]
    assert all(answer == name.encode() for name, answer in answers.items())


def test_symbolic_links_inside_are_passed_over_and_outside_refused(tmp_path: Path) -> None:
    root, outside = tmp_path / "in", tmp_path / "out"
    (root / "sub").mkdir(parents=True)
    outside.mkdir()
    (root / "sub/file").write_bytes(b"1")
    (outside / "secret").write_bytes(b"2")
    (root / "again").symlink_to("sub/file")
    (root / "loop").symlink_to(root)
    (root / "sub/up").symlink_to("..")
    (root / "file-out").symlink_to(outside / "secret")
    (root / "folder-out").symlink_to(outside)
    (root / "nothing").symlink_to("not-there")
    (tmp_path / "in-but-not").mkdir()
    (root / "near").symlink_to(tmp_path / "in-but-not")
    assert under(root, found(root)) == {
        "sub/file": b"1",
        "file-out": OUTSIDE,
        "folder-out": OUTSIDE,
        "near": OUTSIDE,
        "nothing": "is a symbolic link to nothing",
    }
    followed = {}
    for source in media.sources([root], follow=True):
        if isinstance(source, SourceItem):
            with source.open() as stream:
                followed[source.name.removeprefix(f"{root}/")] = stream.read()
    assert sorted(followed.values()) == [b"1", b"2", b"2"]
    assert followed["file-out"] == followed["folder-out/secret"] == b"2"


OUTSIDE = "is a symbolic link that leads out of the folder: --follow reads it, as does naming it on the command line"


@pytest.mark.parametrize("follow", [False, True])
def test_links_to_pipes_and_devices_hold_nobody_up(tmp_path: Path, follow: bool) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "in" / "zero").symlink_to("/dev/zero")
    reason = "is neither a file nor a folder" if follow else OUTSIDE
    for walk in (media.sources, media.files):
        assert {getattr(source, "reason", "") for source in walk([tmp_path / "in"], follow=follow)} == {reason}
    assert found(tmp_path / "in" / "link") == {str(tmp_path / "in" / "link"): "is neither a file nor a folder"}


def test_a_link_that_is_named_itself_is_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    (tmp_path / "link").symlink_to("file")
    assert found(tmp_path / "link") == {str(tmp_path / "link"): b"1"}


def test_pipes_and_sockets_do_not_hold_it_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert found(tmp_path) == {str(tmp_path / "pipe"): "is neither a file nor a folder"}
    assert found(tmp_path / "pipe") == {str(tmp_path / "pipe"): "is neither a file nor a folder"}


def test_a_file_that_is_gone_or_became_a_pipe_is_an_error_of_reading(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"1")
    (item,) = media.sources([tmp_path])
    assert isinstance(item, SourceItem)
    path.unlink()
    with pytest.raises(media.READ_ERRORS) as caught:
        item.open()
    assert media.reason_of(caught.value) == "cannot be read: No such file or directory"
    os.mkfifo(path)
    with pytest.raises(media.READ_ERRORS):
        item.open()
    path.unlink()
    path.symlink_to("/etc/hostname")
    with pytest.raises(media.READ_ERRORS):
        item.open()


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    assert found(tmp_path / "x") == {str(tmp_path / "x"): "cannot be read: No such file or directory"}


def test_a_name_of_odd_bytes_can_be_reported(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/\xff\xfe.dcm", "wb") as file:
        file.write(b"1")
    assert found(tmp_path) == {f"{tmp_path}/\\xff\\xfe.dcm": b"1"}


# Zip archives ------------------------------------------------------------------------------------


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_members_of_a_zip_archive_are_read_whatever_they_are_called(tmp_path: Path) -> None:
    names = ["a/b", "../../up", "/etc/absolute", "C:\\x", "folder/"]
    path = zipped(tmp_path / "a.bin", {name: name.encode() for name in names})
    before = sorted(tmp_path.rglob("*"))
    answers = found(path)
    assert set(answers.values()) == {b"a/b", b"../../up", b"/etc/absolute", b"C:\\x"}
    assert f"{path}!../../up" in answers
    assert sorted(tmp_path.rglob("*")) == before


def test_a_zip_archive_in_a_folder_is_opened_and_one_in_another_is_not(tmp_path: Path) -> None:
    inner = zipped(tmp_path / "inner.zip", {"x": b"1"})
    zipped(tmp_path / "outer.zip", {"in.ZIP": inner.read_bytes(), "y": b"2"})
    assert under(tmp_path, found(tmp_path)) == {
        "inner.zip!x": b"1",
        "outer.zip!in.ZIP!x": b"1",
        "outer.zip!y": b"2",
    }


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_archive_in_another_is_opened_whatever_it_is_called_and_no_deeper(tmp_path: Path, method: int) -> None:
    deepest = zipped(tmp_path / "3", {"z": b"3"}).read_bytes()
    inner = zipped(tmp_path / "2", {"x": b"1" * 1000, "deep": deepest, "y/z": b"22"}).read_bytes()
    with zipfile.ZipFile(tmp_path / "1.zip", "w", method) as archive:
        archive.writestr("first", b"0")
        archive.writestr("IM0001", inner)
    answers = found(tmp_path / "1.zip")
    assert {name.partition("!")[2]: answer for name, answer in answers.items()} == {
        "first": b"0",
        "IM0001!x": b"1" * 1000,
        "IM0001!deep": "is a zip archive, nested too deep: unpack it first",
        "IM0001!y/z": b"22",
    }
    assert [source.name for source in media.sources([tmp_path / "1.zip"], shallow=True)] == [
        f"{tmp_path}/1.zip!first",
        f"{tmp_path}/1.zip!IM0001",
    ]


def test_a_large_deflated_archive_within_one_is_not_held_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zip_archives, "ZIP_NESTED_BYTES_MAX", 50)
    inner = zipped(tmp_path / "2", {"x": b"1"}).read_bytes()
    path = zipped(tmp_path / "1.zip", {"in": inner})
    reason = "is a compressed zip archive within the archive, and too large: unpack it first"
    assert found(path) == {f"{path}!in": reason}


@pytest.mark.parametrize("front", [b"MZ" + bytes(3000), b"#!/bin/sh\n"])
@pytest.mark.parametrize("is_named", [True, False])
def test_a_zip_archive_behind_something_else_is_read(tmp_path: Path, front: bytes, is_named: bool) -> None:
    content = zipped(tmp_path / "plain", {"x": b"1", "y": b"2"}).read_bytes()
    path = tmp_path / "in" / ("setup.exe" if is_named else "self.zip")
    path.parent.mkdir()
    path.write_bytes(front + content)
    assert found(path if is_named else path.parent) == {f"{path}!x": b"1", f"{path}!y": b"2"}


def test_a_zip_archive_that_is_damaged_in_front_gives_the_rest(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"x": b"1" * 500, "y": b"2" * 500})
    content = bytearray(path.read_bytes())
    content[:20] = bytes(20)
    path.write_bytes(content)
    first, second = media.sources([path])
    assert isinstance(first, SourceItem) and isinstance(second, SourceItem)
    with pytest.raises(media.READ_ERRORS), first.open() as stream:
        stream.read()
    with second.open() as stream:
        assert stream.read() == b"2" * 500


# Tar archives ------------------------------------------------------------------------------------


def tarred(path: Path, members: dict[str, bytes], mode: str = "w", form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, mode, format=form) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("b", "w:bz2"), ("c.txz", "w:xz")])
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_members_of_a_tar_archive_are_read(tmp_path: Path, name: str, mode: str, form: int) -> None:
    members = {"x": b"1", "deep/er/" + "long" * 24: b"2" * 512, "empty": b"", "z": bytes(range(256)) * 40}
    path = tarred(tmp_path / name, members, mode, form)
    assert found(path) == {f"{path}!{member}": content for member, content in members.items()}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_large_member_of_a_tar_archive_is_read_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr(tar_archives, "IN_MEMORY_BYTES", 1000)
    members = {"x": b"1" * 999, "large": bytes(range(256)) * 16, "unread": b"3" * 5000, "last": b"4"}
    path = tarred(tmp_path / "a.tgz", members, mode)
    answers = {}
    for source in media.sources([path]):
        assert isinstance(source, SourceItem)
        assert source.is_passing == (mode == "w:gz" and source.size_bytes > 1000)
        if not source.name.endswith("unread"):
            with source.open() as stream:
                answers[source.name.partition("!")[2]] = b"".join(iter(lambda stream=stream: stream.read(700), b""))
    assert answers == {name: content for name, content in members.items() if name != "unread"}


def test_what_is_no_file_in_a_tar_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo(f"kind{kind.decode()}")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        archive.addfile(tarfile.TarInfo("../../../x"), io.BytesIO())
    answers = {name.partition("!")[2]: answer for name, answer in found(path).items()}
    assert answers.pop("../../../x") == b""  # a name, and no path
    assert set(answers.values()) == {"is no file but a link, a device or the like"}
    assert len(answers) == 4


def test_a_tar_archive_costs_bounded_memory_whatever_its_headers_claim(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 33
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    (reason,) = found(tmp_path / "a.tar").values()
    assert "an extended header of 8589934592 bytes" in str(reason)


def test_a_stream_that_inflates_without_end_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_archives, "DENSE_BYTES_MAX", 1 << 20)
    path = tarred(tmp_path / "a.tgz", {f"{number}": bytes(1 << 20) for number in range(20)}, "w:gz")
    answers = list(found(path).values())
    assert "it may be a bomb" in str(answers[-1])
    assert len(answers) < 4


def test_a_tar_archive_that_is_cut_gives_a_reason(tmp_path: Path) -> None:
    for mode in ("w", "w:gz", "w:bz2", "w:xz"):
        path = tarred(tmp_path / "a.tar", {"x": random.Random(1).randbytes(100_000)}, mode)
        path.write_bytes(path.read_bytes()[:50_000])
        seen: list[str] = []
        try:
            for source in media.sources([path]):
                if isinstance(source, SourceItem):
                    with source.open() as stream:
                        seen += ["whole"] if len(stream.read()) == source.size_bytes else ["short"]
                else:
                    seen.append(source.reason)
        except media.READ_ERRORS as error:
            seen.append(media.reason_of(error))
        assert "whole" not in seen and seen


def test_a_compressed_file_that_is_no_tar_archive_is_an_item(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"no tar"))
    (tmp_path / "x.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(100))
    assert all(isinstance(source, SourceItem) for source in media.sources([tmp_path / "x.gz", tmp_path / "x.7z"]))
    assert "gzip file that holds no tar archive; unpack it first" in formats.described(gzip.compress(b"no tar"))
    assert formats.described((tmp_path / "x.7z").read_bytes()) == "a 7z archive; unpack it first"


def test_a_dicom_file_with_a_preamble_like_a_zip_archive_is_none(tmp_path: Path) -> None:
    data = bytearray(samples.part10(samples.instance()))
    data[:4] = b"PK\x03\x04"
    (tmp_path / "x.zip").write_bytes(data)
    assert found(tmp_path / "x.zip") == {str(tmp_path / "x.zip"): bytes(data)}


def test_other_methods_and_encrypted_members_are_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"x": b"1" * 100}, zipfile.ZIP_BZIP2)
    assert found(path) == {f"{path}!x": "is compressed by method 12; stored and deflated members are read"}
    data = bytearray(zipped(path, {"x": b"1" * 100}).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert found(path) == {f"{path}!x": "is encrypted"}


def test_a_link_in_a_zip_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert found(path) == {f"{path}!link": "is a symbolic link"}


def test_a_bomb_is_refused_and_black_pixels_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_archives, "ZIP_DENSE_BYTES_MAX", 3 << 20)
    members = {"empty": bytes(2 << 20), "bomb": bytes(2 << 20), "black": bytes(1 << 20), "more": bytes(1000)}
    path = zipped(tmp_path / "a.zip", members | {"usual": random.Random(1).randbytes(4 << 20)})
    answers = {name.partition("!")[2]: answer for name, answer in found(path).items()}
    assert "more than 200-fold" in str(answers["bomb"])
    assert "usual" in answers and "more" in answers
    assert (answers["empty"], answers["black"]) == (members["empty"], members["black"])


def test_many_dense_members_are_a_bomb_also_within_another_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zip_archives, "ZIP_DENSE_BYTES_MAX", 1 << 20)
    inner = zipped(tmp_path / "in", {str(number): bytes(300_000) for number in range(10)}).read_bytes()
    path = zipped(tmp_path / "a.zip", {f"in{number}": inner for number in range(3)})
    answers = found(path)
    assert sum(isinstance(answer, bytes) for answer in answers.values()) == 3
    assert sum("more than 200-fold" in str(answer)[:80] for answer in answers.values()) >= 2


def test_a_member_that_says_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_archives, "ZIP_MEMBER_BYTES_MAX", 99)
    path = zipped(tmp_path / "a.zip", {"x": b"1" * 100, "y": b"2" * 99})
    assert found(path) == {f"{path}!x": "has 100 bytes, the limit is 99", f"{path}!y": b"2" * 99}


def test_members_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"one": b"1" * 50, "two": b"2" * 50, "few": b"3"}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    first = data.index(b"PK\x01\x02")
    second = data.index(b"PK\x01\x02", first + 1)
    data[second + 42 : second + 46] = data[first + 42 : first + 46]  # both at the same local header
    path.write_bytes(data)
    answers = found_or_errors(path)
    assert answers[f"{path}!two"] == "shares its bytes with another member"
    assert answers[f"{path}!one"] == b"1" * 50
    assert answers[f"{path}!few"] == b"3"


def found_or_errors(path: Path) -> dict[str, str | bytes]:
    answers: dict[str, str | bytes] = {}
    for source in media.sources([path]):
        if isinstance(source, Refused):
            answers[source.name] = source.reason
            continue
        try:
            with source.open() as stream:
                answers[source.name] = stream.read()
        except media.READ_ERRORS as error:
            answers[source.name] = media.reason_of(error)
    return answers


def test_a_central_directory_beyond_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_archives, "ZIP_DIRECTORY_BYTES_MAX", 80)
    path = zipped(tmp_path / "a.zip", {"x": b"1", "y": b"2"})
    assert "the limit is 80" in str(found(path)[str(path)])


def test_damaged_archives_give_reasons_and_nothing_else(tmp_path: Path) -> None:
    whole = zipped(tmp_path / "a.zip", {"x": os.urandom(300), "y": b"2" * 3000}).read_bytes()
    path = tmp_path / "b.zip"
    for seed in range(SEED, SEED + 400):
        rng = random.Random(seed)
        data = bytearray(whole)
        for _ in range(rng.randint(1, 5)):
            data[rng.randrange(4, len(data))] = rng.randrange(256)
        path.write_bytes(data[: rng.choice((len(data), rng.randrange(4, len(data))))])
        for answer in found_or_errors(path).values():
            assert answer, f"seed {seed}"


def test_a_member_is_never_longer_than_it_says(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"x": bytes(100_000)})
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    struct.pack_into("<I", data, entry + 24, 10)
    path.write_bytes(data)
    (item,) = media.sources([path])
    assert isinstance(item, SourceItem) and item.size_bytes == 10
    try:
        with item.open() as stream:
            assert len(stream.read()) <= 10
    except media.READ_ERRORS:
        pass


def test_items_can_be_read_when_the_walk_is_over_and_side_by_side(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"x": b"1" * 5000, "y": b"2" * 5000})
    one, two = media.sources([path])
    assert isinstance(one, SourceItem) and isinstance(two, SourceItem)
    with one.open() as first, two.open() as second:
        assert first.read(10) + second.read(10) == b"1" * 10 + b"2" * 10


# DICOMDIR ----------------------------------------------------------------------------------------


def medium(root: Path, *file_ids: tuple[str, ...], write: bool = True) -> Path:
    """A DICOMDIR that refers to these files, and the files."""
    builder = dicomdir.DirectoryBuilder("TEST")
    for number, file_id in enumerate(file_ids):
        builder.add(
            {},
            file_id,
            sop_class_uid=samples.CT,
            sop_instance_uid=f"1.2.{number}",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            study_instance_uid="1.2",
            series_instance_uid="1.2.3",
        )
        if write:
            path = root.joinpath(*file_id)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes("/".join(file_id).encode())
    root.mkdir(exist_ok=True)
    path = root / "DICOMDIR"
    path.write_bytes(b"".join(builder.encode("1.2.3.4")))
    return path


def test_a_dicomdir_gives_the_files_that_it_names(tmp_path: Path) -> None:
    path = medium(tmp_path, ("A", "B", "IM1"), ("A", "IM2"))
    (tmp_path / "A/OTHER").write_bytes(b"not named")
    assert under(tmp_path, found(path)) == {"A/B/IM1": b"A/B/IM1", "A/IM2": b"A/IM2"}


def test_a_file_named_twice_is_given_once(tmp_path: Path) -> None:
    assert len(found(medium(tmp_path, ("A", "IM1"), ("A", "IM1")))) == 1


@pytest.mark.parametrize(
    ("on_medium", "file_id"),
    [
        ("dicom/im000001", ("DICOM", "IM000001")),
        ("DICOM/IM000001.dcm", ("DICOM", "IM000001")),
        ("DICOM/IM000001", ("DICOM", "IM000001.DCM")),
        ("DICOM/IM000001.;1", ("DICOM", "IM000001")),
        ("dicom/im000001.dcm;1", ("DICOM", "IM000001")),
        ("DICOM/IM000001", ("DICOM/IM000001",)),
        ("DICOM/1.2.3.dcm", ("DICOM", "1.2.3")),
    ],
)
def test_names_as_media_really_have_them_are_found(tmp_path: Path, on_medium: str, file_id: tuple[str, ...]) -> None:
    path = medium(tmp_path, file_id, write=False)
    (tmp_path / on_medium).parent.mkdir()
    (tmp_path / on_medium).write_bytes(b"1")
    (tmp_path / on_medium).with_name("1.2.9.dcm").write_bytes(b"another")
    assert list(found(path).values()) == [b"1"]


def test_the_exact_name_goes_before_the_one_that_differs_in_case(tmp_path: Path) -> None:
    path = medium(tmp_path, ("a", "im1"), ("A", "IM1"))
    assert sorted(found(path).values()) == [b"A/IM1", b"a/im1"]


def test_two_files_that_may_be_meant_are_none(tmp_path: Path) -> None:
    path = medium(tmp_path, ("IM1",), write=False)
    (tmp_path / "IM1.dcm").write_bytes(b"1")
    (tmp_path / "IM1.ima").write_bytes(b"2")
    assert list(found(path).values()) == ["the DICOMDIR refers to it, but it is not on the medium"]


@pytest.mark.parametrize(
    "file_id", [("..", "secret"), ("A", "..", "..", "secret"), ("", "secret"), ("/", "secret"), (".", "x"), ("a\0b",)]
)
def test_a_file_id_never_leads_out_of_the_medium(tmp_path: Path, file_id: tuple[str, ...]) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "medium/A").mkdir(parents=True)
    path = medium(tmp_path / "medium", file_id, write=False)
    assert list(found(path).values()) == ["the DICOMDIR refers to it by a file ID that is no path on the medium"]


def test_a_link_on_a_medium_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/IM1").write_bytes(b"secret")
    path = medium(tmp_path / "medium", ("A", "IM1"), ("IM2",), write=False)
    (tmp_path / "medium/A").symlink_to(tmp_path / "out")
    (tmp_path / "medium/IM2").symlink_to(tmp_path / "out/IM1")
    assert list(found(path).values()) == ["the DICOMDIR refers to it through a symbolic link"] * 2


def test_a_dicomdir_in_a_folder_adds_only_what_is_missing(tmp_path: Path) -> None:
    medium(tmp_path, ("A", "IM1"), ("A", "IM2"))
    (tmp_path / "A/IM2").unlink()
    (tmp_path / "A/EXTRA").write_bytes(b"3")
    assert under(tmp_path, found(tmp_path)) == {
        "DICOMDIR": (tmp_path / "DICOMDIR").read_bytes(),
        "DICOMDIR: A/IM2": "the DICOMDIR refers to it, but it is not on the medium",
        "A/EXTRA": b"3",
        "A/IM1": b"A/IM1",
    }


def test_a_file_called_dicomdir_that_is_none_is_an_item(tmp_path: Path) -> None:
    (tmp_path / "DICOMDIR").write_bytes(b"hello")
    assert found(tmp_path) == {str(tmp_path / "DICOMDIR"): b"hello"}


def test_a_dicomdir_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = medium(tmp_path, ("A", "IM1"))
    monkeypatch.setattr(media, "DICOMDIR_BYTES_MAX", 100)
    assert "the limit is 100" in str(found(path)[str(path)])


def test_a_dicomdir_that_is_cut_has_a_reason(tmp_path: Path) -> None:
    path = medium(tmp_path, ("A", "IM1"), ("A", "IM2"))
    path.write_bytes(path.read_bytes()[:-30])
    assert str(found(path)[str(path)]).startswith("the DICOMDIR cannot be read: ")


def test_records_out_of_use_are_passed_over() -> None:
    builder = dicomdir.DirectoryBuilder()
    for name in ("ONE", "TWO"):
        builder.add({}, (name,), sop_class_uid="1", sop_instance_uid=name, transfer_syntax_uid="1",
                    study_instance_uid="1", series_instance_uid="1")  # fmt: skip
    data = bytearray(b"".join(builder.encode("1.2.3")))
    in_use = struct.pack("<HH2sHH", 0x0004, 0x1410, b"US", 2, 0xFFFF)
    at = data.rindex(in_use)
    data[at + 8 : at + 10] = b"\0\0"
    assert list(dicomdir.file_ids(data)) == [("ONE",)]


def test_mutated_directories_give_paths_within_the_medium_or_reasons(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    path = medium(tmp_path / "m", ("A", "IM1"), ("A", "IM2"), ("B", "IM3"))
    whole = path.read_bytes()
    for seed in range(SEED, SEED + 400):
        rng = random.Random(seed)
        data = bytearray(whole)
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(300, len(data))
            data[at] = rng.choice((rng.randrange(256), ord("."), ord("/"), ord("\\")))
        path.write_bytes(data)
        for source in media.sources([path]):
            if isinstance(source, SourceItem) and source.name != str(path):
                assert Path(source.name).resolve().is_relative_to(tmp_path / "m"), f"seed {seed}"


def test_a_directory_in_another_encoding_is_refused() -> None:
    data = write_file_meta(uids.MediaStorageDirectoryStorage, "1.2", "1.2.840.10008.1.2.1.99") + b"\0\0"
    with pytest.raises(media.DataSetError, match="not read"):
        list(dicomdir.file_ids(data))
    plain = write_file_meta(uids.MediaStorageDirectoryStorage, "1.2", "1.2.840.10008.1.2.1")
    with pytest.raises(media.DataSetError, match="Directory Record Sequence .* is missing"):
        list(dicomdir.file_ids(plain))


@needs_corpus()
def test_the_file_set_of_the_corpus_is_found_whole() -> None:
    root = corpus_root()
    assert root is not None
    folder = root / "series/fileset-two-patients"
    answers = found(folder / "DICOMDIR")
    assert sorted(answers) == sorted(str(path) for path in folder.rglob("*.dcm"))
    assert all(isinstance(answer, bytes) for answer in answers.values())
    assert len(found(folder)) == len(answers) + 1


def test_the_tags_of_a_record_ascend() -> None:
    builder = dicomdir.DirectoryBuilder()
    builder.add({}, ("X",), sop_class_uid=samples.CT, sop_instance_uid="1", transfer_syntax_uid="1",
                study_instance_uid="1", series_instance_uid="1")  # fmt: skip
    import pydicom

    read = pydicom.dcmread(io.BytesIO(b"".join(builder.encode("1.2.3"))))
    for record in read[tags.DirectoryRecordSequence]:
        assert list(record.keys()) == sorted(record.keys())
