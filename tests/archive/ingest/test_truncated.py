"""Data sets that end early: refused on the way in, found where they are stored, and superseded by whole ones."""

from __future__ import annotations

import asyncio
import zlib
from pathlib import Path

import pytest

from engine.access import FULL
from engine.archive import completeness, verify
from engine.archive.archive import Archive
from engine.archive.commitment.judge import Judge, Verdict
from engine.archive.ingest.entry import make_entry, scan
from engine.archive.ingest.live import Ingestor
from engine.archive.ingest.request import POLICIES, ReceivedInstance, StoreRequest
from engine.archive.lifecycle import quarantine
from engine.dicom import elements
from engine.dicom.schema import STANDARD
from engine.errors import EngineError, InstanceQuarantined, InstanceRefused
from engine.index.format.types import Outcome
from engine.storage.record import crc32c
from tests import samples
from tests.actors import actor
from tests.archive import kept
from tests.archive.lifecycle.test_quarantine import ROOM, Borrowed, Unparseable, listed, sent_in_parts

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"


def request(
    number: int, *, accept_truncated: bool = False, syntax: str = EXPLICIT, policy: str = "keep-first"
) -> StoreRequest:
    return StoreRequest(
        syntax, "MODALITY", CT, kept.uid_of(number), True, POLICIES[policy], accept_truncated=accept_truncated
    )


def sent(archive: Archive, payload: bytes, asked: StoreRequest) -> Outcome | EngineError:
    """What a worker's ingestor answers."""

    async def run() -> Outcome | EngineError:
        loop = asyncio.get_running_loop()
        ingestor = Ingestor(loop, archive.writer("test"), lambda error: None, Unparseable(archive.parts.index, ROOM))
        answer: asyncio.Future[Outcome | EngineError] = loop.create_future()
        ingestor.store(Borrowed(payload), asked, answer.set_result)
        return await asyncio.wait_for(answer, 60)

    return asyncio.run(run())


def store_cut(archive: Archive, payload: bytes) -> None:
    """As an earlier version did, which did not look at the end."""
    found = scan([payload], EXPLICIT, STANDARD)
    assert found.cut
    entry = make_entry(
        found,
        STANDARD,
        transfer_syntax_uid=EXPLICIT,
        calling_ae_title="OLD",
        sop_class_uid=None,
        sop_instance_uid=None,
        accept_truncated=True,
    )
    store = archive.writer("old")
    store.append(entry, [payload], len(payload), crc32c(payload), POLICIES["keep-first"])
    store.log.sync()
    store.apply([entry])


def verdict(archive: Archive, number: int, verify_: str = "index") -> Verdict:
    judge = Judge(archive, lambda uid: True, asyncio.Event())  # type: ignore[arg-type]
    (answer,) = judge.verdicts(
        [(CT, kept.uid_of(number))], scope=FULL, verify=verify_, bytes_per_s=1 << 30, whole=set()
    )
    return answer


def stored(archive: Archive, number: int) -> bytes:
    return archive.read(kept.current(archive, kept.uid_of(number)))


@pytest.mark.parametrize("large", [False, True])
def test_what_is_cut_is_refused_with_the_reason_and_kept_in_quarantine(tmp_path: Path, large: bool) -> None:
    whole = kept.data_set(1, pixels=300_000 if large else 512)
    with kept.opened(tmp_path) as archive:
        if large:
            with pytest.raises(InstanceQuarantined) as caught:
                sent_in_parts(archive, whole[:-7], request(1))
            answer: object = caught.value
        else:
            answer = sent(archive, whole[:-7], request(1))
        assert isinstance(answer, InstanceQuarantined)
        assert str(answer) == "the data set ends within (7FE0,0010), 7 bytes early"
        assert archive.parts.index.locate(kept.uid_of(1).encode()) is None
        (one,) = listed(archive)
        assert archive.read(one.instance) == whole[:-7]
        with pytest.raises(InstanceRefused, match="7 bytes early"):
            quarantine.readmit(archive, one.id, policy="keep-first", actor=actor())
        assert verify.check(archive, payloads=True).findings == []


