"""A simulation that a server is not ready for says at once, in one sentence, what is missing and how to set it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop

from engine.cli import exit_codes
from perf.hospital import readiness
from perf.hospital.information import Information
from perf.hospital.invented import Person
from perf.hospital.network import Refused
from perf.hospital.network import Server as Address
from tests.cli.commands import run
from tests.exchange.receivers import taking
from tests.system.server import Server, free_port

SOMEBODY = Person("SIM-X-1", "Ada", 1, "19700101", "F")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Knows two of the simulation's titles, one of which may only store."""
    config = """
        accept_unknown_peers = false
        [[peer]]
        aet = "SIMCT1"
        [[peer]]
        aet = "SIMMR1"
        may = ["store"]
    """
    started = Server(tmp_path_factory.mktemp("simulated") / "data", config=config, workers=1, http=True)
    try:
        yield started
    finally:
        started.stop()


def address(hl7_port: int, dicom_port: int = 1) -> Address:
    return Address("127.0.0.1", dicom_port, "FILMROOM", hl7_port, "http://127.0.0.1:1", patience_s=300.0)


def what_hl7_lacks(port: int) -> str:
    async def ask() -> None:
        where = address(port)
        information = Information(where, 1)
        try:
            await readiness.check(where, information, SOMEBODY)
        finally:
            await information.close()

    with pytest.raises(Refused) as refused:
        uvloop.run(ask())
    return str(refused.value)


def test_nobody_who_listens_for_hl7_is_a_sentence(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    ports = ("--port", str(server.port), "--hl7-port", str(port), "--http", server.url)
    code, _, err = run(capsys, "simulate", "hospital", "--orders", "1", *ports)
    assert code == exit_codes.PEER and "[[hl7_listener]]" in err and f"port = {port}" in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(("code", "says"), [("AR", "answered with AR as scripted"), ("", "takes no HL7 from here")])
def test_who_takes_no_hl7_from_here_is_a_sentence(code: str, says: str) -> None:
    with taking() as taker:
        taker.codes = [code]
        why = what_hl7_lacks(taker.port)
    assert says in why and "[[hl7_source]]" in why
    assert len(taker.messages) == 1, "without patience"


def test_who_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "LIMIT_S", 0.05)

    async def ask() -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        listener = await asyncio.start_server(silent, "127.0.0.1", 0)
        where = address(listener.sockets[0].getsockname()[1])
        information = Information(where, 1)
        try:
            await readiness.check(where, information, SOMEBODY)
        finally:
            await information.close()
            listener.close()

    with pytest.raises(Refused, match=r"does not answer an HL7 message within 0\.05 s"):
        uvloop.run(ask())


@pytest.mark.parametrize(
    ("ae_title", "says"),
    [
        ("SIMCT1", ""),
        ("SIMMR1", "SIMMR1 may not do its work"),
        ("SIMUS1", "SIMUS1 gets no association"),
        ("SIMAI1", "SIMAI1 gets no association"),
    ],
)
def test_an_actor_without_a_peer_or_its_permission_is_a_sentence(server: Server, ae_title: str, says: str) -> None:
    where = address(1, server.port)
    if not says:
        uvloop.run(readiness.check_actor(where, ae_title))
        return
    with pytest.raises(Refused, match=says) as refused:
        uvloop.run(readiness.check_actor(where, ae_title))
    assert f'[[peer]] with aet = "{ae_title}"' in str(refused.value)


def test_an_actor_that_reaches_nobody_is_a_sentence() -> None:
    unknown: Any = address(1, free_port())
    with pytest.raises(Refused, match="cannot be reached"):
        uvloop.run(readiness.check_actor(unknown, "SIMCT1"))
