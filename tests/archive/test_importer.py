"""interchange.importer: everything ends as stored, duplicate, kept aside or refused with a reason, in every run."""

from __future__ import annotations

import io
import random
import tarfile
import zipfile
from pathlib import Path

import pytest

from engine.archive.archive import Archive
from engine.archive.interchange import importer, media
from engine.archive.interchange.importer import NOT_DICOM, ImportSummary, import_paths
from engine.errors import CorruptRecord, StorageFull
from engine.index.format.types import Level, Query
from tests import samples
from tests.archive.stand_in import ArchiveInMemory
from tests.corpus import corpus_files, corpus_root, needs_corpus

SEED = 20261124


def counts(summary: ImportSummary) -> tuple[int, int, int, int]:
    return summary.stored, summary.duplicates, summary.kept_aside, len(summary.refused)


def test_everything_in_a_folder_is_stored_in_order(tmp_path: Path) -> None:
    data_sets = [samples.instance(1, 1, number) for number in range(1, 41)]
    samples.write(tmp_path, *data_sets)
    archive = ArchiveInMemory()
    summary = import_paths(archive, [tmp_path], jobs=4)
    assert counts(summary) == (40, 0, 0, 0)
    assert archive.order == [ds.SOPInstanceUID for ds in data_sets]
    assert archive.payloads[data_sets[7].SOPInstanceUID] == samples.encoded(data_sets[7])
    assert summary.bytes == sum(map(len, archive.payloads.values()))


def test_a_second_run_stores_nothing(tmp_path: Path) -> None:
    samples.write(tmp_path, *(samples.instance(1, 1, number) for number in range(1, 6)))
    archive = ArchiveInMemory()
    import_paths(archive, [tmp_path], jobs=2)
    again = import_paths(archive, [tmp_path], jobs=2)
    assert counts(again) == (0, 5, 0, 0)


def test_batches_end_at_their_instances_and_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples.write(tmp_path, *(samples.instance(1, 1, number) for number in range(1, 11)))
    archive = ArchiveInMemory()
    monkeypatch.setattr(importer, "BATCH_INSTANCES", 4)
    import_paths(archive, [tmp_path])
    assert archive.batches == [4, 4, 2]
    archive.batches.clear()
    monkeypatch.setattr(importer, "BATCH_BYTES", 1)
    import_paths(archive, [tmp_path])
    assert archive.batches == [1] * 10


def test_what_is_no_dicom_is_told_from_what_cannot_be_stored(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"This is a text that somebody put on the medium." * 9)
    (tmp_path / "b.empty").write_bytes(b"")
    (tmp_path / "c.dcm").write_bytes(bytes(128) + b"DICM")
    data = samples.part10(samples.instance())
    (tmp_path / "d.dcm").write_bytes(data[: data.index(b"\x08\x00\x16\x00")][:-2])
    ds = samples.instance(number=2)
    del ds.StudyInstanceUID
    samples.write(tmp_path / "e", ds)
    reasons = [reason for _, reason in import_paths(ArchiveInMemory(), [tmp_path]).refused]
    assert reasons[:2] == [
        f"{NOT_DICOM}: neither a preamble nor a data element at offset 0",
        f"{NOT_DICOM}: it is empty",
    ]
    assert not any(reason.startswith(NOT_DICOM) for reason in reasons[2:])
    assert reasons[-1] == "incomplete: Study Instance UID (0020,000D) is missing or empty"


def test_file_meta_information_without_a_data_set_is_refused(tmp_path: Path) -> None:
    data = samples.part10(samples.instance())
    (tmp_path / "x.dcm").write_bytes(data[: data.index(b"\x08\x00\x16\x00")])
    summary = import_paths(ArchiveInMemory(), [tmp_path])
    assert [reason for _, reason in summary.refused] == ["there is no data set after its File Meta Information"]


def test_the_data_set_is_right_when_the_file_meta_information_has_other_uids(tmp_path: Path) -> None:
    ds = samples.instance()
    ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    samples.write(tmp_path, ds)
    archive = ArchiveInMemory()
    assert counts(import_paths(archive, [tmp_path])) == (1, 0, 0, 0)
    assert list(archive.payloads) == [ds.SOPInstanceUID]


