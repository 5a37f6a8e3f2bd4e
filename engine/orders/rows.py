"""The rows of the registry, as values. They are stored as MessagePack; a reader ignores fields that it does not know.

An id is a number that the registry gives; 0 is none. Times are seconds since 1970.
"""

from __future__ import annotations

from msgspec import Struct, field

from engine.orders.values import Code, Identifier, StepState

StoredValue = str | tuple[str | Code, ...]
"""A `values.Value` as it is stored."""

StoredAttributes = dict[str, StoredValue]


class PatientRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A person, as the hospital knows them."""

    identifiers: tuple[Identifier, ...]
    """The primary one first; none after a merge into another patient."""
    attributes: StoredAttributes = field(default_factory=dict)
    absorbed: tuple[Identifier, ...] = ()
    """Of the identifiers, those that are no longer given to anybody: they came by a merge or a change."""
    is_registered: bool = False
    """Whether a message about the patient said this; else it came with an order, and corrects no stored study."""
    merged_into: int = 0
    """The patient that it is now."""
    links: tuple[int, ...] = ()
    """Patients who are the same person by a link (A24)."""
    updated: float = 0.0
    """When the newest message about it was made."""


class MergeRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A merge of two patients."""

    prior: Identifier
    survivor: Identifier
    """As the message named them."""
    into: int
    """The surviving patient."""
    gone: int = 0
    """The other patient; 0: nobody knew it."""
    identifiers: tuple[Identifier, ...] = ()
    absorbed: tuple[Identifier, ...] = ()
    """Of the other patient, before the merge."""
    orders: tuple[int, ...] = ()
    visits: tuple[bytes, ...] = ()
    """What moved."""
    by: str = ""
    references: tuple[str, ...] = ()
    """The messages that said it."""
    time: float = 0.0
    undone_by: str = ""
    undone: float = 0.0
    reason: str = ""
    """Why it was undone."""


class VisitRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A visit, or an admission."""

    visit: Identifier
    patient: int
    state: str = ""
    """A `VisitState`."""
    attributes: StoredAttributes = field(default_factory=dict)


class ProcedureRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A requested procedure of an order."""

    requested_procedure_id: str
    study_instance_uid: str
    attributes: StoredAttributes = field(default_factory=dict)


class OrderRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An order (imaging service request) with its requested procedures."""

    patient: int
    placer: Identifier | None = None
    filler: Identifier | None = None
    accession: Identifier | None = None
    visit: Identifier | None = None
    attributes: StoredAttributes = field(default_factory=dict)
    procedures: tuple[ProcedureRow, ...] = ()
    final: str = ""
    """canceled, discontinued or completed; a later message does not open it again."""
    report: str = ""
    """The newest `ReportState`."""
    created: float = 0.0


class StepRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A scheduled procedure step. It holds nothing of the patient, who may be merged or corrected."""

    order: int
    requested_procedure_id: str
    scheduled_procedure_step_id: str
    modality: str = ""
    station_aes: tuple[str, ...] = ()
    """From the message."""
    ruled_aes: tuple[str, ...] = ()
    """By the rules for stations; they count while the message names none."""
    start_date: str = ""
    start_time: str = ""
    room: str = ""
    state: StepState = StepState.SCHEDULED
    is_unbooked: bool = False
    """Whether its appointment was canceled and no other one made: it is on no worklist."""
    attributes: StoredAttributes = field(default_factory=dict)
    performed: tuple[str, ...] = ()
    """SOP Instance UIDs of the performed steps that name it."""
    source: str = ""
    """The system that sent it, for the rules."""

    @property
    def aes(self) -> tuple[str, ...]:
        """The AE titles whose worklists show it."""
        return self.station_aes or self.ruled_aes


class PerformedRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A modality performed procedure step (MPPS)."""

    status: str
    data_set: bytes
    """Its attributes in Explicit VR Little Endian."""
    created: bytes = b""
    """SHA-256 of the N-CREATE's attributes, by which its repetition is recognized."""
    calling_ae: str = ""
    steps: tuple[int, ...] = ()
    """The scheduled steps that it performs; none: it is unscheduled, or its order is unknown."""
    study_instance_uids: tuple[str, ...] = ()
    time: float = 0.0


class LinkRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A stored study fulfils an order. An order has any number of studies, and a study any number of orders."""

    study_instance_uid: str
    order: int
    rule: str
    """study-uid, accession, request-attributes, mpps; or by-hand."""
    by: str = ""
    time: float = 0.0
    is_undone: bool = False
    """No rule makes it again."""


class ConflictRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A study that names an order of another patient: a person has to decide."""

    study_instance_uid: str
    order: int
    reason: str
    time: float = 0.0


class AnnouncementRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What other systems are to be told of. Its key is an id: a later one has a greater one."""

    kind: str
    """One of `work`."""
    subject: str
    """The UID of a performed step or a study, or the id of an order."""
    data_set: bytes = b""
    """Attributes in Explicit VR Little Endian."""
    by: str = ""
    """Who said it."""
    time: float = 0.0


class AskedRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The last query of an application entity for its worklist; not part of the log."""

    keys: tuple[tuple[str, str], ...]
    """Names and values of the keys that restrict the answer."""
    matches: int
    time: float
    host: str = ""
    status: str = ""


class HistoryRow(Struct, frozen=True, array_like=True):
    """Something that happened to a workitem."""

    time: float
    action: str
    """created, set, canceling, or the state that it entered."""
    by: str
    """Who did it: an AE title, a user, a rule."""
    text: str = ""
    """The reason, if one was given."""


class WorkitemRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A unified procedure step (UPS, PS3.4 CC)."""

    state: str
    """A `workitems.rules.State`."""
    data_set: bytes
    """Its attributes in Explicit VR Little Endian, without the Transaction UID."""
    transaction_uid: str = ""
    """The lock of whoever performs it."""
    patient: int = 0
    """The patient that its Patient ID names; 0: nobody who is known."""
    creator: str = ""
    created: float = 0.0
    ended: float = 0.0
    """When its state became final; 0: it is not."""
    history: tuple[HistoryRow, ...] = ()
    """What happened to it, the oldest first; `set` once for those in a row."""


class SubscriberRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An application entity that gets events of workitems."""

    mode: str = ""
    """What new workitems mean to it: a `workitems.subscriptions.Mode`; "": nothing."""
    keys: bytes = b""
    """The keys that new workitems must meet, as a data set; none: all do."""
    owner: str = ""
    """Who may receive its events over HTTP: the actor that subscribed; "": whoever may see all workitems."""
    first: int = 1
    """The number of its oldest event that waits."""
    next: int = 1
    """The number of its next event."""
    lost: int = 0
    """Events that were dropped, since too many waited."""
    waiting_bytes: int = 0
    """Of what the events say that wait."""


class SubscriptionRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An application entity gets the events of one workitem."""

    has_lock: bool = False
    """Whether the workitem is kept until it unsubscribes."""


class EventRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event that waits for its receiver."""

    uid: str
    """The workitem."""
    type: int
    """Event Type ID (PS3.4 Table CC.2.4-1)."""
    data_set: bytes
    """Its information in Explicit VR Little Endian."""
    time: float = 0.0


class ChannelRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An open connection to a subscriber, to which its events go; not part of the log."""

    token: str
    until: float
    """When it counts as broken, if it does not say before that it is open."""
