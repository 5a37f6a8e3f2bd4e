"""Peers and jobs over HTTP: what is sent and pulled by DICOM and by DICOMweb, what fails, and what a restart keeps.

Two servers for all: one that works, and one that it pulls from.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import CTImageStorage

from engine.access import NOTHING
from engine.archive.archive import Archive
from engine.archive.jobs import job as states
from engine.archive.jobs.job import Job, Work
from engine.archive.jobs.job_files import JobFiles, new_id
from engine.archive.settings import Jobs
from engine.config import Peer
from engine.exchange import arrival, runner
from tests import certificates, samples
from tests.sinks import NATIVE, Received, sink
from tests.system.server import wait_for
from tests.web.hosting import Hosting
from tests.web.serving import ApiClient, serving
from tests.web.stow_sink import StowSink, stow_sink

COUNT = 5


def uid(study: int, series: int | None = None, number: int | None = None) -> str:
    return ".".join([samples.ROOT, *(str(part) for part in (study, series, number) if part is not None)])


def uids(study: int) -> set[str]:
    return {uid(study, 1, number) for number in range(1, COUNT + 1)}


def fill(data: Path, *studies: int) -> None:
    with Archive.open(data, role="keeper", create=True) as archive:
        for study in studies:
            for number in range(1, COUNT + 1):
                archive.store(samples.part10(samples.instance(study, 1, number)))


class Place:
    """The server that works, and whom it knows."""

    def __init__(
        self, hosting: Hosting, there: Hosting, api: ApiClient, stow: StowSink, dicom: Received, secure: StowSink
    ) -> None:
        self.hosting = hosting
        self.there = there
        self.api = api
        self.stow = stow
        self.dicom = dicom
        self.secure = secure
        self._paused = threading.Event()

    def ended(self, body: dict[str, Any]) -> dict[str, Any]:
        """A job, after it has ended."""
        return self.until(self.api.post("/api/jobs", body, 201)["id"], *states.ENDED)

    def until(self, identifier: str, *wanted: str) -> dict[str, Any]:
        for _ in range(600):
            job: dict[str, Any] = self.api.get(f"/api/jobs/{identifier}")
            if job["state"] in wanted:
                return job
            self._paused.wait(0.05)
        raise AssertionError(job)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("jobs")
    fill(folder / "there", 5, 6, 7)
    fill(folder / "here", 1, 2)
    (folder / "token").write_text("a secret\n")
    authority, certificate, key = certificates.signed(folder, "127.0.0.1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "CHECK_S", 0.02)
        with (
            stow_sink() as stow,
            stow_sink(certificate, key) as secure,
            sink({CTImageStorage: NATIVE}) as (dicom, received),
            serving(folder / "there") as there,
        ):
            peers = (
                dicom,
                Peer(aet="STOW", url=stow.url, token_file=folder / "token"),
                Peer(aet="THERE", url=f"{there.url}/dicom-web"),
                Peer(aet="SECURE", url=secure.url, ca_file=authority),
                Peer(aet="UNTRUSTED", url=secure.url),
                Peer(aet="MISNAMED", url=secure.url.replace("127.0.0.1", "localhost"), ca_file=authority),
                Peer(aet="NO-FILE", url=secure.url, ca_file=folder / "none.pem"),
                Peer(aet="NOBODY", host="127.0.0.1", port=1),
                Peer(aet="SENDER"),
            )
            with serving(folder / "here", peers=peers, jobs=Jobs(retry_s=0.01, attempts_max=3)) as hosting:
                api = ApiClient(hosting.port)
                yield Place(hosting, there, api, stow, received, secure)
                api.close()


def test_peers_are_listed_without_secrets(place: Place) -> None:
    peers = {peer["aet"]: peer for peer in place.api.get("/api/peers")["peers"]}
    assert [peers[name]["protocol"] for name in ("SINK", "STOW", "SENDER")] == ["dicom", "dicomweb", None]
    assert "token" not in str(peers["STOW"])


def test_whoever_may_only_send_is_told_where_to(place: Place) -> None:
    peers = place.api.get("/api/destinations")["peers"]
    assert peers and all(set(peer) == {"aet", "host", "port", "url", "protocol"} for peer in peers)
    assert [peer["aet"] for peer in peers] == [
        peer["aet"] for peer in place.api.get("/api/peers")["peers"] if peer["protocol"]
    ]


def test_echo_distinguishes_a_peer_that_answers(place: Place) -> None:
    assert "echo_ms" not in place.api.post("/api/peers/STOW/echo", {})
    assert place.stow.authorizations[-1] == "Bearer a secret"
    assert place.api.post("/api/peers/THERE/echo", {})["protocol"] == "dicomweb"
    assert "NOBODY" in place.api.post("/api/peers/NOBODY/echo", {}, 502)["detail"]
    assert place.api.post("/api/peers/SENDER/echo", {}, 404)["status"] == 404


def test_a_private_authority_is_trusted_by_its_file_and_the_server_name_is_checked(place: Place) -> None:
    place.api.post("/api/peers/SECURE/echo", {})
    job = place.ended({"kind": "send", "peer": "SECURE", "studies": [uid(1)]})
    assert (job["state"], set(place.secure.received)) == ("done", uids(1))
    for title in ("UNTRUSTED", "MISNAMED"):
        problem = place.api.post(f"/api/peers/{title}/echo", {}, 502)
        assert problem["detail"] == f"{title}: its certificate is not trusted"
    assert "ca_file cannot be read" in place.api.post("/api/peers/NO-FILE/echo", {}, 502)["detail"]


def test_a_study_is_sent_by_c_store(place: Place) -> None:
    job = place.ended({"kind": "send", "peer": "SINK", "studies": [uid(1)], "reason": "second opinion"})
    assert (job["state"], job["completed"], job["total"], job["error"]) == ("done", COUNT, COUNT, "")
    assert (job["by"], job["reason"]) == ("http:127.0.0.1", "second opinion")
    assert set(place.dicom) >= uids(1)


def test_instances_are_sent_by_stow_and_a_retry_sends_only_what_failed(place: Place) -> None:
    stow = place.stow
    stow.refused = {uid(1, 1, 2)}
    job = place.ended({"kind": "send", "peer": "STOW", "studies": [uid(1)], "instances": [uid(2, 1, 1)]})
    assert (job["state"], job["completed"], job["failed_count"]) == ("failed", COUNT, 1)
    assert job["failed"] == {uid(1, 1, 2): "refused with status C000"}
    assert set(stow.received) == (uids(1) | {uid(2, 1, 1)}) - stow.refused
    stow.refused = set()
    stow.received.clear()
    place.api.post(f"/api/jobs/{job['id']}/retry", {}, 202)
    job = place.until(job["id"], "done")
    assert (job["completed"], job["total"], job["failed"]) == (COUNT + 1, COUNT + 1, {})
    assert set(stow.received) == {uid(1, 1, 2)}


@pytest.mark.parametrize("right", ["scope_of_actor", "scope_of_destination"])
def test_a_job_sends_nothing_that_its_requester_or_receiver_may_not_have_by_now(
    place: Place, monkeypatch: pytest.MonkeyPatch, right: str
) -> None:
    stow = place.stow
    stow.refused = uids(1)
    job = place.ended({"kind": "send", "peer": "STOW", "studies": [uid(1)]})
    assert (job["state"], job["completed"]) == ("failed", 0)
    stow.refused = set()
    stow.received.clear()
    monkeypatch.setattr(place.hosting.engine.access, right, lambda *asked: NOTHING)
    place.api.post(f"/api/jobs/{job['id']}/retry", {}, 202)
    error = f"study {uid(1)} is not stored"
    wait_for(lambda: place.api.get(f"/api/jobs/{job['id']}")["error"] == error, what="the retry")
    place.until(job["id"], "failed")
    assert not stow.received


def test_a_success_without_referenced_instances_counts_as_failure(place: Place) -> None:
    place.stow.status = 200
    job = place.ended({"kind": "send", "peer": "STOW", "instances": [uid(2, 1, 4)]})
    place.stow.status = None
    assert (job["state"], job["completed"], list(job["failed"])) == ("failed", 0, [uid(2, 1, 4)])


def test_sent_instances_are_as_stored_in_explicit_vr(place: Place) -> None:
    place.ended({"kind": "send", "peer": "STOW", "instances": [uid(2, 1, 3)]})
    syntax, data = place.stow.received[uid(2, 1, 3)]
    assert syntax == "1.2.840.10008.1.2.1"
    archive = place.hosting.engine.archive
    instance = archive.instance(uid(2, 1, 3))
    assert instance is not None and data.endswith(archive.read(instance)[-64:])


def test_a_study_that_is_not_stored_fails_the_job_that_names_it(place: Place) -> None:
    job = place.ended({"kind": "send", "peer": "STOW", "studies": [uid(77), uid(2)]})
    assert (job["state"], job["completed"], job["error"]) == ("failed", COUNT, f"study {uid(77)} is not stored")


def test_an_unreachable_peer_is_retried_and_then_given_up(place: Place) -> None:
    job = place.ended({"kind": "send", "peer": "NOBODY", "studies": [uid(1)]})
    assert (job["state"], job["attempts"]) == ("failed", 3) and "NOBODY" in job["error"]
    place.stow.status = 500
    job = place.ended({"kind": "send", "peer": "STOW", "studies": [uid(1)]})
    place.stow.status = None
    assert job["state"] == "failed" and "500" in str(job)


def test_many_jobs_are_retried_and_cancelled_at_once_and_counted_by_state(place: Place) -> None:
    place.stow.status = 500
    ids = [
        place.ended({"kind": "send", "peer": "STOW", "instances": [uid(2, 1, number)]})["id"] for number in range(1, 4)
    ]
    place.stow.status = None
    listing = place.api.get("/api/jobs?state=failed&limit=1")
    while listing["version"] == "0":  # the folder has just changed, and may again in the same moment
        listing = place.api.get("/api/jobs?state=failed&limit=1")
    assert place.api.get(f"/api/jobs?unless={listing['version']}") == {"unchanged": True, "version": listing["version"]}
    assert listing["counts"]["failed"] >= 3 and listing["more"]
    assert place.api.post("/api/jobs/retry", {"ids": [*ids, "0" * 24]}, 202)["count"] == 3
    assert {place.until(identifier, "done")["state"] for identifier in ids} == {"done"}
    assert "jobs" in place.api.get(f"/api/jobs?unless={listing['version']}"), "something has changed"
    assert place.api.post("/api/jobs/cancel", {"state": "running"}, 202)["asked"] == "cancel"
    for wrong in ({}, {"state": "lost"}, {"ids": ids, "state": "failed"}):
        assert place.api.post("/api/jobs/retry", wrong, 400)["status"] == 400


def test_missing_instances_are_pulled_from_a_dicomweb_server(place: Place) -> None:
    job = place.ended({"kind": "pull", "peer": "THERE", "studies": [uid(5)]})
    assert (job["state"], job["completed"], job["failed"]) == ("done", COUNT, {})
    archive = place.hosting.engine.archive
    for each in uids(5):
        instance = archive.instance(each)
        assert instance is not None and instance.calling_ae_title == "THERE"
    again = place.ended({"kind": "pull", "peer": "THERE", "filters": {"StudyInstanceUID": uid(5)}})
    assert (again["state"], again["completed"], again["bytes"]) == ("done", COUNT, 0)
    missing = place.ended({"kind": "pull", "peer": "THERE", "studies": [uid(99)]})
    assert (missing["state"], missing["error"]) == ("failed", f"THERE has no study {uid(99)}")


def test_pulled_bytes_are_those_of_the_peer(place: Place) -> None:
    archive = place.hosting.engine.archive
    with_one = archive.instance(uid(6, 1, 1))
    assert with_one is None
    place.ended({"kind": "pull", "peer": "THERE", "studies": [uid(6)]})
    for number in range(1, COUNT + 1):
        instance = archive.instance(uid(6, 1, number))
        assert instance is not None
        assert archive.read(instance) == samples.encoded(samples.instance(6, 1, number))


def test_long_instances_are_pulled_as_streams(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrival, "META_BYTES_MAX", 600)
    monkeypatch.setattr(arrival, "CHUNK_BYTES", 97)
    monkeypatch.setattr(arrival, "WHOLE_BYTES_MAX", 300)
    job = place.ended({"kind": "pull", "peer": "THERE", "studies": [uid(7)]})
    assert (job["state"], job["completed"], job["failed"]) == ("done", COUNT, {})
    archive = place.hosting.engine.archive
    for number in range(1, COUNT + 1):
        instance = archive.instance(uid(7, 1, number))
        assert instance is not None
        assert archive.read(instance) == samples.encoded(samples.instance(7, 1, number))


def test_a_study_is_sent_to_another_filmroom(place: Place) -> None:
    job = place.ended({"kind": "send", "peer": "THERE", "studies": [uid(1)]})
    assert (job["state"], job["completed"], job["failed"]) == ("done", COUNT, {})
    archive = place.there.engine.archive
    assert all(archive.instance(each) is not None for each in uids(1))


def test_a_job_that_was_running_when_its_server_died_continues(place: Place) -> None:
    archive = place.hosting.engine.archive
    place.stow.received.clear()
    job = Job(
        id=new_id(), kind=states.SEND, peer="STOW", work=Work(studies=(uid(2),)), by="test", created_ns=1,
        state=states.RUNNING,
    )  # fmt: skip
    taken = archive.job_files().peer_instances(job.id)
    archive.job_files().create(job)
    for number in (1, 2):
        taken.add(uid(2, 1, number))
    taken.flush()
    ended = place.until(job.id, *states.ENDED)
    assert (ended["state"], ended["completed"], ended["total"]) == ("done", COUNT, COUNT)
    assert set(place.stow.received) == uids(2) - {uid(2, 1, 1), uid(2, 1, 2)}


def test_a_waiting_job_is_cancelled(place: Place) -> None:
    archive = place.hosting.engine.archive
    job = Job(
        id=new_id(), kind=states.SEND, peer="STOW", work=Work(studies=(uid(2),)), by="test", created_ns=1, due_ns=2**62
    )
    archive.job_files().create(job)
    assert place.api.post(f"/api/jobs/{job.id}/cancel", {}, 202)["asked"] == "cancel"
    assert place.until(job.id, *states.ENDED)["state"] == "cancelled"
    assert place.api.post("/api/jobs/000000000000000000000000/cancel", {}, 404)["status"] == 404
    assert place.api.post("/api/jobs/x/cancel", {}, 404)["status"] == 404


def test_a_running_job_is_cancelled_and_may_be_retried(place: Place) -> None:
    place.stow.goes_on.clear()
    identifier = place.api.post("/api/jobs", {"kind": "send", "peer": "STOW", "studies": [uid(1)]}, 201)["id"]
    place.until(identifier, "running")
    place.api.post(f"/api/jobs/{identifier}/cancel", {}, 202)
    assert place.until(identifier, *states.ENDED)["state"] == "cancelled"
    place.stow.goes_on.set()
    place.api.post(f"/api/jobs/{identifier}/retry", {}, 202)
    assert place.until(identifier, "done")["completed"] == COUNT


def test_jobs_are_listed_the_latest_first_and_forgotten_in_time(place: Place) -> None:
    jobs = place.api.get("/api/jobs?limit=3")
    ids = [job["id"] for job in jobs["jobs"]]
    assert ids == sorted(ids, reverse=True)
    assert jobs["more"] and "failed" not in jobs["jobs"][0]
    assert {job["state"] for job in place.api.get("/api/jobs?state=failed")["jobs"]} == {"failed"}
    old = Job(id=new_id(), kind=states.SEND, peer="STOW", work=Work(), by="test", created_ns=1, state=states.DONE)
    place.hosting.engine.archive.job_files().create(old)
    for _ in range(200):
        if old.id not in [job.id for job in place.hosting.engine.archive.job_files().all()]:
            return
        threading.Event().wait(0.02)
    raise AssertionError("a job of 1970 is kept")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"kind": "send", "peer": "STOW"}, 400),
        ({"kind": "send", "peer": "WHO", "studies": ["1.2"]}, 404),
        ({"kind": "send", "peer": "SENDER", "studies": ["1.2"]}, 404),
        ({"kind": "pull", "peer": "THERE"}, 400),
        ({"kind": "pull", "peer": "THERE", "filters": {"Nonsense": "1"}}, 400),
        ({"kind": "move", "peer": "THERE", "studies": ["1.2"]}, 400),
        ({"kind": "pull", "peer": "THERE", "studies": ["1.2"], "series": ["1.2.3"]}, 400),
    ],
)
def test_an_invalid_job_is_refused(place: Place, body: dict[str, Any], status: int) -> None:
    assert place.api.post("/api/jobs", body, status)["detail"]


def test_an_idle_server_reads_no_jobs_until_one_is_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "data", 1)
    calls: list[str] = []
    changed_ns, poll = JobFiles.changed_ns, JobFiles.poll

    def is_of_this_test(files: JobFiles) -> bool:
        return files._directory.startswith(str(tmp_path))

    def counted_changed_ns(files: JobFiles) -> int:
        if is_of_this_test(files):
            calls.append("look")
        return changed_ns(files)

    def counted_poll(files: JobFiles, known_ids: Any) -> Any:
        if is_of_this_test(files):
            calls.append("poll")
        return poll(files, known_ids)

    def is_idle() -> bool:
        return len(calls) >= 10 and set(calls[-10:]) == {"look"}

    monkeypatch.setattr(JobFiles, "changed_ns", counted_changed_ns)
    monkeypatch.setattr(JobFiles, "poll", counted_poll)
    monkeypatch.setattr(runner, "CHECK_S", 0.01)
    monkeypatch.setattr(runner, "SETTLED_NS", 0)
    with stow_sink() as stow, serving(tmp_path / "data", peers=(Peer(aet="STOW", url=stow.url),)) as hosting:
        wait_for(is_idle, what="looks without reading")
        assert calls.count("poll") == 1 and not (tmp_path / "data" / "jobs").exists()
        api = ApiClient(hosting.port)
        for _ in range(2):
            identifier = api.post("/api/jobs", {"kind": "send", "peer": "STOW", "studies": [uid(1)]}, 201)["id"]
            while api.get(f"/api/jobs/{identifier}")["state"] != "done":
                threading.Event().wait(0.01)
            calls.clear()
            wait_for(is_idle, what="looks without reading, after the end of the job")
        api.close()
    assert set(stow.received) == uids(1)
