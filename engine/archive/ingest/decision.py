"""Decides what happens to an instance whose SOP Instance UID is known. PS3.4 leaves this to the archive.

    the same bytes are stored            the data set   policy         other facts            decision
    perhaps: length and checksum agree   any            any                                   CONFIRM: compare the bytes
    yes                                  any            any                                   ACKNOWLEDGE
    yes, and they are damaged            any            any                                   APPEND, flag HEAL
    no                                   ends early     any                                   APPEND, keep-first
    no                                   whole          not replace    contents not compared  COMPARE the contents
    no                                   whole          not replace    the same content       ACKNOWLEDGE
    no                                   whole          keep-first     current one not seen   INSPECT the current one
    no                                   whole          keep-first     that one ends early    APPEND, keep-both-versions
    no                                   whole          keep-first     that one is whole      APPEND, keep-first
    no                                   whole          keep-both                             APPEND, keep-both-versions
    no                                   whole          replace                               APPEND, replace

    APPEND with replace                  is a version on legal hold? CHECK_HOLD; if so, keep-both-versions
    APPEND otherwise, without HEAL       have as many versions been kept aside as may be? COUNT; if so, REFUSE

keep-first           the stored one stays current, the new one is kept aside
replace              the new one becomes current, the space of the old one may be reclaimed
keep-both-versions   the new one becomes current, the old one is kept aside

The record's flags carry the decision. The index writer applies it in the order of the stamps, so a rebuild gives the
same result, and eight senders of one UID at once leave one current instance. HEAL means that a record replaces a stored
copy of the same bytes, whatever the policy. A whole instance replaces one that ends early, also under keep-first; the
latter is kept aside.

CONFIRM, COMPARE, INSPECT, CHECK_HOLD and COUNT name a missing fact: find it, fill it in and call `decide` again
(`resolver` does).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from engine.index.format.entry import HEAL, POLICY_KEEP_BOTH, POLICY_KEEP_FIRST, POLICY_MASK, POLICY_REPLACE


class Copy(Enum):
    """The stored copy of the same bytes: the current instance, or one kept aside."""

    NONE = auto()
    CLAIMED = auto()
    """A record of the same transfer syntax, length and checksum, whose bytes have not been compared."""
    SOUND = auto()
    DAMAGED = auto()


class Step(Enum):
    """The next step."""

    ACKNOWLEDGE = auto()
    """It is stored already."""
    APPEND = auto()
    REFUSE = auto()
    """Too many versions of this UID are kept aside."""
    CONFIRM = auto()
    """Read the stored copy: `Facts.copy`."""
    COMPARE = auto()
    """Compare the contents of the stored versions: `Facts.has_same_content`."""
    INSPECT = auto()
    """Look whether the current instance ends early: `Facts.is_current_cut`."""
    CHECK_HOLD = auto()
    """`Facts.is_held`."""
    COUNT = auto()
    """`Facts.has_room`."""


class Decision(NamedTuple):
    """The next step; with APPEND, the flags of the record."""

    step: Step
    flags: int = 0


@dataclass(slots=True)
class Facts:
    """The facts about an instance and the records under its UID; None: not looked up yet."""

    policy: int
    is_cut: bool
    """Whether its data set ends early."""
    copy: Copy
    has_same_content: bool | None = None
    """Whether a stored version has the same content in other bytes."""
    is_current_cut: bool | None = None
    is_held: bool | None = None
    """Whether a study of a stored version is on legal hold."""
    has_room: bool | None = None
    """Whether one more version may be kept aside."""


def decide(facts: Facts) -> Decision:
    """The decision on the instance, or the fact that it needs."""
    policy = facts.policy & POLICY_MASK
    if facts.copy is Copy.CLAIMED:
        return Decision(Step.CONFIRM)
    if facts.copy is Copy.SOUND:
        return Decision(Step.ACKNOWLEDGE)
    if facts.copy is Copy.DAMAGED:
        return _append(facts, policy | HEAL)
    if facts.is_cut:
        return _append(facts, POLICY_KEEP_FIRST)
    if policy == POLICY_REPLACE:
        return _append(facts, policy)
    if facts.has_same_content is None:
        return Decision(Step.COMPARE)
    if facts.has_same_content:
        return Decision(Step.ACKNOWLEDGE)
    if policy == POLICY_KEEP_FIRST:
        if facts.is_current_cut is None:
            return Decision(Step.INSPECT)
        if facts.is_current_cut:
            return _append(facts, POLICY_KEEP_BOTH)
    return _append(facts, policy)


def _append(facts: Facts, flags: int) -> Decision:
    if flags & POLICY_MASK == POLICY_REPLACE:
        if facts.is_held is None:
            return Decision(Step.CHECK_HOLD)
        if not facts.is_held:
            return Decision(Step.APPEND, flags)
        flags = flags & ~POLICY_MASK | POLICY_KEEP_BOTH
    if flags & HEAL:
        return Decision(Step.APPEND, flags)
    if facts.has_room is None:
        return Decision(Step.COUNT)
    return Decision(Step.APPEND if facts.has_room else Step.REFUSE, flags)
