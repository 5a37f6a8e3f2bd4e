"""Makes workitems (UPS) by the rules: for a study that is here, or for an order, from a [[workitem]] template.

    study    its patient, its requests, and as input every instance of each series, to be retrieved from this archive
    order    its patient and its requested procedures; no input yet (UNAVAILABLE). Also when its report is final
    step     the patient of a performed step (MPPS) that is completed, and the requests that it fulfils; no input either

The SOP Instance UID follows from rule and event: an event that comes again makes nothing. Instances that come late are
an event of their own: a workitem of the rule for that study that nobody has claimed gets them, else there is one more.
Not of what an earlier one of the rule has made: its results come into the study too, and would be work again for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final, Generic

from engine import log
from engine.archive.feed.event import decode
from engine.archive.hospital import has_orders
from engine.dicom import charset, tags
from engine.dicom.identifier import Identifier
from engine.errors import DeliveryFailed, WorkitemRefused
from engine.exchange.identity import uid_of
from engine.exchange.matching import matching
from engine.orders import linking, patients, performing
from engine.orders.attributes import Items, decoded, values_of
from engine.orders.names import id_key
from engine.orders.transactions import Reading
from engine.orders.work import STEP_SET
from engine.orders.workitems.facts import text_of
from engine.orders.workitems.rules import Fault, State
from engine.orders.workitems.search import Search, question_of
from engine.orders.workitems.store import Workitems
from engine.outbox.follower import Sink
from engine.outbox.source import Content, Unit

if TYPE_CHECKING:
    from engine.exchange.settings import Rule
    from engine.index.format.types import Instance
    from engine.orders.rows import AnnouncementRow, OrderRow
    from engine.orders.settings import WorkitemTemplate
    from engine.runtime.engine import Engine

logger = log.get("exchange.workitem_making")

Values = dict[int, bytes | list[Identifier]]

INSTANCES_MAX: Final = 20_000
"""Instances that a workitem names as its input: 2 MB of the 4 that it may have."""
OWN_SCHEME: Final = "99LOCAL"
_ASKED: Final = (
    tags.PatientID, tags.IssuerOfPatientID, tags.PatientName, tags.PatientBirthDate, tags.PatientSex,
    tags.AccessionNumber,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a workitem is for."""

    patient: Mapping[int, str]
    requests: list[Identifier]
    study: str = ""
    inputs: list[Identifier] = field(default_factory=list)
    left_out: int = 0
    """Instances of the study that are not among the inputs."""
    is_whole_study: bool = True
    """Whether the work is the study, to which instances may come; else one step of it."""

    @property
    def readiness(self) -> bytes:
        """Input Readiness State."""
        if self.left_out:
            return b"INCOMPLETE"
        return b"READY" if self.inputs else b"UNAVAILABLE"


class Making(Sink[Content], Generic[Content]):
    """The workitems of one rule and one template."""

    def __init__(self, engine: Engine, rule: Rule, name: str, subject: Callable[[Content], Subject | None]) -> None:
        """`subject`: what an event is about; None: nothing that the rule is for. Called in a thread."""
        self._engine = engine
        self._rule = rule
        self._name = name
        self._subject = subject

    async def deliver(self, unit: Unit[Content], reset: str) -> None:
        """Makes the workitem of an event. Raises DeliveryFailed, OrdersError, StorageError, QueryError."""
        await self._engine.pools.slow.run(partial(self._make, unit))

    def _make(self, unit: Unit[Content]) -> None:
        engine, rule = self._engine, self._rule
        template = next((each for each in engine.config.workitems if each.name == self._name), None)
        if template is None:
            raise DeliveryFailed(f"there is no [[workitem]] {self._name}")
        subject = self._subject(unit.content)
        if subject is None:
            return
        workitems, creator = Workitems(engine.orders()), f"rule:{rule.name}:{self._name}"
        uid = uid_of(engine, creator, unit.before)
        if workitems.exists(uid):
            return
        if subject.study and subject.is_whole_study:
            if self._grow(workitems, creator, subject):
                return
            if not subject.left_out and self._is_known(workitems, creator, subject):
                return
        try:
            workitems.create(uid, created(template, subject, time.time()), creator, is_ours=True)
        except WorkitemRefused as refusal:
            if refusal.fault != Fault.DUPLICATE:
                raise DeliveryFailed(f"the workitem was refused: {refusal}") from None
            return
        engine.metrics.counters["workitems_made"] += 1
        logger.info("workitem made", rule=rule.name, template=self._name, sop_instance_uid=uid)

    def _grow(self, workitems: Workitems, creator: str, subject: Subject) -> bool:
        """Gives the instances of a study to a workitem that waits for its performer; returns whether there is one."""
        keys: Values = {
            tags.StudyInstanceUID: subject.study.encode(),
            tags.ProcedureStepState: State.SCHEDULED.encode(),
        }
        running = Search(question_of(Identifier(keys)), is_brief=True)
        while (matches := workitems.read(running)) is not None:
            for uid, _ in matches:
                if workitems.creator_of(uid) == creator:
                    try:
                        workitems.update(uid, Identifier(_inputs(subject)), creator, is_ours=True)
                    except WorkitemRefused:
                        continue  # somebody has claimed it just now
                    return True
        return False

    def _is_known(self, workitems: Workitems, creator: str, subject: Subject) -> bool:
        """Whether earlier workitems for a study name all its instances, as input or as output."""
        left = {each for item in subject.inputs for each in _named(values_of(item))}
        running = Search(question_of(Identifier({tags.StudyInstanceUID: subject.study.encode()})), is_brief=True)
        while left and (matches := workitems.read(running)) is not None:
            for uid, _ in matches:
                if workitems.creator_of(uid) == creator:
                    known = set(_information(workitems.get(uid)))
                    left = {(series, each) for series, each in left if not known & {(series, each), (series, "")}}
        return not left


