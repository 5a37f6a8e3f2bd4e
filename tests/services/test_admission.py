"""Who is let in: associations counted across workers, stores refused near a limit and taken again, turns at reading."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.config import Config, Limits, Peer
from engine.errors import StorageFull
from engine.metrics import Histogram, Metrics
from engine.runtime import admission, associations_count, flow_control
from engine.runtime.admission import FULL_REPORT_S, Admission, Reason, full_comment
from engine.runtime.associations_count import AssociationsCount
from engine.runtime.flow_control import FlowControl
from engine.runtime.worker_memory import WorkerMemory
from engine.storage.files import Files
from tests import peer, samples
from tests.peer import CT, EXPLICIT, IMPLICIT, STUDY_ROOT_FIND, VERIFICATION
from tests.services.serving import LIMITS, Serving, serve
from tests.system.server import wait_for

STORE = (1, CT, [EXPLICIT])
FIND = (3, STUDY_ROOT_FIND, [IMPLICIT])
ECHO = (5, VERIFICATION, [IMPLICIT])
RESERVE = 1 << 30


# Counts --------------------------------------------------------------------------------------


def counts(workers: int) -> list[AssociationsCount]:
    fd = WorkerMemory.create(workers).fd
    return [WorkerMemory(fd, number).associations for number in range(workers)]


def test_associations_are_counted_across_workers_and_not_divided_among_them() -> None:
    first, second = counts(2)
    assert [first.enter("A", total_max=100, title_max=3) for _ in range(3)] == [True, True, True]
    assert not second.enter("A", total_max=100, title_max=3)
    assert second.enter("B", total_max=4, title_max=3)
    assert not second.enter("C", total_max=4, title_max=3)
    assert (first.total(), second.count("A"), first.count("B"), first.count("C")) == (4, 3, 1, 0)
    first.leave("A")
    assert second.enter("A", total_max=4, title_max=3)
    assert first.share("A") == pytest.approx(2 / 3)
    assert second.share("A") == pytest.approx(1 / 3)


def test_associations_are_counted_by_address_whatever_they_call_themselves() -> None:
    first, second = counts(2)

    def enter(worker: AssociationsCount, title: str, address: str) -> bool:
        return worker.enter(title, address, total_max=100, title_max=100, address_max=3)

    assert [enter(worker, f"T{n}", "10.0.0.1") for n, worker in enumerate((first, second, first))] == [True] * 3
    assert not enter(second, "ANOTHER", "10.0.0.1")
    assert not enter(second, "ANOTHER", "::ffff:10.0.0.1")
    assert enter(second, "ANOTHER", "10.0.0.2")
    assert second.enter("GATEWAY", "10.0.0.1", total_max=100, title_max=100, address_max=4)
    assert (first.count_from("10.0.0.1"), first.count_from("10.0.0.2"), first.total()) == (4, 1, 5)
    first.leave("T0", "10.0.0.1")
    assert not enter(first, "T0", "10.0.0.1")
    first.leave("T2", "10.0.0.1")
    assert enter(first, "T9", "10.0.0.1")
    assert first.count("ANOTHER") == 1, "who was not let in is not counted"


def test_an_ipv6_network_counts_as_one_address_but_not_a_link() -> None:
    (alone,) = counts(1)
    for address in ("2001:db8::1", "2001:db8::2:3", "fe80::1%eth0", "fe80::2"):
        assert alone.enter("A", address, total_max=9, title_max=9, address_max=2)
    assert not alone.enter("A", "2001:db8::9", total_max=9, title_max=9, address_max=2)
    assert alone.enter("A", "2001:db8:0:1::9", total_max=9, title_max=9, address_max=2)
    assert alone.count_from("fe80::1") == 1


def test_connections_without_an_address_are_not_counted_by_address() -> None:
    (alone,) = counts(1)
    for _ in range(5):
        assert alone.enter("A", "", total_max=9, title_max=9, address_max=1)


def test_a_worker_that_is_gone_holds_no_associations() -> None:
    supervisor = WorkerMemory.create(2)
    first, second = (WorkerMemory(supervisor.fd, number).associations for number in range(2))
    for _ in range(3):
        first.enter("A", total_max=9, title_max=9)
    second.enter("A", total_max=9, title_max=9)
    supervisor.clear(0)
    assert (second.total(), second.count("A")) == (1, 1)


@pytest.mark.parametrize("seed", range(3))
def test_associations_are_counted_as_a_table_would(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when there are more titles than rows: those count together, and never less than they are."""
    monkeypatch.setattr(associations_count, "OTHERS", 6)
    rng = random.Random(seed)
    workers = counts(3)
    open_: list[tuple[AssociationsCount, str]] = []
    for _ in range(3000):
        if open_ and rng.random() < 0.5:
            worker, title = open_.pop(rng.randrange(len(open_)))
            worker.leave(title)
        else:
            worker, title = rng.choice(workers), f"T{rng.randrange(12)}"
            if worker.enter(title, total_max=40, title_max=1000):
                open_.append((worker, title))
            else:
                assert len(open_) == 40, f"seed {seed}"
        assert workers[0].total() == len(open_), f"seed {seed}"
        asked = f"T{rng.randrange(12)}"
        have = sum(title == asked for _, title in open_)
        assert have <= workers[1].count(asked) <= len(open_), f"seed {seed}"
    for worker, title in open_:
        worker.leave(title)
    assert [workers[0].count(f"T{number}") for number in range(12)] == [0] * 12


