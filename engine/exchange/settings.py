"""The [[route]] and [[rule]] tables: what is sent on when it has arrived, and which other systems are told of it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from engine.setting import AETitle, Name

After = Literal["stored", "series_quiet", "study_quiet", "study_complete"]


class Route(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A rule that sends on what has arrived, by a job for each peer, while HTTP is enabled.

    A peer gets nothing that only it has sent, and nothing that its role may not see."""

    name: Name
    """Its name here. Its position in the feed is stored under this name: a new name begins with new events."""

    peers: Annotated[tuple[AETitle, ...], Meta(min_length=1, max_length=64)]
    """The [[peer]] tables of the receivers, by DICOM or DICOMweb."""

    after: After = "series_quiet"
    """When to send: stored, each instance within seconds; series_quiet, the series, and study_quiet and study_complete,
    the study, after the times of the [feed] table without a new instance. After late instances all is sent again."""

    keys: Annotated[dict[str, str], Meta(max_length=32)] = {}
    """What it must match, as in a C-FIND at the level of the instance, series or study: keyword or tag and value, for
    example { Modality = "CT", StationName = "ER*" }; empty: anything."""

    senders: tuple[AETitle, ...] = ()
    """Only what has an instance that one of these AE titles has sent; empty: anybody."""


MessageKind = Annotated[
    str, Meta(pattern=r"^[A-Z0-9]{3}(\^[A-Z0-9]{3})?$", description="a kind of message, as ADT or ADT^A08")
]
RuleAction = Literal["ian", "hl7", "mpps", "prefetch", "pull", "workitem", "forward"]
RuleEvent = Literal[
    "study_quiet", "study_complete", "study_reopened", "deleted", "step", "order", "report", "available", "message"
]

_EVENTS: dict[str, frozenset[str]] = {
    "ian": frozenset(("study_quiet", "study_complete", "deleted")),
    "hl7": frozenset(("study_quiet", "study_complete")),
    "mpps": frozenset(("step",)),
    "pull": frozenset(("available",)),
    "prefetch": frozenset(("order", "study_quiet")),
    "forward": frozenset(("message",)),
    "workitem": frozenset(("study_quiet", "study_complete", "study_reopened", "order", "step", "report")),
}
"""The events of each action."""


class Rule(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A rule that tells other systems what has happened here, in order, while HTTP is enabled.

    Each receiver has its own position and its own failures: see `filmroom rules list`."""

    name: Name
    """Its name here. Its positions are stored under this name: a new name begins with new events."""

    after: RuleEvent
    """When: study_quiet and study_complete, after the times of the [feed] table without a new instance, and again after
    late instances; study_reopened, when an instance comes after that; deleted, when instances go to the trash; step,
    when a modality reports a performed step, for workitem when it has completed one; order, when there is a new order;
    report, when the report of an order is final or corrected (ORU); available, when another archive notifies
    us that it has instances (PS3.4 R); message, when an HL7 message has come and was applied."""

    action: RuleAction
    """What to do. ian: an Instance Availability Notification (PS3.4 R), for all instances of the study, or UNAVAILABLE
    for those that were deleted; hl7: a message that the study is here; mpps: forward a performed step, in order;
    prefetch: a job pulls priors of the patient; pull: a job pulls the announced study; workitem: a workitem (UPS)
    for the study, the order or the step; forward: a received HL7 message is passed on, never to who has sent it."""

    to: Annotated[tuple[str, ...], Meta(min_length=1, max_length=64)]
    """The receivers: AE titles of [[peer]] tables for ian and mpps, those that are asked for
    prefetch, those whose notifications count for pull, names of [[hl7_destination]] tables for hl7 and forward,
    and of [[workitem]] tables for workitem."""

    keys: Annotated[dict[str, str], Meta(max_length=32)] = {}
    """What a study must match, as in a [[route]]; deletions, steps and orders are not matched."""

    senders: tuple[AETitle, ...] = ()
    """Only studies with an instance that one of these AE titles has sent, or steps that it has reported; empty:
    anybody's. A step is never sent back to who has reported it."""

    message: Literal["ORM^O01", "ORU^R01"] = "ORM^O01"
    """For hl7. ORM^O01: the order is done (ORC-1 SC, ORC-5 CM); ORU^R01: the images are a result (OBR-25 R)."""

    kinds: Annotated[tuple[MessageKind, ...], Meta(max_length=64)] = ()
    """For forward: kinds of messages (MSH-9), as ADT or ADT^A08; empty: all."""

    sources: Annotated[tuple[str, ...], Meta(max_length=64)] = ()
    """For forward: names of [[hl7_source]] tables; empty: messages of all senders."""

    sender: Literal["original", "own"] = "original"
    """For forward. original: every byte as it came; own: MSH-3 to 6 and MSH-10 are ours, as in messages of our own."""

    repeats_max: Annotated[int, Meta(ge=0, le=10_000)] = 5
    """For forward: so many messages of one content (kind and all segments but MSH) are passed on within an hour. A
    further one goes round in a circle of systems: it is set aside until `filmroom rules resend`, whatever the policy;
    0: any number."""

    priors_max: Annotated[int, Meta(ge=1, le=1000)] = 3
    """For prefetch: the most studies, the newest first."""

    priors_days: Annotated[int, Meta(ge=1, le=36_500)] = 1825
    """For prefetch: how old a study may be; five years."""

    priors_same_modality: bool = True
    """For prefetch: only studies that have a modality of the order or the study."""

    policy: Literal["wait", "skip", "park"] = "wait"
    """What happens after attempts_max failures in a row. wait: it is tried for ever, and all that follows waits; skip:
    it is set aside until `filmroom rules resend`; park: nothing is sent until `filmroom rules resume`."""

    attempts_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 10
    """Failed attempts in a row before skip or park."""

    retry_s: Annotated[float, Meta(gt=0, le=3600)] = 5.0
    """Seconds from a failed attempt to the next; twice as long after each further one."""

    retry_s_max: Annotated[float, Meta(gt=0, le=86_400)] = 600.0
    """The longest pause between two attempts."""

    def __post_init__(self) -> None:
        if self.after not in _EVENTS[self.action]:
            events = ", ".join(sorted(_EVENTS[self.action]))
            raise ValueError(f"the [[rule]] {self.name}: {self.action} is possible after {events}")
        if self.action != "forward" and (
            self.kinds or self.sources or self.sender != "original" or self.repeats_max != 5
        ):
            raise ValueError(f"the [[rule]] {self.name}: kinds, sources, sender and repeats_max are for forward")
        if self.action == "forward" and (self.keys or self.senders):
            raise ValueError(f"the [[rule]] {self.name}: messages are chosen by kinds and sources")
