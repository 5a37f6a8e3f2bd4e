"""The settings for one AE title: those of its [[peer]], and the general ones where it has none.

They are computed at the first look-up of each [[peer]], and found by any form of its title (`titles`): a look-up is one
of a dictionary, however many peers there are. Titles without a [[peer]] share one `PeerSettings`, so that a thousand
invented ones cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from engine.access.settings import Peer
from engine.archive.settings import Duplicates, Durability, Durable
from engine.services.settings import Coercion, QueryOption
from engine.titles import wire_forms


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSettings:
    """The settings for one application entity; `Peer` and `Limits` describe the fields."""

    peer: Peer | None = None
    """Its [[peer]]; None when there is none."""
    durability: Durability
    durable: Durable
    duplicates: Duplicates
    accept_truncated: bool = False
    associations_max: int
    associations_per_address_max: int
    receive_window: int
    """Operations that it may have outstanding with us."""
    send_window: int = 1
    """Outstanding operations that we may propose to it."""
    timeout_s: float
    delivery_rate_bytes_per_s_min: int
    bandwidth_bytes_per_s_max: int = 0
    """0: no limit."""
    pdu_length_max: int = 0
    """0: the general length."""
    transfer_syntaxes: tuple[str, ...] = ()
    prefer_compressed: bool = False
    supply: bool = False
    """Whether it gets what linked orders supply."""
    query_options: tuple[QueryOption, ...]
    query_results_max: int
    query_timeout_s: float
    destinations: tuple[str, ...] | None = None
    """AE titles, as written, to which it may have instances sent; None: any."""

    def of(self, peer: Peer) -> PeerSettings:
        """These settings with those of a [[peer]]."""
        own: dict[str, Any] = {name: value for name in _SAME_NAME if (value := getattr(peer, name)) is not None}
        if peer.asynchronous_window is not None:
            own["receive_window"] = max(1, peer.asynchronous_window)
        return replace(self, peer=peer, send_window=peer.send_window, **own)


_SAME_NAME = tuple(
    name for name in PeerSettings.__dataclass_fields__ if name in Peer.__struct_fields__ and name != "peer"
)
"""Fields that a peer replaces unless it leaves them unset (None)."""


class PeerBook:
    """The settings for each AE title."""

    def __init__(self, general: PeerSettings, peers: Iterable[Peer], coercion: Iterable[Coercion]) -> None:
        self._general = general
        self._peers: dict[str, Peer] = {}
        for peer in peers:
            for title in _forms(peer.aet):
                self._peers.setdefault(title, peer)
        self._settings: dict[str, PeerSettings] = {}
        """Filled at each first look-up: a reload must not compute a thousand at once."""
        self._coercion: dict[str, Coercion] = {}
        self._coercion_of_others: Coercion | None = None
        for rule in coercion:
            for title in (form for aet in rule.aets for form in _forms(aet)):
                self._coercion.setdefault(title, rule)
            if not rule.aets:
                self._coercion_of_others = rule
                break  # it applies to everybody: later rules never apply

    def of(self, aet: str) -> PeerSettings:
        """The settings for a received or written AE title."""
        settings = self._settings.get(aet)
        if settings is None:
            peer = self._peers.get(aet)
            if peer is None:
                return self._general
            settings = self._settings[aet] = self._general.of(peer)
        return settings

    def coercion_of(self, aet: str) -> Coercion | None:
        """The coercion of instances sent to that AE title; None: none."""
        return self._coercion.get(aet, self._coercion_of_others)


def _forms(title: str) -> set[str]:
    return {title, *wire_forms(title)}
