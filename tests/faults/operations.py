"""What a history is made of: one small class an operation, which does it to the archive and tells the model.

An operation that the archive cannot do yet says so (`can_run`). One that fails with an EngineError leaves its events in
flight; what to do then is the history's business.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field
from typing import ClassVar

from engine.archive import verify
from engine.archive.ingest.request import ReceivedInstance
from engine.dicom import tags
from engine.errors import CorruptRecord, EngineError
from engine.index.format.types import Level, Outcome, Query
from engine.storage.record import crc32c
from tests.faults.model import Broken, Event, Model, Shown
from tests.faults.world import EXPLICIT, World

ROOT = "1.2.826.0.1.3680043.10.1599.7"
CT = "1.2.840.10008.5.1.4.1.1.2"
POLICIES = ("keep-first", "replace", "keep-both-versions")
STUDIES, SERIES, INSTANCES = 3, 2, 4


def _element(tag: int, vr: bytes, value: bytes) -> bytes:
    value += (b"\0" if vr in (b"UI", b"OB") else b" ") * (len(value) % 2)
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    if vr == b"OB":
        return head + struct.pack("<HI", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def data_set(uid: str, variant: int, pixel_bytes: int) -> bytes:
    """The instance of a UID, `ROOT.study.series.number`; another variant has other pixels."""
    study, series, number = uid.rsplit(".", 3)[1:]
    pixels = random.Random(f"{uid} {variant}").randbytes(max(pixel_bytes, 4))
    return b"".join(
        (
            _element(tags.SOPClassUID, b"UI", CT.encode()),
            _element(tags.SOPInstanceUID, b"UI", uid.encode()),
            _element(tags.StudyDate, b"DA", b"20260102"),
            _element(tags.Modality, b"CS", b"CT"),
            _element(tags.PatientName, b"PN", b"Doe^Jane"),
            _element(tags.PatientID, b"LO", b"P" + study.encode()),
            _element(tags.StudyInstanceUID, b"UI", study_of(uid).encode()),
            _element(tags.SeriesInstanceUID, b"UI", f"{ROOT}.{study}.{series}".encode()),
            _element(tags.InstanceNumber, b"IS", number.encode()),
            _element(tags.PixelData, b"OB", pixels),
        )
    )


def study_of(uid: str) -> str:
    return uid.rsplit(".", 2)[0]


@dataclass
class Scene:
    """What an operation acts on."""

    world: World
    model: Model
    rng: random.Random
    fresh: int = 0
    """UIDs that were never used before begin after this number."""
    did: list[str] = field(default_factory=lambda: [""])
    """What has happened, in words."""

    def pick(self) -> tuple[str, bytes]:
        """A UID that is not in doubt, and a data set for it."""
        rng = self.rng
        for _ in range(8):
            uid = f"{ROOT}.{rng.randrange(STUDIES)}.{rng.randrange(SERIES)}.{rng.randrange(INSTANCES)}"
            if self.model.is_certain(uid) and study_of(uid) not in self.model.held_in_doubt:
                return uid, data_set(uid, rng.randrange(3), rng.choice((0, 40, 600, 3000)))
        return self.pick_new()

    def pick_new(self) -> tuple[str, bytes]:
        """A UID that nobody has seen."""
        self.fresh += 1
        uid = f"{ROOT}.{self.rng.randrange(STUDIES)}.{self.rng.randrange(SERIES)}.{1000 + self.fresh}"
        return uid, data_set(uid, 0, self.rng.choice((0, 600, 3000)))

    def outcome(self, event: Event, before: Shown, outcome: object) -> None:
        """Compares the archive's answer with what the rules say."""
        if self.world.disk.fault_hit:
            return  # a stored copy that cannot be read just now is replaced: STORED
        after = self.model.expected(event.uid)
        if before.current is None:
            expected = {Outcome.STORED}
        elif event.data == before.current:
            expected = {Outcome.DUPLICATE}
        elif after.current == event.data:
            expected = {Outcome.REPLACED}
        elif event.is_recorded and event.data in before.versions:
            expected = {Outcome.DUPLICATE}
        else:
            expected = {Outcome.KEPT_ASIDE}
        if outcome not in expected:
            raise Broken(f"{event.uid}: answered {outcome!r}, the rules say {expected} after {before}")


