"""What a message of another system says, without the form in which it was said (HL7, MPPS, a file, a form).

    message ──► mapping ──► value ──► Orders.apply(value, source) ──► Applied

Attributes are a mapping from DICOM keywords to values. A keyword that is absent says nothing: what is known stays. A
keyword with "" or () deletes what is known. A value is the text as DICOM writes it (a name is Family^Given^Middle^
Prefix^Suffix, a date YYYYMMDD, a time HHMMSS), a tuple of texts, or codes. `PATIENT_KEYWORDS` and the others below say
which keywords a value may have.

Identifiers are text: leading zeros and blanks inside count. The first identifier of a patient is the primary one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who assigned an identifier: a name, a universal id with its type (ISO, DNS, …), or both."""

    name: str = ""
    universal_id: str = ""
    universal_id_type: str = ""

    def __str__(self) -> str:
        return "&".join((self.name, self.universal_id, self.universal_id_type)).rstrip("&")


NOBODY = Issuer()
"""The issuer of an identifier that comes without one."""


@dataclass(frozen=True, slots=True)
class Identifier:
    """An identifier and who assigned it: of a patient, visit, order or accession."""

    value: str
    issuer: Issuer = NOBODY
    type: str = ""
    """HL7 table 0203 (MR, PI, AN, …), as it came; it does not distinguish identifiers."""

    def __str__(self) -> str:
        return f"{self.value}@{self.issuer}" if self.issuer != NOBODY else self.value


@dataclass(frozen=True, slots=True)
class Code:
    """A coded value (PS3.3 8.2)."""

    value: str
    scheme: str = ""
    meaning: str = ""
    version: str = ""


Value = str | tuple[str, ...] | tuple[Code, ...]
"""The value of an attribute. "" and () delete it."""

Attributes = Mapping[str, Value]
"""DICOM keyword → value."""

PATIENT_KEYWORDS = frozenset({
    "PatientName", "PatientBirthDate", "PatientBirthTime", "PatientSex", "PatientSpeciesDescription", "PatientAddress",
    "PatientTelephoneNumbers", "PatientMotherBirthName", "EthnicGroup", "PatientComments", "CountryOfResidence",
    "ConfidentialityConstraintOnPatientDataDescription", "PatientReligiousPreference", "OtherPatientNames",
})  # fmt: skip
"""What a PatientUpdate may say beside identifiers."""

VISIT_KEYWORDS = frozenset({
    "CurrentPatientLocation", "PatientInstitutionResidence", "InstitutionName", "AdmittingDate", "AdmittingTime",
    "DischargeDate", "DischargeTime", "RouteOfAdmissions", "ReferringPhysicianName", "PatientState", "PregnancyStatus",
    "MedicalAlerts", "Allergies", "SpecialNeeds", "PatientWeight", "PatientSize", "VisitComments",
    "AdmittingDiagnosesDescription",
})  # fmt: skip
"""What a VisitUpdate may say beside its identifier and state. Those of the patient's condition belong to the visit."""

ORDER_KEYWORDS = frozenset({
    "ReferringPhysicianName", "RequestingPhysician", "RequestingService", "OrderEnteredBy", "OrderEntererLocation",
    "OrderCallbackPhoneNumber", "IssueDateOfImagingServiceRequest", "IssueTimeOfImagingServiceRequest",
    "ImagingServiceRequestComments", "ReasonForTheImagingServiceRequest", "PatientState", "PregnancyStatus",
    "MedicalAlerts", "Allergies", "SpecialNeeds", "PatientWeight", "PatientSize", "CurrentPatientLocation",
})  # fmt: skip
"""What an OrderUpdate may say beside identifiers."""

PROCEDURE_KEYWORDS = frozenset({
    "RequestedProcedureDescription", "RequestedProcedureCodeSequence", "RequestedProcedurePriority",
    "PatientTransportArrangements", "RequestedProcedureComments", "RequestedProcedureLocation",
    "ReasonForTheRequestedProcedure", "ReasonForRequestedProcedureCodeSequence", "ConfidentialityCode",
    "ReportingPriority", "NamesOfIntendedRecipientsOfResults",
})  # fmt: skip
"""What a ProcedureUpdate may say beside identifiers."""

