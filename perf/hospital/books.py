"""The books of a day: what was done, beside what the archive has. They balance if nothing is missing or double.

messages     each control id is in the journal once, and was applied
steps        each scheduled step is in its state
performed    each reported step is there, with its end
instances    each accepted instance is in its study once, and nothing else but the reports that came by HL7
studies      each study shows its patient, also after a merge, and its accession number
links        each study belongs to its order, and to no other
workitems    each is completed
commitments  the archive has committed to each image
readings     the workstation got each image
notices      each linked study was announced, if somebody listens
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from perf.hospital import invented
from perf.hospital.day import Examination, Fate
from perf.hospital.web import values

if TYPE_CHECKING:
    from perf.hospital.information import Information
    from perf.hospital.modality import Modalities
    from perf.hospital.notices import Notices
    from perf.hospital.web import Web

LOOK_AGAIN_S: Final = 0.5
JOURNAL_PAGE: Final = 1000
APPLIED: Final = ("applied", "unchanged")


@dataclass(slots=True)
class Account:
    """One line: how many things there should be, how many there are, and what is wrong."""

    what: str
    expected: int = 0
    found: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def is_balanced(self) -> bool:
        return self.expected == self.found and not self.wrong

    def check(self, is_right: bool, otherwise: str) -> None:
        """One more expected thing."""
        self.expected += 1
        if is_right:
            self.found += 1
        else:
            self.wrong.append(otherwise)


@dataclass(frozen=True, slots=True)
class Doers:
    """Who did it, and may be asked."""

    information: Information
    modalities: Modalities
    notices: Notices | None
    failures: Sequence[str]
    """What the server has refused during the day."""


class Books:
    """Compares, for as long as `patience_s`, until all is balanced: links and notices follow a while after a study."""

    def __init__(self, web: Web, run: int, doers: Doers, patience_s: float) -> None:
        self._web = web
        self._run = run
        self._doers = doers
        self._patience_s = patience_s

    async def balanced(self, day: Sequence[Examination]) -> list[Account]:
        """The accounts, as soon as they balance, or at last. Raises Refused, AssociationFailed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience_s
        open_ = list(day)
        fixed = [self._commitments(day), self._readings(day), self._refusals()]
        settled = [Account(name) for name in ("steps", "performed", "instances", "studies", "links", "workitems")]
        while True:
            is_late = loop.time() > deadline
            still = []
            for one in open_:
                accounts = await self._examination(one)
                if is_late or all(each.is_balanced for each in accounts):
                    _add(settled, accounts)
                else:
                    still.append(one)
            open_ = still
            moving = [await self._messages(), *self._notices(day)]
            if is_late or (not open_ and all(each.is_balanced for each in moving)):
                return [moving[0], *settled, *fixed, *moving[1:]]
            await asyncio.sleep(LOOK_AGAIN_S)

    async def _examination(self, one: Examination) -> list[Account]:
        return [
            await self._steps(one),
            await self._performed(one),
            await self._instances(one),
            await self._study(one),
            await self._links(one),
            await self._workitem(one),
        ]

    async def _messages(self) -> Account:
        account = Account("messages")
        prefix = f"{invented.PATIENT_ID_PREFIX}{invented.letters(self._run)}-"
        seen: Counter[str] = Counter()
        results: dict[str, str] = {}
        before: int | None = 0
        while before is not None:
            page = await self._web.read(
                "/api/messages", limit=JOURNAL_PAGE, since=_moment(self._run), **({"before": before} if before else {})
            )
            for row in page["messages"]:
                control_id = str(row["control_id"])
                if control_id.startswith(prefix):
                    seen[control_id] += 1
                    results[control_id] = str(row["result"])
            before = page["older"]
        for control_id in self._doers.information.sent:
            count, result = seen[control_id], results.get(control_id, "missing")
            account.check(count == 1 and result in APPLIED, f"message {control_id}: {count} times, {result}")
        unknown = set(seen) - set(self._doers.information.sent)
        account.wrong += [f"message {control_id}: was never acknowledged" for control_id in sorted(unknown)]
        return account

    async def _steps(self, one: Examination) -> Account:
        account = Account("steps")
        page = await self._web.read("/api/worklist", AccessionNumber=one.accession, all="true", limit=100)
        entries = {str(each["ScheduledProcedureStepID"]): each for each in page["entries"]}
        if one.is_ordered:
            for step in one.step_ids:
                state = str(entries.get(step, {}).get("ScheduledProcedureStepStatus", "missing"))
                account.check(state in one.states, f"step {step} of an order that is {one.fate}: {state}")
        strange = len(entries) - (one.step_count if one.is_ordered else 0)
        if strange > 0:
            account.wrong.append(f"order {one.accession}: {strange} steps too many")
        return account

    async def _performed(self, one: Examination) -> Account:
        account = Account("performed")
        if one.performed_uid:
            status = await self._doers.modalities.performed(one)
            expected = "DISCONTINUED" if one.fate is Fate.DISCONTINUED else "COMPLETED"
            account.check(status == expected, f"performed step {one.performed_uid}: {status or 'missing'}")
        return account

    async def _instances(self, one: Examination) -> Account:
        account = Account("instances")
        found: list[str] = []
        if one.has_study:
            page = await self._web.read(f"/dicom-web/studies/{one.uid}/instances", limit=1000)
            found = [str(value) for each in page or () for value in values(each, "00080018")]
        counts = Counter(found)
        for uid in one.stored:
            account.check(counts[uid] == 1, f"instance {uid}: {counts[uid]} times")
        others = len(set(found) - set(one.stored))
        account.expected += one.document_count
        account.found += others
        if others != one.document_count:
            account.wrong.append(f"study {one.uid}: {others} documents for {one.document_count} reports")
        return account

    async def _study(self, one: Examination) -> Account:
        account = Account("studies")
        if not one.has_study:
            return account
        page = await self._web.read("/dicom-web/studies", StudyInstanceUID=one.uid, includefield="00100021")
        study = page[0] if page and len(page) == 1 else {}
        shown = next(values(study, "00100020"), "missing")
        accession = next(values(study, "00080050"), "")
        expected = "" if one.fate is Fate.UNORDERED else one.accession
        is_right = (shown, accession) == (one.shown_person.patient_id, expected)
        why = f"study {one.uid} ({one.fate}): patient {shown}, accession number {accession or 'none'}"
        account.check(is_right, why)
        return account

    async def _links(self, one: Examination) -> Account:
        account = Account("links")
        if not one.has_study:
            return account
        facts = await self._web.read(f"/api/reconciliation/studies/{one.uid}")
        links = [each for each in (facts or {}).get("links", ()) if not each["is_undone"]]
        linked = [str(each["order"].get("AccessionNumber", "")) for each in links]
        expected = [one.accession] if one.is_linked else []
        account.check(linked == expected, f"study {one.uid} ({one.fate}): linked to {', '.join(linked) or 'no order'}")
        return account

    async def _workitem(self, one: Examination) -> Account:
        account = Account("workitems")
        if one.workitem_uid:
            page = await self._web.read(f"/dicom-web/workitems/{one.workitem_uid}")
            state = next(values(page[0], "00741000"), "") if page else "missing"
            account.check(state == "COMPLETED", f"workitem {one.workitem_uid}: {state}")
        return account

    def _commitments(self, day: Sequence[Examination]) -> Account:
        account = Account("commitments")
        for one in day:
            if one.has_study:
                account.expected += one.image_count
                account.found += one.committed_count
        return account

    def _readings(self, day: Sequence[Examination]) -> Account:
        account = Account("readings")
        for one in day:
            if one.has_study:
                account.expected += one.image_count
                account.found += one.read_count
        return account

    def _refusals(self) -> Account:
        return Account("refusals", wrong=list(self._doers.failures), found=len(self._doers.failures))

    def _notices(self, day: Sequence[Examination]) -> list[Account]:
        if self._doers.notices is None:
            return []
        account = Account("notices")
        for one in day:
            if one.is_linked:
                count = self._doers.notices.studies.get(one.uid, 0)
                account.check(count >= 1, f"study {one.uid}: was not announced")
        return [account]


def _add(settled: list[Account], accounts: list[Account]) -> None:
    for total, each in zip(settled, accounts, strict=True):
        total.expected += each.expected
        total.found += each.found
        total.wrong += each.wrong


def _moment(run: int) -> str:
    """When a run began, as the API takes times."""
    return datetime.fromtimestamp(invented.EPOCH_S + run - 1, UTC).isoformat()
