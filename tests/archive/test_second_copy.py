"""archive.receipts, copies.awaited, ingest.second_copy: an answer waits until a replica has the record on its disk."""

from __future__ import annotations

import asyncio
import shutil
import socket
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from engine.archive import receipts
from engine.archive.archive import Archive
from engine.archive.copies.replica import Destination, Replica, Shipped, promote
from engine.archive.copies.replication import Replication
from engine.archive.copies.replication_status import Status
from engine.archive.ingest.live import Ingestor
from engine.archive.ingest.request import POLICIES, Answer, Payload, StoreRequest
from engine.archive.ingest.second_copy import SecondCopies
from engine.archive.layout import Layout
from engine.archive.receipts import Desk, Kind
from engine.archive.settings import SecondCopySettings
from engine.errors import EngineError, ReplicationFailed, StorageError
from engine.index.format.types import Outcome
from engine.storage.files import Files
from engine.storage.record import Position, crc32c
from engine.storage.segment_store import LocalSegments
from tests.archive.filled import contents, opened, payload_of, store, uid
from tests.memory_segments import moved_away
from tests.system.server import wait_for

EXPLICIT = "1.2.840.10008.1.2.1"
AT_PEER = StoreRequest(EXPLICIT, "CT1", None, None, durable=True, policy=POLICIES["keep-first"], durable_at="peer")
HERE = replace(AT_PEER, durable_at="local")


class Running:
    """A replication in a thread, as `filmroom replicate` runs it."""

    def __init__(
        self,
        layout: Layout,
        target: Path,
        connect: Callable[[], Destination] | None = None,
        interval_s: float = 0.2,
    ) -> None:
        self._interval_s = interval_s
        self.failures: list[Exception] = []
        self._stop = threading.Event()
        self.one = Replication(
            layout,
            connect or (lambda: Replica(target, layout.archive_id, layout.lineage)),
            Status(str(target)),
            gives_receipts=True,
        )
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.one.run(self._stop, self._interval_s)
        except ReplicationFailed as error:
            self.failures.append(error)

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


@contextmanager
def replicating(
    layout: Layout, target: Path, connect: Callable[[], Destination] | None = None, interval_s: float = 0.2
) -> Iterator[Running]:
    running = Running(layout, target, connect, interval_s)
    try:
        yield running
    finally:
        running.end()


class Server:
    """An archive with its ingest, on the loop of a script."""

    def __init__(self, archive: Archive, target: Path, settings: SecondCopySettings) -> None:
        self.archive = archive
        self.settings = settings
        self.counters: Counter[str] = Counter()
        loop = asyncio.get_running_loop()
        data = archive.parts.layout.data
        self.copies = SecondCopies(loop, data, lambda: self.settings, self.counters)
        self.ingestor = Ingestor(loop, archive.writer("test"), self._failed, copies=self.copies)

    def _failed(self, error: EngineError) -> None:
        raise AssertionError(error)

    async def store(self, number: int, request: StoreRequest = AT_PEER, **attributes: object) -> Answer:
        payload = payload_of(1, 1, number, **attributes)
        return await self.ingestor.ingest(Payload([payload], len(payload), crc32c(payload)), request)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(300):
            while not condition():
                await asyncio.sleep(0.01)

    async def until_state(self, state: str) -> None:
        await self.until(lambda: self.copies.at("peer").snapshot()["state"] == state)


def served(data: Path, target: Path, script: Callable[[Server], Awaitable[None]], **settings: object) -> Counter[str]:
    """Runs a script beside an ingest; what was counted."""

    async def run(archive: Archive) -> Counter[str]:
        values = {"replica": str(target), "wait_s": 600.0, **settings}
        server = Server(archive, target, SecondCopySettings(**values))  # type: ignore[arg-type]
        try:
            await script(server)
        finally:
            await asyncio.get_running_loop().run_in_executor(None, lambda: None)
            server.ingestor.close()
        return server.counters

    with opened(data) as archive:
        return asyncio.run(run(archive))


def found_after_take_over(target: Path, copy: Path) -> set[str]:
    """What a replica has when it is promoted as it lies there; it is copied for that."""
    shutil.copytree(target, copy, ignore=shutil.ignore_patterns("index", "*.lock", "*.json.*"))
    promote(copy)
    with opened(copy) as archive:
        return set(contents(archive))