def test_titles_that_contain_each_other_are_distinguished() -> None:
    (alone,) = counts(1)
    titles = ["A", "AA", "A A", "A" * 16, "\xe9" * 16, "", "B" * 8 + "A" * 8]
    for number, title in enumerate(titles, 1):
        for _ in range(number):
            assert alone.enter(title, total_max=99, title_max=99)
    assert [alone.count(title) for title in titles] == list(range(1, len(titles) + 1))


def test_a_worker_is_silent_since_its_last_heartbeat() -> None:
    memory = WorkerMemory.create(1)
    supervisor, worker = memory.heartbeat, WorkerMemory(memory.fd, 0).heartbeat
    assert supervisor.silent_s(0) == 0
    worker.beat()
    assert supervisor.silent_s(0) < 60
    assert supervisor.revoke(0, 7) == 0
    assert [worker.claim(serial) for serial in (7, 8)] == [False, True]


# Stores are refused and taken again --------------------------------------------------------------


class World:
    """What an `Admission` looks at, to be set."""

    def __init__(self, **limits: float) -> None:
        self.now = 100.0
        self.free = 100 << 30
        self.resident = 50 << 20
        self.waiting = 0
        self.latency = Histogram(1.0)
        self.metrics = Metrics()
        config = Config(limits=Limits(disk_reserve_bytes=RESERVE, **limits))  # type: ignore[arg-type]
        self.admission = Admission(
            lambda: config,
            self.metrics,
            free_bytes=lambda: self.free,
            sync_latency_s=self.latency,
            waiting_count=lambda: self.waiting,
            now=lambda: self.now,
            resident=lambda: self.resident,
        )

    def reason(self, passed_s: float = 1.0) -> Reason | None:
        self.now += passed_s
        self.admission.look()
        return self.admission.reason


def test_ingest_is_refused_below_the_disk_reserve_and_resumes_a_little_above_it() -> None:
    world = World()
    assert world.reason() is None
    world.free = RESERVE - 1
    assert world.reason() is Reason.DISK_RESERVE
    world.free = RESERVE + 1000
    assert world.reason() is Reason.DISK_RESERVE
    world.free = RESERVE + RESERVE // 16
    assert world.reason() is None


def test_a_full_disk_is_reported_for_a_while_and_smaller_instances_are_accepted() -> None:
    world = World()
    assert world.reason() is None
    world.admission.found_full()
    assert world.admission.snapshot()["reason"] == "disk reserve"
    assert world.reason() is None
    assert world.admission.refusal() is None
    world.now += FULL_REPORT_S
    assert world.admission.snapshot()["reason"] is None


def test_ingest_is_refused_above_the_memory_limit_and_resumes_at_nine_tenths() -> None:
    world = World(memory_bytes_max=100 << 20)
    world.resident = 101 << 20
    assert world.reason() is Reason.MEMORY
    world.resident = 95 << 20
    assert world.reason() is Reason.MEMORY
    world.resident = 90 << 20
    assert world.reason() is None


