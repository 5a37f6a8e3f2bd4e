"""The caretaker process and its jobs: priority, turns, failures, restarts, the end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from engine.archive import locks
from engine.archive.archive import Archive
from engine.archive.layout import open_layout
from engine.config import Attribute, Compaction, Config, Deletion, Reindex, Retention, Storage
from engine.dicom import extra
from engine.errors import ArchiveInUse, IndexError_, StorageFailed
from engine.server import caretaker, lone_process
from engine.server.background_jobs import (
    NOTHING_TO_DO_S,
    REINDEX_REST_S,
    TRASH_REST_S,
    CompactionJob,
    ReindexJob,
    RetentionJob,
    TrashJob,
)
from engine.server.caretaker import Caretaker
from engine.server.channel import Channel, ChannelClosed
from engine.storage.files import Files
from tests.actors import actor
from tests.archive.filled import all_instances, opened, payload_of, store, study_query, uid
from tests.system.server import Server, running, wait_for


def caretaker_of(server: Server) -> dict[str, object]:
    return server.stats()["caretaker"]  # type: ignore[return-value]


def pid_of(server: Server) -> int | None:
    return caretaker_of(server)["pid"]  # type: ignore[return-value]


def nicenesses(pid: int) -> dict[str, int]:
    """Of a caretaker's threads: the background jobs' one is the only one at the lowest priority."""
    found = sorted(os.getpriority(os.PRIO_PROCESS, int(thread)) for thread in os.listdir(f"/proc/{pid}/task"))
    assert found[:-1] == [found[0]] * (len(found) - 1)
    return {"jobs": found[-1], "others": found[0]}


# Its life ----------------------------------------------------------------------------------------


def test_it_runs_at_the_lowest_priority_applies_reloads_and_ends_with_the_server(tmp_path: Path) -> None:
    with running(tmp_path / "d", workers=1, config="[compaction]\nenabled = false\n") as server:
        wait_for(lambda: "compaction" in caretaker_of(server), what="statistics of the caretaker")
        pid = pid_of(server)
        assert pid is not None
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert nicenesses(pid) == {"jobs": caretaker.NICENESS, "others": own}
        assert pid not in server.worker_pids()
        assert caretaker_of(server)["compaction"]["enabled"] is False  # type: ignore[index]
        server.reload('[[retention]]\nname = "a"\nolder_than_days = 1000\nenabled = true\n')
        wait_for(lambda: caretaker_of(server)["retention"]["rules"] == 1, what="the new rule")  # type: ignore[index]
        assert caretaker_of(server)["compaction"]["enabled"] is True  # type: ignore[index]
        assert server.stop() == 0
        assert not Path(f"/proc/{pid}").exists()


def test_where_answers_wait_for_the_bucket_it_starts_at_once(tmp_path: Path) -> None:
    pytest.importorskip("obstore", reason="obstore is not installed")
    config = f'durable = "object"\n[object_store]\nurl = "file://{tmp_path}/bucket"\n'
    pause = {"FILMROOM_CARETAKER_PAUSE_S": "86400"}
    with running(tmp_path / "d", workers=1, config=config, environment=pause) as server:
        wait_for(lambda: pid_of(server) is not None, what="the caretaker")


def test_a_dead_caretaker_is_replaced_and_one_without_supervisor_ends(tmp_path: Path) -> None:
    with running(tmp_path / "d", workers=1) as server:
        wait_for(lambda: "compaction" in caretaker_of(server), what="statistics of the caretaker")
        first, workers = pid_of(server), server.worker_pids()
        assert first is not None
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: caretaker_of(server)["restarts"] == 1 and "compaction" in caretaker_of(server), what="restart")
        second = pid_of(server)
        assert second not in (None, first)
        assert server.worker_pids() == workers
        wait_for(lambda: server.events("caretaker died"), what="the line in the log")
        assert server.events("caretaker died")[0]["exit_code"] == -signal.SIGKILL
        os.kill(server.process.pid, signal.SIGKILL)
        server.wait()
        wait_for(lambda: not Path(f"/proc/{second}").exists(), what="end of the caretaker")


# Its loop, in this process -----------------------------------------------------------------------


class CaretakerThread:
    """The supervisor's end of a caretaker that runs in a thread here."""

    def __init__(self, data: Path, config: Config) -> None:
        self.channel, theirs = Channel.pair()
        # Duplicated: the socket object and the caretaker's channel must not close each other's descriptor.
        inherited = Channel.inherited(os.dup(theirs.fileno()))
        theirs.close()
        inherited.set_blocking(False)
        self._inherited = inherited
        self.caretaker = Caretaker(inherited, config)
        self.code: int | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.code = self.caretaker.run()
        self._inherited.close()

    def stats(self) -> dict[str, object]:
        self.channel.send("ask", request=7, topic="stats")
        self.channel.set_blocking(True)
        while True:
            received = self.channel.receive()
            assert received is not None
            if received[0]["kind"] == "answer":
                return received[0]["answer"]  # type: ignore[no-any-return]

    def end(self) -> int | None:
        try:
            self.channel.send("drain")
        except ChannelClosed:
            pass  # it has ended by itself
        self.thread.join(60)
        assert not self.thread.is_alive()
        self.channel.close()
        return self.code


