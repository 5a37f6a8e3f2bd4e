"""lifecycle.resent and the duplicate rule: the same content in other bytes is no conflict, other content is one."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest

from engine.archive import likeness, verify
from engine.archive.archive import Archive
from engine.archive.ingest.request import ReceivedInstance
from engine.archive.lifecycle import quarantine, resent
from engine.archive.lifecycle.compaction import Compactor
from engine.archive.lifecycle.resent import VersionComparer
from engine.config import Compaction
from engine.dicom import convert, transfer_syntax
from engine.errors import ArchiveInUse, CorruptRecord, EngineError
from engine.index.format.types import Instance, Outcome
from engine.storage.record import crc32c
from tests import samples
from tests.actors import actor
from tests.archive import kept

EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
RLE = "1.2.840.10008.1.2.5"
UID = kept.uid_of(1)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return kept.opened(tmp_path / "data", segment_bytes=1 << 24)


def converted(payload: bytes, syntax: str) -> bytes:
    return convert.convert(payload, transfer_syntax.of(EXPLICIT), transfer_syntax.of(syntax))


def stored(archive: Archive, payload: bytes, syntax: str = EXPLICIT, policy: str = "keep-first") -> Outcome:
    item = ReceivedInstance([payload], len(payload), crc32c(payload), syntax, "ROUTER")
    [outcome] = archive.ingest_batch([item], policy=policy)
    assert not isinstance(outcome, EngineError), outcome
    return outcome


def padded(payload: bytes) -> bytes:
    """With Data Set Trailing Padding and a sector's zeros behind it."""
    return payload + struct.pack("<HH2sxxI", 0xFFFC, 0xFFFC, b"OB", 10) + bytes(10) + bytes(700)


def rle(payload: bytes, pixels: bytes) -> bytes:
    """The same, its 8-bit Pixel Data at the end as one RLE frame of literal runs."""
    at = payload.index(pixels) - 12
    runs = b"".join(bytes([len(run) - 1]) + run for run in (pixels[i : i + 128] for i in range(0, len(pixels), 128)))
    frame = struct.pack("<16I", 1, 64, *[0] * 14) + runs + bytes(len(runs) % 2)
    items = struct.pack("<HHIHHI", 0xFFFE, 0xE000, 0, 0xFFFE, 0xE000, len(frame)) + frame
    end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return payload[:at] + struct.pack("<HH2sxxI", 0x7FE0, 0x10, b"OB", 0xFFFFFFFF) + items + end


@pytest.mark.parametrize("syntax", [IMPLICIT, BIG_ENDIAN])
def test_what_is_small_and_native_is_compared_before_it_is_stored(archive: Archive, syntax: str) -> None:
    payload = kept.data_set(1)
    with archive:
        assert stored(archive, payload) is Outcome.STORED
        before = archive.stats()["live_bytes"] + archive.stats()["dead_bytes"]
        for _ in range(3):
            assert stored(archive, converted(payload, syntax), syntax) is Outcome.DUPLICATE
            assert stored(archive, padded(payload)) is Outcome.DUPLICATE
        assert archive.stats()["live_bytes"] + archive.stats()["dead_bytes"] == before
        assert archive.stats()["versions"] == 0


def test_other_content_is_kept_aside_and_stays(archive: Archive) -> None:
    with archive:
        stored(archive, kept.data_set(1))
        assert stored(archive, kept.data_set(1, PatientID="ANOTHER")) is Outcome.KEPT_ASIDE
        comparer = VersionComparer(archive)
        assert comparer.run() == 0
        assert comparer.counters.as_dict() == {"compared": 1, "same_content": 0, "other_content": 1}
        assert archive.stats()["versions"] == 1
        assert not comparer.step(), "it is compared once"


def test_a_version_that_comes_again_in_another_syntax_is_not_stored_again(archive: Archive) -> None:
    other = kept.data_set(1, PatientID="ANOTHER")
    with archive:
        stored(archive, kept.data_set(1))
        stored(archive, other)
        for _ in range(3):
            assert stored(archive, converted(other, IMPLICIT), IMPLICIT) is Outcome.KEPT_ASIDE
        assert archive.stats()["versions"] == 1


