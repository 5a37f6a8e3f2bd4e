"""Finds the DICOM corpus, which is no part of the repository.

It is in the folder of FILMROOM_CORPUS, else in `shared/corpus` beside the checkout. Without a corpus the lists are
empty, and `needs_corpus` skips the tests that need them and names the folder.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from tests import effort

STRIDE = effort.amount("CORPUS_STRIDE", 4, 1)
"""A long test of the corpus takes every n-th file, others with each commit."""

CHECKOUT = Path(__file__).resolve().parent.parent


def _corpus_path() -> Path:
    setting = os.environ.get("FILMROOM_CORPUS")
    # Resolved, like the paths that the code under test reports.
    return (Path(setting) if setting else CHECKOUT.parent / "shared" / "corpus").resolve()


def corpus_root() -> Path | None:
    """The corpus folder, or None."""
    root = _corpus_path()
    return root if root.is_dir() else None


@cache
def _all_files() -> tuple[Path, ...]:
    root = corpus_root()
    return tuple(sorted(root.rglob("*.dcm"))) if root else ()


def corpus_files(*folders: str) -> list[Path]:
    """Every DICOM file of the corpus, or of some of its folders ("odd", "series/mr-ge-wrist"), in a fixed order."""
    root = corpus_root()
    if root is None:
        return []
    files = list(_all_files())
    if folders:
        roots = [root / folder for folder in folders]
        files = [file for file in files if any(file.is_relative_to(folder) for folder in roots)]
    return files


def corpus_part(files: Sequence[effort.Case]) -> Sequence[effort.Case]:
    """The part of these files, or of what was made of them, that a long test takes in this run."""
    return effort.part(files, STRIDE, effort.seed("CORPUS"))


def needs_corpus(*folders: str) -> pytest.MarkDecorator:
    """Skips a test if the corpus, or all of these folders, have no file."""
    place = f" in {' or '.join(folders)}" if folders else ""
    reason = f"no corpus: {_corpus_path()} has no DICOM file{place} (FILMROOM_CORPUS names another folder)"
    return pytest.mark.skipif(not corpus_files(*folders), reason=reason)
