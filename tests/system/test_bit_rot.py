"""A whole server over bytes that turn: none is served wrong, each is named, and a re-send heals it, while it runs."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from engine.archive import verify
from engine.archive.archive import Archive
from engine.storage.record import Position
from tests import peer, template
from tests.archive.kept import PARTS, place_in, turn_byte
from tests.peer import CT, EXPLICIT, IMPLICIT, STUDY_ROOT_GET, Peer
from tests.system.ingest import GeneratedInstance, study_number
from tests.system.server import ROOT, Server, running, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.rotating(2)]

SEED = int(os.environ.get("FILMROOM_SEED", "20261124"))
COUNT = int(os.environ.get("FILMROOM_RECORDS", "200"))
STUDY = study_number(1)


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "data"


def made(count: int) -> list[GeneratedInstance]:
    return [GeneratedInstance(STUDY, number) for number in range(count)]


def store(server: Server, instances: list[GeneratedInstance]) -> list[int]:
    """The status of each, sent on one association."""
    statuses = []
    with Peer(server.port) as script:
        script.associate((1, CT, [EXPLICIT]))
        for number, each in enumerate(instances, 1):
            script.send(peer.message(1, peer.c_store_rq(number, CT, each.uid), each.data_set()))
            statuses.append(script.expect_message().status())
        script.release()
    return statuses


def retrieve(server: Server) -> tuple[dict[str, bytes], set[str], int]:
    """What a C-GET of the study brings, the UIDs that it says have failed, and its status."""
    brought: dict[str, bytes] = {}
    with Peer(server.port) as script:
        script.associate(
            (1, STUDY_ROOT_GET, [IMPLICIT]), (3, CT, [EXPLICIT]), user_items=peer.role(CT, scu=False, scp=True)
        )
        keys = {0x00080052: "STUDY", 0x0020000D: made(1)[0].uid.rsplit(".", 2)[0]}
        script.send(peer.message(1, peer.query_rq(peer.C_GET_RQ, 1, STUDY_ROOT_GET), peer.identifier(keys)))
        while True:
            received = script.expect_message()
            command = received.command
            if peer.number(command, 0x0100) == peer.C_STORE_RQ:
                assert received.data_set is not None
                brought[peer.text(command, 0x1000)] = received.data_set
                script.send(peer.message(3, peer.c_store_rsp(command)))
            elif received.status() != 0xFF00:
                script.release()
                value = (received.data_set or b"")[8:].decode().rstrip("\0 ")
                return brought, set(value.split("\\")) - {""}, received.status()


def filmroom(data: Path, *arguments: str) -> tuple[int, list[dict[str, object]]]:
    """Exit code and JSON of a command that runs beside the server, line by line."""
    done = template.run("engine", *arguments, "--data", str(data), "--json", folder=ROOT)
    assert done.stdout or done.returncode == 0, done.stderr
    return done.returncode, [orjson.loads(line) for line in done.stdout.splitlines()]


def places(data: Path) -> dict[str, Position]:
    """Where everything lies in a stopped archive."""
    with Archive.open(data) as archive:
        return {each.sop_instance_uid: each.position for each in archive.parts.index.current_instances()}


def test_turned_bytes_are_never_served_all_named_and_healed_by_a_re_send(data: Path) -> None:
    rng = random.Random(SEED)
    instances = made(COUNT + 20)
    with running(data) as server:
        assert store(server, instances) == [0] * len(instances)
    hit = set(rng.sample([each.uid for each in instances], COUNT))
    where = places(data)
    in_payload = set()
    for number, uid in enumerate(sorted(hit)):
        part = PARTS[number % len(PARTS)]
        turn_byte(data, where[uid].segment_id, place_in(where[uid], part, rng))
        if part == "payload":
            in_payload.add(uid)
    with running(data) as server:
        brought, failed, status = retrieve(server)
        sent = {each.uid: each.data_set() for each in instances}
        assert status == 0xB000
        assert failed == in_payload, f"FILMROOM_SEED={SEED}"
        assert brought == {uid: sent[uid] for uid in sent.keys() - in_payload}, f"FILMROOM_SEED={SEED}"
        code, _ = filmroom(data, "scrub", "run")
        assert code == 1
        _, rows = filmroom(data, "scrub", "findings")
        assert {row["sop_instance_uid"] for row in rows} == hit, f"FILMROOM_SEED={SEED}"  # type: ignore[attr-defined]
        assert store(server, instances) == [0] * len(instances)
        assert filmroom(data, "scrub", "run")[0] == 0
        assert retrieve(server) == (sent, set(), 0)
        assert server.stop() == 0
    for rebuilt in (False, True):
        if rebuilt:
            Archive.rebuild_index(data)
        with Archive.open(data) as archive:
            assert verify.check(archive, payloads=True).findings == []
        assert places(data).keys() == sent.keys()


def test_a_server_scrubs_by_itself_and_says_how_far_it_is(data: Path) -> None:
    instances = made(10)
    with running(data) as server:
        store(server, instances)
    where = places(data)
    uid = instances[3].uid
    turn_byte(data, where[uid].segment_id, where[uid].payload_offset)
    with running(data, config="[scrub]\ncycle_days = 0.001\n") as server:

        def scrub() -> dict[str, object]:
            return server.stats()["caretaker"]["scrub"]  # type: ignore[index, no-any-return]

        wait_for(lambda: "scrub" in server.stats()["caretaker"] and "last_pass_ended" in scrub())  # type: ignore[operator]
        assert scrub()["damaged"] == 1
        wait_for(lambda: server.events("stored bytes are damaged"), what="the line in the log")
        assert [event["sop_instance_uid"] for event in server.events("stored bytes are damaged")] == [uid]
        assert store(server, [instances[3]]) == [0]
        assert server.stats()["archive"]["damaged"] == 0  # type: ignore[index]


def test_quarantine_commands_work_beside_the_server(data: Path) -> None:
    first, other = made(2)
    with running(data) as server, Peer(server.port) as script:
        script.associate((1, CT, [EXPLICIT]))
        script.send(peer.message(1, peer.c_store_rq(1, CT, first.uid), other.data_set()))
        assert script.expect_message().status() == 0xA900
        _, rows = filmroom(data, "quarantine", "list")
        (row,) = rows  # type: ignore[misc]
        assert (row["kind"], row["sop_instance_uid"]) == ("unparseable", first.uid)
        assert filmroom(data, "quarantine", "readmit", row["id"]) == (0, [{"outcome": "stored"}])
        brought, _, _ = retrieve(server)
        assert brought == {other.uid: other.data_set()}
        assert filmroom(data, "quarantine", "list")[1] == []
        script.release()
