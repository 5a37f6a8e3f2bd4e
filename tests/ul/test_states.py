"""engine.ul.states: every cell of PS3.8 Table 9-10 against pynetdicom's transition table."""

from __future__ import annotations

import itertools

import pytest
from pynetdicom.fsm import ACTIONS, TRANSITION_TABLE

from engine.ul.states import TRANSITIONS, Event, Role, State, transitions

CELLS = list(itertools.product(State, Event))


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize(("state", "event"), CELLS, ids=lambda member: f"{type(member).__name__}{member}")
def test_the_cell_is_that_of_table_9_10(state: State, event: Event, role: Role) -> None:
    step = transitions(role).get((state, event))
    expected = TRANSITION_TABLE.get((f"Evt{event}", f"Sta{state}"))
    if expected is None:
        assert step is None
        return
    assert step is not None
    action, next_state = step
    assert action.value == expected
    states = ACTIONS[expected][2]
    if expected == "AR-8":  # the choice that the standard makes by role: requestor, acceptor
        states = states[list(Role).index(role)]
    elif expected == "AE-6":  # refusing is left to the user, by AE-8
        states = states[0]
    assert f"Sta{next_state}" == states


def test_no_cell_is_beyond_the_table() -> None:
    assert len(TRANSITIONS) == len(TRANSITION_TABLE)


def test_every_event_of_a_peer_has_a_cell() -> None:
    received = [event for event in Event if event.name.endswith("_RECEIVED")]
    for state in State:
        if state in (State.IDLE, State.CONNECTING):
            continue  # there is no transport from which something could come
        for event in received:
            assert (state, event) in TRANSITIONS
        assert (state, Event.TRANSPORT_CLOSED) in TRANSITIONS
