"""perf.native: what is compiled on first use."""

from __future__ import annotations

import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from perf import native

THREAD_COUNT = 4


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_threads_that_are_all_the_first_get_a_whole_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    native.compiled.cache_clear()
    together = threading.Barrier(THREAD_COUNT)

    def build(_: int) -> bool:
        together.wait(60)
        library = native.compiled("receiver")
        return library is not None and callable(library.receive)

    try:
        with ThreadPoolExecutor(THREAD_COUNT) as threads:
            assert list(threads.map(build, range(THREAD_COUNT))) == [True] * THREAD_COUNT
        assert [path.suffix for folder in tmp_path.iterdir() for path in folder.iterdir()] == [".so"]
    finally:
        native.compiled.cache_clear()
