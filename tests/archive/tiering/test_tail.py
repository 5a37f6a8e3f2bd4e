"""Tail: new records are in the bucket at once, in one chain that has one writer."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from engine.archive.layout import existing
from engine.archive.tiering.tail import KEPT_GROUPS, assembled
from engine.errors import Fenced, ObjectWrong, StoreUnreachable
from engine.objects.bucket import DATA, SEAL, Group, Place, SegmentName
from engine.storage.segment_bytes import SegmentFile
from engine.storage.segment_store import LocalSegments
from tests.archive.filled import opened
from tests.archive.tiering.stored import bucket_of, fill, publish_all, store_studies, tail_of
from tests.objects.s3 import S3, Fault

pytest.importorskip("obstore", reason="obstore is not installed")


def groups_of(data: Path, s3: S3, folder: Path) -> list[Group]:
    bucket = bucket_of(data, s3.settings(folder))
    return [bucket.group(place) for place in bucket.places(0)]


def in_the_bucket(data: Path, s3: S3, folder: Path) -> dict[int, bytes]:
    """What the groups have of each segment."""
    found = {}
    for name, groups in assembled(groups_of(data, s3, folder), ()).items():
        content = b""
        for group in groups:
            assert group.start <= len(content)
            content = content[: group.start] + group.data
        found[name.segment_id] = content
    return found


def is_whole(data: Path, s3: S3, folder: Path) -> bool:
    """Whether the bucket has all records that the segments have."""
    found = in_the_bucket(data, s3, folder)
    segments = {int(path.stem, 16): path.read_bytes() for path in (data / "segments").glob("*.seg")}
    return all(
        found.get(number, b"") == content[: len(found.get(number, b""))]
        and not content[len(found.get(number, b"")) :].strip(b"\0")
        for number, content in segments.items()
    )


def test_what_was_stored_is_in_the_bucket_after_a_step(s3: S3, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with opened(data) as archive:
        store_studies(archive, 1, segment_bytes=1 << 20)
        tail = tail_of(data, s3.settings(tmp_path))
        tail.open()
        assert tail.step(()) > 0
        assert is_whole(data, s3, tmp_path)
        assert tail.step(()) == 0
        store_studies(archive, 2, segment_bytes=1 << 20)
        assert not is_whole(data, s3, tmp_path)
        assert tail.step(()) > 0
        assert is_whole(data, s3, tmp_path)
    digests = [group.before for group in groups_of(data, s3, tmp_path)]
    assert digests[0] == bytes(32) and len(set(digests)) == len(digests)


def test_a_large_step_is_split_into_groups(s3: S3, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with opened(data) as archive:
        store_studies(archive, 1, segment_bytes=1 << 20)
        tail = tail_of(data, s3.settings(tmp_path), group_bytes=30_000)
        tail.open()
        tail.step(())
        assert is_whole(data, s3, tmp_path)
    assert {len(group.data) for group in groups_of(data, s3, tmp_path)[:-1]} == {30_000}


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.CLOSED, Fault.ANSWER_LOST])
def test_a_group_whose_answer_was_lost_is_neither_lost_nor_taken_for_anothers(
    s3: S3, tmp_path: Path, fault: Fault
) -> None:
    data = tmp_path / "data"
    with opened(data) as archive:
        store_studies(archive, 1, segment_bytes=1 << 20)
        tail = tail_of(data, s3.settings(tmp_path))
        tail.open()
        s3.fault(fault, "PUT", "/w/")
        with pytest.raises(StoreUnreachable):
            tail.step(())
        store_studies(archive, 2, segment_bytes=1 << 20)
        tail.step(())
        assert is_whole(data, s3, tmp_path)
    numbers = [group.place.number for group in groups_of(data, s3, tmp_path)]
    assert numbers == list(range(len(numbers)))


def test_the_lag_grows_while_the_store_is_away(s3: S3, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with opened(data) as archive:
        store_studies(archive, 1, segment_bytes=1 << 20)
        tail = tail_of(data, s3.settings(tmp_path))
        tail.open()
        lags = []
        for seed in (2, 3):
            s3.fault(Fault.UNAVAILABLE, "PUT", "/w/")
            with pytest.raises(StoreUnreachable):
                tail.step(())
            lags.append(tail.lag_bytes)
            store_studies(archive, seed, segment_bytes=1 << 20)
        assert 0 < lags[0] < lags[1]
        tail.step(())
        assert tail.lag_bytes == 0 and is_whole(data, s3, tmp_path)


def test_a_start_goes_on_with_its_chain_also_after_a_stale_list(s3: S3, tmp_path: Path) -> None:
    data = tmp_path / "data"
    settings = s3.settings(tmp_path)
    with opened(data) as archive:
        for study, is_stale in ((1, False), (2, False), (3, True)):
            store_studies(archive, study, segment_bytes=1 << 20)
            tail = tail_of(data, settings)
            if is_stale:
                s3.fault(Fault.STALE_LIST, "GET", "list-type")
            tail.open()
            assert tail.step(()) < 200_000  # not all of it again
            assert tail.step(()) == 0
        assert is_whole(data, s3, tmp_path)
    places = [group.place for group in groups_of(data, s3, tmp_path)]
    assert [place.epoch for place in places] == [1] * len(places)
    assert [place.number for place in places] == list(range(len(places)))


def test_the_groups_of_published_segments_go_but_for_the_chains_end(s3: S3, tmp_path: Path) -> None:
    data = tmp_path / "data"
    settings = s3.settings(tmp_path)
    with opened(data) as archive:
        store_studies(archive, 1, count=8, segment_bytes=1 << 20)
        tail = tail_of(data, settings, group_bytes=1 << 11)
        tail.open()
        tail.step(())
    count = tail.next.number
    assert count > KEPT_GROUPS
    publish_all(data, settings)
    names = bucket_of(data, settings).hint_names()
    tail.step(names)
    assert len(groups_of(data, s3, tmp_path)) == KEPT_GROUPS
    again = tail_of(data, settings)
    again.open()
    assert again.next.number == count
    assert again.step(names) == 0


def test_a_step_opens_only_segments_that_may_have_grown(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    fill(data, 1, 2)
    opened_ids: list[int] = []
    real = LocalSegments.open

    def noting(self: LocalSegments, segment_id: int, offset: int = 0, *, salt: int | None = None) -> SegmentFile:
        opened_ids.append(segment_id)
        return real(self, segment_id, offset, salt=salt)

    with opened(data) as archive:
        store_studies(archive, 3, count=1, segment_bytes=1 << 20)
        tail = tail_of(data, s3.settings(tmp_path))
        tail.open()
        tail.step(())
        monkeypatch.setattr(LocalSegments, "open", noting)
        tail.step(())
    assert len(opened_ids) == 1
    assert len(list((data / "segments").glob("*.seg"))) > 3


def test_a_machine_that_was_taken_over_is_fenced(s3: S3, tmp_path: Path) -> None:
    data = tmp_path / "data"
    settings = s3.settings(tmp_path)
    with opened(data) as archive:
        store_studies(archive, 1, segment_bytes=1 << 20)
        old = tail_of(data, settings)
        old.open()
        old.step(())
        (data / "chain.json").unlink()  # as on another machine
        new = tail_of(data, settings)
        new.open()
        assert new.next.epoch == 2
        store_studies(archive, 2, segment_bytes=1 << 20)
        with pytest.raises(Fenced):
            old.step(())
        new.step(())
        assert is_whole(data, s3, tmp_path)
    kinds = [(group.place.epoch, group.kind) for group in groups_of(data, s3, tmp_path)]
    assert kinds.count((1, SEAL)) == 1 and (2, SEAL) not in kinds


def test_what_follows_a_seal_never_counts() -> None:
    def group(epoch: int, number: int, kind: int = DATA) -> Group:
        return Group(Place(0, epoch, number), bytes(16), bytes(16), SegmentName(1, 2), number * 2, b"ab", kind=kind)

    groups = [group(1, 0), group(1, 1, SEAL), group(1, 2), group(2, 0), group(2, 1)]
    found = assembled(groups, ())
    assert sorted(each.place for each in found[SegmentName(1, 2)]) == [(0, 1, 0), (0, 2, 0), (0, 2, 1)]
    assert assembled(groups, [SegmentName(1, 2)]) == {}


def test_a_group_of_another_place_or_with_another_byte_is_wrong(tmp_path: Path) -> None:
    place = Place(0, 1, 7)
    content = Group(place, bytes(16), b"t" * 16, SegmentName(1, 2), 4096, b"some bytes").encode()
    assert Group.decode(place, bytes(16), content).end == 4106
    for at in range(len(content)):
        with pytest.raises(ObjectWrong):
            Group.decode(place, bytes(16), content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(ObjectWrong):
        Group.decode(Place(0, 1, 8), bytes(16), content)
    with pytest.raises(ObjectWrong):
        Group.decode(place, b"x" * 16, content)


def test_a_note_that_cannot_be_read_begins_a_new_chain(s3: S3, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with opened(data) as archive:
        store_studies(archive, 1)
        first = tail_of(data, s3.settings(tmp_path))
        first.open()
        first.step(())
        assert orjson.loads((data / "chain.json").read_bytes())["lineage"] == existing(data).lineage
        (data / "chain.json").write_bytes(b"{")
        second = tail_of(data, s3.settings(tmp_path))
        second.open()
        assert second.next == Place(0, 2, 0)
