"""The JSON bodies of requests to the API. Unknown fields are refused."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

UID = Annotated[str, Meta(pattern=r"^[!-~]{1,128}$")]
"""Some writers use longer ones than PS3.5 9.1 allows; none has spaces."""
Uids = Annotated[tuple[UID, ...], Meta(min_length=1, max_length=10_000)]
Reason = Annotated[str, Meta(max_length=1000)]
PatientText = Annotated[str, Meta(min_length=1, max_length=200)]
"""ID or ID^^^ISSUER."""
Name = Annotated[str, Meta(max_length=64)]
Value = Annotated[str, Meta(max_length=10_240)]
Values = Annotated[dict[Name, Value], Meta(max_length=100)]
"""Keyword or eight digits → value; "": no value."""


class ReasonBody(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The reason for an action, for the audit log."""

    reason: Reason = ""


class Hold(ReasonBody, frozen=True, kw_only=True):
    """Studies to hold."""

    studies: Uids
    in_advance: bool = False
    """Whether studies that are not stored may be held."""


class Release(ReasonBody, frozen=True, kw_only=True):
    """Studies whose holds end."""

    studies: Uids


class Restore(ReasonBody, frozen=True, kw_only=True):
    """What to restore of an entry in the trash."""

    series: UID | None = None
    """Only this series."""


class EmptyTrash(ReasonBody, frozen=True, kw_only=True):
    """Entries of the trash to delete for good: those named, or with `everything` all."""

    entries: Annotated[tuple[Name, ...], Meta(max_length=1000)] = ()
    everything: bool = False


class CorrectPatient(ReasonBody, frozen=True, kw_only=True, tag_field="operation", tag="correct_patient"):
    """Attributes of a patient."""

    patient: PatientText
    sets: Values


class CorrectStudy(ReasonBody, frozen=True, kw_only=True, tag_field="operation", tag="correct_study"):
    """Attributes of a study, and those of its patient for this study alone."""

    study: UID
    sets: Values


class CorrectSeries(ReasonBody, frozen=True, kw_only=True, tag_field="operation", tag="correct_series"):
    """Attributes of a series; with the study if the series UID occurs in two."""

    series: UID
    study: UID | None = None
    sets: Values


class Merge(ReasonBody, frozen=True, kw_only=True, tag_field="operation", tag="merge"):
    """All studies of one patient become another one's."""

    patient: PatientText
    into: PatientText
    in_advance: bool = False


class Move(ReasonBody, frozen=True, kw_only=True, tag_field="operation", tag="move"):
    """Studies become another patient's."""

    studies: Uids
    into: PatientText


class Split(ReasonBody, frozen=True, kw_only=True, tag_field="operation", tag="split"):
    """Studies become a new patient's."""

    studies: Uids
    new: PatientText
    sets: Values = {}


Correction = CorrectPatient | CorrectStudy | CorrectSeries | Merge | Move | Split


class SendJob(ReasonBody, frozen=True, kw_only=True, tag_field="kind", tag="send"):
    """Instances to send to a peer."""

    peer: Annotated[str, Meta(min_length=1, max_length=64)]
    studies: Annotated[tuple[UID, ...], Meta(max_length=10_000)] = ()
    series: Annotated[tuple[UID, ...], Meta(max_length=10_000)] = ()
    instances: Annotated[tuple[UID, ...], Meta(max_length=10_000)] = ()


class PullJob(ReasonBody, frozen=True, kw_only=True, tag_field="kind", tag="pull"):
    """Studies to pull from a peer: by UID, or all that match."""

    peer: Annotated[str, Meta(min_length=1, max_length=64)]
    studies: Annotated[tuple[UID, ...], Meta(max_length=10_000)] = ()
    filters: Values = {}
    limit: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    again: bool = False
    """Whether instances that are already stored are pulled again."""


Job = SendJob | PullJob


class ManyJobs(ReasonBody, frozen=True, kw_only=True):
    """Jobs to cancel or to retry: these, or all in one state."""

    ids: Annotated[tuple[Name, ...], Meta(max_length=10_000)] = ()
    state: Name = ""


class Identifiers(ReasonBody, frozen=True, kw_only=True):
    """Some items of a list; none: all of them."""

    ids: Annotated[tuple[Name, ...], Meta(max_length=10_000)] = ()


class PeerTable(ReasonBody, frozen=True, kw_only=True, omit_defaults=True):
    """A managed peer: the keys of a [[peer]], but those that name files or users. `config.managed_peers` checks it."""

    host: Annotated[str, Meta(max_length=253)] = ""
    port: int = 0
    url: Annotated[str, Meta(max_length=4096)] = ""
    may: Annotated[tuple[Name, ...], Meta(max_length=10)] | None = None
    destinations: Annotated[tuple[Name, ...], Meta(max_length=1000)] | None = None
    transfer_syntaxes: Annotated[tuple[Name, ...], Meta(max_length=100)] = ()
    prefer_compressed: bool = False
    supply: bool = False
    accept_truncated: bool = False
    durability: Name | None = None
    duplicates: Name | None = None
    query_options: Annotated[tuple[Name, ...], Meta(max_length=10)] | None = None
    pdu_length_max: int | None = None
    store_associations: int = 1
    asynchronous_window: int | None = None
    timeout_s: float | None = None
    delivery_rate_bytes_per_s_min: int | None = None
    associations_max: int | None = None
    associations_per_address_max: int | None = None
    bandwidth_bytes_per_s_max: int | None = None
    query_results_max: int | None = None
    query_timeout_s: float | None = None
