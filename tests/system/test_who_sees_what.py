"""What somebody may not see does not exist for them, whichever way they ask: every answer of every front end is that of
a slow, obvious judge (`who_may_see`). Random studies, roles, users, peers, grants, emergency accesses and shares.

One archive and one server. FILMROOM_WHO_SEES_SEED chooses the hospital; with --all there are several.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import random
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import time
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import (
    CTImageStorage,
    MRImageStorage,
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from engine.accounts import grants, keys, shares, users
from engine.accounts.accounts import Accounts
from engine.accounts.records import GrantRow, Key, Share, User
from engine.archive.archive import Archive
from engine.archive.ingest.request import ReceivedInstance
from engine.config import Config
from engine.storage.record import crc32c
from tests import effort, samples
from tests.cli import commands
from tests.system.server import Server, running, wait_for
from tests.system.who_may_see import (
    Grant,
    Holder,
    Role,
    Study,
    may_see,
    random_attributes,
    random_grant,
    random_role,
    random_studies,
    visible,
)

SEED = int(os.environ.get("FILMROOM_WHO_SEES_SEED", "1"))
HOSPITALS = effort.amount("WHO_SEES_HOSPITALS", 1, 8)
PART = effort.amount("WHO_SEES_PART", 6, 1)
"""A run takes one in so many of all resources, and of other lists about as small a part; with --all everything."""
STUDIES = 12
NOWHERE = f"{samples.ROOT}.999"
ROOT = "/dicom-web"
FIND = StudyRootQueryRetrieveInformationModelFind
PATIENT_FIND = PatientRootQueryRetrieveInformationModelFind
GET = StudyRootQueryRetrieveInformationModelGet
MOVE = StudyRootQueryRetrieveInformationModelMove
EVERYTHING = Role("full", ("query", "retrieve", "send", "store", "delete", "correct", "break-glass"), "all")

Case = TypeVar("Case")


class Sink:
    """A destination of C-MOVE: what arrives there."""

    def __init__(self) -> None:
        self.arrived: list[str] = []
        entity = AE("SINK")
        for uid in (CTImageStorage, MRImageStorage):
            entity.add_supported_context(uid)
        self._server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._take)])
        assert self._server is not None
        self.port = self._server.server_address[1]

    def _take(self, event: Any) -> int:
        self.arrived.append(str(event.request.AffectedSOPInstanceUID))
        return 0

    def close(self) -> None:
        assert self._server is not None
        self._server.shutdown()


@dataclass
class Hospital:
    """A running server, and what the judge knows of it."""

    seed: int
    rng: random.Random
    studies: list[Study]
    roles: list[Role]
    people: list[Holder]
    """Users, and a share: over HTTP."""
    peers: list[Holder]
    admin: Holder
    sink: Sink
    server: Server = field(init=False)

    def ask(
        self, holder: Holder, path: str, method: str = "GET", body: object = None, **headers: str
    ) -> tuple[int, bytes]:
        """Status and body."""
        connection = http.client.HTTPConnection(urlsplit(self.server.url).netloc, timeout=60)
        try:
            sent = {name.replace("_", "-"): value for name, value in headers.items()} | holder.headers
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            if data is not None and "Content-Type" not in sent:
                sent["Content-Type"] = "application/json"
            connection.request(method, path, data, sent)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def json(self, holder: Holder, path: str) -> Any:
        status, body = self.ask(holder, path, Accept="application/dicom+json, application/json")
        assert status in (200, 204), (self.seed, holder.name, path, status, body[:300])
        return json.loads(body) if body else []

    def some(self, cases: Sequence[Case]) -> list[Case]:
        """Some of the cases, with --all each, in any order."""
        return self.rng.sample(cases, -(-2 * len(cases) // (PART + 1)) if PART > 1 else len(cases))

    def about(self, holder: Holder) -> str:
        return f"seed {self.seed}, {holder.name}: {holder.roles} {holder.attributes} {holder.grants}"


def built(folder: Path, seed: int, sink: Sink) -> tuple[Hospital, str]:
    """A hospital on disk, and its configuration."""
    rng = random.Random(seed)
    studies = random_studies(rng, STUDIES)
    roles = [random_role(rng, f"role{number}") for number in range(5)]
    roles.append(Role("looks", ("query",), [{"modality": "*"}]))
    peers = [Holder(f"PEER{number}", [roles[number]], {"sender": (f"PEER{number}",)}) for number in range(3)]
    peers.append(Holder("WIDE", [EVERYTHING]))
    lines = [role.toml() for role in roles]
    lines += [f'[[peer]]\naet = "{peer.name}"\nrole = "{peer.roles[0].name}"\n' for peer in peers]
    lines.append(f'[[peer]]\naet = "SINK"\nhost = "127.0.0.1"\nport = {sink.port}\nrole = "role4"\n')
    config = '[http]\nlogin = "required"\n' + "".join(lines)
    data = folder / "data"
    with Archive.open(data, create=True) as archive:
        received = []
        for study in studies:
            for sender, data_set in study.data_sets():
                content = samples.encoded(data_set)
                received.append(
                    ReceivedInstance(
                        [content], len(content), crc32c(content), str(data_set.file_meta.TransferSyntaxUID), sender
                    )
                )
        rng.shuffle(received)
        for one in received:
            archive.ingest_batch([one])
    people, admin = _accounts(rng, data, roles, studies)
    return Hospital(seed, rng, studies, roles, people, peers, admin, sink), config


def _accounts(rng: random.Random, data: Path, roles: list[Role], studies: list[Study]) -> tuple[list[Holder], Holder]:
    accounts = Accounts.open(data, Config)
    database, until = accounts.database, time() + 86_400
    people = []

    def user(name: str, chosen: list[Role], attributes: dict[str, tuple[str, ...]]) -> Holder:
        users.add(database, User(name=name, roles=tuple(role.name for role in chosen), attributes=attributes))
        key = Key(user=name, name="k", until=until, created=time())
        return Holder(name, chosen, attributes, headers={"Authorization": f"Bearer {keys.add(database, key, name)[1]}"})

    for number in range(4):
        chosen = rng.sample(roles[:5], rng.choice((1, 1, 2)))
        if number == 2:
            chosen.append(roles[5])  # it may look at more than it may have
        one = user(f"user{number}", chosen, random_attributes(rng))
        if number % 2:
            grant = random_grant(rng, studies)
            one.grants.append(grant)
            patient = (grant.patient, "") if grant.patient else None
            row = GrantRow(
                holder_kind="user", holder=one.name, actions=grant.actions, studies=grant.studies, patient=patient
            )
            grants.add(database, row)
        people.append(one)
    emergency = Role("emergency", ("break-glass",), "granted")
    people.append(user("doctor", [emergency], {}))
    shared = rng.sample(studies, 2)
    share = Share(
        studies=tuple(study.uid for study in shared), until=until, created=time(), by="admin", may_download=True
    )
    _, token = shares.add(database, share)
    cookie = shares.open_session(database, token, lasts_s=3600, address="127.0.0.1", agent="test")
    outside = Holder("share", [], grants=[Grant(("query", "retrieve"), studies=share.studies)])
    outside.headers = {"Cookie": f"filmroom={cookie}", "Sec-Fetch-Site": "same-origin"}
    people.append(outside)
    admin = user("chief", [EVERYTHING], {})
    accounts.close()
    return people, admin


@pytest.fixture(scope="module", params=range(HOSPITALS))
def hospital(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    seed = SEED + request.param
    sink = Sink()
    folder = tmp_path_factory.mktemp("who")
    made, config = built(folder, seed, sink)
    emergency = '[[role]]\nname = "emergency"\nmay = ["break-glass"]\nstudies = "granted"\n'
    try:
        with running(folder / "data", config=emergency + config, http=True, workers=1) as server:
            made.server = server
            yield made
    finally:
        sink.close()


# over HTTP -----------------------------------------------------------------------------------------------


def value(match: dict[str, Any], tag: str) -> Any:
    return (match.get(tag, {}).get("Value") or [None])[0]


def hidden_words(hidden: list[Study], seen: list[Study]) -> list[bytes]:
    """What only studies out of scope contain."""
    patients = {study.patient for study in seen}
    words = []
    for study in hidden:
        words += [f'{study.uid}"', f"{study.uid}.", f"{study.uid},", study.accession, f"Desc{study.number}X"]
        if study.patient not in patients:
            words += [study.patient, study.name]
    return [word.encode() for word in words]


def check_searches(hospital: Hospital, holder: Holder) -> None:
    seen = visible(holder, "query", hospital.studies)
    about = hospital.about(holder)
    fields = "includefield=00201200,00201202,00201204,00201206,00201208,00080061"
    found = hospital.json(holder, f"{ROOT}/studies?{fields}")
    of_patient = Counter(study.patient for study in seen)
    series_of, instances_of = Counter[str](), Counter[str]()
    for study in seen:
        series_of[study.patient] += len(study.series)
        instances_of[study.patient] += len(study.instances)
    assert sorted(
        (value(match, "0020000D"), value(match, "00201200"), value(match, "00201202"), value(match, "00201204"),
         value(match, "00201206"), value(match, "00201208"), set(match["00080061"]["Value"]))
        for match in found
    ) == sorted(
        (study.uid, of_patient[study.patient], series_of[study.patient], instances_of[study.patient],
         len(study.series), len(study.instances), {each.modality for each in study.series})
        for study in seen
    ), about  # fmt: skip
    assert sorted(value(match, "0020000E") for match in hospital.json(holder, f"{ROOT}/series")) == sorted(
        each.uid for study in seen for each in study.series
    ), about
    assert sorted(value(match, "00080018") for match in hospital.json(holder, f"{ROOT}/instances")) == sorted(
        uid for study in seen for uid in study.instances
    ), about
    paged = [
        value(match, "0020000D")
        for offset in range(0, len(seen) + 2, 2)
        for match in hospital.json(holder, f"{ROOT}/studies?limit=2&offset={offset}")
    ]
    assert sorted(paged) == sorted(study.uid for study in seen), about
    for study in hospital.some(hospital.studies):
        expected = sorted(each.uid for each in study.series) if study in seen else []
        for path in (f"{ROOT}/studies/{study.uid}/series", f"{ROOT}/series?StudyInstanceUID={study.uid}"):
            assert sorted(value(match, "0020000E") for match in hospital.json(holder, path)) == expected, about
        for query in (f"AccessionNumber={study.accession}", f"StudyDescription=Desc{study.number}X"):
            uids = [value(match, "0020000D") for match in hospital.json(holder, f"{ROOT}/studies?{query}")]
            assert uids == ([study.uid] if study in seen else []), about


ORDERS = ("received", "-StudyDate", "PatientName", "AccessionNumber", "-size", "sender", "institution")


def check_windows(hospital: Hospital, holder: Holder) -> None:
    seen = visible(holder, "query", hospital.studies)
    hidden = [study for study in hospital.studies if study not in seen]
    about = hospital.about(holder)
    for order in hospital.some(ORDERS):
        uids: list[str] = []
        after = ""
        while True:
            answer = hospital.json(holder, f"/api/studies?limit=3&count=true&arrivals=true&order={order}{after}")
            uids += [value(match, "0020000D") for match in answer["studies"]]
            assert len(uids) <= len(seen), (order, about)  # or a window that comes again would keep us here
            total = answer["total"]
            assert total["count"] == len(seen) if total["is_exact"] else total["count"] <= len(seen), about
            if not answer["next"]:
                break
            assert not any(word in unpacked(answer["next"]) for word in hidden_words(hidden, seen)), about
            after = f"&after={answer['next']}"
        assert sorted(uids) == sorted(study.uid for study in seen), (order, about)
    totals = hospital.json(holder, "/api/studies/totals")
    if totals["is_exact"]:
        counts = totals["studies"], totals["instances"]
        assert counts == (len(seen), sum(len(study.instances) for study in seen)), about


def check_fhir(hospital: Hospital, holder: Holder) -> None:
    seen = visible(holder, "query", hospital.studies)
    about = hospital.about(holder)
    matches: list[dict[str, Any]] = []
    path = "/fhir/ImagingStudy?_count=3&_total=accurate"
    while path:
        bundle = json.loads(hospital.ask(holder, path)[1])
        matches += [entry["resource"] for entry in bundle.get("entry", [])]
        assert len(matches) <= len(seen) and bundle["total"] == len(seen), about
        urls = [link["url"] for link in bundle["link"] if link["relation"] == "next"]
        path = f"/fhir/{urls[0].partition('/fhir/')[2]}" if urls else ""
    assert sorted((match["id"], match["numberOfInstances"], len(match["series"])) for match in matches) == sorted(
        (study.uid, len(study.instances), len(study.series)) for study in seen
    ), about
    patients = json.loads(hospital.ask(holder, "/fhir/Patient?_count=200&_total=accurate")[1])
    found = {entry["resource"]["identifier"][0]["value"] for entry in patients.get("entry", [])}
    assert found == {study.patient for study in seen}, about
    for study in hospital.some(hospital.studies):
        status, body = hospital.ask(holder, f"/fhir/ImagingStudy/{study.uid}")
        assert status == (200 if study in seen else 404), (about, body[:300])
        query = f"/fhir/ImagingStudy?identifier={study.accession}"
        assert len(json.loads(hospital.ask(holder, query)[1]).get("entry", [])) == (study in seen), about
        origins = json.loads(hospital.ask(holder, f"/fhir/Provenance?target=ImagingStudy/{study.uid}")[1])
        assert bool(origins.get("entry")) is (study in seen), about
    check_export(hospital, holder, seen)


def check_export(hospital: Hospital, holder: Holder, seen: list[Study]) -> None:
    """An export has all that its reader may see; somebody else's does not exist."""
    folder = hospital.server.data / "exports"
    before = set(folder.glob("*.json"))
    status, body = hospital.ask(holder, "/fhir/$export", Prefer="respond-async")
    assert status == 202, body
    (export,) = set(folder.glob("*.json")) - before
    path = f"/fhir/export-status/{export.stem}"
    for kind, expected in (
        ("ImagingStudy", {study.uid for study in seen}),
        ("Patient", {study.patient for study in seen}),
    ):
        lines = hospital.ask(holder, f"{path}/{kind}")[1].splitlines()
        ids = [json.loads(line)["id"] for line in lines]
        assert sorted(ids) == sorted(expected), hospital.about(holder)
    assert hospital.ask(hospital.admin, path)[0] == 404
    assert hospital.ask(holder, path, "DELETE")[0] == 202


