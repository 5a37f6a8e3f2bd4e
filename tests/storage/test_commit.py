"""Group commit: nobody is answered before the sync that covers him, and nobody after a failed one."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Sequence

import pytest
import uvloop

from engine.errors import EngineError, StorageError, StorageFailed, StorageFull
from engine.storage import commit as commit_module
from engine.storage.commit import GroupCommit
from engine.storage.files import Files
from tests.faulty_files import SyncTwin


class _Gated(Files):
    """Files whose sync is a function of the test."""

    __slots__ = ("_sync",)

    def __init__(self, sync: Callable[[], None]) -> None:
        self._sync = sync

    def fdatasync(self, fd: int) -> None:
        self._sync()


class InBackground(SyncTwin):
    """The test's sync, as the commit point wants it when it must not wait."""

    def __init__(self, sync: Callable[[], None]) -> None:
        super().__init__(_Gated(sync))
        self.is_available = True
        self.begin = self._begin_if_available  # type: ignore[assignment]

    def _begin_if_available(self) -> bool:
        if self.is_available:
            self._begin(-1)
        return self.is_available


Make = Callable[..., GroupCommit[str, str]]


@pytest.fixture(params=["thread", "background"])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes a commit point that syncs in its thread, or in the background."""

    def made(
        loop: asyncio.AbstractEventLoop, sync: Callable[[], None], apply: object, on_failure: object, **options: object
    ) -> GroupCommit[str, str]:
        if request.param == "background":
            options["background"] = InBackground(sync)
        return GroupCommit(loop, sync, apply, on_failure, **options)  # type: ignore[arg-type]

    return made


class Disk:
    """Notes what happens, in order; `gate` holds a sync back until the test lets it go."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.fail_from = 1 << 30
        self.sync_count = 0

    def sync(self) -> None:
        self.sync_count += 1
        self.entered.set()
        self.gate.wait(60)
        if self.sync_count >= self.fail_from:
            raise StorageFailed("EIO")
        self.events.append("sync")

    def apply(self, batch: Sequence[str]) -> list[str]:
        self.events.append("apply " + ",".join(batch))
        return [item.upper() for item in batch]


def test_an_answer_follows_sync_and_apply(make: Make) -> None:
    async def run() -> None:
        disk = Disk()
        commit = make(asyncio.get_running_loop(), disk.sync, disk.apply, disk.events.append)
        commit.start()
        answered = asyncio.get_running_loop().create_future()
        commit.submit("a", answered.set_result)
        assert await answered == "A"
        assert disk.events == ["sync", "apply a"]
        assert commit.depth == 0
        commit.close()

    asyncio.run(run())


def test_what_arrives_during_a_sync_is_one_group_and_needs_a_sync_of_its_own(make: Make) -> None:
    async def run() -> None:
        disk = Disk()
        loop = asyncio.get_running_loop()
        commit = make(loop, disk.sync, disk.apply, disk.events.append)
        commit.start()
        disk.gate.clear()
        answers = [loop.create_future() for _ in range(4)]
        commit.submit("a", answers[0].set_result)
        await loop.run_in_executor(None, disk.entered.wait, 10)
        for item, answer in zip("bcd", answers[1:], strict=True):
            commit.submit(item, answer.set_result)
        disk.gate.set()
        assert await asyncio.gather(*answers) == ["A", "B", "C", "D"]
        # In the background the second sync begins before the first group becomes visible.
        assert disk.events[0] == "sync" and disk.events[-1] == "apply b,c,d"
        assert sorted(disk.events[1:3]) == ["apply a", "sync"]
        commit.close()

    asyncio.run(run())


