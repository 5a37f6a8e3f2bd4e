"""Peers over HTTP: added, changed and removed beside the configuration file, and what was seen of them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from engine import log
from engine.config import Log, Peer, managed_peers
from tests.web.hosting import Hosting
from tests.web.lone_server import Link
from tests.web.serving import ApiClient, serving

OWN = Peer(aet="CT1", host="10.0.0.1", port=104)


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    with serving(tmp_path_factory.mktemp("peers") / "data", peers=(OWN,), link=Link) as hosting:
        yield hosting


@pytest.fixture(scope="module")
def api(hosting: Hosting) -> Iterator[ApiClient]:
    asking = ApiClient(hosting.port)
    yield asking
    asking.close()


def row(api: ApiClient, title: str) -> dict[str, Any] | None:
    return next((peer for peer in api.get("/api/peers")["peers"] if peer["aet"] == title), None)


def test_a_peer_is_added_changed_and_removed_and_each_change_is_logged_with_its_actor(
    api: ApiClient, hosting: Hosting
) -> None:
    lines = io.StringIO()
    log.configure(Log(format="json"), stream=lines)
    try:
        api.put("/api/peers/MR1", {"host": "10.0.0.2", "port": 104, "may": ["store"], "reason": "new scanner"}, 201)
        added = row(api, "MR1")
        assert added is not None and (added["origin"], added["host"], added["may"]) == ("page", "10.0.0.2", ["store"])
        api.put("/api/peers/MR1", {"host": "10.0.0.3", "port": 104}, 200)
        changed = row(api, "MR1")
        assert changed is not None and changed["host"] == "10.0.0.3" and "destination" in changed["may"]
        assert managed_peers.read(hosting.engine.config.data)[0].host == "10.0.0.3"
        assert api.delete("/api/peers/MR1") == {"removed": "MR1"}
        assert row(api, "MR1") is None and row(api, "CT1") is not None
        assert managed_peers.read(hosting.engine.config.data) == ()
    finally:
        log.configure(Log())
    events = [event for event in map(json.loads, lines.getvalue().splitlines()) if event["event"].startswith("peer ")]
    assert [event["event"] for event in events] == ["peer added", "peer changed", "peer removed"]
    assert {event["by"] for event in events} == {"http:127.0.0.1"} and events[0]["reason"] == "new scanner"
    assert events[1]["changed"]["host"] == ["10.0.0.2", "10.0.0.3"]


def test_a_peer_of_the_configuration_file_is_changed_there_only(api: ApiClient) -> None:
    assert "filmroom reload" in api.put("/api/peers/CT1", {"host": "x", "port": 1}, 409)["detail"]
    assert api.delete("/api/peers/CT1", 409)["status"] == 409
    assert api.delete("/api/peers/NOBODY", 404)["status"] == 404


@pytest.mark.parametrize(
    ("title", "body", "reason"),
    [
        ("X", {"host": "h"}, "port is missing"),
        ("X", {"host": "a b", "port": 1}, "not the name or the address of a host"),
        ("X", {"host": "h", "port": 70_000}, "port"),
        ("X", {"host": "h", "port": 1, "may": ["fly"]}, "is not one of"),
        ("X", {"url": "ftp://h"}, "url"),
        ("X", {"token_file": "/etc/shadow"}, "token_file"),
        ("X", {"aet": "Y"}, "aet"),
        ("SEVENTEEN-LETTERS", {"host": "h", "port": 1}, "is not an AE title"),
        ("A\\B", {"host": "h", "port": 1}, "is not an AE title"),
        ("A\nB", {"host": "h", "port": 1}, "control characters"),
    ],
)
def test_a_wrong_peer_is_refused_in_words_and_nothing_is_written(
    api: ApiClient, hosting: Hosting, title: str, body: dict[str, Any], reason: str
) -> None:
    assert reason in api.put(f"/api/peers/{quote(title, safe='')}", body, 400)["detail"]
    assert managed_peers.read(hosting.engine.config.data) == ()


def test_a_title_beyond_ascii_is_one_peer_in_all_its_forms(api: ApiClient) -> None:
    path = f"/api/peers/{quote('RÖNTGEN')}"
    api.put(path, {"host": "h", "port": 1}, 201)
    api.put(path, {"host": "h2", "port": 1}, 200)
    added = row(api, "RÖNTGEN")
    assert added is not None and added["host"] == "h2"
    api.delete(path)


def test_a_peer_that_the_file_defines_later_is_named_as_overridden(api: ApiClient, hosting: Hosting) -> None:
    text = managed_peers.text_of([Peer(aet="CT1", host="10.9.9.9", port=104)])
    (hosting.engine.config.data / managed_peers.FILE).write_text(text)
    assert api.get("/api/peers")["overridden"] == ["CT1"]
    assert api.delete("/api/peers/CT1") == {"removed": "CT1"}, "the page's own can be removed"
    assert api.get("/api/peers")["overridden"] == []
    kept = row(api, "CT1")
    assert kept is not None and kept["host"] == "10.0.0.1"


def test_strangers_and_peers_show_when_and_how_they_were_seen(api: ApiClient, hosting: Hosting) -> None:
    sightings = hosting.engine.sightings
    sightings.rejected("CT1", "10.0.0.1", "too many associations", is_known=True)
    sightings.unreachable("CT1", "10.0.0.1:104", "refused")
    for number in range(300):
        sightings.rejected(f"MADEUP{number}", "10.6.6.6", "unknown", is_known=False)
    answer = api.get("/api/peers")
    (peer,) = [peer for peer in answer["peers"] if peer["aet"] == "CT1"]
    assert peer["seen"]["rejected"]["reason"] == "too many associations"
    assert peer["seen"]["unreachable"]["address"] == "10.0.0.1:104"
    assert len(answer["strangers"]) == 200 and answer["strangers"][-1]["aet"] == "MADEUP299"