class ScriptedJob:
    """A job that raises or returns what a test says."""

    name = "scripted"

    def __init__(self) -> None:
        self.steps: list[Exception | float] = []
        self.done: list[float] = []
        self.configured: list[Config] = []

    def configure(self, config: Config) -> None:
        self.configured.append(config)

    def step(self) -> float:
        self.done.append(time.monotonic())
        what = self.steps.pop(0) if self.steps else 3600.0
        if isinstance(what, Exception):
            raise what
        return what

    def stats(self) -> dict[str, object]:
        return {"done": len(self.done)}


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedJob]:
    with opened(tmp_path / "d"):
        pass
    job = ScriptedJob()
    monkeypatch.setattr(caretaker, "JOBS", (lambda archive, config, stopping: job,))
    monkeypatch.setattr(caretaker, "FAILURE_PAUSE_S", 0.01)
    monkeypatch.setattr(caretaker, "IN_USE_PAUSE_S", 0.01)
    yield job


def test_a_failed_step_is_logged_and_retried_with_growing_pauses(tmp_path: Path, scripted: ScriptedJob) -> None:
    scripted.steps = [IndexError_("once"), IndexError_("twice"), ArchiveInUse("busy"), IndexError_("thrice")]
    caretaker_thread = CaretakerThread(tmp_path / "d", Config(data=tmp_path / "d"))
    wait_for(lambda: len(scripted.done) == 4, what="four steps")
    wait_for(lambda: caretaker_thread.stats()["failing"] == {"scripted": "thrice"}, what="the failure being reported")
    pauses = [after - before for before, after in pairwise(scripted.done)]
    assert pauses[0] >= 0.01
    assert pauses[1] >= 0.02
    wait_for(lambda: len(scripted.done) == 5, what="a good step")
    wait_for(lambda: caretaker_thread.stats()["failing"] == {}, what="the failure being forgotten")
    assert caretaker_thread.end() == 0


def test_a_crashed_step_counts_as_failed_and_the_others_continue(tmp_path: Path, scripted: ScriptedJob) -> None:
    scripted.steps = [OSError(5, "of no kind that anybody foresaw"), MemoryError()]
    caretaker_thread = CaretakerThread(tmp_path / "d", Config(data=tmp_path / "d"))
    wait_for(lambda: len(scripted.done) == 3, what="three steps")
    wait_for(lambda: caretaker_thread.stats()["failing"] == {}, what="the failure being forgotten")
    assert caretaker_thread.end() == 0


def test_a_failed_disk_ends_it(tmp_path: Path, scripted: ScriptedJob) -> None:
    scripted.steps = [StorageFailed("EIO")]
    caretaker_thread = CaretakerThread(tmp_path / "d", Config(data=tmp_path / "d"))
    caretaker_thread.thread.join(60)
    assert caretaker_thread.end() == caretaker.EXIT_STORAGE_FAILED
    caretaker_thread.caretaker._archive.close()


def test_a_reload_reaches_every_job_and_makes_it_due(tmp_path: Path, scripted: ScriptedJob) -> None:
    caretaker_thread = CaretakerThread(tmp_path / "d", Config(data=tmp_path / "d"))
    wait_for(lambda: len(scripted.done) == 1, what="a step")
    fresh = Config(data=tmp_path / "d", aet="OTHER")
    caretaker_thread.channel.send("config", config=fresh.to_json().decode(), version=2)
    wait_for(lambda: len(scripted.done) == 2, what="another step")
    assert [config.aet for config in scripted.configured] == ["OTHER"]
    assert caretaker_thread.end() == 0


