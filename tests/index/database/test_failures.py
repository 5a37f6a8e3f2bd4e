"""engine.index.database.failures: damaged rows are errors of the index, mistakes of the engine are not."""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.archive import verify
from engine.archive.archive import Archive
from engine.archive.lifecycle import correction
from engine.dicom import tags
from engine.errors import EngineError, IndexDamaged
from engine.index.catalog import Catalog
from engine.index.database.tables import TABLES
from engine.index.format.types import Level, Query
from tests import effort
from tests.actors import actor
from tests.archive.filled import contents, instance_query, opened, payload_of, store, study_query, uid

ROUNDS = effort.amount("ROT", 20, 1000)
SEED = effort.seed("ROT")
WHO = {"actor": actor(), "reason": "a reason"}
RETURNED = dict.fromkeys((tags.StudyDescription, tags.NumberOfStudyRelatedInstances, tags.ModalitiesInStudy), b"")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with something in nearly every table of its index."""
    data = tmp_path_factory.mktemp("rot") / "data"
    with opened(data) as archive:
        store(archive, *[payload_of(*numbers, 1) for numbers in ((1, 1), (1, 2), (2, 1), (3, 1))])
        store(archive, payload_of(1, 1, 1, patient_name="Other^A"))
        store(archive, payload_of(2, 1, 1, patient_name="Other^B"), policy="keep-both-versions")
        archive.delete(instance_query(3, 1, 1), **WHO)
        correction.correct_study(archive, uid(1), {tags.AccessionNumber: "A77"}, **WHO)
        archive.set_holds([uid(2)], **WHO)
        archive.parts.index.note_damage(1, 4096, b"1.2.3", "a reason", 5)
    return data


def spoil(archive: Archive, rng: random.Random) -> str:
    """Damages one row of one table: deletes, cuts or extends it, or changes its key or bits. Returns a description."""
    environment = archive.parts.index._environment
    table = rng.choice([name for name in TABLES if name != "meta"])
    handle: Any = getattr(environment, table)

    def work(txn: Any) -> str:
        with txn.cursor(db=handle) as cursor:
            rows = list(cursor)
        if not rows:
            return f"{table} is empty"
        key, value = map(bytearray, rng.choice(rows))
        of_any_length = () if table == "search" else ("cut", "longer")
        how = rng.choice(("gone", "bit", "key", "ones", *of_any_length))
        txn.delete(bytes(key), db=handle)
        if how == "gone" or (how == "bit" and not value):
            return f"a row of {table} is gone"
        if how == "cut":
            del value[rng.randrange(len(value) + 1) :]
        elif how == "longer":
            value += rng.randbytes(5)
        elif how == "ones":
            value[:] = b"\xff" * len(value)
        else:
            target = key if how == "key" else value
            target[rng.randrange(len(target))] ^= 1 << rng.randrange(8)
        txn.put(bytes(key), bytes(value), db=handle)
        return f"{table}: {how}"

    damage: str = environment.write(work, lambda: None)
    return damage


def uses(archive: Archive) -> Iterator[Callable[[], object]]:
    """The operations of users on an index."""
    index = archive.parts.index
    for level in (Level.STUDY, Level.SERIES, Level.IMAGE):
        for key in ({}, {tags.PatientName: b"Doe*"}, {tags.StudyInstanceUID: uid(1).encode()}, {tags.Modality: b"CT"}):
            query = Query(level, {**RETURNED, **key}, relational=True)
            yield lambda query=query: list(archive.find(query))  # type: ignore[misc]
    yield lambda: contents(archive)
    yield lambda: verify.check(archive, payloads=False)
    yield lambda: list(index.holds())
    yield index.damage
    yield lambda: index.versions(uid(1, 1, 1).encode())
    yield lambda: store(archive, payload_of(1, 1, 1), payload_of(1, 1, 9), payload_of(2, 1, 1), payload_of(9, 1, 1))
    yield lambda: store(archive, payload_of(1, 1, 1, patient_name="Q"), policy="replace")
    yield lambda: correction.correct_study(archive, uid(1), {tags.AccessionNumber: "A78"}, **WHO)
    yield lambda: archive.set_holds([uid(1)], **WHO)
    yield lambda: archive.release_holds([uid(1), uid(2)], **WHO)
    yield lambda: archive.delete(instance_query(1, 2, 1), **WHO)
    yield lambda: archive.delete(study_query(1), **WHO)
    yield archive.stats


def test_any_damage_of_a_row_raises_only_errors_of_the_engine(filled: Path, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    errors = 0
    for number in itertools.count():
        if number >= ROUNDS and errors:
            break
        assert number < 50 * ROUNDS, f"FILMROOM_ROT_SEED={SEED}: the rot does no harm"
        data = tmp_path / str(number)
        shutil.copytree(filled, data)
        archive = opened(data)
        damage = spoil(archive, rng)
        for use in uses(archive):
            try:
                use()
            except EngineError:
                errors += 1
            except Exception as error:
                raise AssertionError(f"FILMROOM_ROT_SEED={SEED}, round {number}: {damage}") from error
        archive.close()  # it reads rows too; the log is whole, so this is no failure
        shutil.rmtree(data)


def test_an_archive_whose_index_is_damaged_closes_and_the_next_start_recovers(filled: Path, tmp_path: Path) -> None:
    """A close reads the rows of the segments. The log is whole, so it is no failure."""
    data = tmp_path / "data"
    shutil.copytree(filled, data)
    archive = opened(data)
    before = contents(archive)
    environment = archive.parts.index._environment
    handle: Any = environment.segments

    def cut(txn: Any) -> None:
        with txn.cursor(db=handle) as cursor:
            rows = [(bytes(key), bytes(value)) for key, value in cursor]
        for key, value in rows:
            txn.put(key, value[:5], db=handle)

    environment.write(cut, lambda: None)
    archive.close()
    with opened(data) as archive:
        assert contents(archive) == before


def test_a_mistake_of_the_engine_is_not_reported_as_damage(tmp_path: Path) -> None:
    index = Catalog.open(str(tmp_path / "index"))
    environment = index._environment

    def mistaken(row: Any) -> None:
        assert row.value

    with pytest.raises(AttributeError):
        environment.write(mistaken, lambda: None)
    with pytest.raises(AttributeError), environment.reading() as txn:
        mistaken(txn)
    with pytest.raises(IndexDamaged, match="rebuild-index"), environment.reading():
        b""[0]
    index.close()
