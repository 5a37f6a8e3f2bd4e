"""The format of the bucket in a store that answers anything."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import cast

import orjson
import pytest

from engine.errors import ObjectMissing, ObjectWrong
from engine.objects import bucket
from engine.objects.bucket import Bucket, Group, Place, SegmentName
from engine.objects.client import Head, Objects

ARCHIVE_ID = bytes(range(16))
NOW = datetime(2026, 11, 30, tzinfo=UTC)


class Store:
    """Objects in memory; with `says_yes` every key is there."""

    def __init__(self, *, says_yes: bool = False) -> None:
        self.says_yes = says_yes
        self.objects: dict[str, bytes] = {}

    def head(self, key: str) -> Head:
        if not self.says_yes and key not in self.objects:
            raise ObjectMissing(key)
        return Head(key, 0, NOW)

    def heads(self, prefix: str, after: str = "") -> Iterator[Head]:
        return iter([Head(key, len(data), NOW) for key, data in sorted(self.objects.items()) if key.startswith(prefix)])

    def get(self, key: str, length_max: int = 0) -> bytes:
        return self.objects[key]

    def put(self, key: str, data: bytes) -> None:
        self.objects[key] = data


def of(store: Store) -> Bucket:
    return Bucket(cast("Objects", store), ARCHIVE_ID)


def test_groups_that_a_list_lacks_are_found_until_the_store_says_yes_to_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bucket, "UNLISTED_MAX", 5)
    store = Store()
    places = [Place(1, 1, number) for number in range(4)]
    for place in places:
        store.put(of(store).group_key(place), b"")
    assert of(store).places(1) == places
    store.says_yes = True
    with pytest.raises(ObjectWrong, match="every object"):
        of(store).places(1)


def test_a_group_with_a_wrong_byte_is_refused_whichever_it_is() -> None:
    place = Place(1, 2, 3)
    whole = Group(place, ARCHIVE_ID, b"t" * 16, SegmentName(4, 5), 4096, b"data").encode()
    assert Group.decode(place, ARCHIVE_ID, whole).data == b"data"
    for at in range(len(whole)):
        odd = bytearray(whole)
        odd[at] ^= 1
        for content in (bytes(odd), whole[:at]):
            with pytest.raises(ObjectWrong):
                Group.decode(place, ARCHIVE_ID, content)
    for other, archive_id in ((Place(1, 2, 4), ARCHIVE_ID), (place, bytes(16))):
        with pytest.raises(ObjectWrong):
            Group.decode(other, archive_id, whole)


@pytest.mark.parametrize(
    "segments", [None, [1], [["x", "y", 1, 1]], [["1", "2", "many", 1]], [["1", "2", 1]], [[1, 2, 3, 4]], {"a": 1}]
)
def test_a_manifest_that_says_nonsense_is_refused(segments: object) -> None:
    store = Store()
    content = {"format": 1, "archive_id": ARCHIVE_ID.hex(), "segments": segments}
    data = orjson.dumps({"content": content, "blake2b": bucket._hash(orjson.dumps(content))})
    store.put(f"{ARCHIVE_ID.hex()}/m/20261130T000000.000000Z.json", data)
    with pytest.raises(ObjectWrong):
        of(store).read_manifest()