def unpacked(cursor: str) -> bytes:
    """A cursor, and what is in it if it is base64."""
    import base64

    return cursor.encode() + base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))


def resources(study_uid: str, series_uid: str, instance_uid: str) -> list[str]:
    study = f"{ROOT}/studies/{study_uid}"
    instance = f"{study}/series/{series_uid}/instances/{instance_uid}"
    return [
        study, f"{study}/metadata", f"{study}/rendered", f"{study}/thumbnail", f"{study}/pixeldata",
        f"{study}/series/{series_uid}", f"{study}/series/{series_uid}/metadata",
        f"{study}/series/{series_uid}/thumbnail",
        instance, f"{instance}/metadata", f"{instance}/rendered", f"{instance}/thumbnail", f"{instance}/frames/1",
        f"{instance}/frames/1/rendered", f"{instance}/bulkdata/7FE00010", f"/api/instances/{instance_uid}/tags",
        f"/api/download?studies={study_uid}",
        f"/wado?requestType=WADO&studyUID={study_uid}&seriesUID={series_uid}&objectUID={instance_uid}",
    ]  # fmt: skip


def check_retrieval(hospital: Hospital, holder: Holder, part: int) -> None:
    """Everything that is not visible is answered as what does not exist; `part`: one in so many of the others."""
    if not any("retrieve" in each.may for each in holder.roles) and not any(
        "retrieve" in g.actions for g in holder.grants
    ):
        return
    none = resources(NOWHERE, f"{NOWHERE}.1", f"{NOWHERE}.1.1")
    for study in hospital.studies:
        series = study.series[0]
        for path, path_of_none in zip(resources(study.uid, series.uid, series.instances[0]), none, strict=True):
            may = may_see(holder, "retrieve", study)
            if hospital.rng.randrange(part):
                continue
            status, body = hospital.ask(holder, path, Accept="*/*")
            about = f"{path}, {hospital.about(holder)}: {body[:200]!r}"
            if may:
                assert status == 200, about
                continue
            assert status == 404, about
            none_status, none_body = hospital.ask(holder, path_of_none, Accept="*/*")
            assert none_status == 404
            assert without_uid(body, study.uid) == without_uid(none_body, NOWHERE), about
    chosen = hospital.rng.choice(hospital.studies)
    if may_see(holder, "retrieve", chosen):
        metadata = hospital.json(holder, f"{ROOT}/studies/{chosen.uid}/metadata")
        assert sorted(value(one, "00080018") for one in metadata) == sorted(chosen.instances)


