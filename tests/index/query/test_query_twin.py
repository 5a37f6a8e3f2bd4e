"""Every answer of an archive against the slow matcher of PS3.4, `tests.oracle.matcher`: random archives and queries.

FILMROOM_QUERY_TWIN_PAIRS=50000 …    the number of queries; prints one line of JSON (pytest -s)
FILMROOM_QUERY_TWIN_SEED=7 …         another seed
FILMROOM_QUERY_TWIN_REPLAY=7:31:4 …  repeats one pair: seed, archive, query; a failure prints this
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import struct
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom.values import convert_SQ

from engine.archive.archive import Archive, StorageOptions
from engine.archive.ingest.request import ReceivedInstance
from engine.archive.lifecycle import reindex
from engine.config import Attribute
from engine.dicom import extra
from engine.dicom.extra import ExtraSet
from engine.dicom.identifier import decode_identifier
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from engine.index.format.types import Level, Match, Outcome, Query, Root
from engine.index.query import access, ranges, text_scan
from engine.index.query import search as searching
from engine.index.query import walk as walking
from engine.storage.record import crc32c
from tests import effort
from tests.actors import actor
from tests.oracle import comparison, key_matching, matcher, query_question, query_world
from tests.oracle.key_matching import BINARY, ONE_VALUE, tag_of
from tests.oracle.matcher import IMAGE, SERIES, STUDY, UNIQUE
from tests.oracle.query_question import Asked
from tests.oracle.query_world import World

pytestmark = pytest.mark.slow

PAIRS_IN_CI = 400
PAIRS = int(os.environ.get("FILMROOM_QUERY_TWIN_PAIRS", str(PAIRS_IN_CI)))
SEED = int(os.environ.get("FILMROOM_QUERY_TWIN_SEED", "1"))
REPLAY = os.environ.get("FILMROOM_QUERY_TWIN_REPLAY", "")
QUESTIONS = 25
"""Sends random queries to an archive."""
FILE = "tests/index/query/test_query_twin.py"
SMALL = (
    (searching, "FIRST_PAGE", 2),
    (searching, "PAGE", 3),
    (walking, "EXAMINED_MAX", 4),
    (ranges, "KEYS_MAX", 5),
    (access, "_SIEVE_MIN", 1),
    (access, "_FEW", 1),
    (text_scan, "ROWS_MAX", 2),
)
EXTRAS = extra.of(
    [
        Attribute(tag="PatientMotherBirthName", level="patient", indexed=True),
        Attribute(tag="AdmissionID", level="study", indexed=True),
        Attribute(tag="InstitutionAddress", level="series"),
        Attribute(tag="AnatomicRegionSequence", level="series"),
        Attribute(tag="0009,xx01", level="series", creator=key_matching.CREATOR, vr="LO", indexed=True),
        Attribute(tag="AcquisitionDateTime", level="instance"),
    ]
)
RECORD_KEY = tag_of("RecordKey")
HEAD = {tag_of("SpecificCharacterSet"), tag_of("QueryRetrieveLevel")}


@dataclass
class Stage:
    """An archive filled with a world, and the judge of its answers."""

    number: int
    world: World
    archive: Archive
    judge: matcher.Archive


def filled(folder: Path, world: World, rng: random.Random) -> tuple[Archive, list[bytes]]:
    """An archive with a world in it, stored as an import does, in one batch or several; and what is there in the end.

    Of some something has been deleted, of some the index was made anew, some got their extra attributes afterwards.
    """
    from_the_start = rng.random() < 0.5
    archive = opened(folder, EXTRAS if world.has_extras and from_the_start else None)
    remaining = list(world.data_sets)
    while remaining:
        size = rng.choice((1, 3, len(remaining)))
        batch, remaining = remaining[:size], remaining[size:]
        received = [
            ReceivedInstance([data], len(data), crc32c(data), EXPLICIT_VR_LITTLE_ENDIAN.uid, "MODALITY")
            for data in batch
        ]
        assert archive.ingest_batch(received) == [Outcome.STORED] * len(batch)
    stored = list(world.data_sets)
    if rng.random() < 0.3:
        stored = _without_some(archive, stored, rng)
    if rng.random() < 0.3:
        archive.close()
        if rng.random() < 0.5:
            Archive.rebuild_index(folder)
        archive = opened(folder)
    if world.has_extras and not from_the_start:
        archive.close()
        archive = opened(folder, EXTRAS)
        reindex.run(archive, lambda *progress: None)
    return archive, stored


def opened(folder: Path, extras: ExtraSet | None = None) -> Archive:
    """The archive of a folder; created if there is none."""
    archive = Archive.open(folder, role="keeper", create=True, extra_attributes=extras)
    archive.writer("test", StorageOptions(segment_bytes=1 << 20))
    return archive


def _without_some(archive: Archive, data_sets: list[bytes], rng: random.Random) -> list[bytes]:
    """Deletes an instance, a series or a study."""
    level = rng.choice((STUDY, SERIES, IMAGE))
    chosen = matcher.text_of(key_matching.read(query_world.read(rng.choice(data_sets))), UNIQUE[level])
    query = Query(Level(level), {UNIQUE[level]: chosen.encode()}, Root.STUDY)
    archive.delete(query, actor=actor(), reason="test")
    return [
        data
        for data in data_sets
        if matcher.text_of(key_matching.read(query_world.read(data)), UNIQUE[level]) != chosen
    ]


def levels_of(world: World) -> Sequence[frozenset[int]]:
    """The indexed attributes of each level."""
    return query_world.EXTRA_LEVELS if world.has_extras else matcher.LEVELS


def query_of(request: Asked, **more: Any) -> Query:
    """The same query in the archive's form."""
    decoded = decode_identifier(request.identifier, EXPLICIT_VR_LITTLE_ENDIAN)
    keys = {tag: value for tag, value in decoded.items.items() if tag not in HEAD}
    return Query(Level(request.level), keys, Root[request.root], decoded.character_set, **request.flags, **more)


