"""Archives with something in them, for the tests of what happens to data after ingest: small, quick, by the façade."""

from __future__ import annotations

from pathlib import Path

from engine.archive.archive import Archive, StorageOptions
from engine.archive.ingest.request import ReceivedInstance
from engine.archive.verify import check
from engine.dicom import tags
from engine.errors import EngineError
from engine.index.format.types import Instance, Level, Outcome, Query, Root
from engine.storage.files import Files
from engine.storage.record import crc32c
from tests import samples

EXPLICIT = "1.2.840.10008.1.2.1"


def opened(data: Path, *, files: Files | None = None, role: str = "keeper") -> Archive:
    """The archive of a folder, made if there is none."""
    return Archive.open(data, role=role, create=True, files=files, sync_interval_s=0.02)


def uid(study: int, series: int | None = None, number: int | None = None) -> str:
    """The UID that `samples.instance` gives."""
    return ".".join([samples.ROOT, *(str(part) for part in (study, series, number) if part is not None)])


def payload_of(study: int = 1, series: int = 1, number: int = 1, **attributes: object) -> bytes:
    """The data set of an instance."""
    return samples.encoded(samples.instance(study, series, number, **attributes))  # type: ignore[arg-type]


def received(payload: bytes, aet: str = "MODALITY") -> ReceivedInstance:
    """A data set as a front end hands it over."""
    return ReceivedInstance([payload], len(payload), crc32c(payload), EXPLICIT, aet)


def store(
    archive: Archive,
    *payloads: bytes,
    aet: str = "MODALITY",
    segment_bytes: int = 1 << 20,
    policy: str = "keep-first",
) -> list[Outcome | EngineError]:
    """Stores data sets as an import does."""
    archive.writer("test", StorageOptions(segment_bytes=segment_bytes))
    return archive.ingest_batch([received(payload, aet) for payload in payloads], policy=policy)


def study_query(study: int) -> Query:
    """A retrieval of one study."""
    return Query(Level.STUDY, {tags.StudyInstanceUID: uid(study).encode()}, Root.STUDY)


def series_query(study: int, series: int) -> Query:
    """A retrieval of one series."""
    return Query(Level.SERIES, {tags.SeriesInstanceUID: uid(study, series).encode()}, Root.STUDY)


def instance_query(study: int, series: int, number: int) -> Query:
    """A retrieval of one instance."""
    return Query(Level.IMAGE, {tags.SOPInstanceUID: uid(study, series, number).encode()}, Root.STUDY)


def all_instances(archive: Archive) -> list[Instance]:
    """Every current instance, by way of a search and retrievals."""
    query = Query(Level.STUDY, {tags.StudyInstanceUID: b""}, Root.STUDY)
    studies = [match.attributes[tags.StudyInstanceUID] for match in archive.find(query)]
    return [
        instance
        for study in studies
        for instance in archive.instances(Query(Level.STUDY, {tags.StudyInstanceUID: study}, Root.STUDY))
    ]


def contents(archive: Archive) -> dict[str, bytes]:
    """SOP Instance UID → data set, of everything that a query lists; each read back and verified."""
    return {instance.sop_instance_uid: archive.read(instance) for instance in all_instances(archive)}


def findings(archive: Archive) -> list[str]:
    """What `filmroom check` says, every byte compared."""
    return [str(finding) for finding in check(archive, payloads=True).findings]


def segment_bytes_on_disk(data: Path) -> int:
    """What the segments take."""
    return sum(path.stat().st_size for path in (data / "segments").glob("*.seg"))
