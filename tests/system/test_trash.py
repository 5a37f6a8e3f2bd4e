"""The trash of a running server: two workers, commands as guests, foreign peers, and a kill -9 in between."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from tests import samples
from tests.system import foreign
from tests.system.server import Server, filmroom, running

pytestmark = [pytest.mark.slow, pytest.mark.rotating(2)]

COUNT = 6
KIND = (samples.CT, foreign.EXPLICIT)
CONFIG = (
    "[limits]\ndisk_reserve_bytes = 0\nstream_threshold_bytes = 1048576\n"
    "[storage]\nsegment_bytes = 1048576\n[compaction]\nenabled = false\n"
)


def uid(study: int) -> str:
    return f"{samples.ROOT}.{study}"


def study(number: int) -> dict[str, foreign.Stored]:
    instances = [
        foreign.Stored.of(samples.instance(number, 1, at, pixels=bytes([at]) * 100_000)) for at in range(1, COUNT + 1)
    ]
    return {stored.sop_instance_uid: stored for stored in instances}


def retrieved(server: Server, number: int) -> dict[str, bytes]:
    """What C-GET brings; C-FIND and QIDO-RS must say the same, whichever worker answers."""
    keys: dict[str, object] = {"level": "STUDY", "StudyInstanceUID": uid(number)}
    result = foreign.get(server.port, keys, [KIND])
    for _ in range(4):
        matches = len(foreign.find(server.port, {**keys, "StudyDate": ""})[1])
        path = f"{server.url}/dicom-web/studies/{uid(number)}/instances"
        found = requests.get(path, headers={"Accept": "application/dicom+json"}, timeout=60)
        count = len(found.json()) if found.status_code == 200 else 0
        assert (matches, count) == (bool(result.data_sets), len(result.data_sets))
    return {name: data for name, (_, data) in result.data_sets.items()}


def events(server: Server) -> list[str]:
    answer = requests.get(f"{server.url}/changes?action=deleted,restored&limit=500", timeout=60).json()
    return [event["action"] for event in answer["events"]]


def test_a_study_in_the_trash_is_gone_for_all_processes_and_comes_back_after_a_kill(tmp_path: Path) -> None:
    stored, other = study(1), study(2)
    whole = {name: one.data_set for name, one in stored.items()}
    path = f"dicom-web/studies/{uid(1)}"
    with running(tmp_path / "d", config=CONFIG, http=True) as server:
        assert foreign.store(server.port, [*stored.values(), *other.values()]) == [0] * (2 * COUNT)
        answer = requests.delete(f"{server.url}/{path}", timeout=60)
        number = answer.headers["Filmroom-Trash"]
        assert answer.status_code == 204 and retrieved(server, 1) == {}
        assert requests.get(f"{server.url}/{path}/metadata", timeout=60).status_code == 410
        server.kill_all()
    with running(tmp_path / "d", config=CONFIG, http=True) as server:
        assert retrieved(server, 1) == {} and len(retrieved(server, 2)) == COUNT
        assert filmroom(server, "trash", "list")["number"] == number
        filmroom(server, "compact", "--all")
        assert filmroom(server, "trash", "restore", number, "--reason", "needed")["instances"] == COUNT
        server.kill_all()
    with running(tmp_path / "d", config=CONFIG, http=True) as server:
        assert retrieved(server, 1) == whole
        body = {"reason": "again"}
        assert requests.post(f"{server.url}/api/trash/{number}/restore", json=body, timeout=60).status_code == 404
        assert requests.delete(f"{server.url}/{path}", timeout=60).status_code == 204
        assert foreign.store(server.port, [*stored.values()][:2]) == [0, 0]
        assert len(retrieved(server, 1)) == 2
        emptied = requests.post(f"{server.url}/api/trash/empty", json={"everything": True}, timeout=60).json()
        assert emptied["instances"] == COUNT and len(retrieved(server, 1)) == 2
        assert filmroom(server, "check")["findings"] == []
        assert events(server)[:2] == ["deleted", "restored"]
