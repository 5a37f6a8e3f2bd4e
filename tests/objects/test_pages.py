"""PageCache: within its bound, right after damage and wrong answers, and one export pushes out nothing that is used."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import ObjectWrong, StoreUnreachable
from engine.objects import pages
from engine.objects.bucket import SegmentName
from engine.objects.pages import PageCache
from engine.storage.files import Files
from engine.storage.record import crc32c

NAME = SegmentName(1, 2)
BYTES = 1000


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "RESERVE_BYTES", 0)
    monkeypatch.setattr(pages, "MEMORY_PAGES", 1)


def content(number: int) -> bytes:
    return bytes([number % 251]) * BYTES


class Source:
    """Where pages come from; counts what is fetched."""

    def __init__(self) -> None:
        self.fetched: list[int] = []
        self.wrong = 0

    def of(self, number: int) -> Callable[[], bytes]:
        def fetch() -> bytes:
            self.fetched.append(number)
            if self.wrong:
                self.wrong -= 1
                return b"wrong"
            return content(number)

        return fetch


def cache_of(folder: Path, bytes_max: int = 1 << 30) -> PageCache:
    return PageCache(str(folder / "pages"), Files(), lambda: bytes_max)


def get(cache: PageCache, source: Source, number: int) -> bytes:
    return cache.get(NAME, number, crc32c(content(number)), source.of(number))


def on_disk(folder: Path) -> dict[int, str]:
    """Page → once or kept."""
    return {int(path.stem, 16): path.suffix[1:] for path in (folder / "pages").rglob("*.*")}


def test_a_page_is_fetched_once_and_survives_the_process(tmp_path: Path) -> None:
    source = Source()
    cache = cache_of(tmp_path)
    for number in (0, 1, 0, 1):
        assert get(cache, source, number) == content(number)
    assert get(cache_of(tmp_path), source, 0) == content(0)
    assert source.fetched == [0, 1]
    assert on_disk(tmp_path) == {0: "kept", 1: "kept"}


def test_a_damaged_file_is_fetched_again(tmp_path: Path) -> None:
    source = Source()
    get(cache_of(tmp_path), source, 0)
    next((tmp_path / "pages").rglob("*.once")).write_bytes(b"rotten")
    assert get(cache_of(tmp_path), source, 0) == content(0)
    assert source.fetched == [0, 0]


def test_a_wrong_answer_is_asked_for_again_and_never_kept(tmp_path: Path) -> None:
    source = Source()
    source.wrong = 1
    assert get(cache_of(tmp_path), source, 0) == content(0)
    source.wrong = 2
    with pytest.raises(ObjectWrong):
        get(cache_of(tmp_path), source, 1)
    assert set(on_disk(tmp_path)) == {0}


def test_an_outage_is_passed_on_and_the_next_reader_asks_again(tmp_path: Path) -> None:
    cache, source = cache_of(tmp_path), Source()

    def away() -> bytes:
        raise StoreUnreachable("away")

    with pytest.raises(StoreUnreachable):
        cache.get(NAME, 0, crc32c(content(0)), away)
    assert get(cache, source, 0) == content(0)


def test_readers_of_one_page_fetch_it_once(tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    begun, go_on = threading.Event(), threading.Event()
    fetched: list[int] = []

    def slow() -> bytes:
        fetched.append(0)
        begun.set()
        assert go_on.wait(60)
        return content(0)

    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(cache.get(NAME, 0, crc32c(content(0)), slow))) for _ in range(4)
    ]
    threads[0].start()
    assert begun.wait(60)
    for thread in threads[1:]:
        thread.start()
    go_on.set()
    for thread in threads:
        thread.join()
    assert (found, fetched) == ([content(0)] * 4, [0])


def test_one_export_pushes_out_nothing_that_is_used(tmp_path: Path) -> None:
    source = Source()
    cache = cache_of(tmp_path, bytes_max=40 * BYTES)
    for number in range(20):
        get(cache, source, number)
    for number in range(20):
        get(cache, source, number)  # needed again after it left the memory
    for age, path in enumerate(sorted((tmp_path / "pages").rglob("*.kept"))):
        os.utime(path, (1000 + age, 1000 + age))
    for number in range(100, 200):
        get(cache, source, number)
    cache.make_room()
    left = on_disk(tmp_path)
    assert len(left) <= 40
    assert set(range(20)) <= {number for number, kind in left.items() if kind == "kept"}


def test_the_oldest_pages_go_when_all_are_used(tmp_path: Path) -> None:
    source = Source()
    cache = cache_of(tmp_path)
    for number in [*range(20), *range(20)]:
        get(cache, source, number)
    for path in (tmp_path / "pages").rglob("*.kept"):
        age = int(path.stem, 16)
        os.utime(path, (1000 + age, 1000 + age))
    cache_of(tmp_path, bytes_max=16 * BYTES).make_room()
    assert sorted(on_disk(tmp_path)) == list(range(8, 20))


def test_a_full_disk_only_means_that_pages_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "RESERVE_BYTES", 1 << 62)
    source = Source()
    cache = cache_of(tmp_path)
    for number in (0, 1, 0):
        assert get(cache, source, number) == content(number)
    assert on_disk(tmp_path) == {}