def test_all_that_was_acknowledged_is_found_when_the_replica_takes_over(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "replica"
    states: list[tuple[Path, set[str]]] = []

    async def script(server: Server) -> None:
        with replicating(server.archive.parts.layout, target):
            await server.until_state("ready")
            acknowledged: set[str] = set()

            async def sender(first: int) -> None:
                for number in range(first, first + 10):
                    answer = await server.store(number)
                    assert answer.outcome is Outcome.STORED
                    acknowledged.add(answer.sop_instance_uid)
                    if number % 7 == 0:
                        state = tmp_path / f"state{number}"
                        states.append((state, set(acknowledged)))
                        shutil.copytree(target, state, ignore=shutil.ignore_patterns("index", "*.lock", "*.json.*"))

            await asyncio.gather(*(sender(first) for first in (1, 11, 21, 31)))

    counters = served(source, target, script)
    assert counters == {"second_copy_peer_acknowledged": 40}
    assert len(states) == 5
    for state, acknowledged in states:
        promote(state)
        with opened(state) as archive:
            assert acknowledged <= contents(archive).keys()


def test_without_the_wait_instances_are_lost_with_the_machine(tmp_path: Path) -> None:
    """The control: the same replica, asked nothing."""
    source, target = tmp_path / "source", tmp_path / "replica"
    lost: set[str] = set()

    async def script(server: Server) -> None:
        layout = server.archive.parts.layout
        with replicating(layout, target) as running:
            await server.store(1, HERE)
            await server.until(lambda: running.one.status.caught_up_s > 0 and (target / "replica.json").exists())
        assert (await server.store(2, HERE)).outcome is Outcome.STORED
        lost.update({uid(1, 1, 2)} - found_after_take_over(target, tmp_path / "promoted"))

    served(source, target, script)
    assert lost == {uid(1, 1, 2)}


def test_while_the_replica_is_away_instances_are_refused_and_a_repeated_one_waits_for_it(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "replica"

    async def script(server: Server) -> None:
        first = await server.store(1)
        assert isinstance(first.outcome, StorageError)
        assert "no second copy: the replica" in str(first.outcome)
        refused = await server.store(2)
        assert isinstance(refused.outcome, StorageError)
        assert set(contents(server.archive)) == {uid(1, 1, 1)}, "what is refused at once is not stored"
        server.settings = replace_settings(server.settings, wait_s=60.0)
        again = asyncio.get_running_loop().create_task(server.store(1))
        await asyncio.sleep(0.3)
        assert not again.done()
        with replicating(server.archive.parts.layout, target):
            assert (await again).outcome is Outcome.DUPLICATE
            assert uid(1, 1, 1) in found_after_take_over(target, tmp_path / "promoted")

    counters = served(source, target, script, wait_s=0.3)
    assert counters == {"second_copy_peer_refused": 1, "second_copy_peer_acknowledged": 1}


def replace_settings(settings: SecondCopySettings, **changes: object) -> SecondCopySettings:
    values = {name: getattr(settings, name) for name in settings.__struct_fields__}
    return SecondCopySettings(**{**values, **changes})  # type: ignore[arg-type]


def test_if_the_configuration_says_so_instances_are_acknowledged_alone_and_counted(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "replica"

    async def script(server: Server) -> None:
        with replicating(server.archive.parts.layout, target):
            await server.until_state("ready")
            assert (await server.store(1)).outcome is Outcome.STORED
        await server.until_state("away")
        assert (await server.store(2)).outcome is Outcome.STORED
        assert (await server.store(3)).outcome is Outcome.STORED
        assert server.copies.at("peer").away_s > 0
        with replicating(server.archive.parts.layout, target):
            await server.until_state("ready")
            assert (await server.store(4)).outcome is Outcome.STORED
            assert len(found_after_take_over(target, tmp_path / "promoted")) == 4

    counters = served(source, target, script, when_away="local")
    assert counters == {"second_copy_peer_acknowledged": 2, "second_copy_peer_alone": 2}


@pytest.mark.parametrize("when_away", ["refuse", "local"])
def test_once_the_replica_was_promoted_its_old_source_acknowledges_nothing(tmp_path: Path, when_away: str) -> None:
    source, target = tmp_path / "source", tmp_path / "replica"

    async def script(server: Server) -> None:
        layout = server.archive.parts.layout
        with replicating(layout, target):
            assert (await server.store(1)).outcome is Outcome.STORED
        promote(target)
        zombie = Replication(
            layout,
            lambda: Replica(target, layout.archive_id, layout.lineage),
            Status(str(target)),
            gives_receipts=True,
        )
        desk = Desk(layout.data, receipts.replication_name(str(target)))
        with pytest.raises(ReplicationFailed, match="was promoted") as refused:
            zombie.run(threading.Event())
        assert refused.value.is_fenced
        desk.tell(Kind.FENCED)
        is_known = threading.Event()
        serving = threading.Thread(target=lambda: [desk.wait(0.02) for _ in iter(is_known.is_set, True)])
        serving.start()
        await server.until_state("fenced")
        is_known.set()
        serving.join()
        desk.close()
        for number in (2, 3):
            answer = await server.store(number)
            assert isinstance(answer.outcome, StorageError)
            assert "another machine continues" in str(answer.outcome)
        with opened(target) as promoted:
            assert set(contents(promoted)) == {uid(1, 1, 1)}

    served(source, target, script, when_away=when_away)


def test_answers_that_wait_while_the_replication_is_begun_anew_come(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "replica"
    is_open = threading.Event()

    async def script(server: Server) -> None:
        layout = server.archive.parts.layout

        class Cut(Replica):
            def commit(self, shipped: Sequence[Shipped]) -> None:
                if not is_open.is_set():
                    raise ReplicationFailed("the line is cut")
                super().commit(shipped)

        with replicating(layout, target, lambda: Cut(target, layout.archive_id, layout.lineage)):
            await server.until_state("ready")
            waiting = [asyncio.get_running_loop().create_task(server.store(number)) for number in range(1, 6)]
            await server.until(lambda: server.copies.at("peer").snapshot()["state"] == "away")
            assert not any(each.done() for each in waiting)
        is_open.set()
        with replicating(layout, target, lambda: Cut(target, layout.archive_id, layout.lineage)):
            answers = await asyncio.gather(*waiting)
        assert {answer.outcome for answer in answers} == {Outcome.STORED}

    served(source, target, script)


def test_a_large_object_waits_for_its_copy_too(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "replica"

    async def script(server: Server) -> None:
        payload = payload_of(1, 1, 9, pixels=bytes(range(256)) * 2000)
        with replicating(server.archive.parts.layout, target):
            stream = server.ingestor.begin_stream(AT_PEER)
            half, crc = len(payload) // 2, crc32c(payload[: len(payload) // 2])
            await stream.write(Payload([payload[:half]], half, crc))
            rest = payload[half:]
            answer = await stream.answer(Payload([rest], len(rest), crc32c(rest, crc)))
            assert answer.outcome is Outcome.STORED
            assert uid(1, 1, 9) in found_after_take_over(target, tmp_path / "promoted")

    assert served(source, target, script) == {"second_copy_peer_acknowledged": 1}


def test_a_large_object_may_take_longer(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "replica"

    async def script(server: Server) -> None:
        refused: dict[str, StorageError] = {}

        def note(name: str) -> Callable[[StorageError | None], None]:
            return lambda error: refused.update({name: error} if error else {})

        copy = server.copies.at("peer")
        copy.hold(Position(0, 64, 10, 10, 1 << 10, 0), note("small"))
        copy.hold(Position(1, 64, 10, 10, 10 << 30, 0), note("large"))
        await server.until(lambda: len(refused) > 0)
        assert set(refused) == {"small"} and copy.waiting_count == 1

    served(source, target, script, wait_s=0.2)


def test_where_no_socket_can_be_made_a_replication_goes_on(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "replica"
    with opened(source) as archive:
        (source / receipts.replication_name(str(target)) / "in the way").mkdir(parents=True)
        with replicating(archive.parts.layout, target) as running:
            store(archive, payload_of(1, 1, 1))
            wait_for(lambda: uid(1, 1, 1) in replicated(target))
            assert running.failures == []


def test_who_waits_for_a_record_that_is_in_the_bucket_only_has_a_receipt(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "replica"
    with opened(source) as archive:
        store(archive, payload_of(1, 1, 1))
        (instance,) = archive.matching("instance")
        layout = archive.parts.layout
        with replicating(layout, target):
            wait_for(lambda: uid(1, 1, 1) in replicated(target))
    place = moved_away(source, LocalSegments(layout.segments, Files()).segment_ids())
    (segment_id,) = place.segments
    name = receipts.replication_name(str(target))
    with replicating(replace(layout, elsewhere=place), target):
        wait_for(lambda: is_listening(source, name))
        with connected(source, name) as sock:
            while receipts.unpack(sock.recv(100))[0] is not Kind.READY:
                pass
            sock.send(next(receipts.pack(Kind.WANT, {segment_id: instance.position.end, segment_id + 1: 100})))
            while (found := receipts.unpack(sock.recv(100)))[0] is not Kind.HAVE:
                pass
            assert found[1] == {segment_id: instance.position.end}


def replicated(target: Path) -> set[str]:
    if not (target / "replica.json").exists():
        return set()
    with opened(target) as archive:
        return set(contents(archive))


class GoneAtOpen(Files):
    """Files that are gone when they are opened, after they were looked at."""

    is_gone = False

    def open(self, path: str, flags: int, mode: int = 0o640) -> int:
        if self.is_gone:
            raise FileNotFoundError(path)
        return super().open(path, flags, mode)


def test_a_segment_that_goes_while_it_is_waited_for_has_no_receipt(tmp_path: Path) -> None:
    files = GoneAtOpen()
    with opened(tmp_path / "source") as archive:
        store(archive, payload_of())
        layout = archive.parts.layout
        target = Replica(tmp_path / "replica", layout.archive_id, layout.lineage)
        one = Replication(layout, lambda: target, Status("replica"), files=files, gives_receipts=True)
        assert one.run_once()
        wanted = {segment_id: held.length for segment_id, held in one._held.items()}
        assert one._awaited._ship(target, wanted) == wanted
        one._source.forget_joins()
        files.is_gone = True
        assert one._awaited._ship(target, wanted) == {}
        one.close()


# -- the desk ---------------------------------------------------------------------------------------


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    one = Desk(tmp_path, "a.sock")
    yield one
    one.close()


def connected(folder: Path, name: str = "a.sock") -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(60)
    try:
        with receipts.address(folder, name) as path:
            sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock


def is_listening(folder: Path, name: str) -> bool:
    try:
        connected(folder, name).close()
    except OSError:
        return False
    return True


def test_a_receipt_goes_to_each_who_wants_no_more_than_is_there(desk: Desk, tmp_path: Path) -> None:
    one, other = connected(tmp_path), connected(tmp_path)
    one.send(next(receipts.pack(Kind.WANT, {1: 100, 2: 50})))
    other.send(next(receipts.pack(Kind.WANT, {1: 300})))
    assert desk.wait(1)
    while len(desk.wanted()) < 2 or desk.wanted()[1] < 300:
        desk.wait(0.01)
    assert desk.wanted() == {1: 300, 2: 50}
    desk.grant({1: 200})
    assert receipts.unpack(one.recv(100)) == (Kind.AWAY, receipts.TAKES_COMING)
    assert receipts.unpack(one.recv(100)) == (Kind.HAVE, {1: 200})
    assert desk.wanted() == {1: 300, 2: 50}
    desk.put_off([1, 2])
    assert not desk.wait(0.01)
    desk.renew()
    assert desk.wait(0.01)
    one.close()
    other.close()


def test_what_was_put_off_is_tried_when_somebody_wants_it_anew(desk: Desk, tmp_path: Path) -> None:
    """As an instance that is sent again when the place of the copies answers again."""
    worker = connected(tmp_path)
    worker.send(next(receipts.pack(Kind.WANT, {1: 100, 2: 50})))
    wait_for(lambda: desk.wait(0.01), what="the wish")
    desk.put_off([1, 2])
    assert not desk.wait(0.01)
    worker.send(next(receipts.pack(Kind.WANT, {1: 100})))
    wait_for(lambda: desk.wait(0.01), what="the same wish again")
    desk.grant({1: 100})
    assert not desk.wait(0.01), "the other one is put off as before"
    worker.close()


@pytest.mark.parametrize(
    "message",
    [b"\x09", b"\x02" + bytes(16), b"\x01" + bytes(15), b"\x01" * 40_000],
    ids=["no kind", "not of a worker", "half an entry", "too long"],
)
def test_who_sends_anything_else_is_cut_off(desk: Desk, tmp_path: Path, message: bytes) -> None:
    stranger = connected(tmp_path)
    desk.wait(0.1)
    stranger.recv(100)
    stranger.send(message)
    desk.wait(0.1)
    assert stranger.recv(100) == b""
    assert desk.wanted() == {}
    stranger.close()


def test_who_wants_too_much_is_cut_off(desk: Desk, tmp_path: Path) -> None:
    greedy = connected(tmp_path)
    ends = dict.fromkeys(range(receipts.WANTED_MAX + 1), 100)
    greedy.setblocking(False)
    for message in receipts.pack(Kind.WANT, ends):
        while True:
            try:
                greedy.send(message)
                break
            except BlockingIOError:
                desk.wait(0)
            except BrokenPipeError:
                break
    for _ in range(20):
        desk.wait(0)
    assert desk.wanted() == {}
    greedy.close()