def without_uid(body: bytes, uid: str) -> str:
    return str(json.loads(body)["detail"]).replace(uid, "UID")


def check_download(hospital: Hospital, holder: Holder) -> None:
    """A zip of all studies that one may see has these and no others; with one more there is none."""
    seen = visible(holder, "retrieve", hospital.studies)
    if seen:
        status, body = hospital.ask(holder, "/api/download?studies=" + ",".join(study.uid for study in seen))
        assert status == 200, (body[:300], hospital.about(holder))
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            count = sum(name.endswith(".dcm") or "/" in name for name in archive.namelist() if "DICOMDIR" not in name)
        assert count >= sum(len(study.instances) for study in seen)


def check_every_list(hospital: Hospital, holder: Holder) -> None:
    """No route without parameters says anything of a study that is out of scope."""
    paths = json.loads(hospital.ask(hospital.admin, "/openapi.json")[1])["paths"]
    seen = [
        study for study in hospital.studies if may_see(holder, "query", study) or may_see(holder, "retrieve", study)
    ]
    words = hidden_words([study for study in hospital.studies if study not in seen], seen)
    lists = sorted(
        path
        for path, methods in paths.items()
        if "get" in methods and "{" not in path and path not in ("/api/live", "/wado")
    )
    share = 1 if PART == 1 else 3
    for path in lists[hospital.people.index(holder) % share :: share]:  # each is asked for by two people at least
        status, body = hospital.ask(holder, path, Accept="*/*")
        assert status < 500, path
        found = [word for word in words if word in body]
        assert not found, (path, found, hospital.about(holder))


