"""Deletion and compaction on a running server, by the command line, while foreign peers retrieve and store.

A retrieval that has begun gets everything that was there when it began, byte for byte, though all of it is deleted and
its segments are removed meanwhile; who asks afterwards gets nothing. Then the space is free: no process keeps a file.
"""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests import samples
from tests.system import foreign
from tests.system.server import ROOT, Server, filmroom, running, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.rotating(2)]

COUNT = 30
DELETE_AFTER = 3
"""Instances that have arrived when the study is deleted."""

KIND = (samples.CT, foreign.EXPLICIT)
CONFIG = (
    "write_behind_sync_s = 0.05\n[storage]\nsegment_bytes = 1048576\n[limits]\nstream_threshold_bytes = 1048576\n"
    "disk_reserve_bytes = 0\n[compaction]\n"
)
MANUAL = "enabled = false\n"
BY_ITSELF = "interval_s = 0.1\n"


def made(study: int, count: int = COUNT) -> dict[str, foreign.Stored]:
    """A study that fills several segments."""
    rng = random.Random(study)
    instances = [
        foreign.Stored.of(samples.instance(study, 1, number, pixels=rng.randbytes(100_000)))
        for number in range(1, count + 1)
    ]
    return {stored.sop_instance_uid: stored for stored in instances}


def uid(study: int) -> str:
    return f"{samples.ROOT}.{study}"


def keys(study: int) -> dict[str, object]:
    return {"level": "STUDY", "StudyInstanceUID": uid(study)}


def segments(server: Server) -> set[str]:
    return {path.name for path in (server.data / "segments").glob("*.seg")}


def removed_and_open(server: Server) -> list[str]:
    """Segment files that are gone and that a process of the server still keeps."""
    kept = []
    for pid in [server.process.pid, *server.worker_pids()]:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                target = str(fd.readlink())
                if ".seg" in target and target.endswith("(deleted)"):
                    kept.append(target)
    return kept


def deleting_once(server: Server, study: int) -> Callable[[str], int]:
    """The answer of a receiver that has the study deleted and compacted away after some instances."""
    received: list[str] = []

    def answer(uid_: str) -> int:
        received.append(uid_)
        if len(received) == DELETE_AFTER:
            before = segments(server)
            deleted = filmroom(server, "delete", "--study", uid(study), "--reason", "test", "--yes")
            assert deleted["instances"] == COUNT
            compacted = filmroom(server, "compact", "--all")
            assert int(str(compacted["segments_removed"])) >= 2
            assert not before <= segments(server)
        return 0

    return answer


def check_after(server: Server, study: int, others: dict[str, foreign.Stored]) -> None:
    """The study is gone for everybody, the rest is there, and no process keeps what was removed."""
    assert foreign.find(server.port, {**keys(study), "StudyDate": ""}) == (0, [])
    again = foreign.get(server.port, keys(study), [KIND])
    assert (again.statuses[-1], again.data_sets) == (0, {})
    rest = foreign.get(server.port, keys(2), [KIND]).data_sets
    assert {name: data for name, (_, data) in rest.items()} == {
        name: stored.data_set for name, stored in others.items()
    }
    wait_for(lambda: not removed_and_open(server), what="removed files let go")
    assert filmroom(server, "check")["findings"] == []


def test_a_get_under_way_brings_everything_though_it_is_deleted_and_compacted_away(tmp_path: Path) -> None:
    with running(tmp_path / "d", config=CONFIG + MANUAL) as server:
        doomed, others = made(1), made(2, 5)
        assert foreign.store(server.port, [*doomed.values(), *others.values()]) == [0] * (COUNT + 5)
        result = foreign.get(server.port, keys(1), [KIND], answer=deleting_once(server, 1))
        assert result.statuses[-1] == 0
        assert result.counts[-1][1:] == (COUNT, 0, 0)
        assert {name: data for name, (_, data) in result.data_sets.items()} == {
            name: stored.data_set for name, stored in doomed.items()
        }
        check_after(server, 1, others)


def test_a_move_under_way_sends_everything_though_it_is_deleted_and_compacted_away(tmp_path: Path) -> None:
    with running(tmp_path / "d", config=CONFIG + MANUAL) as server:
        doomed, others = made(1), made(2, 5)
        assert foreign.store(server.port, [*doomed.values(), *others.values()]) == [0] * (COUNT + 5)
        with foreign.Receiver([KIND], answer=deleting_once(server, 1)) as sink:
            server.reload(CONFIG + MANUAL + sink.peer())
            result = foreign.move(server.port, keys(1), "SINK")
        assert result.statuses[-1] == 0
        assert result.counts[-1][1:] == (COUNT, 0, 0)
        assert {name: data for name, (_, data) in sink.data_sets().items()} == {
            name: stored.data_set for name, stored in doomed.items()
        }
        check_after(server, 1, others)


