"""web.forms: what a client gets that names no transfer syntax."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from multidict import CIMultiDict, MultiDict

from engine.web.accept import ANY, Offer
from engine.web.forms import DICOM, choices_of

JLS = "1.2.840.10008.1.2.4.80"


def request(agent: str, accept: str, *words: str) -> Any:
    http = SimpleNamespace(as_stored_clients=words)
    headers = CIMultiDict({"Accept": accept, "User-Agent": agent})
    return SimpleNamespace(
        headers=headers, query=MultiDict(), query_string="", config=SimpleNamespace(http=http), raw_path="/"
    )


@pytest.mark.parametrize(
    ("agent", "asked", "syntax"),
    [
        ("Mozilla/5.0 OldViewer/2", "", ANY),
        ("Mozilla/5.0 OldViewer/2", f"; transfer-syntax={JLS}", JLS),
        ("Mozilla/5.0", "", ""),
    ],
)
def test_listed_clients_get_stored_syntaxes_unless_they_request_others(agent: str, asked: str, syntax: str) -> None:
    given = request(agent, f"application/dicom{asked}", "OldViewer")
    assert choices_of(given, [Offer(DICOM)])[0].transfer_syntax == syntax
