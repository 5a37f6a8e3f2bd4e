"""A day in a small hospital, with a kill -9 in it: at its end the books balance.

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

ORDERS = effort.amount("HOSPITAL_ORDERS", usual=len(Fate) + 1, everything=60)
PATIENCE_S = 300.0


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
        self.server = self._start()

    def _start(self) -> Server:
        ports = ("--dicom-port", str(self.dicom), "--http-port", str(self.http))
        return Server(self._data, *ports, config=self._config, workers=1, http=True)

    def kill_and_start(self) -> None:
        self.server.kill_all()
        self.server = self._start()

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


async def simulated(hospital: Hospital, wish: Wish, kill_at: int) -> Result:
    """The day; all processes are killed when so many examinations have ended, while others are under way."""
    killing: list[asyncio.Task[None]] = []
    ended = 0

    def progress(one: Examination) -> None:
        nonlocal ended
        ended += 1
        if ended == kill_at:
            killing.append(asyncio.create_task(asyncio.to_thread(hospital.kill_and_start)))

    result = await simulation.simulate(hospital.address, wish, progress)
    await asyncio.gather(*killing)
    return result


@pytest.mark.parametrize("seed", [effort.seed("HOSPITAL")])
def test_the_books_of_a_day_balance_although_all_processes_are_killed_in_it(
    tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    hospital = Hospital(tmp_path)
    try:
        wish = Wish(orders=ORDERS, seed=seed, notices_port=hospital.notices)
        result = uvloop.run(simulated(hospital, wish, random.Random(seed).randint(1, ORDERS - 2)))
        wrong = [sentence for account in result.accounts for sentence in account.wrong]
        assert not wrong, "\n".join(wrong)
        assert result.is_balanced and {one.fate for one in result.examinations} == set(Fate)

        left = rows(capsys, "simulate", "clean", *hospital.options, "--dry-run")
        assert {row["kind"] for row in left} == {"study", "order"}, "a mistaken image leaves its order open"
        assert run(capsys, "simulate", "clean", *hospital.options)[0] == exit_codes.OK
        assert rows(capsys, "simulate", "clean", *hospital.options, "--dry-run") == []
        assert hospital.server.stop() == 0
    finally:
        hospital.server.kill_all()
