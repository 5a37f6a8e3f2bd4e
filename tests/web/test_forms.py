"""web.forms: what a client gets that names no transfer syntax."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from multidict import CIMultiDict, MultiDict

from engine.web.accept import ANY, Offer
from engine.web.forms import DICOM, choices_of
from engine.web.wado_frames import OFFERS, first_form

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


JPEG = "1.2.840.10008.1.2.4."
NATIVE = "1.2.840.10008.1.2.1"


def ranges(*names: str) -> str:
    return ", ".join(f"multipart/related; type={name}" for name in names)


BASELINE, LOSSLESS, J2K = (
    f"image/{name}; transfer-syntax={JPEG}{number}" for name, number in (("jpeg", 50), ("jpeg", 70), ("jp2", 90))
)
PLAIN = f"application/octet-stream; transfer-syntax={NATIVE}"


@pytest.mark.parametrize(
    ("stored_uid", "accept", "sent_uid"),
    [
        (f"{JPEG}90", ranges(BASELINE, LOSSLESS, J2K, PLAIN), f"{JPEG}90"),
        (f"{JPEG}50", ranges(PLAIN, J2K, BASELINE), f"{JPEG}50"),
        (NATIVE, ranges(BASELINE, J2K, PLAIN), NATIVE),
        # What is more welcome is sent, even if it must be converted.
        (f"{JPEG}90", ranges(f"{LOSSLESS}; q=0.9", f"{J2K}; q=0.8", f"{PLAIN}; q=1"), NATIVE),
        # No transfer syntax is a wish for the default one.
        (f"{JPEG}90", ranges("application/octet-stream", J2K), NATIVE),
        (f"{JPEG}90", ranges(J2K, "application/octet-stream"), f"{JPEG}90"),
    ],
)
def test_of_equally_welcome_forms_the_stored_one_is_sent(stored_uid: str, accept: str, sent_uid: str) -> None:
    assert first_form(choices_of(request("Mozilla/5.0", accept), OFFERS), stored_uid)[1] == sent_uid


@pytest.mark.parametrize("stored_uid", ["1.2.840.10008.1.2.5", f"{JPEG}57", f"{JPEG}81"])
def test_a_viewer_that_lists_what_it_decodes_gets_everything_else_decoded(stored_uid: str) -> None:
    assert first_form(choices_of(request("Mozilla/5.0", ranges(PLAIN, BASELINE, J2K)), OFFERS), stored_uid)[1] == NATIVE
