"""Extra attributes on a whole server: configured, looked for in what is stored already, and asked for by pynetdicom."""

from __future__ import annotations

import subprocess
from pathlib import Path

import orjson
import pytest
from pydicom.dataset import Dataset

from tests import samples, template
from tests.system import foreign
from tests.system.foreign import EXPLICIT, IMPLICIT, Stored
from tests.system.server import ROOT, Server, running, wait_for

ACME = "ACME 1.0"
CONFIG = """
[[attribute]]
tag = "StudyStatusID"
level = "study"
indexed = true

[[attribute]]
tag = "RequestedProcedureCodeSequence"
level = "study"

[[attribute]]
tag = "0019,xxA3"
creator = "ACME 1.0"
vr = "LO"
level = "study"
indexed = true

[[attribute]]
tag = "0019,xxA4"
creator = "ACME 1.0"
vr = "SQ"
level = "study"
"""


def code(value: str) -> Dataset:
    ds = Dataset()
    ds.CodeValue = value
    return ds


def study(number: int, status: str, private: str) -> Stored:
    ds = samples.instance(number, StudyStatusID=status, RequestedProcedureCodeSequence=[code(f"C{number}")])
    ds.private_block(0x0019, "OTHER", create=True).add_new(0xA3, "LO", "not this")
    block = ds.private_block(0x0019, ACME, create=True)
    block.add_new(0xA3, "LO", private)
    block.add_new(0xA4, "SQ", [code(f"P{number}")])
    return Stored.of(ds)


def asked(server: Server, keys: Dataset, syntax: str = EXPLICIT) -> tuple[set[int], list[Dataset]]:
    """Pending statuses and matches."""
    keys.QueryRetrieveLevel = "STUDY"
    keys.StudyInstanceUID = ""
    uid = foreign.model("study", "find")
    with foreign.association(server.port, [(uid, syntax)]) as assoc:
        responses = list(assoc.send_c_find(keys, uid))
    assert responses[-1][0].Status == 0
    return {int(status.Status) for status, _ in responses[:-1]}, [match for _, match in responses[:-1] if match]


def private_keys(value: str, *, block: int) -> Dataset:
    keys = Dataset()
    keys.add_new((0x0019, block), "LO", ACME)
    keys.add_new((0x0019, block << 8 | 0xA3), "LO", value)
    return keys


def filmroom(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    return template.run("engine", *arguments, "--data", str(server.data), "--json", folder=ROOT)


def reindexed(server: Server) -> bool:
    caretaker = server.stats()["caretaker"]
    return isinstance(caretaker, dict) and caretaker.get("reindex", {}).get("running") is False


def uids(matches: list[Dataset]) -> list[str]:
    return [str(match.StudyInstanceUID) for match in matches]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:  # type: ignore[misc]
    """Two studies were stored before the attributes were configured, and one after."""
    data = tmp_path_factory.mktemp("extra") / "data"
    with running(data) as before:
        statuses = foreign.store(before.port, [study(1, "READ", "one"), study(2, "VERIFIED", "two")])
        assert statuses == [0, 0]
        keys = foreign.identifier({"StudyStatusID": "READ"})
        pending, matches = asked(before, keys)
        assert (pending, len(matches)) == ({0xFF01}, 2)
        assert matches[0].StudyStatusID == ""
    with running(data, config=CONFIG) as after:
        assert foreign.store(after.port, [study(3, "READ", "three")]) == [0]
        wait_for(lambda: reindexed(after), what="re-indexing")
        yield after


def test_what_is_stored_already_is_found_by_a_public_key(server: Server) -> None:
    pending, matches = asked(server, foreign.identifier({"StudyStatusID": "READ"}))
    assert pending == {0xFF00}
    assert uids(matches) == [f"{samples.ROOT}.1", f"{samples.ROOT}.3"]
    assert [match.StudyStatusID for match in matches] == ["READ", "READ"]


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_a_sequence_is_matched_and_returned(server: Server, syntax: str) -> None:
    keys = foreign.identifier({"RequestedProcedureCodeSequence": [code("C2")]})
    pending, (match,) = asked(server, keys, syntax)
    assert pending == {0xFF00}
    assert match.StudyInstanceUID == f"{samples.ROOT}.2"
    assert match.RequestedProcedureCodeSequence[0].CodeValue == "C2"


@pytest.mark.parametrize("block", [0x10, 0x11, 0xAB])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_a_private_key_is_meant_by_its_creator(server: Server, block: int, syntax: str) -> None:
    pending, (match,) = asked(server, private_keys("t*o", block=block), syntax)
    assert pending == {0xFF00}
    assert match.StudyInstanceUID == f"{samples.ROOT}.2"
    found = match.private_block(0x0019, ACME)[0xA3]
    assert found.value == ("two" if syntax == EXPLICIT else b"two ")
    pending, matches = asked(server, private_keys("", block=block), syntax)
    assert (pending, len(matches)) == ({0xFF00}, 3)


def test_a_private_sequence_is_returned_and_matched(server: Server) -> None:
    keys = Dataset()
    keys.private_block(0x0019, ACME, create=True).add_new(0xA4, "SQ", [code("P3")])
    pending, (match,) = asked(server, keys)
    assert pending == {0xFF00}
    assert match.private_block(0x0019, ACME)[0xA4].value[0].CodeValue == "P3"


def test_of_another_creator_the_key_is_not_supported(server: Server) -> None:
    keys = Dataset()
    keys.private_block(0x0019, "OTHER", create=True).add_new(0xA3, "LO", "one")
    pending, matches = asked(server, keys)
    assert (pending, len(matches)) == ({0xFF01}, 3)


def test_the_command_line_has_the_attributes_of_the_server_and_says_how_far_it_is(server: Server) -> None:
    found = filmroom(server, "find", "StudyStatusID=VERIFIED", "0019,10A3=two")
    assert orjson.loads(found.stdout)["StudyStatusID"] == "VERIFIED", found.stderr
    status = orjson.loads(filmroom(server, "reindex", "status").stdout)
    assert (status["attributes"], status["running"], status["progress"]) == (4, False, 1.0)
    wait_for(lambda: server.events("re-indexing ended"), what="the line in the log")
    assert server.events("re-indexing ended")[0]["extracted"] == 2


def test_other_attributes_than_those_of_the_running_server_are_refused(server: Server, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text('[[attribute]]\ntag = "ReasonForStudy"\nlevel = "study"\n')
    refused = filmroom(server, "reindex", "--config", str(other))
    assert refused.returncode != 0
    assert "uses other [[attribute]] tables" in refused.stderr
