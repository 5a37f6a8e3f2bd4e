"""ingest.live, awaited, as HTTP uses it: whole data sets and parts, answers with UIDs, memory given back once."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from engine.archive.archive import Archive, StorageOptions
from engine.archive.ingest import committer
from engine.archive.ingest.live import Ingestor
from engine.archive.ingest.request import POLICIES, Answer, Payload, StoreRequest
from engine.archive.ingest.unparseable import QuarantineLimits, Unparseable
from engine.errors import EngineError, InstanceQuarantined, InstanceRefused, StorageError
from engine.index.format.types import Outcome
from engine.storage.record import crc32c
from tests import samples
from tests.archive import kept

Result = TypeVar("Result")

EXPLICIT, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"
ANY = StoreRequest(EXPLICIT, "browser", None, None, durable=True, policy=POLICIES["keep-first"])
STUDY = f"{samples.ROOT}.1"


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with kept.opened(tmp_path / "d") as archive:
        yield archive


def served(archive: Archive, script: Callable[[Ingestor], Awaitable[Result]]) -> Result:
    """What a script gets that runs beside an ingestor, on its loop."""
    failures: list[EngineError] = []

    async def run() -> Result:
        unparseable = Unparseable(archive.parts.index, QuarantineLimits(1 << 20, 10))
        ingestor = Ingestor(asyncio.get_running_loop(), archive.writer("test"), failures.append, unparseable)
        try:
            return await script(ingestor)
        finally:
            ingestor.close()

    result = asyncio.run(run())
    assert not failures
    return result


class Lent:
    """A data set of this many buffers; counts how often it is given back."""

    def __init__(self, data: bytes, pieces: int = 1) -> None:
        step = -(-len(data) // pieces)
        views = [memoryview(data)[at : at + step] for at in range(0, len(data), step)]
        self.returned = 0
        self.payload = Payload(views, len(data), crc32c(data), self._count)

    def _count(self) -> None:
        self.returned += 1


Step = Callable[[Ingestor], Awaitable[Answer]]


def whole(lent: Lent, request: StoreRequest = ANY) -> Step:
    return lambda ingestor: ingestor.ingest(lent.payload, request)


def in_parts(data: bytes, request: StoreRequest = ANY, pieces: int = 5) -> Step:
    async def step(ingestor: Ingestor) -> Answer:
        stream, crc = ingestor.begin_stream(request), 0
        length = -(-len(data) // pieces)
        for at in range(0, len(data), length):
            piece = data[at : at + length]
            crc = crc32c(piece, crc)
            await stream.write(Payload([piece], len(piece), crc))
        return await stream.answer(Payload([], 0, crc))

    return step


def answers(archive: Archive, *steps: Step) -> list[Answer]:
    """One after the other."""

    async def script(ingestor: Ingestor) -> list[Answer]:
        return [await step(ingestor) for step in steps]

    return served(archive, script)


@pytest.mark.parametrize("pieces", [1, 7])
def test_an_answer_says_what_the_instance_is_called(archive: Archive, pieces: int) -> None:
    lent = Lent(kept.data_set(0), pieces)
    (answer,) = answers(archive, whole(lent))
    assert answer == Answer(Outcome.STORED, samples.CT, kept.uid_of(0), STUDY, f"{STUDY}.1")
    assert lent.returned == 1
    (instance,) = archive.matching("instance")
    assert archive.read(instance) == kept.data_set(0)
    assert instance.calling_ae_title == "browser"


def test_what_comes_again_is_a_duplicate_and_other_bytes_are_kept_aside(archive: Archive) -> None:
    lents = [Lent(kept.data_set(0)), Lent(kept.data_set(0), 3), Lent(kept.data_set(0, StudyDescription="other"))]
    outcomes = [answer.outcome for answer in answers(archive, *map(whole, lents))]
    assert outcomes == [Outcome.STORED, Outcome.DUPLICATE, Outcome.KEPT_ASIDE]
    assert [lent.returned for lent in lents] == [1, 1, 1]


def test_of_many_at_once_each_is_answered(archive: Archive) -> None:
    async def script(ingestor: Ingestor) -> list[Answer]:
        return await asyncio.gather(*[ingestor.ingest(Lent(kept.data_set(n)).payload, ANY) for n in range(40)])

    many = served(archive, script)
    assert [answer.sop_instance_uid for answer in many] == [kept.uid_of(n) for n in range(40)]
    assert {answer.outcome for answer in many} == {Outcome.STORED}


def test_another_study_than_the_one_announced_is_refused(archive: Archive) -> None:
    lent = Lent(kept.data_set(1))
    first, answer = answers(
        archive,
        whole(Lent(kept.data_set(0)), replace(ANY, study_instance_uid=STUDY)),
        whole(lent, replace(ANY, study_instance_uid="1.2.3")),
    )
    assert first.outcome is Outcome.STORED
    assert isinstance(answer.outcome, InstanceRefused) and "another study" in str(answer.outcome)
    assert answer.sop_instance_uid == kept.uid_of(1)
    assert lent.returned == 1


def test_what_is_no_data_set_is_refused_and_has_no_name(archive: Archive) -> None:
    lent = Lent(b"\xff" * 64)
    (answer,) = answers(archive, whole(lent))
    assert isinstance(answer.outcome, InstanceQuarantined)
    assert (answer.sop_class_uid, answer.sop_instance_uid) == ("", "")
    assert lent.returned == 1


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_deflated_data_set_is_taken(archive: Archive, is_whole: bool) -> None:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = packer.compress(kept.data_set(0)) + packer.flush()
    lent = Lent(data if is_whole else data[:20])
    (answer,) = answers(archive, whole(lent, replace(ANY, transfer_syntax_uid=DEFLATED)))
    assert answer.outcome is Outcome.STORED if is_whole else isinstance(answer.outcome, InstanceRefused)
    assert lent.returned == 1


def test_a_stream_is_answered_like_a_whole_data_set(archive: Archive) -> None:
    data = kept.data_set(0, pixels=4096)
    first, *again = answers(archive, in_parts(data), in_parts(data), whole(Lent(data)))
    assert first == Answer(Outcome.STORED, samples.CT, kept.uid_of(0), STUDY, f"{STUDY}.1")
    assert [answer.outcome for answer in again] == [Outcome.DUPLICATE, Outcome.DUPLICATE]
    (instance,) = archive.matching("instance")
    assert archive.read(instance) == data


def test_a_stream_that_is_no_data_set_is_refused(archive: Archive) -> None:
    (answer,) = answers(archive, in_parts(b"\xff" * 4096, replace(ANY, sop_instance_uid="1.2.3")))
    assert isinstance(answer.outcome, InstanceQuarantined)


def test_a_caller_that_gives_up_takes_nothing_from_the_others(archive: Archive) -> None:
    lent = Lent(kept.data_set(0))

    async def script(ingestor: Ingestor) -> Answer:
        given_up = asyncio.ensure_future(ingestor.ingest(lent.payload, ANY))
        await asyncio.sleep(0)
        given_up.cancel()
        return await ingestor.ingest(Lent(kept.data_set(1)).payload, ANY)

    assert served(archive, script).outcome is Outcome.STORED
    assert lent.returned == 1
    assert len(list(archive.matching("instance"))) == 2


def test_after_the_end_an_error_is_the_answer(archive: Archive) -> None:
    async def script(ingestor: Ingestor) -> Answer:
        ingestor.commit.close()
        return await ingestor.ingest(Lent(kept.data_set(0)).payload, ANY)

    assert isinstance(served(archive, script).outcome, StorageError)


def test_what_is_prepared_is_prewritten_while_nothing_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "PREWRITE_AFTER_S", 0.01)
    monkeypatch.setattr(committer, "PREWRITE_PAUSE_S", 0.01)
    options = StorageOptions(segment_bytes=32 << 20, prewrite_bytes=16 << 20)

    async def script(ingestor: Ingestor) -> Answer:
        async with asyncio.timeout(60):
            while not segment_log.is_prewritten:
                await asyncio.sleep(0.01)
        return await ingestor.ingest(Lent(kept.data_set(0)).payload, ANY)

    with Archive.open(tmp_path / "d", role="keeper", create=True) as archive:
        segment_log = archive.writer("test", options).log
        segment_log.prepare(patience_s=0)
        assert not segment_log.is_prewritten
        assert served(archive, script).outcome is Outcome.STORED