class Operation:
    """One thing that can be done to an archive."""

    weight: ClassVar[int] = 1
    """How often a random history does it."""
    every: ClassVar[list[type[Operation]]] = []

    def __init_subclass__(cls) -> None:
        Operation.every.append(cls)

    def can_run(self, scene: Scene) -> bool:
        """Whether this archive can do it now."""
        return True

    def run(self, scene: Scene) -> None:
        """Does it. Raises EngineError, PowerCut or Broken."""
        raise NotImplementedError


# in ------------------------------------------------------------------------------------------------


def received(data: bytes) -> ReceivedInstance:
    return ReceivedInstance([data], len(data), crc32c(data), EXPLICIT, "FAULTS")


class Import(Operation):
    """A batch from files: durable when it returns."""

    weight = 10

    def run(self, scene: Scene) -> None:
        policy = scene.rng.choice(POLICIES)
        chosen = dict(scene.pick() for _ in range(scene.rng.choice((1, 1, 1, 2, 4))))
        self.store(scene, chosen, policy)

    @staticmethod
    def store(scene: Scene, chosen: dict[str, bytes], policy: str) -> None:
        model = scene.model
        before = {uid: model.expected(uid) for uid in chosen}
        events = [model.tried(uid, data, policy, "keeper") for uid, data in chosen.items()]
        answers = scene.world.keeper.ingest_batch([received(data) for data in chosen.values()], policy=policy)
        for event, answer in zip(events, answers, strict=True):
            if isinstance(answer, EngineError):
                if not scene.world.disk.fault_hit:
                    raise Broken(f"{event.uid}: refused: {answer}")
                continue
            model.acknowledged(event, durable=True)
            scene.outcome(event, before[event.uid], answer)
        scene.did[-1] += f" {policy} {[(uid[-7:], len(data)) for uid, data in chosen.items()]}"


class Stream(Operation):
    """An object larger than memory: durable when it returns."""

    weight = 3

    def run(self, scene: Scene) -> None:
        policy = scene.rng.choice(POLICIES)
        uid, data = scene.pick()
        before = scene.model.expected(uid)
        event = scene.model.tried(uid, data, policy, "keeper", is_recorded=True)
        cut = max(len(data) - scene.rng.randrange(1, 1500), 400)
        chunks = [data[:cut], *(data[at : at + 700] for at in range(cut, len(data), 700))]
        answer = scene.world.keeper.ingest_stream(
            iter(chunks), transfer_syntax_uid=EXPLICIT, calling_ae_title="FAULTS", policy=policy
        )
        scene.model.acknowledged(event, durable=True)
        scene.outcome(event, before, answer)


class StreamGivenUp(Operation):
    """A sender that goes away in the middle: nothing of it may stay."""

    def run(self, scene: Scene) -> None:
        _, data = scene.pick_new()
        store = scene.world.keeper.writer("keeper", scene.world.options)
        appender = store.log.begin_stream(1, 0, 1, b"1.2.3", 100)
        appender.write([data], len(data))
        if scene.rng.random() < 0.7:
            appender.abort()


class Receive(Operation):
    """Some C-STOREs at once to one worker, which commits them as a group: durable or write-behind."""

    weight = 12

    def can_run(self, scene: Scene) -> bool:
        return bool(scene.world.workers)

    def run(self, scene: Scene) -> None:
        rng = scene.rng
        model = scene.model
        worker = rng.choice(scene.world.workers)
        durable = rng.random() < 0.5
        policy = rng.choice(POLICIES)
        chosen = dict(scene.pick() for _ in range(rng.choice((1, 1, 2, 3, 6))))
        answers: dict[str, object] = {}
        before = {uid: model.expected(uid) for uid in chosen}
        events: list[Event] = []
        for uid, data in chosen.items():
            events.append(model.tried(uid, data, policy, worker.name))
            worker.submit(data, CT, uid, durable, policy, lambda answer, uid=uid: answers.__setitem__(uid, answer))
        worker.run()
        scene.did[-1] += f" {worker.name} {'durable' if durable else 'write-behind'} {policy} {len(chosen)}"
        failed: EngineError | None = worker.failed
        for event in events:
            answer = answers.get(event.uid)
            if answer is None:
                raise Broken(f"{event.uid}: no answer")
            if isinstance(answer, EngineError):
                failed = failed or answer
            else:
                model.acknowledged(event, durable=durable)
                scene.outcome(event, before[event.uid], answer)
        if failed is not None:
            raise failed


