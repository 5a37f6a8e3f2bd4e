"""lifecycle.quarantine and unparseable: what stands apart is listed, exported, taken in and dropped, in bounds."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest

from engine.archive import verify
from engine.archive.archive import Archive
from engine.archive.ingest.live import Ingestor
from engine.archive.ingest.request import StoreRequest
from engine.archive.ingest.unparseable import QuarantineLimits, Unparseable
from engine.archive.lifecycle import quarantine
from engine.errors import (
    DeletionRefused,
    EngineError,
    ExportFailed,
    InstanceQuarantined,
    InstanceRefused,
    QuarantineError,
    Refusal,
)
from engine.index.format.entry import POLICY_KEEP_FIRST
from engine.index.format.types import Outcome
from engine.storage.record import crc32c
from tests import samples
from tests.actors import actor
from tests.archive import kept

UID = kept.uid_of(1)
EXPLICIT = "1.2.840.10008.1.2.1"
RUBBISH = b"\x08\x00\x16\x00UI\xff\xff" + b"Doe^Jane" * 100
"""A data set whose first element claims to be longer than there is."""
ROOM = QuarantineLimits(bytes_max=1 << 20, count_max=100)


class Borrowed:
    """A data set as the receiver hands it in; counts how often it is let go."""

    def __init__(self, payload: bytes, *, offset: int = 0, crc: int | None = None) -> None:
        self.buffers = [payload]
        self.length = len(payload)
        self.offset = offset
        self.crc = crc32c(payload) if crc is None else crc
        self.head = memoryview(payload)
        self.released = 0

    def to_bytes(self) -> bytes:
        return b"".join(self.buffers)

    def release(self) -> None:
        self.released += 1


def request(uid: str = UID, sop_class_uid: str = samples.CT, durable: bool = True) -> StoreRequest:
    return StoreRequest(EXPLICIT, "MODALITY", sop_class_uid, uid, durable, POLICY_KEEP_FIRST)


def sent(
    archive: Archive, *data_sets: tuple[bytes, StoreRequest], limits: QuarantineLimits | None = ROOM
) -> list[Outcome | EngineError]:
    """What a worker's ingestor answers, all sent at once."""

    async def run() -> list[Outcome | EngineError]:
        loop = asyncio.get_running_loop()
        failures: list[EngineError] = []
        unparseable = Unparseable(archive.parts.index, limits) if limits else None
        ingestor = Ingestor(loop, archive.writer("test"), failures.append, unparseable)
        answers: dict[int, Outcome | EngineError] = {}
        borrowed = [Borrowed(payload) for payload, _ in data_sets]

        def done(number: int) -> Callable[[Outcome | EngineError], None]:
            return lambda outcome: answers.__setitem__(number, outcome)

        for number, (data_set, (_, asked)) in enumerate(zip(borrowed, data_sets, strict=True)):
            ingestor.store(data_set, asked, done(number))
        async with asyncio.timeout(60):
            while len(answers) < len(data_sets):
                await asyncio.sleep(0.001)
        assert all(each.released for each in borrowed)
        assert failures == []
        return [answers[number] for number in range(len(data_sets))]

    return asyncio.run(run())


def sent_in_parts(archive: Archive, payload: bytes, asked: StoreRequest, limits: QuarantineLimits = ROOM) -> Outcome:
    """The same for an object that comes in parts of 100 000 bytes. Raises what it is refused for."""

    async def run() -> Outcome:
        loop = asyncio.get_running_loop()
        ingestor = Ingestor(loop, archive.writer("test"), lambda error: None, Unparseable(archive.parts.index, limits))
        parts = [payload[at : at + 100_000] for at in range(0, len(payload), 100_000)]
        stream = ingestor.begin_stream(asked)
        for part in parts[:-1]:
            await stream.write(Borrowed(part))
        return await stream.finish(Borrowed(parts[-1], crc=crc32c(payload)))

    return asyncio.run(run())


def listed(archive: Archive) -> list[quarantine.QuarantineItem]:
    return list(quarantine.list_all(archive))