def test_replace_replaces_whatever_the_content_is(archive: Archive) -> None:
    payload = kept.data_set(1)
    with archive:
        stored(archive, payload)
        assert stored(archive, converted(payload, IMPLICIT), IMPLICIT, "replace") is Outcome.REPLACED
        assert kept.current(archive, UID).transfer_syntax_uid == IMPLICIT


@pytest.mark.parametrize("policy", ["keep-first", "keep-both-versions"])
def test_what_was_stored_first_is_compared_later_and_retired(archive: Archive, policy: str) -> None:
    payload = kept.data_set(1)
    with archive:
        stored(archive, payload)
        stored(archive, converted(payload, DEFLATED), DEFLATED, policy)
        assert archive.stats()["versions"] == 1
        assert VersionComparer(archive).run() == 1
        assert archive.stats()["versions"] == 0
        assert archive.stats()["conflicts"] == 0
        assert not verify.check(archive, payloads=True).findings


def test_pixels_are_decoded_when_both_sides_lose_nothing(archive: Archive) -> None:
    pixels = bytes(range(256)) * 2
    with archive:
        image = eight_bit(pixels)
        assert stored(archive, image) is Outcome.STORED
        assert stored(archive, rle(image, pixels), RLE) is Outcome.KEPT_ASIDE
        assert VersionComparer(archive).run() == 1
        other = rle(image, pixels).replace(b"\x10\x11\x12\x13", b"\x10\x11\x12\x14", 1)
        assert stored(archive, other, RLE) is Outcome.KEPT_ASIDE
        assert VersionComparer(archive).run() == 0
        assert archive.stats()["versions"] == 1


