"""Runs a day: registers, orders, examines, reports and reads, each examination on its own, and then closes the books.

A station does one examination at a time. Without a speed everything goes as fast as it goes; with one, an examination
begins when its time of the day has come, so many times faster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from engine.errors import AssociationFailed, HL7SendFailed
from perf.hospital import assistant, day, invented, readiness, workstation
from perf.hospital.books import Account, Books, Doers
from perf.hospital.day import Examination, Fate
from perf.hospital.information import Information
from perf.hospital.modality import Modalities
from perf.hospital.network import Refused, Server
from perf.hospital.notices import Notices
from perf.hospital.web import Web

AT_ONCE: Final = 2
"""Examinations of one station that are under way, from the registration to the reading, where nothing is waited for."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What to simulate."""

    orders: int = 0
    """Examinations; 0: so many as fit into `duration_s`."""
    seed: int = 1
    speed: float = 0.0
    """How many times faster than a day; 0: as fast as it goes."""
    duration_s: float = 0.0
    """After so many seconds no further examination begins; 0: when there are `orders`."""
    notices_port: int = 0
    """Where to listen for what the archive tells others; 0: nowhere."""
    run: int = 0
    """The number of the run; 0: now."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of it."""

    run: int
    examinations: list[Examination]
    accounts: list[Account]
    seconds: float
    """Of the day, without the books."""
    books_s: float
    """Until the books balanced, or patience was at its end."""

    @property
    def is_balanced(self) -> bool:
        return all(each.is_balanced for each in self.accounts)


async def simulate(server: Server, wish: Wish, progress: Callable[[Examination], object] = lambda one: None) -> Result:
    """A whole day with its books. `progress` is called at the end of each examination.

    Raises Refused, AssociationFailed, OSError when the server is not ready for it, or the books cannot be read.
    """
    run = wish.run or invented.run_now()
    loop = asyncio.get_running_loop()
    notices = Notices(server.host, wish.notices_port) if wish.notices_port else None
    information = Information(server, run)
    async with Web(server) as web:
        await web.read("/api/messages", limit=1)
        if notices is not None:
            await notices.open()
        try:
            hospital = _Hospital(server, wish, information, progress)
            await readiness.check(server, information, next(day.examinations(run, wish.seed)).person)
            begin = loop.time()
            await hospital.work(run)
            end = loop.time()
            doers = Doers(information, hospital.modalities, notices, hospital.failures)
            accounts = await Books(web, run, doers, server.patience_s).balanced(hospital.examinations)
        finally:
            await information.close()
            if notices is not None:
                await notices.close()
    return Result(run, hospital.examinations, accounts, end - begin, loop.time() - end)


class _Hospital:
    """The day itself."""

    def __init__(
        self, server: Server, wish: Wish, information: Information, progress: Callable[[Examination], object]
    ) -> None:
        self._server = server
        self._wish = wish
        self._information = information
        self._progress = progress
        self._stations = {name: asyncio.Lock() for name in day.MODALITIES}
        self.modalities = Modalities(server)
        self.examinations: list[Examination] = []
        self.failures: list[str] = []

    async def work(self, run: int) -> None:
        """Returns when every examination that was begun has ended."""
        places = asyncio.Semaphore(AT_ONCE * len(day.MODALITIES))
        loop = asyncio.get_running_loop()
        begin = loop.time()
        wish = self._wish
        async with asyncio.TaskGroup() as tasks:
            for one in day.examinations(run, wish.seed):
                if wish.orders and one.number > wish.orders:
                    break
                if wish.speed:
                    await asyncio.sleep(begin + one.at_s / wish.speed - loop.time())
                else:
                    await places.acquire()
                if wish.duration_s and loop.time() - begin > wish.duration_s:
                    break
                self.examinations.append(one)
                tasks.create_task(self._examined(one)).add_done_callback(lambda task: places.release())

    async def _examined(self, one: Examination) -> None:
        """Everything that happens to one patient. What is refused is noted, and ends the examination."""
        try:
            await self._arrive(one)
            async with self._stations[one.modality]:
                await self._examine(one)
            await self._after(one)
        except (Refused, AssociationFailed, HL7SendFailed, OSError) as error:
            self.failures.append(f"{one.accession} ({one.fate}): {error}")
        self._progress(one)

    async def _arrive(self, one: Examination) -> None:
        await self._information.register(one.person)
        if one.mistaken_for is not None:
            await self._information.register(one.mistaken_for)
        if not one.is_ordered:
            return
        await self._information.order(one)
        if one.number % 3 == 0:
            await self._information.reschedule(one)
        if one.fate is Fate.CANCELED:
            await self._information.cancel(one)

    async def _examine(self, one: Examination) -> None:
        entries = []
        if one.is_ordered:
            entries = await self.modalities.found(one, 0 if one.fate is Fate.CANCELED else one.step_count)
        if one.is_reported:
            await self.modalities.begin(one, entries)
        numbers = range(1, one.image_count + 1)
        late = numbers[one.image_count // 2 :] if one.fate is Fate.LATE else range(0)
        if one.has_study:
            await self.modalities.store(one, [number for number in numbers if number not in late])
        if one.is_reported:
            await self.modalities.end(one)
        if one.has_study:
            await self.modalities.store(one, late)
            await self.modalities.commit(one)

    async def _after(self, one: Examination) -> None:
        if one.fate is Fate.MERGED and one.mistaken_for is not None:
            await self._information.merge(one.person, one.mistaken_for)
        if one.has_workitem:
            await assistant.schedule(self._server, one)
            await assistant.work(self._server, one)
        if one.has_document:
            await self._information.report(one)
        if one.has_study:
            await workstation.read(self._server, one)