def test_after_a_failed_sync_nothing_is_synced_applied_or_acknowledged_again(make: Make) -> None:
    async def run() -> None:
        disk = Disk()
        disk.fail_from = 2
        loop = asyncio.get_running_loop()
        failures: list[EngineError] = []
        commit = make(loop, disk.sync, disk.apply, failures.append)
        commit.start()
        answers: list[object] = []
        for item in "abc":
            answered = asyncio.Event()
            commit.submit(item, lambda result, answered=answered: (answers.append(result), answered.set()))  # type: ignore[misc]
            await answered.wait()
        assert answers[0] == "A"
        assert isinstance(answers[1], StorageFailed)
        assert isinstance(answers[2], StorageFailed)
        assert disk.events == ["sync", "apply a"]
        assert disk.sync_count == 2
        assert failures
        unsynced: list[object] = []
        commit.submit_unsynced("d", unsynced.append)
        commit.close()
        assert isinstance(unsynced[0], StorageFailed)

    asyncio.run(run())


def test_write_behind_answers_a_batch_without_a_sync(make: Make) -> None:
    async def run() -> None:
        disk = Disk()
        loop = asyncio.get_running_loop()
        commit = make(loop, disk.sync, disk.apply, disk.events.append)
        commit.start()
        answers: list[object] = []
        for item in "ab":
            commit.submit_unsynced(item, answers.append)
        assert answers == []
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert answers == ["A", "B"]
        assert disk.events == ["apply a,b"]
        commit.close()

    asyncio.run(run())


def test_close_commits_what_was_submitted(make: Make) -> None:
    async def run() -> None:
        disk = Disk()
        loop = asyncio.get_running_loop()
        commit = make(loop, disk.sync, disk.apply, disk.events.append)
        commit.start()
        answers: list[object] = []
        commit.submit("a", answers.append)
        commit.submit_unsynced("b", answers.append)
        commit.close()
        await asyncio.sleep(0)
        assert sorted(map(str, answers)) == ["A", "B"]

    asyncio.run(run())


def test_want_of_room_at_a_sync_is_not_final(make: Make) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        failures: list[EngineError] = []
        outcomes = iter([StorageFull("no descriptor"), None])

        def sync() -> None:
            error = next(outcomes)
            if error is not None:
                raise error

        commit = make(loop, sync, Disk().apply, failures.append)
        commit.start()
        answers: list[object] = []
        for item in "ab":
            answered = asyncio.Event()
            commit.submit(item, lambda result, answered=answered: (answers.append(result), answered.set()))  # type: ignore[misc]
            await answered.wait()
        commit.close()
        assert isinstance(answers[0], StorageFull)
        assert answers[1] == "B"
        assert failures == []

    asyncio.run(run())


def test_an_answer_that_fails_takes_no_other_answer_away(make: Make) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        for outcome in ("good", "failed"):
            disk = Disk()
            disk.fail_from = 1 if outcome == "failed" else disk.fail_from
            failures: list[EngineError] = []
            commit = make(loop, disk.sync, disk.apply, failures.append)
            answers: list[object] = []
            last = asyncio.Event()

            def broken(result: object) -> None:
                raise RuntimeError(f"not for {result}")

            # Before the thread is there, so that all are one group.
            commit.submit("a", answers.append)
            commit.submit("b", broken)
            commit.submit("c", lambda result, last=last, answers=answers: (answers.append(result), last.set()))  # type: ignore[misc]
            commit.start()
            await asyncio.wait_for(last.wait(), 60)
            assert [isinstance(answer, StorageFailed) for answer in answers] == [outcome == "failed"] * 2
            assert commit.depth == 0
            await asyncio.sleep(0)
            assert len(failures) == (outcome == "failed")
            commit.close()

    asyncio.run(run())


@pytest.mark.parametrize("what", ["sync", "apply", "results"])
@pytest.mark.parametrize("error", [OSError(5, "EIO"), MemoryError()], ids=["OSError", "MemoryError"])
def test_whatever_goes_wrong_everybody_is_answered_and_the_failure_is_told(
    what: str, error: Exception, make: Make
) -> None:
    async def run() -> None:
        def sync() -> None:
            if what == "sync":
                raise error

        def apply(batch: Sequence[str]) -> list[str]:
            if what == "apply":
                raise error
            return list(batch)[1:]

        loop = asyncio.get_running_loop()
        failed = loop.create_future()
        commit = make(loop, sync, apply, failed.set_result)
        answers = [loop.create_future() for _ in range(4)]
        for answer in answers[:3]:
            commit.submit("a", answer.set_result)
        commit.start()
        for answer in answers[:3]:
            assert isinstance(await asyncio.wait_for(answer, 60), StorageFailed)
        assert isinstance(await asyncio.wait_for(failed, 60), StorageFailed)
        commit.submit("b", answers[3].set_result)
        assert isinstance(await asyncio.wait_for(answers[3], 60), StorageFailed)
        commit.close()

    asyncio.run(run())