def test_a_document_that_comes_in_parts_is_found_by_what_stands_behind_it(tmp_path: Path) -> None:
    ds = samples.instance(1, 1, 1)
    del ds.PixelData
    ds.add_new(0x00420011, "OB", bytes(400_000))
    ds.add_new(0x00700084, "PN", "Last^Wanted")
    payload = samples.encoded(ds)
    asked = StoreRequest(EXPLICIT, "MODALITY", CT, str(ds.SOPInstanceUID), True, 0)
    with kept.opened(tmp_path) as archive:
        assert sent_in_parts(archive, payload, asked) is Outcome.STORED
        instance = kept.current(archive, str(ds.SOPInstanceUID))
        assert archive.read(instance) == payload
        assert elements.blob_items(instance.attributes)[0x00700084] == b"Last^Wanted"
        assert verify.check(archive, payloads=True).findings == []
    with kept.opened(tmp_path) as archive:
        assert kept.current(archive, str(ds.SOPInstanceUID)).position == instance.position


def test_a_peer_that_may_cut_is_warned_and_its_instance_never_committed(tmp_path: Path) -> None:
    whole = kept.data_set(1)
    with kept.opened(tmp_path) as archive:
        assert sent(archive, whole[:-9], request(1, accept_truncated=True)) is Outcome.TRUNCATED
        assert sent(archive, whole[:-9], request(1, accept_truncated=True)) is Outcome.TRUNCATED  # again
        assert stored(archive, 1) == whole[:-9]
        for how in ("index", "read"):
            assert verdict(archive, 1, how) is Verdict.TRUNCATED
        report = verify.check(archive, payloads=False)
        assert [str(finding).split(": ")[1] for finding in report.findings] == [
            f"the data set ends within (7FE0,0010), 9 bytes early (SOP Instance UID {kept.uid_of(1)})"
        ]
        assert sent(archive, whole, request(1)) is Outcome.REPLACED
        assert stored(archive, 1) == whole
        assert verdict(archive, 1) is Verdict.COMMITTED
        assert sent(archive, whole[:-20], request(1, accept_truncated=True, policy="replace")) is Outcome.KEPT_ASIDE
        assert stored(archive, 1) == whole


@pytest.mark.parametrize("way", ["store", "batch", "parts", "stream"])
def test_a_whole_version_takes_the_place_of_one_that_an_earlier_version_stored_cut(tmp_path: Path, way: str) -> None:
    whole = kept.data_set(1, pixels=250_000)
    with kept.opened(tmp_path) as archive:
        store_cut(archive, whole[:-5000])
        assert completeness.cut_of(archive.parts.reader, kept.current(archive, kept.uid_of(1))).endswith(
            "5000 bytes early"
        )
        if way == "store":
            outcome: object = sent(archive, whole, request(1))
        elif way == "batch":
            (outcome,) = archive.ingest_batch([ReceivedInstance([whole], len(whole), crc32c(whole), EXPLICIT)])
        elif way == "parts":
            outcome = sent_in_parts(archive, whole, request(1))
        else:
            outcome = archive.ingest_stream(iter([whole[:1000], whole[1000:]]), transfer_syntax_uid=EXPLICIT)
        assert outcome is Outcome.REPLACED
        assert stored(archive, 1) == whole
        assert sent(archive, kept.data_set(1, pixels=100), request(1)) is Outcome.KEPT_ASIDE  # whole against whole
        assert stored(archive, 1) == whole


def test_a_deflate_stream_that_ends_early_is_refused(tmp_path: Path) -> None:
    deflater = zlib.compressobj(wbits=-15)
    deflated = deflater.compress(kept.data_set(1, pixels=20_000)) + deflater.flush()
    with kept.opened(tmp_path) as archive:
        answer = sent(archive, deflated[:-4], request(1, syntax=DEFLATED))
        assert isinstance(answer, InstanceQuarantined)
        assert "deflate stream" in str(answer)
        assert sent(archive, deflated, request(1, syntax=DEFLATED)) is Outcome.STORED
        assert verify.check(archive, payloads=False).findings == []


def test_whole_pixel_data_of_another_length_than_its_attributes_say_is_stored_and_named(tmp_path: Path) -> None:
    ds = samples.instance(1, 1, 1, pixels=bytes(600))
    ds.Rows, ds.Columns = 16, 16
    payload = samples.encoded(ds)
    with kept.opened(tmp_path) as archive:
        (outcome,) = archive.ingest_batch([ReceivedInstance([payload], len(payload), crc32c(payload), EXPLICIT)])
        assert outcome is Outcome.STORED
        report = verify.check(archive, payloads=False)
        assert report.findings == []
        assert report.counts["pixel_data_length_differs"] == 1
        assert "Pixel Data has 600 bytes, its attributes describe 512" in str(report.oddities[0])
