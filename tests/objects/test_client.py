"""ObjectClient against the tests' own S3: what it writes and reads, and what it makes of a store's faults."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import ConfigError, ObjectExists, ObjectMissing, ObjectWrong, StoreRefused, StoreUnreachable
from engine.objects import credentials
from engine.objects.client import ObjectClient
from engine.objects.settings import ObjectStore
from tests.objects.s3 import S3, Fault

pytest.importorskip("obstore", reason="obstore is not installed")


@pytest.fixture
def client(s3: S3, tmp_path: Path) -> ObjectClient:
    return ObjectClient(s3.settings(tmp_path))


def test_objects_are_written_listed_read_and_removed(client: ObjectClient) -> None:
    client.put("a/1", b"one")
    client.put("a/2", b"twotwo")
    client.put("b/1", b"other")
    assert [(head.key, head.size) for head in client.heads("a")] == [("a/1", 3), ("a/2", 6)]
    assert [head.key for head in client.heads("a", after="a/1")] == ["a/2"]
    assert client.get("a/2") == b"twotwo"
    assert client.get_range("a/2", 1, 4) == b"wot"
    assert client.get_ranges("a/2", [(0, 2), (4, 6)]) == [b"tw", b"wo"]
    assert client.head("a/1").size == 3
    client.delete(["a/1", "a/9"])
    with pytest.raises(ObjectMissing):
        client.get("a/1")


def test_of_eight_writers_of_one_key_one_wins(s3: S3, client: ObjectClient) -> None:
    winners: list[int] = []

    def write(number: int) -> None:
        try:
            client.create("w/1", b"%d" % number)
        except ObjectExists:
            return
        winners.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1
    assert client.get("w/1") == b"%d" % winners[0]


def test_a_large_object_is_written_in_parts(s3: S3, client: ObjectClient) -> None:
    pieces = [bytes([number]) * (1 << 20) for number in range(18)]
    client.put_pieces("s/large", iter(pieces), 18 << 20)
    assert s3.objects["site/s/large"].data == b"".join(pieces)
    assert not s3.uploads
    assert sum("partNumber" in target for _, target in s3.requests) == 3


def test_an_upload_whose_source_fails_is_not_ended(s3: S3, client: ObjectClient) -> None:
    def pieces() -> Iterator[bytes]:
        yield bytes(9 << 20)
        raise KeyError("the source")

    with pytest.raises(KeyError, match="the source"):
        client.put_pieces("s/broken", pieces(), 10 << 20)
    assert not s3.keys("s/broken")


def test_an_answer_that_is_longer_than_its_range_is_not_read_to_its_end(s3: S3, client: ObjectClient) -> None:
    client.put("a", bytes(range(100)))
    s3.fault(Fault.TOO_LONG, "GET", "site/a")
    with pytest.raises(StoreUnreachable, match="longer than the 10 bytes"):
        client.get_range("a", 5, 15)
    assert client.get_range("a", 5, 15) == bytes(range(5, 15))


def test_an_error_of_the_store_is_no_damage(s3: S3, client: ObjectClient) -> None:
    client.put("a", b"abcdef")
    for fault in (Fault.UNAVAILABLE, Fault.TRUNCATED, Fault.CLOSED):
        s3.fault(fault, "GET", "site/a")
        with pytest.raises(StoreUnreachable):
            client.get("a")
    assert client.get("a") == b"abcdef"


def test_a_request_that_failed_once_is_tried_again(s3: S3, client: ObjectClient, tmp_path: Path) -> None:
    client.put("a", b"abcdef")
    patient = ObjectClient(s3.settings(tmp_path, retries=2))
    s3.fault(Fault.UNAVAILABLE, "GET", "site/a", times=2)
    assert patient.get("a") == b"abcdef"


def test_a_creation_whose_answer_is_lost_may_have_taken_place(s3: S3, client: ObjectClient) -> None:
    s3.fault(Fault.ANSWER_LOST, "PUT", "w/7")
    with pytest.raises((StoreUnreachable, ObjectExists)):
        client.create("w/7", b"mine")
    assert client.get("w/7") == b"mine"


def test_an_object_longer_than_allowed_or_shorter_than_asked_is_wrong(client: ObjectClient) -> None:
    client.put("a", bytes(100))
    with pytest.raises(ObjectWrong):
        client.get("a", 99)
    with pytest.raises(ObjectWrong):
        client.get_range("a", 90, 101)


def test_wrong_credentials_and_no_bucket_need_a_person(s3: S3, tmp_path: Path) -> None:
    settings = s3.settings(tmp_path)
    (tmp_path / "credentials").write_text("[default]\naccess_key_id = AKTEST\nsecret_access_key = wrong\n")
    with pytest.raises(StoreRefused):
        ObjectClient(settings).get("a")
    other = ObjectStore(
        url="s3://nothere/x", endpoint=s3.endpoint, credentials_file=s3.settings(tmp_path).credentials_file, retries=0
    )
    with pytest.raises(StoreRefused, match="no such bucket"):
        ObjectClient(other).get("a")


def test_a_store_that_nobody_listens_for_is_unreachable(tmp_path: Path) -> None:
    with S3() as gone:
        settings = gone.settings(tmp_path)
    with pytest.raises(StoreUnreachable):
        ObjectClient(settings).head("a")


def test_a_folder_is_a_store_too(tmp_path: Path) -> None:
    client = ObjectClient(ObjectStore(url=f"file://{tmp_path}/bucket"))
    client.create("w/1", b"one")
    with pytest.raises(ObjectExists):
        client.create("w/1", b"two")
    client.put_pieces("s/1", [b"ab", b"cd"], 4)
    assert client.get_range("s/1", 1, 3) == b"bc"
    assert [head.key for head in client.heads("w")] == ["w/1"]
    with pytest.raises(ObjectWrong):
        client.get_range("s/1", 1, 30)


def test_credentials_that_others_can_read_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text("[default]\naws_access_key_id = a\n")
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        credentials.read(file)
    file.chmod(0o600)
    assert credentials.read(file) == {"access_key_id": "a"}


@pytest.mark.parametrize("text", ["", "nothing", "[other]\na = b\n", "[default]\ncolour = purple\n"])
def test_a_file_without_credentials_is_named_without_its_content(tmp_path: Path, text: str) -> None:
    file = tmp_path / "credentials"
    file.touch(0o600)
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        credentials.read(file)
    assert "purple" not in str(caught.value)