STEP_KEYWORDS = frozenset({
    "ScheduledPerformingPhysicianName", "ScheduledProcedureStepDescription", "ScheduledProtocolCodeSequence",
    "ScheduledProcedureStepLocation", "ScheduledStationName", "PreMedication", "RequestedContrastAgent",
    "CommentsOnTheScheduledProcedureStep", "ScheduledProcedureStepEndDate", "ScheduledProcedureStepEndTime",
    "TimezoneOffsetFromUTC", "WorklistLabel",
})  # fmt: skip
"""What a StepUpdate may say beside what it has fields for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientUpdate:
    """A patient is as follows (A01, A04, A05, A08, A28, A31, …). Never refused because it is known or unknown.

    The patient is the one with the first identifier that is known. The others become identifiers of the same patient.
    """

    identifiers: tuple[Identifier, ...]
    attributes: Attributes = field(default_factory=dict)
    snapshot: bool = False
    """Whether an absent attribute of PATIENT_KEYWORDS is to be deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientMerge:
    """`prior` was the same person as `survivor` all the time: all it has is `survivor`'s (A40, A18, A34)."""

    survivor: PatientUpdate
    prior: Identifier


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientIdentifierChange:
    """A patient's identifier is another one now, which must be unknown (A47)."""

    prior: Identifier
    current: PatientUpdate


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientIdentifierMove:
    """An identifier, with its visits and studies, belongs to another person than was believed (A43)."""

    identifier: Identifier
    target: PatientUpdate


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientLink:
    """Two identifiers belong to one person, or no longer; nothing moves (A24, A37)."""

    one: Identifier
    other: Identifier
    linked: bool = True


class VisitState(StrEnum):
    """What has become of a visit."""

    EXPECTED = "expected"
    PRESENT = "present"
    DISCHARGED = "discharged"
    CANCELED = "canceled"


@dataclass(frozen=True, slots=True, kw_only=True)
class VisitUpdate:
    """A visit is as follows (A01-A07, A10-A13, A38). `apply` the PatientUpdate of the same message before."""

    patient: tuple[Identifier, ...]
    visit: Identifier | None
    """None: the message names no visit; then it says something of the patient's steps at most (`arrived`)."""
    state: VisitState | None = None
    arrived: bool = False
    """Whether the patient has come to the department (A10): scheduled steps become ARRIVED."""
    attributes: Attributes = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class VisitMove:
    """A visit belongs to another patient than was believed (A45)."""

    visit: Identifier
    prior: Identifier
    target: PatientUpdate


class StepState(StrEnum):
    """Scheduled Procedure Step Status (0040,0020) as DICOM writes it."""

    SCHEDULED = "SCHEDULED"
    ARRIVED = "ARRIVED"
    READY = "READY"
    STARTED = "STARTED"
    DEPARTED = "DEPARTED"
    CANCELED = "CANCELED"
    DISCONTINUED = "DISCONTINUED"
    COMPLETED = "COMPLETED"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepUpdate:
    """One scheduled procedure step (an IPC segment). None says nothing; "" and () delete."""

    scheduled_procedure_step_id: str = ""
    """"": the Requested Procedure ID, with a running number from the second step on."""
    modality: str | None = None
    station_aes: tuple[str, ...] | None = None
    """Who may see it; without one the rules for stations decide."""
    start_date: str | None = None
    start_time: str | None = None
    state: StepState | None = None
    attributes: Attributes = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcedureUpdate:
    """One requested procedure with its steps."""

    requested_procedure_id: str = ""
    """"": the accession number, else the filler's or placer's number."""
    study_instance_uid: str = ""
    """"": made from site, issuer and accession number, always the same."""
    attributes: Attributes = field(default_factory=dict)
    steps: tuple[StepUpdate, ...] = ()