def only(archive: Archive) -> quarantine.QuarantineItem:
    (one,) = listed(archive)
    return one


# in ------------------------------------------------------------------------------------------------


def test_what_cannot_be_parsed_is_refused_and_kept(tmp_path: Path) -> None:
    with kept.opened(tmp_path) as archive:
        (answer,) = sent(archive, (RUBBISH, request()))
        assert isinstance(answer, InstanceQuarantined)
        assert answer.refusal is Refusal.CANNOT_UNDERSTAND
        assert archive.parts.index.locate(UID.encode()) is None
        one = only(archive)
        facts = one.facts()
        assert (facts["kind"], facts["calling_ae_title"], facts["bytes"]) == ("unparseable", "MODALITY", len(RUBBISH))
        assert facts["sop_instance_uid"] == UID
        assert str(facts["reason"]).startswith("the data set ends within (")
        assert archive.read(one.instance) == RUBBISH
        assert archive.stats()["quarantined"] == 1
        assert verify.check(archive, payloads=True).counts["quarantined"] == 1


def test_one_whose_uids_are_not_those_announced_is_kept_too(tmp_path: Path) -> None:
    with kept.opened(tmp_path) as archive:
        (answer,) = sent(archive, (kept.data_set(1), request("1.2.3")))
        assert isinstance(answer, InstanceQuarantined)
        assert answer.refusal is Refusal.MISMATCH
        assert only(archive).instance.sop_instance_uid == "1.2.3"


def test_nothing_is_kept_where_it_is_switched_off(tmp_path: Path) -> None:
    with kept.opened(tmp_path) as archive:
        (answer,) = sent(archive, (RUBBISH, request()), limits=None)
        assert type(answer) is InstanceRefused
        assert listed(archive) == []


def test_the_list_says_nothing_of_what_is_in_a_data_set(tmp_path: Path) -> None:
    with kept.opened(tmp_path) as archive:
        kept.store(archive, [kept.data_set(1), kept.data_set(1, pixels=600)])
        sent(archive, (RUBBISH, request("1.2.3")))
        text = repr([one.facts() for one in listed(archive)])
        assert not re.search("Doe|Jane|P1|19700203", text), text


def test_a_flood_of_rubbish_is_bounded_and_every_piece_of_it_is_refused(tmp_path: Path) -> None:
    rng = random.Random(1)
    limits = QuarantineLimits(bytes_max=20_000, count_max=1000)
    flood = [(RUBBISH + rng.randbytes(8), request(f"1.2.{number}")) for number in range(200)]
    with kept.opened(tmp_path) as archive:
        answers = [answer for at in range(0, 200, 8) for answer in sent(archive, *flood[at : at + 8], limits=limits)]
        assert all(isinstance(answer, InstanceRefused) for answer in answers)
        kept_version_count = sum(isinstance(answer, InstanceQuarantined) for answer in answers)
        assert kept_version_count == len(listed(archive))
        # A handful may decide at the same moment.
        assert 20_000 - 1200 <= archive.parts.index.quarantined_bytes() <= 20_000 + 8 * 1200
        size = sum(path.stat().st_blocks * 512 for path in (tmp_path / "segments").iterdir())
        assert size < 4 << 20


def test_the_number_of_small_pieces_is_bounded_too(tmp_path: Path) -> None:
    with kept.opened(tmp_path) as archive:
        flood = [(b"x" * (number + 1), request(f"1.2.{number}")) for number in range(30)]
        answers = sent(archive, *flood, limits=QuarantineLimits(bytes_max=1 << 20, count_max=10))
        assert sum(isinstance(answer, InstanceQuarantined) for answer in answers) == 10
        assert len(listed(archive)) == 10


def test_what_a_device_sends_again_and_again_is_kept_once(tmp_path: Path) -> None:
    with kept.opened(tmp_path) as archive:
        for _ in range(5):
            (answer,) = sent(archive, (RUBBISH, request()))
            assert isinstance(answer, InstanceRefused)
        assert len(listed(archive)) == 1


