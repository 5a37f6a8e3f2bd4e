"""Two archives with different extra attributes, open in one process and used at the same time."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from engine.archive.archive import Archive
from engine.config import Attribute
from engine.dicom import extra, tags
from engine.errors import QueryError
from engine.index.format.types import Level, Query
from tests import samples
from tests.archive import kept

PRIVATE = 0x001910A3
COUNT = 50
ONE = (
    Attribute(tag="0019,xxA3", level="series", creator="ACME 1.0", vr="PN", indexed=True),
    Attribute(tag="StudyStatusID", level="study", indexed=True),
)
OTHER = (
    Attribute(tag="0019,xxA3", level="study", creator="OTHER", vr="US"),
    Attribute(tag="ReasonForStudy", level="study", indexed=True),
)


def instance(number: int) -> bytes:
    """Has what either archive keeps, and differs in all of it."""
    ds = samples.instance(number, 1, 1, StudyStatusID=f"ST{number}", ReasonForStudy=f"Reason {number}")
    ds.private_block(0x0019, "OTHER", create=True).add_new(0xA3, "US", number)
    ds.private_block(0x0019, "ACME 1.0", create=True).add_new(0xA3, "PN", f"Müller^{number}")
    ds.SpecificCharacterSet = "ISO_IR 192"
    return samples.encoded(ds)


def studies(archive: Archive, **named: str) -> list[str]:
    return [match["StudyInstanceUID"] for match in archive.find("study", StudyInstanceUID="", **named)]


def private(archive: Archive, level: Level, value: bytes) -> list[tuple[bytes, object]]:
    """What a query by (0019,10A3) gives: the Study Instance UID, and the value as Python has it."""
    query = Query(level, {PRIVATE: value, tags.StudyInstanceUID: b""}, character_set=b"ISO_IR 192", relational=True)
    matches = list(archive.find(query))
    return [(match.attributes[tags.StudyInstanceUID], match["0019,10A3"]) for match in matches]


def test_two_archives_in_one_process_each_keep_and_find_their_own_extra_attributes(tmp_path: Path) -> None:
    one = Archive.open(tmp_path / "one", role="keeper", create=True, extra_attributes=extra.of(ONE))
    other = Archive.open(tmp_path / "other", role="keeper", create=True, extra_attributes=extra.of(OTHER))
    with one, other:
        failures: list[BaseException] = []
        begin = threading.Barrier(2)

        def ingest(archive: Archive) -> None:
            try:
                begin.wait()
                for number in range(COUNT):
                    kept.store(archive, [instance(number)])
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=ingest, args=(archive,)) for archive in (one, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        for number in range(0, COUNT, 7):
            uid = f"{samples.ROOT}.{number}"
            assert studies(one, StudyStatusID=f"ST{number}") == [uid]
            assert studies(other, ReasonForStudy=f"Reason {number}") == [uid]
            # A person name here, whose case does not count; a number there.
            found = private(one, Level.SERIES, f"MÜLLER^{number}".encode())
            assert found == [(uid.encode(), f"Müller^{number}")]
            assert private(other, Level.STUDY, number.to_bytes(2, "little")) == [(uid.encode(), number)]
        with pytest.raises(QueryError, match="ReasonForStudy is not indexed"):
            studies(one, ReasonForStudy="Reason 1")
        with pytest.raises(QueryError, match="StudyStatusID is not indexed"):
            studies(other, StudyStatusID="ST1")
        assert [archive.schema.level_of[PRIVATE] for archive in (one, other)] == [Level.SERIES, Level.STUDY]


def test_an_archive_keeps_its_extra_attributes_while_another_changes_its_own(tmp_path: Path) -> None:
    with Archive.open(tmp_path / "one", role="keeper", create=True, extra_attributes=extra.of(ONE)) as one:
        kept.store(one, [instance(1)])
        for chosen in (OTHER, (), ONE[:1]):
            configured = extra.of(chosen)
            with Archive.open(tmp_path / "other", role="keeper", create=True, extra_attributes=configured) as other:
                kept.store(other, [instance(2)])
        kept.store(one, [instance(3)])
        assert studies(one, StudyStatusID="ST3") == [f"{samples.ROOT}.3"]
        assert studies(one, StudyStatusID="ST1") == [f"{samples.ROOT}.1"]
        assert private(one, Level.SERIES, b"m*^1")