def answer_of(match: Match) -> dict[int, Any]:
    """A match in the form of the judge."""
    return {_index_tag(tag): _values(tag, value) for tag, value in match.attributes.items() if not _is_creator(tag)}


def _index_tag(tag: int) -> int:
    """A private attribute is in (gggg,10xx)."""
    return tag & 0xFFFF00FF | 0x1000 if tag >> 16 & 1 else tag


def _is_creator(tag: int) -> bool:
    return bool(tag >> 16 & 1 and not tag & 0xFF00)


def _values(tag: int, value: bytes) -> list[Any]:
    vr = key_matching.vr_of_tag(tag)
    if vr == "SQ":
        return [key_matching.read(item) for item in convert_SQ(value, False, True, ["utf_8"])] if value else []
    if vr in BINARY:
        return [number for (number,) in struct.iter_unpack("<H", value)]
    text = value.decode("utf-8")
    return key_matching.stripped(vr, [text] if vr in ONE_VALUE else text.split("\\"))


def disagreement(archive: Archive, search: matcher.Search, request: Asked) -> str:
    """The fault of an answer; empty if there is none."""
    matches = list(archive.find(query_of(request)))
    if any(match.unsupported != search.unsupported for match in matches):
        return f"unsupported is {matches[0].unsupported}"
    return comparison.disagreement(search, list(map(answer_of, matches)))


def is_in_pieces(archive: Archive, request: Asked, rng: random.Random) -> bool:
    """Whether the answer repeats in the same order, and its pages are parts of it."""
    whole = list(archive.find(query_of(request)))
    offset, limit = rng.randrange(4), rng.choice([None, 0, 1, 3])
    piece = list(archive.find(query_of(request, offset=offset, limit=limit)))
    if piece != whole[offset : None if limit is None else offset + limit]:
        return False
    keyed = list(archive.find(query_of(request, is_keyed=True)))
    if not keyed:
        return not whole
    last = rng.randrange(len(keyed))
    rest = archive.find(query_of(request, is_keyed=True, after=keyed[last].attributes.pop(RECORD_KEY)))
    for match in keyed[:last] + keyed[last + 1 :]:
        match.attributes.pop(RECORD_KEY)
    return keyed == whole and keyed[last + 1 :] == [_without_key(match) for match in rest]


def _without_key(match: Match) -> Match:
    match.attributes.pop(RECORD_KEY)
    return match


def stages(folder: Path, seed: int, numbers: Iterable[int]) -> Iterator[Stage]:
    """Archives by number."""
    for number in numbers:
        rng = random.Random(f"{seed}:{number}")
        world = query_world.world(rng)
        where = folder / str(number)
        archive, stored = filled(where, world, rng)
        try:
            yield Stage(number, world, archive, matcher.Archive(map(query_world.read, stored), levels_of(world)))
        finally:
            archive.close()
            shutil.rmtree(where)


def check(seed: int, turn: int, stage: Stage) -> tuple[str, bool]:
    """Checks one pair of archive and query: the fault, with the command to repeat it, and the presence of matches."""
    rng = random.Random(f"{seed}:{stage.number}:{turn}")
    request = query_question.question(rng, stage.world)
    expected = matcher.Search(stage.judge, request.question())
    try:
        wrong = disagreement(stage.archive, expected, request)
        if not wrong and not is_in_pieces(stage.archive, request, rng):
            wrong = "offset, limit or after give no pieces of the whole"
    except Exception as error:  # whatever it is, it is to be told with the pair, and the run to go on
        wrong = f"{type(error).__name__} {error}"
    if wrong:
        wrong += f": {request}\n    FILMROOM_QUERY_TWIN_REPLAY={seed}:{stage.number}:{turn} python -m pytest {FILE}"
    return wrong, bool(expected.answer)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logger.setLevel(level)


def test_every_answer_agrees_with_the_standard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    wrong: list[str] = []
    answered = pairs = 0
    if REPLAY:
        seed, first, turn = map(int, REPLAY.split(":"))
        numbers, turns = range(first, first + 1), range(turn, turn + 1)
    else:
        seed, numbers, turns = SEED, range((PAIRS + QUESTIONS - 1) // QUESTIONS), range(QUESTIONS)
        if PAIRS == PAIRS_IN_CI:
            numbers = effort.one_half(numbers)
    for stage in stages(tmp_path, seed, numbers):
        with monkeypatch.context() as patched:
            if stage.number % 2:
                # Every answer in many pages, every read in many transactions.
                for module, name, value in SMALL:
                    patched.setattr(module, name, value)
            for turn in turns:
                count, is_answered = check(seed, turn, stage)
                pairs += 1
                answered += is_answered
                wrong += [count] if count else []
    if PAIRS > PAIRS_IN_CI:
        _report({"seed": seed, "pairs": pairs, "answered": answered, "disagreements": len(wrong)}, began)
    assert not wrong, f"{len(wrong)} of {pairs}:\n" + "\n".join(wrong[:20])
    assert REPLAY or answered > pairs // 5


def _report(line: dict[str, Any], began: float) -> None:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    line |= {"commit": commit.stdout.strip(), "seconds": round(time.monotonic() - began, 1)}
    sys.stdout.write(json.dumps(line) + "\n")
