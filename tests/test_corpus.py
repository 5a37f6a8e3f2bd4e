"""The corpus is no part of the repository: where there is none, what lives on it is skipped and says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.corpus import CHECKOUT


def users() -> list[str]:
    """The test modules that ask for files of the corpus."""
    found = [path for path in CHECKOUT.glob("tests/**/test_*.py") if "tests.corpus" in path.read_text()]
    return sorted(str(path) for path in found if path != Path(__file__))


def pytest_run(corpus: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=CHECKOUT,
        env={**os.environ, "FILMROOM_CORPUS": str(corpus)},
        capture_output=True,
        text=True,
    )


@pytest.mark.rotating(3)
@pytest.mark.parametrize("kind", ["missing", "empty", "file"])
def test_without_a_corpus_every_module_is_collected_and_the_tests_on_it_say_why_they_are_skipped(
    kind: str, tmp_path: Path
) -> None:
    folder = tmp_path / "corpus"
    if kind == "empty":
        folder.mkdir()
    elif kind == "file":
        folder.write_bytes(b"no folder")
    modules = users()
    assert len(modules) > 5
    done = pytest_run(folder, "-k", "corpus", *modules)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"no corpus: {folder.resolve()} has no DICOM file" in done.stdout