@pytest.mark.parametrize("uid", ["", "9" * 4000, "1.2\0.3", "../../etc/passwd", "\x1b[2J"])
def test_odd_claims_do_no_harm(tmp_path: Path, uid: str) -> None:
    with kept.opened(tmp_path) as archive:
        sent(archive, (RUBBISH, request(uid)))
        path = quarantine.export(archive, only(archive), tmp_path / "out")
        assert path.parent == tmp_path / "out"
        assert re.fullmatch(r"[0-9a-f]{24}\.raw", path.name)
        assert path.read_bytes() == RUBBISH


def test_a_large_object_that_cannot_be_parsed_streams_into_quarantine(tmp_path: Path) -> None:
    payload = RUBBISH + random.Random(2).randbytes(900_000)
    with kept.opened(tmp_path) as archive:
        with pytest.raises(InstanceQuarantined):
            sent_in_parts(archive, payload, request())
        assert archive.read(only(archive).instance) == payload
        with pytest.raises(InstanceRefused) as caught:
            sent_in_parts(archive, payload, request())
        assert type(caught.value) is InstanceRefused, "the same bytes again are not kept twice"
        with pytest.raises(InstanceRefused) as caught:
            sent_in_parts(archive, payload + bytes(500_000), request("1.2.3"))
        assert type(caught.value) is InstanceRefused, "there is no room for it"
        assert len(listed(archive)) == 1
    assert len(list((tmp_path / "segments").glob("*.seg"))) == 1


# out -----------------------------------------------------------------------------------------------


def test_an_export_is_a_part_10_file_when_the_uids_make_one(tmp_path: Path) -> None:
    second = kept.data_set(1, pixels=600)
    with kept.opened(tmp_path) as archive:
        kept.store(archive, [kept.data_set(1), second])
        path = quarantine.export(archive, only(archive), tmp_path / "out")
        assert path.name == f"{only(archive).id}.dcm"
        assert path.read_bytes().endswith(second)
        assert pydicom.dcmread(path).SOPInstanceUID == UID
        with pytest.raises(ExportFailed):
            quarantine.export(archive, only(archive), path)


def test_a_version_that_is_readmitted_becomes_current_and_the_other_is_kept_aside(tmp_path: Path) -> None:
    first, second = kept.data_set(1), kept.data_set(1, pixels=600)
    with kept.opened(tmp_path) as archive:
        kept.store(archive, [first, second])
        identifier = only(archive).id
        assert quarantine.readmit(archive, identifier, policy="keep-first", actor=actor()) is Outcome.REPLACED
        assert archive.read(kept.current(archive, UID)) == second
        assert archive.read(only(archive).instance) == first
        with pytest.raises(QuarantineError):
            quarantine.readmit(archive, identifier, policy="keep-first", actor=actor())
        quarantine.readmit(archive, only(archive).id, policy="keep-first", actor=actor())
        assert archive.read(kept.current(archive, UID)) == first
        assert archive.read(only(archive).instance) == second
        assert verify.check(archive, payloads=True).findings == []
    Archive.rebuild_index(tmp_path)
    with kept.opened(tmp_path) as archive:
        assert archive.read(kept.current(archive, UID)) == first
        assert archive.read(only(archive).instance) == second


def test_what_only_lacks_a_uid_is_called_incomplete(tmp_path: Path) -> None:
    for reason, kind in (
        ("incomplete: Study Instance UID (0020,000D) is missing or empty", "incomplete"),
        ("Study Instance UID (0020,000D) is missing or empty", "incomplete"),  # as versions before 2026-11-29 wrote it
        ("the data set cannot be read: no element", "unparseable"),
    ):
        assert quarantine.kind_of(reason) == kind