def test_a_dicomdir_is_no_instance_and_no_failure(tmp_path: Path) -> None:
    from engine.archive.interchange import dicomdir

    (tmp_path / "index").write_bytes(b"".join(dicomdir.DirectoryBuilder().encode("1.2.3")))
    summary = import_paths(ArchiveInMemory(), [tmp_path])
    assert counts(summary) == (0, 0, 0, 0)
    assert summary.directories == 1


# Large objects -----------------------------------------------------------------------------------


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importer, "WHOLE_BYTES_MAX", 2000)
    monkeypatch.setattr(importer, "PIECE_BYTES", 1000)


def large(number: int = 1, size: int = 40_000) -> samples.Dataset:
    ds = samples.instance(1, 1, number)
    ds.Rows, ds.Columns = 1000, size // 2000
    ds.PixelData = random.Random(SEED + number).randbytes(size)
    return ds


@pytest.mark.usefixtures("small_limits")
def test_a_large_object_is_streamed_and_told_to_be_there_the_second_time(tmp_path: Path) -> None:
    ds = large()
    samples.write(tmp_path, ds, samples.instance(1, 1, 2))
    archive = ArchiveInMemory()
    assert counts(import_paths(archive, [tmp_path])) == (2, 0, 0, 0)
    assert archive.payloads[ds.SOPInstanceUID] == samples.encoded(ds)
    assert len(archive.streamed[0]) > 30
    assert max(archive.streamed[0]) <= 1000
    assert counts(import_paths(archive, [tmp_path])) == (0, 2, 0, 0)
    assert len(archive.streamed) == 1


@pytest.mark.usefixtures("small_limits")
def test_a_large_object_with_other_bytes_is_not_taken_for_the_stored_one(tmp_path: Path) -> None:
    ds = large()
    (path,) = samples.write(tmp_path, ds)
    archive = ArchiveInMemory()
    import_paths(archive, [tmp_path])
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert counts(import_paths(archive, [tmp_path])) == (0, 0, 1, 0)


@pytest.mark.usefixtures("small_limits")
def test_large_objects_come_in_their_place(tmp_path: Path) -> None:
    samples.write(tmp_path, samples.instance(1, 1, 1), large(2), samples.instance(1, 1, 3), large(4))
    archive = ArchiveInMemory()
    import_paths(archive, [tmp_path], jobs=4)
    assert [uid.rpartition(".")[2] for uid in archive.order] == ["1", "2", "3", "4"]


@pytest.mark.usefixtures("small_limits")
def test_a_large_object_of_attributes_only_is_streamed_whatever_its_size(tmp_path: Path) -> None:
    """Without Pixel Data the kept attributes may follow anywhere: behind a value that is larger than all bounds."""
    ds = samples.instance()
    del ds.PixelData
    ds.add_new(0x00080005, "CS", "ISO_IR 100")
    ds.add_new(0x00091002, "OB", bytes(90_000))
    samples.write(tmp_path / "a", ds)
    archive = ArchiveInMemory()
    assert counts(import_paths(archive, [tmp_path])) == (1, 0, 0, 0)
    assert archive.batches == []
    assert archive.payloads[ds.SOPInstanceUID] == samples.encoded(ds)


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("size", [1000, 40_000])
def test_a_file_that_was_cut_is_refused(tmp_path: Path, size: int) -> None:
    (tmp_path / "cut.dcm").write_bytes(samples.part10(large(size=size))[:-5])
    archive = ArchiveInMemory()
    summary = import_paths(archive, [tmp_path])
    assert counts(summary) == (0, 0, 0, 1)
    assert summary.refused[0][1] == "the data set ends within (7FE0,0010), 5 bytes early"


@pytest.mark.usefixtures("small_limits")
def test_a_damaged_large_member_stores_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archived:
        archived.writestr("large", samples.part10(large()))
    data = bytearray(path.read_bytes())
    data[20_000] ^= 1
    path.write_bytes(data)
    archive = ArchiveInMemory()
    summary = import_paths(archive, [path])
    assert counts(summary) == (0, 0, 0, 1)
    assert summary.refused[0][1].startswith("cannot be read: Bad CRC-32")
    assert not archive.payloads