def test_who_waits_for_too_long_is_answered_and_is_committed_all_the_same(make: Make) -> None:
    async def run() -> None:
        disk = Disk()
        disk.gate.clear()
        loop = asyncio.get_running_loop()
        failures: list[EngineError] = []
        commit = make(
            loop, disk.sync, disk.apply, failures.append, why_late=lambda: "pid 7 stands still", patience_s=0.05
        )
        commit.start()
        answers = [loop.create_future() for _ in range(4)]
        commit.submit("a", answers[0].set_result)
        await loop.run_in_executor(None, disk.entered.wait, 10)
        for item, answer in zip("bc", answers[1:], strict=False):
            commit.submit(item, answer.set_result)
        for answer in answers[:3]:
            error = await asyncio.wait_for(answer, 60)
            assert isinstance(error, StorageError) and not isinstance(error, StorageFailed)
            assert "pid 7 stands still" in str(error)
        assert commit.late == "pid 7 stands still"
        # What comes after all is answered in time too.
        commit.submit("d", answers[3].set_result)
        assert isinstance(await asyncio.wait_for(answers[3], 60), StorageError)
        disk.gate.set()
        fresh = loop.create_future()
        commit.submit("e", fresh.set_result)
        assert await asyncio.wait_for(fresh, 60) == "E"
        assert commit.late == "" and commit.depth == 0 and failures == []
        assert [item for event in disk.events if event != "sync" for item in event[6:].split(",")] == list("abcde")
        commit.close()

    asyncio.run(run())


def test_write_behind_that_would_have_to_wait_goes_by_way_of_the_thread(make: Make) -> None:
    async def run() -> None:
        disk = Disk()
        loop = asyncio.get_running_loop()
        is_busy = [True, False]
        commit = make(
            loop,
            disk.sync,
            disk.apply,
            disk.events.append,
            try_apply=lambda batch: None if is_busy.pop(0) else disk.apply(batch),
        )
        commit.start()
        for item in "ab":
            answered = loop.create_future()
            commit.submit_unsynced(item, answered.set_result)
            assert await asyncio.wait_for(answered, 60) == item.upper()
        assert disk.events == ["sync", "apply a", "apply b"]
        assert commit.depth == 0
        commit.close()

    asyncio.run(run())


# -- while the disk works -----------------------------------------------------------------------


class Shelf:
    """What an index does: prepares, asks, and makes visible or forgets. Notes it in the disk's list of events."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.prepared = threading.Event()

    def apply_promptly(self, batch: Sequence[str], is_durable: Callable[[], bool]) -> list[str] | None:
        self.disk.events.append("prepare " + ",".join(batch))
        self.prepared.set()
        if not is_durable():
            self.disk.events.append("forget")
            return None
        return self.disk.apply(batch)


def run_on_uvloop(work: Callable[[], Coroutine[object, object, None]]) -> None:
    """Only uvloop says whether something on it is ready."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())


def test_a_lone_waiter_is_prepared_while_the_disk_works_and_visible_when_it_is_durable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run() -> None:
        monkeypatch.setattr(commit_module, "PROMPT_WAIT_US", 10_000_000)
        disk = Disk()
        shelf = Shelf(disk)

        def sync() -> None:
            shelf.prepared.wait(60)
            disk.sync()

        answers: list[object] = []
        commit: GroupCommit[str, str] = GroupCommit(
            asyncio.get_running_loop(),
            sync,
            disk.apply,
            answers.append,
            background=InBackground(sync),
            apply_promptly=shelf.apply_promptly,
        )
        commit.start()
        commit.submit("a", answers.append)
        assert disk.events == ["prepare a", "sync", "apply a"]
        assert answers == ["A"] and commit.depth == 0
        commit.close()

    run_on_uvloop(run)