class OrderAction(StrEnum):
    """What a message does to its order (ORC-1)."""

    NEW = "new"
    CHANGE = "change"
    CANCEL = "cancel"
    DISCONTINUE = "discontinue"
    COMPLETE = "complete"
    STATUS = "status"
    """Only the states of the steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderUpdate:
    """An order (ORM, OMG, OMI: one ORC with what follows it). At least one of the three numbers is needed."""

    action: OrderAction
    patient: PatientUpdate
    """Who it is for. Its attributes count only if the patient is unknown: an order may be older than a correction."""
    placer: Identifier | None = None
    filler: Identifier | None = None
    accession: Identifier | None = None
    visit: Identifier | None = None
    attributes: Attributes = field(default_factory=dict)
    procedures: tuple[ProcedureUpdate, ...] = ()
    snapshot: bool = False
    """Whether a known step that the update does not list is canceled."""


class AppointmentAction(StrEnum):
    """What a message does to an appointment (S12, S13 and S14, S15, S26)."""

    BOOK = "book"
    CHANGE = "change"
    CANCEL = "cancel"
    NO_SHOW = "no-show"


@dataclass(frozen=True, slots=True, kw_only=True)
class AppointmentUpdate:
    """An appointment for an order that is known (SIU). It makes no order."""

    action: AppointmentAction
    patient: PatientUpdate
    placer: Identifier | None = None
    filler: Identifier | None = None
    accession: Identifier | None = None
    step: StepUpdate = StepUpdate()
    """The new date, time, stations; without an id all open steps of the order."""
    room: str = ""
    """A resource of the department; rules for stations make AE titles of it."""


class ReportState(StrEnum):
    """What a report says of itself (OBR-25)."""

    PRELIMINARY = "preliminary"
    FINAL = "final"
    CORRECTED = "corrected"
    CANCELED = "canceled"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportUpdate:
    """An order has a report (ORU). The document itself is stored through the archive's ingest."""

    patient: PatientUpdate
    state: ReportState
    placer: Identifier | None = None
    filler: Identifier | None = None
    accession: Identifier | None = None
    study_instance_uid: str = ""
    sop_instance_uid: str = ""
    """Of the stored document; "" if there is none."""


Update = (
    PatientUpdate
    | PatientMerge
    | PatientIdentifierChange
    | PatientIdentifierMove
    | PatientLink
    | VisitUpdate
    | VisitMove
    | OrderUpdate
    | AppointmentUpdate
    | ReportUpdate
)
"""Everything that `Orders.apply` takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a value comes from."""

    name: str
    """Of the [[hl7.source]], of the peer, or of the user."""
    reference: str = ""
    """What finds the message again: its place in the journal, a SOP Instance UID, a file."""
    time: float = 0.0
    """When it happened (EVN-2, MSH-7), in seconds since 1970; 0: now."""
    sender: str = ""
    """What the message says of its sender (MSH-3, MSH-4), if no table of the configuration names it."""

    @property
    def who(self) -> str:
        """For people: what a message only says of itself is marked, or it could name one of them."""
        return f"hl7:{self.sender}" if self.sender else self.name


class ChangeKind(StrEnum):
    """What a value changed."""

    PATIENT = "patient"
    VISIT = "visit"
    ORDER = "order"
    STEP = "step"
    LINK = "link"
    CORRECTION = "correction"
    """Of stored studies, in the archive's ledger."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that a value changed. It names no value of a patient."""

    kind: ChangeKind
    key: str
    """Which one; an internal number or a UID."""
    action: str
    """created, changed, canceled, merged, moved, linked, …"""
    keywords: tuple[str, ...] = ()
    """What has another value now."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What applying a value did. Nothing changed: it was known already."""

    changes: tuple[Change, ...] = ()
    warnings: tuple[str, ...] = ()
    """For people; they name attributes, never their values."""


class RefusalReason(StrEnum):
    """Why a value was not applied. HL7 answers with the codes of its table 0357."""

    UNKNOWN_KEY = "unknown-key"
    """It names something that does not exist, and must (204)."""
    DUPLICATE_KEY = "duplicate-key"
    """It names something that exists already, and must not (205)."""
    CONFLICT = "conflict"
    """It contradicts what is known; a person has to decide (205)."""
    INVALID = "invalid"
    """It cannot mean anything (103)."""