def test_slow_syncs_refuse_ingest_which_resumes_when_nothing_is_synced() -> None:
    world = World(sync_latency_s_max=2.0)
    world.latency.observe(30.0)
    assert world.reason() is Reason.SYNC_LATENCY
    looks = 0
    while world.reason() is not None:
        looks += 1
        assert looks < 30, "it never resumes"
    assert looks > 1


def test_one_slow_sync_among_quick_ones_refuses_nothing() -> None:
    world = World(sync_latency_s_max=2.0)
    for number in range(50):
        for _ in range(20):
            world.latency.observe(10.0 if number == 25 and _ == 0 else 0.001)
        assert world.reason(0.5) is None


def test_a_hanging_sync_refuses_ingest_before_it_returns() -> None:
    world = World(sync_latency_s_max=2.0)
    assert world.reason() is None
    world.waiting = 3
    assert world.reason(1.0) is None
    assert world.reason(1.5) is Reason.SYNC_LATENCY


@pytest.mark.parametrize("is_synced", [False, True])
def test_after_a_stall_instances_are_accepted_at_once(is_synced: bool) -> None:
    world = World(sync_latency_s_max=2.0)
    world.waiting = 3
    for _ in range(60):
        world.reason()
    assert world.admission.reason is Reason.SYNC_LATENCY
    world.waiting = 0
    if is_synced:
        world.latency.observe(0.01)
    assert world.reason() is None


def test_the_state_is_not_measured_for_every_instance() -> None:
    world = World()
    assert world.reason() is None
    world.free = 0
    assert world.reason(admission.CHECK_S / 2) is None
    assert world.reason(admission.CHECK_S / 2) is Reason.DISK_RESERVE


def test_refused_instances_are_counted_by_reason() -> None:
    world = World()
    world.free = 0
    for _ in range(3):
        refused = world.admission.refusal()
        assert str(refused) == "out of resources: disk reserve"
    assert not world.admission.rejects()
    world.free, world.resident, world.now = 100 << 30, 100 << 30, world.now + 1
    assert world.admission.rejects()
    assert dict(world.metrics.counters) == {
        "stores_refused_disk_reserve": 3,
        "associations_rejected_for_admission": 1,
    }


@pytest.mark.parametrize(
    ("number", "comment"),
    [
        (errno.ENOSPC, "disk reserve"),
        (errno.EDQUOT, "disk reserve"),
        (errno.EMFILE, "open files"),
        (errno.ENOMEM, "memory"),
    ],
)
def test_a_store_without_space_in_the_log_has_the_same_status(number: int, comment: str) -> None:
    error = StorageFull("pwritev")
    error.__cause__ = OSError(number, "no")
    assert full_comment(error) == f"out of resources: {comment}"
    assert full_comment(StorageFull("the reserve")) == "out of resources: disk reserve"


# On associations ---------------------------------------------------------------------------------


class SmallDisk(Files):
    """Says how much is free, as it was told."""

    __slots__ = ("free",)

    def __init__(self) -> None:
        self.free = 100 << 30

    def free_bytes(self, path: str) -> int:
        return self.free


def instance(number: int, size: int = 512) -> tuple[str, bytes]:
    ds = samples.instance(number=number, pixels=bytes([number % 256]) * size)
    return str(ds.SOPInstanceUID), samples.encoded(ds)


def store(scripted: peer.Peer, number: int, size: int = 512) -> tuple[int, str]:
    """Status and Error Comment."""
    uid, data_set = instance(number, size)
    scripted.send(peer.message(1, peer.c_store_rq(number, CT, uid), data_set))
    answer = scripted.expect_message()
    return answer.status(), answer.command.get(peer.ERROR_COMMENT, b"").decode().strip()


def find_count(scripted: peer.Peer) -> int:
    keys = peer.identifier({0x00080052: "IMAGE", 0x00080018: ""})
    scripted.send(peer.message(3, peer.query_rq(peer.C_FIND_RQ, 1, STUDY_ROOT_FIND), keys))
    count = 0
    while scripted.expect_message().status() in (0xFF00, 0xFF01):
        count += 1
    return count


