"""Work: what applying one value reads, changes, and has to tell afterwards."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from engine.errors import UpdateRefused
from engine.orders.names import KEY_BYTES_MAX, id_key
from engine.orders.rows import AnnouncementRow, StoredAttributes, StoredValue
from engine.orders.tables import Tables
from engine.orders.transactions import Writing
from engine.orders.values import (
    Attributes,
    Change,
    ChangeKind,
    Identifier,
    Issuer,
    RefusalReason,
    Source,
    Value,
)

STEP_CREATED, STEP_SET, ORDER_CREATED = "step-created", "step-set", "order-created"
STUDY_AVAILABLE, ORDER_REPORTED = "study-available", "order-reported"
"""Kinds of announcements."""
KINDS_OF: Mapping[str, tuple[str, ...]] = {
    "step": (STEP_CREATED, STEP_SET),
    "order": (ORDER_CREATED,),
    "available": (STUDY_AVAILABLE,),
    "report": (ORDER_REPORTED,),
}
"""The kinds of each event that a rule may be about."""
ANNOUNCEMENTS_MAX = 100_000
"""The most announcements that are kept; the oldest gives way, and whoever has not read it learns that."""

_NOT_IN_KEYS = re.compile(r"[\x00-\x1f\\]")
TEXT_MAX = 10_240
"""Characters of one value: the limit of LT (PS3.5 6.2)."""


class Rules(Protocol):
    """The rules for stations of the configuration in force."""

    @property
    def issuer(self) -> str:
        """The authority of identifiers that come without one; "" for none."""

    @property
    def shows_unassigned(self) -> bool:
        """Whether a step without a station is on the worklist of every one."""

    @property
    def supplies_everybody(self) -> bool:
        """Whether what an order supplies to its studies becomes a correction, which everybody sees."""

    @property
    def announced(self) -> frozenset[str]:
        """The kinds of announcements that somebody wants."""

    def stations(self, modality: str, room: str, source: str) -> tuple[str, ...]:
        """The AE titles that perform such a step."""


class Corrections(Protocol):
    """What the registry tells the archive: the patients of stored studies. Each method may be called again."""

    def agree(self, identifier: Identifier, attributes: Mapping[str, str], source: Source) -> Sequence[str]:
        """Corrects the patient's stored studies where they differ; returns the numbers of the corrections."""

    def merge(
        self, prior: Identifier, survivor: Identifier, source: Source, attributes: Mapping[str, str]
    ) -> Sequence[Change]:
        """Makes the studies of `prior`, also future ones, those of `survivor`; nothing if they are.

        `attributes`: what `agree` will get for the survivor; it may be corrected at once.
        """

    def unmerge(self, prior: Identifier, survivors: Sequence[Identifier], source: Source, reason: str) -> Sequence[str]:
        """Undoes the merge of `prior` into one of the identifiers of `survivors`; nothing if none is in force."""

    def move(self, study_instance_uids: Sequence[str], target: Identifier, source: Source) -> Sequence[str]:
        """Makes these studies, as far as they are stored, those of `target`; nothing if they are."""

    def supply(self, study_instance_uid: str, supply: Callable[[], Supply], source: Source) -> Sequence[str]:
        """Lets a stored study show what it lacks and its orders say, and no longer what they do not say any more.

        `supply` says what they say now: asked under the lock that orders all corrections, so that of several changes at
        once the last one counts.
        """


@dataclass(frozen=True, slots=True)
class Supply:
    """What the orders of a study say that its instances may lack; values as in level blobs."""

    study: Mapping[int, bytes]
    series: Mapping[int, bytes]
    identifiers: tuple[Identifier, ...] = ()
    """Of the patient, also the one that the study has."""


