"""The settings of worklists: which steps they show, the rules and quirks of stations, and templates of workitems."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from engine.setting import AETitle, Name

State = Literal["SCHEDULED", "ARRIVED", "READY", "STARTED", "DEPARTED", "CANCELED", "DISCONTINUED", "COMPLETED"]


class Worklist(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Modality worklists and performed procedure steps (MPPS)."""

    hide: tuple[State, ...] = ("STARTED", "DEPARTED", "CANCELED", "DISCONTINUED", "COMPLETED")
    """Scheduled steps in these states are on no worklist, unless a query asks for the state. A started step is hidden,
    so that nobody performs it twice."""

    unassigned: Literal["hide", "show"] = "hide"
    """Whether a step without any station, also by the rules of [[station]], is on the worklist of every station that
    asks for its own title. Queries without a station find it in either case."""

    limit: Annotated[int, Meta(ge=0, le=1_000_000)] = 2000
    """Entries in one answer; more of them end it with A700. 0: no limit. A modality that receives thousands may run out
    of memory."""

    issuer: str = ""
    """The name of the authority whose patient identifiers come without one, in messages and in instances."""

    arrival: Literal["keep", "complete"] = "complete"
    """What becomes of a step without MPPS when its study is complete (`[feed] study_complete_s`). complete: it is
    COMPLETED, and leaves the list: many modalities report nothing. keep: it stays as it is."""

    supply: Literal["corrections", "chosen"] = "corrections"
    """Who sees what a study lacks and its linked orders say (accession number, request attributes, other patient IDs).
    corrections: everybody, by a correction of the study. chosen: nothing is corrected; each [[peer]] with supply =
    true, and QIDO-RS with http.supply. What was corrected before is undone when a link or an order of the study
    changes."""

    workitems_kept_h: Annotated[float, Meta(ge=0, le=1_000_000)] = 24.0
    """Hours for which a workitem (UPS) is kept after it was completed or canceled; longer, while a subscriber has a
    deletion lock on it."""

    strict: bool = False
    """Whether an MPPS must have every attribute that PS3.4 F.7.2 demands; a [[station]] may say otherwise. Off: what is
    missing is logged, since many modalities leave out what they do not know."""


class Station(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A station that performs steps: what is for it, and what is peculiar to it."""

    aet: AETitle
    """Its AE title, as it asks for its worklist."""

    modality: tuple[str, ...] = ()
    """A step without a station is for it if it has one of these modalities; none: any."""

    rooms: tuple[str, ...] = ()
    """And is in one of these rooms or locations; none: any."""

    sources: tuple[str, ...] = ()
    """And comes from one of these systems; none: any."""

    department: str = ""
    """Its department, for roles whose `studies` ask for one: its steps are of this department too."""

    institution: str = ""
    """Its institution, for the same."""

    takes_unassigned: bool = True
    """Whether steps without a station are for it at all, by the three settings above."""

    own_only: bool = False
    """Whether a query without a station counts as one for `aet`: for ultrasound units and C-arms that ask for
    everything."""

    character_set: str = ""
    """The Specific Character Set of its answers, as "ISO_IR 100", whatever it asks for; what the set lacks is replaced
    by a question mark. Empty: that of the query."""

    limit: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    """Entries in one answer; unset: as in [worklist]."""

    strict: bool | None = None
    """Whether its MPPS must be complete; unset: as in [worklist]."""


_Label = Annotated[str, Meta(pattern=r"^[^\\\x00-\x1f]{1,64}$", description="a text of 1 to 64 characters")]
# The empty text is in the pattern: as a literal beside it, the configuration cannot be handed to another process.
_AnyLabel = Annotated[str, Meta(pattern=r"^[^\\\x00-\x1f]{0,64}$", description="a text of up to 64 characters")]
_Code = Annotated[
    str,
    Meta(
        pattern=r"^([^^\\\x00-\x1f]{1,16}(\^[^^\\\x00-\x1f]{0,16}(\^[^\\\x00-\x1f]{0,64})?)?)?$",
        description="CODE, or CODE^SCHEME^MEANING",
    ),
]
"""A code as HL7 writes it, or none; without a scheme it is the site's own (99LOCAL)."""


class WorkitemTemplate(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The workitem (UPS) that a [[rule]] with the action workitem makes."""

    name: Name
    """Its name, for `to` of the rule."""

    label: _Label
    """Procedure Step Label: what is to be done, for people."""

    worklist: _AnyLabel = ""
    """Worklist Label: the list that a performer asks for; empty: DEFAULT."""

    priority: Literal["HIGH", "MEDIUM", "LOW"] = "MEDIUM"
    """Its priority."""

    code: _Code = ""
    """What is to be done, as a code: CODE^SCHEME^MEANING, for example "110005^DCM^Interpretation"."""

    station: _Code = ""
    """The station that shall perform it (Scheduled Station Name Code)."""

    station_class: _Code = ""
    """The kind of station."""

    location: _Code = ""
    """Where it shall be performed."""

    delay_s: Annotated[float, Meta(ge=0, le=31_536_000)] = 0.0
    """Seconds from the event to its scheduled start."""

    parameters: Annotated[dict[str, str], Meta(max_length=32)] = {}
    """Scheduled Processing Parameters, each as a text: name and value, for example { threshold = "0.5" }."""