@pytest.mark.parametrize("size", [512, LIMITS.stream_threshold_bytes * 3], ids=["small", "large"])
def test_below_the_disk_reserve_stores_are_refused_and_all_else_works(tmp_path: Path, size: int) -> None:
    disk = SmallDisk()
    config = Config(data=tmp_path / "data", limits=Limits(disk_reserve_bytes=RESERVE, stream_threshold_bytes=256 << 10))

    def script(serving: Serving) -> None:
        numbers = iter(range(1, 10_000))
        with serving.call() as scripted:
            scripted.associate(STORE, FIND, ECHO)
            stored = 0
            answers: list[tuple[int, str]] = []

            def next_is_refused() -> bool:
                answers.append(store(scripted, next(numbers), size))
                return answers[-1][0] != 0

            assert not next_is_refused()
            disk.free = RESERVE - 1
            wait_for(next_is_refused, what="the refusal")
            assert answers[-1] == (0xA700, "out of resources: disk reserve")
            stored = len(answers) - 1
            segments = Path(serving.archive.parts.layout.segments)
            written = sum(path.stat().st_blocks for path in segments.iterdir())
            for _ in range(3):
                assert next_is_refused()
            assert sum(path.stat().st_blocks for path in segments.iterdir()) == written
            assert serving.services.engine.metrics.counters["stores_refused_disk_reserve"] == 4
            scripted.echo(5)
            assert find_count(scripted) == stored
            disk.free = 100 << 30
            wait_for(lambda: not next_is_refused(), what="taken again")
            assert find_count(scripted) == sum(status == 0 for status, _ in answers)
            scripted.release()

    serve(tmp_path / "data", script, files=disk, config=config)


def test_an_association_that_only_stores_is_rejected_while_memory_is_short_and_others_are_served(
    tmp_path: Path,
) -> None:
    config = Config(data=tmp_path / "data", limits=Limits(disk_reserve_bytes=0, memory_bytes_max=1))

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.send(peer.associate_rq([STORE]))
            assert scripted.expect_reject() == (2, 3, 2)
        with serving.call() as scripted:
            scripted.associate(STORE, FIND, ECHO)
            assert store(scripted, 1) == (0xA700, "out of resources: memory")
            scripted.echo(5)
            assert find_count(scripted) == 0
            scripted.release()
        counters = serving.services.engine.metrics.counters
        assert (counters["associations_rejected_for_admission"], counters["stores_refused_memory"]) == (1, 1)

    serve(tmp_path / "data", script, config=config)


def test_a_peer_has_its_configured_number_of_associations(tmp_path: Path) -> None:
    config = Config(
        data=tmp_path / "data",
        limits=Limits(disk_reserve_bytes=0, associations_per_peer_max=1),
        peers=(Peer(aet="TWO", associations_max=2),),
    )

    def script(serving: Serving) -> None:
        with serving.call() as first, serving.call() as second, serving.call() as third, serving.call() as other:
            first.associate(ECHO, calling="TWO")
            second.associate(ECHO, calling="TWO")
            third.send(peer.associate_rq([ECHO], calling="TWO"))
            assert third.expect_reject() == (2, 3, 2)
            other.associate(ECHO, calling="ONE")
            first.release()
            wait_for(lambda: serving.services.engine.associations.count("TWO") == 1, what="its end")
            with serving.call() as again:
                again.associate(ECHO, calling="TWO")
                again.release()
            second.release()
            other.release()
        assert serving.services.engine.metrics.counters["associations_rejected_for_number"] == 1

    serving = serve(tmp_path / "data", script, config=config)
    assert serving.services.engine.associations.total() == 0
    assert serving.services.associations_count == 0