def test_a_disk_that_is_slow_is_not_waited_for_and_nothing_is_visible_before_it_is_durable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run() -> None:
        monkeypatch.setattr(commit_module, "PROMPT_WAIT_US", 1000)
        monkeypatch.setattr(commit_module, "PROMPT_SYNC_S", 0.0)
        disk = Disk()
        disk.gate.clear()
        shelf = Shelf(disk)
        loop = asyncio.get_running_loop()
        failures: list[EngineError] = []
        commit: GroupCommit[str, str] = GroupCommit(
            loop,
            disk.sync,
            disk.apply,
            failures.append,
            background=InBackground(disk.sync),
            apply_promptly=shelf.apply_promptly,
        )
        commit.start()
        answers = [loop.create_future() for _ in range(2)]
        commit.submit("a", answers[0].set_result)
        assert disk.events == ["prepare a", "forget"] and not answers[0].done()
        disk.gate.set()
        assert await asyncio.wait_for(answers[0], 60) == "A"
        commit.submit("b", answers[1].set_result)
        assert await asyncio.wait_for(answers[1], 60) == "B"
        assert disk.events == ["prepare a", "forget", "sync", "apply a", "sync", "apply b"]
        commit.close()
        assert failures == []

    run_on_uvloop(run)


def test_the_loop_does_not_stand_still_while_something_on_it_is_ready() -> None:
    async def run() -> None:
        disk = Disk()
        shelf = Shelf(disk)
        loop = asyncio.get_running_loop()
        commit: GroupCommit[str, str] = GroupCommit(
            loop,
            disk.sync,
            disk.apply,
            print,
            background=InBackground(disk.sync),
            apply_promptly=shelf.apply_promptly,
        )
        commit.start()
        ready = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            loop.add_reader(ready, list)
            await asyncio.sleep(0.01)  # the loop looks at a new descriptor when it waits
            answer = loop.create_future()
            commit.submit("a", answer.set_result)
            loop.remove_reader(ready)
            assert await asyncio.wait_for(answer, 60) == "A"
            assert disk.events == ["sync", "apply a"]
        finally:
            os.close(ready)
            commit.close()

    run_on_uvloop(run)


def test_after_a_failed_sync_of_a_lone_waiter_nothing_is_visible_and_nothing_is_synced_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run() -> None:
        monkeypatch.setattr(commit_module, "PROMPT_WAIT_US", 10_000_000)
        disk = Disk()
        disk.fail_from = 1
        shelf = Shelf(disk)
        loop = asyncio.get_running_loop()
        failures: list[EngineError] = []
        commit: GroupCommit[str, str] = GroupCommit(
            loop,
            disk.sync,
            disk.apply,
            failures.append,
            background=InBackground(disk.sync),
            apply_promptly=shelf.apply_promptly,
        )
        commit.start()
        answers = [loop.create_future() for _ in range(2)]
        for item, answer in zip("ab", answers, strict=True):
            commit.submit(item, answer.set_result)
            assert isinstance(await asyncio.wait_for(answer, 60), StorageFailed)
        assert disk.events == ["prepare a"] and disk.sync_count == 1
        assert len(failures) == 1 and commit.depth == 0
        commit.close()

    run_on_uvloop(run)


def test_what_cannot_be_synced_in_the_background_is_left_to_the_thread() -> None:
    async def run() -> None:
        disk = Disk()
        loop = asyncio.get_running_loop()
        background = InBackground(disk.sync)
        background.is_available = False
        commit: GroupCommit[str, str] = GroupCommit(loop, disk.sync, disk.apply, print, background=background)
        commit.start()
        answer = loop.create_future()
        commit.submit("a", answer.set_result)
        assert await asyncio.wait_for(answer, 60) == "A"
        assert disk.events == ["sync", "apply a"]
        commit.close()

    asyncio.run(run())
