"""What the fronts of a process write to the audit log: an event for each operation and study, with its patient.

    received    once an association or request and study: `Arrivals` counts, the patient is looked up at the end
    sending     durable before the first byte leaves, or AuditUnavailable. The thread that reads the index begins to
                write it; what will be sent is read meanwhile
    sent        when all has left, or as much as the receiver took
    query       one event a query
    changing    durable before the change, or AuditUnavailable; if the change then fails, another event says so
    alert       somebody is not who he says: the first one of an address at once, more of them as a sum each ALERTS_S

Where nothing is recorded, nothing is looked up. What leaves is noted for rules of tiers, too (`Archive.note_reads`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeAlias

from engine import audit, guards
from engine.archive.study_facts import StudyFacts
from engine.audit import Alert, Event, Kind, Outcome
from engine.errors import for_log

if TYPE_CHECKING:
    from engine.access import Principal
    from engine.archive.archive import Archive
    from engine.archive.retrieve import Instance
    from engine.runtime.pools import Pools

IDLE_S: Final = 60.0
"""A study of which nothing has arrived for so long is recorded."""

STUDIES_AT_ONCE: Final = 16
"""The events of more studies are made in a thread."""
FINISH_S: Final = 10.0
ALERTS_S: Final = 60.0
ALERT_ADDRESSES_MAX: Final = 1024
"""Addresses of which alerts are counted apart; further ones share a count."""

Counts: TypeAlias = Mapping[tuple[bytes, str, bool], int]
"""Study, SOP class, whether the instance is new here → instances."""


@asynccontextmanager
async def changing(event: Event) -> AsyncIterator[None]:
    """Records durably what will be changed. Raises AuditUnavailable."""
    await audit.begin(event)
    try:
        yield
    except BaseException as error:
        audit.write(replace(event, outcome=Outcome.SERIOUS, detail=f"{event.detail}: it failed: {for_log(error)}"))
        raise


@dataclass(slots=True, eq=False)
class Contents:
    """Instances of some studies, and whose these are."""

    studies: dict[str, Counter[str]] = field(default_factory=dict)
    """Study → SOP class → count."""
    facts: dict[str, StudyFacts] = field(default_factory=dict)
    """Of the studies whose beginning is recorded."""

    def add(self, instances: Iterable[Instance]) -> list[str]:
        """Counts instances; returns the studies that are new."""
        pairs = Counter((each.study_instance_uid, each.sop_class_uid) for each in instances)
        fresh = []
        for (study, sop_class), count in pairs.items():
            classes = self.studies.get(study)
            if classes is None:
                classes = self.studies[study] = Counter()
                fresh.append(study)
            classes[sop_class] += count
        return fresh


@dataclass(frozen=True, slots=True)
class Act:
    """Who does something, how, and who else has part in it."""

    principal: Principal
    action: str
    peer: str = ""
    """The receiver, if it is another than the principal."""
    peer_address: str = ""


class AuditTrail:
    """Writes for all fronts of a process. Used on the loop's thread, but for `start_sending`."""

    def __init__(self, archive: Archive, pools: Pools) -> None:
        self._archive = archive
        self._pools = pools
        self._tasks: set[asyncio.Task[None]] = set()
        self.at_end: list[Callable[[], None]] = []
        """Called by `finish` first: fronts record what they still count."""
        self._unsent: set[Contents] = set()
        """Whose end is not recorded yet."""
        self._alerts: dict[tuple[str, Alert], int] = {}

    def alert(self, principal: Principal, alert: Alert, detail: str) -> None:
        """Records a security alert; a flood from one address becomes one event a minute."""
        if not audit.is_on():
            return
        address = principal.address
        if (address, alert) not in self._alerts and len(self._alerts) >= ALERT_ADDRESSES_MAX:
            address = ""
        count = self._alerts.get((address, alert))
        if count is not None:
            self._alerts[address, alert] = count + 1
            return
        self._alerts[address, alert] = 0
        audit.write(Event(kind=Kind.ALERT, principal=principal, alert=alert, outcome=Outcome.MINOR, detail=detail))
        asyncio.get_running_loop().call_later(ALERTS_S, self._sum_up, principal, address, alert)

    def _sum_up(self, principal: Principal, address: str, alert: Alert) -> None:
        count = self._alerts.pop((address, alert), 0)
        if count:
            who = replace(principal, name="", address=address or "(several)")
            detail = f"{count} more in {ALERTS_S:g} s"
            audit.write(Event(kind=Kind.ALERT, principal=who, alert=alert, outcome=Outcome.MINOR, detail=detail))

    def received(self, act: Act, counts: Counts) -> None:
        """Records what one sender has stored."""
        if counts and audit.is_on():
            self._later(lambda: self._write_received(act, dict(counts)))

    def open(self, contents: Contents) -> None:
        """Call it before `start_sending`; `sent` ends it."""
        self._unsent.add(contents)

    def start_sending(self, act: Act, contents: Contents, studies: Sequence[str]) -> audit.Started | None:
        """Begins to record that instances of these studies will leave. Wait with `audit.durable` before they do.

        For any thread that may read the index, and then calls `audit.flush`. Raises AuditUnavailable.
        """
        if not audit.is_on():
            return None
        for study in studies:
            contents.facts[study] = self._archive.study_facts(study)
        self._archive.note_reads(studies)
        return audit.start(
            *(_event(Kind.SENDING, act, study, contents.facts[study], contents.studies[study]) for study in studies)
        )

    async def sending_study(self, act: Act, study: str) -> bool:
        """Records that somebody will read one thing of a study after another; returns whether it is stored.

        Durable when it returns; raises AuditUnavailable.
        """

        def start() -> tuple[bool, audit.Started | None]:
            facts = self._archive.study_facts(study)
            if facts.patient is None:
                return False, None
            self._archive.note_reads([study])
            return True, audit.start(_event(Kind.SENDING, act, study, facts, {}))

        is_stored, started = await self._pools.index.run(start, then=audit.flush)
        await audit.durable(started)
        return is_stored

    async def exporting(self, act: Act, contents: Contents) -> None:
        """Records that instances leave in files. Durable when it returns; raises AuditUnavailable."""
        if not audit.is_on():
            return

        def start() -> audit.Started | None:
            self._archive.note_reads(contents.studies)
            return audit.start(*(self._event_of(Kind.EXPORTED, act, *each) for each in contents.studies.items()))

        await audit.durable(await self._pools.index.run(start, then=audit.flush))

    def sent(self, act: Act, contents: Contents, sent_count: int, outcome: Outcome = Outcome.SUCCESS) -> None:
        """Records what has left. `sent_count`: instances of all studies together."""
        self._unsent.discard(contents)
        if not contents.studies or not audit.is_on():
            return
        studies = list(contents.studies.items())  # a cancelled call may still be adding some
        total = sum(classes.total() for _, classes in studies)
        detail = "" if sent_count == total else f"{sent_count} of {total} instances were sent"
        if len(studies) <= STUDIES_AT_ONCE:
            self._write_sent(act, contents, studies, outcome, detail)
        else:
            self._later(lambda: self._write_sent(act, contents, studies, outcome, detail))

    def query(
        self,
        act: Act,
        query: str,
        *,
        sop_class: str = "",
        count: int = 0,
        outcome: Outcome = Outcome.SUCCESS,
        identifier: bytes = b"",
        transfer_syntax: str = "",
    ) -> None:
        """Records a query; `count`: its matches."""
        audit.write(
            Event(
                kind=Kind.QUERY,
                principal=act.principal,
                action=act.action,
                query=query,
                sop_class=sop_class,
                count=count,
                outcome=outcome,
                identifier=identifier,
                transfer_syntax=transfer_syntax,
            )
        )

    def about_study(self, kind: Kind, act: Act, study: str, detail: str = "") -> None:
        """Records what was done with one study."""
        if audit.is_on():
            self._later(lambda: audit.write(self._event_of(kind, act, study, {}, detail)))

    async def finish(self) -> None:
        """Waits until all has been written. Call it after the last connection has ended."""
        for callback in self.at_end:
            guards.call("audit", callback)
        give_up_at = asyncio.get_running_loop().time() + FINISH_S
        while (self._tasks or self._unsent) and asyncio.get_running_loop().time() < give_up_at:
            # An operation whose connection has ended takes some turns of the loop to end, too.
            await (asyncio.wait(self._tasks) if self._tasks else asyncio.sleep(0.001))

    # -- in threads ---------------------------------------------------------------------------------

    def _later(self, work: Callable[[], object]) -> None:
        async def run() -> None:
            await self._pools.index.run(work)

        task = guards.watch(asyncio.get_running_loop().create_task(run()), "audit")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _event_of(self, kind: Kind, act: Act, study: str, classes: Mapping[str, int], detail: str = "") -> Event:
        return _event(kind, act, study, self._archive.study_facts(study), classes, detail=detail)

    def _write_sent(
        self, act: Act, contents: Contents, studies: Iterable[tuple[str, Counter[str]]], outcome: Outcome, detail: str
    ) -> None:
        for study, classes in studies:
            facts = contents.facts.get(study) or StudyFacts()
            audit.write(_event(Kind.SENT, act, study, facts, classes, outcome=outcome, detail=detail))

    def _write_received(self, act: Act, counts: Counts) -> None:
        contents, known = Contents(), Counter[str]()
        for (uid, sop_class, is_new), count in counts.items():
            study = uid.decode("utf-8", "replace")
            contents.studies.setdefault(study, Counter())[sop_class] += count
            known[study] += 0 if is_new else count
        for study, classes in contents.studies.items():
            detail = f"{known[study]} were stored before" if known[study] else ""
            audit.write(self._event_of(Kind.RECEIVED, act, study, classes, detail))


