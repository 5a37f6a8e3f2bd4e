"""C-FIND of a whole server as pynetdicom and findscu see it: negotiation, hierarchy, limits, cancel, counts."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from pydicom.dataset import Dataset

from engine.archive.archive import Archive
from engine.archive.ingest.request import ReceivedInstance
from engine.storage.record import crc32c
from tests import samples
from tests.system import foreign
from tests.system.foreign import EXPLICIT, Stored
from tests.system.server import Server, running, wait_for

CONFIG = """
[query]
slow_s = 1e-9

[[peer]]
aet = "KNOWN"
query_options = ["relational", "fuzzy"]

[[peer]]
aet = "FEW"
query_results_max = 2
"""
FIND = foreign.model("study", "find")
STUDY = f"{samples.ROOT}.1"
SERIES = {"level": "SERIES", "SeriesInstanceUID": "", "Modality": ""}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two studies of three series each."""
    with running(tmp_path_factory.mktemp("find") / "data", workers=1, config=CONFIG) as started:
        made = [samples.instance(study, series) for study in (1, 2) for series in (1, 2, 3)]
        assert set(foreign.store(started.port, [Stored.of(ds) for ds in made])) == {0}
        yield started


def counters(server: Server) -> dict[str, int]:
    return dict(server.stats()["workers"][0]["counters"])  # type: ignore[index]


@pytest.mark.parametrize(
    ("asked", "agreed"),
    [
        (b"\1\1\1\1\1\1\1", b"\1\1\1\1\0\1\1"),
        (b"\1", b"\1"),
        (b"\0\0\1", b"\0\0\1"),
        (b"\1\1\1\1\1\1\1\1\1", b"\1\1\1\1\0\1\1"),
    ],
)
def test_what_is_agreed_is_what_was_asked_and_can_be_done(server: Server, asked: bytes, agreed: bytes) -> None:
    with foreign.association(server.port, [(FIND, EXPLICIT)], options=asked) as assoc:
        assert assoc.acceptor.sop_class_extended == {FIND: agreed}


def test_nothing_is_agreed_that_was_not_asked(server: Server) -> None:
    with foreign.association(server.port, [(FIND, EXPLICIT)], options=b"") as assoc:
        assert assoc.acceptor.sop_class_extended == {}


def test_a_series_query_without_its_study_needs_relational_queries(server: Server) -> None:
    responses, matches = foreign.find_responses(server.port, SERIES, options=b"")
    (final,) = responses
    assert (final.Status, matches) == (0xA900, [])
    assert final.ErrorComment == "SERIES level needs a single StudyInstanceUID (not relational)"
    assert final.OffendingElement == 0x0020000D
    status, matches = foreign.find(server.port, SERIES, options=b"\1")
    assert (status, len(matches)) == (0, 6)
    status, matches = foreign.find(server.port, SERIES, options=b"", calling="KNOWN")
    assert (status, len(matches)) == (0, 6)
    status, matches = foreign.find(server.port, {**SERIES, "StudyInstanceUID": STUDY}, options=b"")
    assert (status, len(matches)) == (0, 3)


def test_a_negotiated_query_may_ask_of_the_levels_below(server: Server) -> None:
    keys = {"level": "STUDY", "StudyInstanceUID": "", "SeriesDescription": "Series 3", "SOPInstanceUID": f"{STUDY}.3.1"}
    responses, matches = foreign.find_responses(server.port, keys, options=b"\1")
    assert [response.Status for response in responses] == [0xFF00, 0]
    assert [match.StudyInstanceUID for match in matches] == [STUDY]
    # Without, keys of the levels below are none of the query's: they are passed over, and that is said.
    responses, matches = foreign.find_responses(server.port, keys, options=b"")
    assert [response.Status for response in responses] == [0xFF01, 0xFF01, 0]


def test_more_matches_than_a_peer_may_have_end_with_a700(server: Server) -> None:
    before = counters(server)
    keys = {**SERIES, "StudyInstanceUID": STUDY}
    responses, matches = foreign.find_responses(server.port, keys, calling="FEW")
    assert [response.Status for response in responses] == [0xFF00, 0xFF00, 0xA700]
    assert responses[-1].ErrorComment == "more than 2 matches: narrow the query"
    assert len(matches) == 2
    after = counters(server)
    assert after["find_truncated"] == before.get("find_truncated", 0) + 1
    assert after["find_matches"] == before["find_matches"] + 2