def test_the_reserve_file_is_created_if_it_is_missing(tmp_path: Path, scripted: ScriptedJob) -> None:
    caretaker_thread = CaretakerThread(tmp_path / "d", Config(data=tmp_path / "d"))
    wait_for((tmp_path / "d" / "ballast").exists, what="the reserve file")
    assert caretaker_thread.end() == 0


def test_the_caretaker_of_a_replica_scrubs_and_maintains_its_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path / "d"):
        pass
    monkeypatch.setattr(Archive, "is_read_only", property(lambda self: True))
    caretaker_thread = CaretakerThread(tmp_path / "d", Config(data=tmp_path / "d"))
    assert set(caretaker_thread.stats()) == {"scrub", "reindex", "access_keys", "failing"}
    assert caretaker_thread.end() == 0


# Its jobs --------------------------------------------------------------------------------------


def test_the_compaction_job_pauses_when_nothing_is_left_to_do(tmp_path: Path) -> None:
    config = Config(
        data=tmp_path,
        compaction=Compaction(interval_s=77, bytes_per_s=0),
        storage=Storage(segment_bytes=1 << 20),
    )
    with opened(tmp_path) as archive:
        store(archive, payload_of(1, 1, 1))
    with opened(tmp_path) as archive:
        archive.delete(study_query(1), actor=actor(""), reason="")
    with opened(tmp_path) as archive:
        job = CompactionJob(archive, config, threading.Event())
        assert job.step() < 1
        assert job.step() == 77
        assert job.stats()["segments_removed"] == 1
        job.configure(Config(data=tmp_path, compaction=Compaction(enabled=False)))
        assert job.step() > 77


def test_the_retention_job_applies_each_enabled_rule_at_its_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = (
        Retention(name="a", older_than_days=0, enabled=True, modalities=("CT",), every_hours=1),
        Retention(name="b", older_than_days=0, enabled=True, modalities=("MR",), every_hours=2),
        Retention(name="off", older_than_days=0),
    )
    now_s = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])

    def fill(archive: Archive) -> None:
        store(archive, payload_of(1, 1, 1), payload_of(2, 1, 1, modality="MR"), payload_of(3, 1, 1, modality="DX"))

    def left(archive: Archive) -> set[str]:
        return {one.study_instance_uid for one in all_instances(archive)}

    with opened(tmp_path) as archive:
        fill(archive)
        job = RetentionJob(archive, Config(data=tmp_path, retention=rules), threading.Event())
        assert job.step() < 1
        job.step()
        assert left(archive) == {uid(3)}
        fill(archive)
        assert 3500 < job.step() < 3600.001
        assert left(archive) == {uid(1), uid(2), uid(3)}
        now_s[0] += 3601
        job.step()
        assert left(archive) == {uid(2), uid(3)}
        assert job.stats() == {
            "rules": 2,
            "studies_deleted": 3,
            "instances_deleted": 3,
            "bytes_deleted": job.stats()["bytes_deleted"],
            "studies_held": 0,
        }


def test_a_caretaker_waits_while_another_process_has_the_lock(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    files = Files()
    layout = open_layout(tmp_path, files, create=False)
    with locks.caretaker(layout, files), pytest.raises(ArchiveInUse), locks.caretaker(layout, files):
        pass
    with locks.caretaker(layout, files):
        pass


# The supervisor's side ---------------------------------------------------------------------------


def test_the_pauses_before_restarts_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lone_process, "RESTART_PAUSE_S", 0.02)
    started: list[float] = []
    recovered: list[float] = []

    async def run() -> dict[str, object]:
        loop = asyncio.get_running_loop()

        def spawn(module: str) -> tuple[subprocess.Popen[bytes], Channel]:
            assert module == "engine.server.caretaker"
            started.append(loop.time())
            channel, theirs = Channel.pair()
            process = subprocess.Popen(["true"], pass_fds=[theirs.fileno()])
            theirs.close()
            return process, channel

        async def recover() -> None:
            recovered.append(loop.time())

        process = lone_process.LoneProcess(Config(), spawn, recover)
        process.start()
        while len(started) < 4:
            await asyncio.sleep(0.005)
        stats = await process.stats()
        process.drain()
        while process.process is not None:
            await asyncio.sleep(0.005)
        return stats

    assert asyncio.run(run())["restarts"] == 3
    gaps = [after - before for before, after in pairwise(started)]
    assert gaps[0] >= 0.02
    assert gaps[1] >= 0.04
    assert gaps[2] >= 0.08
    assert len(recovered) >= 3