def test_what_was_unparseable_is_tried_again_under_its_own_uids(tmp_path: Path) -> None:
    payload = kept.data_set(1)
    with kept.opened(tmp_path) as archive:
        sent(archive, (payload, request("1.2.3")), (RUBBISH, request("1.2.4")))
        ids = {one.instance.sop_instance_uid: one.id for one in listed(archive)}
        assert quarantine.readmit(archive, ids["1.2.3"], policy="keep-first", actor=actor()) is Outcome.STORED
        assert archive.read(kept.current(archive, UID)) == payload
        with pytest.raises(InstanceRefused):
            quarantine.readmit(archive, ids["1.2.4"], policy="keep-first", actor=actor())
        assert [one.instance.sop_instance_uid for one in listed(archive)] == ["1.2.4"]
    Archive.rebuild_index(tmp_path)
    with kept.opened(tmp_path) as archive:
        assert archive.read(kept.current(archive, UID)) == payload
        assert [one.instance.sop_instance_uid for one in listed(archive)] == ["1.2.4"]


def test_a_large_version_and_a_large_unparseable_one_are_readmitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "WHOLE_BYTES_MAX", 100_000)
    first, second = kept.data_set(1), kept.data_set(1, pixels=500_000)
    third = kept.data_set(2, pixels=500_000)
    with kept.opened(tmp_path) as archive:
        kept.store(archive, [first, second])
        quarantine.readmit(archive, only(archive).id, policy="keep-first", actor=actor())
        assert archive.read(kept.current(archive, UID)) == second
        sent(archive, (third, request("1.2.3")))
        (identifier,) = [one.id for one in listed(archive) if one.kind == quarantine.UNPARSEABLE]
        quarantine.readmit(archive, identifier, policy="keep-first", actor=actor())
        assert archive.read(kept.current(archive, kept.uid_of(2))) == third


def test_what_is_dropped_is_gone_and_nothing_else(tmp_path: Path) -> None:
    first, second = kept.data_set(1), kept.data_set(1, pixels=600)
    with kept.opened(tmp_path) as archive:
        kept.store(archive, [first, second])
        sent(archive, (RUBBISH, request("1.2.4")))
        for one in listed(archive):
            assert quarantine.drop(archive, one.id, actor=actor(), reason="looked at") == one
        assert listed(archive) == []
        assert archive.parts.index.quarantined_bytes() == 0
        assert archive.read(kept.current(archive, UID)) == first
        assert verify.check(archive, payloads=True).findings == []
        # It may come again.
        (answer,) = sent(archive, (RUBBISH, request("1.2.4")))
        assert isinstance(answer, InstanceQuarantined)
    Archive.rebuild_index(tmp_path)
    with kept.opened(tmp_path) as archive:
        assert [one.kind for one in listed(archive)] == [quarantine.UNPARSEABLE]
        assert archive.read(kept.current(archive, UID)) == first


def test_what_belongs_to_a_study_on_hold_is_not_dropped(tmp_path: Path) -> None:
    study = f"{samples.ROOT}.1"
    with kept.opened(tmp_path) as archive:
        kept.store(archive, [kept.data_set(1), kept.data_set(1, pixels=600)])
        sent(
            archive,
            (kept.data_set(2), request("1.2.3")),  # says itself where it belongs
            (RUBBISH, request(UID)),  # claims the UID of an instance of the study
            (RUBBISH, request("1.2.5")),  # says nothing
        )
        archive.set_holds([study], actor=actor(), reason="case")
        assert len(listed(archive)) == 4
        for one in listed(archive):
            if one.instance.sop_instance_uid == "1.2.5":
                quarantine.drop(archive, one.id, actor=actor(), reason="")
                continue
            with pytest.raises(DeletionRefused):
                quarantine.drop(archive, one.id, actor=actor(), reason="")
        assert len(listed(archive)) == 3
        archive.release_holds([study], actor=actor(), reason="closed")
        for one in listed(archive):
            quarantine.drop(archive, one.id, actor=actor(), reason="")
        assert listed(archive) == []


def test_an_unknown_id_is_said_so(tmp_path: Path) -> None:
    with kept.opened(tmp_path) as archive:
        for ask in (
            lambda: quarantine.find(archive, "0" * 24),
            lambda: quarantine.drop(archive, "../x", actor=actor(), reason=""),
            lambda: quarantine.readmit(archive, "", policy="replace", actor=actor()),
        ):
            with pytest.raises(QuarantineError):
                ask()