@pytest.mark.parametrize("number", range(6))
def test_no_person_sees_more_or_less_than_they_may(hospital: Hospital, number: int) -> None:
    holder = hospital.people[number]
    if any("query" in each.may for each in holder.roles) or any("query" in grant.actions for grant in holder.grants):
        check_searches(hospital, holder)
        check_windows(hospital, holder)
        check_fhir(hospital, holder)
        check_every_list(hospital, holder)
    check_retrieval(hospital, holder, PART)
    check_download(hospital, holder)


# over DIMSE ----------------------------------------------------------------------------------------------


class Asker:
    """One association of a peer."""

    def __init__(self, hospital: Hospital, peer: Holder) -> None:
        self.received: list[str] = []
        entity = AE(peer.name)
        for uid in (PATIENT_FIND, FIND, GET, MOVE, CTImageStorage, MRImageStorage):
            entity.add_requested_context(uid)
        roles = [build_role(uid, scu_role=True, scp_role=True) for uid in (CTImageStorage, MRImageStorage)]
        self.association = entity.associate(
            "127.0.0.1", hospital.server.port, ext_neg=roles, evt_handlers=[(evt.EVT_C_STORE, self._take)]
        )
        assert self.association.is_established

    def _take(self, event: Any) -> int:
        self.received.append(str(event.request.AffectedSOPInstanceUID))
        return 0

    def find(self, level: str, model: Any = FIND, **wanted: str) -> list[Dataset]:
        answers = list(self.association.send_c_find(identifier(level, **wanted), model))
        return [match for status, match in answers if status.Status in (0xFF00, 0xFF01) and match is not None]

    def get(self, level: str, **wanted: str) -> list[str]:
        self.received.clear()
        list(self.association.send_c_get(identifier(level, **wanted), GET))
        return sorted(self.received)

    def move(self, level: str, **wanted: str) -> int:
        return int(list(self.association.send_c_move(identifier(level, **wanted), "SINK", MOVE))[-1][0].Status)

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.association.release()


