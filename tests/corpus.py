"""Finds the DICOM corpus, which is no part of the repository.

The folder named by FILMROOM_CORPUS, else `shared/corpus` beside the checkout. Where there is none the lists are empty,
and `needs_corpus` skips the tests that live on them and says where the files were looked for.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent


def _looked_for() -> Path:
    named = os.environ.get("FILMROOM_CORPUS")
    # Resolved, as what the code under test reports is.
    return (Path(named) if named else CHECKOUT.parent / "shared" / "corpus").resolve()


def corpus_root() -> Path | None:
    """The corpus folder, or None."""
    root = _looked_for()
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


def needs_corpus(*folders: str) -> pytest.MarkDecorator:
    """Skips a test where the corpus, or each of these folders of it, has no file."""
    what = f" in {' or '.join(folders)}" if folders else ""
    reason = f"no corpus: {_looked_for()} has no DICOM file{what} (FILMROOM_CORPUS names another folder)"
    return pytest.mark.skipif(not corpus_files(*folders), reason=reason)
