"""The bodies that the API takes. What is not named here is refused."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

UID = Annotated[str, Meta(pattern=r"^[!-~]{1,128}$")]
"""Some writers' are longer than PS3.5 9.1 allows; none has blanks."""
Uids = Annotated[tuple[UID, ...], Meta(min_length=1, max_length=10_000)]
Reason = Annotated[str, Meta(max_length=1000)]
PatientText = Annotated[str, Meta(min_length=1, max_length=200)]
"""ID or ID^^^ISSUER."""
Name = Annotated[str, Meta(max_length=64)]
Value = Annotated[str, Meta(max_length=10_240)]
Values = Annotated[dict[Name, Value], Meta(max_length=100)]
"""Keyword or eight digits → value; "" is no value."""


class Given(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A reason for what is done, for whoever reads of it later."""

    reason: Reason = ""


class Hold(Given, frozen=True, kw_only=True):
    """Studies to be held."""

    studies: Uids
    in_advance: bool = False
    """Whether a study may be held that is not here."""


class Release(Given, frozen=True, kw_only=True):
    """Studies whose holds end."""

    studies: Uids


class CorrectPatient(Given, frozen=True, kw_only=True, tag_field="operation", tag="correct_patient"):
    """Attributes of a patient."""

    patient: PatientText
    sets: Values


class CorrectStudy(Given, frozen=True, kw_only=True, tag_field="operation", tag="correct_study"):
    """Attributes of a study, those of its patient for this study alone."""

    study: UID
    sets: Values


class CorrectSeries(Given, frozen=True, kw_only=True, tag_field="operation", tag="correct_series"):
    """Attributes of a series; the study where its UID occurs in two."""

    series: UID
    study: UID | None = None
    sets: Values


class Merge(Given, frozen=True, kw_only=True, tag_field="operation", tag="merge"):
    """All studies of one patient become another one's."""

    patient: PatientText
    into: PatientText
    in_advance: bool = False


class Move(Given, frozen=True, kw_only=True, tag_field="operation", tag="move"):
    """Studies become another patient's."""

    studies: Uids
    into: PatientText


class Split(Given, frozen=True, kw_only=True, tag_field="operation", tag="split"):
    """Studies become a new patient's."""

    studies: Uids
    new: PatientText
    sets: Values = {}


Correction = CorrectPatient | CorrectStudy | CorrectSeries | Merge | Move | Split


class SendJob(Given, frozen=True, kw_only=True, tag_field="kind", tag="send"):
    """Instances to be sent to a peer."""

    peer: Annotated[str, Meta(min_length=1, max_length=64)]
    studies: Annotated[tuple[UID, ...], Meta(max_length=10_000)] = ()
    series: Annotated[tuple[UID, ...], Meta(max_length=10_000)] = ()
    instances: Annotated[tuple[UID, ...], Meta(max_length=10_000)] = ()


class PullJob(Given, frozen=True, kw_only=True, tag_field="kind", tag="pull"):
    """Studies to be brought from a peer: by UID, or all that match."""

    peer: Annotated[str, Meta(min_length=1, max_length=64)]
    studies: Annotated[tuple[UID, ...], Meta(max_length=10_000)] = ()
    filters: Values = {}
    limit: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    again: bool = False
    """Also what is here."""


Job = SendJob | PullJob
