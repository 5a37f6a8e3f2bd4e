"""Explanation: why somebody may or may not perform actions on a study, in words; and who may do what at all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Final

from engine.access.principal import Kind, Principal
from engine.access.question import Action
from engine.access.scope import FULL, AccessFacts, Scope

if TYPE_CHECKING:
    from engine.access.policy import Policy
    from engine.access.settings import Peer

STUDY_ACTIONS: Final = (
    Action.QUERY, Action.RETRIEVE, Action.SEND, Action.STORE, Action.DELETE, Action.CORRECT, Action.HOLD, Action.SHARE,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reason:
    """The answer for one action."""

    action: str
    allowed: bool
    why: str


@dataclass(frozen=True, slots=True)
class Rights:
    """What one user or peer may do."""

    who: str
    kind: str
    roles: tuple[str, ...]
    may: tuple[str, ...]
    scope: str
    """Those that it may query, else those that it may retrieve."""
    grants: int


def user_named(name: str) -> Principal:
    """A user as one who has logged in."""
    return Principal(Kind.HTTP, name, session="explained")


def explain(policy: Policy, principal: Principal, facts: AccessFacts | None, today: date) -> list[Reason]:
    """One reason an action; `facts` of the study, None if it is not stored."""
    return [_reason(policy, principal, action, facts, today) for action in STUDY_ACTIONS]


def _reason(policy: Policy, principal: Principal, action: Action, facts: AccessFacts | None, today: date) -> Reason:
    decision = policy.allowed(principal, action)
    if not decision:
        return Reason(action.title, False, decision.reason)
    scope = policy.scope(principal, action)
    if scope is FULL:
        return Reason(action.title, True, f"{_givers(policy, principal, action)}: every study")
    if facts is None:
        return Reason(action.title, False, "no such study is stored")
    for alternative in scope.alternatives:
        if all(requirement.admits(facts, today) for requirement in alternative):
            return Reason(action.title, True, str(Scope(frozenset({alternative}))))
    return Reason(action.title, False, f"not in scope: {scope}")


def _givers(policy: Policy, principal: Principal, action: Action) -> str:
    names = [role.name for role in policy.roles_of(principal) if action in role.actions]
    return f"role {', '.join(names)}" if names else "the rules of this server"


def rights_of_user(policy: Policy, name: str) -> Rights:
    """What a user may do."""
    principal = user_named(name)
    roles = tuple(sorted(policy.directory.roles_of(principal)))
    return _rights(policy, principal, "user", roles, len(policy.grants_of(principal)))


def rights_of_peer(policy: Policy, peer: Peer) -> Rights:
    """What a peer may do that comes as it should."""
    principal = Principal(Kind.PEER, peer.aet, _address_of(peer), frozenset(peer.certificates))
    return _rights(policy, principal, "peer", (peer.role,) if peer.role else (), 0)


def _address_of(peer: Peer) -> str:
    """An address that its rules accept."""
    return peer.networks[0].partition("/")[0] if peer.networks else "127.0.0.1"


def _rights(policy: Policy, principal: Principal, kind: str, roles: Iterable[str], grants: int) -> Rights:
    actions = [action for action in Action if action not in (Action.ASSOCIATE, Action.COMMIT)]
    may = tuple(action.title for action in actions if policy.allowed(principal, action))
    scope = policy.scope(principal, Action.QUERY)
    if not scope.alternatives:
        scope = policy.scope(principal, Action.RETRIEVE)
    return Rights(principal.name, kind, tuple(roles), may, str(scope), grants)