def test_the_association_limit_of_an_address_applies_to_all_its_titles(tmp_path: Path) -> None:
    config = Config(
        data=tmp_path / "data",
        limits=Limits(disk_reserve_bytes=0, associations_per_address_max=2),
        peers=(Peer(aet="GATEWAY", associations_per_address_max=3),),
    )

    def script(serving: Serving) -> None:
        with serving.call() as first, serving.call() as second, serving.call() as third, serving.call() as fourth:
            first.associate(ECHO, calling="ONE")
            second.associate(ECHO, calling="TWO")
            third.send(peer.associate_rq([ECHO], calling="THREE"))
            assert third.expect_reject() == (2, 3, 2)
            fourth.associate(ECHO, calling="GATEWAY")
            with serving.call() as fifth:
                fifth.send(peer.associate_rq([ECHO], calling="GATEWAY"))
                assert fifth.expect_reject() == (2, 3, 2)
            for scripted in (first, second, fourth):
                scripted.release()
        wait_for(lambda: serving.services.engine.associations.total() == 0, what="their ends")
        with serving.call() as again:
            again.associate(ECHO, calling="THREE")
            again.release()

    serving = serve(tmp_path / "data", script, config=config)
    assert serving.services.engine.associations.count_from("127.0.0.1") == 0
    assert serving.services.engine.metrics.counters["associations_rejected_for_number"] == 2


def test_operations_beyond_the_window_are_refused_with_their_status(tmp_path: Path) -> None:
    config = Config(data=tmp_path / "data", limits=Limits(disk_reserve_bytes=0, asynchronous_window=2))

    def script(serving: Serving) -> None:
        keys = peer.identifier({0x00080052: "IMAGE", 0x00080018: ""})
        with serving.call() as scripted:
            scripted.associate(FIND, ECHO)
            # In one PDU, so that none is answered before all have come.
            values = []
            for message_id in (1, 2, 2, 3):
                rq = peer.query_rq(peer.C_FIND_RQ, message_id, STUDY_ROOT_FIND)
                values += [peer.pdv(3, rq, command=True, last=True), peer.pdv(3, keys, command=False, last=True)]
            scripted.send(peer.p_data(*values))
            answers = [scripted.expect_message() for _ in range(4)]
            assert sorted((answer.responded_to(), answer.status()) for answer in answers) == [
                (1, 0),
                (2, 0),
                (2, 0xA700),
                (3, 0xA700),
            ]
            scripted.echo(5)
            scripted.release()
        assert serving.services.engine.metrics.counters["operations_refused"] == 2

    serve(tmp_path / "data", script, config=config)


def test_cancels_for_operations_that_do_not_run_are_not_kept(tmp_path: Path) -> None:
    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(FIND, ECHO)
            for message_id in range(200):
                scripted.send(peer.message(3, peer.c_cancel_rq(message_id)))
            scripted.echo(5)
            assert not serving.acceptors[0].session._cancelled
            scripted.release()

    serve(tmp_path / "data", script)


def test_a_data_set_that_is_too_long_is_refused_in_parts_or_whole(tmp_path: Path) -> None:
    config = Config(
        data=tmp_path / "data",
        limits=Limits(disk_reserve_bytes=0, stream_threshold_bytes=256 << 10, data_set_bytes_max=2000),
    )

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(STORE)
            for size in (4000, 1 << 20):
                assert store(scripted, size % 251, size) == (0xA700, "out of resources: the data set is too long")
            scripted.release()

    serve(tmp_path / "data", script, config=config)


def test_stores_wait_for_retrievals_and_are_all_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_control, "COMPETING_BYTES", 0)  # as if something were always retrieved
    config = Config(
        data=tmp_path / "data",
        limits=Limits(disk_reserve_bytes=0, ingest_during_retrieval_bytes_per_s_max=16 << 20),
    )

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(STORE)
            for number in range(1, 9):
                assert store(scripted, number, 700_000)[0] == 0
            scripted.release()
        assert serving.services.engine.metrics.counters["ingest_waits_for_retrieval"] >= 8

    serve(tmp_path / "data", script, config=config)


def test_a_peer_with_little_bandwidth_waits_and_is_answered(tmp_path: Path) -> None:
    config = Config(
        data=tmp_path / "data",
        limits=LIMITS,
        peers=(Peer(aet="SLOW", bandwidth_bytes_per_s_max=4 << 20),),
    )

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(STORE, calling="SLOW")
            for number in range(1, 6):
                assert store(scripted, number, 150_000)[0] == 0
            assert serving.services.engine.metrics.counters["waits_for_bandwidth"] >= 4
            scripted.release()
        with serving.call() as scripted:
            scripted.associate(STORE, calling="OTHER")
            for number in range(11, 16):
                assert store(scripted, number, 150_000)[0] == 0
            scripted.release()
        assert serving.services.engine.metrics.counters["waits_for_bandwidth"] <= 5

    serve(tmp_path / "data", script, config=config)