def identifier(level: str, **wanted: str) -> Dataset:
    asked = Dataset()
    asked.QueryRetrieveLevel = level
    for keyword, text in wanted.items():
        setattr(asked, keyword, text)
    return asked


@pytest.mark.parametrize("number", range(4))
def test_no_peer_finds_or_receives_more_or_less_than_it_may(hospital: Hospital, number: int) -> None:
    peer = hospital.peers[number]
    seen = visible(peer, "query", hospital.studies)
    about = hospital.about(peer)
    with Asker(hospital, peer) as asker:
        found = asker.find(
            "STUDY", StudyInstanceUID="", PatientID="*", NumberOfPatientRelatedStudies="",
            NumberOfPatientRelatedInstances="", NumberOfStudyRelatedInstances="",
        )  # fmt: skip
        of_patient, instances_of = Counter(study.patient for study in seen), Counter[str]()
        for study in seen:
            instances_of[study.patient] += len(study.instances)
        assert sorted(
            (one.StudyInstanceUID, one.NumberOfPatientRelatedStudies, one.NumberOfPatientRelatedInstances,
             one.NumberOfStudyRelatedInstances)
            for one in found
        ) == sorted(
            (study.uid, of_patient[study.patient], instances_of[study.patient], len(study.instances)) for study in seen
        ), about  # fmt: skip
        patients = asker.find("PATIENT", PATIENT_FIND, PatientID="", NumberOfPatientRelatedStudies="")
        assert {one.PatientID: int(one.NumberOfPatientRelatedStudies) for one in patients} == of_patient, about
        for study in hospital.some(hospital.studies):
            expected = sorted(each.uid for each in study.series) if study in seen else []
            series = asker.find("SERIES", StudyInstanceUID=study.uid, SeriesInstanceUID="")
            assert sorted(str(one.SeriesInstanceUID) for one in series) == expected, about
        study = hospital.rng.choice(hospital.studies)
        images = asker.find(
            "IMAGE", StudyInstanceUID=study.uid, SeriesInstanceUID=study.series[0].uid, SOPInstanceUID=""
        )
        expected = sorted(study.series[0].instances) if study in seen else []
        assert sorted(str(one.SOPInstanceUID) for one in images) == expected, about

        if "retrieve" not in peer.roles[0].may:
            return  # the association has no context for it
        may_get = visible(peer, "retrieve", hospital.studies)
        everything = "\\".join(study.uid for study in hospital.studies)
        expected = sorted(uid for study in may_get for uid in study.instances)
        assert asker.get("STUDY", StudyInstanceUID=everything) == expected, about
        sink = Holder("SINK", [hospital.roles[4]], {"sender": ("SINK",)})
        for study in hospital.some(hospital.studies):
            hospital.sink.arrived.clear()
            status = asker.move("STUDY", StudyInstanceUID=study.uid)
            is_both = study in may_get and may_see(sink, "retrieve", study) and "send" in peer.roles[0].may
            assert sorted(hospital.sink.arrived) == (sorted(study.instances) if is_both else []), (hex(status), about)
            if study not in may_get:
                assert status == asker.move("STUDY", StudyInstanceUID=NOWHERE), (hex(status), about)
            else:
                assert (status == 0xA801) is not is_both, (hex(status), about)