def eight_bit(pixels: bytes) -> bytes:
    """An image of 8 bits, its Pixel Data last."""
    bits = {"Rows": 32, "Columns": len(pixels) // 32, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    return samples.encoded(samples.instance(1, 1, 2, pixels=pixels, **bits))


def test_nothing_is_retired_on_legal_hold(archive: Archive) -> None:
    payload = kept.data_set(1)
    with archive:
        stored(archive, payload)
        stored(archive, converted(payload, DEFLATED), DEFLATED)
        study = kept.current(archive, UID).study_instance_uid
        archive.set_holds([study], actor=actor(), reason="court")
        assert VersionComparer(archive).run() == 0
        assert archive.stats()["versions"] == 1
        archive.release_holds([study], actor=actor(), reason="over")
        assert VersionComparer(archive, since_ns=0).run() == 1


def test_a_rebuilt_index_says_the_same_and_compaction_gives_the_space_back(tmp_path: Path) -> None:
    payload = kept.data_set(1)
    with kept.opened(tmp_path / "data") as archive:
        stored(archive, payload)
        for number in range(3):
            stored(archive, converted(payload + bytes(100 * number), DEFLATED), DEFLATED)
            assert VersionComparer(archive).run() == 1
    shutil.rmtree(tmp_path / "data" / "index")
    with kept.opened(tmp_path / "data") as archive:
        assert archive.stats()["versions"] == 0
        assert archive.read(kept.current(archive, UID)) == payload
        compact(archive)
        assert archive.read(kept.current(archive, UID)) == payload


def test_bytes_that_were_retired_are_known_when_they_come_again(tmp_path: Path) -> None:
    payload = kept.data_set(1)
    deflated = converted(payload, DEFLATED)
    with kept.opened(tmp_path / "data") as archive:
        stored(archive, payload)
        stored(archive, deflated, DEFLATED)
        assert VersionComparer(archive).run() == 1
        compact(archive)
        before = archive.stats()
        for _ in range(3):
            assert stored(archive, deflated, DEFLATED) is Outcome.DUPLICATE
        assert archive.stats() == before
    shutil.rmtree(tmp_path / "data" / "index")
    with kept.opened(tmp_path / "data") as archive:
        assert stored(archive, deflated, DEFLATED) is Outcome.DUPLICATE
        assert stored(archive, kept.data_set(1, patient_id="P2"), policy="replace") is Outcome.REPLACED
        assert stored(archive, deflated, DEFLATED) is Outcome.KEPT_ASIDE, "what it was the same as is gone"


def test_bytes_that_somebody_dropped_are_stored_when_they_come_again(archive: Archive) -> None:
    other = converted(kept.data_set(1, patient_id="P2"), DEFLATED)
    with archive:
        stored(archive, kept.data_set(1))
        for _ in range(2):
            assert stored(archive, other, DEFLATED) is Outcome.KEPT_ASIDE
            assert archive.stats()["versions"] == 1
            [version] = quarantine.list_all(archive)
            quarantine.drop(archive, version.id, actor=actor(likeness.BY), reason="seen")


def compact(archive: Archive) -> None:
    compactor = Compactor(archive, Compaction(dead_share_min=0.01), segment_bytes=kept.SEGMENT_BYTES)
    while compactor.step():
        pass


def test_a_damaged_copy_is_the_same_as_nothing(tmp_path: Path) -> None:
    payload = kept.data_set(1)
    with kept.opened(tmp_path / "data") as archive:
        stored(archive, payload)
        stored(archive, converted(payload, DEFLATED), DEFLATED)
        position = kept.current(archive, UID).position
        kept.turn_byte(tmp_path / "data", position.segment_id, position.payload_offset + position.payload_length - 4)
        assert VersionComparer(archive).run() == 0
        assert archive.stats()["versions"] == 1


def test_a_restart_does_not_compare_again_what_was_compared_long_ago(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resent, "LATE_NS", 0)
    with archive:
        stored(archive, kept.data_set(1))
        stored(archive, kept.data_set(1, PatientID="ANOTHER"))
        VersionComparer(archive).run()
        again = VersionComparer(archive)
        assert again.run() == 0
        assert again.counters.compared == 0
        stored(archive, converted(kept.data_set(1), DEFLATED), DEFLATED)
        assert VersionComparer(archive).run() == 1


def test_what_comes_while_another_is_compared_is_compared_next(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = kept.data_set(1)
    later = [converted(kept.data_set(2), DEFLATED)]
    is_same = resent.Judge.is_same

    def comparing(judge: resent.Judge, left: Instance, right: Instance) -> bool:
        while later:
            stored(archive, later.pop(), DEFLATED)
        return is_same(judge, left, right)

    monkeypatch.setattr(resent.Judge, "is_same", comparing)
    with archive:
        stored(archive, payload)
        stored(archive, kept.data_set(2))
        stored(archive, converted(payload, DEFLATED), DEFLATED)
        comparer = VersionComparer(archive)
        # A pass examines the versions of its beginning; whether it meets the later one is left to the index.
        for _ in range(3):
            comparer.step()
        comparer.close()
        assert comparer.counters.same_content == 2
        assert archive.stats()["versions"] == 0


def test_what_could_not_be_compared_is_compared_again_and_not_for_ever(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resent, "RETRY_S", 0.0)
    payload = kept.data_set(1)
    asked: list[str] = []

    def cannot(judge: resent.Judge, left: Instance, right: Instance) -> bool:
        asked.append(left.sop_instance_uid)
        raise CorruptRecord("the segment file is missing", 1, 4096)

    with archive:
        stored(archive, payload)
        stored(archive, converted(payload, DEFLATED), DEFLATED)
        assert archive.parts.index.version_count() == 1
        comparer = VersionComparer(archive)
        with monkeypatch.context() as patch:
            patch.setattr(resent.Judge, "is_same", cannot)
            comparer.step()
        assert archive.parts.index.version_count() == 1
        comparer.step()
        assert archive.parts.index.version_count() == 0
        stored(archive, converted(kept.data_set(1, PatientName="Other"), DEFLATED), DEFLATED)
        assert archive.parts.index.version_count() == 1
        asked.clear()
        monkeypatch.setattr(resent.Judge, "is_same", cannot)
        for _ in range(10):
            comparer.step()
        assert len(asked) == resent.ATTEMPTS_MAX
        comparer.close()


def test_what_could_not_be_retired_is_compared_again(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    payload = kept.data_set(1)
    with archive:
        stored(archive, payload)
        stored(archive, converted(payload, DEFLATED), DEFLATED)
        comparer = VersionComparer(archive)

        def in_use(*_: object) -> list[Instance]:
            raise ArchiveInUse("another process has been deleting")

        with monkeypatch.context() as patch:
            patch.setattr(resent, "retire", in_use)
            with pytest.raises(ArchiveInUse):
                comparer.step()
        assert archive.parts.index.version_count() == 1
        comparer.step()
        assert archive.parts.index.version_count() == 0
        comparer.close()
