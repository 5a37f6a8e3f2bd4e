"""The workitems among the tasks of /fhir/Task: behind the scheduled steps, for who may see workitems too.

u.CURSOR    a page begins behind a workitem; u. at the first
n.NUMBER    behind so many of those that are named by UID
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Final

from engine.access import Action, Records
from engine.dicom import charset, tags
from engine.dicom.identifier import Identifier
from engine.errors import RequestError
from engine.fhir.order_search import CODE, ID, NUMBER, ORDER, OWNER, STATUS
from engine.fhir.search import PAGE
from engine.fhir.workitem_task import STATES, Workitem
from engine.orders.attributes import values_of
from engine.orders.workitems import facets
from engine.orders.workitems.facts import text_of
from engine.orders.workitems.reach import reach_of
from engine.orders.workitems.rules import is_uid
from engine.orders.workitems.search import Search, question_of
from engine.web.errors import TooLarge
from engine.web.window import SLICE_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.fhir.search import Search as Asked
    from engine.fhir.workitem_task import Code
    from engine.orders.attributes import Items
    from engine.orders.transactions import Reading
    from engine.orders.workitems.search import Question
    from engine.web.request import Request

FIRST: Final = "u."
"""The cursor before all workitems."""
_CURSOR: Final = re.compile(r"u\.[\w=-]{0,300}|n\.\d{1,9}", re.ASCII)
_RESERVED: Final = frozenset("*?\\")
_OUTPUTS_MAX: Final = 20


@dataclass(slots=True)
class Found:
    """A page of workitems in the making, for one thread at a time."""

    asked: Asked
    limit: int
    counts_all: bool
    position: bytes = b""
    skipped: int = 0
    question: Question | None = None
    search: Search | None = None
    workitems: list[Workitem] = field(default_factory=list)
    matches: int = 0
    is_over: bool = False
    following: str = ""
    """The cursor of the next page; "": there is none."""

    def slice(self, request: Request) -> None:
        """Looks at workitems for SLICE_S, in a transaction of its own."""
        end_s = perf_counter() + SLICE_S
        with request.engine.orders().read_in_thread() as reading:
            if self.search is None:
                self.question = _question(self.asked, reading)
                if self.question is None:
                    self.is_over = True
                    return
                scope = request.scope(Action.WORKITEM)
                self.question.reach = reach_of(scope, lambda: request.engine.stations.issuer)
                self.search = Search(self.question, after=self.position, skip=self.skipped, is_brief=True)
            while perf_counter() < end_s:
                found = self.search.next_placed(reading)
                if found is None or not all(self._take(reading, *match) for match in found):
                    self.is_over = True
                    return

    def _take(self, reading: Reading, place: bytes, uid: str, items: Items) -> bool:
        """Adds a match. Returns whether to go on."""
        assert self.question is not None
        if self.matches >= self.limit and not self.counts_all:
            self.following = self._cursor()
            return False
        if self.matches < self.limit:
            self.workitems.append(_workitem(reading, uid))
            self.position = place
        elif not self.following:
            self.following = self._cursor()
        self.matches += 1
        return True

    def _cursor(self) -> str:
        assert self.question is not None
        if self.question.uids:
            return f"n.{self.skipped + len(self.workitems)}"
        return f"{FIRST}{base64.urlsafe_b64encode(self.position).decode()}"


def is_cursor(text: str) -> bool:
    """Whether a page begins among the workitems."""
    return _CURSOR.fullmatch(text) is not None


def sees(request: Request) -> bool:
    """Whether the client may see workitems as tasks."""
    return bool(request.allowed(Action.WORKITEM, Records("Task", "s")))


async def find(request: Request, asked: Asked, limit: int) -> Found:
    """A page of workitems from the cursor on, at most `limit`. Raises RequestError, TooLarge."""
    found = Found(asked, limit, asked.wants_total)
    if asked.cursor and asked.cursor.startswith("n."):
        found.skipped = int(asked.cursor[2:])
    elif asked.cursor and asked.cursor.startswith(FIRST):
        try:
            found.position = base64.urlsafe_b64decode(asked.cursor.removeprefix(FIRST))
        except binascii.Error:
            raise RequestError(f"{PAGE}: is none of this server's") from None
    timeout_s, work_s = request.config.limits.query_timeout_s, 0.0
    while not found.is_over and not asked.is_empty:
        await request.engine.pools.orders.run(partial(found.slice, request))
        work_s += SLICE_S
        if timeout_s and work_s > timeout_s:
            raise TooLarge(f"the search was stopped after {timeout_s:g} s: narrow it")
    return found


async def one(request: Request, uid: str, asked: Asked) -> Workitem | None:
    """A workitem by its UID; None: there is none, or it is not the client's to see."""
    asked.values[ID] = (uid,)
    found = await find(request, asked, 1)
    return found.workitems[0] if found.workitems else None