def test_what_is_stored_into_a_study_out_of_scope_is_answered_as_stored_and_changes_nothing(hospital: Hospital) -> None:
    storing = [peer for peer in hospital.peers if "store" in peer.roles[0].may and peer.name != "WIDE"]
    for peer in storing:
        hidden = [study for study in hospital.studies if not may_see(peer, "store", study)]
        with Asker(hospital, peer) as asker:
            for study in hidden[:2]:
                known = study.data_set(study.series[0], 1, PatientComments="forged")
                fresh = study.data_set(study.series[0], 77)
                assert [int(asker.association.send_c_store(one).Status) for one in (known, fresh)] == [0, 0]
                path = f"{ROOT}/studies/{study.uid}/metadata"
                stored = hospital.json(hospital.admin, path)
                assert sorted(value(one, "00080018") for one in stored) == sorted(study.instances), hospital.about(peer)
                assert b"forged" not in hospital.ask(hospital.admin, path, Accept="application/dicom+json")[1]


def test_a_commitment_is_given_for_what_its_requester_may_reach(hospital: Hospital) -> None:
    for holder in hospital.people:
        if not any("store" in role.may for role in holder.roles):
            continue
        chosen = hospital.studies[:6]
        classes = {"CT": samples.CT, "MR": samples.MR}
        items = [
            {
                "00081150": {"vr": "UI", "Value": [classes[study.series[0].modality]]},
                "00081155": {"vr": "UI", "Value": [study.series[0].instances[0]]},
            }
            for study in chosen
        ]
        body = json.dumps({"00081199": {"vr": "SQ", "Value": items}}).encode()
        path = f"{ROOT}/commitment-requests/1.2.{hospital.rng.randrange(1 << 60)}"
        answer: list[tuple[int, bytes]] = [
            hospital.ask(holder, path, "POST", body, Content_Type="application/dicom+json")
        ]

        def is_done(holder: Holder = holder, path: str = path, answer: list[tuple[int, bytes]] = answer) -> bool:
            if answer[-1][0] == 202:
                answer.append(hospital.ask(holder, path))
            return answer[-1][0] != 202

        wait_for(is_done, what="a commitment")
        result = json.loads(answer[-1][1])
        safe = [value(one, "00081155") for one in result.get("00081199", {}).get("Value", [])]
        expected = [study.series[0].instances[0] for study in chosen if may_see(holder, "store", study)]
        assert sorted(safe) == sorted(expected), hospital.about(holder)