@dataclass(slots=True)
class Work:
    """One value on its way into the registry."""

    writing: Writing
    source: Source
    now: float
    site: bytes
    """The id of the archive: UIDs that are made here depend on it."""
    rules: Rules
    changes: list[Change] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    agreements: list[tuple[Identifier, Mapping[str, str]]] = field(default_factory=list)
    """For `Corrections.agree`, after the commit."""
    merges: list[tuple[Identifier, Identifier]] = field(default_factory=list)
    """For `Corrections.merge`, after the commit."""
    unmerges: list[tuple[Identifier, tuple[Identifier, ...]]] = field(default_factory=list)
    """For `Corrections.unmerge`, after the commit."""
    moves: list[tuple[tuple[str, ...], Identifier]] = field(default_factory=list)
    """For `Corrections.move`, after the commit."""
    supplies: dict[str, None] = field(default_factory=dict)
    """Studies with other links, or other orders, than before: for `Corrections.supply`, after the commit."""

    @property
    def tables(self) -> Tables:
        """The tables."""
        return self.writing.database

    @property
    def said(self) -> float:
        """When the value was said."""
        return self.source.time or self.now

    def changed(self, kind: ChangeKind, key: object, action: str, keywords: Sequence[str] = ()) -> None:
        """Notes a change for the answer."""
        self.changes.append(Change(kind, str(key), action, tuple(keywords)))

    def known_of(self, identifier: Identifier) -> Mapping[str, str]:
        """What `agreements` say of a patient."""
        return next((attributes for each, attributes in reversed(self.agreements) if each == identifier), {})

    def announce(self, kind: str, subject: object, data_set: bytes = b"") -> None:
        """Keeps something to tell other systems, in the same transaction, if somebody wants it."""
        if kind not in self.rules.announced:
            return
        table = self.tables.announcements
        if self.writing.count(table) >= ANNOUNCEMENTS_MAX:
            oldest, _ = next(iter(self.writing.rows_after(table, 0)))
            self.writing.delete(table, id_key(oldest))
        row = AnnouncementRow(kind=kind, subject=str(subject), data_set=data_set, by=self.source.name, time=self.now)
        self.writing.put(table, id_key(self.writing.next_id()), row)

    def warn(self, text: str) -> None:
        """Notes a warning for the answer."""
        if text not in self.warnings:
            self.warnings.append(text)


def refuse(message: str, reason: RefusalReason) -> UpdateRefused:
    """An error to raise."""
    return UpdateRefused(message, reason)


def check_identifier(identifier: Identifier, what: str) -> None:
    """Raises UpdateRefused if this can be nobody's identifier."""
    value = identifier.value
    if not value.strip():
        raise refuse(f"{what} is empty", RefusalReason.INVALID)
    if len(value.encode()) > KEY_BYTES_MAX or _NOT_IN_KEYS.search(value) is not None:
        raise refuse(f"{what} is too long or has control characters", RefusalReason.INVALID)


def is_same_issuer(one: Issuer, other: Issuer) -> bool:
    """Whether both are one authority. A universal id decides where both have one, else the name."""
    if one.universal_id and other.universal_id:
        return one.universal_id == other.universal_id
    return one.name == other.name and (bool(one.name) or not (one.universal_id or other.universal_id))


def is_same(one: Identifier | None, other: Identifier | None) -> bool:
    """Whether both are one identifier."""
    if one is None or other is None:
        return False
    return one.value == other.value and is_same_issuer(one.issuer, other.issuer)


def merged(
    known: StoredAttributes, update: Attributes, keywords: frozenset[str], *, snapshot: bool = False
) -> tuple[StoredAttributes, list[str]]:
    """The attributes after an update, and the keywords that changed. Raises UpdateRefused for an unknown keyword."""
    if not update.keys() <= keywords:
        unknown = min(set(update) - keywords)
        raise refuse(f"{unknown} is nothing that can be said here", RefusalReason.INVALID)
    result = dict(known)
    for keyword, value in update.items():
        stored = _stored(keyword, value)
        if stored in ("", ()):
            result.pop(keyword, None)
        else:
            result[keyword] = stored
    if snapshot:
        for keyword in set(result) - set(update):
            del result[keyword]
    if not known:
        return result, sorted(result)
    changed = [keyword for keyword in sorted({*known, *result}) if known.get(keyword) != result.get(keyword)]
    return result, changed


def _stored(keyword: str, value: Value) -> StoredValue:
    if isinstance(value, str):
        _check_text(keyword, value)
        return value.strip()
    for text in value:
        if isinstance(text, str):
            _check_text(keyword, text)
    return tuple(value)


def _check_text(keyword: str, text: str) -> None:
    if len(text) > TEXT_MAX or "\0" in text or "\x1b" in text:
        raise refuse(f"the value of {keyword} is too long or has control characters", RefusalReason.INVALID)