class ReceiveAtOnce(Operation):
    """The same UID from two associations in one group: each is appended before it sees the other."""

    weight = 2

    def can_run(self, scene: Scene) -> bool:
        return bool(scene.world.workers)

    def run(self, scene: Scene) -> None:
        rng = scene.rng
        worker = rng.choice(scene.world.workers)
        uid, first = scene.pick_new()
        second = first if rng.random() < 0.5 else data_set(uid, 1, 100)
        policy = rng.choice(POLICIES)
        answers: list[object] = []
        events = [Event(uid, data, policy, worker.name, is_recorded=True) for data in (first, second)]
        scene.model.events[uid] += events
        for data in (first, second):
            worker.submit(data, CT, uid, True, policy, answers.append)
        worker.run()
        for event, answer in zip(events, answers, strict=True):
            if isinstance(answer, EngineError):
                raise answer
            scene.model.acknowledged(event, durable=True)


# out -----------------------------------------------------------------------------------------------


class Retrieve(Operation):
    """A study is named, found and read; every byte is compared."""

    weight = 3

    def run(self, scene: Scene) -> None:
        study = f"{ROOT}.{scene.rng.randrange(STUDIES)}"
        query = Query(Level.STUDY, {tags.StudyInstanceUID: study.encode()})
        archive = scene.world.keeper
        found = archive.instances(query)
        for instance in found:
            uid = instance.sop_instance_uid
            try:
                data = archive.read(instance)
            except CorruptRecord:
                if uid in scene.model.damaged:
                    continue
                raise
            if data not in scene.model.sent(uid):
                raise Broken(f"{uid}: served what was never sent")
        wanted = {uid for uid in scene.model.current() if study_of(uid) == study}
        missing = wanted - {instance.sop_instance_uid for instance in found}
        if missing:
            raise Broken(f"a retrieval of {study} does not name {missing}")


class Find(Operation):
    """Every instance is listed."""

    weight = 2

    def run(self, scene: Scene) -> None:
        found = listed(scene.world)
        missing = scene.model.current() - found
        extra = found - {uid for uid, events in scene.model.events.items() if events}
        if missing or extra:
            raise Broken(f"a query lacks {missing} and lists {extra}")


def listed(world: World) -> set[str]:
    """The SOP Instance UIDs that a query gives."""
    query = Query(Level.IMAGE, {tags.SOPInstanceUID: b""}, relational=True)
    return {match.attributes[tags.SOPInstanceUID].rstrip(b"\0").decode() for match in world.keeper.find(query)}


# keeping -------------------------------------------------------------------------------------------


class Checkpoint(Operation):
    """What the keeper does every second."""

    weight = 5

    def run(self, scene: Scene) -> None:
        keeper = scene.world.keeper.parts.keeper
        assert keeper is not None
        keeper.checkpoint()
        scene.model.synced()


class Seal(Operation):
    """What a worker's thread does when a segment is full."""

    weight = 2

    def run(self, scene: Scene) -> None:
        scene.world.keeper.writer("keeper").seal_rolled()
        for worker in scene.world.workers:
            worker.store.seal_rolled()


class Prepare(Operation):
    """The next segment is made ahead."""

    def run(self, scene: Scene) -> None:
        scene.world.keeper.prepare_writer()


class WorkerDies(Operation):
    """kill -9 of one worker; the keeper takes over what it left."""

    weight = 2

    def can_run(self, scene: Scene) -> bool:
        return bool(scene.world.workers)

    def run(self, scene: Scene) -> None:
        worker = scene.world.workers.pop(scene.rng.randrange(len(scene.world.workers)))
        worker.kill()
        scene.world.recover_dead_workers()
        # A recovered segment has been synced.
        scene.model.synced(worker.name)


class Check(Operation):
    """What `filmroom check` does."""

    def run(self, scene: Scene) -> None:
        check(scene)


def check(scene: Scene) -> None:
    """Raises Broken when the log and the index disagree."""
    report = verify.check(scene.world.keeper, payloads=True)
    judge(scene, [str(finding) for finding in report.findings])


def judge(scene: Scene, findings: list[str]) -> None:
    """Damage that is found is damage that was done: by a bit that was flipped, or by a fault a moment ago."""
    if scene.world.disk.fault_hit:
        return
    excused = [*scene.model.damaged, *scene.model.damaged_places]
    unexplained = [finding for finding in findings if not any(what in finding for what in excused)]
    if unexplained:
        raise Broken(f"found {unexplained}")