def _information(items: Items) -> Iterator[tuple[str, str]]:
    """The instances that a workitem names as input and as output."""
    performed = _items(items, tags.UnifiedProcedureStepPerformedProcedureSequence)
    outputs = [each for item in performed for each in _items(item, tags.OutputInformationSequence)]
    for each in (*_items(items, tags.InputInformationSequence), *outputs):
        yield from _named(each)


def _named(information: Items) -> Iterator[tuple[str, str]]:
    """Series and SOP Instance UID of each reference; the latter is empty where a whole series is meant."""
    series = text_of(information, tags.SeriesInstanceUID)
    references = _items(information, tags.ReferencedSOPSequence)
    for each in references:
        yield series, text_of(each, tags.ReferencedSOPInstanceUID)
    if series and not references:
        yield series, ""


def _items(items: Items, tag: int) -> list[Items]:
    value = items.get(tag) or []
    return [] if isinstance(value, bytes) else [values_of(item) for item in value]


def created(template: WorkitemTemplate, subject: Subject, now: float) -> Identifier:
    """The attributes of an N-CREATE (PS3.4 Table CC.2.5-3)."""
    start = datetime.fromtimestamp(now + template.delay_s).astimezone()
    values: Values = {
        **{tag: text.encode() for tag, text in subject.patient.items() if text},
        tags.ProcedureStepState: State.SCHEDULED.encode(),
        tags.ScheduledProcedureStepPriority: template.priority.encode(),
        tags.ProcedureStepLabel: template.label.encode(),
        tags.ScheduledProcedureStepStartDateTime: start.strftime("%Y%m%d%H%M%S%z").encode(),
        tags.ReferencedRequestSequence: subject.requests,
        **_inputs(subject),
    }
    if template.worklist:
        values[tags.WorklistLabel] = template.worklist.encode()
    if subject.study:
        values[tags.StudyInstanceUID] = subject.study.encode()
    for tag, text in (
        (tags.ScheduledWorkitemCodeSequence, template.code),
        (tags.ScheduledStationNameCodeSequence, template.station),
        (tags.ScheduledStationClassCodeSequence, template.station_class),
        (tags.ScheduledStationGeographicLocationCodeSequence, template.location),
    ):
        if text:
            values[tag] = [_code(text)]
    if template.parameters:
        values[tags.ScheduledProcessingParametersSequence] = [_parameter(*each) for each in template.parameters.items()]
    return Identifier(values, charset.UTF_8)


def _inputs(subject: Subject) -> Values:
    found: Values = {
        tags.InputInformationSequence: subject.inputs,
        tags.InputReadinessState: subject.readiness,
    }
    if subject.left_out:
        text = f"{subject.left_out} instances of the study are not listed as input"
        found[tags.CommentsOnTheScheduledProcedureStep] = text.encode()
    return found


def _code(text: str) -> Identifier:
    value, scheme, meaning = (*text.split("^", 2), "", "")[:3]
    return Identifier(
        {
            tags.CodeValue: value.encode(),
            tags.CodingSchemeDesignator: (scheme or OWN_SCHEME).encode(),
            tags.CodeMeaning: (meaning or value).encode(),
        }
    )


def _parameter(name: str, value: str) -> Identifier:
    return Identifier(
        {
            tags.ValueType: b"TEXT",
            tags.ConceptNameCodeSequence: [_code(f"{name[:16]}^^{name[:64]}")],
            tags.TextValue: value.encode(),
        }
    )


# subjects --------------------------------------------------------------------------------------------


def of_study(engine: Engine, rule: Rule, lines: list[bytes]) -> Subject | None:
    """A study that has come; None if the rule is not about it."""
    uid = decode(lines[0]).study_instance_uid
    if not matching(engine, rule, [uid], "", also_own=True):
        return None
    asked = dict.fromkeys(map(tags.keyword_of, _ASKED), "")
    match = next(engine.archive.find("study", asked, StudyInstanceUID=uid), None)
    if match is None:
        return None
    facts = {tag: match.attributes.get(tag, b"").decode("utf-8", "replace").strip(" \0") for tag in _ASKED}
    accession = facts.pop(tags.AccessionNumber)
    instances = engine.archive.matching("study", StudyInstanceUID=uid)
    inputs = inputs_of(islice(instances, INSTANCES_MAX), engine.config.aet)
    left_out = sum(1 for _ in instances)
    own = Identifier({tags.StudyInstanceUID: uid.encode(), tags.AccessionNumber: accession.encode()})
    return Subject(
        patient=facts, requests=_requests_of(engine, uid) or [own], study=uid, inputs=inputs, left_out=left_out
    )


