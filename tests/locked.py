"""No key of an archive is in this process before and after a test; to import into a module whose tests encrypt."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.storage.keyring import KEYRING


@pytest.fixture(autouse=True)
def locked_before_and_after() -> Iterator[None]:
    KEYRING.clear()
    yield
    KEYRING.clear()