@pytest.mark.usefixtures("small_limits")
def test_a_stored_object_that_is_damaged_is_told(tmp_path: Path) -> None:
    ds = large()
    samples.write(tmp_path, ds)
    archive = ArchiveInMemory()
    import_paths(archive, [tmp_path])
    archive.corrupt.add(ds.SOPInstanceUID)
    summary = import_paths(archive, [tmp_path])
    assert counts(summary) == (0, 0, 0, 1)
    assert "checksum" in summary.refused[0][1]


# What goes wrong, and how it is told -------------------------------------------------------------


def test_a_full_archive_ends_the_run(tmp_path: Path) -> None:
    samples.write(tmp_path, samples.instance())
    archive = ArchiveInMemory()
    archive.failure = StorageFull("the disk is full")
    with pytest.raises(StorageFull):
        import_paths(archive, [tmp_path])
    archive.failure = CorruptRecord("damaged", 1, 0)
    with pytest.raises(CorruptRecord):
        import_paths(archive, [tmp_path])


def test_a_file_that_grows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = samples.write(tmp_path, samples.instance())
    walk = media.sources

    def growing(paths: list[Path], **options: bool) -> object:
        for source in walk(paths, **options):
            path.write_bytes(path.read_bytes() + bytes(100))
            yield source

    monkeypatch.setattr(media, "sources", growing)
    summary = import_paths(ArchiveInMemory(), [tmp_path])
    assert summary.refused == [(str(path), "grew while it was read")]


def test_progress_tells_the_number_of_files_when_it_is_known(tmp_path: Path) -> None:
    samples.write(tmp_path, *(samples.instance(1, 1, number) for number in range(1, 31)))
    told: list[tuple[str, int, int]] = []
    import_paths(ArchiveInMemory(), [tmp_path], progress=lambda what, done, total: told.append((what, done, total)))
    assert told[-1][:2] == ("importing", 30)
    assert all(what == "importing" and total in (0, 30) for what, _, total in told)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_what_is_read_ahead_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples.write(tmp_path, *(samples.instance(1, 1, number) for number in range(1, 31)))
    monkeypatch.setattr(importer, "READ_AHEAD_BYTES", 30_000)
    taken = most = 0
    take, following = importer._Import.take, importer._Import._next

    def counted_take(run: importer._Import, source: media.Source, number: int) -> None:
        nonlocal taken, most
        taken += 1
        take(run, source, number)
        most = max(most, len(run._reading))

    monkeypatch.setattr(importer._Import, "take", counted_take)
    monkeypatch.setattr(importer._Import, "_next", following)
    assert import_paths(ArchiveInMemory(), [tmp_path]).stored == 30
    assert taken == 30
    assert 0 < most <= 6