def _question(asked: Asked, reading: Reading) -> Question | None:
    """The question of a search; None: nothing can match."""
    values = asked.values
    uids: set[str] | None = None
    for name, narrowed in ((ID, _uids), (NUMBER, _uids), (ORDER, partial(_of_orders, reading))):
        if name in values:
            own = narrowed(values[name])
            uids = own if uids is None else uids & own
    if uids is not None and not uids:
        return None
    keys: dict[int, bytes | list[Identifier]] = {}
    if uids is not None:
        keys[tags.SOPInstanceUID] = "\\".join(sorted(uids)).encode()
    if STATUS in values:
        states = [state for state, status in STATES.items() if status in values[STATUS]]
        keys[tags.ProcedureStepState] = "\\".join(states).encode()
        if not states:
            return None
    for name, tag in ((CODE, tags.ScheduledWorkitemCodeSequence), (OWNER, tags.ScheduledStationNameCodeSequence)):
        if name in values:
            codes = [value for value in values[name] if value and not _RESERVED & set(value)]
            if not codes:
                return None
            keys[tag] = [Identifier({tags.CodeValue: "\\".join(codes).encode()}, charset.UTF_8)]
    patients = asked.patients
    if patients is not None:
        ids = [patient_id for patient_id, _ in patients if patient_id and not _RESERVED & set(patient_id)]
        if not ids:
            return None
        keys[tags.PatientID] = "\\".join(ids).encode()
    question = question_of(Identifier(keys, charset.UTF_8))
    if patients is not None:
        question.test = partial(_is_of_patients, patients)
    return question


def _uids(texts: Sequence[str]) -> set[str]:
    return {uid for text in texts if is_uid(uid := text.removeprefix("urn:oid:"))}


def _of_orders(reading: Reading, numbers: Sequence[str]) -> set[str]:
    return {uid for number in numbers for uid in facets.uids_of_order(reading, int(number))}


def _is_of_patients(patients: Sequence[tuple[str, str]], items: Items) -> bool:
    patient_id, issuer = text_of(items, tags.PatientID), text_of(items, tags.IssuerOfPatientID)
    return any(value == patient_id and (not wanted or wanted == issuer) for value, wanted in patients)


def _workitem(reading: Reading, uid: str) -> Workitem:
    row, items = facets.whole(reading, uid)
    created = datetime.fromtimestamp(row.created, UTC).isoformat(timespec="seconds") if row.created else ""
    reasons = [each.text for each in row.history if each.text]
    studies = facets.studies_of(items)
    performed = _first(items, tags.UnifiedProcedureStepPerformedProcedureSequence)
    outputs = performed.get(tags.OutputInformationSequence) or []
    inner = [] if isinstance(outputs, bytes) else [values_of(each) for each in islice(outputs, _OUTPUTS_MAX)]
    made = [text_of(each, tags.StudyInstanceUID) for each in inner]
    return Workitem(
        uid=uid,
        attributes={tag: value for tag, value in items.items() if isinstance(value, bytes)},
        created=created,
        code=_code(_first(items, tags.ScheduledWorkitemCodeSequence)),
        station=_code(_first(items, tags.ScheduledStationNameCodeSequence)),
        reason=reasons[-1] if reasons and row.state == "CANCELED" else "",
        study=studies[0] if studies else "",
        outputs=list(dict.fromkeys(filter(None, made))),
        orders=[str(number) for number in facets.orders_of(reading, items)],
    )


def _first(items: Items, tag: int) -> Items:
    sequence = items.get(tag) or []
    return values_of(sequence[0]) if sequence and not isinstance(sequence, bytes) else {}


def _code(item: Items) -> Code | None:
    value = text_of(item, tags.CodeValue) or text_of(item, tags.LongCodeValue)
    return (text_of(item, tags.CodingSchemeDesignator), value, text_of(item, tags.CodeMeaning)) if value else None
