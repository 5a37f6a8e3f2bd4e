"""Extra attributes put in effect over what is stored already: the index says what it would had it always been so.

The judge is an index made from nothing: every record of the log in order, its attributes extracted under the set in
effect by whoever reads the whole data set.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.archive import extras
from engine.archive.archive import Archive, StorageOptions
from engine.archive.lifecycle import correction, reindex
from engine.archive.lifecycle.compaction import Compactor
from engine.archive.lifecycle.patients import Patient
from engine.archive.lifecycle.reindex import Reindexer
from engine.config import Attribute, Compaction, Config
from engine.dicom import elements, extra, tags, transfer_syntax
from engine.dicom.extra import ExtraSet
from engine.dicom.schema import STANDARD
from engine.errors import ArchiveInUse, EngineError, StorageError
from engine.index.catalog import Catalog
from engine.index.format.entry import Entry, unpack_record
from engine.index.format.types import Level, Query, SegmentMark
from engine.storage import hints
from engine.storage.files import Files
from engine.storage.record import Record
from engine.storage.segment import Walk, list_segments, read_segment_header
from tests import samples
from tests.actors import actor
from tests.archive import kept
from tests.index.entries import meaning

ACME = "ACME 1.0"
PRIVATE = 0x001910A3
ATTRIBUTES = (
    Attribute(tag="PatientSpeciesDescription", level="patient", indexed=True),
    Attribute(tag="ReasonForStudy", level="study"),
    Attribute(tag="StudyStatusID", level="study", indexed=True),
    Attribute(tag="AcquisitionDate", level="series", indexed=True),
    Attribute(tag="RequestedProcedureCodeSequence", level="study"),
    Attribute(tag="SliceThickness", level="instance"),
    Attribute(tag="0019,xxA3", level="series", creator=ACME, vr="LO", indexed=True),
)


def wanted(*attributes: Attribute) -> ExtraSet:
    return extra.of(attributes)


def instance(study: int, series: int, number: int, *, seed: int = 0, **more: Any) -> bytes:
    """An instance whose extra attributes differ by study and series, now and then within them, and may be missing."""
    rng = random.Random(f"{study} {series} {number} {seed}")
    code = samples.Dataset()
    code.CodeValue = f"C{study % 3}"
    values = {
        "PatientSpeciesDescription": "Homo sapiens",
        "ReasonForStudy": f"Reason {study}" if rng.random() < 0.9 else "Größe",
        "StudyStatusID": rng.choice(("READ", "VERIFIED")) if rng.random() < 0.1 else f"ST{study}",
        "AcquisitionDate": f"2026010{1 + series}",
        "RequestedProcedureCodeSequence": [code],
        "SliceThickness": f"{number}.5",
    }
    chosen = {name: value for name, value in values.items() if rng.random() < 0.8}
    if any(isinstance(value, str) and not value.isascii() for value in chosen.values()):
        chosen["SpecificCharacterSet"] = "ISO_IR 192"
    ds = samples.instance(study, series, number, patient_id=f"P{study // 2}", **(chosen | more))
    if rng.random() < 0.8:
        ds.private_block(0x0019, "OTHER", create=True).add_new(0xA3, "LO", "not this")
        ds.private_block(0x0019, ACME, create=True).add_new(0xA3, "LO", f"series {series}")
    return samples.encoded(ds)


def opened(data: Path, chosen: ExtraSet | None = None, *, segment_bytes: int = 1 << 16) -> Archive:
    archive = Archive.open(data, role="keeper", create=True, extra_attributes=chosen, sync_interval_s=3600.0)
    archive.writer("test", StorageOptions(segment_bytes=segment_bytes))
    return archive


def history(archive: Archive, seed: int, count: int = 100) -> None:
    """Instances of a few studies, some again with other bytes under every policy, some deleted."""
    rng = random.Random(seed)
    for _ in range(count):
        place = rng.randint(1, 5), rng.randint(1, 2), rng.randint(1, 12)
        policy = rng.choice(("keep-first", "keep-both-versions", "replace"))
        kept.store(archive, [instance(*place, seed=rng.choice((seed, seed + 1)))], policy=policy)
        if rng.random() < 0.05:
            uid = f"{samples.ROOT}.{rng.randint(1, 5)}.{rng.randint(1, 2)}"
            query = Query(Level.SERIES, {tags.SeriesInstanceUID: uid.encode()}, relational=True)
            archive.delete(query, actor=actor(), reason="test")


def judged(archive: Archive, folder: Path) -> dict[str, Any]:
    """What an index from nothing says under the set in effect."""
    index = Catalog.open(str(folder), map_bytes=1 << 26, schema=archive.schema)
    files = Files()
    marks = archive.parts.index.segment_marks()
    for segment_id in list_segments(archive.parts.layout.segments, files):
        if segment_id not in marks:
            continue
        data = archive.parts.segments.open(segment_id)
        records = hints.read_hints(data, segment_id)
        if records is None:
            walk = Walk(data, read_segment_header(data, segment_id), end=marks[segment_id].indexed_bytes)
            records = [record for record in walk if isinstance(record, Record)]
        for record in records:
            item = unpack_record(record)
            index.apply([extracted_whole(archive, item) if isinstance(item, Entry) else item])
        if marks[segment_id].sealed:
            index.apply([], marks={segment_id: SegmentMark(marks[segment_id].indexed_bytes, True)})
    said = meaning(index)
    index.close()
    return said


def extracted_whole(archive: Archive, entry: Entry) -> Entry:
    data = archive.parts.reader.read(entry.position)
    syntax = transfer_syntax.of(entry.transfer_syntax_uid.decode())
    head = elements.extract(data, syntax, extractor=archive.schema.extractor)
    return replace(
        entry,
        patient=head.patient,
        study=head.study,
        series=head.series,
        instance=head.instance,
        mark=archive.schema.mark,
    )


def assert_as_from_nothing(archive: Archive, folder: Path, what: object) -> None:
    said, expected = meaning(archive.parts.index), judged(archive, folder)
    assert said.keys() == expected.keys()
    for part in expected:
        assert said[part] == expected[part], f"{what}: {part}"


def run(archive: Archive) -> dict[str, int]:
    return reindex.run(archive, lambda what, done, total: None)


def found(archive: Archive, level: Level, keys: dict[int, Any], **options: Any) -> list[dict[int, bytes]]:
    query = Query(level, keys, relational=True, character_set=b"ISO_IR 192", **options)
    return [match.attributes for match in archive.find(query)]


# the same as from nothing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_what_was_stored_before_comes_to_what_an_index_from_nothing_says(tmp_path: Path, seed: int) -> None:
    with opened(tmp_path / "data") as archive:
        history(archive, seed)
    with opened(tmp_path / "data", wanted(*ATTRIBUTES)) as archive:
        assert Reindexer(archive, bytes_per_s=0).lacking()
        done = run(archive)
        assert done["extracted"] > 40
        assert done["unreadable"] == 0
        assert not Reindexer(archive, bytes_per_s=0).lacking()
        assert_as_from_nothing(archive, tmp_path / "judge", f"seed {seed}")


@pytest.mark.parametrize("seed", range(2))
def test_any_sequence_of_sets_comes_to_the_last_one_with_ingest_in_between(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    for turn in range(5):
        chosen = wanted(*rng.sample(ATTRIBUTES, rng.choice((0, 1, 3, len(ATTRIBUTES)))))
        with opened(tmp_path / "data", chosen) as archive:
            history(archive, 100 * seed + turn, 40)
            if rng.random() < 0.5:
                run(archive)
    with opened(tmp_path / "data") as archive:
        run(archive)
        assert_as_from_nothing(archive, tmp_path / "judge", f"seed {seed}")


def test_an_attribute_that_is_indexed_from_now_on_gets_its_keys_and_one_that_is_not_loses_them(tmp_path: Path) -> None:
    status = Attribute(tag="StudyStatusID", level="study")
    for is_indexed in (False, True, False, True):
        chosen = wanted(Attribute(tag=status.tag, level=status.level, indexed=is_indexed))
        with opened(tmp_path / "data", chosen) as archive:
            kept.store(archive, [instance(1, 1, 1 + is_indexed, StudyStatusID="READ")])
        with opened(tmp_path / "data") as archive:
            run(archive)
            said = meaning(archive.parts.index)["search"]
            assert bool([key for key, _ in said if key[:4] == tags.StudyStatusID.to_bytes(4, "big")]) == is_indexed
            assert len(found(archive, Level.STUDY, {tags.StudyStatusID: b"REA*"})) == 1


def test_an_index_that_is_rebuilt_is_looked_through_again_by_itself(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive:
        history(archive, 7, 60)
    with opened(tmp_path / "data", wanted(*ATTRIBUTES)) as archive:
        history(archive, 8, 30)
        run(archive)
    Archive.rebuild_index(tmp_path / "data")
    with opened(tmp_path / "data") as archive:
        assert run(archive)["extracted"] > 20
        assert_as_from_nothing(archive, tmp_path / "judge", "rebuilt")


# stopped, disturbed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 4, 11])
def test_it_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    monkeypatch.setattr(reindex, "BATCH", 5)
    with opened(tmp_path / "data", segment_bytes=1 << 20) as archive:
        kept.store(archive, [instance(1 + n // 20, 1, 1 + n % 20) for n in range(80)])
    with opened(tmp_path / "data", wanted(*ATTRIBUTES)) as archive:
        reindexer = Reindexer(archive, bytes_per_s=0)
        for _ in range(steps):
            assert reindexer.step()
        first = reindexer.counters["extracted"]
    with opened(tmp_path / "data") as archive:
        assert first + run(archive)["extracted"] == 80
        assert_as_from_nothing(archive, tmp_path / "judge", steps)


def test_a_batch_that_fails_is_done_again_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reindex, "BATCH", 7)
    with opened(tmp_path / "data") as archive:
        kept.store(archive, [instance(1, 1, n) for n in range(1, 31)])
    with opened(tmp_path / "data", wanted(*ATTRIBUTES)) as archive:
        Reindexer(archive, bytes_per_s=0).step()
        said = meaning(archive.parts.index)

        def fails(*arguments: object) -> None:
            raise StorageError("torn")

        with monkeypatch.context() as patched:
            patched.setattr(type(archive.parts.index._writer.entities), "refresh", fails)
            with pytest.raises(StorageError):
                Reindexer(archive, bytes_per_s=0).step()
        assert meaning(archive.parts.index) == said
        run(archive)
        assert_as_from_nothing(archive, tmp_path / "judge", "after the failure")


def test_compaction_between_two_batches_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reindex, "BATCH", 9)
    with opened(tmp_path / "data") as archive:
        history(archive, 3, 200)
    with opened(tmp_path / "data", wanted(*ATTRIBUTES)) as archive:
        reindexer = Reindexer(archive, bytes_per_s=0)
        options = Compaction(bytes_per_s=0)
        for turn in range(6):
            history(archive, 30 + turn, 20)
            for _ in range(2):
                reindexer.step()
            compactor = Compactor(archive, options, segment_bytes=1 << 16, everything=True)
            compactor.step()
        while reindexer.step():
            pass
        assert_as_from_nothing(archive, tmp_path / "judge", "with compaction")
        assert archive.parts.index.reextraction_progress().keys() <= archive.parts.index.segment_marks().keys()
        assert reindexer.counters["unreadable"] == 0


def test_what_is_corrected_stays_corrected_extra_attributes_too(tmp_path: Path) -> None:
    study, patient = f"{samples.ROOT}.1", Patient("P0")
    with opened(tmp_path / "data") as archive:
        history(archive, 4, 60)
        correction.correct_study(archive, study, {tags.StudyDescription: "Right"}, actor=actor(), reason="test")
        correction.correct_patient(archive, patient, {tags.PatientSex: "O"}, actor=actor(), reason="test")
    with opened(tmp_path / "data", wanted(*ATTRIBUTES)) as archive:
        Reindexer(archive, bytes_per_s=0).step()
        correction.correct_study(archive, study, {tags.StudyStatusID: "RIGHT"}, actor=actor(), reason="test")
        run(archive)
        rows = found(
            archive, Level.STUDY, {tags.StudyStatusID: b"RIGHT", tags.StudyDescription: b"", tags.PatientSex: b""}
        )
        assert [(row[tags.StudyDescription], row[tags.PatientSex]) for row in rows] == [(b"Right", b"O")]
        assert_as_from_nothing(archive, tmp_path / "judge", "corrected")


def test_what_is_written_meanwhile_is_not_read_again(tmp_path: Path) -> None:
    with opened(tmp_path / "data", wanted(*ATTRIBUTES)) as archive:
        history(archive, 5, 40)
    with opened(tmp_path / "data") as archive:
        done = run(archive)
        assert (done["extracted"], done["bytes"]) == (0, 0)
        assert done["records"] > 20
        assert run(archive)["records"] == 0


def test_a_segment_that_a_guest_of_another_day_writes_is_looked_at_when_it_is_sealed(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive:
        kept.store(archive, [instance(1, 1, 1)])
    keeper = opened(tmp_path / "data", wanted(*ATTRIBUTES))
    schema, keeper.parts.index._environment.schema = keeper.schema, STANDARD  # as a process that was opened before
    kept.store(keeper, [instance(2, 1, 1, StudyStatusID="OLD")])
    keeper.parts.index._environment.schema = schema
    assert run(keeper)["extracted"] == 1
    assert found(keeper, Level.STUDY, {tags.StudyStatusID: b"OLD"}) == []
    keeper.close()
    with opened(tmp_path / "data") as archive:
        assert run(archive)["extracted"] == 1
        assert len(found(archive, Level.STUDY, {tags.StudyStatusID: b"OLD"})) == 1


def test_what_cannot_be_read_keeps_its_attributes_and_is_counted(tmp_path: Path) -> None:
    with opened(tmp_path / "data", segment_bytes=1 << 20) as archive:
        kept.store(archive, [instance(1, 1, n, StudyStatusID="READ") for n in range(1, 6)])
        place = kept.positions(archive)[f"{samples.ROOT}.1.1.3"]
        at = archive.parts.reader.read(place).index(b"READ")
    kept.turn_byte(tmp_path / "data", place.segment_id, place.payload_offset + at)
    with opened(tmp_path / "data", wanted(*ATTRIBUTES)) as archive:
        done = run(archive)
        assert (done["extracted"], done["unreadable"]) == (4, 1)
        uids = found(archive, Level.IMAGE, {tags.SOPInstanceUID: b"", tags.StudyStatusID: b"READ"})
        assert len(uids) == 5  # a study is found by what its first instance that can be read says
        assert not Reindexer(archive, bytes_per_s=0).lacking()


def test_a_footer_that_cannot_be_read_is_walked_around(tmp_path: Path) -> None:
    with opened(tmp_path / "data", segment_bytes=1 << 20) as archive:
        kept.store(archive, [instance(1, 1, n, StudyStatusID="READ") for n in range(1, 6)])
        segment_id = kept.positions(archive)[f"{samples.ROOT}.1.1.1"].segment_id
    with opened(tmp_path / "data") as archive:
        end = archive.parts.index.segment_marks()[segment_id].indexed_bytes
    kept.turn_byte(tmp_path / "data", segment_id, end + 200)
    with opened(tmp_path / "data", wanted(*ATTRIBUTES)) as archive:
        assert run(archive)["extracted"] == 5


# found by them ---------------------------------------------------------------------------------------------------


def test_they_are_returned_and_matched_once_they_have_been_looked_for(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive:
        everything = {"StudyStatusID": "READ", "ReasonForStudy": "Größe", "AcquisitionDate": "20260105"}
        everything["SpecificCharacterSet"] = "ISO_IR 192"
        kept.store(archive, [instance(1, 1, 1, **everything), instance(2, 1, 1, StudyStatusID="VERIFIED")])
        query = Query(Level.STUDY, {tags.StudyInstanceUID: b"", tags.StudyStatusID: b""})
        assert all(match.unsupported for match in archive.find(query))
    with opened(tmp_path / "data", wanted(*ATTRIBUTES)) as archive:
        assert found(archive, Level.STUDY, {tags.StudyStatusID: b"READ"}) == []
        assert not any(match.unsupported for match in archive.find(query))
        run(archive)
        for keys in (
            {tags.StudyStatusID: b"READ"},
            {tags.ReasonForStudy: "Größ*".encode()},
            {tags.ReasonForStudy: "*öß*".encode()},
            {tags.AcquisitionDate: b"20260104-20260106"},
        ):
            rows = found(archive, Level.SERIES, {tags.StudyInstanceUID: b"", **keys})
            assert [row[tags.StudyInstanceUID] for row in rows] == [f"{samples.ROOT}.1".encode()], keys
        (row,) = found(archive, Level.STUDY, {tags.StudyStatusID: b"READ", tags.ReasonForStudy: b""})
        assert row == {tags.ReasonForStudy: "Größe".encode(), tags.StudyStatusID: b"READ"}


def with_private(study: int, value: str) -> bytes:
    ds = samples.instance(study, 1, 1)
    ds.private_block(0x0019, "OTHER", create=True).add_new(0xA3, "LO", "theirs")
    ds.private_block(0x0019, ACME, create=True).add_new(0xA3, "LO", value)
    return samples.encoded(ds)


def test_private_keys_are_meant_by_their_creator_whatever_the_block(tmp_path: Path) -> None:
    with opened(tmp_path / "data", wanted(*ATTRIBUTES)) as archive:
        kept.store(archive, [with_private(1, "one"), with_private(2, "two")])
        uid = tags.SeriesInstanceUID
        for block in (0x10, 0x11, 0xFF):
            creator, key = 0x00190000 | block, 0x00190000 | block << 8 | 0xA3
            rows = found(archive, Level.SERIES, {uid: b"", creator: b"ACME 1.0 ", key: b"t*"})
            assert rows == [{creator: b"ACME 1.0 ", key: b"two", uid: f"{samples.ROOT}.2.1".encode()}]
            assert list(rows[0]) == sorted(rows[0])
        assert [row[PRIVATE] for row in found(archive, Level.SERIES, {PRIVATE: b""})] == [b"one", b"two"]
        for keys in ({0x00190010: b"OTHER", PRIVATE: b"theirs"}, {0x00190012: b"OTHER", 0x001912A3: b"x"}):
            matches = list(archive.find(Query(Level.SERIES, {uid: b"", **keys}, relational=True)))
            assert [match.unsupported for match in matches] == [True, True]
            assert all(PRIVATE not in match.attributes for match in matches)


def test_sequences_are_matched_by_item(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive:
        code = samples.Dataset()
        code.CodeValue = "C1"
        kept.store(archive, [instance(1, 1, 1, RequestedProcedureCodeSequence=[code]), instance(2, 1, 1)])
    with opened(tmp_path / "data", wanted(*ATTRIBUTES)) as archive:
        run(archive)
        keys = {tags.RequestedProcedureCodeSequence: [{tags.CodeValue: b"C1"}], tags.StudyInstanceUID: b""}
        (row,) = found(archive, Level.STUDY, keys)
        assert row[tags.StudyInstanceUID] == f"{samples.ROOT}.1".encode()


# whose set it is -------------------------------------------------------------------------------------------------


def test_everybody_has_the_set_of_the_keeper(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with opened(data, wanted(*ATTRIBUTES)) as keeper:
        in_effect = keeper.schema.extra_set
        for chosen in (None, wanted(*ATTRIBUTES)):
            assert extras.choose(keeper.parts.layout, keeper.parts.files, chosen) == in_effect
        with pytest.raises(ArchiveInUse, match=r"\[\[attribute\]\]"):
            Archive.open(data, extra_attributes=wanted(ATTRIBUTES[0]))
        assert extras.recorded(keeper.parts.layout, keeper.parts.files) == in_effect
    with opened(data) as archive:
        assert archive.schema.extra_set == in_effect


def test_a_configuration_without_a_file_changes_nothing_and_an_empty_file_ends_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert extras.configured(Config()) is None
    with opened(data, wanted(*ATTRIBUTES)) as archive:
        kept.store(archive, [instance(1, 1, 1, StudyStatusID="READ")])
    with opened(data, extras.configured(Config())) as archive:
        assert len(archive.schema.extra_set.extras) == len(ATTRIBUTES)
    with opened(data, extras.configured(Config(attributes=()))) as archive:
        assert archive.schema.extra_set.extras == ()
        assert run(archive)["extracted"] == 1
        assert_as_from_nothing(archive, tmp_path / "judge", "ended")
        query = Query(Level.STUDY, {tags.StudyInstanceUID: b"", tags.StudyStatusID: b""})
        assert [match.unsupported for match in archive.find(query)] == [True]


def test_an_archive_without_extra_attributes_has_no_record_and_nothing_to_do(tmp_path: Path) -> None:
    with opened(tmp_path / "data", extras.configured(Config(attributes=()))) as archive:
        kept.store(archive, [instance(1, 1, 1)])
        assert not extras.has_record(archive.parts.layout, archive.parts.files)
    with opened(tmp_path / "data") as archive:
        reindexer = Reindexer(archive, bytes_per_s=0)
        assert not reindexer.step()
        assert reindexer.status()["running"] is False
        assert archive.parts.index.reextraction_progress() == {}


@pytest.mark.parametrize("damage", [lambda text: text[:-3], lambda text: text.replace(b"READ", b""), lambda _: b""])
def test_a_record_of_the_set_that_is_damaged_is_never_guessed_at(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    data = tmp_path / "data"
    with opened(data, wanted(*ATTRIBUTES)) as archive:
        kept.store(archive, [instance(1, 1, 1, StudyStatusID="READ")])
        before = archive.schema.extra_set
    path = data / "attributes.json"
    path.write_bytes(damage(path.read_bytes()).replace(b'"number":1', b'"number":2'))
    with pytest.raises(StorageError, match="cannot be used"):
        Archive.open(data)
    with pytest.raises(EngineError, match="cannot be used"):
        Archive.rebuild_index(data)
    with opened(data, wanted(*ATTRIBUTES)) as archive:
        assert archive.schema.extra_set.digest != before.digest
        assert run(archive)["extracted"] == 1
        assert len(found(archive, Level.STUDY, {tags.StudyStatusID: b"READ"})) == 1
