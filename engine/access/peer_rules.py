"""The access rules of the configuration.

    [[peer]] may = [...]            store, query, retrieve; destination: receive instances that another peer requests
    [[peer]] destinations = [...]   where it may have instances sent; unset: to every destination
    [[peer]] tls, certificates, networks    the connection that it must come on
    accept_unknown_peers            who may use a title without a [[peer]]: programs on this machine, everybody, nobody

    ASSOCIATE   every known title, even one without permissions; an unknown one if unknown peers are accepted
    HTTP client a client of the networks in http.allow may do everything; others nothing

    COMMIT      needs the permission to store: people would forget to grant one of its own
    SEND        needs the permission to retrieve; the destination is a [[peer]] that has an address, may be a
                destination, and is among the `destinations` of the requester

A person at the command line can read and write the archive's files anyway, and a background job is part of the server:
both may do everything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.access.networks import LOOPBACK, is_in_any
from engine.access.principal import Kind, Principal
from engine.access.question import ALLOWED, ARCHIVE, Action, Decision, Destination, Target
from engine.titles import names

if TYPE_CHECKING:
    from engine.access.settings import Peer
    from engine.config import Config, Permission

_PERMISSIONS: dict[Action, Permission] = {
    Action.STORE: "store",
    Action.COMMIT: "store",
    Action.QUERY: "query",
    Action.RETRIEVE: "retrieve",
    Action.SEND: "retrieve",
}

_UNKNOWN = "no [[peer]] has this aet: add one, or see `filmroom config explain accept_unknown_peers`"


class PeerRules:
    """The configuration's rules. A decision costs a look-up or two in dictionaries."""

    def __init__(self, config: Callable[[], Config]) -> None:
        """`config`: returns the current configuration."""
        self._config = config

    def allowed(self, principal: Principal, action: Action, target: Target = ARCHIVE) -> Decision:
        """Whether the principal may perform the action on the target."""
        if principal.kind not in (Kind.PEER, Kind.HTTP):
            return ALLOWED
        config = self._config()
        if principal.kind is Kind.HTTP:
            if not is_in_any(principal.address, config.http.allow):
                return Decision(False, "an address that is not in http.allow")
            return self._may_send_to(config, principal, target) if isinstance(target, Destination) else ALLOWED
        peer = config.peer(principal.name)
        if peer is None and not _accepts_unknown(config, principal.address):
            return Decision(False, _UNKNOWN)
        if peer is not None and peer.is_bound and (mismatch := _mismatch(peer, principal)):
            return Decision(False, mismatch, is_alarming=True)
        if action is Action.ASSOCIATE:
            return ALLOWED
        permission = _PERMISSIONS.get(action)
        if permission is None:
            return Decision(False, "nothing that an application entity may do")
        if peer is not None and permission not in peer.may:
            return Decision(False, f"may not {permission}")
        if isinstance(target, Destination):
            return self._may_send_to(config, principal, target)
        return ALLOWED

    def _may_send_to(self, config: Config, principal: Principal, target: Destination) -> Decision:
        destination = config.peer(target.ae_title)
        if destination is None:
            return Decision(False, "an unknown destination")
        if not destination.is_reachable:
            return Decision(False, "a destination without host and port, and without a url")
        if "destination" not in destination.may:
            return Decision(False, "a peer that may not be a destination")
        own = config.settings_of(principal.name).destinations
        if own is not None and not names(own, destination.aet):
            return Decision(False, "a destination of others")
        return ALLOWED


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