def test_the_re_indexing_job_continues_until_everything_is_done_and_then_pauses(tmp_path: Path) -> None:
    chosen = extra.of([Attribute(tag="StudyStatusID", level="study")])
    with opened(tmp_path) as archive:
        store(archive, payload_of(1, 1, 1))
    with Archive.open(tmp_path, role="keeper", extra_attributes=chosen) as archive:
        job = ReindexJob(archive, Config(data=tmp_path), threading.Event())
        assert job.stats()["running"] is True
        while job.step() < REINDEX_REST_S:
            pass
        assert (job.stats()["running"], job.stats()["extracted_since_start"]) == (False, 1)
        job.configure(Config(data=tmp_path, reindex=Reindex(bytes_per_s=1)))
        assert job.step() == REINDEX_REST_S


def test_the_index_is_written_at_the_priority_of_workers_by_a_step_at_the_lowest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path / "d"):
        pass
    seen: dict[str, int] = {}

    class Writes(ScriptedJob):
        def __init__(self, archive: Archive) -> None:
            super().__init__()
            self.archive = archive

        def step(self) -> float:
            def work(txn: object) -> None:
                seen["within the transaction"] = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

            self.archive.parts.index._environment.write(work, lambda: None)
            self.archive.parts.index.note_damage(0, 0, b"", "none", 0)
            seen["in the step"] = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
            return super().step()

    monkeypatch.setattr(caretaker, "JOBS", (lambda archive, config, stopping: Writes(archive),))
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    caretaker_thread = CaretakerThread(tmp_path / "d", Config(data=tmp_path / "d"))
    wait_for(lambda: "in the step" in seen, what="a step")
    assert caretaker_thread.end() == 0
    assert seen == {"within the transaction": own, "in the step": caretaker.NICENESS}


def test_a_refused_rule_is_reported_and_the_others_are_applied(tmp_path: Path) -> None:
    rules = (
        Retention(name="too much", older_than_days=0, enabled=True, modalities=("CT",)),
        Retention(name="fine", older_than_days=0, enabled=True, modalities=("MR",)),
    )
    with opened(tmp_path) as archive:
        store(archive, *(payload_of(study, 1, 1) for study in range(1, 31)), payload_of(99, 1, 1, modality="MR"))
        job = RetentionJob(archive, Config(data=tmp_path, retention=rules), threading.Event())
        job.step()
        job.step()
        assert {one.study_instance_uid for one in all_instances(archive)} == {uid(study) for study in range(1, 31)}
        refused = job.stats()["refused"]
        assert list(refused) == ["too much"] and "30 of 31 studies" in refused["too much"]  # type: ignore[index, call-overload]
        job.configure(Config(data=tmp_path, retention=rules[1:]))
        assert "refused" not in job.stats()


def test_the_trash_empties_itself_after_its_days_and_not_by_a_clock_that_jumped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = [0.0]
    now_ns = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + round(days[0] * 86_400e9))
    with opened(tmp_path) as archive:
        store(archive, payload_of(1), payload_of(2))
        archive.delete(study_query(1), actor=actor(), reason="", into_trash=True)
        job = TrashJob(archive, Config(data=tmp_path, deletion=Deletion(trash_days=7.0)), threading.Event())
        for passed in (0.0, 6.9):
            days[0] = passed
            assert job.step() == TRASH_REST_S
            assert archive.stats()["trashed"] == 1
        days[0] = 400.0
        job.step()
        assert archive.stats()["trashed"] == 1 and "is the clock right" in str(job.stats()["refused"])
        job.configure(Config(data=tmp_path, deletion=Deletion(trash_days=0.0)))
        days[0] = 8.0
        assert job.step() == NOTHING_TO_DO_S and archive.stats()["trashed"] == 1
        job.configure(Config(data=tmp_path, deletion=Deletion(trash_days=7.0)))
        job.step()
        assert archive.stats()["trashed"] == 0
        stats = job.stats()
        assert (stats["entries_emptied"], stats["instances_emptied"]) == (1, 1) and "refused" not in stats