def test_slow_queries_are_told_in_the_log_without_values(server: Server) -> None:
    keys = {"level": "STUDY", "StudyInstanceUID": "", "PatientName": "Do*^Jane", "StudyDate": "20260101-"}
    status, matches = foreign.find(server.port, keys, calling="CURIOUS")
    assert (status, len(matches)) == (0, 2)
    assert counters(server)["find_slow"]
    told: list[dict[str, object]] = []
    wait_for(
        lambda: told.extend(line for line in server.events("slow query") if line["calling"] == "CURIOUS") or told,
        what="a line in the log",
    )
    (line,) = told
    assert line["access"]
    assert line["keys"] == "StudyDate range, PatientName wild card"
    assert line["matches"] == 2
    assert not {"Do*", "Jane", "20260101"} & set(json.dumps(line).replace('"', " ").split())


@pytest.mark.skipif(shutil.which("findscu") is None, reason="findscu is not installed (Debian package dcmtk)")
def test_findscu_needs_no_option_for_the_baseline(server: Server) -> None:
    def findscu(*arguments: str, title: str = "FINDSCU") -> str:
        command = ["findscu", "-v", "-S", "-aet", title, "-aec", "FILMROOM", "127.0.0.1", str(server.port), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done.stdout + done.stderr

    found = findscu("-k", "0008,0052=STUDY", "-k", "0020,000D", "-k", "0010,0010=doe*")
    assert (STUDY in found, f"{samples.ROOT}.2" in found) == (True, True)
    found = findscu("-k", "0008,0052=SERIES", "-k", f"0020,000D={STUDY}", "-k", "0020,000E")
    assert all(f"{STUDY}.{series}" in found for series in (1, 2, 3))
    refused = findscu("-k", "0008,0052=SERIES", "-k", "0020,000E")
    assert "DoesNotMatchSOPClass" in refused
    assert f"{STUDY}.1" not in refused
    assert f"{STUDY}.1" in findscu("-k", "0008,0052=SERIES", "-k", "0020,000E", title="KNOWN")


CANCELLED_COUNT = 6000


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A series of so many instances that the answers to a query are more than sockets hold."""
    data = tmp_path_factory.mktemp("crowded") / "data"
    model = samples.encoded(
        samples.instance(
            number=100_000, PatientComments="c" * 1000, AdditionalPatientHistory="h" * 1000, pixels=b"1234"
        )
    )
    uid = f"{STUDY}.1.100000".encode()
    archive = Archive.open(data, role="keeper", create=True)
    made = [model.replace(uid, b"%b.1.%06d" % (STUDY.encode(), 100_000 + number)) for number in range(CANCELLED_COUNT)]
    archive.ingest_batch([ReceivedInstance([one], len(one), crc32c(one), EXPLICIT) for one in made])
    archive.close()
    with running(data, workers=1, config="[limits]\nquery_results_max = 0\n") as started:
        yield started


def test_a_query_is_cancelled_in_the_middle_of_its_answers(crowded: Server) -> None:
    keys = foreign.identifier(
        {
            "level": "IMAGE",
            "StudyInstanceUID": STUDY,
            "SeriesInstanceUID": f"{STUDY}.1",
            "SOPInstanceUID": "",
            "PatientComments": "",
            "AdditionalPatientHistory": "",
        }
    )
    statuses: list[int] = []
    with foreign.association(crowded.port, [(FIND, EXPLICIT)]) as assoc:
        for status, _ in assoc.send_c_find(keys, FIND, msg_id=7):
            assert isinstance(status, Dataset)
            if not statuses:
                assoc.send_c_cancel(7, query_model=FIND)
            statuses.append(int(status.Status))
        again, _ = next(assoc.send_c_find(foreign.identifier({"level": "STUDY", "StudyInstanceUID": ""}), FIND))
        assert again.Status == 0xFF00
    assert statuses[-1] == 0xFE00
    assert 1 < len(statuses) <= CANCELLED_COUNT
    assert counters(crowded)["find_cancelled"] == 1
