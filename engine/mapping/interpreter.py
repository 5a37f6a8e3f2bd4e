"""Makes neutral values of a message by a profile. Knows no socket, no journal, no archive.

    message ──► type and event ──► family ──► values of `engine.orders.values`, in the order in which they are applied

An order message is cut into groups, one for each ORC (or OBR, where that is missing or repeated): what follows belongs
to it, up to the next one. Each IPC is a step; those of one requested procedure are together. A message that cannot be
mapped has faults, and then no values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.dicom.document import Document
from engine.hl7 import moment
from engine.hl7.acknowledgement import Condition, Fault
from engine.hl7.message import Message, Segment, Value
from engine.mapping import convert
from engine.mapping.bounds import excess_of
from engine.mapping.documents import documents_of
from engine.mapping.profile import LENGTHS, Meaning, Profile, Rule
from engine.mapping.scope import Scope
from engine.orders.values import (
    AppointmentAction,
    AppointmentUpdate,
    Identifier,
    OrderAction,
    OrderUpdate,
    PatientIdentifierChange,
    PatientIdentifierMove,
    PatientLink,
    PatientMerge,
    PatientUpdate,
    ProcedureUpdate,
    ReportState,
    ReportUpdate,
    StepState,
    StepUpdate,
    VisitMove,
    VisitUpdate,
)

_ORDER_STARTS = ("ORC", "OBR")
_ORDER_SEGMENTS = frozenset({"ORC", "OBR", "TQ1", "TQ2", "IPC", "NTE", "OBX", "DG1", "ZDS", "SPM", "CTI", "PRT", "ROL"})


@dataclass(frozen=True, slots=True)
class Options:
    """What the configuration of a source says about its messages."""

    authorities: tuple[str, ...] = ()
    """Issuers whose identifiers count, the primary one first; none: all, in the order of the message."""
    snapshot: bool = False
    """Whether what a message does not have is deleted."""


@dataclass(slots=True)
class Mapped:
    """What a message says."""

    values: list[Any] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    documents: list[tuple[int, Document]] = field(default_factory=list)
    """The documents of reports, each with the place of its report in `values`."""


_CONTROL = re.compile(r"[A-Z]{2}")
_KIND = re.compile(r"[A-Z][A-Z0-9]{2}\^([A-Z][A-Z0-9]{2})?")


def meaning_of(message: Message, profile: Profile) -> Meaning | Fault:
    """What a message is; a fault if the profile does not take it."""
    code, event = message.header.text(9), message.header.text(9, 2)
    if not code:
        return Fault(Condition.REQUIRED_FIELD_MISSING, "MSH-9 is empty", ("MSH", 1, 9))
    meaning = profile.messages.get(f"{code}^{event}")
    if meaning is None and not event:
        # ORM without an event has only one; ADT may have it in EVN-1.
        event = message.text("EVN", 1) or {"ORM": "O01", "ORU": "R01", "OMG": "O19", "OMI": "O23"}.get(code, "")
        meaning = profile.messages.get(f"{code}^{event}")
    if meaning is None or not meaning.family:
        is_type_known = any(kind.startswith(f"{code}^") for kind in profile.messages)
        condition = Condition.UNSUPPORTED_EVENT_CODE if is_type_known else Condition.UNSUPPORTED_MESSAGE_TYPE
        kind = f"{code}^{event}"
        # The text goes into the log, and in a shifted MSH a patient's name may stand here.
        text = f"messages {kind} are not taken" if _KIND.fullmatch(kind) else "messages of this type are not taken"
        return Fault(condition, text, ("MSH", 1, 9))
    return meaning


def apply(message: Message, profile: Profile, options: Options) -> Mapped:
    """The values that a message says; faults if it says none."""
    meaning = meaning_of(message, profile)
    if isinstance(meaning, Fault):
        return Mapped(faults=[meaning])
    if (excess := excess_of(message)) is not None:
        return Mapped(faults=[excess])
    mapping = _Mapping(message, profile, options, meaning)
    mapping.run()
    if mapping.mapped.faults:
        mapping.mapped.values.clear()
    return mapping.mapped


class _Mapping:
    """One message."""

    def __init__(self, message: Message, profile: Profile, options: Options, meaning: Meaning) -> None:
        self._message = message
        self._profile = profile
        self._options = options
        self._meaning = meaning
        self._all = Scope(message)
        self.mapped = Mapped()

    def run(self) -> None:
        match self._meaning.family:
            case "patient" | "visit":
                self._visit()
            case "merge" | "change-id" | "move-id" | "move-visit":
                self._merges()
            case "link" | "unlink":
                self._links()
            case "order":
                self._orders()
            case "book" | "change" | "cancel" | "no-show":
                self._appointment()
            case "report":
                self._reports()

    def _fault(self, condition: Condition, text: str, segment: str, field_: int) -> None:
        self.mapped.faults.append(Fault(condition, text, (segment, 1, field_)))

    def _add(self, value: object) -> None:
        self.mapped.values.append(value)

    # -- patients and visits --------------------------------------------------------------------

    def _patient(self, scope: Scope) -> PatientUpdate | None:
        """The patient; None and a fault if there is no identifier."""
        rule = self._profile.rules["patient"].get("identifiers")
        values = self._raw(rule, scope) if rule is not None else []
        found = [each for value in values if (each := convert.extended_identifier(value)) is not None]
        if not found:
            self._fault(Condition.REQUIRED_FIELD_MISSING, "PID-3 has no identifier", "PID", 3)
            return None
        if authorities := self._options.authorities:
            ranks = {name: rank for rank, name in enumerate(authorities)}
            trusted = [each for each in found if _rank(each, ranks) is not None]
            if not trusted:
                text = "PID-3 has no identifier of an authority that is trusted"
                self._fault(Condition.UNKNOWN_KEY, text, "PID", 3)
                return None
            found = sorted(trusted, key=lambda each: _rank(each, ranks) or 0)
        return PatientUpdate(
            identifiers=tuple(dict.fromkeys(found)),
            attributes=self._attributes("patient", scope),
            snapshot=self._options.snapshot,
        )

    def _visit(self) -> None:
        patient = self._patient(self._all)
        if patient is None:
            return
        self._add(patient)
        if self._meaning.family == "patient":
            return
        visit = self._identifier("visit", "identifier", self._all)
        if visit is None and not self._meaning.arrived:
            return
        self._add(
            VisitUpdate(
                patient=patient.identifiers,
                visit=visit,
                state=self._meaning.state,
                arrived=self._meaning.arrived,
                attributes=self._attributes("visit", self._all),
            )
        )

    def _merges(self) -> None:
        """Each PID with the MRG that follows it."""
        groups = list(_groups(self._message, ("PID",)))
        if not groups:
            self._fault(Condition.SEGMENT_SEQUENCE, "there is no PID", "PID", 0)
        for segments in groups:
            scope = Scope(segments)
            patient = self._patient(scope)
            merge = scope.first("MRG")
            if merge is None:
                self._fault(Condition.SEGMENT_SEQUENCE, "there is no MRG", "MRG", 0)
            if patient is None or merge is None:
                return
            priors = [each for value in merge.repetitions(1) if (each := convert.extended_identifier(value))]
            if not priors:
                self._fault(Condition.REQUIRED_FIELD_MISSING, "MRG-1 has no identifier", "MRG", 1)
                return
            self._merge(patient, priors, merge, scope)

    def _merge(self, patient: PatientUpdate, priors: list[Identifier], merge: Segment, scope: Scope) -> None:
        current = set(patient.identifiers)
        match self._meaning.family:
            case "merge":
                different = [prior for prior in priors if prior not in current]
                if not different:
                    self._fault(Condition.DATA_TYPE, "MRG-1 is the patient of PID-3 already", "MRG", 1)
                for prior in different:
                    self._add(PatientMerge(survivor=patient, prior=prior))
            case "change-id":
                self._add(PatientIdentifierChange(prior=priors[0], current=patient))
            case "move-id":
                for prior in priors:
                    self._add(PatientIdentifierMove(identifier=prior, target=patient))
            case "move-visit":
                raw = merge.value(5)
                visit = convert.extended_identifier(raw) if raw.raw else self._identifier("visit", "identifier", scope)
                if visit is None:
                    self._fault(Condition.REQUIRED_FIELD_MISSING, "neither MRG-5 nor PV1-19 names a visit", "MRG", 5)
                    return
                self._add(VisitMove(visit=visit, prior=priors[0], target=patient))

    def _links(self) -> None:
        segments = self._message.all("PID")
        patients = [patient for segment in segments if (patient := self._patient(Scope([segment]))) is not None]
        if self.mapped.faults:
            return
        if len(patients) != 2:
            self._fault(Condition.SEGMENT_SEQUENCE, f"{len(patients)} PID, and a link needs two", "PID", 0)
            return
        one, other = (patient.identifiers[0] for patient in patients)
        self._add(PatientLink(one=one, other=other, linked=self._meaning.family == "link"))

    # -- orders ---------------------------------------------------------------------------------

    def _orders(self) -> None:
        patient = self._patient(self._all)
        groups = list(_groups(self._message, _ORDER_STARTS, _ORDER_SEGMENTS))
        if not groups:
            self._fault(Condition.SEGMENT_SEQUENCE, "there is no ORC and no OBR", "ORC", 0)
        if patient is None:
            return
        around = Scope(segment for segment in self._message if segment.name not in _ORDER_SEGMENTS)
        for segments in groups:
            self._order(patient, segments, around)

    def _order(self, patient: PatientUpdate, segments: list[Segment], around: Scope) -> None:
        scope = Scope(segments, around)
        order_control = scope.first("ORC")
        control = order_control.text(1) if order_control is not None else "NW"
        action = self._profile.actions.get(control)
        if action is None:
            # The text goes into the log, and in a shifted ORC a patient's name may stand here.
            text = f"ORC-1 {control!r} is not known" if _CONTROL.fullmatch(control) else "ORC-1 is no order control"
            self._fault(Condition.TABLE_VALUE, text, "ORC", 1)
            return
        numbers = {name: self._identifier("order", name, scope) for name in ("placer", "filler", "accession")}
        if not any(numbers.values()):
            self._fault(Condition.REQUIRED_FIELD_MISSING, "no placer, filler or accession number", "ORC", 2)
            return
        status = order_control.text(5) if order_control is not None else ""
        state = self._state(control, status)
        self._add(
            OrderUpdate(
                action=_of_status(action, state),
                patient=patient,
                **numbers,
                visit=self._identifier("order", "visit", scope),
                attributes={**self._attributes("order", scope), **_observations(scope)},
                procedures=self._procedures(segments, scope, state),
                snapshot=self._options.snapshot,
            )
        )

    def _state(self, control: str, status: str) -> StepState | None:
        states = self._profile.states
        for key in (f"{control}_{status}", f"*_{status}", f"{control}_*"):
            if key in states and (status or not key.startswith("*")):
                return states[key]
        return None

    def _procedures(
        self, segments: list[Segment], scope: Scope, state: StepState | None
    ) -> tuple[ProcedureUpdate, ...]:
        """The requested procedures of an order; each IPC is a step of one."""
        details = [segment for segment in segments if segment.name == "IPC"]
        scopes = [Scope([segment], scope) for segment in details] or [scope]
        procedures: dict[tuple[str, str], list[Scope]] = {}
        for each in scopes:
            procedure_id = self._text("procedure", "requested_procedure_id", each)
            study_uid = self._text("procedure", "study_instance_uid", each)
            procedures.setdefault((procedure_id, study_uid), []).append(each)
        return tuple(
            ProcedureUpdate(
                requested_procedure_id=procedure_id,
                study_instance_uid=study_uid,
                attributes=self._procedure_attributes(inside[0]),
                steps=tuple(self._step(each, state) for each in inside),
            )
            for (procedure_id, study_uid), inside in procedures.items()
        )

    def _procedure_attributes(self, scope: Scope) -> dict[str, Any]:
        attributes = self._attributes("procedure", scope)
        notes = [segment.value(3) for segment in scope.all("NTE") if segment.raw(3)]
        if notes and "RequestedProcedureComments" not in attributes:
            keyword = "RequestedProcedureComments"
            attributes[keyword] = self._cut(keyword, convert.whole(notes), LENGTHS["LT"])
        return attributes

    def _step(self, scope: Scope, state: StepState | None) -> StepUpdate:
        rules = self._profile.rules["step"]
        attributes = self._attributes("step", scope)
        start = self._raw(rules["start"], scope) if "start" in rules else []
        found = moment.parse(start[0].text()) if start else None
        if start and found is None and not convert.is_null(start):
            self.mapped.warnings.append("the start of a step is no time")
        if found is not None and found.offset:
            attributes.setdefault("TimezoneOffsetFromUTC", found.offset)
        aes = self._raw(rules["station_aes"], scope) if "station_aes" in rules else []
        is_null = convert.is_null(start)
        return StepUpdate(
            scheduled_procedure_step_id=self._text("step", "scheduled_procedure_step_id", scope),
            modality=self._text("step", "modality", scope) or None,
            station_aes=tuple(each.text() for each in aes if not each.is_null) if aes else None,
            start_date="" if is_null else found.full_date or None if found is not None else None,
            start_time="" if is_null else found.time or None if found is not None else None,
            state=state,
            attributes=attributes,
        )

    # -- appointments and reports ---------------------------------------------------------------

    def _appointment(self) -> None:
        patient = self._patient(self._all)
        if patient is None:
            return
        rules = self._profile.rules["appointment"]
        start = self._raw(rules["start"], self._all) if "start" in rules else []
        found = moment.parse(start[0].text()) if start else None
        aes = self._raw(rules["station_aes"], self._all) if "station_aes" in rules else []
        numbers = {name: self._identifier("appointment", name, self._all) for name in ("placer", "filler", "accession")}
        if not any(numbers.values()):
            self._fault(Condition.REQUIRED_FIELD_MISSING, "the appointment names no order", "SCH", 26)
            return
        self._add(
            AppointmentUpdate(
                action=AppointmentAction(self._meaning.family),
                patient=patient,
                **numbers,
                step=StepUpdate(
                    modality=self._text("appointment", "modality", self._all) or None,
                    station_aes=tuple(each.text() for each in aes) if aes else None,
                    start_date=found.full_date or None if found is not None else None,
                    start_time=found.time or None if found is not None else None,
                    attributes={"TimezoneOffsetFromUTC": found.offset} if found is not None and found.offset else {},
                ),
                room=self._text("appointment", "room", self._all),
            )
        )

    def _reports(self) -> None:
        patient = self._patient(self._all)
        if patient is None:
            return
        around = Scope(segment for segment in self._message if segment.name not in _ORDER_SEGMENTS)
        for segments in _groups(self._message, _ORDER_STARTS, _ORDER_SEGMENTS):
            scope = Scope(segments, around)
            documents, warnings = documents_of(segments)
            self.mapped.documents += [(len(self.mapped.values), document) for document in documents]
            self.mapped.warnings += warnings
            state = self._text("report", "state", scope) or ReportState.FINAL.value
            self._add(
                ReportUpdate(
                    patient=patient,
                    state=ReportState(state) if state in set(ReportState) else ReportState.FINAL,
                    placer=self._identifier("report", "placer", scope),
                    filler=self._identifier("report", "filler", scope),
                    accession=self._identifier("report", "accession", scope),
                    study_instance_uid=self._text("report", "study_instance_uid", scope),
                )
            )
        if not self.mapped.values:
            self._fault(Condition.SEGMENT_SEQUENCE, "there is no OBR", "OBR", 0)

    # -- rules ----------------------------------------------------------------------------------

    def _raw(self, rule: Rule, scope: Scope) -> list[Value]:
        """The values of the first path that has one."""
        if rule.when is not None:
            path, wanted = rule.when
            if not any(value.text() in wanted for value in path.values(scope)):
                return []
        for path in rule.paths:
            if values := path.values(scope):
                return values
        return []

    def _text(self, section: str, target: str, scope: Scope) -> str:
        rule = self._profile.rules[section].get(target)
        value = self._value(rule, scope) if rule is not None else None
        return value if isinstance(value, str) else ""

    def _identifier(self, section: str, target: str, scope: Scope) -> Identifier | None:
        rule = self._profile.rules[section].get(target)
        values = self._raw(rule, scope) if rule is not None else []
        if not values:
            return None
        if target in ("identifier", "visit"):
            return convert.extended_identifier(values[0])
        return convert.identifier(values[0])

    def _attributes(self, section: str, scope: Scope) -> dict[str, Any]:
        attributes: dict[str, Any] = {}
        fields_of = scope.fields
        for rule in self._profile.attributes[section]:
            for segment, number in rule.places:
                fields = fields_of.get(segment)
                if fields is not None and number < len(fields) and fields[number]:
                    break
            else:
                continue
            value = self._value(rule, scope)
            if type(value) is str and len(value) > rule.length_max:
                value = self._cut(rule.target, value, rule.length_max)
            if value is not None:
                attributes[rule.target] = value
        return attributes

    def _value(self, rule: Rule, scope: Scope) -> Any:
        """The value of an attribute: None if the message says nothing, "" or () if it deletes it."""
        values = self._raw(rule, scope)
        if not values:
            return None
        if convert.is_null(values):
            return () if rule.is_codes else ""
        value = rule.convert(values)
        if value is None:
            self.mapped.warnings.append(f"{rule.target}: {values_source(rule)} cannot be read as {rule.converter}")
        elif rule.lookup is not None and isinstance(value, str):
            looked_up = rule.lookup.get(value, rule.lookup.get("*"))
            if looked_up is None and value:
                self.mapped.warnings.append(f"{rule.target}: the value of {values_source(rule)} is not in the table")
            return looked_up
        return None if value in ("", ()) else value

    def _cut(self, keyword: str, value: str, length: int) -> str:
        if len(value) <= length:
            return value
        self.mapped.warnings.append(f"{keyword}: cut to {length} characters")
        return value[:length]


def values_source(rule: Rule) -> str:
    """The paths of a rule, for a message to people."""
    return " | ".join(map(str, rule.paths))


def _of_status(action: OrderAction, state: StepState | None) -> OrderAction:
    """A change or status that says that all is done (XO_CM, SC_CM) completes the order."""
    if action in (OrderAction.CHANGE, OrderAction.STATUS):
        return {
            StepState.COMPLETED: OrderAction.COMPLETE,
            StepState.CANCELED: OrderAction.CANCEL,
            StepState.DISCONTINUED: OrderAction.DISCONTINUE,
        }.get(state or StepState.SCHEDULED, action)
    return action


_OBSERVATIONS = {
    "29463-7": ("PatientWeight", {"kg": 1.0, "g": 0.001, "lb": 0.45359237, "[lb_av]": 0.45359237}),
    "3141-9": ("PatientWeight", {"kg": 1.0, "g": 0.001, "lb": 0.45359237, "[lb_av]": 0.45359237}),
    "8302-2": ("PatientSize", {"m": 1.0, "cm": 0.01, "mm": 0.001, "in": 0.0254, "[in_i]": 0.0254}),
    "BODY WEIGHT": ("PatientWeight", {"kg": 1.0, "g": 0.001, "lb": 0.45359237}),
    "BODY HEIGHT": ("PatientSize", {"m": 1.0, "cm": 0.01, "mm": 0.001}),
}
"""OBX-3 (LOINC, or IHE's text) → attribute, and factors of units."""


def _observations(scope: Scope) -> dict[str, str]:
    """Weight and height of a patient, in kilograms and metres."""
    found: dict[str, str] = {}
    for segment in scope.all("OBX"):
        name = segment.text(3).upper()
        keyword, factors = _OBSERVATIONS.get(name) or _OBSERVATIONS.get(segment.text(3, 2).upper(), ("", {}))
        factor = factors.get(segment.text(6).lower())
        try:
            number = float(segment.text(5)) * (factor or 0.0)
        except ValueError:
            continue
        if keyword and 0 < number < 1000:
            found[keyword] = f"{number:.5g}"
    return found


def _rank(identifier: Identifier, ranks: dict[str, int]) -> int | None:
    issuer = identifier.issuer
    return ranks.get(issuer.name, ranks.get(issuer.universal_id)) if issuer.name or issuer.universal_id else None


def _groups(message: Message, starts: Sequence[str], members: frozenset[str] | None = None) -> Iterator[list[Segment]]:
    """Segments from each start to the next. ORC and the OBR after it are one start; a repeated OBR keeps its ORC."""
    group: list[Segment] = []
    order: Segment | None = None
    for segment in message:
        if segment.name in starts:
            if segment.name == "OBR" and group and all(each.name != "OBR" for each in group):
                group.append(segment)
                continue
            if group:
                yield group
            if segment.name == "OBR":
                group = [order, segment] if order is not None else [segment]
            else:
                group = [segment]
                order = segment if segment.name == "ORC" else None
        elif group and (members is None or segment.name in members):
            group.append(segment)
    if group:
        yield group
