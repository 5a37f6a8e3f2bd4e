"""A day in a small hospital, in which all processes are killed again and again: at its end the books balance.

`filmroom simulate hospital` (`perf.hospital`) plays an information system, modalities, an assistant and a workstation,
all at once. What was answered with success is accounted for: each message once, each order, step, report, workitem,
instance, link and notice (`perf.hospital.books`).
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
import uvloop

from engine.cli import exit_codes
from perf.hospital import simulation
from perf.hospital.day import Examination, Fate
from perf.hospital.network import Server as Address
from perf.hospital.simulation import Result, Wish
from tests import effort
from tests.cli.commands import rows, run
from tests.system.server import Server, free_port

pytestmark = [pytest.mark.slow, pytest.mark.rotating(3)]

ROUNDS = effort.amount("HOSPITAL_ROUNDS", usual=4, everything=100)
"""Kills of all processes."""
EXAMINATIONS_A_ROUND = 3
PATIENCE_S = 300.0 + 3 * ROUNDS
DELAY_S_MAX = 0.3
"""From the end of an examination to a kill: others are under way, anywhere."""


class Hospital:
    """A server at the same ports after each start."""

    def __init__(self, folder: Path) -> None:
        self.dicom, self.http, self.hl7, self.notices = (free_port() for _ in range(4))
        self._config = f"""
            [[hl7_listener]]
            host = "127.0.0.1"
            port = {self.hl7}
            [feed]
            series_quiet_s = 0.2
            study_quiet_s = 0.5
            study_complete_s = 2
            [[hl7_destination]]
            name = "sim"
            host = "127.0.0.1"
            port = {self.notices}
            [[rule]]
            name = "sim"
            after = "study_quiet"
            action = "hl7"
            to = ["sim"]
            retry_s = 0.5
            retry_s_max = 1
        """
        self._data = folder / "data"
        self._before: list[Server] = []
        self.server = self._start()

    def _start(self) -> Server:
        ports = ("--dicom-port", str(self.dicom), "--http-port", str(self.http))
        return Server(self._data, *ports, config=self._config, workers=1, http=True)

    def kill_and_start(self) -> None:
        self.server.kill_all()
        self._before.append(self.server)
        self.server = self._start()

    def errors(self) -> list[str]:
        """The lines of the log that say so, also of servers that were killed."""
        return [line for server in (*self._before, self.server) for line in server.log if '"level":"error"' in line]

    @property
    def address(self) -> Address:
        url = f"http://127.0.0.1:{self.http}"
        return Address("127.0.0.1", self.dicom, "FILMROOM", self.hl7, url, patience_s=PATIENCE_S)

    @property
    def options(self) -> list[str]:
        """The same for the command."""
        address = self.address
        ports = ("--port", str(self.dicom), "--hl7-port", str(self.hl7))
        return [*ports, "--http", address.url, "--patience", str(PATIENCE_S)]


async def simulated(hospital: Hospital, wish: Wish, chance: random.Random) -> Result:
    """The day; all processes are killed and started again each time that some examinations have ended."""
    killing: list[asyncio.Task[None]] = []
    ended = 0

    async def kill() -> None:
        await asyncio.sleep(chance.uniform(0, DELAY_S_MAX))
        await asyncio.to_thread(hospital.kill_and_start)

    def progress(one: Examination) -> None:
        nonlocal ended
        ended += 1
        is_killing = bool(killing) and not killing[-1].done()
        if not is_killing and len(killing) < ROUNDS and ended >= EXAMINATIONS_A_ROUND * len(killing):
            killing.append(asyncio.create_task(kill()))

    result = await simulation.simulate(hospital.address, wish, progress)
    await asyncio.gather(*killing)
    assert len(killing) == ROUNDS
    return result


@pytest.mark.parametrize("seed", [effort.seed("HOSPITAL")])
def test_the_books_of_a_day_balance_although_all_processes_are_killed_in_it_again_and_again(
    tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    hospital = Hospital(tmp_path)
    try:
        count = max(EXAMINATIONS_A_ROUND * (ROUNDS + 1), len(Fate))
        wish = Wish(orders=count, seed=seed, notices_port=hospital.notices)
        result = uvloop.run(simulated(hospital, wish, random.Random(seed)))
        wrong = [sentence for account in result.accounts for sentence in account.wrong]
        assert not wrong, "\n".join((*wrong, *hospital.errors()))
        assert result.is_balanced and {one.fate for one in result.examinations} == set(Fate)

        left = rows(capsys, "simulate", "clean", *hospital.options, "--dry-run")
        assert {row["kind"] for row in left} == {"study", "order"}, "a mistaken image leaves its order open"
        assert run(capsys, "simulate", "clean", *hospital.options)[0] == exit_codes.OK
        assert rows(capsys, "simulate", "clean", *hospital.options, "--dry-run") == []
        assert hospital.server.stop() == 0
    finally:
        hospital.server.kill_all()
