"""A folder without archive.json: new archives only where nothing else is, and never a second id for what is stored."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from engine.archive import layout as layouts
from engine.archive.archive import Archive
from engine.errors import StorageError
from engine.storage.files import Files
from tests.archive.filled import opened, payload_of, store
from tests.system.server import running


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("precious")
    (tmp_path / "b.txt").write_text("precious")
    with pytest.raises(StorageError, match=r"holds other files \(b.txt, letters\) and no archive.json"):
        Archive.open(tmp_path, role="keeper", create=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.txt", "letters"]


@pytest.mark.parametrize("before", ["missing", "empty", "a volume", "half made"])
def test_a_new_archive_is_made_where_nothing_is_in_the_way(before: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    if before != "missing":
        data.mkdir()
    if before == "a volume":
        (data / "lost+found").mkdir(mode=0)
        (data / "filmroom.toml").write_text("")
    if before == "half made":
        for name in ("segments", "index"):
            (data / name).mkdir()
        (data / "archive.json.123").write_text("{")
    with Archive.open(data, role="keeper", create=True) as archive:
        assert archive.parts.layout.is_new
    with Archive.open(data, role="keeper", create=True) as archive:
        assert not archive.parts.layout.is_new


def a_lost_description(data: Path, segments: int = 1) -> str:
    """A filled archive whose archive.json is gone; its id."""
    for number in range(1, segments + 1):
        with opened(data) as archive:
            store(archive, payload_of(number))
    description = data / "archive.json"
    archive_id: str = orjson.loads(description.read_bytes())["archive_id"]
    description.unlink()
    return archive_id


def test_an_archive_that_has_lost_its_description_gets_its_own_id_back(tmp_path: Path) -> None:
    archive_id = a_lost_description(tmp_path / "d")
    with pytest.raises(StorageError, match=f"archive.json is missing beside the segments of archive {archive_id}"):
        layouts.existing(tmp_path / "d")
    with running(tmp_path / "d") as server:
        assert server.events("archive.json was missing: written anew from the segments")
        assert "(1 instances)" in server.ready_line
    assert layouts.existing(tmp_path / "d").archive_id.hex() == archive_id


def test_a_replica_without_its_description_does_not_become_an_archive(tmp_path: Path) -> None:
    a_lost_description(tmp_path / "d")
    (tmp_path / "d" / "replica.json").write_text("{}")
    with pytest.raises(StorageError, match="replica without its archive.json"):
        layouts.open_layout(tmp_path / "d", Files(), create=True)


def test_segments_of_two_archives_are_nobody_s(tmp_path: Path) -> None:
    a_lost_description(tmp_path / "d")
    a_lost_description(tmp_path / "e", segments=2)
    newest = max((tmp_path / "e" / "segments").glob("*.seg"))
    (tmp_path / "d" / "segments" / newest.name).write_bytes(newest.read_bytes())
    with pytest.raises(StorageError, match=r"segments are of 2 archives"):
        layouts.open_layout(tmp_path / "d", Files(), create=True)


def test_the_ready_line_says_whether_the_archive_is_new(tmp_path: Path) -> None:
    with running(tmp_path / "d") as server:
        assert "(a new, empty archive)" in server.ready_line
    with running(tmp_path / "d") as server:
        assert "(0 instances)" in server.ready_line