# at the command line -------------------------------------------------------------------------------------


def test_the_command_line_explains_what_the_judge_says(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FILMROOM_CONFIG", str(hospital.server.config_file))
    rows = partial(commands.rows, capsys)
    data = ("--data", str(hospital.server.data))
    for holder in hospital.people[:4]:
        for study in hospital.rng.sample(hospital.studies, 2):
            explained = {
                row["action"]: row["allowed"] for row in rows("access", "explain", *data, holder.name, study.uid)
            }
            for action in ("query", "retrieve", "store"):
                assert explained[action] is may_see(holder, action, study), (action, study, hospital.about(holder))
    report = {row["who"]: row for row in rows("access", "report", *data)}
    for holder in hospital.people[:4]:
        of_roles = {action for role in holder.roles for action in role.may}
        assert of_roles <= set(report[holder.name]["may"]), hospital.about(holder)


class Frames:
    """A viewer that asks for one frame of a study again and again, on one connection."""

    def __init__(self, hospital: Hospital, holder: Holder, study: Study) -> None:
        series = study.series[0]
        self._path = f"{ROOT}/studies/{study.uid}/series/{series.uid}/instances/{series.instances[0]}/frames/1"
        self._headers = {**holder.headers, "Accept": "*/*"}
        self._connection = http.client.HTTPConnection(urlsplit(hospital.server.url).netloc, timeout=60)

    def ask(self) -> int:
        self._connection.request("GET", self._path, headers=self._headers)
        response = self._connection.getresponse()
        response.read()
        return response.status

    def close(self) -> None:
        self._connection.close()


def check_changes(hospital: Hospital, corrected: Study, deleted: Study) -> None:
    """The change feed has the events of what somebody sees, and names nothing else."""

    def events(holder: Holder) -> bytes:
        return hospital.ask(holder, "/changes", Accept="application/json")[1]

    about_both = (f'{corrected.uid}"'.encode(), f'{deleted.uid}"'.encode())
    wait_for(lambda: all(uid in events(hospital.admin) for uid in about_both), what="the events")
    for holder in hospital.people:
        seen = visible(holder, "query", hospital.studies)
        hidden = [study for study in (*hospital.studies, deleted) if study not in seen]
        found = events(holder)
        assert not [word for word in hidden_words(hidden, seen) if word in found], hospital.about(holder)
        assert (about_both[0] in found) is (corrected in seen), hospital.about(holder)


# changes -------------------------------------------------------------------------------------------------


def test_corrections_deletions_grants_and_emergencies_act_at_once(hospital: Hospital) -> None:
    """The last test of a hospital: it changes it."""
    admin, rng = hospital.admin, hospital.rng
    corrected, moved, deleted, emptied = rng.sample(hospital.studies, 4)
    body = {"operation": "correct_study", "study": corrected.uid, "sets": {"ReferringPhysicianName": "Doe^John"}}
    assert hospital.ask(admin, "/api/corrections", "POST", {**body, "reason": "test"})[0] == 201
    corrected.referrer = "Doe^John"
    series = moved.series[0]
    body = {"operation": "correct_series", "series": series.uid, "sets": {"InstitutionName": "St. Mary"}}
    assert hospital.ask(admin, "/api/corrections", "POST", {**body, "reason": "test"})[0] == 201
    series.institution = "St. Mary"
    assert hospital.ask(admin, f"{ROOT}/studies/{deleted.uid}", "DELETE")[0] in (200, 204)
    hospital.studies.remove(deleted)
    gone = emptied.series[-1]
    assert hospital.ask(admin, f"{ROOT}/studies/{emptied.uid}/series/{gone.uid}", "DELETE")[0] in (200, 204)
    emptied.series.remove(gone)
    if not emptied.series:
        hospital.studies.remove(emptied)
    doctor = next(holder for holder in hospital.people if holder.name == "doctor")
    needed = rng.choice(hospital.studies)
    assert hospital.ask(doctor, "/api/break-glass", "POST", {"study": needed.uid, "reason": ""})[0] in (400, 409, 422)
    emergency = {"study": needed.uid, "reason": "an emergency"}
    status, answer = hospital.ask(doctor, "/api/break-glass", "POST", emergency)
    assert status == 201, answer
    doctor.grants.append(Grant(("query", "retrieve"), studies=(needed.uid,)))
    frames = Frames(hospital, doctor, needed)
    assert [frames.ask() for _ in range(3)] == [200, 200, 200]
    for holder in hospital.people:
        if any("query" in each.may for each in holder.roles) or any("query" in each.actions for each in holder.grants):
            check_searches(hospital, holder)
            check_windows(hospital, holder)
        check_retrieval(hospital, holder, 2 * PART)
    for peer in hospital.peers:
        with Asker(hospital, peer) as asker:
            found = sorted(str(one.StudyInstanceUID) for one in asker.find("STUDY", StudyInstanceUID=""))
            assert found == sorted(study.uid for study in visible(peer, "query", hospital.studies)), hospital.about(
                peer
            )
    check_changes(hospital, corrected, deleted)
    identifier = json.loads(answer)["id"]
    assert frames.ask() == 200
    assert hospital.ask(doctor, f"/api/grants/{identifier}", "DELETE")[0] == 200
    assert frames.ask() in (403, 404), "on the same connection"
    frames.close()
    assert hospital.ask(doctor, f"{ROOT}/studies/{needed.uid}/metadata")[0] in (403, 404)
