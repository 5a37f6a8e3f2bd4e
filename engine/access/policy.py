"""The access rules of the configuration, for peers, users, shares and open HTTP.

    [[peer]] may = [...]            store, query, retrieve, worklist, workitem; destination: receive instances
                                    that another peer requests
    [[peer]] destinations = [...]   where it may have instances sent; unset: to every destination
    [[peer]] role = "..."           narrows what it may do, and which studies it sees, to those of a role
    [[peer]] tls, certificates, networks    the connection that it must come on
    accept_unknown_peers            who may use a title without a [[peer]]: programs on this machine, everybody, nobody
    [[role]]                        actions and studies of users; the `Directory` knows who has which role and grant

    ASSOCIATE   every known title, even one without permissions; an unknown one if unknown peers are accepted
    HTTP client a session, key or share: what its roles and grants allow; without one: everything to a client of the
                networks in http.allow while no login is needed, else nothing

    a token     with SMART scopes allows what these are for, and no more (`smart`)

    COMMIT      needs the permission to store: people would forget to grant one of its own
    SEND        needs the permission to retrieve; the destination is a [[peer]] that has an address, may be a
                destination, and is among the `destinations` of the requester

A person at the command line can read and write the archive's files anyway, and a background job is part of the server:
both may do everything.

`allowed` says whether somebody may perform an action at all, `scope` on which studies. Both are asked once per
operation and look everything up again, so that a change acts at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from engine.access import smart
from engine.access.directory import Directory, NoAccounts
from engine.access.networks import LOOPBACK, is_address, is_in_any
from engine.access.principal import Kind, Principal
from engine.access.question import ALLOWED, ARCHIVE, Action, Decision, Destination, Target
from engine.access.roles import Role, roles_of
from engine.access.scope import (
    FULL,
    NOTHING,
    Attribute,
    Matching,
    OfPatients,
    OneOfStudies,
    Requirement,
    Scope,
    scope_of,
)
from engine.titles import names

if TYPE_CHECKING:
    from engine.access.grant import Grant
    from engine.access.settings import Peer, Permission
    from engine.config import Config

_PERMISSIONS: dict[Action, Permission] = {
    Action.STORE: "store",
    Action.COMMIT: "store",
    Action.QUERY: "query",
    Action.RETRIEVE: "retrieve",
    Action.SEND: "retrieve",
    Action.WORKLIST: "worklist",
    Action.WORKITEM: "workitem",
}

_UNKNOWN = "no [[peer]] has this aet: add one, or see `filmroom config explain accept_unknown_peers`"


class Policy:
    """The rules in force. A decision costs some look-ups in dictionaries."""

    def __init__(
        self,
        config: Callable[[], Config],
        directory: Directory | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """`config`: returns the current configuration. `directory`: who has which role; None: no accounts."""
        self._config = config
        self.directory = directory or NoAccounts()
        self._now_s = now_s

    def allowed(self, principal: Principal, action: Action, target: Target = ARCHIVE) -> Decision:
        """Whether the principal may perform the action on the target."""
        if principal.kind is Kind.PEER:
            decision = self._peer_may(principal, action, target)
        elif principal.kind is Kind.HTTP:
            decision = self._client_may(principal, action, target)
        else:
            return ALLOWED
        if decision and isinstance(target, Destination):
            return self._may_send_to(self._config(), principal, target)
        return decision

    def scope(self, principal: Principal, action: Action, target: Target = ARCHIVE) -> Scope:
        """The studies on which the principal may perform the action; `NOTHING` if it may not at all."""
        if principal.kind not in (Kind.PEER, Kind.HTTP):
            return FULL
        if not self.allowed(principal, action, target):
            return NOTHING
        if principal.kind is Kind.HTTP:
            return self._scope_of_holder(principal, action) if principal.session else FULL
        scope = self.scope_of_peer(principal.name, action)
        return scope & self._scope_of_holder(principal, action) if principal.user else scope

    def scope_of_peer(self, ae_title: str, action: Action) -> Scope:
        """The studies that an application entity may reach by its role; everything if it has none."""
        peer = self._config().peer(ae_title)
        if peer is None or not peer.role:
            return FULL
        role = self._roles().get(peer.role)
        if role is None or action not in role.actions:
            return NOTHING
        return _with_own(role.scope({"sender": (peer.aet,)}), action, ae_title)

    def scope_of_destination(self, ae_title: str) -> Scope:
        """The studies that an application entity may receive from us; NOTHING if it is no destination."""
        peer = self._config().peer(ae_title)
        if peer is None or "destination" not in peer.may:
            return NOTHING
        return self.scope_of_peer(ae_title, Action.RETRIEVE)

    def scope_of_actor(self, actor: str, action: Action) -> Scope:
        """The studies that whoever has requested a job may reach by now: a user by the roles and grants in force,
        nothing if the user is gone. Others, who are not known by name, as when they requested it."""
        name = actor.removeprefix(f"{Kind.HTTP.value}:")
        if name == actor or is_address(name):
            return FULL
        return self.scope(Principal(Kind.HTTP, name, session="job"), action)

    # Peers ---------------------------------------------------------------------------------------

    def _peer_may(self, principal: Principal, action: Action, target: Target) -> Decision:
        config = self._config()
        peer = config.peer(principal.name)
        if peer is None and not _accepts_unknown(config, principal.address):
            return Decision(False, _UNKNOWN)
        if peer is not None and peer.is_bound and (mismatch := _mismatch(peer, principal)):
            return Decision(False, mismatch, is_alarming=True)
        if principal.user and not self._is_valid(principal):
            return Decision(False, "a user who is not valid any more")
        if action is Action.ASSOCIATE:
            return ALLOWED
        permission = _PERMISSIONS.get(action)
        if permission is None:
            return Decision(False, "nothing that an application entity may do")
        if peer is not None and permission not in peer.may:
            return Decision(False, f"may not {permission}")
        if peer is not None and peer.role and not self._role_may(peer.role, action):
            return Decision(False, f"its role {peer.role} may not {action.title}")
        if principal.user:
            return self._holder_may(principal, action, target)
        return ALLOWED

    def _role_may(self, name: str, action: Action) -> bool:
        role = self._roles().get(name)
        return role is not None and action in role.actions

    # Users, keys and shares ----------------------------------------------------------------------

    def _client_may(self, principal: Principal, action: Action, target: Target) -> Decision:
        if not self._is_valid(principal):
            return Decision(False, "a session that is not valid any more" if principal.session else "no login")
        if principal.session:
            return self._holder_may(principal, action, target)
        if not is_in_any(principal.address, self._config().http.open_to):
            return Decision(False, "an address that is not in http.allow")
        return ALLOWED

    def _holder_may(self, principal: Principal, action: Action, target: Target) -> Decision:
        if narrowed := smart.refusal(principal, action, target):
            return Decision(False, narrowed)
        only = self.directory.actions_of(principal)
        if only is not None and action.title not in only:
            return Decision(False, f"its credential is not for {action.title}")
        if any(action in role.actions for role in self.roles_of(principal)):
            return ALLOWED
        if any(action in grant.actions for grant in self.grants_of(principal)):
            return ALLOWED
        return Decision(False, f"no role or grant to {action.title}")

    def _scope_of_holder(self, principal: Principal, action: Action) -> Scope:
        attributes = self.directory.attributes_of(principal)
        scope = NOTHING
        for role in self.roles_of(principal):
            if action in role.actions:
                scope |= role.scope(attributes)
                if scope is FULL:
                    return FULL
        scope |= _scope_of_grants(grant for grant in self.grants_of(principal) if action in grant.actions)
        return _with_own(scope, action, principal.actor)

    def _roles(self) -> Mapping[str, Role]:
        return roles_of(self._config().roles)

    def roles_of(self, principal: Principal) -> list[Role]:
        """The roles of a user that are in force."""
        known = self._roles()
        return [known[name] for name in sorted(self.directory.roles_of(principal)) if name in known]

    def grants_of(self, principal: Principal) -> list[Grant]:
        """The grants to a user, share or role that are in force."""
        roles = self.roles_of(principal)
        if roles and not any(role.allows_grants for role in roles):
            return []
        now_s = self._now_s()
        return [grant for grant in self.directory.grants_of(principal) if grant.is_in_force(now_s)]

    def _is_valid(self, principal: Principal) -> bool:
        has_ended = principal.until_s is not None and self._now_s() >= principal.until_s
        return not has_ended and self.directory.is_valid(principal)

    # Destinations --------------------------------------------------------------------------------

    def _may_send_to(self, config: Config, principal: Principal, target: Destination) -> Decision:
        destination = config.peer(target.ae_title)
        if destination is None:
            return Decision(False, "an unknown destination")
        if not destination.is_reachable:
            return Decision(False, "a destination without host and port, and without a url")
        if "destination" not in destination.may:
            return Decision(False, "a peer that may not be a destination")
        own = config.settings_of(principal.name).destinations if principal.kind is Kind.PEER else None
        if own is not None and not names(own, destination.aet):
            return Decision(False, "a destination of others")
        return ALLOWED


def _with_own(scope: Scope, action: Action, sender: str) -> Scope:
    """Whoever may store may go on with the studies that they have begun, and ask whether these are safe."""
    if scope is FULL or action not in (Action.STORE, Action.COMMIT):
        return scope
    return scope | scope_of([frozenset({Matching.of(Attribute.SENDER, (), exact=(sender,))})])


def _scope_of_grants(grants: Iterable[Grant]) -> Scope:
    """All single studies in one requirement, and all patients in one: a look-up in a set, however many there are."""
    chosen = list(grants)
    studies = frozenset(uid for grant in chosen for uid in grant.study_instance_uids)
    patients = frozenset(grant.patient for grant in chosen if grant.patient is not None)
    requirements: list[Requirement] = []
    if studies:
        series = frozenset(pair for grant in chosen for pair in grant.series)
        requirements.append(OneOfStudies(studies, series))
    if patients:
        requirements.append(OfPatients(patients))
    return scope_of(frozenset({requirement}) for requirement in requirements)


def _accepts_unknown(config: Config, address: str) -> bool:
    """Whether a title without a [[peer]] is accepted from that address."""
    if config.accept_unknown_peers == "loopback":
        return is_in_any(address, LOOPBACK)
    return config.accept_unknown_peers


def _mismatch(peer: Peer, principal: Principal) -> str:
    """Why a connection is not that of the peer whose title it uses; "": it is."""
    if peer.networks and not is_in_any(principal.address, peer.networks):
        return "an address that is not in the peer's networks"
    if peer.tls == "required" and principal.certificate_names is None:
        return "a connection without TLS"
    if (
        peer.certificates
        and principal.certificate_names is not None
        and principal.certificate_names.isdisjoint(peer.certificates)
    ):
        return "a certificate that is not the peer's"
    return ""
