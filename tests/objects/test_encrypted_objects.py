"""EncryptedObjects: what is read is what was written, whatever the range; what was changed is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import ObjectExists, ObjectWrong
from engine.objects.client import ObjectClient
from engine.objects.encrypted_objects import CHUNK_BYTES, EncryptedObjects
from engine.objects.settings import ObjectStore

pytest.importorskip("obstore", reason="obstore is not installed")

KEY = bytes(range(32))


@pytest.fixture
def inner(tmp_path: Path) -> ObjectClient:
    return ObjectClient(ObjectStore(url=f"file://{tmp_path}/bucket"))


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 17])
def test_what_is_read_is_what_was_written(inner: ObjectClient, size: int) -> None:
    data = bytes(number * 7 % 251 for number in range(size))
    objects = EncryptedObjects(inner, KEY)
    objects.put("a/1", data)
    assert objects.get("a/1", size) == data
    assert objects.head("a/1").size == size
    assert [head.size for head in objects.heads("a")] == [size]
    for start, end in [(0, size), (size // 2, size), (0, min(size, 1)), (max(size - 1, 0), size)]:
        assert objects.get_range("a/1", start, end) == data[start:end]
    stored = inner.get("a/1", 1 << 30)
    assert size < 100 or data[:64] not in stored


def test_pieces_of_any_length_become_one_object(inner: ObjectClient) -> None:
    objects = EncryptedObjects(inner, KEY)
    pieces = [b"x" * 100, b"", b"y" * (2 * CHUNK_BYTES), b"z"]
    objects.put_pieces("a", pieces, sum(map(len, pieces)))
    assert objects.get("a", 1 << 20) == b"".join(pieces)
    with pytest.raises(ObjectWrong):
        objects.put_pieces("b", pieces, 7)


def test_a_second_creation_is_refused(inner: ObjectClient) -> None:
    objects = EncryptedObjects(inner, KEY)
    objects.create("a", b"one")
    with pytest.raises(ObjectExists):
        objects.create("a", b"two")


def test_every_change_of_an_object_is_found(inner: ObjectClient) -> None:
    data = bytes(2 * CHUNK_BYTES + 5)
    EncryptedObjects(inner, KEY).put("a", data)
    whole = inner.get("a", 1 << 20)
    changed = {
        "a flipped bit": whole[:500] + bytes([whole[500] ^ 1]) + whole[501:],
        "another size": whole[:24] + (CHUNK_BYTES).to_bytes(8, "little") + whole[32 : 32 + CHUNK_BYTES + 16],
        "a chunk less": whole[: 32 + CHUNK_BYTES + 16],
        "chunks exchanged": whole[:32]
        + whole[32 + CHUNK_BYTES + 16 : 32 + 2 * (CHUNK_BYTES + 16)]
        + whole[32 : 32 + CHUNK_BYTES + 16]
        + whole[32 + 2 * (CHUNK_BYTES + 16) :],
        "not encrypted": data,
    }
    for what, content in changed.items():
        inner.put("a", content)
        with pytest.raises(ObjectWrong):
            EncryptedObjects(inner, KEY).get("a", 1 << 20)
            pytest.fail(what)


def test_an_object_does_not_pass_for_another_one_or_with_another_key(inner: ObjectClient) -> None:
    EncryptedObjects(inner, KEY).put("a", b"secret")
    inner.put("b", inner.get("a"))
    with pytest.raises(ObjectWrong):
        EncryptedObjects(inner, KEY).get("b")
    with pytest.raises(ObjectWrong):
        EncryptedObjects(inner, bytes(32)).get("a")
