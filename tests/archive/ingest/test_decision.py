"""archive.ingest.decision: what happens to an instance whose SOP Instance UID is known, row by row."""

from __future__ import annotations

import itertools
from dataclasses import fields

import pytest

from engine.archive.ingest.decision import Copy, Decision, Facts, Step, decide
from engine.index.format.entry import HEAL, POLICY_KEEP_BOTH, POLICY_KEEP_FIRST, POLICY_REPLACE

FIRST, REPLACE, BOTH = POLICY_KEEP_FIRST, POLICY_REPLACE, POLICY_KEEP_BOTH
POLICIES = (FIRST, REPLACE, BOTH)

QUESTIONS = {
    Step.CONFIRM: "copy",
    Step.COMPARE: "has_same_content",
    Step.INSPECT: "is_current_cut",
    Step.CHECK_HOLD: "is_held",
    Step.COUNT: "has_room",
}
"""Which fact a step asks for."""


def facts(policy: int, copy: Copy = Copy.NONE, *, cut: bool = False, **found: bool) -> Facts:
    """`found`: same, current_cut, held, room."""
    return Facts(policy, cut, copy, found.get("same"), found.get("current_cut"), found.get("held"), found.get("room"))


ROWS = [
    # The same bytes.
    *[(facts(policy, Copy.CLAIMED), Decision(Step.CONFIRM)) for policy in POLICIES],
    *[(facts(policy, Copy.SOUND), Decision(Step.ACKNOWLEDGE)) for policy in POLICIES],
    (facts(FIRST, Copy.SOUND, cut=True), Decision(Step.ACKNOWLEDGE)),
    (facts(FIRST, Copy.DAMAGED), Decision(Step.APPEND, FIRST | HEAL)),
    (facts(BOTH, Copy.DAMAGED), Decision(Step.APPEND, BOTH | HEAL)),
    (facts(REPLACE, Copy.DAMAGED), Decision(Step.CHECK_HOLD)),
    (facts(REPLACE, Copy.DAMAGED, held=False), Decision(Step.APPEND, REPLACE | HEAL)),
    (facts(REPLACE, Copy.DAMAGED, held=True), Decision(Step.APPEND, BOTH | HEAL)),
    # What heals needs no room: it takes a place that is there.
    (facts(FIRST, Copy.DAMAGED, room=False), Decision(Step.APPEND, FIRST | HEAL)),
    # A data set that ends early stays beside what is there, whatever the policy.
    *[(facts(policy, cut=True), Decision(Step.COUNT)) for policy in POLICIES],
    *[(facts(policy, cut=True, room=True), Decision(Step.APPEND, FIRST)) for policy in POLICIES],
    *[(facts(policy, cut=True, room=False), Decision(Step.REFUSE, FIRST)) for policy in POLICIES],
    # Other bytes, whole.
    (facts(FIRST), Decision(Step.COMPARE)),
    (facts(FIRST, same=True), Decision(Step.ACKNOWLEDGE)),
    (facts(FIRST, same=False), Decision(Step.INSPECT)),
    (facts(FIRST, same=False, current_cut=False), Decision(Step.COUNT)),
    (facts(FIRST, same=False, current_cut=False, room=True), Decision(Step.APPEND, FIRST)),
    (facts(FIRST, same=False, current_cut=False, room=False), Decision(Step.REFUSE, FIRST)),
    (facts(FIRST, same=False, current_cut=True, room=True), Decision(Step.APPEND, BOTH)),
    (facts(BOTH), Decision(Step.COMPARE)),
    (facts(BOTH, same=True), Decision(Step.ACKNOWLEDGE)),
    (facts(BOTH, same=False), Decision(Step.COUNT)),
    (facts(BOTH, same=False, room=True), Decision(Step.APPEND, BOTH)),
    (facts(BOTH, same=False, room=False), Decision(Step.REFUSE, BOTH)),
    (facts(REPLACE), Decision(Step.CHECK_HOLD)),
    (facts(REPLACE, held=False), Decision(Step.APPEND, REPLACE)),
    (facts(REPLACE, held=True), Decision(Step.COUNT)),
    (facts(REPLACE, held=True, room=True), Decision(Step.APPEND, BOTH)),
    (facts(REPLACE, held=True, room=False), Decision(Step.REFUSE, BOTH)),
]


@pytest.mark.parametrize(("known", "decision"), ROWS)
def test_a_row_of_the_table(known: Facts, decision: Decision) -> None:
    assert decide(known) == decision


def _everything() -> list[Facts]:
    maybe = (None, False, True)
    return [
        Facts(policy, cut, copy, *rest)
        for policy, cut, copy in itertools.product(POLICIES, (False, True), Copy)
        for rest in itertools.product(maybe, repeat=4)
    ]


def test_a_question_is_never_asked_twice() -> None:
    for known in _everything():
        step = decide(known).step
        if step is Step.CONFIRM:
            assert known.copy is Copy.CLAIMED
        elif step in QUESTIONS:
            assert getattr(known, QUESTIONS[step]) is None


def test_every_question_leads_to_an_end() -> None:
    answers = {"copy": (Copy.SOUND, Copy.DAMAGED)}
    for known in _everything():
        waiting = [known]
        for _ in range(len(fields(Facts)) + 1):
            further = []
            for each in waiting:
                name = QUESTIONS.get(decide(each).step)
                for answer in answers.get(name, (False, True)) if name else ():
                    values = {field.name: getattr(each, field.name) for field in fields(Facts)}
                    further.append(Facts(**{**values, name: answer}))  # type: ignore[dict-item]
            waiting = further
        assert not waiting


def test_nothing_on_legal_hold_is_replaced() -> None:
    for known in _everything():
        decision = decide(known)
        if decision.step is Step.APPEND and decision.flags & 3 == REPLACE:
            assert known.is_held is False


def test_nothing_is_appended_beside_others_unless_there_is_room() -> None:
    for known in _everything():
        decision = decide(known)
        if decision.step is Step.APPEND and decision.flags & 3 != REPLACE and not decision.flags & HEAL:
            assert known.has_room


def test_only_a_damaged_copy_is_healed() -> None:
    for known in _everything():
        assert bool(decide(known).flags & HEAL) == (known.copy is Copy.DAMAGED and decide(known).step is Step.APPEND)