def test_a_path_of_which_nothing_came_is_named(tmp_path: Path) -> None:
    samples.write(tmp_path / "in", samples.instance())
    (tmp_path / "in" / "readme.txt").write_bytes(b"hello")
    (tmp_path / "empty").mkdir()
    (tmp_path / "study.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(200))
    paths = [tmp_path / name for name in ("in", "empty", "study.7z")]
    archive = ArchiveInMemory()
    for _ in range(2):  # also when all of it is there already
        summary = import_paths(archive, paths)
        assert summary.empty_paths == paths[1:]
    assert dict(summary.refused)[str(paths[2])] == "not DICOM: a 7z archive; unpack it first"


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_instances_of_any_size_come_out_of_a_tar_archive(tmp_path: Path, mode: str) -> None:
    files = [samples.part10(samples.instance(1, 1, number, pixels=bytes(size))) for number, size in enumerate(SIZES)]
    with tarfile.open(tmp_path / "a.tgz", mode) as tar:  # type: ignore[call-overload]
        for number, content in enumerate(files):
            info = tarfile.TarInfo(f"IM{number}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with Archive.open(tmp_path / "data", create=True) as archive:
        archive.writer("test")
        for stored, duplicates in ((len(SIZES), 0), (0, len(SIZES))):
            summary = import_paths(archive, [tmp_path / "a.tgz"], progress=lambda what, done, total: None)
            assert (summary.stored, summary.duplicates, summary.refused) == (stored, duplicates, [])
        assert archive.stats()["instances"] == len(SIZES)


SIZES = (100, 9 << 20, 200, 10 << 20, 300)


def test_ctrl_c_leaves_the_counts_until_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importer, "BATCH_INSTANCES", 5)
    samples.write(tmp_path, *(samples.instance(1, 1, number) for number in range(1, 31)))

    def interrupted(what: str, done: int, total: int) -> None:
        if done >= 10:
            raise KeyboardInterrupt

    summary = importer.ImportSummary()
    with pytest.raises(KeyboardInterrupt):
        import_paths(ArchiveInMemory(), [tmp_path], progress=interrupted, summary=summary)
    assert summary.stored == 10


def test_mutated_files_are_stored_or_refused(tmp_path: Path) -> None:
    whole = samples.part10(samples.instance())
    for seed in range(SEED, SEED + 300):
        rng = random.Random(seed)
        data = bytearray(whole)
        for _ in range(rng.randint(1, 5)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        (tmp_path / str(seed)).write_bytes(data[: rng.choice((len(data), rng.randrange(len(data))))])
    summary = import_paths(ArchiveInMemory(), [tmp_path], jobs=3)
    assert sum(counts(summary)) + summary.directories == 300
    assert all(reason for _, reason in summary.refused)


# With a real archive -----------------------------------------------------------------------------


def test_what_is_imported_is_found_in_the_archive(tmp_path: Path) -> None:
    paths = samples.write(tmp_path / "in", *(samples.instance(1, 1, number) for number in range(1, 6)))
    archived = tmp_path / "more.zip"
    with zipfile.ZipFile(archived, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("x", samples.part10(samples.instance(2)))
    with Archive.open(tmp_path / "data", create=True) as archive:
        assert counts(import_paths(archive, [tmp_path / "in", archived])) == (6, 0, 0, 0)
        assert counts(import_paths(archive, [*paths, archived])) == (0, 6, 0, 0)
        found = archive.instances(Query(Level.STUDY, {0x0020000D: f"{samples.ROOT}.1".encode()}, relational=True))
        assert [archive.read(instance) for instance in found] == [
            samples.encoded(samples.instance(1, 1, number)) for number in range(1, 6)
        ]


@pytest.mark.usefixtures("small_limits")
def test_a_large_object_goes_into_a_real_archive_once(tmp_path: Path) -> None:
    samples.write(tmp_path / "in", large(size=3_000_000))
    with Archive.open(tmp_path / "data", create=True) as archive:
        assert counts(import_paths(archive, [tmp_path / "in"])) == (1, 0, 0, 0)
        assert counts(import_paths(archive, [tmp_path / "in"])) == (0, 1, 0, 0)
        assert archive.stats()["instances"] == 1


@needs_corpus()
def test_each_file_of_the_corpus_is_stored_or_has_a_reason(tmp_path: Path) -> None:
    root = corpus_root()
    assert root is not None
    files = [path for path in root.rglob("*") if path.is_file()]
    with Archive.open(tmp_path / "data", create=True) as archive:
        first = import_paths(archive, [root])
        assert sum(counts(first)) + first.directories == len(files)
        assert first.stored > 500
        refused = {Path(name).relative_to(root).parts[0] for name, _ in first.refused}
        assert refused <= {"odd", "codec-only", "palette", "LICENSES.md", "MANIFEST.tsv", "README.md"}
        second = import_paths(archive, [root])
        assert second.stored == 0
        assert second.refused == first.refused


@needs_corpus("odd")
def test_each_odd_file_alone_is_stored_or_has_a_reason() -> None:
    for path in corpus_files("odd"):
        summary = import_paths(ArchiveInMemory(), [path])
        assert sum(counts(summary)) == 1, path