# Turns at reading --------------------------------------------------------------------------------


class Reading:
    """A connection that only notes what it is told."""

    def __init__(self, held: int = 0) -> None:
        self.held_bytes = held
        self.received_bytes = held
        self.pauses = 0
        self.aborted = ""

    def pause_reading(self) -> None:
        self.pauses += 1

    def resume_reading(self) -> None:
        self.pauses -= 1
        assert self.pauses >= 0

    def abort(self, why: str, source: int = 0, reason: int = 0) -> None:
        self.aborted = why
        self.held_bytes = 0


class Ticks:
    """A `FlowControl` whose ticks are called by the test."""

    def __init__(self, peers: tuple[Peer, ...] = (), share: float = 1.0, **limits: float) -> None:
        config = Config(limits=Limits(**limits), peers=peers)  # type: ignore[arg-type]
        self.metrics = Metrics()
        self.chunks = 0
        self.scheduled = 0
        self.flow = FlowControl(
            lambda: config,
            self.metrics,
            share=lambda title: share,
            call_later=self._later,
        )
        self.flow.ingest_bytes.append(lambda: self.chunks)

    def _later(self, delay_s: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        self.scheduled += 1
        return None  # type: ignore[return-value]

    def began(self, title: str = "A", held: int = 0) -> Reading:
        reading = Reading(held)
        self.flow.began(reading, title)
        return reading


def test_ingest_has_a_budget_a_tick_while_a_retrieval_sends_as_fast_as_it_can() -> None:
    size = 512 << 10
    ticks = Ticks(ingest_during_retrieval_bytes_per_s_max=int(2 * size / flow_control.TICK_S))
    readings = [ticks.began(f"T{number}") for number in range(6)]
    taken = 0
    for _ in range(30):
        ticks.flow.sent(4 << 20)
        ticks.flow.tick()
        for reading in readings:
            if not reading.pauses:
                taken += 1
                ticks.flow.received(reading, size)
    # Six could send in every tick: 180. Two may; the first tick still lets each of the six send one.
    assert 60 <= taken <= 68
    assert ticks.flow.waiting_count > 0
    ticks.flow.tick()
    ticks.flow.tick()
    assert not ticks.flow.competing
    assert [reading.pauses for reading in readings] == [0] * 6
    for reading in readings:
        ticks.flow.received(reading, size)
    assert [reading.pauses for reading in readings] == [0] * 6


def test_all_peers_are_served_during_a_retrieval() -> None:
    size = 512 << 10
    ticks = Ticks(ingest_during_retrieval_bytes_per_s_max=int(size / flow_control.TICK_S))
    readings = [ticks.began() for _ in range(5)]
    counts = [0] * 5
    for _ in range(50):
        ticks.flow.sent(4 << 20)
        ticks.flow.tick()
        for number, reading in enumerate(readings):
            if not reading.pauses:
                counts[number] += 1
                ticks.flow.received(reading, size)
    assert max(counts) - min(counts) <= 2, counts


def test_a_retrieval_that_waits_for_its_peer_does_not_block_others() -> None:
    ticks = Ticks(ingest_during_retrieval_bytes_per_s_max=1)
    reading = ticks.began()
    for _ in range(10):
        ticks.flow.sent(flow_control.COMPETING_BYTES // 2)
        ticks.flow.tick()
        ticks.flow.received(reading, 10 << 20)
        assert not reading.pauses


def test_the_bandwidth_of_a_peer_is_shared_by_its_associations() -> None:
    rate = 10 << 20
    ticks = Ticks(peers=(Peer(aet="SLOW", bandwidth_bytes_per_s_max=rate),))
    slow = [ticks.began("SLOW") for _ in range(3)]
    quick = ticks.began("QUICK")
    taken = 0
    for _ in range(100):
        for reading in slow:
            if not reading.pauses:
                taken += 1 << 20
                ticks.flow.received(reading, 1 << 20)
        ticks.flow.received(quick, 8 << 20)
        assert not quick.pauses
        ticks.flow.tick()
    wanted = rate * flow_control.TICK_S * 100
    assert wanted <= taken <= wanted + (3 << 20)


def test_each_worker_limits_a_peer_to_its_part_of_the_bandwidth() -> None:
    peers = (Peer(aet="SLOW", bandwidth_bytes_per_s_max=10 << 20),)
    taken = []
    for share in (1.0, 0.25):
        ticks = Ticks(peers, share)
        reading = ticks.began("SLOW")
        count = 0
        for _ in range(400):
            if not reading.pauses:
                count += 1
                ticks.flow.received(reading, 1 << 20)
            ticks.flow.tick()
        taken.append(count)
    assert taken[1] == pytest.approx(taken[0] / 4, rel=0.1)


def test_a_title_holds_at_most_its_share_of_the_memory() -> None:
    ticks = Ticks(ingest_bytes_max=64 << 20, ingest_share_max=0.5)
    greedy = [ticks.began("GREEDY", 4 << 20) for _ in range(10)]
    modest = ticks.began("MODEST", 4 << 20)
    ticks.chunks = 44 << 20
    ticks.flow.tick()
    assert [reading.pauses for reading in greedy] == [0] * flow_control.TURNS + [1] * 6
    assert not modest.pauses
    # Those whose turn it is get on and end, and the next ones go on, until the rest is no more than the share.
    for reading in greedy[: flow_control.TURNS]:
        reading.held_bytes = 0
    ticks.flow.tick()
    assert [reading.pauses for reading in greedy] == [0] * 10


def test_when_memory_is_short_titles_take_turns() -> None:
    ticks = Ticks(ingest_bytes_max=64 << 20, ingest_share_max=1.0)
    many = [ticks.began("MANY", 4 << 20) for _ in range(20)]
    few = [ticks.began(f"FEW{number}", 4 << 20) for number in range(2)]
    idle = ticks.began("IDLE")
    ticks.chunks = 90 << 20
    ticks.flow.tick()
    assert [reading.pauses for reading in few] == [0, 0]
    assert sum(reading.pauses for reading in many) == 18
    assert not idle.pauses
    assert ticks.metrics.counters["waits_for_memory"] == 18


def test_an_association_that_holds_memory_without_using_its_turn_is_aborted() -> None:
    ticks = Ticks(ingest_bytes_max=64 << 20, ingest_share_max=1.0)
    stalled = [ticks.began(f"S{number}", 8 << 20) for number in range(20)]
    honest = ticks.began("HONEST", 1 << 20)
    ticks.chunks = 170 << 20
    for _ in range(6 * flow_control.TURN_TICKS):
        ticks.flow.tick()
        if not honest.pauses:
            honest.received_bytes += flow_control.TURN_BYTES_MIN // 10
    assert not honest.aborted
    assert not honest.pauses
    ended = [reading for reading in stalled if reading.aborted]
    assert len(ended) == ticks.metrics.counters["ended_for_memory"] >= 12
    assert sum(reading.held_bytes for reading in stalled) + honest.held_bytes <= 64 << 20


def test_a_waiting_association_that_ends_is_removed() -> None:
    ticks = Ticks(
        peers=(Peer(aet="A", bandwidth_bytes_per_s_max=64 << 10),),
        ingest_bytes_max=64 << 20,
        ingest_during_retrieval_bytes_per_s_max=1,
    )
    reading = ticks.began("A", 100 << 20)
    ticks.flow.sent(4 << 20)
    ticks.flow.received(reading, 1 << 20)
    ticks.chunks = 100 << 20
    ticks.flow.tick()
    assert ticks.flow.waiting_count == 1
    ticks.flow.ended(reading)
    assert ticks.flow.waiting_count == 0
    pauses = reading.pauses
    ticks.chunks = 0
    for _ in range(30):
        ticks.flow.tick()
    assert reading.pauses == pauses, "told after its end"


def test_the_timer_stops_when_there_is_nothing_to_check() -> None:
    ticks = Ticks()
    ticks.flow.wake()
    ticks.flow.wake()
    assert ticks.scheduled == 1
    ticks.flow._on_tick()
    assert ticks.scheduled == 1
    ticks.flow.wake()
    ticks.chunks = 1
    ticks.flow._on_tick()
    assert ticks.scheduled == 3