def test_what_was_stored_while_the_archive_is_compacted_is_there(tmp_path: Path) -> None:
    with running(tmp_path / "d", config=CONFIG + MANUAL) as server:
        doomed, others = made(1), made(2, 5)
        interleaved = [stored for pair in zip(doomed.values(), made(3).values(), strict=True) for stored in pair]
        assert foreign.store(server.port, [*interleaved, *others.values()]) == [0] * (2 * COUNT + 5)
        filmroom(server, "delete", "--study", uid(1), "--reason", "test", "--yes")
        compacting = subprocess.Popen(
            [sys.executable, "-m", "engine", "compact", "--all", "--data", str(server.data), "--json"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            env={**os.environ, "FILMROOM_CONFIG": str(server.config_file)},
        )
        late = made(4)
        assert foreign.store(server.port, late.values()) == [0] * COUNT
        out, _ = compacting.communicate(timeout=60)
        assert json.loads(out)["records_copied"] >= COUNT // 2
        for study, count in ((2, 5), (3, COUNT), (4, COUNT)):
            found = foreign.get(server.port, keys(study), [KIND]).data_sets
            assert {name: data for name, (_, data) in found.items()} == {
                name: stored.data_set for name, stored in made(study, count).items()
            }
        check_after(server, 1, others)


def test_the_server_compacts_by_itself_and_says_so(tmp_path: Path) -> None:
    with running(tmp_path / "d", config=CONFIG + BY_ITSELF) as server:
        doomed, others = made(1), made(2, 5)
        assert foreign.store(server.port, [*doomed.values(), *others.values()]) == [0] * (COUNT + 5)
        assert len(foreign.get(server.port, keys(1), [KIND]).data_sets) == COUNT
        before = len(segments(server))
        filmroom(server, "delete", "--study", uid(1), "--reason", "test", "--yes")

        def compacted() -> dict[str, int]:
            # Nothing before the caretaker has been started, some seconds after the server is ready.
            return server.stats()["caretaker"].get("compaction", {})  # type: ignore[attr-defined,no-any-return]

        wait_for(lambda: compacted().get("segments_removed", 0) >= 2, what="compaction")
        assert compacted()["bytes_reclaimed"] > 1_500_000
        assert len(segments(server)) < before
        check_after(server, 1, others)


def copies_under_way(server: Server) -> list[str]:
    """Segments that a caretaker is writing."""
    found = []
    for path in (server.data / "segments").glob("*.seg"):
        with suppress(FileNotFoundError):
            with path.open("rb") as file:
                is_copy = b"compaction-" in file.read(124)
            if is_copy and not path.read_bytes()[-128:].startswith(b"FILMSEAL"):
                found.append(path.name)
    return found


def died_again(server: Server, deaths: int) -> bool:
    return len(server.events("caretaker died")) > deaths


def test_a_caretaker_that_is_killed_while_it_copies_costs_nothing(tmp_path: Path) -> None:
    slow = "interval_s = 0.1\nbytes_per_s = 400000\n"
    with running(tmp_path / "d", config=CONFIG + MANUAL) as server:
        interleaved = [stored for pair in zip(made(1).values(), made(3).values(), strict=True) for stored in pair]
        others = made(2, 5)
        assert foreign.store(server.port, [*interleaved, *others.values()]) == [0] * (2 * COUNT + 5)
        filmroom(server, "delete", "--study", uid(1), "--reason", "test", "--yes")
        server.reload(CONFIG + slow)
        for _ in range(2):
            deaths = len(server.events("caretaker died"))
            wait_for(lambda: copies_under_way(server), what="a copy under way")
            os.kill(int(str(server.stats()["caretaker"]["pid"])), signal.SIGKILL)  # type: ignore[index]
            wait_for(functools.partial(died_again, server, deaths), what="its death being noticed")
            found = foreign.get(server.port, keys(3), [KIND]).data_sets
            assert {name: data for name, (_, data) in found.items()} == {
                name: stored.data_set for name, stored in made(3).items()
            }
        server.reload(CONFIG + BY_ITSELF + "bytes_per_s = 0\n")
        before = sum(path.stat().st_size for path in (server.data / "segments").glob("*.seg"))
        filmroom(server, "compact", "--all")
        assert sum(path.stat().st_size for path in (server.data / "segments").glob("*.seg")) < before
        check_after(server, 1, others)


def test_a_study_on_hold_is_deleted_by_nobody(tmp_path: Path) -> None:
    rule = '[[retention]]\nname = "all"\nolder_than_days = 0\nenabled = true\nevery_hours = 0.0001\n'
    with running(tmp_path / "d", config=CONFIG + MANUAL) as server:
        held, other = made(1, 2), made(2, 2)
        assert foreign.store(server.port, [*held.values(), *other.values()]) == [0] * 4
        filmroom(server, "hold", "set", "--study", uid(1), "--reason", "court")
        server.reload(CONFIG + MANUAL + rule)
        wait_for(lambda: foreign.find(server.port, {**keys(2), "StudyDate": ""})[1] == [], what="retention")

        def retention() -> dict[str, int]:
            return server.stats()["caretaker"]["retention"]  # type: ignore[index,no-any-return]

        wait_for(lambda: retention()["studies_held"] == 1, what="the held study being passed over")
        assert retention()["studies_deleted"] == 1
        assert len(foreign.get(server.port, keys(1), [KIND]).data_sets) == 2
