"""Repository Query: an archive in pieces of any size, and keys of places that are gone; pydicom reads and writes."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pynetdicom.sop_class import RepositoryQuery

from engine.archive.archive import Archive
from engine.config import Config
from engine.config import Peer as KnownPeer
from engine.index.upkeep import epoch_id
from engine.storage.files import Files
from tests import peer
from tests.actors import actor
from tests.archive import filled
from tests.peer import Peer
from tests.services.serving import LIMITS, Serving, serve

STUDIES, SERIES, INSTANCES = 4, 2, 3
UNIQUE = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}
STUDY_UIDS = [filled.uid(study) for study in range(1, STUDIES + 1)]
SERIES_UIDS = [f"{study}.{series}" for study in STUDY_UIDS for series in range(1, SERIES + 1)]
IMAGE_UIDS = [f"{series}.{number}" for series in SERIES_UIDS for number in range(1, INSTANCES + 1)]
ALL = {"STUDY": STUDY_UIDS, "SERIES": SERIES_UIDS, "IMAGE": IMAGE_UIDS}
SUCCESS, PENDING, LIMIT, INVALID_KEY = 0x0000, 0xFF00, 0xB001, 0xA710


def fill(archive: Archive) -> None:
    for study in range(1, STUDIES + 1):
        payloads = [
            filled.payload_of(study, series, number, patient_id=f"P{study % 2}", modality="CT" if study % 2 else "MR")
            for series in range(1, SERIES + 1)
            for number in range(1, INSTANCES + 1)
        ]
        filled.store(archive, *payloads)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    with filled.opened(tmp_path / "data") as archive:
        fill(archive)
    return tmp_path / "data"


@contextmanager
def asker(serving: Serving) -> Iterator[Peer]:
    """An association on which relational queries are agreed."""
    uid = str(RepositoryQuery).encode()
    options = peer.item(0x56, struct.pack(">H", len(uid)) + uid + b"\1\1\1\1\0\1\1")
    with serving.call() as scripted:
        scripted.associate((1, str(RepositoryQuery), [peer.IMPLICIT]), calling="ASKER", user_items=options)
        yield scripted
        scripted.release()


def identifier(level: str, *, most: int | None = None, prior: bytes | None = None, **keys: object) -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel = level
    setattr(ds, UNIQUE[level], "")
    ds.RecordKey = None
    if most is not None:
        ds.MaximumNumberOfRecords = most
    if prior is not None:
        ds.PriorRecordKey = prior
    for keyword, value in keys.items():
        setattr(ds, keyword, value)
    return ds


def asked(scripted: Peer, wanted: Dataset) -> tuple[int, list[Dataset]]:
    """The final status and the matches.

    Not by pynetdicom: its SCU goes on waiting after B001, which PS3.4 C.6.4 calls the end of the query.
    """
    out = DicomBytesIO()
    out.is_little_endian = out.is_implicit_VR = True
    write_dataset(out, wanted)
    scripted.send(peer.message(1, peer.query_rq(peer.C_FIND_RQ, 1, str(RepositoryQuery)), out.getvalue()))
    matches: list[Dataset] = []
    while True:
        received = scripted.expect_message()
        if received.status() != PENDING:
            assert received.data_set is None
            return received.status(), matches
        assert received.data_set is not None
        matches.append(read_dataset(io.BytesIO(received.data_set), is_implicit_VR=True, is_little_endian=True))


def told(level: str, matches: list[Dataset]) -> list[str]:
    return [str(match[UNIQUE[level]].value) for match in matches]


@pytest.mark.parametrize("level", list(UNIQUE))
@pytest.mark.parametrize("most", [1, 2, 7, 100])
def test_pieces_of_any_size_form_the_whole_result(data: Path, level: str, most: int) -> None:
    def script(serving: Serving) -> None:
        with asker(serving) as scripted:
            status, whole = asked(scripted, identifier(level))
            assert (status, told(level, whole)) == (SUCCESS, ALL[level])
            keys = [match.RecordKey for match in whole]
            assert keys == sorted(set(keys)), "each its own, and the answers in their order"
            pieces, prior = [], None
            while True:
                status, matches = asked(scripted, identifier(level, most=most, prior=prior))
                pieces += matches
                if status == SUCCESS:
                    break
                assert (status, len(matches)) == (LIMIT, most)
                prior = matches[-1].RecordKey
            assert told(level, pieces) == ALL[level]
            assert [match.RecordKey for match in pieces] == keys
            assert not any("PriorRecordKey" in match or "MaximumNumberOfRecords" in match for match in pieces)

    serve(data, script)


@pytest.mark.parametrize(
    "keys",
    [
        {"PatientID": "P1"},
        {"StudyInstanceUID": STUDY_UIDS[1:3]},
        {"ModalitiesInStudy": "MR"},
        {"StudyDescription": "*udy 3"},
        {"AccessionNumber": "A2"},
    ],
)
def test_query_options_apply_to_every_piece(data: Path, keys: dict[str, object]) -> None:
    """Whichever way the index goes about it, and from wherever the query goes on."""

    def script(serving: Serving) -> None:
        with asker(serving) as scripted:
            _, everything = asked(scripted, identifier("IMAGE"))
            _, whole = asked(scripted, identifier("IMAGE", **keys))
            assert 0 < len(whole) < len(everything)
            rng = random.Random(7)
            for match in rng.sample(everything, 8):
                _, rest = asked(scripted, identifier("IMAGE", prior=match.RecordKey, **keys))
                expected = [each for each in whole if each.RecordKey > match.RecordKey]
                assert told("IMAGE", rest) == told("IMAGE", expected), "seed 7"

    serve(data, script)


def test_the_server_limit_ends_a_piece_too(data: Path) -> None:
    config = Config(data=data, limits=LIMITS, peers=(KnownPeer(aet="ASKER", query_results_max=3),))

    def script(serving: Serving) -> None:
        with asker(serving) as scripted:
            status, first = asked(scripted, identifier("SERIES", most=100))
            assert (status, told("SERIES", first)) == (LIMIT, SERIES_UIDS[:3])
            status, second = asked(scripted, identifier("SERIES", most=2, prior=first[-1].RecordKey))
            assert (status, told("SERIES", second)) == (LIMIT, SERIES_UIDS[3:5])
            status, third = asked(scripted, identifier("SERIES", most=0, prior=second[-1].RecordKey))
            assert (status, told("SERIES", third)) == (SUCCESS, SERIES_UIDS[5:])

    serve(data, script, config=config)


def test_a_query_continues_after_deletions_and_finds_new_instances(data: Path) -> None:
    def script(serving: Serving) -> None:
        with asker(serving) as scripted:
            _, first = asked(scripted, identifier("STUDY", most=2))
            serving.archive.delete(filled.study_query(2), actor=actor(), reason="test")
            _, rest = asked(scripted, identifier("STUDY", prior=first[-1].RecordKey))
            assert told("STUDY", rest) == STUDY_UIDS[2:]

    serve(data, script)


@pytest.mark.parametrize("level", list(UNIQUE))
def test_a_foreign_key_is_refused(data: Path, level: str) -> None:
    def script(serving: Serving) -> None:
        with asker(serving) as scripted:
            keys = {each: asked(scripted, identifier(each, most=1))[1][0].RecordKey for each in UNIQUE}
            wrong = [key for each, key in keys.items() if each != level]
            right = keys[level]
            wrong += [b"\0" * len(right), right[:-2], right + b"\0\0", b"ab", right[1:] + right[:1]]
            for key in wrong:
                assert asked(scripted, identifier(level, prior=key)) == (INVALID_KEY, [])
            assert asked(scripted, identifier(level, prior=right))[0] == SUCCESS

    serve(data, script)


def test_keys_outlive_a_restart_and_not_a_new_index(data: Path) -> None:
    key = b""

    def ask_first(serving: Serving) -> None:
        nonlocal key
        with asker(serving) as scripted:
            key = asked(scripted, identifier("STUDY", most=1))[1][0].RecordKey

    def goes_on(serving: Serving) -> None:
        with asker(serving) as scripted:
            assert told("STUDY", asked(scripted, identifier("STUDY", prior=key))[1]) == STUDY_UIDS[1:]

    def is_invalid(serving: Serving) -> None:
        with asker(serving) as scripted:
            assert asked(scripted, identifier("STUDY", prior=key)) == (INVALID_KEY, [])

    serve(data, ask_first)
    serve(data, goes_on)
    Archive.rebuild_index(data)
    serve(data, is_invalid)


def test_a_lifetime_is_renewed_when_the_index_goes_back(data: Path) -> None:
    directory = str(data / "index")
    before = epoch_id.read(directory, Files())
    assert len(before) == epoch_id.EPOCH_ID_BYTES
    with filled.opened(data) as archive:
        assert archive.parts.index.epoch_id() == before, "closed cleanly"
    # What a kill leaves: a checkpoint that is not the clean end.
    archive = filled.opened(data)
    archive.parts.keeper.close(clean=False)  # type: ignore[union-attr]
    with filled.opened(data) as archive:
        assert archive.parts.index.epoch_id() not in (before, b"")


def test_without_a_lifetime_no_keys_are_given_but_the_query_is_answered(data: Path) -> None:
    def script(serving: Serving) -> None:
        (data / "index" / epoch_id.NAME).write_bytes(b"short")
        with asker(serving) as scripted:
            assert asked(scripted, identifier("STUDY")) == (0xA700, [])
            plain = identifier("STUDY")
            del plain.RecordKey
            assert told("STUDY", asked(scripted, plain)[1]) == STUDY_UIDS

    serve(data, script)


def test_baseline_keys_match_and_optional_keys_are_empty(data: Path) -> None:
    """Without the extended negotiation a lower level needs its unique keys; the tags are C.6.4.1's."""

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate((1, str(RepositoryQuery), [peer.IMPLICIT]))
            rq = peer.query_rq(peer.C_FIND_RQ, 1, str(RepositoryQuery))
            scripted.send(peer.message(1, rq, peer.identifier({0x00080052: "SERIES", 0x0020000E: ""})))
            assert scripted.expect_message().status() == 0xA900
            keys = {0x00080052: "STUDY", 0x0020000D: "", 0x00080405: "", 0x00080409: ""}
            scripted.send(peer.message(1, rq, peer.identifier(keys)))
            statuses = [scripted.expect_message().status() for _ in range(STUDIES + 1)]
            assert statuses == [0xFF01] * STUDIES + [SUCCESS]
            scripted.send(peer.message(1, rq, peer.identifier({0x00080052: "PATIENT", 0x00100020: ""})))
            assert scripted.expect_message().status() == 0xA900
            scripted.send(peer.message(1, rq, peer.identifier({0x00080052: "STUDY", 0x00080429: b"\1\0\0"})))
            assert scripted.expect_message().status() == 0xA900
            scripted.release()

    serve(data, script)


def test_a_peer_that_may_not_query_may_not_query_the_repository(data: Path) -> None:
    config = Config(data=data, limits=LIMITS, peers=(KnownPeer(aet="ASKER", may=("store",)),))

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            answer = scripted.associate((1, str(RepositoryQuery), [peer.IMPLICIT]), calling="ASKER")
            assert answer.contexts[1][0] == 3
            scripted.release()

    serve(data, script, config=config)