def _event(
    kind: Kind,
    act: Act,
    study: str,
    facts: StudyFacts,
    classes: Mapping[str, int],
    *,
    outcome: Outcome = Outcome.SUCCESS,
    detail: str = "",
) -> Event:
    return Event(
        kind=kind,
        principal=act.principal,
        action=act.action,
        outcome=outcome,
        patient=facts.patient,
        accession=facts.accession,
        study=study,
        classes=classes,
        count=sum(classes.values()),
        peer=act.peer,
        peer_address=act.peer_address,
        detail=detail,
    )


class Arrivals:
    """Counts what one association stores, and records each study when it is idle or the association ends."""

    def __init__(self, trail: AuditTrail, act: Act) -> None:
        self.counts: dict[tuple[bytes, str, bool], int] = {}
        """Add to it directly: nothing else is done for an instance."""
        self._before: dict[tuple[bytes, str, bool], int] = {}
        self._trail = trail
        self._act = act
        self._timer: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins to look for idle studies."""
        self._timer = loop.call_later(IDLE_S, self._look, loop)

    def end(self) -> None:
        """Records what is left."""
        if self._timer is not None:
            self._timer.cancel()
        counts, self.counts = self.counts, {}
        self._trail.received(self._act, counts)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self.start(loop)
        busy = {key[0] for key, count in self.counts.items() if self._before.get(key) != count}
        idle = {key: count for key, count in self.counts.items() if key[0] not in busy}
        for key in idle:
            del self.counts[key]
        self._before = dict(self.counts)
        self._trail.received(self._act, idle)