def inputs_of(instances: Iterable[Instance], aet: str) -> list[Identifier]:
    """The items of an Input Information Sequence: one for each series."""
    series: dict[tuple[str, str], list[Identifier]] = {}
    for each in instances:
        reference = Identifier(
            {
                tags.ReferencedSOPClassUID: each.sop_class_uid.encode(),
                tags.ReferencedSOPInstanceUID: each.sop_instance_uid.encode(),
            }
        )
        series.setdefault((each.study_instance_uid, each.series_instance_uid), []).append(reference)
    return [
        Identifier(
            {
                tags.TypeOfInstances: b"DICOM",
                tags.StudyInstanceUID: study.encode(),
                tags.SeriesInstanceUID: uid.encode(),
                tags.ReferencedSOPSequence: references,
                tags.DICOMRetrievalSequence: [Identifier({tags.RetrieveAETitle: aet.encode()})],
            }
        )
        for (study, uid), references in series.items()
    ]


def of_order(engine: Engine, row: AnnouncementRow) -> Subject | None:
    """A new order; None if it is not there any more."""
    with engine.orders().read_in_thread() as reading:
        order = reading.get(reading.database.orders, id_key(int(row.subject)))
        current = patients.current(reading, order.patient) if order is not None else None
        if order is None or current is None or not current[1].identifiers:
            return None
        identifier, known = current[1].identifiers[0], current[1].attributes
        texts = {
            tag: text
            for tag in (tags.PatientName, tags.PatientBirthDate, tags.PatientSex)
            if isinstance(text := known.get(tags.keyword_of(tag)), str)
        }
        issuer = identifier.issuer.name or identifier.issuer.universal_id
        patient = {tags.PatientID: identifier.value, tags.IssuerOfPatientID: issuer, **texts}
        return Subject(patient=patient, requests=_requests(order))


def of_step(engine: Engine, rule: Rule, row: AnnouncementRow) -> Subject | None:
    """A performed step that is completed; None for any other report of a modality."""
    change = decoded(row.data_set, element_count_max=performing.ELEMENT_COUNT_MAX)
    if row.kind != STEP_SET or performing.status_of(change) != performing.COMPLETED:
        return None
    performed = engine.orders().performed(row.subject)
    if performed is None or (rule.senders and row.by not in rule.senders):
        return None
    step = performing.stored(performed)
    items = step.sequence(tags.ScheduledStepAttributesSequence)
    patient = {tag: step.text(tag).strip() for tag in _ASKED if tag != tags.AccessionNumber}
    with engine.orders().read_in_thread() as reading:
        steps = (reading.get(reading.database.steps, id_key(number)) for number in performed.steps)
        orders = dict.fromkeys(each.order for each in steps if each is not None)
        rows = [reading.get(reading.database.orders, id_key(order)) for order in orders]
    requests = [item for order in rows if order is not None for item in _requests(order)]
    said = (tags.StudyInstanceUID, tags.AccessionNumber, tags.RequestedProcedureID, tags.RequestedProcedureDescription)
    own = [Identifier({tag: item.text(tag).strip().encode() for tag in said}) for item in items]
    studies = [uid for uid in performed.study_instance_uids if uid]
    study = studies[0] if len(studies) == 1 else ""
    return Subject(patient=patient, requests=requests or own, study=study, is_whole_study=False)


def _requests_of(engine: Engine, study: str) -> list[Identifier]:
    """The requests of the orders that a study is linked to."""
    if not has_orders(engine.archive):
        return []
    with engine.orders().read_in_thread() as reading:
        return [item for order in _linked(reading, study) for item in _requests(order, study)]


def _linked(reading: Reading, study: str) -> list[OrderRow]:
    links = [link for link in linking.orders_of(reading, study) if not link.is_undone]
    rows = [reading.get(reading.database.orders, id_key(link.order)) for link in links]
    return [row for row in rows if row is not None]


def _requests(order: OrderRow, study: str = "") -> list[Identifier]:
    """The requested procedures of an order. `study`: the one that fulfils them, whatever UID was planned."""
    numbers = {
        tags.AccessionNumber: order.accession,
        tags.PlacerOrderNumberImagingServiceRequest: order.placer,
        tags.FillerOrderNumberImagingServiceRequest: order.filler,
    }
    common: Values = {tag: each.value.encode() if each is not None else b"" for tag, each in numbers.items()}
    items = []
    for procedure in order.procedures:
        description = procedure.attributes.get("RequestedProcedureDescription", "")
        items.append(
            Identifier(
                {
                    **common,
                    tags.StudyInstanceUID: (study or procedure.study_instance_uid).encode(),
                    tags.RequestedProcedureID: procedure.requested_procedure_id.encode(),
                    tags.RequestedProcedureDescription: description.encode() if isinstance(description, str) else b"",
                }
            )
        )
    return items
