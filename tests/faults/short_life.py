"""A short life of an archive in a process that may be killed at any call: the program of test_injection.

Run with faulty_libc preloaded. It imports everything once and then forks a child a life, so that hundreds of lives take
seconds. A line on stdin asks for one life, as JSON; lines on stdout tell what the world outside was told:

    sent N             right before instance N was handed over        ack N      it was acknowledged
    late N             acknowledged, and it was handed over after the fault
    refused N ERROR    deleting N, deleted N      the same for a deletion
    stopped ERROR      the process ends itself, as a server does after a storage failure
    unexpected ERROR   anything else that came out
    end STATUS FIRED COUNTS    from the parent: exit status, whether the fault happened (not known after a kill), calls
"""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import orjson

from engine.archive.archive import Archive, StorageOptions
from engine.archive.ingest.live import Ingestor
from engine.archive.ingest.request import StoreRequest
from engine.archive.lifecycle.compaction import Compactor
from engine.config import Compaction
from engine.errors import EngineError
from engine.index.format.entry import POLICY_KEEP_FIRST
from engine.index.format.types import Level, Query
from engine.storage.record import crc32c
from tests.actors import actor
from tests.faults.faulty_libc import Action, Armed, Call
from tests.peer import CT, EXPLICIT
from tests.system.ingest import GeneratedInstance, study_number

STUDY = study_number(1)
SEGMENT_BYTES = 256 << 10
LARGE = next(number for number in range(100, 1000) if len(GeneratedInstance(STUDY, number).data_set()) > SEGMENT_BYTES)
"""The number of an instance that takes a segment of its own."""
STUDY_INSTANCE_UID, SOP_INSTANCE_UID = 0x0020000D, 0x00080018


class Received:
    """A data set, or a part of one, as the front end hands it over."""

    def __init__(self, data: bytes, offset: int = 0, crc: int = 0) -> None:
        self.buffers = [data]
        self.length = len(data)
        self.offset = offset
        self.crc = crc32c(data, crc)
        self.head = memoryview(data)
        self._data = data

    def to_bytes(self) -> bytes:
        return self._data

    def release(self) -> None:
        pass


class Arming(Protocol):
    """What tells whether the fault has happened."""

    def has_fired(self) -> bool: ...


class Stopped(Exception):
    """The storage has failed: a server ends now."""


@dataclass
class Life:
    """One life; everything it does is told."""

    archive: Archive
    armed: Arming
    failed: EngineError | None = None
    writes_behind: bool = True
    """Whether some are acknowledged before they are synced: a kill must not lose them, a power cut may."""

    def tell(self, *words: object) -> None:
        """One line, at once."""
        tell(*words)

    async def ingest(self) -> None:
        """Groups, a duplicate, a large instance, a streamed one, a write-behind one, rolls and checkpoints."""
        archive = self.archive
        store = archive.writer("short-life", StorageOptions(segment_bytes=SEGMENT_BYTES))
        archive.prepare_writer()
        ingestor = Ingestor(asyncio.get_running_loop(), store, self._failed)
        await self.store(ingestor, 0, 1, 2)
        self.checkpoint()
        await self.store(ingestor, 3)
        await self.store(ingestor, 3)
        await self.store(ingestor, LARGE)
        await self.stream(ingestor, 4)
        await self.store(ingestor, 5, 6, 7, 8, durable=not self.writes_behind)
        self.checkpoint()
        await self.store(ingestor, 9, 10)
        ingestor.close()
        failed = self.failed or store.log.failed
        if failed is not None:
            raise Stopped(failed)

    def _failed(self, error: EngineError) -> None:
        self.failed = error

    async def store(self, ingestor: Ingestor, *numbers: int, durable: bool = True) -> None:
        """Instances that are outstanding together."""
        loop = asyncio.get_running_loop()
        answers = []
        for number in numbers:
            made = GeneratedInstance(STUDY, number)
            request = StoreRequest(EXPLICIT, "SHORT", CT, made.uid, durable, POLICY_KEEP_FIRST)
            answer: asyncio.Future[object] = loop.create_future()
            word = "late" if self.armed.has_fired() else "ack"
            self.tell("sent", number)
            ingestor.store(Received(made.data_set()), request, answer.set_result)
            answers.append((number, word, answer))
        for number, word, answer in answers:
            self._tell_answer(number, word, await answer)

    async def stream(self, ingestor: Ingestor, number: int) -> None:
        """One that comes in two parts."""
        made = GeneratedInstance(STUDY, number)
        data = made.data_set()
        first = Received(data[:-200])
        word = "late" if self.armed.has_fired() else "ack"
        self.tell("sent", number)
        outcome: object
        try:
            stream = ingestor.begin_stream(StoreRequest(EXPLICIT, "SHORT", CT, made.uid, True, POLICY_KEEP_FIRST))
            await stream.write(first)
            outcome = await stream.finish(Received(data[first.length :], first.length, first.crc))
        except EngineError as error:
            outcome = error
        self._tell_answer(number, word, outcome)

    def _tell_answer(self, number: int, word: str, answer: object) -> None:
        if isinstance(answer, EngineError):
            self.tell("refused", number, type(answer).__name__)
        else:
            self.tell(word, number)

    def checkpoint(self) -> None:
        """As the keeper's thread does; its failure stops the server."""
        assert self.archive.parts.keeper is not None
        self.archive.parts.keeper.checkpoint()

    def delete(self, *numbers: int) -> None:
        """One by one; each is told before and after."""
        for number in numbers:
            self.tell("deleting", number)
            keys = {SOP_INSTANCE_UID: GeneratedInstance(STUDY, number).uid.encode()}
            self.archive.delete(Query(Level.IMAGE, keys, relational=True), actor=actor(), reason="short life")
            self.tell("deleted", number)

    def compact(self) -> None:
        """Whatever has a dead byte."""
        Compactor(self.archive, Compaction(), segment_bytes=SEGMENT_BYTES, everything=True).run()


def tell(*words: object) -> None:
    """A line to whoever asked."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def live(data: str, scenario: str, armed: Armed) -> int:
    """A whole life; the exit code."""
    try:
        # The keeper's thread would make the n-th call another one each time; checkpoints are taken by hand.
        archive = Archive.open(Path(data), role="keeper", create=True, sync_interval_s=3600.0)
        life = Life(archive, armed)
        if scenario == "ingest":
            asyncio.run(life.ingest())
        elif scenario == "delete":
            life.delete(0, 5, LARGE, 9)
            life.compact()
        archive.close()
    except (EngineError, Stopped) as error:
        tell("stopped", type(error).__name__, error)
        return 3
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-3:]
        tell("unexpected", repr(error), *(f"{Path(frame.filename).name}:{frame.lineno}" for frame in where))
        return 4
    return 0


def main() -> None:
    """Reads requests until there are no more."""
    armed = Armed()
    for line in sys.stdin:
        request = orjson.loads(line)
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read_end)
            armed.arm(
                Call[request["call"]], request["at"], Action[request["action"]], request["number"], request["data"]
            )
            code = live(request["data"], request["scenario"], armed)
            os.write(write_end, orjson.dumps([armed.has_fired(), armed.counts()]))
            os._exit(code)
        os.close(write_end)
        with os.fdopen(read_end, "rb") as pipe:
            left = pipe.read()
        _, status = os.waitpid(pid, 0)
        fired, counts = orjson.loads(left) if left else (True, {})
        tell("end", os.waitstatus_to_exitcode(status), int(fired), orjson.dumps(counts).decode())


if __name__ == "__main__":
    main()
